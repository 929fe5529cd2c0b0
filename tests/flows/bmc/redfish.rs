//! The Redfish client: against our simulator, over plain HTTP and, behind `socat` (an independent TLS
//! stack), over TLS with certificates that are pinned, verified or taken as they come.

use super::pool::redfish;
use super::target;
use control::power::redfish::{Client, Machine, Trust};
use control::power::target::{Target, Way};
use control::power::{BootDevice, Error, Power, Session};
use control::rack::bmc::{Faults, Identity, Switch};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const UUID: &str = "6f0c4e2a-0b1d-4c5e-8f90-123456789abc";

async fn open(address: SocketAddr) -> Result<Client, Error> {
    Client::open(&target(Way::RedfishHttp, address), None).await
}

#[tokio::test]
async fn power_and_boot_override_are_written_and_read_back() {
    let machine = Switch::default();
    let (bmc, address) = redfish(4, &machine);
    let mut client = open(address).await.unwrap();
    assert!(client.power(Power::On).await.unwrap().on);
    let kept = client.set_boot(BootDevice::Pxe, true, false).await.unwrap();
    assert!(kept.valid && kept.efi && !kept.persistent);
    let kept = client.set_boot(BootDevice::Disk, false, true).await.unwrap();
    assert!(kept.valid && !kept.efi && kept.persistent);
    client.power(Power::Cycle).await.unwrap();
    client.power(Power::Reset).await.unwrap();
    assert!(!client.power(Power::Off).await.unwrap().on);
    let http = client.set_boot(BootDevice::UefiHttp, true, false).await.unwrap_err().to_string();
    assert!(http.contains("cannot boot from UefiHttp") && http.contains("Pxe"), "{http}");
    assert_eq!(bmc.state().open, 1);
    Box::new(client).close().await;
    assert_eq!(bmc.state().open, 0, "the session is given back");
    assert_eq!(machine.done(), ["on", "boot Network once", "boot Disk always", "cycle", "reset", "off"]);
}

#[tokio::test]
async fn inventory_log_and_sensors_are_read() {
    let (bmc, address) = redfish(4, &Switch::default());
    bmc.state().identity =
        Identity { uuid: UUID.to_uppercase(), serial: "SN1".into(), macs: vec!["52:54:00:00:00:01".into()] };
    bmc.state().events = vec![0x6000_0000, 0x6000_0001];
    let mut client = open(address).await.unwrap();
    let info = client.info().await.unwrap();
    assert_eq!((info.speaks.as_str(), info.firmware.as_str()), ("Redfish 1.15.0", "1.0"));
    let system = info.system.unwrap();
    assert_eq!((system.uuid.as_str(), system.serial.as_str()), (UUID, "SN1"));
    assert_eq!(system.macs, ["52:54:00:00:00:01"]);
    let events = client.sel().await.unwrap();
    assert_eq!(
        events.iter().map(|e| (e.id, e.at_s)).collect::<Vec<_>>(),
        [(1, Some(0x6000_0000)), (2, Some(0x6000_0001))]
    );
    assert!(events[0].what.starts_with("Critical: Inlet"), "{events:?}");
    client.sel_clear().await.unwrap();
    assert!(client.sel().await.unwrap().is_empty());
    let sensors = client.sensors().await.unwrap();
    assert_eq!((sensors[0].name.as_str(), sensors[0].value.as_deref()), ("Inlet", Some("35 \u{b0}C")));
}

#[tokio::test]
async fn a_bmc_without_sessions_or_with_wrong_tags_is_spoken_to_all_the_same() {
    let machine = Switch::default();
    let (bmc, address) = redfish(4, &machine);
    bmc.faults(Faults { no_session_service: true, wrong_etags: true, ..Faults::default() });
    let mut client = open(address).await.unwrap();
    client.set_boot(BootDevice::Pxe, true, false).await.unwrap();
    client.power(Power::On).await.unwrap();
    assert_eq!(bmc.state().open, 0, "by basic authentication");
    assert_eq!(machine.done(), ["boot Network once", "on"]);
    let wrong = Target { password: "guess".into(), ..target(Way::RedfishHttp, address) };
    assert!(matches!(Client::open(&wrong, None).await, Err(Error::Login(401))));
}

#[tokio::test]
async fn f22_a_redfish_bmc_that_lies_is_found_out_by_reading_back() {
    let (bmc, address) = redfish(4, &Switch::default());
    let mut client = open(address).await.unwrap();
    bmc.faults(Faults { ignores_boot: true, ..Faults::default() });
    assert!(matches!(client.set_boot(BootDevice::Pxe, true, false).await, Err(Error::BootNotKept(_))));
    bmc.faults(Faults { ignores_power: true, ..Faults::default() });
    assert!(matches!(client.power(Power::On).await, Err(Error::PowerNotReached(false))));
}

#[tokio::test]
async fn a_bmc_that_drops_answers_late_or_has_no_session_says_so() {
    let (bmc, address) = redfish(1, &Switch::default());
    bmc.faults(Faults { drop_first: 1, ..Faults::default() });
    assert!(matches!(open(address).await, Err(Error::Http(_))));
    bmc.faults(Faults { delay: Duration::from_millis(300), ..Faults::default() });
    let late = open(address).await.expect("late is not never");
    bmc.faults(Faults::default());
    assert!(matches!(open(address).await, Err(Error::NoSession)));
    Box::new(late).close().await;
    bmc.faults(Faults { no_sessions: true, ..Faults::default() });
    assert!(matches!(open(address).await, Err(Error::NoSession)));
}

#[tokio::test]
async fn the_bmc_of_another_machine_is_not_touched() {
    let machine = Switch::default();
    let (bmc, address) = redfish(4, &machine);
    let theirs = "11111111-2222-4333-8444-555555555555";
    bmc.state().identity = Identity { uuid: theirs.into(), serial: "SN2".into(), macs: vec![] };
    let ours = Machine { uuid: UUID.into(), serial: "SN1".into(), macs: vec!["52:54:00:00:00:01".into()] };
    let with = |machine: &Machine| Target { machine: machine.clone(), ..target(Way::RedfishHttp, address) };
    let refused = Client::open(&with(&ours), None).await.err().expect("it is another machine's").to_string();
    assert!(refused.contains("SN2") && refused.contains(theirs), "{refused}");
    assert_eq!(bmc.state().open, 0, "and logged out of again");
    bmc.state().identity.macs = vec!["52:54:00:00:00:01".into()];
    Client::open(&with(&ours), None).await.expect("a network card in common makes it ours");
    bmc.state().identity = Identity { uuid: "2A4E0C6F-1D0B-5E4C-8F90-123456789ABC".into(), ..Identity::default() };
    Client::open(&with(&ours), None).await.expect("some write UUIDs in the other byte order");
}

/// `socat` in front of a simulator: TLS by OpenSSL with a certificate that it made itself.
struct Tls {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tls {
    fn start(behind: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=bmc", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
            .output()
            .expect("openssl runs (Debian package openssl)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let listen = format!(
            "OPENSSL-LISTEN:{},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={},key={}",
            free.port(),
            path("cert.pem"),
            path("key.pem")
        );
        let child = Command::new("socat")
            .args([listen, format!("TCP:{behind}")])
            .stderr(Stdio::null())
            .spawn()
            .expect("socat starts (Debian package socat)");
        let tls = Self { child, address: free, _dir: dir };
        let listens = (0..400).any(|_| {
            std::thread::sleep(Duration::from_millis(25));
            std::net::TcpStream::connect(free).is_ok()
        });
        assert!(listens, "socat never listened");
        tls
    }
}

#[tokio::test]
async fn certificates_are_pinned_verified_or_taken_as_told() {
    let (bmc, address) = redfish(8, &Switch::default());
    let (tls, other) = (Tls::start(address), Tls::start(address));
    let open = async |at: &Tls, trust: Trust| {
        Client::open(&target(Way::Redfish(trust.clone()), at.address), Some(&trust)).await
    };
    let mut sight = open(&tls, Trust::FirstSight).await.unwrap();
    let shown = sight.info().await.unwrap().certificate.expect("a fingerprint");
    assert_eq!((bmc.state().logins, shown.len()), (0, 71), "nothing secret was sent");

    let mut pinned = open(&tls, Trust::Pin(shown.clone())).await.unwrap();
    assert!(!pinned.status().await.unwrap().on);
    open(&tls, Trust::Insecure).await.expect("by explicit word");
    let logins = bmc.state().logins;
    let changed = open(&other, Trust::Pin(shown.clone())).await.err().expect("another certificate");
    assert!(matches!(&changed, Error::Certificate(why) if why.contains(&shown)), "{changed}");
    let unknown = open(&tls, Trust::Verify).await.err().expect("no authority signed it");
    assert!(matches!(unknown, Error::Certificate(_)), "{unknown}");
    assert_eq!(bmc.state().logins, logins, "no password went to whom it was not meant for");
}
