//! Our IPMI client against OpenIPMI's `ipmi_sim`, an independent BMC
//! (Debian package `openipmi`). It speaks suite 3 and keeps no EFI or
//! persistence bits, so these are checked elsewhere.

use control::power::{BootDevice, Client, Error, Power, Session as _};
use protocol::ipmi::{Config, Error as SessionError, Privilege, Suite};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Simulator {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Simulator {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("state")).unwrap();
        std::fs::write(path("power"), "0").unwrap();
        std::fs::write(path("boot"), "default").unwrap();
        script(&path("chassis"), dir.path());
        std::fs::write(
            path("lan.conf"),
            format!(
                "name \"sim\"\nset_working_mc 0x20\n startlan 1\n  addr 127.0.0.1 {port}\n  priv_limit admin\n  \
                 allowed_auths_admin none md2 md5 straight\n  guid a123456789abcdefa123456789abcdef\n endlan\n \
                 chassis_control \"{} 0x20\"\n user 2 true \"admin\" \"s3cret\" admin 10 none md2 md5 straight\n \
                 user 3 true \"oper\" \"operpw\" operator 10 none md2 md5 straight\n",
                path("chassis").display()
            ),
        )
        .unwrap();
        std::fs::write(
            path("sim.emu"),
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 1000 0x0a\n\
             sensor_add 0x20 0 0x30 0x01 0x01\nsensor_set_event_support 0x20 0 0x30 enable scanning per-state 000000000000000 000000000000000 000000000000000 000000000000000\n\
             sensor_set_value 0x20 0 0x30 35 0\n\
             main_sdr_add 0x20 0x00 0x00 0x51 0x01 0x30 0x20 0x00 0x30 0x07 0x01 0x7f 0x68 0x01 0x01 0x80 0x0a 0x80 0x0a 0x3f 0x3f \
             0x00 0x01 0x00 0x00 0x01 0x00 0x00 0x00 0x00 0x00 0x00 0x14 0x28 0x0a 0xff 0x00 0x50 0x46 0x3c 0x00 0x00 0x00 0x02 0x02 \
             0x00 0x00 0x00 0xc5 0x49 0x6e 0x6c 0x65 0x74\nmc_enable 0x20\n",
        )
        .unwrap();
        let child = Command::new("ipmi_sim")
            .args(["-n", "-c"])
            .arg(path("lan.conf"))
            .arg("-f")
            .arg(path("sim.emu"))
            .arg("-s")
            .arg(path("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ipmi_sim starts (Debian package openipmi)");
        let simulator = Self { child, address: (Ipv4Addr::LOCALHOST, port).into(), dir };
        for _ in 0..50 {
            if Client::open(simulator.address, admin()).await.is_ok() {
                return simulator;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("ipmi_sim never answered");
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap().trim().to_owned()
    }
}

/// What ipmi_sim calls to read and change the chassis.
fn script(path: &Path, dir: &Path) {
    let body = format!(
        "#!/bin/sh\ncd {}\nshift\nop=$1; shift\nwhile [ $# -gt 0 ]; do\n case $op.$1 in\n  \
         get.power|get.boot) echo \"$1:$(cat $1)\"; shift ;;\n  set.power|set.boot) echo $2 > $1; shift 2 ;;\n  \
         set.reset) echo x >> resets; shift 2 ;;\n  *) shift ;;\n esac\ndone\n",
        dir.display()
    );
    std::fs::write(path, body).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn admin() -> Config {
    Config {
        user: b"admin".to_vec(),
        password: b"s3cret".to_vec(),
        kg: None,
        privilege: Privilege::Operator,
        suite: None,
        allow_suite_3: true,
    }
}

#[tokio::test]
async fn power_and_boot_device_against_an_independent_bmc() {
    let bmc = Simulator::start().await;
    let mut client = Client::open(bmc.address, admin()).await.unwrap();
    let info = client.info().await.unwrap();
    assert_eq!((info.manufacturer.as_str(), info.speaks.as_str()), ("IANA enterprise number 4753", "IPMI 2.0"));

    assert!(!client.status().await.unwrap().on);
    assert!(client.power(Power::On).await.unwrap().on);
    assert_eq!(bmc.file("power"), "1");
    let flags = client.set_boot(BootDevice::Pxe, true, false).await.unwrap();
    assert_eq!((flags.device, bmc.file("boot").as_str()), (Some(BootDevice::Pxe), "pxe"));
    client.power(Power::Reset).await.unwrap();
    assert_eq!(bmc.file("resets"), "x");
    assert!(!client.power(Power::Off).await.unwrap().on);
    assert_eq!(bmc.file("power"), "0");
    client.close().await;
}

#[tokio::test]
async fn event_log_and_sensors_are_read() {
    let bmc = Simulator::start().await;
    let mut client =
        Client::open(bmc.address, Config { privilege: Privilege::Administrator, ..admin() }).await.unwrap();
    // An entry written by hand (Add SEL Entry): sensor 0x30 of type temperature, upper critical going high.
    let entry = vec![0, 0, 2, 0, 0, 0, 0, 0x20, 0, 4, 1, 0x30, 1, 0x59, 0, 0];
    client.raw(0x0a, 0x44, entry).await.unwrap();
    let events = client.sel().await.unwrap();
    let last = events.last().expect("the entry is there");
    assert!(last.what.contains("sensor 0x30 (type 0x01)"), "{last:?}");
    assert_eq!(usize::from(client.sel_info().await.unwrap().entries), events.len());
    client.sel_clear().await.unwrap();
    assert!(client.sel().await.unwrap().is_empty());

    let sensors = client.sensors().await.unwrap();
    let temperature = sensors.iter().find(|s| s.name == "Inlet").expect("the sensor of sim.emu");
    assert_eq!(
        (temperature.value.as_deref(), temperature.state.as_str()),
        (Some("35.00 \u{b0}C"), "ok"),
        "{sensors:?}"
    );
    client.close().await;
}

#[tokio::test]
async fn sessions_are_closed_so_that_the_bmc_never_runs_out() {
    let bmc = Simulator::start().await;
    for _ in 0..100 {
        Client::open(bmc.address, admin()).await.expect("a session is free").close().await;
    }
}

#[tokio::test]
async fn each_wrong_credential_has_its_own_words() {
    let bmc = Simulator::start().await;
    let open = |config| Client::open(bmc.address, config);
    let wrong = open(Config { password: b"bad".to_vec(), ..admin() }).await;
    assert!(matches!(wrong, Err(Error::Session(SessionError::BadPassword))));
    let unknown = open(Config { user: b"nobody".to_vec(), ..admin() }).await;
    assert!(matches!(unknown, Err(Error::Session(SessionError::Refused(_, 0x0d)))));
    let suite_17 = open(Config { suite: Some(Suite::S17), ..admin() }).await;
    assert!(matches!(suite_17, Err(Error::Session(SessionError::Refused(..)))), "ipmi_sim has no suite 17");
    let operator = Config { user: b"oper".to_vec(), password: b"operpw".to_vec(), ..admin() };
    open(operator).await.expect("an operator may log in at operator level").close().await;
}

#[tokio::test]
async fn a_dead_bmc_is_given_up_in_bounded_time() {
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let begun = std::time::Instant::now();
    let dead = Client::open(nobody, Config { suite: Some(Suite::S3), ..admin() }).await;
    assert!(matches!(dead, Err(Error::Session(SessionError::Silent))));
    assert!(begun.elapsed() < Duration::from_secs(30));
}
