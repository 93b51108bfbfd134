//! A daemon for the tests of the handover: methods that are answered late, sessions that are saved, and failures on
//! demand. `launch` starts a program the way a service manager does.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{self, Ipv4Addr, UdpSocket};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::{
    Ended, Flow, Frame, Handle, Peer, Refusal, Reply, RestoreError, Saved, Server, Service, Watch,
    block_signals,
};
use ringhold_rpc::{Fault, Notification, Responder, Router, Rpc, Turn};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_bytes::ByteBuf;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

#[path = "keeper.rs"]
mod keeper;

#[path = "../../../rpc/examples/topics.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod topics;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap();
    if command == "launch" {
        let mut program = Command::new(arguments.next().unwrap());
        program.args(arguments);
        launch(program);
    }
    serve(Path::new(&command));
}

/// Receives descriptors from standard input and becomes the program. They have the numbers from 3 on, because those are
/// the lowest that are free, and are inherited.
fn launch(mut program: Command) -> ! {
    // Whoever runs the tests may have left something open.
    for number in 3..1024 {
        let _ = nix::unistd::close(number);
    }
    let count: usize = std::env::var("LISTEN_FDS").map_or(0, |count| count.parse().unwrap());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let parts = &mut [IoSliceMut::new(&mut byte)];
    let mut next = 3;
    while next < 3 + count {
        recvmsg(io::stdin(), parts, &mut ancillary, RecvFlags::empty()).unwrap();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                for descriptor in descriptors {
                    assert_eq!(descriptor.into_raw_fd(), next as i32);
                    next += 1;
                }
            }
        }
    }
    program
        .stdin(Stdio::null())
        .env("LISTEN_PID", std::process::id().to_string());
    panic!("cannot start: {}", program.exec());
}

/// From now on, this process may have so many MiB of addresses besides those that it has.
fn allow_more(mib: u64) {
    let sizes = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = sizes.split(' ').next().unwrap().parse().unwrap();
    let limit = Rlimit {
        current: Some(pages * rustix::param::page_size() as u64 + (mib << 20)),
        maximum: getrlimit(Resource::As).maximum,
    };
    setrlimit(Resource::As, limit).unwrap();
}

fn serve(config: &Path) {
    let flags = PathBuf::from(std::env::var_os("HANDOVER_FLAGS").unwrap_or_default());
    // It has the first number behind those of inherited descriptors.
    let log_socket = flags.join("log-socket").exists().then(|| {
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(flags.join("log-socket")).unwrap();
        Arc::new(socket)
    });
    let journal = flags
        .join("journal")
        .exists()
        .then(|| File::create(flags.join("journal")).unwrap());
    let inherited = flags
        .join("take-first")
        .exists()
        .then(|| Inherited::take().unwrap());
    block_signals().unwrap();
    if let Some(journal) = journal {
        std::thread::spawn(move || {
            loop {
                journal.write_all_at(b"written without pause", 0).unwrap();
            }
        });
    }
    if flags.join("thread-first").exists() {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
    }
    let config = match Config::from_file(config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(2);
        }
    };
    let log = match log_socket {
        Some(socket) => BoxMakeWriter::new(move || LogSocket(socket.clone())),
        None => BoxMakeWriter::new(io::stderr),
    };
    tracing_subscriber::fmt()
        .with_writer(log)
        .with_ansi(false)
        .init();
    ringhold_core::panics::leave_caught_to_log();
    if let Ok(more) = std::fs::read_to_string(flags.join("little-memory"))
        && std::env::var_os("RINGHOLD_PREFLIGHT").is_none()
    {
        allow_more(more.parse().unwrap());
    }
    let says_goodbye = flags.join("say-goodbye").exists();
    let mut server = Server::new(config)
        .preflight({
            let flags = flags.clone();
            move || {
                router(&flags);
                Ok(())
            }
        })
        .service("rpc", {
            let flags = flags.clone();
            let first = datagrams(&flags).into_iter().next();
            move |worker| {
                if let Some((name, _)) = &first {
                    METRICS.get_or_init(|| worker.descriptor(name).into());
                }
                Rpc::new(worker, router(&flags))
            }
        })
        .service("topics", {
            let hub = topics::Hub::default();
            let ticks = flags.join("relay-in-ticks").exists();
            let watches = flags.join("relay-when-readable").exists();
            let flags = flags.clone();
            move |worker| {
                let router = topics::router(&hub);
                let is_first = worker.index() == 0;
                let router = match is_first && flags.join("open-its-own").exists() {
                    true => open(router, &flags),
                    false => router,
                };
                let router = match (ticks && is_first, watches && is_first) {
                    (true, _) => {
                        let mut relay = relay(&hub);
                        router.every(Duration::from_millis(1), move |_| relay())
                    }
                    (_, true) => watch(router, relay(&hub)),
                    (false, false) => router,
                };
                Rpc::new(worker, router)
            }
        })
        .service("counter", {
            let flags = flags.clone();
            move |_| Counter::new(flags.clone())
        })
        .service("bus", |_| Bus)
        .try_service("keeper", {
            let flags = flags.clone();
            move |worker| keeper::Keeper::new(worker, flags.clone())
        })
        .service("fragile", {
            let flags = flags.clone();
            move |_| {
                let flags = flags.clone();
                if flags.join("abort-at-start").exists() {
                    std::process::abort();
                }
                Counter::new(flags)
            }
        });
    let [objection, looks] = ["object", "tell-looks"].map(|flag| flags.join(flag));
    server = server.preflight(move || {
        if std::fs::exists(looks)? {
            eprintln!("the program itself looks");
        }
        match std::fs::exists(objection)? {
            true => Err("the program itself objects".into()),
            false => Ok(()),
        }
    });
    for (name, address) in datagrams(&flags) {
        server = server.datagram(name, address);
    }
    if flags.join("claim-metrics").exists() {
        let flags = flags.clone();
        server = server.descriptor("metrics", move |inherited| metrics(inherited, &flags));
    }
    for (flag, count) in [("claim-spare", 1), ("claim-many", 60)] {
        if flags.join(flag).exists() {
            for index in 0..count {
                server = server.descriptor(format!("{flag}-{index}"), spare);
            }
        }
    }
    if let Some(inherited) = inherited {
        server = server.inherited(inherited);
    }
    if flags.join("embed").exists() {
        return embed(server, &flags);
    }
    if let Err(error) = server.run() {
        eprintln!("{error}");
        std::process::exit(error.exit_status().into());
    }
    if says_goodbye {
        println!("goodbye");
    }
}

/// Serves until it is told to stop by a flag.
fn embed(server: Server, flags: &Path) {
    let running = server.start().unwrap();
    while !flags.join("end").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    running.stop();
    running.join().unwrap();
}

/// The names and addresses that are to be had, each on a line. The first one is that of the methods.
fn datagrams(flags: &Path) -> Vec<(String, net::SocketAddr)> {
    let text = std::fs::read_to_string(flags.join("datagram")).unwrap_or_default();
    let lines = text.lines().map(|line| line.split_once(' ').unwrap());
    lines
        .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
        .collect()
}

/// The application's own socket.
static METRICS: OnceLock<UdpSocket> = OnceLock::new();

fn metrics(inherited: Option<OwnedFd>, flags: &Path) -> io::Result<OwnedFd> {
    if flags.join("refuse-metrics").exists() {
        return Err(io::Error::other("on purpose"));
    }
    let socket = match inherited {
        Some(inherited) if !flags.join("open-another").exists() => UdpSocket::from(inherited),
        _ => UdpSocket::bind("127.0.0.1:0")?,
    };
    socket.set_nonblocking(true)?;
    let held = socket.try_clone()?.into();
    METRICS.set(socket).unwrap();
    Ok(held)
}

/// A descriptor that nobody uses.
fn spare(inherited: Option<OwnedFd>) -> io::Result<OwnedFd> {
    match inherited {
        Some(inherited) => Ok(inherited),
        None => Ok(UnixDatagram::unbound()?.into()),
    }
}

/// Publishes each datagram that the application's own socket has received as an event of the topic `metrics`.
fn relay(hub: &topics::Hub) -> impl FnMut() + use<> {
    let hub = hub.clone();
    move || {
        let mut number = [0; 8];
        while METRICS.get().unwrap().recv(&mut number).is_ok() {
            let event = ("metrics", u64::from_be_bytes(number));
            hub.publish("metrics", &Notification::new("event", &event).unwrap());
        }
    }
}

/// Does so whenever there is one.
fn watch(router: Router, mut relay: impl FnMut() + 'static) -> Router {
    router.watch(METRICS.get().unwrap(), move |_| {
        relay();
        Ok(Watch::Continue)
    })
}

/// Watches two sockets of this process, whose names are nobody else's for as long as they are open anywhere: one from the start, one later.
fn open(router: Router, flags: &Path) -> Router {
    let [first, later] = ["first", "later"].map(|name| {
        let name = flags.join(name);
        let name = SocketAddr::from_abstract_name(name.as_os_str().as_bytes()).unwrap();
        Rc::new(UnixDatagram::bind_addr(&name).unwrap())
    });
    let mut later = Some(later);
    let reading = |socket: &Rc<UnixDatagram>| {
        let socket = socket.clone();
        move |_: &mut Turn<'_>| socket.recv(&mut [0]).map(|_| Watch::Continue)
    };
    let router = router.watch(first.clone(), reading(&first));
    router.every(Duration::from_millis(1), move |turn| {
        if let Some(socket) = later.take() {
            turn.watch(socket.clone(), reading(&socket));
        }
    })
}

/// A line is a datagram, as it is for the journal.
struct LogSocket(Arc<UnixDatagram>);

impl Write for LogSocket {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Responders that wait for `release`.
static HELD: Mutex<Vec<Responder>> = Mutex::new(Vec::new());
static WAITING: Mutex<Vec<Responder>> = Mutex::new(Vec::new());

fn router(flags: &Path) -> Router {
    let router = Router::new();
    let router = match flags.join("name-twice").exists() {
        true => router.method("hold", |()| Ok(())),
        false => router,
    };
    router
        .deferred("hold", |(), responder| HELD.lock().unwrap().push(responder))
        .method("metrics_port", |()| {
            let socket = METRICS.get().unwrap();
            Ok(socket.local_addr().unwrap().port())
        })
        .method("metrics_connect", |port: u16| {
            let socket = METRICS.get().unwrap();
            socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            Ok(())
        })
        .method("metrics", |()| {
            let socket = METRICS.get().unwrap();
            let mut datagram = [0; 8];
            let mut received = Vec::new();
            while let Ok(length) = socket.recv(&mut datagram) {
                received.push(ByteBuf::from(&datagram[..length]));
            }
            Ok(received)
        })
        // Of which the next process is asked again.
        .deferred("wait", |(), responder| {
            WAITING.lock().unwrap().push(responder)
        })
        .repeatable("wait")
        .method("give", |value: u64| {
            let waiting = std::mem::take(&mut *WAITING.lock().unwrap());
            let given = waiting.into_iter().map(|it| it.try_ok(&value));
            Ok(given.filter(Result::is_ok).count())
        })
        .method("release", |()| {
            let held = std::mem::take(&mut *HELD.lock().unwrap());
            let count = held.len();
            for responder in held {
                responder.ok("released");
            }
            Ok(count)
        })
        .deferred("later", |value: ByteBuf, responder| {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(5));
                responder.ok(&value);
            });
        })
        .deferred("sleep", |milliseconds: u64, responder| {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(milliseconds));
                responder.ok(&milliseconds);
            });
        })
        .raw("big", |call, answer| {
            let length: usize = match call.decode() {
                Ok(length) => length,
                Err(fault) => return answer.fault(fault),
            };
            let mut object = vec![0xc6];
            object.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            object.extend((0..length).map(|index| (index % 251) as u8));
            answer.share(Bytes::from(object))
        })
        .method("panic", |()| -> Result<(), Fault> { panic!("on purpose") })
        .deferred("panic_elsewhere", |(), responder| {
            std::thread::spawn(move || {
                let _responder = responder;
                panic!("elsewhere, on purpose");
            });
        })
        .method("panic_twice", |()| -> Result<(), Fault> {
            struct Second;
            impl Drop for Second {
                fn drop(&mut self) {
                    panic!("the second one, on purpose");
                }
            }
            let _second = Second;
            panic!("the first one, on purpose");
        })
        .method_with("who", |context, ()| {
            let who = context.peer().credentials()?;
            Ok(who.map(|who| (who.pid, who.uid, who.gid)))
        })
        .method_with("where", |context, ()| {
            Ok(context.peer().address()?.to_string())
        })
        .method_with("remember", |context, value: u64| {
            *context.data::<u64>() += value;
            Ok(*context.data::<u64>())
        })
}

/// Greets, counts the frames of each connection, and keeps the count over a handover.
struct Counter {
    flags: PathBuf,
    /// How often a session was saved.
    saves: Cell<usize>,
}

impl Counter {
    fn new(flags: PathBuf) -> Self {
        let saves = Cell::new(0);
        Counter { flags, saves }
    }

    fn is_set(&self, flag: &str) -> bool {
        self.flags.join(flag).exists()
    }
}

impl Service for Counter {
    type Session = u64;

    fn connected(&mut self, _: &Peer<'_>, reply: &mut Reply<'_>) -> Result<u64, Refusal> {
        reply.write(|out| out.extend_from_slice(b"\xa5hello"));
        Ok(0)
    }

    fn frame(&mut self, session: &mut u64, _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        if self.is_set("panic-in-frame") {
            panic!("a frame, on purpose");
        }
        if self.is_set("slow") {
            std::thread::sleep(Duration::from_millis(100));
        }
        *session += 1;
        reply.write(|out| {
            out.push(0xcf);
            out.extend_from_slice(&session.to_be_bytes());
        });
        Flow::Continue
    }

    fn disconnected(&mut self, _: u64, _: &Ended<'_>) {
        if self.is_set("panic-at-the-end") {
            panic!("the end, on purpose");
        }
    }

    fn save(&self, session: &u64) -> Saved {
        self.saves.set(self.saves.get() + 1);
        // It is asked when the stop begins, when nothing more is read, and when the connection is let go.
        let is_late = self.is_set("save-nothing-at-last") && self.saves.get() > 2;
        if self.is_set("save-nothing") || is_late {
            return Saved::Close;
        }
        Saved::Bytes(Bytes::copy_from_slice(&session.to_be_bytes()))
    }

    fn restore(&mut self, _: &Peer<'_>, saved: &[u8]) -> Result<u64, RestoreError> {
        // Whoever finds the second flag takes it away: the next one goes on.
        let once = self.flags.join("abort-once-in-restore");
        if self.is_set("abort-in-restore") || std::fs::remove_file(once).is_ok() {
            std::process::abort();
        }
        if self.is_set("panic-in-restore") {
            panic!("restoring fails, on purpose");
        }
        if self.is_set("refuse") {
            return Err(Refusal::new("nobody comes in any more, on purpose").into());
        }
        let count = u64::from_be_bytes(saved.try_into().unwrap());
        if self.is_set("refuse-to-restore") && count % 2 == 1 {
            return Err(RestoreError::new("an odd count, on purpose"));
        }
        Ok(count)
    }
}

/// Passes every number on to all who sent nil before, and confirms it with a true.
struct Bus;

/// Those who sent nil, whichever worker they are on.
static READERS: Mutex<Vec<Handle>> = Mutex::new(Vec::new());

impl Service for Bus {
    /// Whether it is a reader.
    type Session = bool;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<bool, Refusal> {
        Ok(false)
    }

    fn frame(&mut self, is_reader: &mut bool, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        if frame[0] == 0xc0 {
            *is_reader = true;
            READERS.lock().unwrap().push(reply.handle());
        } else if frame[0] == 0xc2 {
            eprintln!("busy for a while");
            std::thread::sleep(Duration::from_millis(2500));
        } else if frame[0] == 0x90 {
            eprintln!("busy until told otherwise");
            while is_to_keep_busy() {
                std::thread::sleep(Duration::from_millis(10));
            }
        } else if frame[0] == 0x80 {
            eprintln!("busy for ever");
            loop {
                std::thread::park();
            }
        } else {
            let event = frame.to_bytes();
            let mut readers = READERS.lock().unwrap();
            readers.retain(|reader| reader.push_shared(&event).is_ok());
        }
        reply.write(|out| out.push(0xc3));
        Flow::Continue
    }

    fn save(&self, is_reader: &bool) -> Saved {
        if *is_reader {
            Saved::Bytes(Bytes::from_static(b"reader"))
        } else {
            Saved::Stateless
        }
    }

    fn restore(&mut self, peer: &Peer<'_>, _: &[u8]) -> Result<bool, RestoreError> {
        READERS.lock().unwrap().push(peer.handle());
        Ok(true)
    }
}

fn is_to_keep_busy() -> bool {
    let flags = PathBuf::from(std::env::var_os("HANDOVER_FLAGS").unwrap());
    flags.join("keep-busy").exists()
}

impl Drop for Bus {
    fn drop(&mut self) {
        if is_to_keep_busy() {
            eprintln!("slow to end");
        }
        while is_to_keep_busy() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
