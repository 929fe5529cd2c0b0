//! How an NVMe drive erases itself: sanitize, else format (NVM Express Base
//! Specification 2.0, NVM Command Set 1.0). Pure but for the [`Admin`] queue.
//!
//! Both may reach further than one namespace. A drive that has others, which
//! no order names, is not erased this way.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A command for the admin queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Command {
    /// Opcode (Base 2.0 figure 138).
    pub opcode: u8,
    /// Namespace.
    pub nsid: u32,
    /// Command dword 10.
    pub cdw10: u32,
    /// Milliseconds after which the kernel gives it up; 0 is the kernel's own limit.
    pub timeout_ms: u32,
}

/// The admin queue of a drive.
pub trait Admin {
    /// Runs a command; what the drive answers comes into `data`.
    ///
    /// # Errors
    /// The kernel's, or the drive's status.
    fn admin(&mut self, command: Command, data: &mut [u8]) -> io::Result<()>;
    /// Between two looks at a drive that works.
    fn pause(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// How a sanitize erases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sanitize {
    /// Every block, as if it were new.
    Block,
    /// The key that all blocks are written with.
    Crypto,
}

const GET_LOG_PAGE: u8 = 0x02;
const IDENTIFY: u8 = 0x06;
const FORMAT_NVM: u8 = 0x80;
const SANITIZE: u8 = 0x84;
/// All namespaces, in a log page.
const EVERY: u32 = 0xffff_ffff;
/// Sanitize Status (Base 2.0 section 5.16.1.25).
const SANITIZE_STATUS: u32 = 0x81;
/// Sanitize actions (Base 2.0 figure 309), and "Allow Unrestricted Sanitize Exit": a failed sanitize
/// must not leave a drive that refuses everything for ever.
const BLOCK_ERASE: u32 = 2;
const CRYPTO_ERASE: u32 = 4;
const AUSE: u32 = 1 << 3;

/// A format of a big drive may take so long, milliseconds (the specification gives no bound).
const FORMAT_LIMIT_MS: u32 = 6 * 3600 * 1000;
/// A sanitize may take so long; the drive goes on with it over resets and power losses.
const SANITIZE_LIMIT: Duration = Duration::from_secs(12 * 3600);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_secs(2);

/// How a drive's last sanitize stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// There was none, or it went well.
    Idle,
    /// It is at it; 65536 parts are all.
    Running(u16),
    /// It failed.
    Failed,
}

/// How the last sanitize stands.
///
/// # Errors
/// The drive has no such log: it cannot sanitize.
pub fn state(drive: &mut dyn Admin) -> io::Result<State> {
    let mut log = [0; 512];
    let dwords = 512 / 4 - 1;
    let command =
        Command { opcode: GET_LOG_PAGE, nsid: EVERY, cdw10: SANITIZE_STATUS | dwords << 16, ..Command::default() };
    drive.admin(command, &mut log)?;
    let progress = u16::from_le_bytes([log[0], log[1]]);
    Ok(match log[2] & 7 {
        2 => State::Running(progress),
        3 => State::Failed,
        _ => State::Idle,
    })
}

/// Sanitizes the drive. One that is at it already (this machine lost power, the drive went on) is
/// waited for. `progress` rises to 65536.
///
/// # Errors
/// The drive cannot, has other namespaces, or failed.
pub fn sanitize(drive: &mut dyn Admin, how: Sanitize, progress: &AtomicU64) -> io::Result<()> {
    let controller = identify(drive, 0, 1)?;
    let able = u32::from_le_bytes([controller[328], controller[329], controller[330], controller[331]]);
    let (bit, action) = match how {
        Sanitize::Crypto => (1, CRYPTO_ERASE),
        Sanitize::Block => (2, BLOCK_ERASE),
    };
    if able & bit == 0 {
        return Err(unsupported("the drive does not offer it"));
    }
    alone(drive)?;
    if !matches!(state(drive)?, State::Running(_)) {
        let command = Command { opcode: SANITIZE, cdw10: action | AUSE, ..Command::default() };
        drive.admin(command, &mut [])?;
    }
    let begun = Instant::now();
    while begun.elapsed() < SANITIZE_LIMIT {
        match state(drive)? {
            State::Running(done) => progress.store(u64::from(done), Ordering::Relaxed),
            State::Idle => return Ok(()),
            State::Failed => return Err(io::Error::other("the drive says that its sanitize failed")),
        }
        drive.pause(LOOK);
    }
    Err(io::Error::other(format!("the drive was not done after {} h", SANITIZE_LIMIT.as_secs() / 3600)))
}

/// Formats one namespace with "user data erase" (SES = 1), keeping the LBA format in use.
///
/// # Errors
/// The drive cannot, would erase other namespaces too, or failed.
pub fn format(drive: &mut dyn Admin, nsid: u32) -> io::Result<()> {
    let controller = identify(drive, 0, 1)?;
    if u16::from_le_bytes([controller[256], controller[257]]) & 2 == 0 {
        return Err(unsupported("the drive does not offer it"));
    }
    // FNA: bit 0, a format is of all namespaces; bit 1, a secure erase is.
    if controller[524] & 3 != 0 {
        alone(drive)?;
    }
    // FLBAS: bits 3:0 and 6:5 are the LBA format, bit 4 whether metadata follow the data.
    let flbas = u32::from(identify(drive, nsid, 0)?[26]);
    let keep = flbas & 0x0f | (flbas >> 4 & 1) << 4 | (flbas >> 5 & 3) << 12;
    let command = Command { opcode: FORMAT_NVM, nsid, cdw10: keep | 1 << 9, timeout_ms: FORMAT_LIMIT_MS };
    drive.admin(command, &mut [])
}

/// Whether the drive has but one namespace.
fn alone(drive: &mut dyn Admin) -> io::Result<()> {
    let list = identify(drive, 0, 2)?;
    let others = list.chunks_exact(4).skip(1).any(|id| id != [0; 4]);
    if others { Err(unsupported("the drive has other namespaces, which it would erase too")) } else { Ok(()) }
}

fn identify(drive: &mut dyn Admin, nsid: u32, cns: u32) -> io::Result<[u8; 4096]> {
    let mut data = [0; 4096];
    drive.admin(Command { opcode: IDENTIFY, nsid, cdw10: cns, ..Command::default() }, &mut data)?;
    Ok(data)
}

fn unsupported(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A drive that answers as the specification has it.
    #[derive(Default)]
    struct Drive {
        sanicap: u8,
        oacs: u8,
        fna: u8,
        namespaces: u32,
        flbas: u8,
        /// Looks until a sanitize ends.
        busy: u16,
        fails: bool,
        done: Vec<Command>,
    }

    impl Admin for Drive {
        fn admin(&mut self, command: Command, data: &mut [u8]) -> io::Result<()> {
            match (command.opcode, command.cdw10 & 0xff) {
                (IDENTIFY, 1) => (data[256], data[328], data[524]) = (self.oacs, self.sanicap, self.fna),
                (IDENTIFY, 2) => {
                    for n in 1..=self.namespaces {
                        data[n as usize * 4 - 4] = u8::try_from(n).unwrap();
                    }
                }
                (IDENTIFY, 0) => data[26] = self.flbas,
                (GET_LOG_PAGE, SANITIZE_STATUS) => {
                    data[0..2].copy_from_slice(&(1000 * (40 - self.busy)).to_le_bytes());
                    data[2] = match (self.busy, self.fails) {
                        (0, true) => 3,
                        (0, false) => 1,
                        _ => 2,
                    };
                    self.busy = self.busy.saturating_sub(1);
                }
                (SANITIZE, _) => {
                    self.busy = 3;
                    self.done.push(command);
                }
                (FORMAT_NVM, _) => self.done.push(command),
                _ => return Err(io::Error::other("invalid opcode")),
            }
            Ok(())
        }
        fn pause(&mut self, _: Duration) {}
    }

    fn kind(result: io::Result<()>) -> Option<io::ErrorKind> {
        result.err().map(|e| e.kind())
    }

    #[test]
    fn a_sanitize_is_waited_for_and_says_how_far_it_is() {
        let mut drive = Drive { sanicap: 3, namespaces: 1, ..Drive::default() };
        let progress = AtomicU64::new(0);
        sanitize(&mut drive, Sanitize::Block, &progress).unwrap();
        assert_eq!(drive.done[0].cdw10, 0b1010, "block erase, with a way out of a failure");
        assert!(progress.load(Ordering::Relaxed) > 30_000);
        sanitize(&mut drive, Sanitize::Crypto, &progress).unwrap();
        assert_eq!((drive.done.len(), drive.done[1].cdw10), (2, 0b1100));
    }

    #[test]
    fn w10_a_sanitize_that_outlived_a_power_loss_is_not_begun_again() {
        let mut drive = Drive { sanicap: 2, namespaces: 1, busy: 9, ..Drive::default() };
        assert_eq!(state(&mut drive).unwrap(), State::Running(31_000));
        sanitize(&mut drive, Sanitize::Block, &AtomicU64::new(0)).unwrap();
        assert!(drive.done.is_empty());
    }

    #[test]
    fn w06_a_failed_sanitize_is_a_failure() {
        let mut drive = Drive { sanicap: 2, namespaces: 1, fails: true, ..Drive::default() };
        assert_eq!(kind(sanitize(&mut drive, Sanitize::Block, &AtomicU64::new(0))), Some(io::ErrorKind::Other));
    }

    #[test]
    fn w07_other_namespaces_are_not_erased_along() {
        let two = || Drive { sanicap: 3, oacs: 2, namespaces: 2, ..Drive::default() };
        for how in [Sanitize::Block, Sanitize::Crypto] {
            let mut drive = two();
            assert_eq!(kind(sanitize(&mut drive, how, &AtomicU64::new(0))), Some(io::ErrorKind::Unsupported));
            assert!(drive.done.is_empty());
        }
        // A format of one namespace alone is fine, one of all is not.
        let mut drive = two();
        format(&mut drive, 2).unwrap();
        assert_eq!((drive.done.len(), drive.done[0].nsid), (1, 2));
        for fna in [1, 2] {
            let mut drive = Drive { fna, ..two() };
            assert_eq!(kind(format(&mut drive, 2)), Some(io::ErrorKind::Unsupported));
            assert!(drive.done.is_empty());
        }
    }

    #[test]
    fn a_format_erases_user_data_and_keeps_the_lba_format() {
        let mut drive = Drive { oacs: 2, fna: 3, namespaces: 1, flbas: 0b0011_0010, ..Drive::default() };
        format(&mut drive, 1).unwrap();
        assert_eq!(drive.done[0].cdw10, 2 | 1 << 4 | 1 << 9 | 1 << 12);
        let mut cannot = Drive { namespaces: 1, ..Drive::default() };
        assert_eq!(kind(format(&mut cannot, 1)), Some(io::ErrorKind::Unsupported));
    }
}
