//! A machine without a BMC, simulated from its first script on: it asks, does
//! what it is told to, and reports, as iPXE, agent, installer and system would.

use crate::site::{Answer, Site, address};
use protocol::id::{Mac, MachineId};
use protocol::report::{
    self, Confirmed, Disk, DiskResult, DiskState, Facts, Hello, Interface, Level, Order, OrderKind, Progress, Status,
    System,
};
use std::net::Ipv4Addr;

/// What runs on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Runs {
    /// Off.
    Nothing,
    /// Between power-on and its script.
    Firmware,
    /// Our agent, with the order that it has carried out.
    Agent(u64),
    /// What it was installed with: the body of `/configdata`.
    System(String),
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub facts: Facts,
    /// Its card.
    pub mac: Mac,
    /// Where its packets come from.
    pub from: Ipv4Addr,
    /// What runs.
    pub runs: Runs,
    /// What is on its disks: `Some` is data of somebody.
    pub data: Option<String>,
    /// Orders by which it was erased.
    pub wiped: Vec<u64>,
    /// Its agent's boots.
    pub boots: u32,
    /// The token of the agent's boot.
    pub token: String,
    /// The address of its configuration, and where it reports.
    pub config: String,
    /// See `config`.
    pub report: String,
    /// Why it may not begin to erase.
    pub why: String,
}

impl Node {
    /// The nth machine of a rack, on, with a stranger's data on its disk.
    pub fn new(n: u16) -> Self {
        let mac = Mac([0x52, 0x54, 0, 7, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        let disk = Disk {
            name: "sda".into(),
            device_name: "/dev/sda".into(),
            r#type: "SSD".into(),
            size: 1 << 30,
            serial_number: format!("DISK{n}"),
            transport: "ata".into(),
            ..Disk::default()
        };
        let facts = Facts {
            system: System { uuid: uuid(n).parse().ok(), serial_number: format!("SN{n:06}"), ..System::default() },
            memory: report::Memory { total_bytes: 64 << 30, ..report::Memory::default() },
            storage: vec![disk],
            network: vec![Interface { mac: Some(mac), name: "eth0".into(), ..Interface::default() }],
            ..Facts::default()
        };
        Self {
            facts,
            mac,
            from: address(n),
            runs: Runs::Firmware,
            data: Some("a stranger's".into()),
            wiped: Vec::new(),
            boots: 0,
            token: String::new(),
            config: String::new(),
            report: String::new(),
            why: String::new(),
        }
    }

    /// Its UUID.
    pub fn uuid(&self) -> Option<MachineId> {
        self.facts.system.uuid
    }

    /// iPXE asks for its script.
    pub fn script(&self, site: &Site) -> Answer {
        let uuid = self.uuid().map(|u| u.to_string()).unwrap_or_default();
        // As iPXE's ${serial:uristring}.
        let serial = self.facts.system.serial_number.replace(' ', "%20");
        let path = format!("/ipxe?uuid={uuid}&mac={}&serial={serial}&arch=x86_64", self.mac.hyphenated());
        site.node(self.from, "GET", &path, "", "")
    }

    /// Boots from the network, as far as the script leads.
    ///
    /// # Panics
    /// When the script is none.
    pub fn boot(&mut self, site: &Site) {
        let script = self.script(site);
        if script.status == 503 || script.status == 412 {
            self.runs = Runs::Firmware;
            return;
        }
        assert_eq!(script.status, 200, "{script:?}");
        let argument = |key: &str| {
            let word = script.body.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
            word.map(str::to_owned)
        };
        if let Some(token) = argument("stoker.attempt") {
            (self.token, self.boots, self.runs) = (token, self.boots + 1, Runs::Agent(0));
            self.hello(site);
        } else if let Some(config) = argument("stoker.config") {
            self.config = path_of(&config);
            self.report = path_of(&argument("stoker.report").expect("where to report"));
            let answer = site.node(self.from, "GET", &self.config, "", "");
            if answer.status == 200 {
                self.data = Some(answer.body);
                self.tell(site, "installed");
                self.runs = Runs::Firmware;
            }
        } else if let Some(data) = &self.data {
            // To its disk.
            self.runs = Runs::System(data.clone());
        }
    }

    /// An installer's or system's report.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn tell(&self, site: &Site, event: &str) -> Answer {
        site.node(self.from, "POST", &format!("{}&event={event}", self.report), "", "")
    }

    /// The agent's first words, as they are sent.
    pub fn hello_body(&self) -> Hello {
        Hello {
            version: report::CURRENT,
            agent: "0.1.0".into(),
            boot_id: format!("{}-{}", self.mac.hyphenated(), self.boots),
            attempt: Some(self.token.clone()),
            boot_mac: Some(self.mac),
            uptime_s: 3.0,
            facts: self.facts.clone(),
        }
    }

    /// The agent's first words.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn hello(&self, site: &Site) -> Answer {
        let body = serde_json::to_string(&self.hello_body()).unwrap();
        site.node(self.from, "POST", "/agent/v1/hello", "", &body)
    }

    /// A status of the agent, as it is sent.
    pub fn status_body(&self, order: u64, level: Level, disks: Vec<DiskResult>) -> Status {
        Status {
            version: report::CURRENT,
            boot_id: self.hello_body().boot_id,
            attempt: Some(self.token.clone()),
            uuid: self.uuid(),
            boot_mac: Some(self.mac),
            order,
            level,
            detail: String::new(),
            progress: Some(Progress { counter: order, ..Progress::default() }),
            disks,
            bmc: None,
        }
    }

    /// Reports, and returns what it is told.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn poll(&self, site: &Site, order: u64, level: Level, disks: Vec<DiskResult>) -> Order {
        let body = serde_json::to_string(&self.status_body(order, level, disks)).unwrap();
        let answer = site.node(self.from, "POST", "/agent/v1/status", "", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json::<report::Answer>().order
    }

    /// Asks whether it may erase.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn confirm(&self, site: &Site, order: u64) -> Confirmed {
        let body = serde_json::to_string(&self.status_body(order, Level::Running, Vec::new())).unwrap();
        site.node(self.from, "POST", "/agent/v1/confirm", "", &body).json()
    }

    /// One step of whatever runs on it.
    ///
    /// # Panics
    /// When control does what it must not.
    pub fn turn(&mut self, site: &Site) {
        match self.runs.clone() {
            Runs::Nothing => {}
            Runs::Firmware => self.boot(site),
            Runs::System(_) => _ = self.tell(site, "running"),
            Runs::Agent(done) => {
                let level = if done == 0 { Level::Holding } else { Level::Done };
                let order = self.poll(site, done, level, self.results(done));
                if order.id == done || order.id == 0 {
                    return;
                }
                match &order.kind {
                    OrderKind::Wipe(wipe) => {
                        let own: Vec<_> = self.facts.storage.iter().map(control::plan::server::disk_target).collect();
                        assert!(wipe.disks.iter().all(|d| own.contains(d)), "an order for other disks: {wipe:?}");
                        let confirmed = self.confirm(site, order.id);
                        self.why = confirmed.why;
                        if confirmed.go {
                            self.data = None;
                            self.wiped.push(order.id);
                            self.runs = Runs::Agent(order.id);
                        }
                    }
                    OrderKind::PowerOff => self.runs = Runs::Nothing,
                    OrderKind::Reboot => self.runs = Runs::Firmware,
                    other => panic!("a machine of this kind is not told to {other:?}"),
                }
            }
        }
    }

    /// Every disk is clean, where it was erased by this order.
    pub fn results(&self, order: u64) -> Vec<DiskResult> {
        if !self.wiped.contains(&order) {
            return Vec::new();
        }
        let clean = |disk: &Disk| DiskResult {
            disk: control::plan::server::disk_target(disk),
            state: DiskState::Clean,
            method: "zeroes".into(),
            verified: 64,
            ..DiskResult::default()
        };
        self.facts.storage.iter().map(clean).collect()
    }
}

/// The UUID of the nth machine.
pub fn uuid(n: u16) -> String {
    format!("6f0c4e2a-0b1d-4c5e-8f90-0000{n:08x}")
}

/// Path and query of a URL.
fn path_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or_else(String::new, |at| rest[at..].to_owned())
}
