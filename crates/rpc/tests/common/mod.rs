//! What tests of the log have in common.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use ringhold_core::testing::{Client, Exchange};
use ringhold_core::{Credentials, PeerAddress};

/// What is logged meanwhile.
pub(crate) fn logged(work: impl FnOnce()) -> String {
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || sink.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// A client of this user, over a unix socket.
pub(crate) fn connect_as(uid: u32, exchange: &mut Exchange) -> Client {
    let user = Credentials {
        pid: None,
        uid,
        gid: 100,
    };
    exchange.set_peer(PeerAddress::Unix, Some(user));
    exchange.connect()
}

/// The lines of a log, without what is said of slow calls: any call is one if the machine stalls.
pub(crate) fn lines(log: &str) -> Vec<&str> {
    let lines = log.lines();
    lines
        .filter(|line| !line.contains("unless the machine is overloaded"))
        .collect()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a client sends that would like to write the log itself, and more of it than anybody would read there.
pub(crate) fn hostile() -> String {
    let more = "much ".repeat(100_000);
    format!("x\n<2>ringhold: a line of its own\r\0\u{202e}\u{2028}{more}")
}

/// How the log shows its beginning.
pub(crate) const HOSTILE: &str = r"x\n<2>ringhold: a line of its own\r\0\u{202e}\u{2028}much much ";

/// A notification with one parameter.
pub(crate) fn notification(method: &str, parameter: &str) -> Vec<u8> {
    let mut frame = vec![0x93, 0x02];
    rmp::encode::write_str(&mut frame, method).unwrap();
    frame.push(0x91);
    rmp::encode::write_str(&mut frame, parameter).unwrap();
    frame
}
