//! Power over IPMI: our client and `ipmitool` (Debian package) against a BMC of
//! our own that speaks suites 3 and 17, with the faults of real ones.

use control::power::{BootDevice, Client, Error, Power, Session as _};
use control::rack::bmc::{Bmc, Faults, PASSWORD, Switch, USER};
use protocol::ipmi::{Config, Error as SessionError, Privilege, Suite};
use std::process::Command;
use std::time::{Duration, Instant};

const BOTH: [Suite; 2] = [Suite::S3, Suite::S17];

fn config() -> Config {
    Config {
        user: USER.into(),
        password: PASSWORD.into(),
        kg: None,
        privilege: Privilege::Operator,
        suite: None,
        allow_suite_3: true,
    }
}

async fn open(bmc: &Bmc) -> Result<Client, Error> {
    Client::open(bmc.address, config()).await
}

#[tokio::test]
async fn suite_17_is_chosen_and_flags_keep_efi_and_persistence() {
    let machine = Switch::default();
    let bmc = Bmc::start(&BOTH, 4, machine.clone());
    let mut client = open(&bmc).await.unwrap();
    client.power(Power::On).await.unwrap();
    let flags = client.set_boot(BootDevice::Pxe, true, false).await.unwrap();
    assert!(flags.valid && flags.efi && !flags.persistent);
    let flags = client.set_boot(BootDevice::Disk, false, true).await.unwrap();
    assert!(flags.valid && !flags.efi && flags.persistent);
    client.power(Power::Reset).await.unwrap();
    client.close().await;
    assert_eq!(machine.done(), ["on", "boot Network once", "boot Disk always", "reset"]);
    assert_eq!(bmc.state().open, 0, "the session is given back");
}

#[tokio::test]
async fn a_bmc_with_one_suite_only_is_spoken_to_in_that() {
    for suite in BOTH {
        let bmc = Bmc::start(&[suite], 1, Switch::default());
        open(&bmc).await.unwrap_or_else(|e| panic!("{suite:?}: {e}")).close().await;
    }
    let bmc = Bmc::start(&[Suite::S3], 1, Switch::default());
    bmc.faults(Faults { hides_suites: true, ..Faults::default() });
    open(&bmc).await.expect("a BMC that does not list its suites gets suite 3").close().await;
}

#[test]
fn ipmitool_agrees_with_the_simulator_in_both_suites() {
    for suite in BOTH {
        let machine = Switch::default();
        let bmc = Bmc::start(&BOTH, 4, machine.clone());
        let ipmitool = |words: &[&str]| {
            let out = Command::new("ipmitool")
                .args(["-I", "lanplus", "-H", "127.0.0.1", "-U", USER, "-E", "-L", "OPERATOR"])
                .args(["-p", &bmc.address.port().to_string(), "-C", &suite.number().to_string()])
                .args(words)
                .env("IPMI_PASSWORD", PASSWORD)
                .output()
                .expect("ipmitool runs (Debian package ipmitool)");
            assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        assert!(ipmitool(&["power", "status"]).contains("is off"));
        ipmitool(&["power", "on"]);
        ipmitool(&["chassis", "bootdev", "pxe", "options=efiboot"]);
        assert!(ipmitool(&["power", "status"]).contains("is on"));
        assert!(ipmitool(&["chassis", "bootparam", "get", "5"]).contains("Force PXE"));
        assert_eq!(machine.done(), ["on", "boot Network once"]);
    }
}

#[tokio::test]
async fn f22_a_bmc_that_lies_is_found_out_by_reading_back() {
    let bmc = Bmc::start(&BOTH, 4, Switch::default());
    let mut client = open(&bmc).await.unwrap();
    bmc.faults(Faults { ignores_boot: true, ..Faults::default() });
    assert!(matches!(client.set_boot(BootDevice::Pxe, true, false).await, Err(Error::BootNotKept(_))));
    bmc.faults(Faults { ignores_power: true, ..Faults::default() });
    assert!(matches!(client.power(Power::On).await, Err(Error::PowerNotReached(false))));
    client.close().await;
}

#[tokio::test]
async fn f23_a_reply_that_is_lost_does_not_do_the_thing_twice() {
    let machine = Switch::default();
    let bmc = Bmc::start(&BOTH, 4, machine.clone());
    let mut client = open(&bmc).await.unwrap();
    client.power(Power::On).await.unwrap();
    // Longer than our first wait: every request is sent twice, the answers come late.
    bmc.faults(Faults { delay: Duration::from_millis(700), ..Faults::default() });
    client.power(Power::Reset).await.unwrap();
    bmc.faults(Faults::default());
    assert!(client.status().await.unwrap().on);
    assert_eq!(machine.done(), ["on", "reset"]);
    client.close().await;
}

#[tokio::test]
async fn a_bmc_without_a_free_session_says_so() {
    let bmc = Bmc::start(&BOTH, 1, Switch::default());
    let first = open(&bmc).await.unwrap();
    assert!(matches!(open(&bmc).await, Err(Error::Session(SessionError::Refused(_, 0x01)))));
    first.close().await;
    open(&bmc).await.expect("the session is free again").close().await;
}

#[tokio::test]
async fn f20_a_silent_bmc_is_given_up_and_a_lossy_one_is_not() {
    let bmc = Bmc::start(&BOTH, 1, Switch::default());
    bmc.faults(Faults { drop_first: 2, ..Faults::default() });
    open(&bmc).await.expect("two lost packets are sent again").close().await;
    bmc.faults(Faults { silent: true, ..Faults::default() });
    let begun = Instant::now();
    let refused = Client::open(bmc.address, Config { suite: Some(Suite::S17), ..config() }).await;
    assert!(matches!(refused, Err(Error::Session(SessionError::Silent))));
    assert!(begun.elapsed() < Duration::from_secs(30));
}
