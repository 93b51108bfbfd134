//! HTTP/1.1, as much of it as a client needs that asks a server under its own control.

use std::io::{self, Error};

/// A reply that is there as a whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// What it says.
    pub body: &'a [u8],
    /// Whether the server announces that it closes the connection behind it.
    pub closes: bool,
}

/// Asks for this path.
pub fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

/// The reply that is all that was received, unless more of it is to come.
///
/// # Errors
///
/// That it has another status than 200, no length, or something behind it.
pub fn reply(received: &[u8]) -> io::Result<Option<Reply<'_>>> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, body) = (&received[..end], &received[end + 4..]);
    let bad = |what: &str| Error::other(format!("{what}: {}", String::from_utf8_lossy(head)));
    let text = str::from_utf8(head).map_err(|_| bad("no text"))?;
    if !text.starts_with("HTTP/1.1 200 ") {
        return Err(bad("another status"));
    }
    let field = |name: &str| {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let mut named = fields.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim())
    };
    let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
    let length = length.ok_or_else(|| bad("no length"))?;
    if body.len() > length {
        return Err(bad("too much"));
    }
    let closes = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok((body.len() == length).then_some(Reply { body, closes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nServer: any\r\nConnection: keep-alive\r\n\r\n/17";

    #[test]
    fn a_reply_is_there_when_its_last_byte_is() {
        for length in 0..WHOLE.len() {
            assert_eq!(reply(&WHOLE[..length]).unwrap(), None);
        }
        let body = b"/17";
        let closes = false;
        assert_eq!(reply(WHOLE).unwrap(), Some(Reply { body, closes }));
    }

    #[test]
    fn the_last_one_says_so() {
        let last = b"HTTP/1.1 200 OK\r\nContent-Length:0\r\nconnection: Close\r\n\r\n";
        let body = b"";
        let closes = true;
        assert_eq!(reply(last).unwrap(), Some(Reply { body, closes }));
    }

    #[test]
    fn what_was_not_asked_for_is_an_error() {
        assert!(reply(&[WHOLE, b"H"].concat()).is_err());
        assert!(reply(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(reply(b"HTTP/1.1 200 OK\r\n\r\nup to the end").is_err());
    }
}
