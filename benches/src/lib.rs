//! What the benches have in common: packets as nodes send them, and an image.
//!
//! ```text
//! cargo bench -p stoker-benches                    # all, with statistics
//! cargo bench -p stoker-benches -- decoders/dhcp   # one
//! cargo test -p stoker-benches                     # each once: do they still run?
//! ```
#![forbid(unsafe_code)]

use edge::catalog::{Catalog, Image, Named};
use protocol::tftp::Mode;
use protocol::tftp::packet::encode_rrq;
use std::sync::Arc;

/// The name under which [`catalog`] holds the image.
pub const NAME: &str = "boot/image.bin";
/// Length of [`image_bytes`]: what iPXE's binaries are about.
pub const IMAGE: usize = 1_000_000;

/// A DISCOVER of OVMF, captured.
pub const DHCP_DISCOVER: &[u8] = include_bytes!("../../tests/fixtures/dhcp/ovmf-pxe-discover.bin");

/// What iPXE asks a web server.
pub const HTTP_HEAD: &[u8] = b"GET /boot/image.bin HTTP/1.1\r\nConnection: keep-alive\r\nUser-Agent: iPXE/1.21.1+\r\nHost: 10.0.0.1:8080\r\n\r\n";

/// A read request with the options of modern firmware.
pub fn rrq(windowsize: u16) -> Vec<u8> {
    let options = [("tsize", 0), ("blksize", 1468), ("windowsize", u64::from(windowsize))];
    let asked = if windowsize > 1 { &options[..] } else { &options[..2] };
    let mut bytes = Vec::new();
    encode_rrq(&mut bytes, NAME.as_bytes(), Mode::Octet, asked);
    bytes
}

/// An acknowledgement of a block.
pub fn ack(block: u64) -> [u8; 4] {
    // The 16 bits that stand on the wire.
    let [.., high, low] = block.to_be_bytes();
    [0, 4, high, low]
}

/// Bytes without a pattern.
pub fn image_bytes() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let word = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    word.flatten().take(IMAGE).collect()
}

/// A catalog with the image.
///
/// # Panics
/// Without memory for it.
pub fn catalog() -> Arc<Catalog> {
    let image = Image::from_bytes(&image_bytes()).expect("memory for an image");
    let mut catalog = Catalog { generation: 1, ..Catalog::default() };
    catalog.names.insert(NAME.into(), Named::new(image, "application/octet-stream"));
    Arc::new(catalog)
}
