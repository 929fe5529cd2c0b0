//! Numbers as people read them.

/// Seconds since `start` of moment `at` (both ms), as `+12.3`.
pub fn since(start_ms: u64, at_ms: u64) -> String {
    let ms = at_ms.saturating_sub(start_ms);
    match ms {
        0..600_000 => format!("{}.{}", ms / 1000, ms % 1000 / 100),
        _ => span(ms),
    }
}

/// A span in its two largest units: `4.2 s`, `3 min 5 s`, `2 h 7 min`, `5 d 2 h`.
pub fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{}.{} s", s, ms % 1000 / 100),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Bytes in decimal units, as disks and links are sold: `985 KB`, `14.1 MB`, `2.15 GB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Memory in binary units, as modules are sold: `512 MiB`, `64 GiB`.
pub fn memory(n: u64) -> String {
    match n {
        n if n >= 1 << 30 && n % (1 << 30) == 0 => format!("{} GiB", n >> 30),
        n => format!("{} MiB", n >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!((since(1000, 13_340), since(5, 3)), ("12.3".to_owned(), "0.0".to_owned()));
        assert_eq!([span(4_250), span(185_000), span(7_620_000)], ["4.2 s", "3 min 5 s", "2 h 7 min"]);
        assert_eq!(
            [bytes(999), bytes(985_088), bytes(14_100_000), bytes(999_999), bytes(2 << 30)],
            ["999 B", "985 KB", "14.1 MB", "1.00 MB", "2.15 GB"]
        );
        assert_eq!([memory(512 << 20), memory(64 << 30)], ["512 MiB", "64 GiB"]);
    }
}
