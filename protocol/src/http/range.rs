//! Byte ranges (RFC 9110 section 14).

use core::ops::Range;

/// What a Range field asks of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// The whole: no range, one that cannot be read, of another unit, or several at once.
    ///
    /// A server may ignore Range (section 14.2). Several ranges are answered
    /// with the whole: no boot client asks for them, and multipart answers are
    /// what CVE-2011-3192 fed on.
    Whole,
    /// One range, cut to the object.
    Part(Range<u64>),
    /// Nothing of the object: 416.
    Unsatisfiable,
}

/// Reads the value of a Range field for an object of `length` bytes.
pub fn parse(value: &[u8], length: u64) -> Asked {
    let Ok(value) = str::from_utf8(value) else { return Asked::Whole };
    let Some((unit, set)) = value.split_once('=') else { return Asked::Whole };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Asked::Whole;
    }
    // Empty list elements are allowed (section 5.6.1.2).
    let mut specs = set.split(',').map(|s| s.trim_matches([' ', '\t'])).filter(|s| !s.is_empty());
    match (specs.next(), specs.next()) {
        (Some(spec), None) => one(spec, length).unwrap_or(Asked::Whole),
        _ => Asked::Whole,
    }
}

/// None where the syntax is wrong.
fn one(spec: &str, length: u64) -> Option<Asked> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(match (suffix, length) {
            (0, _) => Asked::Unsatisfiable,
            (_, 0) => Asked::Whole, // satisfiable, but no Content-Range can say so
            _ => Asked::Part(length - suffix.min(length)..length),
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some(match first < length {
        true => Asked::Part(first..last.saturating_add(1).min(length)),
        false => Asked::Unsatisfiable,
    })
}

/// Digits of any length; what is too large for 64 bits is as good as the largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some(text.bytes().fold(0u64, |n, c| n.saturating_mul(10).saturating_add(u64::from(c - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(text: &str, length: u64) -> Asked {
        parse(text.as_bytes(), length)
    }

    #[test]
    fn h12_first_open_and_suffix_ranges() {
        for (text, range) in [
            ("bytes=0-499", 0..500),
            ("bytes=500-", 500..1000),
            ("bytes=-500", 500..1000),
            ("bytes=0-0", 0..1),
            ("bytes=999-999", 999..1000),
            ("BYTES=0-", 0..1000),
            ("bytes= 0-9 ,", 0..10),
            ("bytes=,0-9", 0..10),
        ] {
            assert_eq!(ask(text, 1000), Asked::Part(range), "{text}");
        }
    }

    #[test]
    fn h13_beyond_the_end_is_unsatisfiable() {
        for text in ["bytes=1000-", "bytes=1000-1001", "bytes=99999999999999999999999-", "bytes=-0"] {
            assert_eq!(ask(text, 1000), Asked::Unsatisfiable, "{text}");
        }
        assert_eq!((ask("bytes=0-", 0), ask("bytes=-5", 0)), (Asked::Unsatisfiable, Asked::Whole));
    }

    #[test]
    fn h14_bad_syntax_and_other_units_are_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1-b",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "bytes=1 - 2",
            "lines=0-5",
            "bytes:0-5",
            "bytes=1-2-3",
            "none",
        ] {
            assert_eq!(ask(text, 1000), Asked::Whole, "{text}");
        }
        assert_eq!(parse(b"bytes=\xff-", 1000), Asked::Whole);
    }

    #[test]
    fn h15_the_last_position_is_clamped_and_first_after_last_ignored() {
        assert_eq!(ask("bytes=990-5000", 1000), Asked::Part(990..1000));
        assert_eq!(ask("bytes=-5000", 1000), Asked::Part(0..1000));
        assert_eq!(ask("bytes=6-5", 1000), Asked::Whole);
    }

    #[test]
    fn h16_several_ranges_get_the_whole() {
        assert_eq!(ask("bytes=0-1,5-6", 1000), Asked::Whole);
        let killer: std::string::String =
            core::iter::once("bytes=0-".into()).chain((0..1300).map(|i| std::format!(",5-{i}"))).collect();
        assert_eq!(ask(&killer, 1000), Asked::Whole);
    }

    #[test]
    fn h17_huge_numbers_are_safe() {
        let max = u64::MAX;
        assert_eq!(ask("bytes=0-18446744073709551615", 1000), Asked::Part(0..1000));
        assert_eq!(ask("bytes=0-18446744073709551616", 1000), Asked::Part(0..1000));
        assert_eq!(ask("bytes=-99999999999999999999999999", 1000), Asked::Part(0..1000));
        assert_eq!(ask("bytes=18446744073709551614-", max), Asked::Part(max - 1..max));
    }

    #[test]
    fn h40_beyond_4_gib() {
        let length = (1u64 << 32) + 1000;
        assert_eq!(ask("bytes=4294967296-4294967299", length), Asked::Part(1 << 32..(1 << 32) + 4));
        assert_eq!(ask("bytes=-1", length), Asked::Part(length - 1..length));
    }

    proptest! {
        #[test]
        fn h43_a_part_is_never_empty_nor_outside(text in "(bytes=)?[-0-9, a]{0,24}", length: u64) {
            if let Asked::Part(range) = ask(&text, length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
