//! Our simulator, asked by clients that are not ours.

use super::pool::redfish;
use control::rack::bmc::{Bmc, PASSWORD, Switch, USER};
use protocol::ipmi::Suite;
use serde_json::Value;
use std::process::Command;

#[test]
fn ipmitool_reads_log_and_sensor() {
    let bmc = Bmc::start(&[Suite::S17, Suite::S3], 4, Switch::default());
    bmc.state().events = vec![0x6000_0000, 0x6000_0001];
    let ipmitool = |words: &[&str]| {
        let out = Command::new("ipmitool")
            .args(["-I", "lanplus", "-H", "127.0.0.1", "-U", USER, "-E", "-L", "OPERATOR", "-C", "17"])
            .args(["-p", &bmc.address.port().to_string()])
            .args(words)
            .env("IPMI_PASSWORD", PASSWORD)
            .output()
            .expect("ipmitool runs (Debian package ipmitool)");
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let log = ipmitool(&["sel", "list"]);
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(log.contains("Temperature") && log.contains("Upper Critical going high"), "{log}");
    let sensors = ipmitool(&["sdr", "list"]);
    assert!(sensors.contains("Inlet") && sensors.contains("35 degrees C"), "{sensors}");
    ipmitool(&["sel", "clear"]);
    assert!(bmc.state().events.is_empty());
}

#[test]
fn curl_walks_the_redfish_side() {
    let machine = Switch::default();
    let (_bmc, address) = redfish(4, &machine);
    let curl = |args: &[&str], path: &str| {
        let out = Command::new("curl")
            .args(["-s", "-m", "20", "-w", "\n%{http_code}", "-H", "content-type: application/json"])
            .args(args)
            .arg(format!("http://{address}{path}"))
            .output()
            .expect("curl runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').expect("a status");
        (code.parse::<u16>().unwrap(), serde_json::from_str::<Value>(body).unwrap_or(Value::Null))
    };
    let (code, root) = curl(&[], "/redfish/v1/");
    assert_eq!((code, root["RedfishVersion"].as_str()), (200, Some("1.15.0")));
    assert_eq!(curl(&[], "/redfish/v1/Systems/1").0, 401);
    let login = format!("{USER}:{PASSWORD}");
    let (code, system) = curl(&["-u", &login], "/redfish/v1/Systems/1");
    assert_eq!((code, system["PowerState"].as_str()), (200, Some("Off")));
    let boot = r#"{"Boot":{"BootSourceOverrideTarget":"Pxe","BootSourceOverrideEnabled":"Once"}}"#;
    assert_eq!(curl(&["-u", &login, "-X", "PATCH", "-d", boot], "/redfish/v1/Systems/1").0, 204);
    let reset = system["Actions"]["#ComputerSystem.Reset"]["target"].as_str().unwrap();
    assert_eq!(curl(&["-u", &login, "-d", r#"{"ResetType":"Nmi"}"#], reset).0, 400);
    assert_eq!(curl(&["-u", &login, "-d", r#"{"ResetType":"On"}"#], reset).0, 204);
    assert_eq!(machine.done(), ["boot Network once", "on"]);
}
