//! From a manifest on disk to bytes on the wire: publishing under load,
//! damage, restarts. The real feed, service, worker and ring, on both drivers.

#[expect(dead_code, reason = "shared with the tests of HTTP, which use more of it")]
mod http_server;

use edge::feed::{Config, Feed};
use edge::http;
use edge::metrics::Metrics;
use http_server::{Response, Server, drivers};
use protocol::manifest::{EdgeState, Entry, Manifest, ObjectId};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const HOST: &str = "Host: edge\r\n";

/// Control's side of the state folder.
struct Publisher(TempDir);

impl Publisher {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("publish/objects/sha256")).unwrap();
        Self(dir)
    }

    fn object(&self, id: ObjectId) -> PathBuf {
        self.0.path().join("publish/objects/sha256").join(id.to_string())
    }

    fn publish(&self, generation: u64, files: &[(&str, &[u8])]) {
        let entry = |&(name, bytes): &(&str, &[u8])| {
            let object = ObjectId::of(bytes);
            if !self.object(object).exists() {
                fs::write(self.object(object), bytes).unwrap();
            }
            let content_type = "application/octet-stream".into();
            (name.to_owned(), Entry { object, length: bytes.len() as u64, content_type })
        };
        let folder = self.0.path().join("publish");
        fs::write(folder.join("manifest.new"), Manifest::new(generation, files.iter().map(entry).collect()).to_bytes())
            .unwrap();
        fs::rename(folder.join("manifest.new"), folder.join("manifest.json")).unwrap();
    }

    /// Waits until the edge answers as it should.
    fn state(&self, good: impl Fn(&EdgeState) -> bool) -> EdgeState {
        let deadline = Instant::now() + http_server::PATIENCE;
        loop {
            let text = fs::read(self.0.path().join("edge/edge.state")).unwrap_or_default();
            match serde_json::from_slice::<EdgeState>(&text) {
                Ok(state) if good(&state) => return state,
                other => assert!(Instant::now() < deadline, "{other:?}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// An edge with one worker on this folder.
struct Edge {
    server: Server,
    _feed: Feed,
}

impl Edge {
    fn start(driver: edge::ring::probe::Wanted, publisher: &Publisher) -> Self {
        let server = Server::start(driver, http::Config::default(), &[]);
        let config = Config {
            state_dir: publisher.0.path().to_owned(),
            memory_budget: Some(256 << 20),
            driver: "test".into(),
            listen: BTreeMap::new(),
        };
        let mailbox = server.mailbox.clone();
        let feed = Feed::start(config, &Metrics::new(1), move |catalog| mailbox.publish(catalog)).unwrap();
        Self { server, _feed: feed }
    }

    fn get(&self, path: &str) -> Response {
        self.server.get(path, "")
    }

    /// Asks until the worker has the catalog that `edge.state` tells of.
    fn until(&self, path: &str, good: impl Fn(&Response) -> bool) -> Response {
        let deadline = Instant::now() + http_server::PATIENCE;
        loop {
            let response = self.get(path);
            if good(&response) {
                return response;
            }
            assert!(Instant::now() < deadline, "{}", response.head);
        }
    }
}

fn contents(generation: u64) -> Vec<u8> {
    let mut bytes = format!("generation {generation}\n").into_bytes();
    bytes.resize(200_000 + generation as usize, generation as u8);
    bytes
}

#[test]
fn f14_t66_every_answer_is_of_one_generation_while_they_are_published() {
    for driver in drivers() {
        let p = Publisher::new();
        p.publish(1, &[("f", &contents(1))]);
        let edge = Edge::start(driver, &p);
        p.state(|s| s.generation == 1);
        edge.until("/f", |r| r.status == 200);
        const LAST: u64 = 12;
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut newest = 0;
                        while newest < LAST {
                            let response = edge.get("/f");
                            let etag = format!("\"{}\"", ObjectId::of(&response.body));
                            assert_eq!(response.field("ETag"), Some(etag.as_str()), "{}", response.head);
                            let line = response.body.split(|&c| c == b'\n').next().unwrap();
                            let generation = str::from_utf8(line).unwrap()["generation ".len()..].parse().unwrap();
                            assert!(generation >= newest, "never back");
                            newest = generation;
                        }
                    })
                })
                .collect();
            for generation in 2..=LAST {
                p.publish(generation, &[("f", &contents(generation))]);
                p.state(|s| s.generation == generation);
            }
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    }
}

#[test]
fn f15_t67_h38_an_object_truncated_while_it_is_sent_arrives_whole() {
    for driver in drivers() {
        let p = Publisher::new();
        let bytes: Vec<u8> = (0..4u32 << 20).flat_map(u32::to_le_bytes).collect();
        let id = ObjectId::of(&bytes);
        p.publish(1, &[("f", &bytes)]);
        let edge = Edge::start(driver, &p);
        edge.until("/f", |r| r.status == 200);
        let mut client = edge.server.connect();
        client.say(format!("GET /f HTTP/1.1\r\n{HOST}\r\n"));
        edge.server.wait_for("begun", |m| m.http.active.get() == 1);
        fs::OpenOptions::new().write(true).open(p.object(id)).unwrap().set_len(1000).unwrap();
        assert!(client.response(false).unwrap().body == bytes);
        assert!(edge.get("/f").body == bytes, "and for those who ask later");
        // A restarted edge refuses it instead, and says so.
        drop(edge);
        let edge = Edge::start(driver, &p);
        let state = p.state(|s| s.refused.contains_key("f"));
        assert!(state.refused["f"].contains("truncated or damaged"), "{state:?}");
        edge.until("/f", |r| r.status == 503 && String::from_utf8_lossy(&r.body).contains("damaged"));
        assert_eq!(edge.get("/healthz").status, 200, "the edge itself is well");
        fs::write(p.object(id), &bytes).unwrap();
        edge.until("/f", |r| r.status == 200 && r.body == bytes);
        p.state(|s| s.refused.is_empty());
    }
}

#[test]
fn f16_f17_a_damaged_new_version_leaves_the_old_one_served_and_others_unharmed() {
    for driver in drivers() {
        let p = Publisher::new();
        p.publish(1, &[("a", b"old a"), ("b", b"old b")]);
        let edge = Edge::start(driver, &p);
        edge.until("/a", |r| r.body == b"old a");
        fs::write(p.object(ObjectId::of(b"new a")), b"nEw a").unwrap();
        p.publish(2, &[("a", b"new a"), ("b", b"new b")]);
        let state = p.state(|s| s.generation == 2);
        assert_eq!(state.refused.keys().collect::<Vec<_>>(), ["a"]);
        edge.until("/b", |r| r.body == b"new b");
        assert_eq!(edge.get("/a").body, b"old a");
        fs::write(p.object(ObjectId::of(b"new a")), b"new a").unwrap();
        edge.until("/a", |r| r.body == b"new a");
    }
}

#[test]
fn f09_f11_a_restarted_edge_serves_the_last_manifest_and_downloads_resume() {
    for driver in drivers() {
        let p = Publisher::new();
        let bytes = contents(5);
        let edge = Edge::start(driver, &p);
        p.state(|s| s.generation == 0);
        assert_eq!(edge.get("/healthz").status, 503);
        p.publish(5, &[("f", &bytes)]);
        edge.until("/healthz", |r| r.status == 200);
        let etag = edge.get("/f").field("ETag").unwrap().to_owned();
        drop(edge);
        // Control is away; nothing but the folder is left.
        let edge = Edge::start(driver, &p);
        edge.until("/healthz", |r| r.status == 200);
        let rest = edge.server.get("/f", &format!("Range: bytes=150000-\r\nIf-Range: {etag}\r\n"));
        assert_eq!((rest.status, rest.body), (206, bytes[150_000..].to_vec()));
    }
}
