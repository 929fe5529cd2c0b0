//! Work that takes long, done in a thread of its own while the agent goes on
//! reporting: how far it is, and whether the order still stands.

use crate::image::{self, efi, fetch};
use crate::sys::efivars::EfiVars;
use crate::sys::netlink::Netlink;
use crate::talk::Talk;
use crate::wipe::{self, Host, Stopped};
use crate::{bmc, facts, kexec, say, sys, talk};
use protocol::report::{
    BmcFound, BmcOrder, Disk, DiskResult, Facts, ImageOrder, KexecOrder, Level, OrderKind, Progress, Status, WipeOrder,
};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The BMC's device, as the kernel's driver makes it.
const BMC: &str = "/dev/ipmi0";

/// How far the work is, for the next report.
#[derive(Clone, Debug)]
pub struct Live {
    /// How far.
    pub level: Level,
    /// Words.
    pub detail: String,
    /// Numbers.
    pub progress: Progress,
    /// Of a wipe.
    pub disks: Vec<DiskResult>,
    /// Of a BMC's set-up.
    pub bmc: Option<BmcFound>,
}

/// An order being carried out.
pub struct Work {
    /// Its id.
    pub order: u64,
    live: Arc<Mutex<Live>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Work {
    /// Begins an order, if it is one that takes long. `status` is what the agent reports of itself.
    pub fn begin(order: u64, kind: &OrderKind, control: &str, status: Status) -> Option<Self> {
        let run: Box<dyn FnOnce(&mut Machine) + Send> = match kind.clone() {
            OrderKind::Wipe(wipe) => Box::new(move |machine| machine.wipe(&wipe)),
            OrderKind::WriteImage(image) => Box::new(move |machine| machine.write(&image)),
            OrderKind::Kexec(kexec) => Box::new(move |machine| machine.kexec(&kexec)),
            OrderKind::SetUpBmc(bmc) => Box::new(move |machine| machine.set_up_bmc(&bmc)),
            _ => return None,
        };
        let live = Arc::new(Mutex::new(Live {
            level: Level::Running,
            detail: "looking at the machine".into(),
            progress: Progress::default(),
            disks: Vec::new(),
            bmc: None,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let mut host = Machine { talk: Talk::new(control), status, live: live.clone(), stop: stop.clone() };
        let thread = std::thread::spawn(move || run(&mut host));
        Some(Self { order, live, stop, thread: Some(thread) })
    }

    /// How far it is.
    pub fn live(&self) -> Live {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Work {
    /// The order does not stand any more: the work stops at its next step, and only then another begins.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// This machine, as work sees it.
struct Machine {
    talk: Talk,
    status: Status,
    live: Arc<Mutex<Live>>,
    stop: Arc<AtomicBool>,
}

impl Machine {
    fn wipe(&mut self, order: &WipeOrder) {
        let (disks, ended) = wipe::wipe(order, self);
        for d in &disks {
            say!("  {} {:?} {} {}", d.disk.name, d.state, d.method, d.why);
        }
        let ended = ended.map(|()| format!("{} disks are clean", disks.len()));
        self.end(ended, disks);
    }

    fn write(&mut self, order: &ImageOrder) {
        let ended = image::write(order, self);
        self.end(ended.map(|done| format!("image written: {done}")), Vec::new());
    }

    fn end(&mut self, ended: Result<String, Stopped>, disks: Vec<DiskResult>) {
        let (level, detail) = match ended {
            Ok(done) => (Level::Done, done),
            Err(Stopped::Withdrawn) => (Level::Failed, "the order was withdrawn".to_owned()),
            Err(Stopped::Failed(why)) => (Level::Failed, why),
        };
        say!("order {}: {level:?}: {detail}", self.status.order);
        self.change(|live| {
            live.level = level;
            live.detail = detail;
            live.disks = disks;
            live.progress.counter += 1;
        });
    }

    fn set_up_bmc(&mut self, order: &BmcOrder) {
        let done = wipe::check_target(&order.target, &self.facts()).and_then(|()| {
            let mut device = sys::ipmi::Device::open(Path::new(BMC))
                .map_err(|e| format!("this machine's BMC cannot be spoken to ({BMC}: {e})"))?;
            bmc::set_up(order, &mut device, &mut |step| {
                self.change(|live| {
                    live.detail = format!("setting up the BMC: {step}");
                    live.progress.counter += 1;
                });
                !self.stopped()
            })
        });
        let (level, detail, found) = match done {
            Ok(found) => {
                let detail = format!("BMC {} port {} has user {:?}", found.address, found.port, order.user);
                (Level::Done, detail, Some(found))
            }
            Err(why) => (Level::Failed, format!("the BMC: {why}"), None),
        };
        say!("order {}: {level:?}: {detail}", self.status.order);
        self.change(|live| (live.level, live.detail, live.bmc) = (level, detail, found));
    }

    /// Control is told before the machine changes over, and may take the order back until then.
    fn kexec(&mut self, order: &KexecOrder) {
        let prepared = wipe::check_target(&order.target, &self.facts())
            .and_then(|()| kexec::prepare(order, &kexec::folder(), self));
        let why = match prepared {
            Ok(()) => {
                let detail = "the other kernel is loaded; it starts now";
                say!("order {}: {detail}", self.status.order);
                self.change(|live| detail.clone_into(&mut live.detail));
                self.status.level = Level::Running;
                detail.clone_into(&mut self.status.detail);
                match self.talk.status(&self.status) {
                    Ok(answer) if answer.order.id != self.status.order => "the order was withdrawn".to_owned(),
                    // What control does not hear now, it hears of the other kernel.
                    Ok(_) | Err(_) if !self.stopped() => sys::restart_into_loaded().to_string(),
                    Ok(_) | Err(_) => "the order was withdrawn".to_owned(),
                }
            }
            Err(why) => why,
        };
        say!("order {}: Failed: {why}", self.status.order);
        self.change(|live| (live.level, live.detail) = (Level::Failed, why));
    }

    fn change(&self, change: impl FnOnce(&mut Live)) {
        change(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn watch(&self, what: &'static str) -> Fetching {
        Fetching { what, order: self.status.order, live: self.live.clone(), stop: self.stop.clone() }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl kexec::Host for Machine {
    fn open(&mut self, url: &str) -> Result<Box<dyn Read>, String> {
        kexec::open(url)
    }

    fn load(&mut self, kernel: &File, initrd: Option<&File>, args: &str) -> io::Result<()> {
        sys::kexec::load(kernel, initrd, args)
    }

    fn tell(&mut self, step: &str, done: u64) -> bool {
        self.change(|live| {
            live.detail = step.to_owned();
            let counter = live.progress.counter + 1;
            live.progress = Progress { counter, done, total: 0, step: step.to_owned() };
        });
        !self.stopped()
    }

    fn pause(&mut self, failures: u32) {
        std::thread::sleep(talk::back_off(failures));
    }
}

impl Host for Machine {
    fn facts(&mut self) -> Facts {
        let addresses = Netlink::open().and_then(|mut n| n.addresses()).unwrap_or_default();
        facts::collect(Path::new("/"), &addresses, Vec::new())
    }

    fn open(&mut self, disk: &Disk) -> io::Result<Box<dyn wipe::erase::Media>> {
        wipe::open(disk)
    }

    fn confirm(&mut self) -> bool {
        let mut failures = 0;
        while !self.stopped() {
            let why = match self.talk.confirm(&self.status) {
                Ok(answer) if answer.go && answer.order == self.status.order => return true,
                Ok(answer) => answer.why,
                Err(e) => e.to_string(),
            };
            failures += 1;
            self.change(|live| live.detail = format!("control does not say go: {why}"));
            say!("order {}: control does not say go: {why}", self.status.order);
            std::thread::sleep(talk::back_off(failures));
        }
        false
    }

    fn tell(&mut self, disks: &[DiskResult], step: &str, done: u64, total: u64) -> bool {
        self.change(|live| {
            live.disks = disks.to_vec();
            live.detail = format!("{step}, {} %", done.saturating_mul(100).checked_div(total).unwrap_or(100));
            let counter = live.progress.counter + 1;
            live.progress = Progress { counter, done, total, step: step.to_owned() };
        });
        !self.stopped()
    }
}

impl image::Host for Machine {
    fn image(&mut self, url: &str, length: u64) -> Box<dyn Read> {
        Box::new(fetch::Download::new(url, length, Box::new(self.watch("the image"))))
    }

    fn user_data(&mut self, url: &str) -> Result<Vec<u8>, String> {
        fetch::user_data(url, &mut self.watch("the configuration"))
    }

    fn variables(&mut self) -> Result<Option<Box<dyn efi::Variables>>, String> {
        let variables = EfiVars::open().map_err(|e| format!("the firmware's variables cannot be written: {e}"))?;
        Ok(variables.map(|v| -> Box<dyn efi::Variables> { Box::new(v) }))
    }
}

/// Tells of failures to fetch something, and stops fetching when the order is gone.
struct Fetching {
    what: &'static str,
    order: u64,
    live: Arc<Mutex<Live>>,
    stop: Arc<AtomicBool>,
}

impl fetch::Watch for Fetching {
    fn failed(&mut self, count: u32, why: &str) -> bool {
        say!("order {}: {} cannot be fetched ({count}): {why}", self.order, self.what);
        self.live.lock().unwrap_or_else(PoisonError::into_inner).detail = format!("{} is waited for: {why}", self.what);
        self.stands()
    }

    fn stands(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }
}
