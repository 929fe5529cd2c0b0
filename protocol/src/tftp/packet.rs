//! Packets of RFC 1350 and 2347: borrowed slices in, bytes out.

use core::fmt;

/// Longest request (RRQ or WRQ), bytes (RFC 2347 section 1: 512 octets).
pub const MAX_REQUEST: usize = 512;

/// Longest text in an ERROR packet that we send, bytes without its NUL.
pub const MAX_ERROR_TEXT: usize = 124;

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// One datagram, understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    /// RRQ or WRQ (RFC 1350 figure 5-1, RFC 2347 section 2).
    Request(Request<'a>),
    /// DATA (figure 5-2).
    Data {
        /// Number on the wire.
        block: u16,
        /// Bytes of the file.
        payload: &'a [u8],
    },
    /// ACK (figure 5-3).
    Ack {
        /// Number on the wire.
        block: u16,
    },
    /// ERROR (figure 5-4).
    Error {
        /// What kind.
        code: ErrorCode,
        /// The peer's words, not to be trusted, without the NUL.
        text: &'a [u8],
    },
    /// OACK (RFC 2347 section 3).
    Oack(Options<'a>),
}

/// A read or write request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// WRQ rather than RRQ.
    pub write: bool,
    /// The file asked for: any bytes but NUL, never empty.
    pub name: &'a [u8],
    /// How it shall be translated.
    pub mode: Mode,
    /// Options with their values.
    pub options: Options<'a>,
}

/// Transfer modes (RFC 1350 section 1); `mail` is refused (RFC 1123 section 4.2.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Bytes as they are.
    #[default]
    Octet,
    /// Lines end in CR LF on the wire, see [`super::netascii`].
    Netascii,
}

impl Mode {
    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Octet => "octet",
            Self::Netascii => "netascii",
        }
    }
}

/// The number in an ERROR packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// 0: see the text.
    pub const UNDEFINED: Self = Self(0);
    /// 1: file not found.
    pub const NOT_FOUND: Self = Self(1);
    /// 2: access violation.
    pub const ACCESS: Self = Self(2);
    /// 3: disk full or allocation exceeded; a client's way to say that the size does not suit it.
    pub const FULL: Self = Self(3);
    /// 4: illegal TFTP operation.
    pub const ILLEGAL: Self = Self(4);
    /// 5: unknown transfer id.
    pub const UNKNOWN_TID: Self = Self(5);
    /// 8: a request ended during option negotiation (RFC 2347).
    pub const OPTIONS: Self = Self(8);
}

/// Why a datagram is not a TFTP packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BadPacket {
    /// Too few bytes for its kind.
    Short,
    /// Not one of the six operations.
    Opcode,
    /// A request of more than 512 bytes.
    TooLong,
    /// A file name or mode without its NUL, or an empty file name.
    Unterminated,
    /// A mode other than octet and netascii.
    Mode,
    /// An option without a value, or without its NUL.
    Options,
}

impl BadPacket {
    /// What to tell a peer that sent this to the request port: nothing where an
    /// answer could start a loop between two servers (CVE-2024-2169).
    pub const fn answer(self) -> Option<(ErrorCode, &'static str)> {
        match self {
            Self::Short | Self::Opcode => None,
            Self::TooLong => Some((ErrorCode::ILLEGAL, "request is longer than 512 bytes")),
            Self::Unterminated => Some((ErrorCode::ILLEGAL, "malformed request")),
            Self::Mode => Some((ErrorCode::ILLEGAL, "unknown mode: use octet or netascii")),
            Self::Options => Some((ErrorCode::OPTIONS, "malformed options")),
        }
    }
}

impl fmt::Display for BadPacket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Short => "a packet that ends too early",
            Self::Opcode => "an unknown operation",
            Self::TooLong => "a request of more than 512 bytes",
            Self::Unterminated => "a request whose name or mode does not end",
            Self::Mode => "a request in an unknown mode",
            Self::Options => "a request with an option that does not end",
        })
    }
}

impl core::error::Error for BadPacket {}

impl<'a> Packet<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`BadPacket`] where it is none of ours.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, BadPacket> {
        let (opcode, rest) = split_u16(datagram).ok_or(BadPacket::Short)?;
        match opcode {
            RRQ | WRQ if datagram.len() > MAX_REQUEST => Err(BadPacket::TooLong),
            RRQ | WRQ => decode_request(opcode == WRQ, rest).map(Self::Request),
            DATA => split_u16(rest).map(|(block, payload)| Self::Data { block, payload }).ok_or(BadPacket::Short),
            ACK => split_u16(rest).map(|(block, _)| Self::Ack { block }).ok_or(BadPacket::Short),
            ERROR => {
                let (code, text) = split_u16(rest).ok_or(BadPacket::Short)?;
                // Several clients forget the NUL: take what there is.
                let text = text.split(|&c| c == 0).next().unwrap_or_default();
                Ok(Self::Error { code: ErrorCode(code), text })
            }
            OACK => Options::decode(rest).map(Self::Oack),
            _ => Err(BadPacket::Opcode),
        }
    }
}

fn decode_request(write: bool, bytes: &[u8]) -> Result<Request<'_>, BadPacket> {
    let (name, rest) = split_text(bytes).ok_or(BadPacket::Unterminated)?;
    let (mode, rest) = split_text(rest).ok_or(BadPacket::Unterminated)?;
    if name.is_empty() {
        return Err(BadPacket::Unterminated);
    }
    let mode = match mode {
        m if m.eq_ignore_ascii_case(b"octet") => Mode::Octet,
        m if m.eq_ignore_ascii_case(b"netascii") => Mode::Netascii,
        _ => return Err(BadPacket::Mode),
    };
    Ok(Request { write, name, mode, options: Options::decode(rest)? })
}

/// Options and their values as they stand in a request or an OACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Checks that the bytes are pairs of NUL-terminated texts. NULs behind the
    /// last pair are padding of some boot ROMs and let pass.
    fn decode(bytes: &'a [u8]) -> Result<Self, BadPacket> {
        let mut rest = bytes;
        while rest.iter().any(|&c| c != 0) {
            let (name, after) = split_text(rest).ok_or(BadPacket::Options)?;
            let (_, after) = split_text(after).ok_or(BadPacket::Options)?;
            if name.is_empty() {
                return Err(BadPacket::Options);
            }
            rest = after;
        }
        Ok(Self(bytes))
    }

    /// No option at all.
    pub fn is_empty(self) -> bool {
        self.into_iter().next().is_none()
    }
}

impl<'a> IntoIterator for Options<'a> {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = OptionPairs<'a>;
    fn into_iter(self) -> OptionPairs<'a> {
        OptionPairs(self.0)
    }
}

/// Goes over name and value of each option.
#[derive(Clone, Debug)]
pub struct OptionPairs<'a>(&'a [u8]);

impl<'a> Iterator for OptionPairs<'a> {
    type Item = (&'a [u8], &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = split_text(self.0).filter(|(name, _)| !name.is_empty())?;
        let (value, rest) = split_text(rest)?;
        self.0 = rest;
        Some((name, value))
    }
}

/// A short packet of ours in place: OACK, ERROR or ACK; at most 130 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Short {
    len: u8,
    bytes: [u8; Self::CAPACITY],
}

impl Short {
    const CAPACITY: usize = 4 + MAX_ERROR_TEXT + 1;

    /// An ACK of a block number.
    pub fn ack(block: u16) -> Self {
        let mut packet = Self::opcode(ACK);
        packet.push(&block.to_be_bytes());
        packet
    }

    /// An ERROR; a longer text is cut.
    pub fn error(code: ErrorCode, text: &str) -> Self {
        let mut packet = Self::opcode(ERROR);
        packet.push(&code.0.to_be_bytes());
        packet.push(text.as_bytes().get(..MAX_ERROR_TEXT).unwrap_or(text.as_bytes()));
        packet.push(&[0]);
        packet
    }

    /// An OACK without options yet, see [`Short::push_option`].
    pub(super) fn oack() -> Self {
        Self::opcode(OACK)
    }

    /// Appends an option with a decimal value.
    pub(super) fn push_option(&mut self, name: &str, value: u64) {
        self.push(name.as_bytes());
        self.push(&[0]);
        self.push(Decimal::new(value).as_bytes());
        self.push(&[0]);
    }

    /// The packet.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn opcode(opcode: u16) -> Self {
        let mut packet = Self { len: 0, bytes: [0; Self::CAPACITY] };
        packet.push(&opcode.to_be_bytes());
        packet
    }

    /// What does not fit is left out: the callers' texts are bounded so that all fits.
    fn push(&mut self, more: &[u8]) {
        let at = usize::from(self.len);
        if let Some(room) = self.bytes.get_mut(at..at + more.len()) {
            room.copy_from_slice(more);
            self.len += more.len() as u8;
        }
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.as_bytes().escape_ascii().to_string_lossy())
    }
}

/// So that a packet can be printed without a trait of `std`.
trait ToStringLossy {
    fn to_string_lossy(self) -> alloc::string::String;
}

impl ToStringLossy for core::slice::EscapeAscii<'_> {
    fn to_string_lossy(self) -> alloc::string::String {
        alloc::format!("{self}")
    }
}

/// Digits of a number without allocation.
pub(super) struct Decimal {
    digits: [u8; 20],
    from: usize,
}

impl Decimal {
    pub(super) fn new(mut value: u64) -> Self {
        let mut digits = [b'0'; 20];
        let mut from = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
            from -= 1;
            if value == 0 {
                break;
            }
        }
        Self { digits, from }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.digits.get(self.from..).unwrap_or_default()
    }
}

/// The header of a DATA packet.
pub const fn data_header(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [0, DATA as u8, high, low]
}

/// Appends an RRQ to `out`. Options are written in the order given.
pub fn encode_rrq(out: &mut alloc::vec::Vec<u8>, name: &[u8], mode: Mode, options: &[(&str, u64)]) {
    out.extend_from_slice(&RRQ.to_be_bytes());
    for text in [name, mode.name().as_bytes()] {
        out.extend_from_slice(text);
        out.push(0);
    }
    for &(name, value) in options {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend_from_slice(Decimal::new(value).as_bytes());
        out.push(0);
    }
}

fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), rest))
}

fn split_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&c| c == 0)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

#[cfg(test)]
mod tests;
