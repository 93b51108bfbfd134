//! Names of methods: found fast, shown safely, guessed when they are wrong.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

/// So many characters of a name that a peer sent are repeated in answers and logs.
const QUOTED_CHARS_MAX: usize = 64;
/// So many bytes of a generated message are sent. Answers about a call stay well below 4096 bytes, because there are
/// clients that take what fits into a buffer of that size for the whole answer.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Longer names are not compared with the known ones.
const GUESSED_BYTES_MAX: usize = 32;
/// So many comparisons of a wrong name with a known one in a [`GUESSES_PERIOD`] are enough; the guess that exceeds them is
/// still finished. Each takes some microseconds.
const COMPARISONS_MAX: usize = 1024;
const GUESSES_PERIOD: Duration = Duration::from_secs(1);

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

/// Guesses what wrong names were meant to be. One of a worker, since it is the worker that a flood of them would hold up.
pub(crate) struct Guesses {
    /// Comparisons until there are no more guesses.
    left: usize,
    /// When they were counted anew.
    since: Instant,
}

impl Guesses {
    pub(crate) fn new(now: Instant) -> Self {
        Guesses {
            left: COMPARISONS_MAX,
            since: now,
        }
    }

    /// The known name that the wrong one was probably meant to be; `None` also if too many have been guessed lately.
    pub(crate) fn nearest<'n>(
        &mut self,
        wrong: &[u8],
        known: impl Iterator<Item = &'n str>,
        now: Instant,
    ) -> Option<&'n str> {
        if now.duration_since(self.since) >= GUESSES_PERIOD {
            *self = Guesses::new(now);
        }
        if self.left == 0 || wrong.len() > GUESSED_BYTES_MAX {
            return None;
        }
        let wrong = std::str::from_utf8(wrong).ok()?;
        known
            .filter(|name| name.len().abs_diff(wrong.len()) <= 2)
            .map(|name| {
                self.left = self.left.saturating_sub(1);
                (strsim::damerau_levenshtein(name, wrong), name)
            })
            // Where as much is different as is the same, it is another word.
            .filter(|(distance, name)| *distance <= 2 && *distance * 2 < name.len())
            .min()
            .map(|(_, name)| name)
    }
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
        let now = Instant::now();
        let mut guesses = Guesses::new(now);
        let mut guess = |wrong: &[u8]| guesses.nearest(wrong, known.into_iter(), now);
        assert_eq!(guess(b"ehco"), Some("echo"));
        assert_eq!(guess(b"method"), Some("methods"));
        assert_eq!(guess(b"Ping"), Some("ping"));
        assert_eq!(guess(b"b"), None, "every letter is different");
        assert_eq!(guess(b"subtract"), None);
        assert_eq!(guess(b"pang"), Some("ping"));
        assert_eq!(guess(b"pony"), None, "as much is different as is the same");
        assert_eq!(guess(&[0xff; 4]), None);
        assert_eq!(guess(&b"echo".repeat(100)), None);
    }

    #[test]
    fn guesses_of_a_second_compare_so_many_names() {
        let known: Vec<String> = (0..200).map(|i| format!("read.channel.{i:04}")).collect();
        let mut now = Instant::now();
        let mut guesses = Guesses::new(now);
        for _ in 0..3 {
            let mut compared = 0;
            for wrong in 0..2048 {
                let wrong = format!("read.chanel.{wrong:04}");
                let names = known.iter().map(|name| {
                    compared += 1;
                    name.as_str()
                });
                guesses.nearest(wrong.as_bytes(), names, now);
            }
            // The sixth guess exceeds the number.
            assert_eq!(compared, 1200);
            now += GUESSES_PERIOD;
        }
    }
}
