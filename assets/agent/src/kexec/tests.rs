//! A machine that is told to start another kernel, with files that are good, wrong, cut or endless.

use super::*;
use protocol::report::Hidden;
use std::collections::VecDeque;

/// One for each time that it is asked for; the last stays.
type Bodies = VecDeque<Result<Vec<u8>, String>>;

struct Fake {
    /// By URL.
    bodies: Vec<(&'static str, Bodies)>,
    loaded: Option<(Vec<u8>, Option<Vec<u8>>, String)>,
    refuses: Option<i32>,
    /// Goes on for so many steps.
    steps: usize,
    asked: usize,
    pauses: u32,
}

fn fake(kernel: &[&[u8]]) -> Fake {
    let kernel = kernel.iter().map(|b| Ok(b.to_vec())).collect();
    let initrd = VecDeque::from([Ok(b"initrd".to_vec())]);
    Fake {
        bodies: vec![("http://e/k", kernel), ("http://e/i", initrd)],
        loaded: None,
        refuses: None,
        steps: usize::MAX,
        asked: 0,
        pauses: 0,
    }
}

impl Host for Fake {
    fn open(&mut self, url: &str) -> Result<Box<dyn Read>, String> {
        self.asked += 1;
        let (_, bodies) = self.bodies.iter_mut().find(|(u, _)| *u == url).ok_or("HTTP 404")?;
        let body = if bodies.len() > 1 { bodies.pop_front() } else { bodies.front().cloned() };
        body.unwrap_or(Err("silent".into())).map(|b| Box::new(io::Cursor::new(b)) as Box<dyn Read>)
    }
    fn load(&mut self, kernel: &File, initrd: Option<&File>, args: &str) -> io::Result<()> {
        if let Some(code) = self.refuses {
            return Err(io::Error::from_raw_os_error(code));
        }
        let read = |mut file: &File| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map(|_| bytes)
        };
        self.loaded = Some((read(kernel)?, initrd.map(read).transpose()?, args.to_owned()));
        Ok(())
    }
    fn tell(&mut self, _: &str, _: u64) -> bool {
        self.steps = self.steps.saturating_sub(1);
        self.steps > 0
    }
    fn pause(&mut self, _: u32) {
        self.pauses += 1;
    }
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn order() -> KexecOrder {
    KexecOrder {
        kernel_url: "http://e/k".into(),
        kernel_sha256: sha(b"kernel"),
        initrd_url: "http://e/i".into(),
        initrd_sha256: sha(b"initrd"),
        args: Hidden("quiet token=x".into()),
        ..KexecOrder::default()
    }
}

fn run(order: &KexecOrder, host: &mut Fake) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("files");
    let result = prepare(order, &inner, host);
    assert!(!inner.exists(), "nothing is left in memory");
    result
}

#[test]
fn what_was_checked_is_loaded() {
    let mut host = fake(&[b"kernel"]);
    run(&order(), &mut host).unwrap();
    let loaded = (b"kernel".to_vec(), Some(b"initrd".to_vec()), "quiet token=x".to_owned());
    assert_eq!(host.loaded, Some(loaded));
    let mut host = fake(&[b"kernel"]);
    let bare = KexecOrder { initrd_url: String::new(), initrd_sha256: String::new(), ..order() };
    run(&bare, &mut host).unwrap();
    assert_eq!(host.loaded.unwrap().1, None);
}

#[test]
fn a_cut_file_is_fetched_again_and_a_wrong_one_never_loaded() {
    let mut host = fake(&[b"kern", b"kernel"]);
    run(&order(), &mut host).unwrap();
    assert_eq!((host.pauses, host.loaded.unwrap().0), (1, b"kernel".to_vec()));
    let mut host = fake(&[b"another"]);
    assert!(run(&order(), &mut host).unwrap_err().contains(&sha(b"another")));
    assert_eq!((host.loaded, host.asked, host.pauses), (None, 5, 4));
    let mut host = fake(&[]);
    assert!(run(&order(), &mut host).unwrap_err().contains("silent"));
}

#[test]
fn orders_that_make_no_sense_fetch_nothing() {
    let bad = |change: fn(&mut KexecOrder)| {
        let mut order = order();
        change(&mut order);
        let mut host = fake(&[b"kernel"]);
        let why = run(&order, &mut host).unwrap_err();
        assert_eq!(host.loaded, None);
        (why, host.asked)
    };
    assert_eq!(bad(|o| o.kernel_sha256 = "00".into()), ("the order has no SHA-256 for the kernel".into(), 0));
    assert_eq!(bad(|o| o.args = Hidden("x".repeat(2048))).1, 0);
    assert_eq!(bad(|o| o.args = Hidden("a\0b".into())).1, 0);
    assert_eq!(bad(|o| o.initrd_sha256 = String::new()).0, "the order has no SHA-256 for the initrd");
}

#[test]
fn a_withdrawn_order_loads_nothing() {
    for steps in 1..4 {
        let mut host = Fake { steps, ..fake(&[b"kernel"]) };
        assert_eq!(run(&order(), &mut host), Err(WITHDRAWN.into()), "after {steps} steps");
        assert_eq!((host.loaded, host.pauses), (None, 0));
    }
}

#[test]
fn a_refusal_of_the_kernel_is_explained() {
    for (code, words) in [
        (libc::EPERM, "lockdown"),
        (libc::EKEYREJECTED, "Secure Boot"),
        (libc::ENOEXEC, "none for this processor"),
        (libc::ENOMEM, "cannot be loaded"),
    ] {
        let why = run(&order(), &mut Fake { refuses: Some(code), ..fake(&[b"kernel"]) }).unwrap_err();
        assert!(why.contains(words) && !why.contains("token"), "{why}");
    }
}
