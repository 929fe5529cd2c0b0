//! The boot interface, and what a firewall might do to boots.

use super::Finding;
use control::api::types::Status;
use control::interface;
use std::path::Path;
use std::process::{Command, Stdio};

pub fn examine(interface: Option<&str>, status: Option<&Status>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(name) = interface {
        // The interface of a virtual rack lives in its namespace.
        match (Path::new("/sys/class/net").join(name).exists(), status) {
            (false, Some(s)) if s.interface.as_deref() == Some(name) => {
                findings.push(Finding::good(
                    "interface",
                    format!("{name} is in the namespace of the running stoker, {}", s.address),
                ));
            }
            _ => findings.extend(of_interface(name)),
        }
    }
    findings.push(firewall());
    findings
}

fn of_interface(name: &str) -> Vec<Finding> {
    let folder = Path::new("/sys/class/net").join(name);
    let read =
        |file: &str| std::fs::read_to_string(folder.join(file)).map(|text| text.trim().to_owned()).unwrap_or_default();
    if !folder.exists() {
        let all = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let names: Vec<_> = all.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        return vec![Finding::bad(
            "interface",
            format!("there is no {name}"),
            format!("this host has: {}", names.join(", ")),
        )];
    }
    let mut findings = Vec::new();
    // `operstate` is `unknown` for interfaces that cannot tell (a tun, a loopback).
    findings.push(match (read("operstate").as_str(), read("carrier").as_str()) {
        ("up" | "unknown", _) | (_, "1") => Finding::good("interface", format!("{name} is up, MTU {}", read("mtu"))),
        ("down", "") => Finding::bad("interface", format!("{name} is switched off"), format!("ip link set {name} up")),
        (state, _) => Finding::bad(
            "interface",
            format!("{name} is {state}: no carrier"),
            "plug in the cable, or look at the switch port",
        ),
    });
    let addresses: Vec<_> = interface::all().unwrap_or_default().into_iter().filter(|a| a.interface == name).collect();
    findings.push(if addresses.iter().any(|a| a.ip.is_ipv4()) {
        let list: Vec<_> = addresses.iter().map(|a| format!("{}/{}", a.ip, a.prefix)).collect();
        Finding::good("address", list.join(" "))
    } else {
        Finding::bad(
            "address",
            format!("{name} has no IPv4 address"),
            format!("ip address add 192.168.77.1/24 dev {name}"),
        )
    });
    findings
}

/// Looks for input rules that drop by default. Only a hint: rules can do anything.
fn firewall() -> Finding {
    let nft = output("nft", &["list", "ruleset"]);
    let legacy = output("iptables-save", &[]);
    match (&nft, &legacy) {
        (None, None) => Finding::good("firewall", "neither nft nor iptables can be asked here"),
        _ if nft.as_deref().is_some_and(nft_drops) || legacy.as_deref().is_some_and(iptables_drops) => {
            let both = format!("{}{}", nft.unwrap_or_default(), legacy.unwrap_or_default());
            let named = ["67", "69"].iter().all(|port| mentions_port(&both, port));
            let remedy = "accept on the boot interface: udp 67, 69, 4011; tcp 8080, 8081; and all other udp, since TFTP answers on a new port each time (or serve TFTP in single-port mode)";
            if named {
                Finding::good("firewall", "drops by default, but has rules for ports 67 and 69")
            } else {
                Finding::look(
                    "firewall",
                    "drops incoming packets by default and has no rule for ports 67 and 69",
                    remedy,
                )
            }
        }
        _ => Finding::good("firewall", "accepts incoming packets by default"),
    }
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

fn nft_drops(rules: &str) -> bool {
    rules.lines().any(|line| line.contains("hook input") && line.contains("policy drop"))
}

fn iptables_drops(rules: &str) -> bool {
    rules.lines().any(|line| line.starts_with(":INPUT DROP"))
}

fn mentions_port(rules: &str, port: &str) -> bool {
    let dport = |line: &&str| line.contains("dport");
    rules.lines().filter(dport).any(|line| line.split(|c: char| !c.is_ascii_digit()).any(|word| word == port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_drop_is_seen_in_both_languages() {
        let nft = "table inet filter {\n chain input {\n  type filter hook input priority filter; policy drop;\n  udp dport { 67, 69 } accept\n }\n}\n";
        assert!(nft_drops(nft) && mentions_port(nft, "67") && mentions_port(nft, "69") && !mentions_port(nft, "6"));
        assert!(!nft_drops("chain input { type filter hook input priority 0; policy accept; }"));
        assert!(
            iptables_drops("*filter\n:INPUT DROP [0:0]\n")
                && !iptables_drops(":INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n")
        );
    }

    #[test]
    fn the_loopback_is_up_and_an_unknown_interface_is_not_there() {
        assert!(of_interface("lo").iter().any(|f| f.what == "interface" && f.verdict == super::super::Verdict::Good));
        let unknown = of_interface("nosuch0");
        assert!(unknown[0].remedy.contains("lo"), "{unknown:?}");
    }
}
