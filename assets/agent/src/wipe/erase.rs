//! One disk: which ways of erasing it are tried, in which order, and how it is
//! found out that it is erased. Pure but for the [`Media`].

use protocol::report::{DiskState, WipeMethod};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Bytes erased in one go: between two of them the order may be withdrawn.
pub const STEP: u64 = 64 << 20;
/// Samples read back at random places, beside both ends.
const SAMPLES: u32 = 64;
/// Bytes of a sample.
const SAMPLE: usize = 64 << 10;
/// Both ends that are read back as a whole, and that [`WipeMethod::Fast`] overwrites: partition
/// tables, boot code, superblocks, RAID metadata, backup GPT.
const END: u64 = 16 << 20;

/// A device that erases itself says nothing for hours: so often control is told that it is at it (W9).
const BEAT: Duration = Duration::from_secs(2);
/// All of a device's own erase, in its parts.
const WHOLE: u64 = 65_536;

/// How a device erases itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnWay {
    /// NVMe sanitize, block erase.
    NvmeSanitizeBlock,
    /// NVMe sanitize, crypto erase.
    NvmeSanitizeCrypto,
    /// NVMe format with user data erase.
    NvmeFormat,
    /// ATA SECURITY ERASE UNIT.
    SecureErase,
}

/// A disk that can be erased.
pub trait Media: Send {
    /// Bytes.
    fn size(&self) -> u64;
    /// Reads from the medium itself, not from a cache.
    ///
    /// # Errors
    /// The kernel's.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes bytes.
    ///
    /// # Errors
    /// The kernel's.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes zeroes.
    ///
    /// # Errors
    /// The kernel's.
    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()>;
    /// Has the device make zeroes of a range (BLKZEROOUT).
    ///
    /// # Errors
    /// The kernel's, where it cannot.
    fn zero_out(&mut self, offset: u64, length: u64) -> io::Result<()>;
    /// Discards a range (BLKDISCARD).
    ///
    /// # Errors
    /// The kernel's, where it cannot.
    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()>;
    /// Discards a range and all copies of it (BLKSECDISCARD).
    ///
    /// # Errors
    /// The kernel's, where it cannot.
    fn secure_discard(&mut self, offset: u64, length: u64) -> io::Result<()>;
    /// The device's own erase of everything. `progress` rises to 65536 where the device tells it.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where it has none, else why it failed.
    fn own_erase(&mut self, way: OwnWay, progress: &AtomicU64) -> io::Result<()>;
    /// Whether the device is erasing itself already, or has failed at it: an order that a power loss
    /// cut off. Its old contents are not to be had any more.
    fn is_erasing(&mut self) -> bool {
        false
    }
    /// Everything written is on the medium, and caches are empty.
    ///
    /// # Errors
    /// The kernel's.
    fn sync(&mut self) -> io::Result<()>;
    /// A random number.
    fn random(&mut self) -> u64;
}

/// What erased a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Erased {
    /// Its name, as [`protocol::report::DiskResult::method`] lists them.
    pub method: &'static str,
    /// Samples that were read back.
    pub verified: u32,
    /// What was tried before and refused, in words.
    pub refused: String,
}

/// One way of erasing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Own(OwnWay),
    SecureDiscard,
    Discard,
    ZeroOut,
    Zeroes,
    /// Discard where that is possible, zeroes at both ends.
    Ends,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Own(OwnWay::NvmeSanitizeBlock) => "nvme-sanitize-block",
            Self::Own(OwnWay::NvmeSanitizeCrypto) => "nvme-sanitize-crypto",
            Self::Own(OwnWay::NvmeFormat) => "nvme-format",
            Self::Own(OwnWay::SecureErase) => "ata-secure-erase",
            Self::SecureDiscard => "secure-discard",
            Self::Discard => "discard",
            Self::ZeroOut => "zero-out",
            Self::Zeroes => "zeroes",
            Self::Ends => "fast",
        }
    }
}

/// The ways of a method, the strongest first.
const fn ways(method: WipeMethod) -> &'static [Way] {
    use OwnWay::{NvmeFormat, NvmeSanitizeBlock, NvmeSanitizeCrypto, SecureErase};
    match method {
        WipeMethod::Auto => &[
            Way::Own(NvmeSanitizeBlock),
            Way::Own(NvmeSanitizeCrypto),
            Way::Own(NvmeFormat),
            Way::Own(SecureErase),
            Way::SecureDiscard,
            Way::Discard,
            Way::ZeroOut,
            Way::Zeroes,
        ],
        WipeMethod::Secure => &[
            Way::Own(NvmeSanitizeBlock),
            Way::Own(NvmeSanitizeCrypto),
            Way::Own(NvmeFormat),
            Way::Own(SecureErase),
            Way::SecureDiscard,
        ],
        WipeMethod::Zero => &[Way::ZeroOut, Way::Zeroes],
        WipeMethod::Fast => &[Way::Ends],
    }
}

/// Erases a disk by the first way that works and can be verified. `tell` is told how far it is and
/// says whether to go on.
///
/// # Errors
/// Why it is not clean.
pub fn erase(
    media: &mut dyn Media,
    method: WipeMethod,
    tell: &mut dyn FnMut(DiskState, &str, u64) -> bool,
) -> Result<Erased, String> {
    let mut refused: Vec<String> = Vec::new();
    let mut lacking: Vec<String> = Vec::new();
    for way in ways(method) {
        if !tell(DiskState::Erasing, way.name(), 0) {
            return Err("withdrawn".into());
        }
        let name = match run(media, *way, tell) {
            Ok(Some(name)) => name,
            Ok(None) => return Err("withdrawn".into()),
            // Every disk lacks most ways; that is worth a word only where nothing is left.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                lacking.push(format!("{}: {e}", way.name()));
                continue;
            }
            Err(e) => {
                refused.push(format!("{}: {e}", way.name()));
                continue;
            }
        };
        if !tell(DiskState::Verifying, name, media.size()) {
            return Err("withdrawn".into());
        }
        match verify(media, *way == Way::Ends) {
            Ok(verified) => return Ok(Erased { method: name, verified, refused: refused.join("; ") }),
            Err(why) => refused.push(format!("{name}: {why}")),
        }
    }
    refused.append(&mut lacking);
    Err(format!("no way of erasing worked: {}", refused.join("; ")))
}

/// One way over the whole disk; `None`: withdrawn.
fn run(
    media: &mut dyn Media,
    way: Way,
    tell: &mut dyn FnMut(DiskState, &str, u64) -> bool,
) -> io::Result<Option<&'static str>> {
    let size = media.size();
    match way {
        Way::Own(own) => {
            let goes_on = own_erase(media, own, way.name(), tell)?;
            media.sync()?;
            return Ok(goes_on.then_some(way.name()));
        }
        Way::Ends => {
            // Only a help: what counts is written below.
            let _ = media.discard(0, size);
            let end = END.min(size);
            media.write_zeroes(0, end)?;
            media.write_zeroes(size - end, end)?;
            media.sync()?;
            return Ok(Some(way.name()));
        }
        _ => {}
    }
    let mut done = 0;
    while done < size {
        let length = STEP.min(size - done);
        match way {
            Way::SecureDiscard => media.secure_discard(done, length)?,
            Way::Discard => media.discard(done, length)?,
            Way::ZeroOut => media.zero_out(done, length)?,
            _ => media.write_zeroes(done, length)?,
        }
        done += length;
        if !tell(DiskState::Erasing, way.name(), done) {
            return Ok(None);
        }
    }
    media.sync()?;
    Ok(Some(way.name()))
}

/// The device's own erase, in a thread of its own, so that control hears of it in the meantime.
/// Nobody can stop the device: a withdrawal (false) counts when it has ended.
fn own_erase(
    media: &mut dyn Media,
    way: OwnWay,
    name: &'static str,
    tell: &mut dyn FnMut(DiskState, &str, u64) -> bool,
) -> io::Result<bool> {
    let (size, progress) = (media.size(), AtomicU64::new(0));
    let (done, ended) = channel();
    let mut goes_on = true;
    std::thread::scope(|scope| {
        let progress = &progress;
        scope.spawn(move || done.send(media.own_erase(way, progress)));
        loop {
            match ended.recv_timeout(BEAT) {
                Ok(result) => return result.map(|()| goes_on),
                Err(RecvTimeoutError::Timeout) => {
                    let part = progress.load(Ordering::Relaxed).min(WHOLE);
                    goes_on &= tell(DiskState::Erasing, name, size / WHOLE * part);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the erasing thread died")),
            }
        }
    })
}

/// Reads both ends and random places back; how many samples were erased, or the first that is not.
fn verify(media: &mut dyn Media, ends_only: bool) -> Result<u32, String> {
    let size = media.size();
    let end = END.min(size);
    let mut buffer = vec![0; SAMPLE];
    let mut places = Vec::new();
    for from in [0, size - end] {
        places.extend((0..end.div_ceil(SAMPLE as u64)).map(|i| from + i * SAMPLE as u64));
    }
    if !ends_only {
        let slots = size.div_ceil(SAMPLE as u64).max(1);
        places.extend((0..SAMPLES).map(|_| media.random() % slots * SAMPLE as u64));
    }
    let mut verified = 0;
    for at in places {
        let length = usize::try_from((size - at).min(SAMPLE as u64)).unwrap_or(SAMPLE);
        let Some(part) = buffer.get_mut(..length) else { continue };
        media.read_at(at, part).map_err(|e| format!("cannot be read back at byte {at}: {e}"))?;
        // Devices show erased blocks as all zeroes or all ones.
        let first = part.first().copied().unwrap_or(0);
        if !matches!(first, 0 | 0xff) || part.iter().any(|b| *b != first) {
            return Err(format!("data is still there at byte {at}"));
        }
        verified += 1;
    }
    Ok(verified)
}
