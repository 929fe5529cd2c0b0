//! A disk that is full (F16): a small file system in a mount namespace of its
//! own, which only a process of its own can have. So the test starts itself
//! once more in there.

use super::declared::World;
use super::*;
use std::process::Command;

/// Set inside: where the small file system is mounted.
const INSIDE: &str = "STOKER_TEST_FULL_DISK";
const NAME: &str = "environments::tests::full_disk::f16_a_full_disk_is_said_and_what_was_served_stays";

#[test]
fn f16_a_full_disk_is_said_and_what_was_served_stays() {
    if let Some(folder) = std::env::var_os(INSIDE) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(inside(Path::new(&folder)));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=192k tmpfs \"$1\" || exit 77; exec \"$2\" --exact \"$3\" --nocapture";
    let out = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", mount, "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .arg(NAME)
        .env(INSIDE, folder.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let refused = out.status.code() == Some(77) || said.contains("unshare failed");
    if refused {
        cannot_mount(&said);
        return;
    }
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

/// Without the right to mount there is still the look at the free space before a download.
fn cannot_mount(why: &str) {
    if let Some(path) = std::env::var_os("STOKER_SLOWER_WAY") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "F16 without a full disk: no file system may be mounted here").unwrap();
    }
    eprintln!("no file system may be mounted here: {why}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let b = bench();
        let missing = AssetSource { size: Some(7), ..source(&serve(body(), Mood::Good), None) };
        assert!(b.fetch(&missing, None).await.is_err());
        assert_eq!(b.left_over(), 0);
    });
}

async fn inside(folder: &Path) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let publisher = Publisher::open(folder).unwrap();
    let fetcher = Fetcher::impatient(publisher.objects().clone(), Duration::from_secs(5));
    let server = serve(body(), Mood::Good);
    let announced = fetcher.fetch(&source(&server, None), None, &|_, _| {}).await.unwrap_err().text;
    assert!(announced.contains("no room") && announced.contains("300000 bytes are needed"), "{announced}");
    // A server that does not tell the length is only found out on the way.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                .and_then(|()| stream.write_all(body()));
        }
    });
    let unannounced = AssetSource { url, digest: None, size: None };
    let chunked = fetcher.fetch(&unannounced, None, &|_, _| {}).await.unwrap_err().text;
    assert!(chunked.contains("cannot be written") && chunked.contains("free some space"), "{chunked}");
    assert_eq!(std::fs::read_dir(publisher.objects().incoming()).unwrap().count(), 0);
    assert!(publisher.objects().list().is_empty());
    drop(publisher);

    // As the operator sees it: a version that fits is served, the next one does not fit.
    let w = World::on(folder, "").await;
    let small = w.file("small", b"kernel one");
    w.apply("e", serde_json::json!({"kernel": {"url": small}, "initrd": {"url": small}})).await;
    w.until_ready("e").await;
    let large = format!("http://{}/kernel", server.address);
    w.apply("e", serde_json::json!({"kernel": {"url": large}, "initrd": {"url": small}})).await;
    let conditions = w.until("e", |all| all.first().is_some_and(|c| c.reason == "Failed")).await;
    let said = &conditions[0].message;
    assert!(said.contains("no room") && said.contains("the version before stays served"), "{said}");
    assert_eq!(w.served("env/e/vmlinuz"), Some(ObjectId::of(b"kernel one")));
    w.end().await;
}
