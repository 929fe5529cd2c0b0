//! The store on Kubernetes: the suite of every store, and what only a cluster does.

use super::{NAMESPACE, cluster, runtime, store_of};
use control::objects::follow::{News, follow};
use control::objects::{Change, Error, Objects, Preconditions, Watch as _, conformance};
use control::resource::{Kind, Object};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Longer than anything takes here that does not hang.
const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn it_is_a_store_like_the_embedded_one() {
    let cluster = cluster();
    runtime().block_on(async { conformance::run(&store_of(&cluster).await).await });
}

#[test]
fn secrets_are_kept_and_listed_in_our_namespace_alone() {
    let cluster = cluster();
    runtime().block_on(async {
        let store = store_of(&cluster).await;
        let secret = |namespace: &str, value: &str| {
            Object::read(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "config", "namespace": namespace},
                "data": {"value": value},
            }))
            .unwrap()
        };
        let made = store.create(secret(NAMESPACE, "YQ==")).await.unwrap();
        store.create(secret("default", "Yg==")).await.unwrap();
        let listed = store.list(Kind::Secret).await.unwrap();
        assert_eq!(listed.objects, std::slice::from_ref(&made), "others' secrets are not looked for");
        let other = store.get(Kind::Secret, "default", "config").await.unwrap();
        assert_eq!(other.data["value"], "Yg==", "but read where an object refers to them");
        let mut change = made.clone();
        change.data["value"] = json!("Yw==");
        store.replace(change).await.unwrap();
        let mut watch = store.watch(Kind::Secret, listed.revision).await.unwrap();
        let told = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        assert!(matches!(told.1, Change::Applied(secret) if secret.data["value"] == "Yw=="));
        let missing = store.create(secret("nowhere", "YQ==")).await.unwrap_err().to_string();
        assert!(missing.contains("kubectl create namespace nowhere"), "{missing}");
        for (namespace, name) in [("default", "config"), (NAMESPACE, "config")] {
            store.delete(Kind::Secret, namespace, name, Preconditions::default()).await.unwrap();
        }
    });
}

#[test]
fn lists_of_many_pages_are_one_snapshot() {
    let cluster = cluster();
    runtime().block_on(async {
        let store = store_of(&cluster).await;
        let many = control::limits::CLUSTER_PAGE as usize + 7;
        let mut making = tokio::task::JoinSet::new();
        for n in 0..many {
            let store = store.clone();
            making.spawn(async move { store.create(conformance::environment(&format!("e{n:04}"))).await.map(|_| ()) });
            if making.len() >= 16 {
                making.join_next().await.unwrap().unwrap().unwrap();
            }
        }
        while let Some(done) = making.join_next().await {
            done.unwrap().unwrap();
        }
        let listed = store.list(Kind::Environment).await.unwrap();
        assert_eq!(listed.objects.len(), many);
        assert!(listed.objects.is_sorted_by_key(Object::key), "in order, each once");
    });
}

#[test]
fn an_api_server_that_is_away_for_a_while_costs_a_follower_nothing_but_time() {
    let mut cluster = cluster();
    let runtime = runtime();
    let store = runtime.block_on(async {
        let store = store_of(&cluster).await;
        store.create(conformance::environment("before")).await.unwrap();
        store
    });
    let (tell, mut news) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let following = runtime.spawn(follow(store.clone(), Kind::Environment, tell, stop.clone()));
    runtime.block_on(heard(&mut news, "before"));
    // In order, and as a power cut does.
    for (round, kill) in [("stopped", false), ("killed", true)] {
        if kill {
            cluster.kill_api();
        } else {
            cluster.stop_api();
        }
        runtime.block_on(async {
            let refused = store.get(Kind::Environment, "", "before").await.unwrap_err();
            assert!(matches!(&refused, Error::Store(why) if why.contains("not reached")), "{refused}");
            let refused = store.create(conformance::environment("lost")).await.unwrap_err();
            assert!(matches!(refused, Error::Store(_)), "{refused}");
        });
        cluster.start_api().unwrap();
        runtime.block_on(async {
            store.create(conformance::environment(round)).await.unwrap();
            heard(&mut news, round).await;
            assert!(matches!(store.get(Kind::Environment, "", "lost").await, Err(Error::NotFound(_))));
        });
    }
    stop.cancel();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, following).await.unwrap().unwrap() });
}

/// Waits until a follower was told of this object.
async fn heard(news: &mut mpsc::Receiver<News>, name: &str) {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let told = tokio::time::timeout(PATIENCE, news.recv()).await.expect("news come").expect("the follower lives");
        let found = match &told {
            News::All(_, objects) => objects.iter().any(|o| o.metadata.name == name),
            News::Applied(object) => object.metadata.name == name,
            News::Deleted(_) => false,
        };
        if found {
            return;
        }
    }
    panic!("nothing was heard of {name}");
}

#[test]
fn a_watch_from_before_a_compaction_is_gone_and_a_follower_lists_again() {
    let mut cluster = cluster();
    let runtime = runtime();
    let (store, old, now) = runtime.block_on(async {
        let store = store_of(&cluster).await;
        let old = store.list(Kind::Environment).await.unwrap().revision;
        store.create(conformance::environment("first")).await.unwrap();
        store.delete(Kind::Environment, "", "first", Preconditions::default()).await.unwrap();
        store.create(conformance::environment("second")).await.unwrap();
        let now = store.list(Kind::Environment).await.unwrap().revision;
        (store, old, now)
    });
    cluster.compact(now).unwrap();
    // The server's own memory of changes ends with it.
    cluster.stop_api();
    cluster.start_api().unwrap();
    runtime.block_on(async {
        let until = Instant::now() + PATIENCE;
        let gone = loop {
            let gone = match store.watch(Kind::Environment, old).await {
                Err(e) => e,
                Ok(mut watch) => tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap_err(),
            };
            // A server that has just begun says for a while that its storage is being initialized.
            if !matches!(gone, Error::Store(_)) || Instant::now() > until {
                break gone;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        assert!(matches!(gone, Error::Gone(revision) if revision == old), "{gone}");
        let (tell, mut news) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let following = tokio::spawn(follow(store.clone(), Kind::Environment, tell, stop.clone()));
        heard(&mut news, "second").await;
        stop.cancel();
        following.await.unwrap();
    });
}

#[test]
fn a_kind_that_the_cluster_does_not_know_is_named_with_its_remedy() {
    let cluster = cluster();
    runtime().block_on(async {
        let store = store_of(&cluster).await;
        let unknown = store.list(Kind::Machine).await.unwrap_err();
        assert!(matches!(unknown, Error::Unknown(Kind::Machine, _)), "{unknown}");
        let unknown = store.get(Kind::Machine, "default", "m").await.unwrap_err();
        assert!(unknown.to_string().contains("clusterctl init"), "{unknown}");
    });
}

#[test]
fn a_write_without_a_version_wins_over_what_was_written_meanwhile() {
    let cluster = cluster();
    runtime().block_on(async {
        let store = store_of(&cluster).await;
        let made = store.create(conformance::environment("busy")).await.unwrap();
        let others: Vec<_> = (0..4)
            .map(|n| {
                let store = store.clone();
                let mut mine = made.clone();
                mine.metadata.resource_version.clear();
                mine.metadata.uid.clear();
                mine.spec["kernel"]["args"] = json!([n.to_string()]);
                tokio::spawn(async move { store.replace(mine).await })
            })
            .collect();
        for other in others {
            other.await.unwrap().unwrap();
        }
        assert_eq!(store.get(Kind::Environment, "", "busy").await.unwrap().metadata.generation, 5);
    });
}
