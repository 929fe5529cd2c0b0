//! One machine of the rack: its identity, QEMU's command line for it, power.

use super::accel::{self, Accel};
use super::network::Namespace;
use super::process::{self, Process};
use super::qmp::Qmp;
use super::{Firmware, Images, RackError};
use protocol::id::{Mac, MachineId};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::ffi::OsString;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long QEMU may take to open its control socket: 0.2 to 0.4 s on a quiet host.
const STARTING: Duration = Duration::from_secs(20);
/// How long QEMU may take to leave after `quit`.
const LEAVING: Duration = Duration::from_secs(3);
/// Most of a console that [`Machine::console_tail`] reads, bytes.
const TAIL_BYTES: u64 = 64 << 10;

/// How a disk is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// virtio-blk of so many bytes: `/dev/vdX`.
    Virtio(u64),
    /// NVMe of so many bytes: `/dev/nvmeXn1`.
    Nvme(u64),
}

impl Disk {
    /// Its size, bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Virtio(bytes) | Self::Nvme(bytes) => bytes,
        }
    }
}

/// What firmware tries first; the other comes after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum First {
    /// The network card.
    #[default]
    Network,
    /// The disks.
    Disk,
}

impl First {
    /// QEMU's `bootindex` of the network card; those of the disks are between.
    const fn card(self) -> u32 {
        match self {
            Self::Network => 1,
            Self::Disk => 99,
        }
    }
}

/// What a machine is. Its identity follows from its name, so that a rerun is
/// the same machine.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Letters, digits and `-`.
    pub name: String,
    /// Firmware and way of booting.
    pub firmware: Firmware,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// Disks, all empty and sparse.
    pub disks: Vec<Disk>,
    /// UEFI: PXE by IPv6 in place of IPv4.
    pub ipv6: bool,
    /// Requests that its disks do in a second, as old ones do; none: as fast as they can.
    pub iops: Option<u32>,
    /// As its firmware is set up.
    pub first: First,
}

impl Spec {
    /// A small server: 512 MiB, one processor, a disk of 2 GiB, and an NVMe one of 1 GiB where there is UEFI.
    pub fn new(name: &str, firmware: Firmware) -> Self {
        let nvme = firmware.is_uefi().then_some(Disk::Nvme(1 << 30));
        let disks = std::iter::once(Disk::Virtio(2 << 30)).chain(nvme).collect();
        let (first, ipv6) = (First::Network, false);
        Self { name: name.to_owned(), firmware, memory_mib: 512, cpus: 1, disks, ipv6, iops: None, first }
    }

    /// Its hardware address, in QEMU's range.
    pub fn mac(&self) -> Mac {
        let h = self.hash();
        Mac([0x52, 0x54, 0x00, h[0], h[1], h[2]])
    }

    /// Its SMBIOS UUID (RFC 9562 version 8: made by a rule of our own).
    pub fn uuid(&self) -> MachineId {
        let h = self.hash();
        let mut id = [0; 16];
        id.copy_from_slice(&h[..16]);
        id[6] = id[6] & 0x0f | 0x80;
        id[8] = id[8] & 0x3f | 0x80;
        MachineId(id)
    }

    /// Its SMBIOS serial number.
    pub fn serial(&self) -> String {
        format!("RACK-{}", self.name)
    }

    /// The serial number of its disk `index`.
    pub fn disk_serial(&self, index: usize) -> String {
        format!("{}-d{index}", self.name).chars().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect()
    }

    /// The name of its tap on the bridge: at most 15 bytes (IFNAMSIZ).
    pub fn tap(&self) -> String {
        let Mac([.., a, b, c]) = self.mac();
        format!("tap{a:02x}{b:02x}{c:02x}")
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(format!("stoker rack machine {}", self.name)).into()
    }

    fn check(&self) -> Result<(), RackError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.name.is_empty() || self.name.len() > 40 || !self.name.chars().all(plain) {
            return Err(RackError::Spec(format!("{:?} is no name for a machine: letters, digits and '-'", self.name)));
        }
        Ok(())
    }

    /// QEMU's program and arguments, run in the machine's own folder.
    ///
    /// # Errors
    /// [`RackError::NoFirmware`].
    pub fn command_line(&self, images: &Images, accel: Accel) -> Result<(&'static str, Vec<OsString>), RackError> {
        let mut args = Args::default();
        let arm = self.firmware == Firmware::Arm64;
        match (self.firmware, accel) {
            // AAVMF 2025 has no network without the processor's random numbers (FEAT_RNG): `max` has them. Its
            // pointer authentication is left to a cheap algorithm, since the true one doubles the time of a boot.
            (Firmware::Arm64, _) => {
                args.add("-machine virt,gic-version=2 -cpu max,pauth-impdef=on -accel tcg,thread=multi");
            }
            (Firmware::Bios, _) => args.add("-machine pc,graphics=off"),
            _ => args.add("-machine q35"),
        }
        match accel {
            _ if arm => {}
            Accel::Kvm => args.add(&format!("-accel kvm -cpu {}", accel::CPU)),
            Accel::Tcg => args.add("-accel tcg,thread=multi,tb-size=128 -cpu max"),
        }
        args.add("-nodefaults -display none -no-user-config");
        args.add(&format!("-name {} -m {} -smp {} -uuid {}", self.name, self.memory_mib, self.cpus, self.uuid()));
        let smbios = "type=1,manufacturer=stoker,product=virtual-rack";
        args.add(&format!("-smbios {smbios},serial={},uuid={}", self.serial(), self.uuid()));
        args.add(&format!("-netdev tap,id=n0,ifname={},script=no,downscript=no", self.tap()));
        self.add_network_card(images, &mut args);
        self.add_disks(&mut args);
        if self.firmware.is_uefi() {
            let flash = images.flash(self.firmware)?;
            args.0.extend(flash_args(&flash.code, Path::new("vars.fd")));
            // OVMF 2025 uses its network only where it has a source of random numbers.
            args.add("-device virtio-rng-pci");
            let ipv6 = if self.ipv6 { 'y' } else { 'n' };
            args.add(&format!("-fw_cfg name=opt/org.tianocore/IPv6PXESupport,string={ipv6}"));
        }
        if self.firmware == Firmware::UefiHttp || self.ipv6 {
            // Else OVMF tries PXE by IPv4 first and takes a minute to give it up.
            args.add("-fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=n");
        }
        // Appended to: the story of a machine goes over many starts.
        args.add("-chardev file,id=console,path=console.log,append=on -serial chardev:console");
        args.add("-qmp unix:qmp,server=on,wait=off");
        Ok((if arm { "qemu-system-aarch64" } else { "qemu-system-x86_64" }, args.0))
    }

    fn add_network_card(&self, images: &Images, args: &mut Args) {
        let mut card = format!("virtio-net-pci,id=nic0,netdev=n0,mac={},bootindex={}", self.mac(), self.first.card());
        match (self.firmware, images.pxe_rom()) {
            (Firmware::Bios, Some(rom)) => {
                args.0.push("-device".into());
                // SeaBIOS runs a ROM only where its PCI id is the card's: that of a modern-only virtio card.
                let mut card = OsString::from(card + ",disable-legacy=on,romfile=");
                card.push(rom);
                args.0.push(card);
                return;
            }
            // QEMU's own ROM of 2019.
            (Firmware::Bios, None) => {}
            // UEFI drives virtio-net itself; a ROM might hold an iPXE that takes over.
            _ => card.push_str(",romfile="),
        }
        args.add(&format!("-device {card}"));
    }

    fn add_disks(&self, args: &mut Args) {
        for (i, disk) in self.disks.iter().enumerate() {
            let (serial, boot) = (self.disk_serial(i), i + 2);
            let slow = self.iops.map(|n| format!(",throttling.iops-total={n}")).unwrap_or_default();
            args.add(&format!("-drive if=none,id=d{i},format=raw,cache=unsafe,discard=unmap,file=disk{i}.raw{slow}"));
            args.add(&match disk {
                Disk::Virtio(_) => {
                    format!("-device virtio-blk-pci,id=disk{i},drive=d{i},serial={serial},bootindex={boot}")
                }
                Disk::Nvme(_) => format!("-device nvme,id=disk{i},drive=d{i},serial={serial},bootindex={boot}"),
            });
        }
    }
}

/// The two flash drives of a UEFI machine.
pub(super) fn flash_args(code: &Path, vars: &Path) -> Vec<OsString> {
    let drive = |unit: &str, path: &Path| {
        let mut arg = OsString::from(format!("if=pflash,format=raw,unit={unit},file="));
        arg.push(path);
        arg
    };
    vec!["-drive".into(), drive("0,readonly=on", code), "-drive".into(), drive("1", vars)]
}

/// Arguments of which most are words without spaces of their own.
#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn add(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(OsString::from));
    }
}

/// A machine that was switched on. Dropping it switches it off.
#[derive(Debug)]
pub struct Machine {
    spec: Spec,
    dir: PathBuf,
    process: Process,
    /// Its only control connection: QEMU speaks with one client at a time.
    qmp: Qmp,
    resets: u64,
    since: Instant,
}

impl Machine {
    /// Switches a machine on: plugs its tap into the bridge and starts QEMU in
    /// `<folder>/<name>`, where its disks, variables, console and logs are.
    ///
    /// # Errors
    /// What was missing or failed, with a remedy.
    pub fn start(
        spec: Spec,
        network: &Namespace,
        images: &Images,
        accel: Accel,
        folder: &Path,
    ) -> Result<Self, RackError> {
        spec.check()?;
        let dir = folder.join(&spec.name);
        prepare(&spec, images, &dir)?;
        let (program, args) = spec.command_line(images, accel)?;
        network.tap(&spec.tap())?;
        let mut command = network.command(program, "KILL");
        command.args(args).current_dir(&dir);
        let _ = std::fs::write(dir.join("command"), process::shown(&command) + "\n");
        let since = Instant::now();
        let log = dir.join("qemu.log");
        let mut process = Process::spawn(&spec.name, command, &log)?;
        match Qmp::connect(&dir, "qmp", STARTING) {
            Ok(qmp) => Ok(Self { spec, dir, process, qmp, resets: 0, since }),
            Err(_) if process.ended().is_some() => {
                let why = std::fs::read_to_string(&log).unwrap_or_default().trim().replace('\n', "; ");
                Err(RackError::Ended { name: spec.name, why })
            }
            Err(e) => Err(RackError::Qmp { name: spec.name, why: e.to_string() }),
        }
    }

    /// What it is.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// When it was switched on.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether it runs.
    pub fn is_on(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// [`RackError::Qmp`].
    pub fn reset(&mut self) -> Result<(), RackError> {
        self.execute("system_reset", Value::Null)
    }

    /// Presses the power button of ACPI: the operating system is asked to end.
    ///
    /// # Errors
    /// [`RackError::Qmp`].
    pub fn press_power(&mut self) -> Result<(), RackError> {
        self.execute("system_powerdown", Value::Null)
    }

    /// What the firmware tries first from the next reset on.
    ///
    /// # Errors
    /// [`RackError::Qmp`].
    pub fn set_first(&mut self, first: First) -> Result<(), RackError> {
        let index = json!({ "path": "/machine/peripheral/nic0", "property": "bootindex", "value": first.card() });
        self.execute("qom-set", index)
    }

    /// How often it was reset since it was switched on, by itself or from outside.
    ///
    /// # Errors
    /// [`RackError::Qmp`].
    pub fn resets(&mut self) -> Result<u64, RackError> {
        // An answer brings the events before it along.
        self.execute("query-status", Value::Null)?;
        self.resets += self.qmp.events().iter().filter(|e| *e == "RESET").count() as u64;
        Ok(self.resets)
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<(), RackError> {
        let done = self.qmp.execute(command, arguments);
        done.map(drop).map_err(|e| RackError::Qmp { name: self.spec.name.clone(), why: e.to_string() })
    }

    /// Switches it off at once; the folder with its disks and console stays.
    pub fn stop(&mut self) {
        if self.is_on() {
            let _ = self.qmp.execute("quit", Value::Null);
            self.process.wait(LEAVING);
            self.process.stop(Duration::from_secs(1));
        }
    }

    /// The file that its serial console is written to.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The last lines of the console, control characters removed.
    pub fn console_tail(&self, lines: usize) -> Vec<String> {
        console_tail(&self.console(), lines)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn prepare(spec: &Spec, images: &Images, dir: &Path) -> Result<(), RackError> {
    std::fs::create_dir_all(dir).map_err(RackError::file(dir))?;
    let stale = ["qemu.log", "qmp"].map(|name| dir.join(name));
    stale.iter().for_each(|path| drop(std::fs::remove_file(path)));
    let vars = dir.join("vars.fd");
    if spec.firmware.is_uefi() && !vars.exists() {
        std::fs::copy(images.flash(spec.firmware)?.vars, &vars).map_err(RackError::file(&vars))?;
        // A template from a package may be read-only, and `copy` keeps that.
        let file = std::fs::File::options().read(true).open(&vars).map_err(RackError::file(&vars))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        file.set_permissions(mode).map_err(RackError::file(&vars))?;
    }
    for (i, disk) in spec.disks.iter().enumerate() {
        let path = dir.join(format!("disk{i}.raw"));
        let file = std::fs::File::options().create(true).append(true).open(&path).map_err(RackError::file(&path))?;
        file.set_len(disk.bytes()).map_err(RackError::file(&path))?;
    }
    Ok(())
}

/// The last lines of a console log, for people: what a terminal would have
/// shown, without escape sequences and control characters.
pub fn console_tail(path: &Path, lines: usize) -> Vec<String> {
    let mut bytes = Vec::new();
    if let Ok(mut file) = std::fs::File::open(path) {
        let len = file.metadata().map_or(0, |m| m.len());
        let _ = file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)));
        let _ = file.take(TAIL_BYTES).read_to_end(&mut bytes);
    }
    let text = plain_text(&bytes);
    let all: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|&line| line.to_owned()).collect()
}

fn plain_text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            // ECMA-48: ESC [ parameters final-byte, or ESC and one more.
            0x1b if rest.peek() == Some(&b'[') => {
                rest.next();
                while rest.next().is_some_and(|b| !(0x40..=0x7e).contains(&b)) {}
            }
            0x1b => drop(rest.next()),
            b'\n' => out.push('\n'),
            // A carriage return alone redraws a line: show each drawing as its own.
            b'\r' if rest.peek() != Some(&b'\n') => out.push('\n'),
            b'\t' => out.push(' '),
            0x20..=0x7e => out.push(char::from(byte)),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(spec: &Spec, images: &Images) -> String {
        let (program, args) = spec.command_line(images, Accel::Tcg).unwrap();
        let args: Vec<_> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
        format!("{program} {}", args.join(" "))
    }

    #[test]
    fn identity_follows_from_the_name_and_differs_between_names() {
        let (a, b) = (Spec::new("uefi-1", Firmware::Uefi), Spec::new("uefi-2", Firmware::Uefi));
        assert_eq!((a.mac(), a.uuid()), (Spec::new("uefi-1", Firmware::Bios).mac(), a.uuid()));
        assert_ne!(a.mac(), b.mac());
        assert!(a.mac().to_string().starts_with("52:54:00:") && !a.mac().is_group());
        assert_eq!(&a.uuid().to_string()[14..15], "8");
        assert!(a.tap().len() <= 15);
        let long = Spec::new("a-machine-with-a-long-name", Firmware::Bios);
        assert_eq!(long.disk_serial(1), "e-with-a-long-name-d1"[1..]);
    }

    #[test]
    fn each_firmware_gets_its_own_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("firmware");
        std::fs::create_dir(&own).unwrap();
        for name in ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "AAVMF_CODE.fd", "AAVMF_VARS.fd"] {
            std::fs::write(own.join(name), "x").unwrap();
        }
        let images = Images::new(Some(dir.path()));
        let bios = line(&Spec::new("b", Firmware::Bios), &images);
        assert!(bios.contains("pc,graphics=off") && !bios.contains("pflash") && !bios.contains("romfile"), "{bios}");
        let uefi = line(&Spec::new("u", Firmware::Uefi), &images);
        assert!(
            uefi.contains("OVMF_CODE_4M.fd") && uefi.contains("romfile=") && !uefi.contains("IPv4PXESupport"),
            "{uefi}"
        );
        let http = line(&Spec::new("h", Firmware::UefiHttp), &images);
        assert!(http.contains("IPv4PXESupport,string=n"), "{http}");
        let arm = line(&Spec::new("a", Firmware::Arm64), &images);
        assert!(arm.starts_with("qemu-system-aarch64") && arm.contains("AAVMF_CODE.fd"), "{arm}");
        std::fs::write(own.join("pxe-virtio.rom"), "x").unwrap();
        let bios = line(&Spec::new("b", Firmware::Bios), &images);
        assert!(bios.contains("disable-legacy=on,romfile=") && bios.contains("pxe-virtio.rom"), "{bios}");
    }

    #[test]
    fn a_name_that_could_break_a_command_line_is_refused() {
        for bad in ["", "a b", "a,b", "../x", "é"] {
            assert!(Spec::new(bad, Firmware::Bios).check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_console_is_shown_without_its_control_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        std::fs::write(&path, b"\x1b[2J\x1b[01;01HiPXE 1.21\r\nabc 10%\rabc 100%\r\n\x07\x80last\r\n\r\n").unwrap();
        assert_eq!(console_tail(&path, 3), ["abc 10%", "abc 100%", "last"]);
        assert_eq!(console_tail(&dir.path().join("none"), 3), Vec::<String>::new());
    }
}
