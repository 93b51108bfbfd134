//! What services and peers say, as a part of one line of the log.

use std::error::Error;
use std::fmt::{self, Display, Write};

/// So many bytes are shown.
const BYTES_MAX: usize = 2000;

/// Displays what a service or a peer may have said without the characters that would begin another line or do something to a
/// terminal, which are escaped, and not more than 2000 bytes of it, followed by dots if there are more.
///
/// For the log: what is in a line there is bounded only by how large a frame may be, and readers trust where a line begins.
#[derive(Debug)]
pub struct Plain<T>(pub T);

impl<T: Display> Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line {
            to: f,
            left: Some(BYTES_MAX),
        };
        write!(line, "{}", self.0)
    }
}

/// A number of things, with what one is called, and what several are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted(
    pub(crate) u64,
    pub(crate) &'static str,
    pub(crate) &'static str,
);

impl Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Counted(count, one, several) = self;
        let what = if count == 1 { one } else { several };
        write!(f, "{count} {what}")
    }
}

/// So many connections.
pub(crate) fn connections(count: u64) -> Counted {
    Counted(count, "connection", "connections")
}

/// So many values that services have left.
pub(crate) fn values(count: u64) -> Counted {
    Counted(count, "value of a service", "values of services")
}

/// The message of an error, followed by those of its sources.
pub fn with_sources(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Many errors quote their source already.
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    message
}

struct Line<'a, 'f> {
    to: &'a mut fmt::Formatter<'f>,
    /// Bytes that there is room for; `None` once something did not fit.
    left: Option<usize>,
}

impl Write for Line<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let Some(left) = self.left else {
                return Ok(());
            };
            let escaped = is_escaped(c).then(|| c.escape_debug());
            let length = escaped.as_ref().map_or(c.len_utf8(), |it| it.len());
            self.left = left.checked_sub(length);
            match (self.left, escaped) {
                (None, _) => self.to.write_char('…'),
                (_, Some(escaped)) => escaped.fmt(self.to),
                (_, None) => self.to.write_char(c),
            }?;
        }
        Ok(())
    }
}

/// Control characters, and those that separate lines or change the direction in which others are shown.
fn is_escaped(c: char) -> bool {
    let turns_text =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns_text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_in_its_line() {
        let cases = [
            ("a \"b\" \\ 'é' e\u{301} 🦀", "a \"b\" \\ 'é' e\u{301} 🦀"),
            ("\0\t\r\n\u{1b}[2J", "\\0\\t\\r\\n\\u{1b}[2J"),
            (
                "\u{7f}\u{9b}5m\u{202e}\u{2028}",
                "\\u{7f}\\u{9b}5m\\u{202e}\\u{2028}",
            ),
        ];
        for (text, shown) in cases {
            assert_eq!(Plain(text).to_string(), shown);
        }
    }

    #[test]
    fn so_many_bytes_are_shown_whatever_they_are_and_in_how_many_parts() {
        let shown = |text: &str| Plain(format_args!("{text}{}", text)).to_string();
        assert_eq!(shown(&"é".repeat(500)), "é".repeat(1000));
        assert_eq!(
            shown(&format!("{}x", "é".repeat(999))),
            format!("{}x…", "é".repeat(999))
        );
        assert_eq!(
            shown(&"\u{1b}".repeat(1 << 20)),
            format!("{}…", "\\u{1b}".repeat(333))
        );
    }
}
