//! Names of methods: found fast, shown safely, guessed when they are wrong.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{BuildHasherDefault, Hasher};

/// So many characters of a name that a peer sent are repeated in answers and logs.
const QUOTED_CHARS_MAX: usize = 64;
/// So many bytes of a generated message are sent. Answers about a call stay well below 4096 bytes, because there are
/// clients that take what fits into a buffer of that size for the whole answer.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Longer names are not compared with the known ones.
const GUESSED_BYTES_MAX: usize = 32;

/// Positions by name.
pub(crate) type Index = HashMap<Box<[u8]>, usize, BuildHasherDefault<NameHasher>>;

/// A fast hash for short names. Peers cannot add names to the map, so they gain nothing from collisions.
#[derive(Default)]
pub(crate) struct NameHasher(u64);

impl NameHasher {
    fn mix(&mut self, word: u64) {
        // The multiplier is 2^64 divided by the golden ratio.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((word, after)) = rest.split_first_chunk::<8>() {
            self.mix(u64::from_le_bytes(*word));
            rest = after;
        }
        // Loads that may overlap, because a copy of so few bytes costs more than all the rest.
        match (rest.first_chunk::<4>(), rest.last_chunk::<4>(), rest) {
            (Some(head), Some(tail), _) => {
                let (head, tail) = (u32::from_le_bytes(*head), u32::from_le_bytes(*tail));
                self.mix(u64::from(head) << 32 | u64::from(tail));
            }
            (_, _, [first, .., last]) => {
                let middle = rest[rest.len() / 2];
                self.mix(u64::from_le_bytes([*first, middle, *last, 0, 0, 0, 0, 0]));
            }
            (_, _, [only]) => self.mix(u64::from(*only)),
            (_, _, []) => {}
        }
    }

    fn write_usize(&mut self, length: usize) {
        self.mix(length as u64);
    }

    fn finish(&self) -> u64 {
        // The map takes the bucket from the lower bits, which a multiplication mixes least.
        self.0 ^ (self.0 >> 32)
    }
}

/// Whether two names are the same: what `==` says, without its call for names of the usual lengths.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    fn edges<const N: usize>(name: &[u8]) -> Option<(&[u8; N], &[u8; N])> {
        Some((name.first_chunk()?, name.last_chunk()?))
    }
    // Chunks of half the length or more overlap or meet.
    one.len() == other.len()
        && match one.len() {
            4..=8 => edges::<4>(one) == edges::<4>(other),
            9..=16 => edges::<8>(one) == edges::<8>(other),
            _ => one == other,
        }
}

/// A name as it is shown to people: in quotes, escaped, not longer than a line.
pub(crate) fn quoted(name: &[u8]) -> String {
    // Four bytes are the longest character; what is cut off is not looked at.
    let looked_at = &name[..name.len().min(4 * (QUOTED_CHARS_MAX + 1))];
    let text = String::from_utf8_lossy(looked_at);
    let mut out = String::from("\"");
    let mut chars = text.chars();
    for c in chars.by_ref().take(QUOTED_CHARS_MAX) {
        // Writing to a string cannot fail.
        let _ = write!(out, "{}", c.escape_debug());
    }
    if chars.next().is_some() {
        out.push('…');
    }
    out.push('"');
    out
}

/// At most the first [`MESSAGE_BYTES_MAX`] bytes of a message.
pub(crate) fn shortened(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let end = (0..=MESSAGE_BYTES_MAX)
        .rfind(|end| message.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{}…", &message[..end])
}

/// The known name that the wrong one was probably meant to be.
pub(crate) fn nearest<'n>(wrong: &[u8], known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if wrong.len() > GUESSED_BYTES_MAX {
        return None;
    }
    let wrong = std::str::from_utf8(wrong).ok()?;
    known
        .filter(|name| name.len().abs_diff(wrong.len()) <= 2)
        .map(|name| (strsim::damerau_levenshtein(name, wrong), name))
        // Where as much is different as is the same, it is another word.
        .filter(|(distance, name)| *distance <= 2 && *distance * 2 < name.len())
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_only_if_every_byte_is() {
        for length in 0..40 {
            let name: Vec<u8> = (0..length).collect();
            assert!(is_same(&name, &name.clone()));
            assert!(!is_same(&name, &[&name[..], b"x"].concat()));
            for at in 0..name.len() {
                let mut other = name.clone();
                other[at] ^= 0x80;
                assert!(!is_same(&name, &other), "{length} bytes, byte {at}");
            }
        }
    }

    #[test]
    fn names_of_every_length_are_found_and_told_apart() {
        let names: Vec<Vec<u8>> = (0..40)
            .flat_map(|length| {
                // One for each byte that differs.
                (0..=length).map(move |at| {
                    let mut name = vec![b'x'; length];
                    if let Some(byte) = name.get_mut(at) {
                        *byte = b'y';
                    }
                    name
                })
            })
            .collect();
        let index: Index = names
            .iter()
            .enumerate()
            .map(|(position, name)| (name.as_slice().into(), position))
            .collect();
        assert_eq!(index.len(), names.len());
        let hashes: std::collections::HashSet<u64> = names
            .iter()
            .map(|name| {
                use std::hash::Hash;
                let mut hasher = NameHasher::default();
                name.as_slice().hash(&mut hasher);
                hasher.finish()
            })
            .collect();
        assert_eq!(hashes.len(), names.len(), "no collisions among these");
        for (position, name) in names.iter().enumerate() {
            assert_eq!(index.get(name.as_slice()), Some(&position));
        }
        assert_eq!(index.get(&b"xxxxz"[..]), None);
    }

    #[test]
    fn a_shown_name_is_escaped_and_short() {
        assert_eq!(quoted(b"add"), "\"add\"");
        assert_eq!(quoted(b"a\n\"\x1b\xff"), "\"a\\n\\\"\\u{1b}\u{fffd}\"");
        let long = quoted("é".repeat(1000).as_bytes());
        assert_eq!(long.chars().count(), QUOTED_CHARS_MAX + 3);
        assert!(long.ends_with("…\""));
        assert!(quoted(&[0x1b; 1 << 20]).len() < MESSAGE_BYTES_MAX);
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let long = format!("x{}", "é".repeat(1000));
        let cut = shortened(&long);
        assert_eq!(cut.len(), MESSAGE_BYTES_MAX - 1 + "…".len());
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn a_slip_of_the_pen_is_guessed_and_a_different_word_is_not() {
        let known = ["echo", "methods", "ping", "a"];
        let guess = |wrong: &str| nearest(wrong.as_bytes(), known.into_iter());
        assert_eq!(guess("ehco"), Some("echo"));
        assert_eq!(guess("method"), Some("methods"));
        assert_eq!(guess("Ping"), Some("ping"));
        assert_eq!(guess("b"), None, "every letter is different");
        assert_eq!(guess("subtract"), None);
        assert_eq!(guess("pang"), Some("ping"));
        assert_eq!(guess("pony"), None, "as much is different as is the same");
        assert_eq!(nearest(&[0xff; 4], known.into_iter()), None);
        assert_eq!(guess(&"echo".repeat(100)), None);
    }
}
