//! `stoker power` and `stoker bmc`: one BMC by hand. Of a Server through control, so that the BMC's
//! queue and the limits of its logins hold; or straight to an address.

use super::api::Api;
use super::{Failure, Reach, table};
use control::api::bmc::ByHand;
use control::api::objects::ObjectList;
use control::limits;
use control::power::ask::{Ask, Told};
use control::power::pool::Pool;
use control::power::redfish::{self, Trust};
use control::power::target::{IpmiOptions, Target, Way, default_port, place};
use control::power::{BmcInfo, BootDevice, Event, Power, Sensor};
use hyper::Method;
use protocol::ipmi::{Privilege, Suite};
use std::path::PathBuf;
use std::process::ExitCode;

/// Which BMC by its address, and how to log in.
#[derive(clap::Args)]
struct Login {
    /// Address of a BMC, instead of a Server
    #[arg(long, value_name = "HOST[:PORT]", env = "STOKER_BMC", global = true)]
    bmc: Option<String>,
    /// User name (IPMI: at most 16 bytes)
    #[arg(long, env = "STOKER_BMC_USER", global = true)]
    user: Option<String>,
    /// File whose first line is the password [default: the environment variable STOKER_BMC_PASSWORD]
    #[arg(long, value_name = "FILE", global = true)]
    password_file: Option<PathBuf>,
    /// What the BMC speaks: lanplus (IPMI 2.0, UDP port 623), redfish (HTTPS) or redfish+http
    #[arg(long, value_name = "WAY", default_value = "lanplus", value_parser = ["lanplus", "redfish", "redfish+http"], global = true)]
    interface: String,
    /// Redfish: believe the certificate of this fingerprint (sha256:...) rather than an authority
    #[arg(long, value_name = "FINGERPRINT", global = true)]
    certificate: Option<String>,
    /// Redfish: believe any certificate. Whoever is on the path can read the password
    #[arg(long, conflicts_with = "certificate", global = true)]
    insecure: bool,
    /// IPMI: the BMC key K_G in hex, where one is set
    #[arg(long, value_name = "HEX", global = true)]
    kg: Option<String>,
    /// IPMI: cipher suite 17 or 3 [default: the better one that the BMC offers; 0 to 2 are never used]
    #[arg(long, global = true)]
    suite: Option<u8>,
}

/// Which Server.
#[derive(clap::Args, Clone)]
struct Of {
    /// UUID of a Server (or its beginning, or its hostname)
    server: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

/// Which Server, to be switched.
#[derive(clap::Args, Clone)]
struct Switched {
    #[command(flatten)]
    of: Of,
    /// Even where somebody's work runs on the machine, or stoker is at work on it
    #[arg(long)]
    force: bool,
}

/// Arguments of `stoker power`.
#[derive(clap::Args)]
#[command(after_help = "\
A Server's BMC is asked by stoker-control, with the credentials of its spec.bmc: in its turn, with a
session that is open already, and never with more logins than a BMC takes before it locks a user out.
A machine that is somebody's, or that stoker is at work on, is switched with --force only.

By address the BMC is asked at once. Passwords are never taken from the command line, where every user
of this host could read them.

Examples:
  stoker power status 6f0c4e2a-0b1d-4c5e-8f90-123456789abc
  stoker power cycle 6f0c4e2a --force
  stoker power pxe 6f0c4e2a --cycle                         the next boot from the network, now

  export STOKER_BMC_PASSWORD=...
  stoker power --bmc 10.0.9.7 --user admin status
  stoker power --bmc 10.0.9.7 --user admin --interface redfish on
  stoker power --bmc 10.0.9.7 --user admin disk --persistent --bios")]
pub struct PowerArgs {
    #[command(flatten)]
    login: Login,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Clone)]
enum Action {
    /// Show whether the machine is on, and its boot device
    Status {
        #[command(flatten)]
        of: Of,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Switch on
    On(Switched),
    /// Switch off at once
    Off(Switched),
    /// Ask the operating system to shut down
    Soft(Switched),
    /// Off, a pause, on again (on, where it is off)
    Cycle(Switched),
    /// Hard reset (on, where it is off)
    Reset(Switched),
    /// Boot from the network next time
    Pxe(Boot),
    /// Boot from disk next time
    Disk(Boot),
}

#[derive(clap::Args, Clone)]
struct Boot {
    #[command(flatten)]
    switched: Switched,
    /// At every boot, not only the next
    #[arg(long)]
    persistent: bool,
    /// Legacy BIOS rather than UEFI [default: as the Server's firmware is; UEFI by address]
    #[arg(long, conflicts_with = "http")]
    bios: bool,
    /// From the network by UEFI HTTP boot rather than PXE (Redfish only)
    #[arg(long)]
    http: bool,
    /// And switch the machine on, or cycle it, now
    #[arg(long)]
    cycle: bool,
}

/// Arguments of `stoker bmc`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stoker bmc info 6f0c4e2a-0b1d-4c5e-8f90-123456789abc
  stoker bmc sel 6f0c4e2a --clear
  stoker bmc --bmc 10.0.9.7 --user admin sensors --json
  stoker bmc --bmc 10.0.9.7 --user admin --interface redfish info      shows the certificate, too")]
pub struct BmcArgs {
    #[command(flatten)]
    login: Login,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Clone)]
enum What {
    /// Manufacturer, firmware, versions
    Info {
        #[command(flatten)]
        of: Of,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// The System Event Log, oldest first
    Sel {
        #[command(flatten)]
        of: Of,
        /// JSON
        #[arg(long)]
        json: bool,
        /// Empty the log after it was read
        #[arg(long)]
        clear: bool,
    },
    /// Every sensor with its reading
    Sensors {
        #[command(flatten)]
        of: Of,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

impl PowerArgs {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        match &self.action {
            Action::Status { of, json } => {
                let told = self.login.ask(of, Ask::Status, false).await?;
                show(&told, *json)?;
            }
            Action::On(switched) => self.switch(switched, Power::On, "on").await?,
            Action::Off(switched) => self.switch(switched, Power::Off, "off").await?,
            Action::Soft(switched) => self.switch(switched, Power::Soft, "shut down").await?,
            Action::Cycle(switched) => self.switch(switched, Power::Cycle, "power-cycled").await?,
            Action::Reset(switched) => self.switch(switched, Power::Reset, "reset").await?,
            Action::Pxe(boot) if boot.http => self.boot(boot, BootDevice::UefiHttp).await?,
            Action::Pxe(boot) => self.boot(boot, BootDevice::Pxe).await?,
            Action::Disk(boot) => self.boot(boot, BootDevice::Disk).await?,
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn switch(&self, switched: &Switched, action: Power, words: &str) -> Result<(), Failure> {
        self.login.ask(&switched.of, Ask::Power { action }, switched.force).await?;
        table::line(&format!("the machine is {words}"));
        Ok(())
    }

    async fn boot(&self, boot: &Boot, device: BootDevice) -> Result<(), Failure> {
        let ask = Ask::Boot { device, efi: boot.bios.then_some(false), persistent: boot.persistent, cycle: boot.cycle };
        let told = self.login.ask(&boot.switched.of, ask, boot.switched.force).await?;
        show(&told, false)?;
        if let Told::Boot { kept } = told
            && (kept.persistent != boot.persistent || kept.efi && boot.bios)
        {
            table::line("note: the BMC did not keep all that was asked for; watch the machine's next boot");
        }
        if boot.cycle {
            table::line("the machine is power-cycled");
        }
        Ok(())
    }
}

impl BmcArgs {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let (of, ask, json) = match &self.what {
            What::Info { of, json } => (of, Ask::Info, json),
            What::Sel { of, json, clear } => (of, Ask::Sel { clear: *clear }, json),
            What::Sensors { of, json } => (of, Ask::Sensors, json),
        };
        show(&self.login.ask(of, ask, false).await?, *json)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn show(told: &Told, json: bool) -> Result<(), Failure> {
    if json {
        return match told {
            Told::Info(info) => table::json(info),
            Told::Sel { events } => table::json(events),
            Told::Sensors { sensors } => table::json(sensors),
            other => table::json(other),
        };
    }
    match told {
        Told::Status { chassis, boot } => {
            table::line(&format!("power  {}", if chassis.on { "on" } else { "off" }));
            if let Some(boot) = boot {
                table::line(&format!("boot   {boot}"));
            }
            let faults = [
                (chassis.power_fault, "power supply"),
                (chassis.drive_fault, "drive"),
                (chassis.fan_fault, "fan"),
                (chassis.intrusion, "intrusion"),
            ];
            for (_, fault) in faults.iter().filter(|(there, _)| *there) {
                table::line(&format!("fault  {fault}"));
            }
        }
        Told::Power { chassis } => table::line(if chassis.on { "on" } else { "off" }),
        Told::Boot { kept } => table::line(&format!("boot device: {kept}")),
        Told::Info(info) => info_lines(info),
        Told::Sel { events } => event_lines(events),
        Told::Sensors { sensors } => sensor_lines(sensors),
    }
    Ok(())
}

fn info_lines(info: &BmcInfo) {
    let mut lines = vec![
        ("speaks", info.speaks.clone()),
        ("manufacturer", info.manufacturer.clone()),
        ("product", info.product.clone()),
        ("firmware", info.firmware.clone()),
        ("certificate", info.certificate.clone().unwrap_or_default()),
    ];
    if let Some(system) = &info.system {
        lines.push(("machine", format!("{} {}", system.manufacturer, system.model)));
        lines.push(("serial", system.serial.clone()));
        lines.push(("UUID", system.uuid.clone()));
        lines.push(("cards", system.macs.join(" ")));
    }
    for (what, value) in lines.iter().filter(|(_, value)| !value.trim().is_empty()) {
        table::line(&format!("{what:<13} {value}"));
    }
}

fn event_lines(events: &[Event]) {
    let at = |s: Option<u32>| s.map_or_else(|| "-".to_owned(), |s| control::objects::rfc3339(u64::from(s) * 1000));
    let rows: Vec<_> = events.iter().map(|e| vec![e.id.to_string(), at(e.at_s), e.what.clone()]).collect();
    table::columns(&["ID", "TIME", "EVENT"], &rows).iter().for_each(|line| table::line(line));
}

fn sensor_lines(sensors: &[Sensor]) {
    let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".to_owned());
    let rows: Vec<_> = sensors.iter().map(|s| vec![s.name.clone(), value(&s.value), s.state.clone()]).collect();
    table::columns(&["SENSOR", "VALUE", "STATE"], &rows).iter().for_each(|line| table::line(line));
}

impl Login {
    /// Asks the BMC of a Server, or the one at the address.
    async fn ask(&self, of: &Of, ask: Ask, force: bool) -> Result<Told, Failure> {
        match (&of.server, &self.bmc) {
            (Some(server), None) => {
                // Its turn may come late, and switching takes its time.
                let api = Api::new(&of.reach).patient(limits::EFFECT_TIME * 2);
                let name = find(&api, server).await?;
                let by_hand = ByHand { ask, force };
                api.call(Method::POST, &format!("/api/v1/servers/{name}/bmc"), Some(&by_hand)).await
            }
            (None, Some(bmc)) => self.ask_address(bmc, ask).await,
            (None, None) => Err(Failure::Usage(
                "which machine? Name a Server (stoker servers lists them), or a BMC by --bmc".into(),
            )),
            (Some(_), Some(_)) => {
                Err(Failure::Usage("a Server and --bmc are two machines; name one (is STOKER_BMC set?)".into()))
            }
        }
    }

    async fn ask_address(&self, bmc: &str, ask: Ask) -> Result<Told, Failure> {
        let way = match (self.interface.as_str(), &self.certificate) {
            ("redfish", Some(pin)) if redfish::is_fingerprint(pin) => Way::Redfish(Trust::Pin(pin.clone())),
            ("redfish", Some(_)) => {
                let what = "--certificate is a fingerprint: sha256: and 64 hex digits, as stoker bmc info shows it";
                return Err(Failure::Usage(what.into()));
            }
            ("redfish", None) if self.insecure => Way::Redfish(Trust::Insecure),
            ("redfish", None) => Way::Redfish(Trust::Verify),
            ("redfish+http", _) => Way::RedfishHttp,
            _ => Way::Ipmi,
        };
        let user = self.user.clone().ok_or_else(|| Failure::Usage("--bmc needs --user (or STOKER_BMC_USER)".into()))?;
        let privilege = match ask {
            Ask::Sel { clear: true } | Ask::Power { .. } | Ask::Boot { .. } => Privilege::Operator,
            _ => Privilege::User,
        };
        let target = Target {
            place: place(bmc, default_port(&way)),
            way,
            user,
            password: self.password()?,
            ipmi: IpmiOptions {
                kg: self.kg.as_deref().map(hex).transpose()?,
                suite: self.suite.map(suite).transpose()?,
                privilege,
            },
            machine: redfish::Machine::default(),
        };
        let pool = Pool::default();
        let told = pool.with(&target, async |turn| ask.of(turn, true).await).await;
        pool.close().await;
        told.map_err(|e| Failure::Failed(format!("{bmc}: {e}")))
    }

    fn password(&self) -> Result<String, Failure> {
        if let Some(file) = &self.password_file {
            let text = std::fs::read_to_string(file)
                .map_err(|e| Failure::Usage(format!("--password-file {}: {e}", file.display())))?;
            return Ok(text.lines().next().unwrap_or_default().to_owned());
        }
        std::env::var("STOKER_BMC_PASSWORD")
            .map_err(|_| Failure::Usage("no password: set STOKER_BMC_PASSWORD or give --password-file".to_owned()))
    }
}

/// The one Server that is meant by a UUID, its beginning, or a hostname.
async fn find(api: &Api, word: &str) -> Result<String, Failure> {
    let word = word.to_ascii_lowercase();
    let list: ObjectList = api.get("/api/v1/objects/server").await?;
    let hostname = |o: &control::resource::Object| o.spec["hostname"].as_str().map(str::to_ascii_lowercase);
    let exact = |o: &&control::resource::Object| o.metadata.name == word || hostname(o).as_ref() == Some(&word);
    let mut found: Vec<_> = list.items.iter().filter(exact).collect();
    if found.is_empty() && word.len() >= 4 {
        found = list.items.iter().filter(|o| o.metadata.name.starts_with(&word)).collect();
    }
    match found[..] {
        [only] => Ok(only.metadata.name.clone()),
        [] => Err(Failure::Failed(format!("there is no Server {word:?}; stoker servers lists them"))),
        _ => Err(Failure::Usage(format!("{word:?} means {} Servers; give more of the UUID", found.len()))),
    }
}

fn suite(number: u8) -> Result<Suite, Failure> {
    Suite::from_number(number)
        .ok_or_else(|| Failure::Usage(format!("cipher suite {number} is not spoken; 17 and 3 are")))
}

fn hex(text: &str) -> Result<Vec<u8>, Failure> {
    let bad = || Failure::Usage("--kg is not an even number of hex digits, at most 40".to_owned());
    if !text.len().is_multiple_of(2) || text.len() > 40 || !text.is_ascii() {
        return Err(bad());
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).map_err(|_| bad())).collect()
}
