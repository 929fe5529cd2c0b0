//! A QEMU machine without a rack around it: a disk, a network to this host's
//! loopback, and the console to wait on.

use anyhow::{Context as _, Result, bail};
use control::rack::process::dies_with_us;
use control::rack::{Firmware, Images};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How often the console is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// This host's loopback as the machine sees it (QEMU's user network).
pub const HOST: &str = "10.0.2.2";

/// What the machine starts.
#[derive(Clone, Copy)]
pub enum Boot<'a> {
    /// The firmware its disk.
    Disk,
    /// The firmware what its own boot entries say.
    Entries,
    /// QEMU a kernel with a ramdisk and arguments, as iPXE does.
    Direct {
        /// Linux.
        kernel: &'a Path,
        /// Its initial ramdisk.
        initrd: &'a Path,
        /// Its arguments.
        args: &'a str,
    },
}

/// A machine that ends with the test.
pub struct Guest {
    child: Child,
    console: PathBuf,
}

impl Guest {
    /// Switches one on. `folder` is the machine's own; UEFI keeps its variables there from start to start.
    /// A restart of the machine ends it.
    ///
    /// # Errors
    /// When QEMU or the firmware is missing.
    pub fn start(
        folder: &Path,
        firmware: Firmware,
        bundle: Option<&Path>,
        disk: &Path,
        boot: Boot<'_>,
    ) -> Result<Self> {
        let mut qemu = dies_with_us("qemu-system-x86_64", "KILL");
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512", "-nodefaults"]);
        qemu.args(["-display", "none", "-no-user-config", "-no-reboot"]);
        if firmware.is_uefi() {
            let flash = Images::new(bundle).flash(firmware)?;
            let vars = folder.join("vars.fd");
            if !vars.exists() {
                fs::copy(&flash.vars, &vars)?;
            }
            let drive = |at: &str, path: &Path| format!("if=pflash,format=raw,{at},file={}", path.display());
            qemu.args(["-drive", &drive("unit=0,readonly=on", &flash.code), "-drive", &drive("unit=1", &vars)]);
        }
        if let Boot::Direct { kernel, initrd, args } = boot {
            qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", args]);
        }
        qemu.args(["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="]);
        qemu.arg("-drive").arg(format!("if=none,id=d,format=raw,cache=unsafe,file={}", disk.display()));
        // With an index QEMU tells the firmware an order of its own.
        let index = if matches!(boot, Boot::Disk) { ",bootindex=1" } else { "" };
        qemu.args(["-device", &format!("virtio-blk-pci,drive=d,serial=DISK1{index}")]);
        let console = folder.join("console.log");
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        let log = fs::File::create(folder.join("qemu.log"))?;
        let child = qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Ok(Self { child: child.context("no qemu-system-x86_64 (package qemu-system-x86)")?, console })
    }

    /// Waits until a line of the console holds `words`; that line.
    ///
    /// # Errors
    /// With the console, when the machine ends before or the time is up.
    pub fn line(&mut self, words: &str, limit: Duration) -> Result<String> {
        let began = Instant::now();
        loop {
            let ended = self.child.try_wait()?;
            let text = self.console();
            // The last line may still be in the making.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if let Some(line) = whole.lines().find(|line| line.contains(words)) {
                return Ok(line.trim().to_owned());
            }
            if ended.is_some() || began.elapsed() > limit {
                bail!("{words:?} is not on the console after {:?} ({ended:?}):\n{text}", began.elapsed());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until the machine has switched off or restarted.
    ///
    /// # Errors
    /// With the console, when the time is up.
    pub fn ended(&mut self, limit: Duration) -> Result<()> {
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > limit {
                bail!("the machine still runs after {limit:?}:\n{}", self.console());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// All that the machine has said.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
