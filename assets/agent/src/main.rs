//! stoker-agent: PID 1 of the discovery initramfs.
//!
//! By hand: `stoker-agent --dump` prints the inventory; `stoker-agent --once
//! stoker.control=http://HOST:PORT` says hello once. Neither touches the machine.
#![forbid(unsafe_code)]

use agent::cmdline::{self, Args};
use agent::modules::Modules;
use agent::net::{self, Network};
use agent::orders::{Action, Progress};
use agent::sys::netlink::{InterfaceAddress, Netlink};
use agent::talk::{self, Failure, Talk};
use agent::work::Work;
use agent::{console, facts, link, say, sys};
use protocol::id::Mac;
use protocol::report::{Answer, CURRENT, Facts, Hello, Level, Status};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Rounds in which newly loaded drivers may show further devices.
const DRIVER_ROUNDS: usize = 16;
/// Disks must have stopped appearing for this long; and at most this long is waited for it.
const SETTLED: Duration = Duration::from_millis(300);
const SETTLE_PATIENCE: Duration = Duration::from_secs(20);
/// After so many failures in a row to reach control another address is tried.
const FAILURES_PER_ADDRESS: u32 = 4;
/// Times that control is told of a restart before it is done.
const FAREWELLS: u32 = 3;
/// Gaps reported at most.
const MAX_GAPS: usize = 64;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return by_hand(&std::env::args().skip(1).collect::<Vec<_>>());
    }
    let mut gaps = sys::mount_all();
    console::open();
    let args = cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    say!(
        "version {} on Linux {}, {:.1} s after power",
        env!("CARGO_PKG_VERSION"),
        sys::kernel_release(),
        sys::uptime_s()
    );
    gaps.extend(args.complaints.iter().cloned());

    let mut modules = Modules::open(&Path::new("/lib/modules").join(sys::kernel_release()));
    load_drivers(&mut modules);
    load_firmware_interfaces(&mut modules);
    settle(&mut modules);
    say!("drivers loaded at {:.1} s", sys::uptime_s());

    let link = net::wait_for_boot_interface(args.mac, || load_drivers(&mut modules));
    let Some(link) = link else { hold("no network interface has a link; check cables and `stoker.mac=`") };
    let boot_mac = args.mac.or(Some(link.mac));
    let mut network = Network::start(link, &args);
    let Some(control) = args.control.as_deref() else {
        hold("the command line has no stoker.control=http://HOST:PORT")
    };

    gaps.extend(modules.failures.iter().cloned());
    let hello = hello(&args, boot_mac, gaps);
    tell_facts(&hello.facts);
    let talk = Talk::new(control);
    let answer = introduce(&talk, &hello, || network.try_otherwise());
    std::thread::spawn(move || network.keep());
    obey(&talk, control, &hello, answer)
}

/// Loads drivers until no further device appears.
fn load_drivers(modules: &mut Modules) {
    for _ in 0..DRIVER_ROUNDS {
        let wanted = modules.wanted(Path::new("/sys/devices"));
        if wanted.network.is_empty() && wanted.others.is_empty() {
            return;
        }
        modules.load_all(&wanted.network);
        net::raise_all();
        modules.load_all(&wanted.others);
    }
}

/// What no modalias asks for: the UEFI variables, and the device file of a BMC.
fn load_firmware_interfaces(modules: &mut Modules) {
    if Path::new("/sys/firmware/efi").exists() {
        modules.load("efivarfs");
        if let Err(e) = sys::mount_efivars() {
            say!("UEFI variables cannot be mounted: {e}");
        }
    }
    let table = facts::smbios::read(Path::new("/sys/firmware/dmi/tables"));
    if table.is_ok_and(|table| table.describes_bmc()) || Path::new("/sys/module/ipmi_si").exists() {
        modules.load("ipmi_si");
        modules.load("ipmi_devintf");
    }
}

/// Waits until disks have stopped appearing. Loading a driver waits for its own
/// probing already; this is for the buses that probe on their own time.
fn settle(modules: &mut Modules) {
    let disks = || {
        let count = |folder: &str| std::fs::read_dir(folder).map_or(0, Iterator::count);
        let nvme_starting = std::fs::read_dir("/sys/class/nvme").into_iter().flatten().flatten().any(|controller| {
            matches!(link::text(&controller.path(), "state").as_deref(), Some("new" | "connecting" | "resetting"))
        });
        (count("/sys/block"), count("/sys/class/net"), nvme_starting)
    };
    let start = Instant::now();
    let (mut last, mut since) = (disks(), Instant::now());
    while start.elapsed() < SETTLE_PATIENCE && (last.2 || since.elapsed() < SETTLED) {
        std::thread::sleep(Duration::from_millis(25));
        let now = disks();
        if now != last {
            load_drivers(modules);
            (last, since) = (now, Instant::now());
        }
    }
}

fn hello(args: &Args, boot_mac: Option<Mac>, gaps: Vec<String>) -> Hello {
    let mut facts = facts::collect(Path::new("/"), &addresses(), gaps);
    facts.gaps.truncate(MAX_GAPS);
    Hello {
        version: CURRENT,
        agent: env!("CARGO_PKG_VERSION").to_string(),
        boot_id: sys::random().iter().map(|b| format!("{b:02x}")).collect(),
        attempt: args.attempt.clone(),
        boot_mac,
        uptime_s: sys::uptime_s(),
        facts,
    }
}

fn addresses() -> Vec<InterfaceAddress> {
    Netlink::open().and_then(|mut netlink| netlink.addresses()).unwrap_or_default()
}

fn tell_facts(facts: &Facts) {
    let uuid = facts.system.uuid.map_or_else(|| "without UUID".to_string(), |uuid| uuid.to_string());
    let (cores, memory) = (facts.compute.total_core_count, facts.memory.total_bytes >> 20);
    let (disks, nics) = (facts.storage.len(), facts.network.len());
    say!(
        "{} {} {uuid}: {cores} cores, {memory} MiB, {disks} disks, {nics} interfaces",
        facts.system.manufacturer,
        facts.system.product_name
    );
    facts.gaps.iter().for_each(|gap| say!("not found out: {gap}"));
}

/// Says hello until control answers, however long that takes.
fn introduce(talk: &Talk, hello: &Hello, mut try_otherwise: impl FnMut()) -> Answer {
    let mut failures = 0;
    loop {
        let mut now = Hello { uptime_s: sys::uptime_s(), ..hello.clone() };
        // Another address may have been tried since, and links come and go.
        now.facts.network = facts::nics::list(Path::new("/sys"), &addresses());
        match talk.hello(&now) {
            Ok(answer) => {
                say!("control knows this machine, {:.1} s after power", sys::uptime_s());
                return answer;
            }
            Err(e) => {
                failures += 1;
                say!("no answer from control ({failures}): {e}");
                if failures % FAILURES_PER_ADDRESS == 0 {
                    try_otherwise();
                }
                std::thread::sleep(talk::back_off(failures));
            }
        }
    }
}

/// Reports and does what is ordered, for ever.
fn obey(talk: &Talk, control: &str, hello: &Hello, mut answer: Answer) -> ! {
    let mut progress = Progress::default();
    let mut work: Option<Work> = None;
    let mut failures = 0;
    loop {
        let before = progress.order;
        if work.as_ref().is_some_and(|w| w.order != answer.order.id) {
            // Not before the old work has stopped does anything else begin.
            work = None;
        }
        if let Some(action) = progress.take(&answer.order, true) {
            say!("order {}: {}", progress.order, progress.detail);
            match action {
                Action::Work => {
                    work = Work::begin(answer.order.id, &answer.order.kind, control, status(hello, &progress, None));
                }
                action => act(talk, hello, &mut progress, action),
            }
        } else if progress.order != before {
            say!("order {}: {:?} {}", progress.order, progress.level, progress.detail);
        }
        let wait = if failures == 0 { talk::poll_after(answer.poll_seconds) } else { talk::back_off(failures) };
        std::thread::sleep(wait);
        match talk.status(&status(hello, &progress, work.as_ref())) {
            Ok(next) => (answer, failures) = (next, 0),
            Err(Failure::Unknown(_)) => {
                say!("control has forgotten this machine; saying hello again");
                answer = introduce(talk, hello, || {});
                failures = 0;
            }
            Err(e) => {
                failures += 1;
                if failures.is_power_of_two() {
                    say!("no answer from control ({failures}): {e}");
                }
            }
        }
    }
}

/// Tells control what is about to happen, so that it does not wait for more, then does it.
fn act(talk: &Talk, hello: &Hello, progress: &mut Progress, action: Action) {
    for _ in 0..FAREWELLS {
        match talk.status(&status(hello, progress, None)) {
            // Control may have thought better of it in the meantime.
            Ok(answer) if answer.order.id != progress.order => {
                return progress.failed("order withdrawn before it was begun");
            }
            Ok(_) => break,
            Err(_) => std::thread::sleep(talk::back_off(1)),
        }
    }
    let error = match action {
        Action::Restart => sys::restart(),
        Action::PowerOff => sys::power_off(),
        Action::Work => return,
    };
    say!("order {} failed: {error}", progress.order);
    progress.failed(&error.to_string());
}

fn status(hello: &Hello, progress: &Progress, work: Option<&Work>) -> Status {
    let live = work.map(Work::live);
    Status {
        version: CURRENT,
        boot_id: hello.boot_id.clone(),
        attempt: hello.attempt.clone(),
        uuid: hello.facts.system.uuid,
        boot_mac: hello.boot_mac,
        order: progress.order,
        level: live.as_ref().map_or(progress.level, |l| l.level),
        detail: live.as_ref().map_or_else(|| progress.detail.clone(), |l| l.detail.clone()),
        progress: live.as_ref().map(|l| l.progress.clone()),
        bmc: live.as_ref().and_then(|l| l.bmc.clone()),
        disks: live.map(|l| l.disks).unwrap_or_default(),
    }
}

/// There is nothing to be done, and PID 1 must not end: that would be a kernel panic and a restart.
fn hold(why: &str) -> ! {
    loop {
        say!("holding: {why}");
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Run by a person on a running system: looks, and changes nothing.
fn by_hand(words: &[String]) -> ExitCode {
    const USAGE: &str =
        "usage: stoker-agent --dump | --once stoker.control=http://HOST:PORT [stoker.mac=MAC] [stoker.attempt=ID]";
    let (flags, settings): (Vec<&str>, Vec<&str>) = words.iter().map(String::as_str).partition(|w| w.starts_with("--"));
    let args = cmdline::parse(&settings.join(" "));
    let hello = hello(&args, args.mac, args.complaints.clone());
    match (flags.as_slice(), args.control.as_deref()) {
        (["--dump"], _) => match serde_json::to_string_pretty(&hello.facts) {
            Ok(text) => println!("{text}"),
            Err(e) => return failed(&e.to_string()),
        },
        (["--once"], Some(control)) => match Talk::new(control).hello(&hello) {
            Ok(answer) => {
                let mut progress = Progress::default();
                progress.take(&answer.order, false);
                println!("control answers with order {}: {:?} {}", answer.order.id, progress.level, progress.detail);
                if progress.level == Level::Failed {
                    return ExitCode::FAILURE;
                }
            }
            Err(e) => return failed(&e.to_string()),
        },
        _ => return failed(USAGE),
    }
    ExitCode::SUCCESS
}

fn failed(why: &str) -> ExitCode {
    eprintln!("stoker-agent: {why}");
    ExitCode::FAILURE
}
