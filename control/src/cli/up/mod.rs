//! `stoker up`: edge and control on this machine, and what they do on the screen.
//!
//! ```text
//! claim the state directory -> (virtual rack: namespace and bridge) -> control, edge -> both ready
//!   -> (virtual rack: power on) -> live view until Ctrl-C -> machines off, edge and control down, network gone
//! ```
//!
//! A virtual rack and a real network go the same way; the rack only adds the
//! namespace in front and the machines behind.

mod service;
mod vrack;

pub use service::find;

use super::api::{Api, Lines};
use super::boots::View;
use super::state::Claim;
use super::{Failure, table};
use clap::ValueEnum;
use control::api::types::WatchLine;
use control::observe::now_ms;
use control::rack::network::{ADDRESS, BRIDGE};
use control::rack::process::Process;
use service::{Place, Services};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use vrack::VirtualRack;

/// How often children are looked after and a screen is drawn.
const TICK: Duration = Duration::from_millis(250);
/// How often the watch may be opened again after control went away.
const REOPEN: Duration = Duration::from_millis(500);

/// Arguments of `stoker up`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  stoker up --virtual-rack                         three machines with real firmware, no hardware touched
  stoker up --virtual-rack uefi,uefi-http,bios     choose the firmware of each
  stoker up --virtual-rack 1 --once                one machine; exit 0 when its agent has reported
  stoker up --interface eth1                       beside the DHCP server of that network (ProxyDHCP)
  stoker up --interface eth1 --dhcp-mode server --config stoker.yaml
                                                   as the DHCP server, with the pools of stoker.yaml

Each virtual machine has a BMC (IPMI), so that stoker can switch it. Needs root (ports 67 and 69,
namespaces). Ctrl-C stops everything and leaves nothing behind but the state directory with its
logs and the rack's disks; the next run goes on with them.")]
pub struct Up {
    /// The interface that machines boot on
    #[arg(long, value_name = "NAME", conflicts_with = "virtual_rack")]
    interface: Option<String>,
    /// Our address as machines see it [default: that of the interface]
    #[arg(long, value_name = "IP", conflicts_with = "virtual_rack")]
    address: Option<IpAddr>,
    /// How to stand to DHCP: beside another server, as the server, or not at all [default: proxy; virtual rack: server]
    #[arg(long, value_name = "MODE")]
    dhcp_mode: Option<DhcpMode>,
    /// A rack of QEMU machines in a network of its own: how many, or their firmware
    /// (bios, uefi, uefi-http, arm64) separated by commas
    #[arg(long, value_name = "N|LIST", num_args = 0..=1, default_missing_value = "3")]
    virtual_rack: Option<String>,
    /// Memory of each virtual machine, MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, requires = "virtual_rack", value_parser = clap::value_parser!(u32).range(256..=65536))]
    memory: u32,
    /// Configuration file of control (environments, machines, DHCP pools)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where edge and control keep their state
    #[arg(long, value_name = "DIR", env = "STOKER_STATE", default_value = control::config::DEFAULT_STATE)]
    state: PathBuf,
    /// The bundle of boot files that `stoker-bundle build` made [default: `bundle` beside this program, or in the state directory]
    #[arg(long, value_name = "DIR", env = "STOKER_BUNDLE")]
    bundle: Option<PathBuf>,
    /// How the edge does its input and output
    #[arg(long, default_value = "auto")]
    driver: Driver,
    /// Worker threads of the edge [default: one a core]
    #[arg(long, value_name = "N")]
    workers: Option<u16>,
    /// End when every machine of the virtual rack has reached its goal; exit code 1 if one does not within --give-up
    #[arg(long, requires = "virtual_rack")]
    once: bool,
    /// With --once: the longest wait, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "once")]
    give_up: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum DhcpMode {
    Proxy,
    Server,
    Off,
}

impl DhcpMode {
    const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Server => "server",
            Self::Off => "off",
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    Auto,
    Uring,
    Epoll,
}

impl Driver {
    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

impl Up {
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        // Before anything is started, so that no Ctrl-C ever meets the default action.
        let mut stop = Stop::new()?;
        let claim = Claim::take(&self.state)?;
        claim.announce();
        let bundle = self.bundle(&claim)?;
        let mut rack = match &self.virtual_rack {
            Some(text) => Some(VirtualRack::build(text, self.memory, &claim, bundle.as_deref())?),
            None => None,
        };
        let config = match &mut rack {
            Some(rack) => Some(rack.configure(self.config.as_deref(), self.dhcp_mode, &claim)?),
            None => self.config.clone(),
        };
        let place = Place {
            network: rack.as_ref().map(|r| &r.network),
            state: claim.dir(),
            interface: if rack.is_some() { Some(BRIDGE) } else { self.interface.as_deref() },
            address: if rack.is_some() { Some(ADDRESS.into()) } else { self.address },
            dhcp_mode: self.dhcp_mode.map(DhcpMode::name),
            config: config.as_deref(),
            bundle: bundle.as_deref(),
            driver: self.driver.name(),
            workers: self.workers,
        };
        let mut services = Services::start(&place)?;
        let api = Api::at(claim.dir());
        let outcome = tokio::select! {
            outcome = self.serve(&mut services, &api, rack.as_mut()) => outcome,
            signal = stop.wait() => {
                table::line(&format!("{signal}: stopping"));
                Ok(ExitCode::SUCCESS)
            }
        };
        // Machines first: they would only see their servers go away.
        if let Some(rack) = &mut rack {
            rack.power_off();
        }
        services.stop();
        drop(rack);
        drop(claim);
        if outcome.is_ok() {
            table::line("stopped; nothing is left running");
        }
        outcome
    }

    async fn serve(
        &self,
        services: &mut Services,
        api: &Api,
        mut rack: Option<&mut VirtualRack>,
    ) -> Result<ExitCode, Failure> {
        let status = services.wait_until_ready(api).await?;
        for line in service::ready_lines(&status) {
            table::line(&line);
        }
        let mut view = View::default();
        let mut lines = api.lines("/api/v1/boots/watch").await?;
        if let Some(rack) = &mut rack {
            rack.introduce(api).await?;
            rack.power_on(&mut view, api).await?;
        } else {
            table::line("switch machines on, or set them to boot from the network; Ctrl-C stops");
        }
        let deadline = self.once.then(|| Instant::now() + Duration::from_secs(self.give_up));
        let mut screen = table::is_screen().then(table::Screen::default);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                line = lines.next::<WatchLine>() => {
                    let words = match line {
                        Ok(Some(line)) => view.take(line),
                        _ => reopen(api, services, &mut lines).await?,
                    };
                    // With a screen only what is out of the ordinary stays above the table.
                    let keep = |line: &&String| screen.is_none() || line.contains("!!") || line.contains("==");
                    let kept: Vec<_> = words.iter().filter(keep).cloned().collect();
                    for line in kept {
                        match &mut screen {
                            Some(screen) => screen.say(&line),
                            None => table::line(&line),
                        }
                    }
                }
                _ = tick.tick() => {
                    let mut words = services.look_after()?;
                    words.extend(rack.as_mut().map(|rack| rack.look_after()).unwrap_or_default());
                    for line in words {
                        match &mut screen {
                            Some(screen) => screen.say(&line),
                            None => table::line(&line),
                        }
                    }
                    if let Some(screen) = &mut screen {
                        screen.draw(&view.lines(now_ms()));
                    }
                }
            }
            if let (Some(rack), Some(deadline)) = (&mut rack, deadline)
                && let Some(code) = rack.judge(&view, deadline)
            {
                return Ok(code);
            }
        }
    }

    /// The bundle: named, beside this program, or in the state directory.
    fn bundle(&self, claim: &Claim) -> Result<Option<PathBuf>, Failure> {
        if let Some(named) = &self.bundle {
            return match named.canonicalize() {
                Ok(dir) if dir.is_dir() => Ok(Some(dir)),
                _ => Err(Failure::Usage(format!(
                    "there is no bundle at {}: build one with `stoker-bundle build --out {}`",
                    named.display(),
                    named.display()
                ))),
            };
        }
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("../bundle")));
        let places = [beside, Some(claim.dir().join("bundle")), Some("/usr/lib/stoker/bundle".into())];
        let found = places.into_iter().flatten().filter_map(|p| p.canonicalize().ok()).find(|p| p.is_dir());
        match (&found, self.virtual_rack.is_some() || self.config.is_none()) {
            (None, true) => Err(Failure::Usage(
                "no bundle of boot files was found: build one with `stoker-bundle build --out DIR` and name it with --bundle DIR".to_owned(),
            )),
            _ => Ok(found),
        }
    }
}

/// After control went away: waits until the supervised one is back.
async fn reopen(api: &Api, services: &mut Services, lines: &mut Lines) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    loop {
        tokio::time::sleep(REOPEN).await;
        words.extend(services.look_after()?);
        if let Ok(again) = api.lines("/api/v1/boots/watch").await {
            *lines = again;
            return Ok(words);
        }
    }
}

/// The signals that end `stoker up`.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|e| Failure::Failed(format!("signals cannot be handled: {e}")));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// The end of a log, for a message about the process that wrote it.
fn log_tail(process: &Process, log: &std::path::Path) -> String {
    let lines = control::rack::machine::console_tail(log, 8);
    if lines.is_empty() { format!("{} said nothing", process.name()) } else { lines.join("\n  ") }
}
