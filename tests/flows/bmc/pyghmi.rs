//! Our IPMI client against pyghmi's server (Debian package python3-pyghmi), which a fixture has taught
//! cipher suite 17: the one independent implementation of it.

use control::power::{BootDevice, Client, Error, Power, Session as _};
use protocol::ipmi::{Config, Error as SessionError, Privilege, Suite};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

struct Pyghmi {
    child: Child,
    address: SocketAddr,
    told: Receiver<String>,
}

impl Drop for Pyghmi {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pyghmi {
    fn start() -> Self {
        let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/pyghmi_bmc.py");
        // Debian's Python, which has Debian's packages; it ends by itself should this test be killed.
        let mut child = Command::new("/usr/bin/python3")
            .args([script, &address.port().to_string(), "600"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 starts (Debian package python3-pyghmi)");
        let (tell, told) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let pyghmi = Self { child, address, told };
        assert_eq!(pyghmi.next(), "ready", "Debian package python3-pyghmi");
        pyghmi
    }

    fn next(&self) -> String {
        self.told.recv_timeout(Duration::from_secs(60)).expect("it tells what is done to its machine")
    }
}

fn config(suite: Option<Suite>) -> Config {
    Config {
        user: b"admin".to_vec(),
        password: b"s3cret".to_vec(),
        kg: None,
        privilege: Privilege::Operator,
        suite,
        allow_suite_3: true,
    }
}

#[tokio::test]
async fn power_and_boot_flags_in_both_suites() {
    let bmc = Pyghmi::start();
    for suite in [Suite::S17, Suite::S3] {
        let mut client =
            Client::open(bmc.address, config(Some(suite))).await.unwrap_or_else(|e| panic!("{suite:?}: {e}"));
        assert_eq!(client.info().await.unwrap().speaks, "IPMI 2.0");
        assert!(client.power(Power::On).await.unwrap().on);
        assert_eq!(bmc.next(), "on");
        let kept = client.set_boot(BootDevice::Pxe, true, true).await.unwrap();
        assert!(kept.valid && kept.efi && kept.persistent);
        assert_eq!(bmc.next(), "boot e004000000");
        client.power(Power::Reset).await.unwrap();
        assert_eq!(bmc.next(), "reset");
        assert!(!client.power(Power::Off).await.unwrap().on);
        assert_eq!(bmc.next(), "off");
        client.close().await;
        assert_eq!(bmc.next(), "closed");
    }
}

#[tokio::test]
async fn a_wrong_password_is_known_before_it_is_sent() {
    let bmc = Pyghmi::start();
    for suite in [Suite::S17, Suite::S3] {
        let wrong = Config { password: b"guess".to_vec(), ..config(Some(suite)) };
        let refused = Client::open(bmc.address, wrong).await;
        assert!(matches!(refused, Err(Error::Session(SessionError::BadPassword))), "{suite:?}");
    }
    // It lists suite 3 alone, and that is what is spoken then.
    Client::open(bmc.address, config(None)).await.unwrap().close().await;
}
