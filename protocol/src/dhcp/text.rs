//! Bytes from the network as text that is safe in a log line and on a terminal.

use alloc::string::String;

/// Printable ASCII stays, everything else becomes `\xNN`; cut after `max` input bytes.
pub fn printable(bytes: &[u8], max: usize) -> String {
    let mut out = String::new();
    for &byte in bytes.iter().take(max) {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                out.push_str("\\x");
                for digit in [byte >> 4, byte & 15] {
                    out.push(char::from(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }));
                }
            }
        }
    }
    if bytes.len() > max {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_reach_a_terminal() {
        assert_eq!(printable(b"a\x1b[2J\n\\\xff", 64), "a\\x1b[2J\\x0a\\\\\\xff");
        assert_eq!(printable(b"abcdef", 3), "abc...");
    }
}
