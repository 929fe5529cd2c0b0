//! `stoker power` and `stoker bmc`: one BMC by hand.

use super::{Failure, table};
use control::power::{BootDevice, BootFlags, ChassisStatus, Client, IPMI_PORT, Power};
use protocol::ipmi::{Config, Privilege, Suite};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Which BMC, and how to log in.
#[derive(clap::Args)]
struct Login {
    /// Address of the BMC (IPMI 2.0, UDP port 623)
    #[arg(long, value_name = "HOST[:PORT]", env = "STOKER_BMC")]
    bmc: String,
    /// User name, at most 16 bytes
    #[arg(long, env = "STOKER_BMC_USER")]
    user: String,
    /// File whose first line is the password [default: the environment variable STOKER_BMC_PASSWORD]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The BMC key K_G in hex, where one is set
    #[arg(long, value_name = "HEX")]
    kg: Option<String>,
    /// Cipher suite 17 or 3 [default: the better one that the BMC offers; 0 to 2 are never used]
    #[arg(long)]
    suite: Option<u8>,
}

/// Arguments of `stoker power`.
#[derive(clap::Args)]
#[command(after_help = "\
Passwords are never taken from the command line, where every user of this host could read them.

Examples:
  export STOKER_BMC_PASSWORD=...
  stoker power --bmc 10.0.9.7 --user admin status
  stoker power --bmc 10.0.9.7 --user admin pxe --cycle      the next boot from the network, now
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
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Switch on
    On,
    /// Switch off at once
    Off,
    /// Ask the operating system to shut down
    Soft,
    /// Off, a pause, on again (on, where it is off)
    Cycle,
    /// Hard reset (on, where it is off)
    Reset,
    /// Boot from the network next time
    Pxe(Boot),
    /// Boot from disk next time
    Disk(Boot),
}

#[derive(clap::Args, Clone)]
struct Boot {
    /// At every boot, not only the next
    #[arg(long)]
    persistent: bool,
    /// Legacy BIOS rather than UEFI
    #[arg(long)]
    bios: bool,
    /// And switch the machine on, or cycle it, now
    #[arg(long)]
    cycle: bool,
}

/// Arguments of `stoker bmc`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stoker bmc --bmc 10.0.9.7 --user admin info
  stoker bmc --bmc 10.0.9.7 --user admin sel
  stoker bmc --bmc 10.0.9.7 --user admin sensors --json")]
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
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// The System Event Log, oldest first
    Sel {
        /// JSON
        #[arg(long)]
        json: bool,
        /// Empty the log after it was read
        #[arg(long)]
        clear: bool,
    },
    /// Every sensor with its reading
    Sensors {
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

impl PowerArgs {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let mut client = self.login.open(Privilege::Operator).await?;
        let done = self.act(&mut client).await;
        client.close().await;
        done.map(|()| ExitCode::SUCCESS)
    }

    async fn act(&self, client: &mut Client) -> Result<(), Failure> {
        let power = |wanted: Power, words: &'static str| (wanted, words);
        let (wanted, words) = match &self.action {
            Action::Status { json } => return status(client, *json).await,
            Action::Pxe(boot) => return boot.set(client, BootDevice::Pxe).await,
            Action::Disk(boot) => return boot.set(client, BootDevice::Disk).await,
            Action::On => power(Power::On, "on"),
            Action::Off => power(Power::Off, "off"),
            Action::Soft => power(Power::Soft, "shut down"),
            Action::Cycle => power(Power::Cycle, "power-cycled"),
            Action::Reset => power(Power::Reset, "reset"),
        };
        client.power(wanted).await.map_err(Failure::from_error)?;
        table::line(&format!("the machine is {words}"));
        Ok(())
    }
}

async fn status(client: &mut Client, json: bool) -> Result<(), Failure> {
    #[derive(serde::Serialize)]
    struct Shown {
        chassis: ChassisStatus,
        boot: Option<BootFlags>,
    }
    let chassis = client.status().await.map_err(Failure::from_error)?;
    let shown = Shown { chassis, boot: client.boot_flags().await.ok() };
    if json {
        return table::json(&shown);
    }
    table::line(&format!("power  {}", if chassis.on { "on" } else { "off" }));
    if let Some(boot) = shown.boot {
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
    Ok(())
}

impl Boot {
    async fn set(&self, client: &mut Client, device: BootDevice) -> Result<(), Failure> {
        let kept = client.set_boot(device, !self.bios, self.persistent).await.map_err(Failure::from_error)?;
        table::line(&format!("boot device: {kept}"));
        if kept.persistent != self.persistent || kept.efi == self.bios {
            table::line("note: the BMC did not keep all that was asked for; watch the machine's next boot");
        }
        if self.cycle {
            client.power(Power::Cycle).await.map_err(Failure::from_error)?;
            table::line("the machine is power-cycled");
        }
        Ok(())
    }
}

impl BmcArgs {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let privilege = match &self.what {
            What::Sel { clear: true, .. } => Privilege::Operator,
            _ => Privilege::User,
        };
        let mut client = self.login.open(privilege).await?;
        let done = self.show(&mut client).await;
        client.close().await;
        done.map(|()| ExitCode::SUCCESS)
    }

    async fn show(&self, client: &mut Client) -> Result<(), Failure> {
        match &self.what {
            What::Info { json } => {
                let info = client.info().await.map_err(Failure::from_error)?;
                if *json {
                    return table::json(&info);
                }
                table::line(&format!("manufacturer  {} (IANA enterprise number)", info.manufacturer_id));
                table::line(&format!("product       {:#06x}", info.product_id));
                table::line(&format!("device        {}", info.device));
                table::line(&format!("firmware      {}", info.firmware));
                table::line(&format!("IPMI          {}", info.ipmi));
            }
            What::Sel { json, clear } => {
                let events = client.sel().await.map_err(Failure::from_error)?;
                if *json {
                    table::json(&events)?;
                } else {
                    let at = |s: Option<u32>| {
                        s.map_or_else(|| "-".to_owned(), |s| control::objects::rfc3339(u64::from(s) * 1000))
                    };
                    let rows: Vec<_> =
                        events.iter().map(|e| vec![e.id.to_string(), at(e.at_s), e.what.clone()]).collect();
                    table::columns(&["ID", "TIME", "EVENT"], &rows).iter().for_each(|line| table::line(line));
                }
                if *clear {
                    client.sel_clear().await.map_err(Failure::from_error)?;
                }
            }
            What::Sensors { json } => {
                let sensors = client.sensors().await.map_err(Failure::from_error)?;
                if *json {
                    return table::json(&sensors);
                }
                let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".to_owned());
                let rows: Vec<_> =
                    sensors.iter().map(|s| vec![s.name.clone(), value(&s.value), s.state.clone()]).collect();
                table::columns(&["SENSOR", "VALUE", "STATE"], &rows).iter().for_each(|line| table::line(line));
            }
        }
        Ok(())
    }
}

impl Login {
    async fn open(&self, privilege: Privilege) -> Result<Client, Failure> {
        let config = Config {
            user: self.user.clone().into_bytes(),
            password: self.password()?.into_bytes(),
            kg: self.kg.as_deref().map(hex).transpose()?,
            privilege,
            suite: self.suite.map(suite).transpose()?,
            allow_suite_3: true,
        };
        Client::open(self.address().await?, config).await.map_err(|e| Failure::Failed(format!("{}: {e}", self.bmc)))
    }

    async fn address(&self) -> Result<SocketAddr, Failure> {
        let with_port = if self.bmc.parse::<std::net::IpAddr>().is_ok() || !self.bmc.contains(':') {
            let host = if self.bmc.contains(':') { format!("[{}]", self.bmc) } else { self.bmc.clone() };
            format!("{host}:{IPMI_PORT}")
        } else {
            self.bmc.clone()
        };
        let found = tokio::net::lookup_host(&with_port).await.ok().and_then(|mut all| all.next());
        found.ok_or_else(|| Failure::Usage(format!("--bmc {:?} is neither an address nor a known host name", self.bmc)))
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
