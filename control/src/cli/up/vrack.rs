//! The virtual rack of `stoker up`: its network before the services start, its machines after.

use super::DhcpMode;
use crate::api::Api;
use crate::boots::View;
use crate::state::Claim;
use crate::{Failure, table};
use control::api::types::PowerOn;
use control::rack::accel::Verdict;
use control::rack::firmware::parse_rack;
use control::rack::network::{ADDRESS, FOREIGN, POOL, PREFIX};
use control::rack::{Firmware, Images, Machine, Network, Spec, accel};
use hyper::Method;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// A rack: the network, and the machines that are on.
pub struct VirtualRack {
    machines: Vec<Machine>,
    /// The namespace in which the services run, too. After `machines`: those go first.
    pub network: Network,
    specs: Vec<Spec>,
    images: Images,
    verdict: Verdict,
    folder: PathBuf,
}

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
        let _ = std::fs::remove_dir_all(&folder);
        Ok(Self { machines: Vec::new(), network, specs: specs(&kinds, memory_mib), images, verdict, folder })
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

    /// Switches every machine on. Control is told first, so that each boot begins with its power-on for all who watch.
    pub async fn power_on(&mut self, view: &mut View, api: &Api) -> Result<(), Failure> {
        view.begin(control::observe::now_ms());
        for spec in self.specs.clone() {
            let (mac, name) = (spec.mac(), spec.name.clone());
            let said = PowerOn { name: name.clone() };
            let _: PowerOn = api.call(Method::POST, &format!("/api/v1/boots/{mac}/power-on"), Some(&said)).await?;
            let machine = Machine::start(spec, &self.network, &self.images, self.verdict.accel, &self.folder);
            self.machines.push(machine.map_err(Failure::from_error)?);
            view.name(mac, &name);
            table::line(&format!("power on   {name} {mac}, console in rack/{name}/console.log"));
        }
        Ok(())
    }

    /// For `--once`: whether all machines have reached their goal, or time is up.
    pub fn judge(&mut self, view: &View, deadline: Instant) -> Option<ExitCode> {
        let reached = |m: &Machine| view.boot(m.spec().mac()).is_some_and(|b| b.reached_ms.is_some());
        if !self.machines.is_empty() && self.machines.iter().all(reached) {
            table::line(&format!("all {} machines have reached their goal", self.machines.len()));
            return Some(ExitCode::SUCCESS);
        }
        let dead = self.machines.iter_mut().any(|m| !m.is_on());
        if !dead && Instant::now() < deadline {
            return None;
        }
        for machine in self.machines.iter_mut().filter(|m| !reached(m)) {
            let what = if machine.is_on() { "did not get there in time" } else { "has ended" };
            table::line(&format!("!! {} {what}; its console:", machine.spec().name));
            for line in machine.console_tail(12) {
                table::line(&format!("     {line}"));
            }
        }
        Some(ExitCode::FAILURE)
    }

    /// Switches every machine off and removes their disks; consoles and logs stay.
    pub fn power_off(&mut self) {
        self.machines.iter_mut().for_each(Machine::stop);
        for machine in self.machines.drain(..) {
            machine.remove_disks();
        }
    }
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
        Spec { memory_mib, ..Spec::new(&format!("{kind}-{n}"), kind) }
    });
    named.collect()
}
