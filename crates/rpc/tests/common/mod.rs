//! What tests of the log have in common.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

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
