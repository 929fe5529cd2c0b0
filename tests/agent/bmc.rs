//! The agent gives the BMC of its machine a user: over the kernel's IPMI driver
//! to OpenIPMI's `ipmi_sim`, into which `ipmitool` then logs in over the LAN.

use protocol::report::{BmcOrder, Hidden, Level, Order, OrderKind, Target};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use stoker_tests::guest::{Control, Machine, Said};

const MAC: &str = "52:54:00:12:34:57";
const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abd";
const USER: &str = "stoker";
const SECRET: &str = "aB3-efghijklmnop";
const SET_ADDRESS: [&str; 5] = ["lan", "set", "1", "ipaddr", "127.0.0.1"];

/// ipmi_sim with a LAN, and a wire for QEMU's KCS interface.
struct Simulator {
    child: Child,
    lan: u16,
    wire: u16,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Simulator {
    fn start(folder: &Path) -> Self {
        let lan = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let wire = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        std::fs::create_dir(folder.join("state")).unwrap();
        let lan_conf = format!(
            "name \"sim\"\nset_working_mc 0x20\n startlan 1\n  addr 127.0.0.1 {lan}\n  priv_limit admin\n  \
             allowed_auths_operator none md2 md5 straight\n  \
             allowed_auths_admin none md2 md5 straight\n  guid a123456789abcdefa123456789abcdef\n endlan\n \
             serial 15 127.0.0.1 {wire} codec VM\n \
             user 1 true \"\" \"test\" user 10 none md2 md5 straight\n \
             user 2 true \"admin\" \"s3cret\" admin 10 none md2 md5 straight\n"
        );
        std::fs::write(folder.join("lan.conf"), lan_conf).unwrap();
        let emulation = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
                         sel_enable 0x20 1000 0x0a\nmc_enable 0x20\n";
        std::fs::write(folder.join("sim.emu"), emulation).unwrap();
        let child = Command::new("ipmi_sim")
            .arg("-n")
            .arg("-c")
            .arg(folder.join("lan.conf"))
            .arg("-f")
            .arg(folder.join("sim.emu"))
            .arg("-s")
            .arg(folder.join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ipmi_sim (package openipmi)");
        let simulator = Self { child, lan, wire };
        // A BMC knows its address; this one is told.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !simulator.log_in("admin", "s3cret", "ADMINISTRATOR", &SET_ADDRESS).status.success() {
            assert!(Instant::now() < deadline, "ipmi_sim never answered");
            std::thread::sleep(Duration::from_millis(200));
        }
        simulator
    }

    /// ipmitool as an operator of this name: whether it is let in.
    fn lets_in(&self, user: &str, password: &str) -> bool {
        self.log_in(user, password, "OPERATOR", &["mc", "info"]).status.success()
    }

    fn log_in(&self, user: &str, password: &str, level: &str, words: &[&str]) -> Output {
        let port = self.lan.to_string();
        Command::new("ipmitool")
            .args(["-I", "lanplus", "-C", "3", "-L", level, "-N", "5", "-H", "127.0.0.1", "-p", &port])
            .args(["-U", user, "-P", password])
            .args(words)
            .output()
            .expect("ipmitool (package ipmitool)")
    }
}

#[test]
fn a_user_that_the_agent_makes_can_log_in_over_the_lan() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _turn) = crate::ready();
    let bmc = Simulator::start(folder.path());
    assert!(!bmc.lets_in(USER, SECRET), "there is no such user yet");

    let order = || {
        let target = Target { uuid: UUID.parse().ok(), macs: vec![MAC.parse().unwrap()], ..Target::default() };
        OrderKind::SetUpBmc(BmcOrder { target, user: USER.into(), password: Hidden(SECRET.into()) })
    };
    // First for another machine, which must be refused; then twice, as after a lost answer of control.
    let control = Control::start(Vec::new(), move |said| match said {
        Said::Status(s) if s.order == 1 && s.level == Level::Failed => Order { id: 2, kind: order() },
        Said::Status(s) if s.order == 2 && s.level == Level::Done => Order { id: 3, kind: order() },
        Said::Status(s) if s.order == 2 => Order { id: 2, kind: order() },
        Said::Status(s) if s.order == 3 => Order { id: 3, kind: order() },
        _ => {
            let OrderKind::SetUpBmc(mut other) = order() else { unreachable!() };
            other.target.serial_number = "another".into();
            Order { id: 1, kind: OrderKind::SetUpBmc(other) }
        }
    });
    let chardev = format!("socket,id=ipmi,host=127.0.0.1,port={},reconnect=1", bmc.wire);
    let devices =
        ["-chardev", &chardev, "-device", "ipmi-bmc-extern,id=b,chardev=ipmi", "-device", "isa-ipmi-kcs,bmc=b"];
    let append = format!("stoker.control=http://10.0.2.2:{}", control.port);
    let mut machine = Machine::start(files, folder.path(), MAC, UUID, &append, &devices);

    let Said::Hello(hello) = control.next(Instant::now() + stoker_tests::guest::PATIENCE, &mut machine) else {
        panic!("a status before the hello")
    };
    assert!(hello.facts.bmc_present, "{}", machine.end());
    let refused = control.until(&mut machine, |s| s.order == 1 && s.level == Level::Failed);
    assert!(refused.detail.contains("another serial number"), "{}", refused.detail);

    let ended = |order| move |s: &protocol::report::Status| s.order == order && s.level != Level::Running;
    let first = control.until(&mut machine, ended(2));
    assert_eq!(first.level, Level::Done, "{}\n{}", first.detail, machine.end());
    let found = first.bmc.expect("what was found");
    assert_eq!((found.address.as_str(), found.port, found.channel), ("127.0.0.1", 623, 1));
    assert_eq!(found.user_id, 3, "the first slot that is nobody's");
    assert!(bmc.lets_in(USER, SECRET));
    assert!(!bmc.lets_in(USER, "wrong"));

    let again = control.until(&mut machine, ended(3)).bmc.expect("what was found again");
    assert_eq!(again.user_id, 3, "the same order takes the same slot");
    assert!(bmc.lets_in("admin", "s3cret"), "the other user is as it was");
    let console = machine.end();
    assert!(!console.contains(SECRET), "a password is not written to the console");
}
