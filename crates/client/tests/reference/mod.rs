//! A MessagePack-RPC server for tests: simple, slow, and able to misbehave on request.
//!
//! It decodes with `rmpv`, so the encodings of the client are read by something else than what wrote them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringhold_client::Address;
use ringhold_framer::{Framer, Limits, Progress};
use rmpv::Value;

/// What the server does wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Does not answer.
    Drop,
    /// Answers twice.
    Repeat,
    /// Answers with another payload of the same length.
    Alter,
    /// Answers with a result of another type and length.
    Another,
    /// Answers with this error.
    Error(Value),
    /// Answers a request that was never made, too.
    Unasked,
    /// Closes the connection in the middle of the reply.
    CutReply,
    /// Closes the connection instead of answering.
    Close,
    /// Sends these bytes instead of the reply.
    Bytes(Vec<u8>),
    /// Answers after the replies to all requests that came with this one.
    Late,
    /// Sends no more, and reads no more, but keeps the connection.
    Stall,
}

/// How the server behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    /// What it does with single requests, by their number over all connections, from 0.
    pub(crate) faults: HashMap<u64, Fault>,
    /// Answers the requests that came together in the opposite order.
    pub(crate) reverse: bool,
    /// Sends every byte by itself.
    pub(crate) split: bool,
    /// Sends a notification before every reply.
    pub(crate) chatty: bool,
    /// Encodes ids and lengths wider than they need to be.
    pub(crate) wide: bool,
    /// Waits for so many requests of a connection before it answers them all at once.
    pub(crate) gather: usize,
}

impl Behaviour {
    pub(crate) fn faulty(faults: impl IntoIterator<Item = (u64, Fault)>) -> Self {
        Self {
            faults: faults.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// Where the server listens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    Tcp,
    Unix,
    Abstract,
}

#[derive(Default)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    requests: AtomicU64,
    notifications: AtomicU64,
    connections: AtomicU64,
    responses: Mutex<Vec<Value>>,
    stop: AtomicBool,
}

/// A running server. Dropping it stops it.
pub(crate) struct Server {
    pub(crate) address: Address,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    _directory: Option<tempfile::TempDir>,
}

impl Server {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        Self::start_on(Family::Tcp, behaviour)
    }

    pub(crate) fn start_on(family: Family, behaviour: Behaviour) -> Self {
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            ..Shared::default()
        });
        let mut directory = None;
        let (address, acceptor) = match family {
            Family::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap().into();
                let accept = move || {
                    let (stream, _) = listener.accept()?;
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
                    Ok(stream)
                };
                (address, accept_all(shared.clone(), accept))
            }
            Family::Unix | Family::Abstract => {
                let (listener, address) = if matches!(family, Family::Unix) {
                    let directory = directory.insert(tempfile::tempdir().unwrap());
                    let path = directory.path().join("server.sock");
                    (UnixListener::bind(&path).unwrap(), Address::Unix(path))
                } else {
                    let name = format!("ringhold-client-test-{}", std::process::id()).into_bytes();
                    let address = SocketAddr::from_abstract_name(&name).unwrap();
                    (
                        UnixListener::bind_addr(&address).unwrap(),
                        Address::Abstract(name),
                    )
                };
                let accept = move || {
                    let (stream, _) = listener.accept()?;
                    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
                    Ok(stream)
                };
                (address, accept_all(shared.clone(), accept))
            }
        };
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
            _directory: directory,
        }
    }

    /// The requests received so far.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The notifications received so far.
    pub(crate) fn notifications(&self) -> u64 {
        self.shared.notifications.load(Ordering::SeqCst)
    }

    /// The connections accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The responses received so far, to the requests that the server made.
    pub(crate) fn responses(&self) -> Vec<Value> {
        self.shared.responses.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The acceptor waits for a connection: this is its last one.
        let _ =
            ringhold_client::Client::connect(&self.address, ringhold_client::Options::default());
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept_all<S>(
    shared: Arc<Shared>,
    accept: impl Fn() -> io::Result<S> + Send + 'static,
) -> JoinHandle<()>
where
    S: Read + Write + Send + 'static,
{
    thread::spawn(move || {
        let mut threads = Vec::new();
        while let Ok(stream) = accept() {
            if shared.stop.load(Ordering::SeqCst) {
                break;
            }
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let shared = shared.clone();
            threads.push(thread::spawn(move || {
                let _ = serve(stream, &shared);
            }));
        }
        for thread in threads {
            let _ = thread.join();
        }
    })
}

/// A request that waits for its reply.
struct Pending {
    number: u64,
    id: u64,
    method: String,
    params: Vec<Value>,
}

/// What a connection does after it has written.
#[derive(PartialEq)]
enum Then {
    GoOn,
    Close,
    Stall,
}

fn serve(mut stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let behaviour = shared.behaviour.lock().unwrap().clone();
    let mut framer = Framer::new(Limits::default());
    let mut frame = Vec::new();
    let mut pending = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                if shared.stop.load(Ordering::SeqCst) {
                    return Ok(());
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut bytes = &buffer[..n];
        while !bytes.is_empty() {
            match framer.feed(bytes).unwrap() {
                Progress::Complete { used } => {
                    frame.extend_from_slice(&bytes[..used]);
                    bytes = &bytes[used..];
                    pending.extend(receive(&frame, shared));
                    frame.clear();
                }
                Progress::More { .. } => {
                    frame.extend_from_slice(bytes);
                    break;
                }
            }
        }
        if pending.len() < behaviour.gather {
            continue;
        }
        let (out, then) = answer(std::mem::take(&mut pending), &behaviour);
        let step = if behaviour.split { 1 } else { out.len().max(1) };
        for part in out.chunks(step) {
            stream.write_all(part)?;
        }
        match then {
            Then::GoOn => {}
            Then::Close => return Ok(()),
            Then::Stall => {
                while !shared.stop.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(10));
                }
                return Ok(());
            }
        }
    }
}

fn receive(mut frame: &[u8], shared: &Shared) -> Option<Pending> {
    let message = rmpv::decode::read_value(&mut frame).unwrap();
    let parts = message.as_array().unwrap();
    match parts[0].as_u64().unwrap() {
        0 => Some(Pending {
            number: shared.requests.fetch_add(1, Ordering::SeqCst),
            id: parts[1].as_u64().unwrap(),
            method: parts[2].as_str().unwrap().to_owned(),
            params: parts[3].as_array().unwrap().clone(),
        }),
        1 => {
            shared.responses.lock().unwrap().push(message);
            None
        }
        2 => {
            shared.notifications.fetch_add(1, Ordering::SeqCst);
            None
        }
        kind => panic!("a message of type {kind}"),
    }
}

fn answer(mut pending: Vec<Pending>, behaviour: &Behaviour) -> (Vec<u8>, Then) {
    let is_late =
        |request: &Pending| matches!(behaviour.faults.get(&request.number), Some(Fault::Late));
    pending.sort_by_key(is_late);
    if behaviour.reverse {
        pending.reverse();
    }
    let mut out = Vec::new();
    for request in pending {
        if behaviour.chatty {
            notify(&mut out, "chat", vec![request.number.into()]);
        }
        let then = respond(&mut out, &request, behaviour);
        if then != Then::GoOn {
            return (out, then);
        }
    }
    (out, Then::GoOn)
}

fn respond(out: &mut Vec<u8>, request: &Pending, behaviour: &Behaviour) -> Then {
    let wide = behaviour.wide;
    let (error, result) = call(out, request);
    let mut reply =
        |error: &Value, result: &Value| write_reply(out, request.id, error, result, wide);
    match behaviour.faults.get(&request.number) {
        None | Some(Fault::Late) => reply(&error, &result),
        Some(Fault::Drop) => {}
        Some(Fault::Repeat) => {
            reply(&error, &result);
            reply(&error, &result);
        }
        Some(Fault::Alter) => reply(&error, &altered(result)),
        Some(Fault::Another) => reply(&error, &"something else entirely".into()),
        Some(Fault::Error(error)) => reply(error, &Value::Nil),
        Some(Fault::Unasked) => {
            reply(&error, &result);
            write_reply(out, 1 << 30, &Value::Nil, &Value::Nil, wide);
        }
        Some(Fault::CutReply) => {
            reply(&error, &result);
            out.truncate(out.len() - 1);
            return Then::Close;
        }
        Some(Fault::Close) => return Then::Close,
        Some(Fault::Bytes(bytes)) => out.extend_from_slice(bytes),
        Some(Fault::Stall) => return Then::Stall,
    }
    Then::GoOn
}

/// The methods of the server.
fn call(out: &mut Vec<u8>, request: &Pending) -> (Value, Value) {
    let params = &request.params;
    match request.method.as_str() {
        "echo" => (Value::Nil, params.first().cloned().unwrap_or(Value::Nil)),
        "all" => (Value::Nil, Value::Array(params.clone())),
        "sum" => (
            Value::Nil,
            params.iter().filter_map(Value::as_i64).sum::<i64>().into(),
        ),
        // Notifications with the numbers given, then the reply.
        "count" => {
            for number in params {
                notify(out, "tick", vec![number.clone()]);
            }
            (Value::Nil, Value::Nil)
        }
        // A request to the client before the reply.
        "ask" => {
            let question = vec![
                0.into(),
                77.into(),
                "question".into(),
                Value::Array(params.clone()),
            ];
            rmpv::encode::write_value(out, &Value::Array(question)).unwrap();
            (Value::Nil, Value::Nil)
        }
        other => (format!("there is no method {other}").into(), Value::Nil),
    }
}

fn notify(out: &mut Vec<u8>, method: &str, params: Vec<Value>) {
    let message = vec![2.into(), method.into(), Value::Array(params)];
    rmpv::encode::write_value(out, &Value::Array(message)).unwrap();
}

fn write_reply(out: &mut Vec<u8>, id: u64, error: &Value, result: &Value, wide: bool) {
    if wide {
        out.extend_from_slice(b"\xdd\0\0\0\x04\xcd\0\x01\xcf");
        out.extend_from_slice(&id.to_be_bytes());
    } else {
        out.extend_from_slice(b"\x94\x01");
        rmpv::encode::write_value(out, &id.into()).unwrap();
    }
    rmpv::encode::write_value(out, error).unwrap();
    rmpv::encode::write_value(out, result).unwrap();
}

fn altered(value: Value) -> Value {
    match value {
        Value::Binary(mut bytes) => {
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            Value::Binary(bytes)
        }
        _ => "altered".into(),
    }
}

/// Serves one connection with `serve` on a thread of its own.
pub(crate) fn once(serve: impl FnOnce(TcpStream) + Send + 'static) -> (JoinHandle<()>, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().into();
    let thread = thread::spawn(move || serve(listener.accept().unwrap().0));
    (thread, address)
}
