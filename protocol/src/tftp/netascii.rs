//! netascii (RFC 764 by way of RFC 1350 section 1): a line ends in CR LF, a
//! lone CR is CR NUL.

use alloc::vec::Vec;

/// The text as it goes over the wire: LF becomes CR LF, CR becomes CR NUL.
/// At most twice as long as `image`.
pub fn encode(image: &[u8]) -> Vec<u8> {
    let breaks = image.iter().filter(|&&c| matches!(c, b'\n' | b'\r')).count();
    let mut wire = Vec::with_capacity(image.len() + breaks);
    for &c in image {
        match c {
            b'\n' => wire.extend_from_slice(b"\r\n"),
            b'\r' => wire.extend_from_slice(b"\r\0"),
            _ => wire.push(c),
        }
    }
    wire
}

/// Turns the wire's form back into a text, piece by piece: a CR may be the last
/// byte of one block and what belongs to it the first of the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    pending_cr: bool,
}

impl Decoder {
    /// Appends the text of the next piece. A CR before anything else than LF
    /// and NUL is kept as it is.
    pub fn push(&mut self, wire: &[u8], text: &mut Vec<u8>) {
        for &c in wire {
            let after_cr = core::mem::replace(&mut self.pending_cr, c == b'\r');
            match (after_cr, c) {
                (true, b'\n') => text.push(b'\n'),
                (true, 0) => text.push(b'\r'),
                (true, b'\r') => text.push(b'\r'),
                (false, b'\r') => {}
                (true, other) => text.extend_from_slice(&[b'\r', other]),
                (false, other) => text.push(other),
            }
        }
    }

    /// The file has ended.
    pub fn finish(self, text: &mut Vec<u8>) {
        if self.pending_cr {
            text.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn t07_line_ends_and_carriage_returns_are_translated() {
        assert_eq!(encode(b"a\nb\rc\r\n"), b"a\r\nb\r\0c\r\0\r\n");
        assert_eq!(encode(b""), b"");
    }

    proptest! {
        #[test]
        fn t07_any_text_survives_any_cut_into_blocks(text: Vec<u8>, cut in 1_usize..20) {
            let wire = encode(&text);
            let (mut decoder, mut back) = (Decoder::default(), Vec::new());
            wire.chunks(cut).for_each(|piece| decoder.push(piece, &mut back));
            decoder.finish(&mut back);
            prop_assert_eq!(back, text);
        }
    }
}
