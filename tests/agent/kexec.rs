//! The agent starts another kernel without the firmware: here its own once
//! more, with other arguments, under a QEMU that ends at a reset.

use protocol::report::{Hidden, KexecOrder, Level, Order, OrderKind, Target};
use sha2::{Digest as _, Sha256};
use std::time::Instant;
use stoker_tests::guest::{Control, Machine, PATIENCE, Said};

const MAC: &str = "52:54:00:12:34:58";
const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abe";

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn another_kernel_is_started_without_the_firmware() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _turn) = crate::ready();
    let kernel = std::fs::read(files.join("vmlinuz")).unwrap();
    let initrd = std::fs::read(files.join("initramfs.xz")).unwrap();
    let (kernel_sha256, initrd_sha256) = (sha(&kernel), sha(&initrd));
    let served = vec![("/vmlinuz".to_owned(), kernel), ("/initrd".to_owned(), initrd)];
    // Known only once control listens; the agent does not ask before that.
    let port = std::sync::Arc::new(std::sync::OnceLock::<u16>::new());
    let known = port.clone();
    let control = Control::start(served, move |said| {
        let base = format!("http://10.0.2.2:{}", known.get().copied().unwrap_or(0));
        let order = |kernel_sha256: &str| {
            OrderKind::Kexec(KexecOrder {
                target: Target { uuid: UUID.parse().ok(), ..Target::default() },
                kernel_url: format!("{base}/vmlinuz"),
                kernel_sha256: kernel_sha256.to_owned(),
                initrd_url: format!("{base}/initrd"),
                initrd_sha256: initrd_sha256.clone(),
                args: Hidden(format!(
                    "console=ttyS0 quiet panic=-1 stoker.control={base} stoker.attempt=second BOOTIF=01-{}",
                    MAC.replace(':', "-")
                )),
            })
        };
        match said {
            Said::Hello(h) if h.attempt.as_deref() == Some("second") => Order { id: 3, kind: OrderKind::PowerOff },
            Said::Status(s) if s.order == 3 || s.attempt.as_deref() == Some("second") => {
                Order { id: 3, kind: OrderKind::PowerOff }
            }
            Said::Status(s) if s.order == 2 || s.order == 1 && s.level == Level::Failed => {
                Order { id: 2, kind: order(&kernel_sha256) }
            }
            _ => Order { id: 1, kind: order(&sha(b"another kernel")) },
        }
    });
    port.set(control.port).unwrap();
    let append = format!("stoker.control=http://10.0.2.2:{} stoker.attempt=first", control.port);
    let mut machine = Machine::start(files, folder.path(), MAC, UUID, &append, &["-no-reboot", "-m", "1024"]);

    let deadline = Instant::now() + PATIENCE;
    let Said::Hello(first) = control.next(deadline, &mut machine) else { panic!("a status before the hello") };
    assert_eq!(first.attempt.as_deref(), Some("first"));
    let refused = control.until(&mut machine, |s| s.order == 1 && s.level == Level::Failed);
    assert!(refused.detail.contains("SHA-256"), "a kernel with another digest: {}", refused.detail);
    let second = loop {
        match control.next(deadline, &mut machine) {
            Said::Hello(hello) => break hello,
            Said::Status(status) => {
                assert_ne!((status.order, status.level), (2, Level::Failed), "{}\n{}", status.detail, machine.end())
            }
        }
    };
    assert_eq!(second.attempt.as_deref(), Some("second"), "its arguments are those of the order");
    assert_ne!(second.boot_id, first.boot_id);
    assert_eq!(second.facts.system.uuid, first.facts.system.uuid);
}
