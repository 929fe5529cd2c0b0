//! What client and server agree on: RFC 2347, 2348, 2349 and 7440.
//!
//! Unknown options, and known ones whose value is none, are left out of the
//! OACK as if they had not been sent; of an option given twice the first counts.

use super::DEFAULT_BLKSIZE;
use super::packet::{Mode, Options, Short};

/// Smallest and largest block size of RFC 2348, bytes.
pub const BLKSIZE: core::ops::RangeInclusive<u16> = 8..=65464;

/// Above half of the number space a block number would be ambiguous; far above any use.
pub const MAX_WINDOWSIZE: u16 = 1024;

/// The server's limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Largest block size to agree on, bytes: the path's MTU less the headers
    /// of IP, UDP and TFTP (see [`Policy::blksize_for_mtu`]).
    pub max_blksize: u16,
    /// Largest windowsize to agree on, blocks.
    pub max_windowsize: u16,
    /// Largest product of both, bytes: a client's wish may not make one burst larger.
    pub max_window_bytes: u32,
}

impl Policy {
    /// The block size whose DATA packets just fill an MTU: 20 (IPv4) or 40
    /// (IPv6) bytes of IP, 8 of UDP, 4 of TFTP. Never below 8.
    pub const fn blksize_for_mtu(mtu: u16, ipv6: bool) -> u16 {
        let fits = mtu.saturating_sub(if ipv6 { 52 } else { 32 });
        if fits < *BLKSIZE.start() {
            *BLKSIZE.start()
        } else if fits > *BLKSIZE.end() {
            *BLKSIZE.end()
        } else {
            fits
        }
    }
}

impl Policy {
    /// What the RFCs allow, and no block number that could be ambiguous.
    pub const WIDEST: Self =
        Self { max_blksize: *BLKSIZE.end(), max_windowsize: MAX_WINDOWSIZE, max_window_bytes: u32::MAX };
}

impl Default for Policy {
    fn default() -> Self {
        Self { max_blksize: 1468, max_windowsize: 64, max_window_bytes: 256 * 1024 }
    }
}

/// What holds for a transfer. `None` stands for an option that was not agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreed {
    blksize: Option<u16>,
    windowsize: Option<u16>,
    /// Seconds.
    timeout: Option<u8>,
    tsize: Option<u64>,
}

impl Agreed {
    /// Bytes in a block.
    pub fn blksize(&self) -> u16 {
        self.blksize.unwrap_or(DEFAULT_BLKSIZE)
    }

    /// Blocks in a window.
    pub fn windowsize(&self) -> u16 {
        self.windowsize.unwrap_or(1)
    }

    /// Seconds before a retransmission, where agreed (RFC 2349).
    pub fn timeout(&self) -> Option<u8> {
        self.timeout
    }

    /// Bytes in the file, where asked and known.
    pub fn tsize(&self) -> Option<u64> {
        self.tsize
    }

    /// No option was agreed on: the transfer begins with DATA 1, without OACK.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The same, lowered to the server's limits. What was not agreed on stays so.
    #[must_use]
    pub fn within(mut self, policy: &Policy) -> Self {
        if let Some(blksize) = &mut self.blksize {
            *blksize = policy.max_blksize.max(*BLKSIZE.start()).min(*blksize);
        }
        let fits = u16::try_from(policy.max_window_bytes / u32::from(self.blksize())).unwrap_or(u16::MAX);
        if let Some(window) = &mut self.windowsize {
            *window = policy.max_windowsize.min(fits).clamp(1, MAX_WINDOWSIZE).min(*window);
        }
        self
    }

    /// The OACK that says so.
    pub fn oack(&self) -> Short {
        let mut oack = Short::oack();
        let options = [
            ("tsize", self.tsize),
            ("blksize", self.blksize.map(u64::from)),
            ("timeout", self.timeout.map(u64::from)),
            ("windowsize", self.windowsize.map(u64::from)),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                oack.push_option(name, value);
            }
        }
        oack
    }

    /// Reads the OACK of a server as its client: what it says, or the reason to
    /// refuse it (ERROR 8): an option that was not asked for, or a value beyond
    /// what was asked.
    ///
    /// # Errors
    /// The name of the offending option.
    pub fn from_oack(oack: Options<'_>, asked: &Self) -> Result<Self, &'static str> {
        let mut agreed = Self::default();
        for (name, value) in oack {
            let value = decimal(value);
            match Known::of(name) {
                Some(Known::Blksize) => match (value.and_then(|v| u16::try_from(v).ok()), asked.blksize) {
                    (Some(v), Some(limit)) if BLKSIZE.contains(&v) && v <= limit => agreed.blksize = Some(v),
                    _ => return Err("blksize"),
                },
                Some(Known::Windowsize) => match (value.and_then(|v| u16::try_from(v).ok()), asked.windowsize) {
                    (Some(v), Some(limit)) if v >= 1 && v <= limit => agreed.windowsize = Some(v),
                    _ => return Err("windowsize"),
                },
                Some(Known::Timeout) => match (value.and_then(|v| u8::try_from(v).ok()), asked.timeout) {
                    (Some(v), Some(exact)) if v == exact => agreed.timeout = Some(v),
                    _ => return Err("timeout"),
                },
                Some(Known::Tsize) => match (value, asked.tsize) {
                    (Some(v), Some(_)) => agreed.tsize = Some(v),
                    _ => return Err("tsize"),
                },
                None => return Err("an option that was not asked for"),
            }
        }
        Ok(agreed)
    }

    /// What a client asks for; see [`super::fetch::Ask`].
    pub(super) fn asked(blksize: Option<u16>, windowsize: Option<u16>, timeout: Option<u8>, tsize: bool) -> Self {
        Self { blksize, windowsize, timeout, tsize: tsize.then_some(0) }
    }
}

/// Settles the options of an RRQ against the server's limits, for a file of
/// `size` bytes.
pub fn negotiate(options: Options<'_>, mode: Mode, size: u64, policy: &Policy) -> Agreed {
    let mut agreed = Agreed::default();
    let mut seen = [false; 4];
    for (name, value) in options {
        let Some(known) = Known::of(name) else { continue };
        if core::mem::replace(&mut seen[known as usize], true) {
            continue;
        }
        let Some(value) = decimal(value) else { continue };
        match known {
            Known::Blksize => agreed.blksize = u16::try_from(value).ok().filter(|v| BLKSIZE.contains(v)),
            Known::Windowsize => agreed.windowsize = u16::try_from(value).ok().filter(|&v| v >= 1),
            Known::Timeout => agreed.timeout = u8::try_from(value).ok().filter(|&v| v >= 1),
            // A translated text has another length than its file (RFC 2349 leaves that open).
            Known::Tsize => agreed.tsize = (mode == Mode::Octet).then_some(size),
        }
    }
    agreed.within(policy)
}

#[derive(Clone, Copy)]
enum Known {
    Blksize,
    Windowsize,
    Timeout,
    Tsize,
}

impl Known {
    fn of(name: &[u8]) -> Option<Self> {
        let known: [(&str, Self); 4] = [
            ("blksize", Self::Blksize),
            ("windowsize", Self::Windowsize),
            ("timeout", Self::Timeout),
            ("tsize", Self::Tsize),
        ];
        known.into_iter().find(|(text, _)| name.eq_ignore_ascii_case(text.as_bytes())).map(|(_, known)| known)
    }
}

/// A decimal number as RFC 2347 writes it: digits only. Leading zeros are let
/// pass up to 20 digits; what does not fit in 64 bits is no number.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, &c| {
        let digit = c.is_ascii_digit().then(|| u64::from(c - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests;
