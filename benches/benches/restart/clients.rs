//! The clients: many that are open, and a steady one that checks every reply.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ringhold_client::Address;
use ringhold_client::load::{self, LoadError, LoadPlan, LoadReport};

use crate::manager::PATIENCE;

/// The connections of the steady client.
pub(crate) const STEADY: usize = 4;

/// Its requests a second, over all its connections. Each of them has its next reply within 0.3 ms if nothing happens.
const RATE: f64 = 12_000.0;

/// `[0, 7, "echo", [payload]]` up to the payload, which has 16 bytes.
pub(crate) const REQUEST: &[u8] = b"\x94\x00\x07\xa4echo\x91\xc4\x10";
/// `[1, 7, nil, payload]`, likewise.
pub(crate) const REPLY: &[u8] = b"\x94\x01\x07\xc0\xc4\x10";

/// Connections that are open and quiet while the server is restarted, and are used before and after.
pub(crate) struct Open {
    address: SocketAddr,
    streams: Vec<TcpStream>,
    requests: u128,
}

impl Open {
    pub(crate) fn new(address: SocketAddr, count: usize) -> Self {
        let mut open = Open {
            address,
            streams: (0..count).map(|_| connect(address)).collect(),
            requests: 0,
        };
        assert_eq!(open.check(), 0);
        open
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Makes a request on every connection and checks its reply. How many connections were cut; they are made anew.
    pub(crate) fn check(&mut self) -> u64 {
        let first = self.requests;
        for stream in &mut self.streams {
            self.requests += 1;
            // That it was cut is found when the reply is read.
            let _ = ask(stream, self.requests);
        }
        let mut cut = 0;
        for (stream, number) in self.streams.iter_mut().zip(first + 1..) {
            while answered(stream, number).is_err() {
                cut += 1;
                *stream = connect(self.address);
                let _ = ask(stream, number);
            }
        }
        cut
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, number: u128) -> io::Result<()> {
    let mut request = REQUEST.to_vec();
    request.extend(number.to_be_bytes());
    stream.write_all(&request)
}

fn answered(stream: &mut TcpStream, number: u128) -> io::Result<()> {
    let mut reply = [0; REPLY.len() + 16];
    match stream.read_exact(&mut reply) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("no reply: {error}"),
        other => other?,
    }
    assert_eq!(reply[..REPLY.len()], *REPLY);
    assert_eq!(reply[REPLY.len()..], number.to_be_bytes());
    Ok(())
}

/// The steady client: an open loop, since a client that waits for its replies would spare the server when it is away.
pub(crate) struct Steady {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<LoadReport, LoadError>>,
}

impl Steady {
    /// Begins, and returns when it has run for a moment.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let plan = LoadPlan {
            connections: STEADY,
            depth: 4096,
            rate: Some(RATE),
            duration: Duration::from_secs(300),
            drain: PATIENCE,
            connect_timeout: PATIENCE,
            ..LoadPlan::new(Address::Tcp(address))
        };
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let (says, begun) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            load::run(&plan, |_| {
                // Nobody listens the second time.
                let _ = says.send(());
                if asked.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        });
        // Not if it could not begin, which its end tells.
        let _ = begun.recv();
        Steady { stop, thread }
    }

    /// Ends at its next report, a quarter of a second from now at most.
    pub(crate) fn end(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap()
    }
}
