//! What every store of objects must do. Each implementation runs this whole.

use super::{Change, Error, Objects, Preconditions, Watch};
use crate::resource::{Kind, Object};
use serde_json::json;
use std::time::Duration;

/// A small valid object.
pub fn environment(name: &str) -> Object {
    Object::read(json!({
        "apiVersion": "metal.sidero.dev/v1alpha2", "kind": "Environment", "metadata": {"name": name},
        "spec": {"kernel": {"url": "http://example.com/vmlinuz", "args": ["a"]}, "initrd": {"url": "http://example.com/initrd"}},
    }))
    .expect("the sample is valid")
}

/// Runs the suite on an empty store.
pub async fn run(store: &impl Objects) {
    create_and_read(store).await;
    versions_guard_writes(store).await;
    status_is_apart(store).await;
    finalizers_hold_deletion(store).await;
    watches_tell_every_change_once(store).await;
    one_of_many_claims_wins(store).await;
    rules_are_kept(store).await;
}

async fn create_and_read(store: &impl Objects) {
    let mut wanted = environment("create");
    wanted.status = json!({"conditions": [{"url": "u", "status": "True", "type": "Ready"}]});
    let made = store.create(wanted.clone()).await.unwrap();
    assert!(!made.metadata.uid.is_empty() && !made.metadata.resource_version.is_empty());
    assert_eq!((made.metadata.generation, made.metadata.creation_timestamp.is_some()), (1, true));
    assert!(made.status.is_null(), "a new object has no status");
    assert_eq!(store.get(Kind::Environment, "", "create").await.unwrap(), made);
    assert!(matches!(store.create(wanted).await, Err(Error::Exists(_))));
    assert!(matches!(store.get(Kind::Environment, "", "other").await, Err(Error::NotFound(_))));
    assert!(matches!(store.get(Kind::ServerClass, "", "create").await, Err(Error::NotFound(_))));
    let listed = store.list(Kind::Environment).await.unwrap();
    assert!(listed.objects.contains(&made) && store.list(Kind::Server).await.unwrap().objects.is_empty());
}

async fn versions_guard_writes(store: &impl Objects) {
    let first = store.create(environment("versions")).await.unwrap();
    let mut change = first.clone();
    change.spec["kernel"]["args"] = json!(["b"]);
    let second = store.replace(change.clone()).await.unwrap();
    assert_eq!((second.metadata.generation, &second.metadata.uid), (2, &first.metadata.uid));
    assert_ne!(second.metadata.resource_version, first.metadata.resource_version);
    // The writer who read the first version must not undo what came since.
    assert!(matches!(store.replace(change.clone()).await, Err(Error::Conflict { .. })));
    // Without a version the last writer wins, as kubectl's replace does.
    change.metadata.resource_version = String::new();
    change.spec["kernel"]["args"] = json!(["c"]);
    let third = store.replace(change.clone()).await.unwrap();
    assert_eq!(third.metadata.generation, 3);
    // A label is not a new generation; the same again is not even a new version.
    let mut labelled = third.clone();
    labelled.metadata.labels.insert("rack".into(), "1".into());
    let fourth = store.replace(labelled).await.unwrap();
    assert_eq!(fourth.metadata.generation, 3);
    assert_eq!(store.replace(fourth.clone()).await.unwrap(), fourth);
    let mut stranger = fourth;
    stranger.metadata.uid = "00000000-0000-4000-8000-000000000000".into();
    assert!(matches!(store.replace(stranger).await, Err(Error::Conflict { .. } | Error::Invalid(_))));
    assert!(matches!(store.replace(environment("absent")).await, Err(Error::NotFound(_))));
}

async fn status_is_apart(store: &impl Objects) {
    let made = store.create(environment("status")).await.unwrap();
    let mut report = made.clone();
    report.status = json!({"conditions": [{"url": "u", "status": "True", "type": "Ready"}]});
    report.spec["kernel"]["args"] = json!(["sneaked in"]);
    let reported = store.replace_status(report.clone()).await.unwrap();
    assert_eq!((&reported.spec, &reported.status), (&made.spec, &report.status), "a status write leaves the spec");
    assert_eq!(reported.metadata.generation, 1);
    assert!(matches!(store.replace_status(report).await, Err(Error::Conflict { .. })), "over the version read");
    let mut edit = reported.clone();
    edit.status = json!(null);
    edit.spec["kernel"]["args"] = json!(["x"]);
    let edited = store.replace(edit).await.unwrap();
    assert_eq!(edited.status, reported.status, "a spec write leaves the status");
}

async fn finalizers_hold_deletion(store: &impl Objects) {
    let mut held = environment("held");
    held.metadata.finalizers = vec!["stoker.dev/hold".into()];
    let made = store.create(held).await.unwrap();
    let wrong = Preconditions { uid: Some("another".into()), ..Preconditions::default() };
    assert!(matches!(store.delete(Kind::Environment, "", "held", wrong).await, Err(Error::Conflict { .. })));
    store.delete(Kind::Environment, "", "held", Preconditions::default()).await.unwrap();
    let marked = store.get(Kind::Environment, "", "held").await.unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    store.delete(Kind::Environment, "", "held", Preconditions::default()).await.unwrap();
    let mut more = marked.clone();
    more.metadata.finalizers.push("stoker.dev/late".into());
    let kept = store.replace(more).await.map_or(marked, |kept| kept);
    assert_eq!(kept.metadata.finalizers, ["stoker.dev/hold"], "what is going gets no new finalizer");
    let mut free = kept;
    free.metadata.finalizers.clear();
    store.replace(free).await.unwrap();
    assert!(matches!(store.get(Kind::Environment, "", "held").await, Err(Error::NotFound(_))));
    assert!(matches!(
        store.delete(Kind::Environment, "", "held", Preconditions::default()).await,
        Err(Error::NotFound(_))
    ));
    let again = store.create(environment("held")).await.unwrap();
    assert_ne!(again.metadata.uid, made.metadata.uid, "the same name is another object");
}

async fn watches_tell_every_change_once(store: &impl Objects) {
    let from = store.list(Kind::Environment).await.unwrap().revision;
    let mut early = store.watch(Kind::Environment, from).await.unwrap();
    let made = store.create(environment("watched")).await.unwrap();
    let mut change = made.clone();
    change.spec["kernel"]["args"] = json!(["w"]);
    let changed = store.replace(change).await.unwrap();
    store.delete(Kind::Environment, "", "watched", Preconditions::default()).await.unwrap();
    let mut late = store.watch(Kind::Environment, from).await.unwrap();
    for watch in [&mut early, &mut late] {
        assert_eq!(next(watch).await, Change::Applied(made.clone()));
        assert_eq!(next(watch).await, Change::Applied(changed.clone()));
        assert!(matches!(next(watch).await, Change::Deleted(o) if o.metadata.uid == made.metadata.uid));
        let silent = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
        assert!(silent.is_err(), "nothing more has happened, but {silent:?} came");
    }
}

async fn next(watch: &mut impl Watch) -> Change {
    tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("a change comes").unwrap().1
}

async fn one_of_many_claims_wins(store: &impl Objects) {
    let claims: Vec<_> = (0..16)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut claim = environment("claimed");
                claim.metadata.labels.insert("by".into(), n.to_string());
                store.create(claim).await.is_ok()
            })
        })
        .collect();
    let mut won = 0;
    for claim in claims {
        won += u32::from(claim.await.unwrap());
    }
    assert_eq!(won, 1, "a name can be taken once");
}

async fn rules_are_kept(store: &impl Objects) {
    let mut bad = environment("rules");
    bad.spec["kernel"]["url"] = json!("ftp://example.com/x");
    assert!(matches!(store.create(bad.clone()).await, Err(Error::Invalid(_))));
    let good = store.create(environment("rules")).await.unwrap();
    bad.metadata = good.metadata.clone();
    assert!(matches!(store.replace(bad).await, Err(Error::Invalid(_))));
    assert_eq!(store.get(Kind::Environment, "", "rules").await.unwrap(), good, "a refused write changes nothing");
}
