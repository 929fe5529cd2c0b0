//! Times and ids as Kubernetes writes them.

use protocol::time::{civil, days};

/// RFC 3339 in UTC to the second, from milliseconds since 1970.
pub fn rfc3339(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (y, m, d) = civil(days);
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Milliseconds since 1970 of what [`rfc3339`] writes; nothing for any other text.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (y, m, d) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let sane = (1970..10_000).contains(&y) && (1..=12).contains(&m) && (1..=31).contains(&d);
    let clock = hour < 24 && minute < 60 && second < 60;
    let ms = (days(y.max(1970), m.clamp(1, 12), d) * 86_400 + hour * 3600 + minute * 60 + second) * 1000;
    // Whatever the separators were, it is what we would have written.
    (sane && clock && rfc3339(ms) == text).then_some(ms)
}

/// A random UUID (version 4, RFC 9562 section 5.4).
pub fn new_uid() -> Result<String, getrandom::Error> {
    let mut b = [0; 16];
    getrandom::fill(&mut b)?;
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    Ok(protocol::id::MachineId(b).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_000, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_392_000_999, "2026-11-23T00:00:00Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse_rfc3339(text), Some(ms / 1000 * 1000));
        }
        for bad in
            ["", "1970", "1970-01-01 00:00:00Z", "1970-13-01T00:00:00Z", "2026-11-23T24:00:00Z", "2026-11-31T00:00:00Z"]
        {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn uids_are_version_4_and_differ() {
        let (a, b) = (new_uid().unwrap(), new_uid().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_bytes()[14], b'4');
    }
}
