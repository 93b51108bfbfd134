//! What this kernel offers, found out by trying it on sockets of our own.
//!
//! Kernel versions prove nothing: distributions backport features, and some break them. So each feature that the
//! engine is built on is used once, in about a millisecond altogether, before the engine is chosen.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::thread;

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};

use super::buffers::{Buffers, GROUP};
use super::files::{File, Files};
use super::flights::flight;
use super::queue::{Completion, Queue, Wait};
use super::receive::{Shots, receive};
use super::setup::{self, Unavailable};
use crate::config::RingConfig;
use crate::metrics::EngineCounters;
use crate::probe::Report;
use crate::rlimit;

/// The probe's own ring and buffers: small, and gone at the end of it.
const CONFIG: RingConfig = RingConfig {
    entries: 8,
    buffers: 2,
    buffer_bytes: 4096,
};

/// No answer of the kernel takes ten times this long on sockets that have data already. A signal may end any of the waits.
const PATIENCE_MS: u64 = 2_000;

const LASTING: Shots = Shots::Many { polls_first: false };

const TARGET: u64 = 1;
const CANCEL: u64 = 2;
const LAST: u64 = 3;

/// Tries everything.
pub(crate) fn probe() -> Report {
    let mut report = Report::empty();
    let tried = run_aside(&mut report);
    report.unavailable = tried.err().map(|why| why.to_string());
    report
}

/// As [`probe`], for who wants to know nothing else.
///
/// # Errors
///
/// Why this engine does not work here.
pub(crate) fn try_out() -> Result<(), Unavailable> {
    run_aside(&mut Report::empty())
}

/// Runs on a thread of its own, since the ring belongs to the thread that made it.
fn run_aside(report: &mut Report) -> Result<(), Unavailable> {
    let panicked = || Unavailable::at("trying it out")(io::Error::other("the probe panicked"));
    thread::scope(|scope| {
        thread::Builder::new()
            .name("ringhold-probe".into())
            .spawn_scoped(scope, || run(report))
            .map_err(Unavailable::at(setup::THREAD))?
            .join()
            .unwrap_or_else(|_| Err(panicked()))
    })
}

fn run(report: &mut Report) -> Result<(), Unavailable> {
    let mut ring = match setup::ring(&CONFIG) {
        Ok(ring) => ring,
        Err(unavailable) => {
            if !rlimit::is_used_up(&unavailable.error) {
                set_up_by_steps(report);
            }
            return Err(unavailable);
        }
    };
    report.essential("io_uring", true);
    report.essential("SINGLE_ISSUER", true);
    report.essential("DEFER_TASKRUN", true);
    let no_iowait = ring.params().is_feature_no_iowait();
    let registered = ring.submitter().register_ring_fd();
    report.optional(
        "registered ring descriptor",
        registered.is_ok(),
        "the descriptor itself",
    );
    report.optional("NO_IOWAIT", no_iowait, "sleeping workers show as iowait");

    let mut tests = Tests::new(&mut ring)
        .map_err(Unavailable::at(setup::BUFFERS))
        .inspect_err(|_| report.essential("receive buffer ring", false))?;
    report.essential("receive buffer ring", true);
    let mut essential = |name: &'static str, result: io::Result<()>| {
        // Without descriptors it was not tried, which says nothing of the kernel.
        if !result.as_ref().is_err_and(rlimit::is_used_up) {
            report.essential(name, result.is_ok());
        }
        result.map_err(Unavailable::at(name))
    };
    essential("multishot receive", tests.receive())?;
    essential("silent sends", tests.send())?;
    const FILES: &str = "registered sockets";
    let lets_go = match LETS_GO_OF_FILES.get() {
        Some(known) => *known,
        None => match tests.files() {
            Err(error) if rlimit::is_used_up(&error) => return Err(Unavailable::at(FILES)(error)),
            tried => *LETS_GO_OF_FILES.get_or_init(|| tried.is_ok()),
        },
    };
    report.optional(FILES, lets_go, "their descriptors");
    Ok(())
}

/// What [`Tests::files`] found. It is about the kernel, so it is found out once.
static LETS_GO_OF_FILES: OnceLock<bool> = OnceLock::new();

/// Whether sockets can be registered, see [`super::files`]. Known once a probe has found that the ring engine works.
pub(super) fn lets_go_of_files() -> bool {
    LETS_GO_OF_FILES.get().is_some_and(|lets_go| *lets_go)
}

/// Which of the set-up flags is the one that the kernel refuses.
fn set_up_by_steps(report: &mut Report) {
    let plain = IoUring::new(8);
    report.optional("io_uring", plain.is_ok(), "nothing: neither engine works");
    let single: io::Result<IoUring> = IoUring::builder().setup_single_issuer().build(8);
    report.essential("SINGLE_ISSUER", single.is_ok());
    let deferred: io::Result<IoUring> = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8);
    report.essential("DEFER_TASKRUN", deferred.is_ok());
}

/// A ring with two buffers, to try operations on.
struct Tests<'r> {
    queue: Queue<'r>,
    buffers: Buffers,
    /// What has completed and was not asked for yet.
    landed: Vec<Completion>,
    counters: EngineCounters,
}

impl<'r> Tests<'r> {
    fn new(ring: &'r mut IoUring) -> io::Result<Self> {
        let queue = Queue::new(ring);
        // SAFETY: `drop` unregisters the group before the buffers are freed.
        #[expect(unsafe_code, reason = "the kernel keeps the address of the buffers")]
        let buffers = unsafe { Buffers::register(queue.submitter(), &CONFIG)? };
        Ok(Tests {
            queue,
            buffers,
            landed: Vec::new(),
            counters: EngineCounters::default(),
        })
    }

    /// A byte must arrive through a shared buffer, the receive must stay armed, and a cancel must end it.
    fn receive(&mut self) -> io::Result<()> {
        let (ours, mut theirs) = UnixStream::pair()?;
        theirs.write_all(b"?")?;
        let receive = receive(Fd(ours.as_raw_fd()), LASTING).user_data(TARGET);
        let first = self.submit_and_wait(&receive)?;
        let Some(buffer) = first.buffer() else {
            return Err(unexpected("the completion names no buffer", &first));
        };
        let length = usize::try_from(first.result).unwrap_or(0);
        let arrived = self.buffers.received(buffer, length).bytes == b"?";
        self.buffers.give_back(buffer, false);
        self.buffers.publish(0);
        if !arrived {
            return Err(unexpected("the byte did not arrive", &first));
        }
        if !first.more() {
            // Kernels before 6.0 ignore the flag and receive once.
            return Err(unexpected("the receive ended after one completion", &first));
        }
        self.cancel().map(drop)
    }

    /// Queues something that says when it is its turn.
    fn push_last(&mut self) -> io::Result<()> {
        let last = opcode::Nop::new().build().user_data(LAST);
        // SAFETY: the entry points to nothing.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&last)
        }
    }

    /// A send that the kernel takes whole must say nothing, and one that it takes in part must say how much that was.
    fn send(&mut self) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        // More than there is room for, whatever net.core.wmem_max allows.
        let bytes = vec![0; 16 << 20];
        for length in [1, bytes.len()] {
            let send = flight(Fd(ours.as_raw_fd()), &bytes[..length]).user_data(TARGET);
            // SAFETY: the send is over, and its bytes are not looked at any more, when what is queued behind it is.
            #[expect(unsafe_code, reason = "submitting an operation")]
            unsafe {
                self.queue.push(&send)?;
            }
            self.push_last()?;
            let told = self.until_last()?;
            let sent = match told {
                None => length,
                Some(told) if told.result > 0 => told.result as usize,
                Some(told) => return Err(unexpected("nothing was sent", &told)),
            };
            if received(&theirs)? != sent || told.is_some() != (sent < length) {
                let what = format!("of {length} bytes {sent} were said to be sent");
                return Err(io::Error::other(what));
            }
        }
        Ok(())
    }

    /// A socket that was registered, taken out and closed must be gone at once, though an operation on another one goes on.
    fn files(&mut self) -> io::Result<()> {
        let files = Files::register(self.queue.submitter(), 2);
        let (waiting, _peer) = UnixStream::pair()?;
        let (closing, mut peer) = UnixStream::pair()?;
        peer.set_nonblocking(true)?;
        for (slot, socket) in [(0, &waiting), (1, &closing)] {
            if !files.add(self.queue.submitter(), slot, socket.as_fd()) {
                return Err(io::Error::from(io::ErrorKind::Unsupported));
            }
        }
        let waiting = File::place(0);
        self.queue.poll(waiting, libc::POLLIN, false, TARGET)?;
        self.queue.enter(Wait::No, &self.counters)?;
        files.remove(self.queue.submitter(), 1);
        drop(closing);
        // The end of the peer; as long as the socket is there, this fails with EAGAIN.
        let ended = peer.read(&mut [0]);
        self.cancel()?;
        ended.map(drop)
    }

    /// Waits until what was queued last is over. Returns what the target said before.
    fn until_last(&mut self) -> io::Result<Option<Completion>> {
        self.next(LAST)?;
        Ok(self.take_landed(TARGET))
    }

    fn submit_and_wait(&mut self, entry: &squeue::Entry) -> io::Result<Completion> {
        // SAFETY: the entry points to nothing.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(entry)?;
        }
        self.next(TARGET)
    }

    /// The next completion of the operation with this identity.
    fn next(&mut self, user_data: u64) -> io::Result<Completion> {
        for _ in 0..10 {
            if let Some(landed) = self.take_landed(user_data) {
                return Ok(landed);
            }
            self.queue
                .enter(Wait::AtMost(PATIENCE_MS), &self.counters)?;
            self.queue.reap(|completion| self.landed.push(completion));
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    }

    /// The first completion of this operation that has come and was not asked for.
    fn take_landed(&mut self, user_data: u64) -> Option<Completion> {
        let mut landed = self.landed.iter();
        let at = landed.position(|completion| completion.user_data == user_data)?;
        Some(self.landed.remove(at))
    }

    /// Ends the target, which may have ended by itself. Returns its last completion.
    fn cancel(&mut self) -> io::Result<Completion> {
        self.queue.cancel(TARGET, CANCEL)?;
        let last = self.next(TARGET)?;
        if last.more() {
            return Err(unexpected("a cancelled operation goes on", &last));
        }
        Ok(last)
    }
}

impl Drop for Tests<'_> {
    fn drop(&mut self) {
        // The kernel drops the group with the ring at the latest, which outlives this value by a moment only if this
        // fails; nothing is in flight then that could still use a buffer.
        let _ = self.queue.submitter().unregister_buf_ring(GROUP);
    }
}

/// How many bytes there are to be received.
fn received(mut socket: &UnixStream) -> io::Result<usize> {
    let mut buffer = [0; 64 * 1024];
    let mut total = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(length) => total += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(total),
            Err(error) => return Err(error),
        }
    }
}

fn unexpected(what: &str, completion: &Completion) -> io::Error {
    if completion.result < 0 {
        return io::Error::from_raw_os_error(-completion.result);
    }
    io::Error::other(format!("{what} (result {})", completion.result))
}
