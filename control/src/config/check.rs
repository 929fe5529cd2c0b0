//! From the text of `stoker.yaml` to [`Settings`], collecting every problem.

use super::node::{self, Kind, Node, Section, shorten};
use super::{
    AgentSettings, AssetSource, DEFAULT_EDGE_HTTP_PORT, DEFAULT_HTTP_PORT, DEFAULT_STATE, Environment, EnvironmentArch,
    Goal, MachineRule, Overrides, Problem, Settings, StoreChoice, Templates,
};
use crate::resource::OWN_ENVIRONMENTS;
use crate::{dhcp, interface, limits};
use protocol::id::Arch;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Checks a whole file. Relative paths in it count from `folder`.
pub(super) fn settings(text: &str, folder: &Path, flags: &Overrides) -> Result<Settings, Vec<Problem>> {
    let root = node::parse(text).map_err(|p| vec![p])?;
    let mut problems = Vec::new();
    let mut top = Section::new(root, "", &mut problems);

    let state = flags.state.clone().or(top.text("state").map(PathBuf::from)).unwrap_or_else(|| DEFAULT_STATE.into());
    let line_of_interface = line_of(&top, "interface");
    let named = flags.interface.clone().or(top.text("interface"));
    let address: Option<IpAddr> = top.parsed("address", "write an IPv4 or IPv6 address of this host");
    let (interface, address) = whereabouts(&mut top, line_of_interface, named, flags.address.or(address));
    let http_port = flags.http_port.or(port(&mut top, "http_port")).unwrap_or(DEFAULT_HTTP_PORT);
    let edge_http_port = flags.edge_http_port.or(port(&mut top, "edge_http_port")).unwrap_or(DEFAULT_EDGE_HTTP_PORT);
    let api_listen = flags.api_listen.or(top.parsed("api_listen", "write an address and port, such as 127.0.0.1:8082"));
    let log_format = flags.log_format.or(top.parsed("log_format", "write text or json")).unwrap_or_default();
    let store = store(&mut top, folder, flags);
    let scope = crate::provider::Scope {
        namespace: flags.watch_namespace.clone().or(top.text("watch_namespace")),
        watch_filter: flags.watch_filter.clone().or(top.text("watch_filter")),
    };
    if http_port == edge_http_port {
        top.complain(0, "http_port", "control and the edge cannot share one TCP port", "choose two different ports");
    }
    let dhcp_node = top.take("dhcp");
    let dhcp = dhcp_settings(&mut top, dhcp_node, flags);
    if dhcp.mode != dhcp::Mode::Off
        && (interface.is_none() || address.is_some_and(|a| a.is_ipv6()))
        && address.is_some()
    {
        let remedy = "give --interface and an IPv4 --address, or write `dhcp: {mode: off}`";
        top.complain(0, "dhcp", "DHCP is for IPv4 on an interface of this host", remedy);
    }
    let bundle = flags.bundle.clone().or(top.text("bundle").map(|dir| folder.join(dir)));
    let environments = environments(&mut top);
    let default_line = line_of(&top, "default_environment");
    let default_environment = top.text("default_environment");
    if let Some(name) = &default_environment {
        known_environment(&mut top, default_line, "default_environment", name, &environments);
    }
    let unknown_line = line_of(&top, "unknown_machines");
    let unknown_machines: Goal = top.parsed("unknown_machines", "write agent, environment or disk").unwrap_or_default();
    if unknown_machines == Goal::Environment && default_environment.is_none() {
        let remedy = "name one with `default_environment`, or write `unknown_machines: agent`";
        top.complain(unknown_line, "unknown_machines", "there is no default environment to send them to", remedy);
    }
    let boot_from_disk_method =
        top.parsed("boot_from_disk_method", "write auto, ipxe-exit, ipxe-sanboot or http-404").unwrap_or_default();
    let config_access = top.parsed("config_access", "write token or open").unwrap_or_default();
    let machines = machines(&mut top, &environments, default_environment.is_some());
    let templates = templates(&mut top, folder);
    let agent = agent(&mut top);
    top.finish();

    match address {
        Some(address) if problems.is_empty() => Ok(Settings {
            state,
            interface,
            address,
            http_port,
            edge_http_port,
            api_listen,
            log_format,
            store,
            scope,
            dhcp,
            bundle,
            environments,
            default_environment,
            unknown_machines,
            boot_from_disk_method,
            config_access,
            machines,
            templates,
            agent,
        }),
        _ => {
            problems.sort_by_key(|p| p.line);
            Err(problems)
        }
    }
}

/// Where declared objects are kept.
fn store(top: &mut Section<'_>, folder: &Path, flags: &Overrides) -> StoreChoice {
    let line = line_of(top, "store");
    let chosen = flags.store.clone().or(top.text("store")).unwrap_or_else(|| "embedded".to_owned());
    let kubeconfig = flags.kubeconfig.clone().or(top.text("kubeconfig").map(|file| folder.join(file)));
    let namespace = flags.namespace.clone().or(top.text("namespace"));
    match chosen.as_str() {
        "kubernetes" => {
            let namespace = namespace.unwrap_or_else(|| crate::resource::marks::NAMESPACE.to_owned());
            StoreChoice::Kubernetes { kubeconfig, namespace }
        }
        "embedded" => {
            if kubeconfig.is_some() || namespace.is_some() {
                let what = "kubeconfig and namespace mean nothing to the embedded store";
                top.complain(line, "store", what, "write `store: kubernetes`, or leave them out");
            }
            StoreChoice::Embedded
        }
        other => {
            let what = format!("there is no store {}", shorten(other));
            top.complain(line, "store", what, "write embedded or kubernetes");
            StoreChoice::Embedded
        }
    }
}

fn line_of(section: &Section<'_>, key: &str) -> u64 {
    section.line_of_key(key)
}

fn port(top: &mut Section<'_>, key: &'static str) -> Option<u16> {
    top.number(key, 1..=65535).and_then(|n| u16::try_from(n).ok())
}

/// Completes interface and address from one another and from the host.
fn whereabouts(
    top: &mut Section<'_>,
    line: u64,
    named: Option<String>,
    address: Option<IpAddr>,
) -> (Option<String>, Option<IpAddr>) {
    let all = match interface::all() {
        Ok(all) => all,
        Err(e) => {
            if address.is_none() {
                let what = format!("the addresses of this host cannot be listed: {e}");
                top.complain(line, "address", what, "write the address of this host that machines use");
            }
            return (named, address);
        }
    };
    match (&named, address) {
        (Some(name), None) => {
            if let Some(found) = interface::best(&all, name) {
                return (named, Some(found));
            }
            let mut names: Vec<_> = all.iter().map(|a| a.interface.as_str()).collect();
            names.dedup();
            let (what, remedy) = if names.contains(&name.as_str()) {
                let what = format!("interface {} has no address", shorten(name));
                (what, format!("give it one (ip address add 192.168.77.1/24 dev {})", shorten(name)))
            } else {
                let what = format!("there is no interface {} with an address", shorten(name));
                (what, format!("this host has: {}", names.join(", ")))
            };
            top.complain(line, "interface", what, remedy);
            (named, None)
        }
        (None, Some(address)) => {
            let name = all.iter().find(|a| a.ip == address).map(|a| a.interface.clone());
            (name, Some(address))
        }
        (Some(_), Some(_)) => (named, address),
        (None, None) => match interface::only(&all) {
            Some(found) => (Some(found.interface.clone()), Some(found.ip)),
            None => {
                let names: BTreeSet<_> = all.iter().map(|a| a.interface.as_str()).collect();
                let names = names.into_iter().collect::<Vec<_>>().join(", ");
                let remedy = format!("name one with `interface:` or --interface; this host has: {names}");
                top.complain(0, "interface", "which interface machines boot on is not clear", remedy);
                (None, None)
            }
        },
    }
}

/// The DHCP section is read by its own module; a complaint of serde is tied to
/// the line of the word it complains about.
fn dhcp_settings(top: &mut Section<'_>, node: Option<Node>, flags: &Overrides) -> dhcp::settings::Settings {
    let line = node.as_ref().map_or(0, |n| n.line);
    let mut json = node.as_ref().map_or_else(|| serde_json::json!({}), Node::to_json);
    if let (Some(mode), Some(map)) = (&flags.dhcp_mode, json.as_object_mut()) {
        map.insert("mode".into(), serde_json::Value::String(mode.clone()));
    }
    match serde_json::from_value::<dhcp::settings::Settings>(json) {
        Ok(settings) => {
            for (word, what, remedy) in settings.check() {
                let line = node.as_ref().and_then(|n| n.line_of(&[word.as_str()])).unwrap_or(line);
                top.complain(line, &format!("dhcp.{word}"), what, remedy);
            }
            settings
        }
        Err(e) => {
            let text = e.to_string();
            let words: Vec<&str> = text.split(['`', '"']).skip(1).step_by(2).take(1).collect();
            let line = node.as_ref().and_then(|n| n.line_of(&words)).unwrap_or(line);
            top.complain(line, "dhcp", text, "see the DHCP section of docs/stoker.yaml");
            dhcp::settings::Settings::default()
        }
    }
}

fn environments(top: &mut Section<'_>) -> BTreeMap<String, Environment> {
    let Some(node) = top.take("environments") else { return BTreeMap::new() };
    let mut all = Section::new(node, top.path("environments"), top.problems);
    let mut found = BTreeMap::new();
    for (name, line, body) in all.take_all() {
        if !is_name(&name) || OWN_ENVIRONMENTS.contains(&name.as_str()) {
            let what = format!("`{}` cannot be the name of an environment", shorten(&name));
            let remedy = "use 1 to 63 lower-case letters, digits, `-` and `.`; agent-amd64 and agent-arm64 are taken";
            all.complain(line, &shorten(&name), what, remedy);
            continue;
        }
        if found.len() >= limits::ENVIRONMENTS {
            all.complain(line, &name, format!("more than {} environments", limits::ENVIRONMENTS), "remove some");
            break;
        }
        let at = all.path(&name);
        let environment = environment(Section::new(body, at, all.problems));
        found.insert(name, environment);
    }
    found
}

fn environment(mut s: Section<'_>) -> Environment {
    let mut environment = Environment::default();
    if s.has("kernel") || s.has("initrd") {
        // Sidero's form: one set of files, the kernel's arguments beside its URL.
        environment.any_arch = !s.has("arch");
        let arch = s.parsed("arch", "write x86_64 or arm64").unwrap_or(Arch::X86_64);
        if let Some(files) = files(&mut s) {
            environment.arches.insert(arch, files);
        }
    } else {
        let mut named = false;
        for (arch, key) in [(Arch::X86_64, "x86_64"), (Arch::Arm64, "arm64")] {
            let Some(body) = s.take(key) else { continue };
            named = true;
            let mut section = Section::new(body, s.path(key), s.problems);
            if let Some(files) = files(&mut section) {
                environment.arches.insert(arch, files);
            }
            section.finish();
        }
        if !named {
            let line = s.line;
            let remedy = "give `kernel:` and `initrd:`, or both of them under `x86_64:` and `arm64:`";
            s.complain(line, "", "this environment has nothing to boot", remedy);
        }
    }
    s.finish();
    environment
}

fn files(s: &mut Section<'_>) -> Option<EnvironmentArch> {
    let mut args = args(s, "args");
    let kernel = asset(s, "kernel", Some(&mut args));
    let initrd = asset(s, "initrd", None);
    Some(EnvironmentArch { kernel: kernel?, initrd: initrd?, args })
}

fn asset(s: &mut Section<'_>, key: &'static str, kernel_args: Option<&mut Vec<String>>) -> Option<AssetSource> {
    let Some(node) = s.take(key) else {
        let line = s.line;
        s.complain(line, key, "it is missing", format!("add `{key}: {{url: ..., digest: ...}}`"));
        return None;
    };
    if let Kind::Text(url) = &node.kind {
        let (line, at) = (node.line, s.path(key));
        check_url(s.problems, line, at, url)?;
        return Some(AssetSource { url: url.clone(), digest: None, size: None });
    }
    let line = node.line;
    let mut a = Section::new(node, s.path(key), s.problems);
    let url_line = line_of(&a, "url");
    let url = a.text("url");
    let digest = a.parsed("digest", "paste the output of sha256sum, with sha256: before it");
    let sha512 = a.parsed("sha512", "paste the output of sha512sum");
    let size = a.number("size", 1..=limits::ASSET_BYTES);
    if let Some(into) = kernel_args {
        into.extend(args(&mut a, "args"));
    }
    let url = match url {
        Some(url) => check_url(a.problems, url_line, format!("{}.url", a.at), &url).map(|()| url),
        None => {
            a.complain(line, "url", "it is missing", "write where the file is: http://, https:// or file:///");
            None
        }
    };
    a.finish();
    Some(AssetSource { url: url?, digest: digest.or(sha512), size })
}

fn check_url(problems: &mut Vec<Problem>, line: u64, at: String, url: &str) -> Option<()> {
    let plain = url.len() <= limits::URL_BYTES && url.bytes().all(|c| c.is_ascii_graphic());
    let known = url.starts_with("file:///")
        || reqwest::Url::parse(url).is_ok_and(|u| u.has_host() && u.scheme().starts_with("http"));
    if plain && known {
        return Some(());
    }
    problems.push(Problem {
        line,
        at,
        what: format!("`{}` is not a URL that can be fetched", shorten(url)),
        remedy: "write http://host/path, https://host/path or file:///path".into(),
    });
    None
}

/// Kernel arguments. They end up as words of an iPXE line and of a kernel's
/// command line; what would end the line or begin another command is refused.
fn args(s: &mut Section<'_>, key: &'static str) -> Vec<String> {
    let line = line_of(s, key);
    let args = s.texts(key).unwrap_or_default();
    for arg in &args {
        if let Err(why) = crate::metadata::words::check_arg(arg) {
            s.complain(line, key, format!("`{}` {why}", shorten(arg)), "write one kernel argument per item");
        }
    }
    let bytes: usize = args.iter().map(|a| a.len() + 1).sum();
    if bytes > limits::ARGS_BYTES {
        let what = format!("{bytes} bytes of arguments; a kernel's whole command line has room for 2048 or 4096");
        s.complain(line, key, what, format!("keep them under {} bytes", limits::ARGS_BYTES));
    }
    args
}

fn known_environment(
    s: &mut Section<'_>,
    line: u64,
    key: &str,
    name: &str,
    environments: &BTreeMap<String, Environment>,
) {
    if !environments.contains_key(name) {
        let names = environments.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let remedy =
            if names.is_empty() { "define it under `environments:`".into() } else { format!("defined are: {names}") };
        s.complain(line, key, format!("there is no environment `{}`", shorten(name)), remedy);
    }
}

fn machines(top: &mut Section<'_>, known: &BTreeMap<String, Environment>, have_default: bool) -> Vec<MachineRule> {
    let mut rules: Vec<MachineRule> = Vec::new();
    for (i, node) in top.list("machines").into_iter().enumerate() {
        let (line, at) = (node.line, format!("machines[{i}]"));
        if i >= limits::MACHINE_RULES {
            top.complain(line, "machines", format!("more than {} rules", limits::MACHINE_RULES), "remove some");
            break;
        }
        let mut s = Section::new(node, at, top.problems);
        let mut rule = MachineRule {
            name: s.text("name").unwrap_or_default(),
            mac: s.parsed("mac", "write it as 52:54:00:12:34:56"),
            uuid: s.parsed("uuid", "write the SMBIOS UUID, such as `cat /sys/class/dmi/id/product_uuid` prints it"),
            ..MachineRule::default()
        };
        if rule.mac.is_none()
            && rule.uuid.is_none()
            && !s.problems.iter().any(|p| p.line >= line && p.at.starts_with(&s.at))
        {
            s.complain(line, "", "which machine this is for is not said", "add `mac:` or `uuid:`");
        }
        let environment_line = line_of(&s, "environment");
        rule.environment = s.text("environment");
        if let Some(name) = &rule.environment {
            known_environment(&mut s, environment_line, "environment", name, known);
        }
        let boot_line = line_of(&s, "boot");
        let goal: Option<Goal> = s.parsed("boot", "write agent, environment or disk");
        rule.goal = goal.unwrap_or(if rule.environment.is_some() { Goal::Environment } else { Goal::Agent });
        if rule.goal == Goal::Environment && rule.environment.is_none() && !have_default {
            let remedy = "name it with `environment:`, or set `default_environment`";
            s.complain(boot_line, "boot", "there is no environment to boot it into", remedy);
        }
        rule.args = args(&mut s, "args");
        rule.boot_from_disk_method =
            s.parsed("boot_from_disk_method", "write auto, ipxe-exit, ipxe-sanboot or http-404");
        if let Some(twin) = rules
            .iter()
            .position(|r| (rule.mac.is_some() && r.mac == rule.mac) || (rule.uuid.is_some() && r.uuid == rule.uuid))
        {
            s.complain(line, "", format!("machines[{twin}] is for the same machine"), "merge the two rules");
        }
        s.finish();
        rules.push(rule);
    }
    rules
}

fn templates(top: &mut Section<'_>, folder: &Path) -> Templates {
    let Some(node) = top.take("templates") else { return Templates::default() };
    let mut s = Section::new(node, top.path("templates"), top.problems);
    let mut read = |key: &'static str| {
        let line = line_of(&s, key);
        let path = folder.join(s.text(key)?);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) => {
                s.complain(line, key, format!("{} cannot be read: {e}", path.display()), "give a readable file");
                return None;
            }
        };
        if let Err(why) = crate::metadata::script::check_template(&text) {
            s.complain(line, key, format!("{}: {why}", path.display()), "correct the template");
        }
        Some(text)
    };
    let templates = Templates { boot: read("boot"), environment: read("environment"), disk: read("disk") };
    s.finish();
    templates
}

fn agent(top: &mut Section<'_>) -> AgentSettings {
    let node = top.take("agent").unwrap_or(Node { line: 0, kind: Kind::Null });
    let mut s = Section::new(node, top.path("agent"), top.problems);
    let extra_args = args(&mut s, "extra_args");
    let poll_seconds = s.number("poll_seconds", 1..=300).and_then(|n| u32::try_from(n).ok()).unwrap_or(5);
    let auto_bmc_setup = s.flag("auto_bmc_setup").unwrap_or(true);
    let most = u64::try_from(crate::limits::MACHINES).unwrap_or(u64::MAX);
    let wipes = s.number("wipes_per_minute", 1..=most).and_then(|n| usize::try_from(n).ok());
    let wipes_per_minute = wipes.unwrap_or(crate::limits::WIPES_PER_MINUTE);
    s.finish();
    AgentSettings { extra_args, poll_seconds, auto_bmc_setup, wipes_per_minute }
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.'))
        && !name.starts_with(['.', '-'])
}
