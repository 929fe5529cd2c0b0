//! Dates of HTTP (RFC 9110 section 5.6.7), in seconds since 1970 UTC.

use crate::time::{civil, days};
use core::fmt;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const LONG_DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY: u64 = 86_400;
/// 9999-12-31T23:59:59Z: the last moment that four digits can name.
const LAST: u64 = 253_402_300_799;

/// Prints seconds since 1970 as an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpDate(pub u64);

impl fmt::Display for HttpDate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.min(LAST);
        let (days, rest) = (seconds / DAY, seconds % DAY);
        let (year, month, day) = civil(days);
        let weekday = DAYS.get((days % 7) as usize).unwrap_or(&"");
        let name = MONTHS.get(month as usize - 1).unwrap_or(&"");
        let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(out, "{weekday}, {day:02} {name} {year:04} {h:02}:{m:02}:{s:02} GMT")
    }
}

/// Reads any of the three formats. `now` decides the century of a two-digit
/// year. None for everything else, and for dates before 1970.
pub fn parse(text: &[u8], now: u64) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    imf(text).or_else(|| rfc850(text, now)).or_else(|| asctime(text))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf(text: &str) -> Option<u64> {
    let (weekday, rest) = text.split_once(", ")?;
    DAYS.contains(&weekday).then_some(())?;
    let (day, rest) = (digits(rest.get(..2)?)?, rest.get(2..)?.strip_prefix(' ')?);
    let (month, rest) = (month(rest.get(..3)?)?, rest.get(3..)?.strip_prefix(' ')?);
    let (year, rest) = (digits(rest.get(..4)?)?, rest.get(4..)?.strip_prefix(' ')?);
    moment(year, month, day, rest.strip_suffix(" GMT")?)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850(text: &str, now: u64) -> Option<u64> {
    let (weekday, rest) = text.split_once(", ")?;
    LONG_DAYS.contains(&weekday).then_some(())?;
    let (day, rest) = (digits(rest.get(..2)?)?, rest.get(2..)?.strip_prefix('-')?);
    let (month, rest) = (month(rest.get(..3)?)?, rest.get(3..)?.strip_prefix('-')?);
    let (two, rest) = (digits(rest.get(..2)?)?, rest.get(2..)?.strip_prefix(' ')?);
    // More than 50 years ahead means the past century.
    let this = civil(now.min(LAST) / DAY).0;
    let year = this - this % 100 + two;
    let year = if year > this + 50 { year - 100 } else { year };
    moment(year, month, day, rest.strip_suffix(" GMT")?)
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &str) -> Option<u64> {
    let (weekday, rest) = text.split_once(' ')?;
    DAYS.contains(&weekday).then_some(())?;
    let (month, rest) = (month(rest.get(..3)?)?, rest.get(3..)?.strip_prefix(' ')?);
    let day = rest.get(..2)?;
    let (day, rest) = (digits(day.strip_prefix(' ').unwrap_or(day))?, rest.get(2..)?.strip_prefix(' ')?);
    let (time, year) = rest.split_once(' ')?;
    (year.len() == 4).then_some(())?;
    moment(digits(year)?, month, day, time)
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn month(name: &str) -> Option<u64> {
    MONTHS.iter().position(|&m| m == name).map(|i| i as u64 + 1)
}

fn moment(year: u64, month: u64, day: u64, time: &str) -> Option<u64> {
    let mut parts = time.split(':');
    let mut part = || parts.next().filter(|p| p.len() == 2).and_then(digits);
    let (h, m, s) = (part()?, part()?, part()?);
    if parts.next().is_some() || h > 23 || m > 59 || s > 60 || !(1970..=9999).contains(&year) {
        return None;
    }
    let days = days(year, month, day);
    // A day that does not exist (31 June) comes back as another.
    (civil(days) == (year, month, day)).then_some(days * DAY + h * 3600 + m * 60 + s.min(59))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    const NOW: u64 = 1_795_000_000; // November 2026

    #[test]
    fn h34_three_formats_are_read_and_one_is_written() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text.as_bytes(), NOW), Some(784_111_777), "{text}");
        }
        assert_eq!(HttpDate(784_111_777).to_string(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(HttpDate(0).to_string(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(HttpDate(951_782_400).to_string(), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(HttpDate(u64::MAX).to_string(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(
            parse(b"Monday, 01-Jan-70 00:00:01 GMT", NOW),
            Some(3_155_760_001),
            "2070 is less than 50 years ahead"
        );
    }

    #[test]
    fn h22_what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "now",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 31 Jun 1994 08:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 99999 08:49:37 GMT",
            "Sun, 06 Növ 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0..=LAST) {
            prop_assert_eq!(parse(HttpDate(seconds).to_string().as_bytes(), NOW), Some(seconds));
        }

        #[test]
        fn h43_any_bytes_are_survived(bytes: [u8; 29], cut in 0usize..30) {
            let _ = parse(bytes.get(..cut).unwrap_or(&bytes), NOW);
        }
    }
}
