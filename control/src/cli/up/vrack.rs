//! The virtual rack of `stoker up`: its network before the services start, its machines after.

use super::DhcpMode;
use crate::api::Api;
use crate::boots::View;
use crate::state::Claim;
use crate::{Failure, table};
use base64::Engine as _;
use control::api::objects::Applied;
use control::api::types::PowerOn;
use control::power::IPMI_PORT;
use control::rack::accel::Verdict;
use control::rack::bmc::{Action, Bmc, Boot, Device};
use control::rack::firmware::parse_rack;
use control::rack::network::{ADDRESS, FIRST_BMC, FOREIGN, POOL, PREFIX};
use control::rack::{Firmware, First, Images, Network, Powered, Spec, accel};
use hyper::Method;
use protocol::ipmi::Suite;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A rack: the network, the machines on it, and a BMC for each.
pub struct VirtualRack {
    /// Before `machines`: a BMC must not answer for a machine that is gone.
    bmcs: Vec<Bmc>,
    machines: Vec<Powered>,
    /// Which machines were on when they were last looked at.
    on: Vec<bool>,
    /// The namespace in which the services run, too. After `machines`: those go first.
    pub network: Network,
    specs: Vec<Spec>,
    images: Images,
    verdict: Verdict,
    folder: PathBuf,
}

/// The user of the rack's BMCs.
const USER: &str = "stoker";
/// The name of their Secret.
const SECRET: &str = "virtual-rack-bmc";
/// Sessions that such a BMC has, as few as small ones do.
const SESSIONS: usize = 4;
/// How long QEMU may take to start a machine.
const POWER_ON: Duration = Duration::from_secs(30);

impl VirtualRack {
    /// Makes the network and decides how machines will run; nothing is powered on yet.
    pub fn build(text: &str, memory_mib: u32, claim: &Claim, bundle: Option<&Path>) -> Result<Self, Failure> {
        let kinds = parse_rack(text).map_err(|e| Failure::Usage(e.to_string()))?;
        for left in Network::sweep() {
            table::line(&format!("removed    {left}, which a killed run had left behind"));
        }
        let images = Images::new(bundle);
        for kind in &kinds {
            // Before anything runs: firmware that is missing will not appear later.
            if kind.is_uefi() {
                images.flash(*kind).map_err(Failure::from_error)?;
            }
        }
        let verdict = accel::decide(&images);
        table::line(&format!("machines   {verdict}"));
        let network = Network::create().map_err(Failure::from_error)?;
        table::line(&format!("network    namespace {}, bridge br0 {ADDRESS}/{PREFIX}", network.name()));
        let folder = claim.dir().join("rack");
        let specs = specs(&kinds, memory_mib);
        let (bmcs, machines, on) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { bmcs, machines, on, network, specs, images, verdict, folder })
    }

    /// The configuration for control: the operator's, completed by DHCP for
    /// the rack's network where it says nothing about it. In proxy mode the
    /// network also gets a DHCP server that is not ours.
    pub fn configure(&mut self, own: Option<&Path>, mode: Option<DhcpMode>, claim: &Claim) -> Result<PathBuf, Failure> {
        let mut text = match own {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?
            }
            None => String::new(),
        };
        if !text.lines().any(|line| line.starts_with("dhcp:")) {
            // At the end, so that lines named in complaints are those of the operator's file.
            text.push_str(&dhcp_section());
        }
        let path = claim.dir().join("run/rack.yaml");
        std::fs::write(&path, text).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
        if mode == Some(DhcpMode::Proxy) {
            self.network.start_foreign_dhcp(&claim.dir().join("run")).map_err(Failure::from_error)?;
            table::line(&format!(
                "network    dnsmasq at {FOREIGN} gives the addresses, as the server that was there before"
            ));
        }
        Ok(path)
    }

    /// Gives every machine its BMC, and tells stoker of them as an operator would: with objects,
    /// which stay in `rack/servers.yaml` to be looked at.
    pub async fn introduce(&mut self, api: &Api) -> Result<(), Failure> {
        let failed = |what: &Path, e: std::io::Error| Failure::Failed(format!("{}: {e}", what.display()));
        std::fs::create_dir_all(&self.folder).map_err(|e| failed(&self.folder, e))?;
        let password = password()?;
        let file = self.folder.join("bmc-password");
        write_secret(&file, &format!("{password}\n")).map_err(|e| failed(&file, e))?;
        for (i, spec) in self.specs.iter().enumerate() {
            let at = SocketAddrV4::new(bmc_address(i), IPMI_PORT);
            let socket = self.network.udp_socket(at).map_err(Failure::from_error)?;
            let _ = std::fs::remove_file(self.folder.join(&spec.name).join("console.log"));
            let machine = Powered::new(spec.clone(), &self.network, &self.images, self.verdict.accel, &self.folder);
            let mut bmc = Bmc::new(USER, &password, machine.switchboard());
            bmc.serve_ipmi(socket, &[Suite::S3, Suite::S17], SESSIONS).map_err(Failure::from_error)?;
            self.machines.push(machine);
            self.bmcs.push(bmc);
            self.on.push(false);
        }
        let objects = objects(&self.specs, &password);
        let documents: Result<Vec<_>, _> = objects.iter().map(serde_saphyr::to_string).collect();
        let text = format!(
            "# What an operator tells stoker of machines: where their BMCs are. `stoker up` has applied it.\n{}",
            documents.map_err(Failure::from_error)?.join("---\n")
        );
        let file = self.folder.join("servers.yaml");
        write_secret(&file, &text).map_err(|e| failed(&file, e))?;
        for object in &objects {
            api.call::<Applied>(Method::POST, "/api/v1/objects", Some(object)).await?;
        }
        table::line(&format!(
            "applied    rack/servers.yaml: {} Servers with their BMCs ({USER}, password in rack/bmc-password)",
            self.specs.len()
        ));
        Ok(())
    }

    /// Has every machine boot from the network once, as whoever racks them would. Returns when they run.
    /// Control is told first, so that each boot begins with its power-on for all who watch.
    pub async fn power_on(&mut self, view: &mut View, api: &Api) -> Result<(), Failure> {
        view.begin(control::observe::now_ms());
        for spec in &self.specs {
            let said = PowerOn { name: spec.name.clone() };
            let path = format!("/api/v1/boots/{}/power-on", spec.mac());
            let _: PowerOn = api.call(Method::POST, &path, Some(&said)).await?;
        }
        for (machine, bmc) in self.machines.iter().zip(&self.bmcs) {
            let efi = machine.spec().firmware.is_uefi();
            let mut bmc = bmc.state();
            bmc.boot_from(Boot { device: Device::Network, efi, persistent: false });
            bmc.power(Action::On);
        }
        let began = Instant::now();
        for (i, machine) in self.machines.iter().enumerate() {
            while !machine.is_on() {
                let problem = machine.problem();
                let late = (began.elapsed() > POWER_ON).then(|| "it did not start in time".to_owned());
                if let Some(why) = problem.or(late) {
                    return Err(Failure::Failed(format!("{}: {why}", machine.spec().name)));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let (name, mac) = (&machine.spec().name, machine.spec().mac());
            view.name(mac, name);
            if let Some(on) = self.on.get_mut(i) {
                *on = true;
            }
            let bmc = bmc_address(i);
            table::line(&format!("power on   {name} {mac}, BMC {bmc}, console in rack/{name}/console.log"));
        }
        Ok(())
    }

    /// What has become of the machines since they were last looked at.
    pub fn look_after(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        for (machine, was_on) in self.machines.iter().zip(&mut self.on) {
            let name = &machine.spec().name;
            let on = machine.is_on();
            if on != std::mem::replace(was_on, on) {
                words.push(format!("== {name} is {}", if on { "on" } else { "off" }));
            }
            words.extend(machine.problem().map(|why| format!("!! {name}: {why}")));
        }
        words
    }

    /// For `--once`: whether all machines have reached their goal, or time is up.
    pub fn judge(&self, view: &View, deadline: Instant) -> Option<ExitCode> {
        let reached = |m: &Powered| view.boot(m.spec().mac()).is_some_and(|b| b.reached_ms.is_some());
        if !self.machines.is_empty() && self.machines.iter().all(reached) {
            table::line(&format!("all {} machines have reached their goal", self.machines.len()));
            return Some(ExitCode::SUCCESS);
        }
        let dead = self.machines.iter().any(|m| !m.is_on());
        if !dead && Instant::now() < deadline {
            return None;
        }
        for machine in self.machines.iter().filter(|m| !reached(m)) {
            let what = if machine.is_on() { "did not get there in time" } else { "has ended" };
            table::line(&format!("!! {} {what}; its console:", machine.spec().name));
            for line in machine.console_tail(12) {
                table::line(&format!("     {line}"));
            }
        }
        Some(ExitCode::FAILURE)
    }

    /// Switches every machine off. Disks and variables stay: the next run goes on with the same rack.
    pub fn power_off(&mut self) {
        self.bmcs.clear();
        self.machines.iter_mut().for_each(Powered::stop);
    }
}

/// The address of a BMC, on the usual port.
fn bmc_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST_BMC).saturating_add(u32::try_from(index).unwrap_or(0)))
}

/// What makes a BMC's machine known: a Secret for all, and a Server each.
fn objects(specs: &[Spec], password: &str) -> Vec<Value> {
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": SECRET, "namespace": "default" },
        "data": { "user": base64(USER), "pass": base64(password) },
    });
    let from = |key: &str| json!({ "secretKeyRef": { "namespace": "default", "name": SECRET, "key": key } });
    let server = |(i, spec): (usize, &Spec)| {
        json!({
            "apiVersion": "metal.sidero.dev/v1alpha2",
            "kind": "Server",
            "metadata": { "name": spec.uuid().to_string() },
            "spec": {
                "hostname": spec.name,
                "bmc": { "endpoint": bmc_address(i).to_string(), "userFrom": from("user"), "passFrom": from("pass") },
            },
        })
    };
    std::iter::once(secret).chain(specs.iter().enumerate().map(server)).collect()
}

/// Random, and of letters and digits, so that it needs no quoting anywhere.
fn password() -> Result<String, Failure> {
    let mut random = [0; 10];
    getrandom::fill(&mut random).map_err(|e| Failure::Failed(format!("no random numbers: {e}")))?;
    Ok(random.iter().map(|b| format!("{b:02x}")).collect::<String>()[..16].to_owned())
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn dhcp_section() -> String {
    let (first, last) = POOL;
    let network = Ipv4Addr::from(u32::from(ADDRESS) & (u32::MAX << (32 - PREFIX)));
    // Nobody else is on this network: no address needs to be looked for before it is given.
    format!(
        "\ndhcp:\n  mode: server\n  router_advertisements: true\n  server:\n    authoritative: true\n    probe_ms: 0\n    \
         subnets:\n      - network: {network}/{PREFIX}\n        pools: [{first}-{last}]\n"
    )
}

fn specs(kinds: &[Firmware], memory_mib: u32) -> Vec<Spec> {
    let mut numbers = std::collections::HashMap::new();
    let named = kinds.iter().map(|&kind| {
        let n = numbers.entry(kind).or_insert(0);
        *n += 1;
        // Set up as servers are: the disk first. Whoever wants a network boot says so by the BMC.
        Spec { memory_mib, first: First::Disk, ..Spec::new(&format!("{kind}-{n}"), kind) }
    });
    named.collect()
}
