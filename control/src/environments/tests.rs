//! Against a server of our own that cuts, stalls, lies and redirects.

mod declared;
mod full_disk;

use super::fetch::{Fetched, Fetcher};
use super::*;
use crate::config::{self, Digest, EnvironmentArch, Overrides};
use crate::objects::embedded::Embedded;
use protocol::manifest::{Manifest, ObjectId};
use sha2::Digest as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the server does with a request.
#[derive(Clone, Copy)]
enum Mood {
    /// Serves it, ranges and conditions included.
    Good,
    /// Sends so many bytes of the body and closes, the first time; then good.
    CutAt(usize),
    /// Sends the head and then nothing.
    Silent,
    /// This status.
    Status(u16),
    /// Ignores ranges after a first cut.
    CutThenWhole(usize),
}

struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicUsize>,
}

fn serve(body: &'static [u8], mood: Mood) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let count: Arc<AtomicUsize> = Arc::default();
    std::thread::spawn({
        let (requests, count) = (requests.clone(), count.clone());
        move || {
            // Ends with the test's process; the connections of one test are few.
            for stream in listener.incoming().take(64).flatten() {
                let nth = count.fetch_add(1, Ordering::SeqCst);
                let requests = requests.clone();
                std::thread::spawn(move || answer(stream, body, mood, nth, &requests));
            }
        }
    });
    Server { address, requests, count }
}

fn answer(mut stream: TcpStream, body: &[u8], mood: Mood, nth: usize, requests: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    lock(requests).push(head.clone());
    let etag = format!("\"{}\"", body.len());
    let line = |name: &str| head.lines().find_map(|l| l.strip_prefix(name).map(|v| v.trim().to_owned()));
    let from: usize =
        line("range:").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    let same = line("if-none-match:").is_some_and(|tag| tag == etag);
    let whole = |from: usize| -> (String, &[u8]) {
        let rest = &body[from..];
        let status = if from > 0 {
            format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", body.len() - 1, body.len())
        } else {
            "200 OK".into()
        };
        (
            format!("HTTP/1.1 {status}\r\nETag: {etag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len()),
            rest,
        )
    };
    let (head, rest) = match mood {
        _ if same => ("HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_owned(), &body[..0]),
        Mood::Status(status) => {
            (format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), &body[..0])
        }
        Mood::Silent => (whole(0).0, &body[..0]),
        Mood::CutAt(n) | Mood::CutThenWhole(n) if nth == 0 => (whole(0).0, &body[..n]),
        Mood::CutThenWhole(_) => whole(0),
        _ => whole(from),
    };
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(rest));
    if matches!(mood, Mood::Silent) {
        // Until the client has had enough and closes.
        let _ = stream.read(&mut byte);
    }
}

/// 300 KB that differ everywhere.
fn body() -> &'static [u8] {
    static BODY: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BODY.get_or_init(|| {
        (0..300_000_u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[..1].to_vec()).collect()
    })
}

fn source(server: &Server, digest: Option<Digest>) -> AssetSource {
    AssetSource { url: format!("http://{}/vmlinuz", server.address), digest, size: None }
}

fn sha256() -> Digest {
    Digest::Sha256(ObjectId::of(body()).to_string())
}

struct Bench {
    dir: tempfile::TempDir,
    publisher: Arc<Publisher>,
    fetcher: Fetcher,
}

fn bench() -> Bench {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let publisher = Arc::new(Publisher::open(dir.path()).unwrap());
    let fetcher = Fetcher::impatient(publisher.objects().clone(), Duration::from_millis(500));
    Bench { dir, publisher, fetcher }
}

impl Bench {
    async fn fetch(&self, source: &AssetSource, known: Option<&str>) -> Result<Fetched, super::fetch::Failure> {
        self.fetcher.fetch(source, known, &|_, _| {}).await
    }

    fn left_over(&self) -> usize {
        std::fs::read_dir(self.publisher.objects().incoming()).unwrap().count()
    }
}

fn stored(fetched: Fetched) -> Stored {
    match fetched {
        Fetched::New { stored, .. } => stored,
        Fetched::Same => panic!("not fetched"),
    }
}

#[tokio::test]
async fn f16_a_download_that_breaks_off_is_resumed_and_whole() {
    let (b, server) = (bench(), serve(body(), Mood::CutAt(100_000)));
    let source = source(&server, Some(sha256()));
    let why = b.fetch(&source, None).await.unwrap_err();
    assert!(why.text.contains("broke off") && !why.hopeless, "{why:?}");
    assert!(b.publisher.objects().list().is_empty(), "nothing unfinished is an object");
    let fetched = stored(b.fetch(&source, None).await.unwrap());
    assert_eq!(fetched, Stored { object: ObjectId::of(body()), length: body().len() as u64 });
    assert!(b.publisher.objects().verify(fetched));
    let second = lock(&server.requests)[1].clone();
    assert!(second.contains("range: bytes=100000-") && second.contains("if-range: \"300000\""), "{second}");
    assert_eq!(b.left_over(), 0);
}

#[tokio::test]
async fn f16_a_server_that_does_not_resume_is_read_from_the_start() {
    let (b, server) = (bench(), serve(body(), Mood::CutThenWhole(100_000)));
    let source = source(&server, None);
    assert!(b.fetch(&source, None).await.is_err());
    assert_eq!(stored(b.fetch(&source, None).await.unwrap()).object, ObjectId::of(body()));
}

#[tokio::test]
async fn f16_a_wrong_digest_is_never_stored_and_the_part_is_thrown_away() {
    let (b, server) = (bench(), serve(body(), Mood::Good));
    let wrong = source(&server, Some(Digest::Sha256("0".repeat(64))));
    let why = b.fetch(&wrong, None).await.unwrap_err();
    assert!(why.text.contains(&ObjectId::of(body()).to_string()) && why.text.contains("stoker.yaml"), "{}", why.text);
    let sha512: String = sha2::Sha512::digest(body()).iter().map(|b| format!("{b:02x}")).collect();
    let wrong = source(&server, Some(Digest::Sha512("0".repeat(128))));
    assert!(b.fetch(&wrong, None).await.is_err());
    assert!(b.publisher.objects().list().is_empty());
    assert_eq!(b.left_over(), 0);
    let right = source(&server, Some(Digest::Sha512(sha512)));
    assert_eq!(stored(b.fetch(&right, None).await.unwrap()).object, ObjectId::of(body()));
    let size = AssetSource { size: Some(7), ..source(&server, None) };
    assert!(b.fetch(&size, None).await.unwrap_err().text.contains("configuration says 7"));
}

#[tokio::test]
async fn a_bit_that_flips_in_the_resumed_part_is_noticed() {
    let (b, server) = (bench(), serve(body(), Mood::CutAt(100_000)));
    let source = source(&server, Some(sha256()));
    assert!(b.fetch(&source, None).await.is_err());
    let part = std::fs::read_dir(b.publisher.objects().incoming())
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "part"))
        .unwrap();
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    assert!(b.fetch(&source, None).await.unwrap_err().text.contains("not the one"));
    assert_eq!(stored(b.fetch(&source, None).await.unwrap()).object, ObjectId::of(body()), "and then it is read anew");
}

#[tokio::test]
async fn silence_and_refusals_end_in_words() {
    let b = bench();
    let silent = serve(body(), Mood::Silent);
    let why = b.fetch(&source(&silent, None), None).await.unwrap_err();
    assert!(why.text.contains("sent nothing") && !why.hopeless, "{why:?}");
    let missing = serve(body(), Mood::Status(404));
    let why = b.fetch(&source(&missing, None), None).await.unwrap_err();
    assert!(why.text.contains("404") && why.hopeless, "{why:?}");
    let busy = serve(body(), Mood::Status(503));
    assert!(!b.fetch(&source(&busy, None), None).await.unwrap_err().hopeless);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = AssetSource { url: format!("http://{closed}/x"), digest: None, size: None };
    assert!(b.fetch(&nobody, None).await.unwrap_err().text.to_lowercase().contains("refused"));
}

#[tokio::test]
async fn what_did_not_change_is_not_fetched_again() {
    let (b, server) = (bench(), serve(body(), Mood::Good));
    let source = source(&server, None);
    let Fetched::New { validator, .. } = b.fetch(&source, None).await.unwrap() else { panic!("not new") };
    assert_eq!(validator.as_deref(), Some("\"300000\""));
    assert!(matches!(b.fetch(&source, validator.as_deref()).await.unwrap(), Fetched::Same));
    let file = b.dir.path().join("local");
    std::fs::write(&file, b"one").unwrap();
    let local = AssetSource { url: format!("file://{}", file.display()), digest: None, size: None };
    let Fetched::New { stored: one, validator } = b.fetch(&local, None).await.unwrap() else { panic!("not new") };
    assert_eq!(one.object, ObjectId::of(b"one"));
    assert!(matches!(b.fetch(&local, validator.as_deref()).await.unwrap(), Fetched::Same));
    std::fs::write(&file, b"two!").unwrap();
    assert_eq!(stored(b.fetch(&local, validator.as_deref()).await.unwrap()).object, ObjectId::of(b"two!"));
}

struct Running {
    environments: Arc<Environments>,
    publisher: Arc<Publisher>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(dir: &Path, kernel: AssetSource, initrd: AssetSource) -> Running {
    let text = "interface: lo\naddress: 127.0.0.1\n";
    std::fs::write(dir.join("stoker.yaml"), text).unwrap();
    let mut settings = crate::config::load(Some(&dir.join("stoker.yaml")), &Overrides::default()).unwrap();
    let files = EnvironmentArch { kernel, initrd, args: vec!["a=b".into()] };
    let arches = BTreeMap::from([(Arch::X86_64, files)]);
    settings.environments.insert("talos".into(), config::Environment { arches, any_arch: false });
    let _ = rustls::crypto::ring::default_provider().install_default();
    let publisher = Arc::new(Publisher::open(dir).unwrap());
    let store = Arc::new(Store::open(&dir.join("s.redb")).unwrap());
    let environments = Arc::new(Environments::new(&settings, publisher.clone(), store.clone()));
    let objects = Embedded::open(store).await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(environments.clone().run(objects, stop.clone()));
    Running { environments, publisher, stop, task }
}

impl Running {
    async fn until(&self, what: &str, fits: impl Fn(&[AssetState]) -> bool) -> Vec<AssetState> {
        for _ in 0..1000 {
            let states: Vec<_> =
                self.environments.list(&[]).environments[0].arches[0].assets.iter().map(|a| a.state.clone()).collect();
            if fits(&states) {
                return states;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {what}: {:?}", self.environments.list(&[]));
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn all_ready(states: &[AssetState]) -> bool {
    states.iter().all(|s| matches!(s, AssetState::Ready { .. }))
}

#[tokio::test]
async fn an_environment_becomes_ready_is_published_and_is_found_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (kernel, initrd) = (serve(body(), Mood::CutAt(1000)), serve(b"initrd", Mood::Good));
    let sources = || (source(&kernel, Some(sha256())), source(&initrd, None));
    let (k, i) = sources();
    let running = start(dir.path(), k, i).await;
    let Readiness::NotReady(why) = running.environments.files("talos", Arch::X86_64) else { panic!("ready at once") };
    assert!(why.contains("talos is not ready") && why.contains(&kernel.address.to_string()), "{why}");
    running.until("ready", all_ready).await;
    let Readiness::Ready(files) = running.environments.files("talos", Arch::X86_64) else { panic!("not ready") };
    assert_eq!(
        (files.kernel.as_str(), files.args.as_slice()),
        ("env/talos/x86_64/vmlinuz", ["a=b".to_string()].as_slice())
    );
    assert_eq!(running.publisher.entry("env/talos/vmlinuz").unwrap().object, ObjectId::of(body()));
    assert!(matches!(running.environments.files("talos", Arch::Arm64), Readiness::NoArch(_)));
    running.end().await;

    let asked = kernel.count.load(Ordering::SeqCst);
    let (k, i) = sources();
    let running = start(dir.path(), k, i).await;
    running.until("ready again", all_ready).await;
    assert_eq!(kernel.count.load(Ordering::SeqCst), asked, "what has a digest and lies there whole is not asked for");
    running.end().await;

    let object = dir.path().join("publish/objects/sha256").join(ObjectId::of(body()).to_string());
    std::fs::remove_file(&object).unwrap();
    std::fs::write(&object, b"damaged").unwrap();
    let (k, i) = sources();
    let running = start(dir.path(), k, i).await;
    running.until("repaired", all_ready).await;
    assert_eq!(std::fs::read(&object).unwrap(), body(), "ready is checked against the disk, not believed");
    running.end().await;
}

#[tokio::test]
async fn f16_the_old_version_stays_served_while_a_new_one_fails() {
    let dir = tempfile::tempdir().unwrap();
    let local = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        AssetSource { url: format!("file://{}", path.display()), digest: None, size: None }
    };
    let running = start(dir.path(), local("k", b"one"), local("i", b"initrd")).await;
    running.until("ready", all_ready).await;
    local("k", b"two!");
    assert_eq!(running.environments.refetch("talos"), Some(2));
    let two = ObjectId::of(b"two!").to_string();
    let second = |s: &[AssetState]| all_ready(s) && matches!(&s[0], AssetState::Ready { sha256, .. } if *sha256 == two);
    running.until("the second version", second).await;
    std::fs::remove_file(dir.path().join("k")).unwrap();
    running.environments.refetch("talos");
    running.until("failed", |s| matches!(s[0], AssetState::Failed { .. })).await;
    assert!(matches!(running.environments.files("talos", Arch::X86_64), Readiness::Ready(_)));
    let manifest = Manifest::parse(&std::fs::read(dir.path().join("publish/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest.entries["env/talos/vmlinuz"].object.to_string(), two);
    assert_eq!(running.environments.refetch("nosuch"), None);
    running.end().await;
}
