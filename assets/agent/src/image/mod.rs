//! Writing a disk image: only onto the disk that the order names, on the
//! machine that it names, after control has said "go" (W3, W5).
//!
//! The first mebibyte of the image, which holds boot code and partition table,
//! is kept back and written last. Until everything else is on the disk and has
//! proven right, the disk has no partition table at either end: half an image,
//! or one with a wrong digest, never starts. Written again from its beginning,
//! an order has the same outcome (W10).

pub mod efi;
pub mod fetch;
pub mod gpt;
mod layout;
pub mod seed;
pub mod unpack;

use crate::wipe::erase::Media;
use crate::wipe::{self, Stopped, check_target};
use layout::Layout;
use protocol::report::{DataSource, FirmwareKind, ImageOrder};
use std::io::Read;
use unpack::{Tally, Unpacked, fill};

/// Kept back until the end, bytes: boot code, primary partition table.
pub const HEAD: usize = 1 << 20;
/// Written in one go, bytes: between two of them the order may be withdrawn.
const PIECE: usize = 4 << 20;
/// After so many bytes what was written is waited for: errors of the medium show early.
const SYNC_EVERY: u64 = 256 << 20;
/// Samples read back from random places.
const SAMPLES: usize = 64;
/// Bytes of a sample.
const SAMPLE: usize = 64 << 10;

/// What the work may ask and tell, beside what a wipe may.
pub trait Host: wipe::Host {
    /// The image as served, from its first byte; `length` bytes or an error.
    fn image(&mut self, url: &str, length: u64) -> Box<dyn Read>;
    /// The user data for the installed system.
    ///
    /// # Errors
    /// In words that do not tell the address.
    fn user_data(&mut self, url: &str) -> Result<Vec<u8>, String>;
    /// The firmware's boot variables; none where they cannot be reached.
    ///
    /// # Errors
    /// In words.
    fn variables(&mut self) -> Result<Option<Box<dyn efi::Variables>>, String>;
}

/// Carries out an order; what was done, in words.
///
/// # Errors
/// [`Stopped`]. After the first write the disk is left without partition tables.
pub fn write(order: &ImageOrder, host: &mut dyn Host) -> Result<String, Stopped> {
    if order.sha256.len() != 64 || !order.sha256.bytes().all(|b| b.is_ascii_hexdigit()) || order.length == 0 {
        return Err(Stopped::Failed("the order names no digest or no length".into()));
    }
    let facts = host.facts();
    check_target(&order.target, &facts).map_err(Stopped::Failed)?;
    let disk = wipe::find(&order.disk, &facts.storage).map_err(Stopped::Failed)?;
    let (name, sector) = (disk.name.clone(), u64::from(disk.sector_size.max(512)));
    let mut media = wipe::prepare(&order.disk, false, &facts, host).map_err(Stopped::Failed)?;
    let size = media.size();

    // All that can be known is found out before anything is touched.
    let loader = efi::loader(&order.efi_loader).map_err(Stopped::Failed)?;
    let user_data = match order.data_source {
        DataSource::None => Vec::new(),
        _ => host.user_data(&order.config_url.0).map_err(|why| failed("the configuration cannot be had", &why))?,
    };
    let seed = seed::volume(order, &user_data).map_err(|e| failed("the data source cannot be made", &e))?;
    let unpacked = unpack::unpack(host.image(&order.url, order.length), order.format, order.length);
    let mut unpacked = unpacked.map_err(|e| failed("the image cannot be had", &e))?;
    let mut head = vec![0; HEAD];
    let n = fill(&mut unpacked.reader, &mut head).map_err(|e| failed("the image cannot be had", &e))?;
    head.truncate(n);
    if let Some(length) = unpacked.length.filter(|n| *n > size) {
        return Err(Stopped::Failed(format!("the image of {length} bytes does not fit on the disk of {size} bytes")));
    }
    let wish = layout::Wish {
        sector,
        size,
        grow: order.grow,
        uefi: facts.firmware == FirmwareKind::Uefi,
        seed: seed.as_ref().map(|s| s.len() as u64),
        guid: guid(media.as_mut()),
    };
    let layout = Layout::plan(&head, &wish).map_err(|why| failed("the image does not do", &why))?;

    if !host.confirm() {
        return Err(Stopped::Withdrawn);
    }
    let job = Job { order, loader: &loader, seed: seed.as_deref(), layout: &layout };
    let ended = job.put(media.as_mut(), head, &mut unpacked, host);
    let number = match ended {
        Ok(number) => number,
        Err(stopped) => {
            // The end may hold a part of the image by now.
            return match (clear(media.as_mut()), stopped) {
                (Err(e), Stopped::Failed(why)) => {
                    Err(Stopped::Failed(format!("{why}; and its partition tables cannot be erased: {e}")))
                }
                (_, stopped) => Err(stopped),
            };
        }
    };
    Ok(format!("{} on {name}{}{number}", unpacked.tally.bytes(), layout.words()))
}

/// What is to be written.
struct Job<'a> {
    order: &'a ImageOrder,
    loader: &'a str,
    seed: Option<&'a [u8]>,
    layout: &'a Layout,
}

impl Job<'_> {
    /// From the first write to the last; words about the boot entry.
    fn put(
        &self,
        media: &mut dyn Media,
        mut head: Vec<u8>,
        unpacked: &mut Unpacked,
        host: &mut dyn Host,
    ) -> Result<String, Stopped> {
        clear(media).map_err(|e| failed("the disk cannot be written", &e))?;
        let samples = self.stream(media, head.len() as u64, unpacked, host)?;
        self.check_served(&unpacked.tally)?;
        media.sync().map_err(|e| failed("the disk cannot be written", &e))?;
        self.tell(host, "verifying")?;
        for (offset, bytes) in &samples {
            same(media, *offset, bytes)?;
        }
        let esp = self.layout.esp.as_ref();
        if let Some(esp) = esp
            && !layout::has_file(media, esp, self.layout.sector, self.loader)
                .map_err(|e| failed("its EFI system partition cannot be read", &e))?
        {
            let why = format!("its EFI system partition has no {}; set the loader's path", self.loader);
            return Err(Stopped::Failed(why));
        }

        self.tell(host, "growing")?;
        let pieces = self.layout.pieces(&mut head, self.seed);
        let write = |media: &mut dyn Media, offset: u64, bytes: &[u8]| {
            media.write_at(offset, bytes).map_err(|e| failed("the disk cannot be written", &e))
        };
        for piece in &pieces {
            write(media, piece.offset, &piece.bytes)?;
        }
        media.sync().map_err(|e| failed("the disk cannot be written", &e))?;
        for piece in &pieces {
            same(media, piece.offset, &piece.bytes)?;
        }
        // Only from here on does the disk start.
        write(media, 0, &head)?;
        media.sync().map_err(|e| failed("the disk cannot be written", &e))?;
        same(media, 0, &head)?;
        Ok(esp.map_or_else(String::new, |esp| self.register(esp, host)))
    }

    /// Unpacks everything after the head onto the disk; samples of it.
    fn stream(
        &self,
        media: &mut dyn Media,
        mut offset: u64,
        unpacked: &mut Unpacked,
        host: &mut dyn Host,
    ) -> Result<Vec<(u64, Vec<u8>)>, Stopped> {
        let size = media.size();
        let mut buffer = vec![0; PIECE];
        let (mut samples, mut pieces, mut unsynced) = (Vec::new(), 0_u64, 0);
        loop {
            let go_on = host.tell(&[], "writing", unpacked.tally.bytes(), self.order.length);
            if !go_on {
                return Err(Stopped::Withdrawn);
            }
            let n = match fill(&mut unpacked.reader, &mut buffer) {
                Ok(0) => return Ok(samples),
                Ok(n) => n,
                // Reading ends with an error as well when the order is withdrawn.
                Err(_) if !host.tell(&[], "writing", unpacked.tally.bytes(), self.order.length) => {
                    return Err(Stopped::Withdrawn);
                }
                Err(e) => return Err(failed("the image cannot be had to its end", &e)),
            };
            let part = buffer.get(..n).unwrap_or_default();
            if n as u64 > size.saturating_sub(offset) {
                return Err(Stopped::Failed(format!("the image does not fit on the disk of {size} bytes")));
            }
            let writing = |e| failed(&format!("the disk cannot be written at byte {offset}"), &e);
            media.write_at(offset, part).map_err(writing)?;
            unsynced += n as u64;
            if unsynced >= SYNC_EVERY {
                media.sync().map_err(writing)?;
                unsynced = 0;
            }
            // Of all pieces so far each has the same chance to be among the samples.
            pieces += 1;
            let slot = if samples.len() < SAMPLES {
                samples.push((0, Vec::new()));
                samples.len() - 1
            } else {
                usize::try_from(media.random() % pieces).unwrap_or(usize::MAX)
            };
            if let Some(sample) = samples.get_mut(slot) {
                let at = usize::try_from(media.random() % (n.div_ceil(SAMPLE) as u64)).unwrap_or(0) * SAMPLE;
                let bytes = part.get(at..n.min(at + SAMPLE)).unwrap_or_default();
                *sample = (offset + at as u64, bytes.to_vec());
            }
            offset += n as u64;
        }
    }

    /// Whether what was served is what the order names.
    fn check_served(&self, tally: &Tally) -> Result<(), Stopped> {
        let (bytes, sha256) = (tally.bytes(), tally.sha256());
        if bytes != self.order.length {
            return Err(Stopped::Failed(format!("the image has {bytes} bytes, the order names {}", self.order.length)));
        }
        if !sha256.eq_ignore_ascii_case(&self.order.sha256) {
            let why = format!("the image has the digest {sha256}, the order names {}", self.order.sha256);
            return Err(Stopped::Failed(why));
        }
        Ok(())
    }

    /// The firmware's boot entry. Without one the firmware still finds a loader at the usual place, so a
    /// full or broken store of variables does not undo the installation.
    fn register(&self, esp: &gpt::Partition, host: &mut dyn Host) -> String {
        let done = match host.variables() {
            Ok(Some(mut variables)) => {
                efi::register(variables.as_mut(), &efi::label(&self.order.boot_label), esp, self.loader)
            }
            Ok(None) => Err("the firmware's variables cannot be reached".into()),
            Err(why) => Err(why),
        };
        match done {
            Ok(number) => format!(", boot entry Boot{number:04X}"),
            Err(why) => format!(", no boot entry ({why})"),
        }
    }

    fn tell(&self, host: &mut dyn Host, step: &str) -> Result<(), Stopped> {
        if host.tell(&[], step, self.order.length, self.order.length) { Ok(()) } else { Err(Stopped::Withdrawn) }
    }
}

/// Takes the partition tables and boot code away.
fn clear(media: &mut dyn Media) -> std::io::Result<()> {
    let size = media.size();
    let length = (HEAD as u64).min(size);
    media.write_zeroes(0, length)?;
    media.write_zeroes(size - length, length)?;
    media.sync()
}

/// Reads back what was written.
fn same(media: &mut dyn Media, offset: u64, bytes: &[u8]) -> Result<(), Stopped> {
    let mut there = vec![0; bytes.len()];
    media.read_at(offset, &mut there).map_err(|e| failed("the disk cannot be read back", &e))?;
    if there == bytes {
        return Ok(());
    }
    Err(Stopped::Failed(format!("the disk does not hold what was written at byte {offset}")))
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> Stopped {
    Stopped::Failed(format!("{what}: {why}"))
}

/// A random GUID (RFC 9562 version 4), as on disk.
fn guid(media: &mut dyn Media) -> [u8; 16] {
    let mut guid = [0; 16];
    let (a, b) = guid.split_at_mut(8);
    a.copy_from_slice(&media.random().to_le_bytes());
    b.copy_from_slice(&media.random().to_le_bytes());
    guid[7] = guid[7] & 0x0f | 0x40;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

#[cfg(test)]
mod tests;
