//! What this host can do, and a word in the log where it is the slow way.

/// The bundle to boot from: `STOKER_BUNDLE`, else where `make bundle` puts it.
pub fn bundle() -> Option<std::path::PathBuf> {
    let built = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bundle");
    std::env::var_os("STOKER_BUNDLE").map(Into::into).or(Some(built)).filter(|b: &std::path::PathBuf| b.is_dir())
}

/// How machines run on this host; tells the log where that is the slow way.
pub fn accel(images: &control::rack::Images) -> control::rack::Accel {
    let verdict = control::rack::accel::decide(images);
    if verdict.accel == control::rack::Accel::Tcg {
        slower(&format!("real firmware ran under {verdict}"));
    }
    verdict.accel
}

/// The driver to demand: `epoll` where this kernel refuses io_uring, and a word about it.
pub fn usable(driver: &'static str) -> &'static str {
    static REFUSED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let refused = REFUSED.get_or_init(|| {
        let out = std::process::Command::new(crate::stage::program("stoker-edge")).arg("--probe").output().unwrap();
        let probe: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        probe["driver"] != "uring"
    });
    if driver == "uring" && *refused {
        slower("the io_uring cases of the boot matrix ran on epoll: this kernel refuses io_uring");
        return "epoll";
    }
    driver
}

/// Appends a line to the list that `STOKER_SLOWER_WAY` names: what this run could not do the fast way.
pub fn slower(what: &str) {
    use std::io::Write as _;
    if let Some(path) = std::env::var_os("STOKER_SLOWER_WAY") {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{what}"));
        assert!(written.is_ok(), "the list of slower ways cannot be written: {written:?}");
    }
}
