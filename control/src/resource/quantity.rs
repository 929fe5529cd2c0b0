//! Sizes as people write them.

/// Bytes in `64 GB`, `64Gi`, `1.5TiB`, `1000000`: the binary unit in every
/// case, as SMBIOS, Sidero and memory vendors mean it for memory, except that
/// `decimal` reads `GB` as 10^9, as disk vendors mean it.
pub fn bytes_of(text: &str, decimal: bool) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim().to_ascii_lowercase();
    let (power, binary) = match unit.trim_end_matches('b') {
        "" => (0, true),
        "k" => (1, !decimal),
        "m" => (2, !decimal),
        "g" => (3, !decimal),
        "t" => (4, !decimal),
        "p" => (5, !decimal),
        "ki" => (1, true),
        "mi" => (2, true),
        "gi" => (3, true),
        "ti" => (4, true),
        "pi" => (5, true),
        _ => return None,
    };
    let bytes = number * f64::powi(if binary { 1024.0 } else { 1000.0 }, power);
    // Beyond 2^63 nothing is a real size; the cast is exact enough below it.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (bytes.is_finite() && (0.0..9.2e18).contains(&bytes)).then_some(bytes as u64)
}

/// `64 GB`, `512 MB`, `2 TB`: as Sidero writes `totalSize`; whole units of 1024 (`decimal`: of 1000).
pub fn size_text(bytes: u64, decimal: bool) -> String {
    let step = if decimal { 1000 } else { 1024 };
    let (mut value, mut unit) = (bytes, 0);
    while value >= step && unit < 5 {
        value /= step;
        unit += 1;
    }
    format!("{value} {}", ["B", "KB", "MB", "GB", "TB", "PB"].get(unit).unwrap_or(&"B"))
}
