//! Durations, sizes and modes as people write them.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

const SIZE_UNITS: [(&str, u64); 5] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads a duration as it is written everywhere in ringhold: a whole number and a unit (`us`, `ms`, `s`, `min`, `h`, `d`),
/// such as `5s`.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match scaled(text, &DURATION_UNITS) {
        Scaled::Value(microseconds) => Ok(Duration::from_micros(microseconds)),
        Scaled::TooLarge => Err(format!("{text:?} is too long a time")),
        Scaled::Unknown => Err(format!(
            "{text:?} is not a duration; write a whole number and a unit (us, ms, s, min, h, d), such as \"5s\""
        )),
    }
}

/// Reads a size as it is written everywhere in ringhold, in bytes: a number, alone or with a unit (`B`, `KiB`, `MiB`,
/// `GiB`), such as `16MiB`.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    match scaled(text, &SIZE_UNITS) {
        Scaled::Value(bytes) => Ok(bytes),
        Scaled::TooLarge => Err(format!("{text:?} is too large a size")),
        Scaled::Unknown => Err(format!(
            "{text:?} is not a size; write a number of bytes, or a whole number and a unit (KiB, MiB, GiB), such as \
             \"16MiB\""
        )),
    }
}

/// Reads a file mode such as `"0660"`: permission bits only.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let octal =
        (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err(format!(
            "{text:?} is not a file mode; write up to four octal digits, such as \"0660\""
        )),
    }
}

enum Scaled {
    Value(u64),
    TooLarge,
    Unknown,
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Scaled {
    let end = text
        .bytes()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let Some(&(_, factor)) = units.iter().find(|(known, _)| *known == unit.trim_start()) else {
        return Scaled::Unknown;
    };
    if digits.is_empty() {
        return Scaled::Unknown;
    }
    // Digits alone can only be too many.
    match digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
    {
        Some(value) => Scaled::Value(value),
        None => Scaled::TooLarge,
    }
}
