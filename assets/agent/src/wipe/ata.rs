//! How an ATA drive erases itself: SECURITY ERASE UNIT (ATA/ATAPI Command Set,
//! ACS-3, sections 4.18 and 7.41 to 7.46). Pure but for the [`Drive`].
//!
//! The erase needs a password on the drive. Ours is no secret and always the
//! same, so that a drive whose machine lost power in between is not locked for
//! ever: the next agent unlocks it and goes on. A password of somebody else's
//! is left alone.

use std::io;

/// How a command moves data.
#[derive(Debug)]
pub enum Data<'a> {
    /// Not at all.
    None,
    /// One sector to the drive.
    Out(&'a [u8; 512]),
    /// One sector from it.
    In(&'a mut [u8; 512]),
}

/// A drive that takes ATA commands.
pub trait Drive {
    /// Runs one.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::Unsupported`] where this is no ATA drive.
    fn command(&mut self, command: u8, data: Data<'_>, timeout_s: u32) -> io::Result<()>;
}

const IDENTIFY: u8 = 0xec;
const SET_PASSWORD: u8 = 0xf1;
const UNLOCK: u8 = 0xf2;
const ERASE_PREPARE: u8 = 0xf3;
const ERASE_UNIT: u8 = 0xf4;
const DISABLE_PASSWORD: u8 = 0xf6;

const PASSWORD: &[u8; 32] = b"stoker erases this drive\0\0\0\0\0\0\0\0";
/// Seconds for a command that does not erase.
const SHORT: u32 = 15;
/// Seconds for an erase whose length the drive does not tell, and the longest for any.
const UNKNOWN: u32 = 12 * 3600;
const LONGEST: u32 = 48 * 3600;

/// Word 128 of IDENTIFY DEVICE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Security {
    supported: bool,
    enabled: bool,
    locked: bool,
    frozen: bool,
    expired: bool,
    /// Seconds that a normal erase takes.
    time: u32,
}

/// Erases the drive by its own hand.
///
/// # Errors
/// Why it is not erased. No password of ours is left on it where that can be helped.
pub fn secure_erase(drive: &mut dyn Drive) -> io::Result<()> {
    let mut now = identify(drive)?;
    if !now.supported {
        return Err(unsupported("the drive has no security feature set"));
    }
    if now.frozen {
        return Err(unsupported(
            "the firmware has frozen the drive's security; a power cycle without it would thaw it",
        ));
    }
    if now.expired {
        return Err(io::Error::other("the drive has counted too many wrong passwords: power-cycle it"));
    }
    if now.locked {
        // Ours, of an erase that was cut off? Any other password is somebody else's.
        drive
            .command(UNLOCK, Data::Out(&password(0)), SHORT)
            .map_err(|e| io::Error::other(format!("it is locked with a password that is not stoker's ({e})")))?;
        now = identify(drive)?;
    }
    if !now.enabled {
        drive.command(SET_PASSWORD, Data::Out(&password(0)), SHORT)?;
    }
    let erased = drive
        .command(ERASE_PREPARE, Data::None, SHORT)
        .and_then(|()| drive.command(ERASE_UNIT, Data::Out(&password(0)), now.time));
    // A successful erase clears the password; one that failed must not leave it.
    let after = identify(drive);
    if after.as_ref().map_or(true, |s| s.enabled) {
        if after.as_ref().is_ok_and(|s| s.locked) {
            let _ = drive.command(UNLOCK, Data::Out(&password(0)), SHORT);
        }
        let cleared = drive.command(DISABLE_PASSWORD, Data::Out(&password(0)), SHORT);
        if let (Err(e), Err(still)) = (&erased, &cleared) {
            return Err(io::Error::other(format!("{e}; and its password {PASSWORD_TEXT:?} is still set: {still}")));
        }
        cleared?;
    }
    erased
}

/// [`PASSWORD`] as a person would type it.
const PASSWORD_TEXT: &str = "stoker erases this drive";

/// The sector of a security command: word 0 control, words 1 to 16 the password.
fn password(control: u16) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..2].copy_from_slice(&control.to_le_bytes());
    sector[2..34].copy_from_slice(PASSWORD);
    sector
}

fn identify(drive: &mut dyn Drive) -> io::Result<Security> {
    let mut sector = [0; 512];
    drive.command(IDENTIFY, Data::In(&mut sector), SHORT)?;
    let word = |n: usize| u16::from_le_bytes([sector[2 * n], sector[2 * n + 1]]);
    let (words_valid, state, time) = (word(82) != 0 && word(82) != 0xffff, word(128), word(89));
    // Word 89: bit 15 says that 15 bits count, else 8 do; in units of 2 minutes.
    let units = if time & 0x8000 == 0 { time & 0xff } else { time & 0x7fff };
    let time = if units == 0 { UNKNOWN } else { (u32::from(units) * 120 * 2 + 600).min(LONGEST) };
    Ok(Security {
        supported: words_valid && state & 1 != 0,
        enabled: state & 2 != 0,
        locked: state & 4 != 0,
        frozen: state & 8 != 0,
        expired: state & 16 != 0,
        time,
    })
}

fn unsupported(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A drive with the security states of ACS-3 figure 11.
    #[derive(Default)]
    struct Sata {
        unsupported: bool,
        frozen: bool,
        password: Option<[u8; 32]>,
        locked: bool,
        prepared: bool,
        /// The erase breaks off.
        breaks: bool,
        erased: bool,
        time: u16,
        waited: u32,
    }

    impl Drive for Sata {
        fn command(&mut self, command: u8, data: Data<'_>, timeout_s: u32) -> io::Result<()> {
            let abort = || Err(io::Error::other("aborted command"));
            let given = match &data {
                Data::Out(sector) => sector[2..34].try_into().ok(),
                _ => None,
            };
            let prepared = std::mem::take(&mut self.prepared);
            match (command, data) {
                (IDENTIFY, Data::In(sector)) => {
                    let mut put = |n: usize, v: u16| sector[2 * n..2 * n + 2].copy_from_slice(&v.to_le_bytes());
                    put(82, 0x4000);
                    put(89, self.time);
                    let bits = [!self.unsupported, self.password.is_some(), self.locked, self.frozen];
                    put(128, bits.iter().enumerate().map(|(i, b)| u16::from(*b) << i).sum());
                    Ok(())
                }
                _ if self.unsupported || self.frozen => abort(),
                (SET_PASSWORD, _) if !self.locked => {
                    self.password = given;
                    Ok(())
                }
                (UNLOCK, _) if self.locked && given == self.password => {
                    self.locked = false;
                    Ok(())
                }
                (ERASE_PREPARE, _) => {
                    self.prepared = true;
                    Ok(())
                }
                (ERASE_UNIT, _) if prepared && given == self.password => {
                    self.waited = timeout_s;
                    if self.breaks {
                        return abort();
                    }
                    (self.erased, self.password) = (true, None);
                    Ok(())
                }
                (DISABLE_PASSWORD, _) if !self.locked && given == self.password => {
                    self.password = None;
                    Ok(())
                }
                _ => abort(),
            }
        }
    }

    #[test]
    fn a_drive_is_erased_and_left_without_a_password() {
        let mut drive = Sata { time: 30, ..Sata::default() };
        secure_erase(&mut drive).unwrap();
        assert!(drive.erased && drive.password.is_none());
        assert_eq!(drive.waited, 30 * 120 * 2 + 600, "twice the drive's own estimate");
        let mut slow = Sata { time: 0x8000 | 400, ..Sata::default() };
        secure_erase(&mut slow).unwrap();
        assert_eq!(slow.waited, 400 * 120 * 2 + 600);
    }

    #[test]
    fn frozen_and_incapable_drives_are_left_to_other_ways() {
        for mut drive in [Sata { frozen: true, ..Sata::default() }, Sata { unsupported: true, ..Sata::default() }] {
            assert_eq!(secure_erase(&mut drive).unwrap_err().kind(), io::ErrorKind::Unsupported);
            assert!(!drive.erased && drive.password.is_none());
        }
    }

    #[test]
    fn an_erase_that_fails_leaves_no_password() {
        let mut drive = Sata { breaks: true, ..Sata::default() };
        assert!(secure_erase(&mut drive).is_err());
        assert!(!drive.erased && drive.password.is_none());
    }

    #[test]
    fn w10_after_a_power_loss_in_between_the_next_agent_goes_on() {
        let mut drive = Sata { password: Some(*PASSWORD), locked: true, ..Sata::default() };
        secure_erase(&mut drive).unwrap();
        assert!(drive.erased && drive.password.is_none());
    }

    #[test]
    fn a_password_of_somebody_else_is_left_alone() {
        let mut drive = Sata { password: Some([7; 32]), locked: true, ..Sata::default() };
        let why = secure_erase(&mut drive).unwrap_err();
        assert!(why.kind() == io::ErrorKind::Other && why.to_string().contains("not stoker's"), "{why}");
        assert_eq!((drive.erased, drive.password), (false, Some([7; 32])));
    }
}
