use super::check::settings;
use super::*;

fn check(text: &str) -> Result<Settings, Vec<Problem>> {
    settings(text, Path::new("/nowhere"), &Overrides::default())
}

/// `address` and `interface` of the loopback: what every host has.
const HERE: &str = "interface: lo\naddress: 127.0.0.1\n";

fn lines(text: &str) -> Vec<String> {
    check(text).expect_err("it was taken").iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_in_the_documentation_is_good_and_says_what_it_seems_to() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let text = std::fs::read_to_string(folder.join("stoker.yaml")).unwrap();
    let s = settings(&text, &folder, &Overrides::default()).unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!(s.environments.len(), 2);
    let talos = &s.environments["talos"].arches;
    assert_eq!(talos.keys().copied().collect::<Vec<_>>(), [Arch::X86_64, Arch::Arm64]);
    assert!(matches!(talos[&Arch::X86_64].kernel.digest, Some(Digest::Sha256(_))));
    assert_eq!(talos[&Arch::X86_64].initrd.size, Some(80_000_000));
    assert!(s.environments["rescue"].any_arch);
    assert_eq!(s.environments["rescue"].arches[&Arch::X86_64].args, ["console=tty0"]);
    assert_eq!(s.machines[1].goal, Goal::Disk);
    assert_eq!(s.rule(None, Some("52:54:00:12:34:56".parse().unwrap())).unwrap().name, "node-1");
    assert_eq!(s.bundle, Some(folder.join("../bundle")));
    assert_eq!(s.control_url(), "http://127.0.0.1:8081");
}

#[test]
fn defaults_are_those_that_the_example_documents() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let text = std::fs::read_to_string(folder.join("stoker.yaml")).unwrap();
    let example = settings(&text, &folder, &Overrides::default()).unwrap();
    let bare = check(HERE).unwrap();
    assert_eq!(bare.state, example.state);
    assert_eq!((bare.http_port, bare.edge_http_port), (example.http_port, example.edge_http_port));
    assert_eq!(bare.dhcp.mode, example.dhcp.mode);
    assert_eq!(bare.dhcp.files, example.dhcp.files);
    assert_eq!(bare.unknown_machines, example.unknown_machines);
    assert_eq!(bare.boot_from_disk_method, example.boot_from_disk_method);
    assert_eq!(bare.agent, example.agent);
    assert_eq!(bare.log_format, example.log_format);
}

/// Everything that is wrong with one file, in the order of its lines.
#[test]
fn every_problem_is_reported_at_once_with_its_line_and_a_remedy() {
    let text = "\
interface: lo
address: 127.0.0.1
http_port: 99999
edge_http_prt: 8080
log_format: xml
environments:
  Talos:
    kernel: file:///k
    initrd: file:///i
  slow:
    x86_64:
      kernel: {url: 'ftp://x/k', digest: 'sha256:zz'}
      args: [a=b, \"c d\"]
  empty: {}
default_environment: nosuch
unknown_machines: maybe
machines:
  - mac: 52:54:00:12:34:5g
    environment: talos
  - args: ['||']
  - mac: 52:54:00:00:00:01
    boot: environment
  - mac: 52-54-00-00-00-01
    boot: disk
    boot_from_disk_method: prayer
agent: [1]
";
    let expected = [
        "line 3: http_port: a whole number from 1 to 65535 belongs here; write such a number, without quotes",
        "line 4: edge_http_prt: this setting is not known; did you mean `edge_http_port`?",
        "line 5: log_format: `xml` is not valid: the formats are text and json; write text or json",
        "line 7: environments.Talos: `Talos` cannot be the name of an environment; use 1 to 63 lower-case letters, digits, `-` and `.`; agent-amd64 and agent-arm64 are taken",
        "line 12: environments.slow.x86_64.kernel.digest: `sha256:zz` is not valid: a digest is sha256: and 64, or sha512: and 128 hex digits; paste the output of sha256sum, with sha256: before it",
        "line 12: environments.slow.x86_64.kernel.url: `ftp://x/k` is not a URL that can be fetched; write http://host/path, https://host/path or file:///path",
        "line 12: environments.slow.x86_64.initrd: it is missing; add `initrd: {url: ..., digest: ...}`",
        "line 13: environments.slow.x86_64.args: `c d` contains white space, a control character or a character outside ASCII, which would end the argument or the script line; write one kernel argument per item",
        "line 14: environments.empty: this environment has nothing to boot; give `kernel:` and `initrd:`, or both of them under `x86_64:` and `arm64:`",
        "line 15: default_environment: there is no environment `nosuch`; defined are: empty, slow",
        "line 16: unknown_machines: `maybe` is not valid: the choices are agent, environment and disk; write agent, environment or disk",
        "line 18: machines[0].mac: `52:54:00:12:34:5g` is not valid: expected a MAC address such as 52:54:00:12:34:56; write it as 52:54:00:12:34:56",
        "line 19: machines[0].environment: there is no environment `talos`; defined are: empty, slow",
        "line 20: machines[1]: which machine this is for is not said; add `mac:` or `uuid:`",
        "line 20: machines[1].args: `||` is an operator or a comment to iPXE; write one kernel argument per item",
        "line 23: machines[3]: machines[2] is for the same machine; merge the two rules",
        "line 25: machines[3].boot_from_disk_method: `prayer` is not valid: the methods are auto, ipxe-exit, ipxe-sanboot and http-404; write auto, ipxe-exit, ipxe-sanboot or http-404",
        "line 26: agent: a mapping belongs here, this is a list; write `key: value` lines, indented",
    ];
    let mut found = lines(text);
    let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    // Several problems of one line may come in any order.
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "\nfound:\n{}", found.join("\n"));
}

#[test]
fn problems_come_in_the_order_of_their_lines() {
    let numbers: Vec<u64> =
        check(&format!("{HERE}nope: 1\nlog_format: xml\nhttp_port: x\n")).unwrap_err().iter().map(|p| p.line).collect();
    assert_eq!(numbers, [3, 4, 5]);
}

#[test]
fn what_is_not_yaml_is_refused_with_its_line() {
    for (text, line) in [("a: [1\nb: 2\n", true), ("a: 1\na: 2\n", true), ("state: \"x\n", true), ("- a\n", false)] {
        let problems = check(text).unwrap_err();
        assert!(!problems.is_empty() && (!line || problems[0].line > 0), "{text:?}: {problems:?}");
    }
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
        (0..9)
            .map(|i| format!(
                "{}: &{} [{}]\n",
                ["b", "c", "d", "e", "f", "g", "h", "i", "j"][i],
                ["b", "c", "d", "e", "f", "g", "h", "i", "j"][i],
                vec![format!("*{}", ["a", "b", "c", "d", "e", "f", "g", "h", "i"][i]); 9].join(",")
            ))
            .collect::<String>()
    );
    assert!(check(&bomb).is_err(), "aliases that multiply are refused, not expanded");
}

#[test]
fn a_dhcp_mistake_has_the_line_of_its_word() {
    let found = lines(&format!("{HERE}dhcp:\n  mode: proxy\n  filez: {{}}\n"));
    assert!(found[0].starts_with("line 5: dhcp: unknown field `filez`"), "{found:?}");
    let found = lines(&format!("{HERE}dhcp:\n  mode: server\n"));
    assert!(found[0].contains("no subnet"), "{found:?}");
    let flags = Overrides { dhcp_mode: Some("sometimes".into()), ..Overrides::default() };
    assert!(settings(HERE, Path::new("."), &flags).unwrap_err()[0].what.contains("sometimes"));
}

#[test]
fn flags_override_the_file() {
    let flags = Overrides {
        http_port: Some(9001),
        dhcp_mode: Some("off".into()),
        state: Some("/s".into()),
        ..Overrides::default()
    };
    let s = settings(&format!("{HERE}http_port: 9000\nstate: /t\n"), Path::new("."), &flags).unwrap();
    assert_eq!((s.http_port, s.state.to_str(), s.dhcp.mode), (9001, Some("/s"), dhcp::Mode::Off));
}

#[test]
fn the_address_comes_from_the_interface_and_an_unknown_one_is_named() {
    assert_eq!(check("interface: lo\ndhcp: {mode: 'off'}\n").unwrap().address, IpAddr::from([127, 0, 0, 1]));
    let found = lines("interface: nosuch0\n");
    assert!(
        found[0].starts_with("line 1: interface: there is no interface nosuch0") && found[0].contains("lo"),
        "{found:?}"
    );
    assert_eq!(check("address: 127.0.0.1\n").unwrap().interface.as_deref(), Some("lo"));
}

#[test]
fn numbers_and_booleans_are_what_they_look_like() {
    // YAML 1.1 would make 8 of 0o10 and false of `no`.
    let s = check(&format!("{HERE}environments:\n  a:\n    kernel: {{url: 'file:///k', size: 10}}\n    initrd: file:///i\n    args: [nomodeset, 'no', 1]\n")).unwrap();
    assert_eq!(s.environments["a"].arches[&Arch::X86_64].args, ["nomodeset", "no", "1"]);
}

#[test]
fn a_template_is_read_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("good.ipxe"), "#!ipxe\nexit\n").unwrap();
    std::fs::write(dir.path().join("bad.ipxe"), "#!ipxe\n{{ nosuch }}\n").unwrap();
    let with = |body: &str| settings(&format!("{HERE}templates:\n{body}"), dir.path(), &Overrides::default());
    assert_eq!(with("  disk: good.ipxe\n").unwrap().templates.disk.as_deref(), Some("#!ipxe\nexit\n"));
    let problems = with("  disk: bad.ipxe\n  boot: missing.ipxe\n").unwrap_err();
    assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [4, 5], "{problems:?}");
}

#[test]
fn digests_are_told_by_their_length() {
    let (a, b) = ("A".repeat(64), "b".repeat(128));
    assert_eq!(a.parse(), Ok(Digest::Sha256("a".repeat(64))));
    assert_eq!(format!("sha512:{b}").parse(), Ok(Digest::Sha512(b.clone())));
    for bad in [format!("sha256:{b}"), "sha1:00".into(), "x".repeat(64), String::new()] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
}
