//! The ring engine: raw io_uring, Linux 6.1 or newer.
//!
//! One ring a worker, made and used on the worker's thread only. A turn of its loop: handle mail and timers, do what
//! the touched connections desire, submit everything and wait in one system call, dispatch what completed.

mod accept;
mod alarm;
mod buffers;
mod bulk;
mod desires;
mod dispatch;
mod eager;
mod files;
mod flights;
mod link;
mod operation;
mod poison;
mod probe;
mod queue;
mod receive;
mod rehearsal;
mod room;
mod send;
mod setup;
mod source;
mod watch;

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

use self::accept::Listening;
use self::alarm::Alarm;
use self::buffers::Buffers;
use self::bulk::Bulk;
use self::dispatch::Completed;
use self::eager::Looks;
use self::files::Files;
use self::flights::Flights;
use self::link::Message;
use self::operation::{Kind, Operation};
use self::queue::{Completion, Queue, Wait};
use self::source::Sources;
use crate::config::RingConfig;
use crate::engine::pause::Pause;
use crate::engine::turn::{self, Plan};
use crate::engine::{Acceptor, Served, WorkerClock, let_go};
use crate::handover::parcel::Parcel;
#[cfg(doc)]
use crate::mailbox::Mail;
use crate::mailbox::Mailbox;
use crate::patience::{Patience, Step};
use crate::shard::Shard;

pub(in crate::engine) use self::bulk::receive_into;
pub(crate) use self::link::RingLink;
pub(crate) use self::probe::{probe, try_out};
pub(crate) use self::rehearsal::{rehearse, reserve};
pub(crate) use self::setup::Unavailable;

/// One worker's engine, for as long as it runs.
///
/// The kernel holds addresses of memory in here (entries and buffers of `buffers`, `messages` that are in
/// links, `flights`, `wake`, `alarm`, and the sealed segments of outboxes in `shard`). So the value is dropped only when nothing is in
/// flight any more; after a failure it is leaked instead.
struct Engine<'r> {
    queue: Queue<'r>,
    /// What has completed and was not dispatched.
    completed: Completed,
    files: Files,
    buffers: Buffers,
    shard: Shard<RingLink>,
    /// First the worker's own, then those of others.
    acceptors: Vec<Listening>,
    /// Not leaked with the rest: after a failure, who posts is to be told that nobody reads.
    mailbox: &'r Mailbox,
    clock: WorkerClock,
    spin: Duration,
    /// Connections that found no receive buffer, in the order in which they did: slot and generation.
    starved: VecDeque<(u32, u32)>,
    /// Counts the turns, for the share of the buffers.
    turn: u32,
    /// Connections that were let go, for the successor.
    parcels: Vec<Parcel>,
    /// The eager connections.
    looks: Looks,
    /// The bulky ones.
    bulk: Bulk,
    /// Sends that the next enter makes.
    flights: Flights,
    /// What has failed, or found no room where its poll had said that there is some, and is tried again later.
    pause: Pause<Operation>,
    /// Unused parameters of gathering sends.
    #[expect(
        clippy::vec_box,
        reason = "a message in flight must not move, so it is kept boxed"
    )]
    messages: Vec<Box<Message>>,
    /// Where the mailbox's eventfd is read to.
    wake: Box<u64>,
    wake_armed: bool,
    /// How far the poll of what services read from besides connections is.
    sources: Sources,
    /// The worker is done, and ends what is still in flight.
    finishes: bool,
    alarm: Alarm,
}

/// Serves until the shard is done. Returns the connections that it hands over, if the stop was one that does.
///
/// `ready` is called once when the engine is set up, or with the reason why it cannot work here. In the latter case the
/// shard and the listeners are unused. Nobody is accepted before [`Mail::Resume`].
///
/// It fails with what io_uring_enter(2) answers when nothing can be done about it. The engine and what it holds are leaked
/// then, also if that is the reason why it cannot work here.
pub(crate) fn run(
    config: &RingConfig,
    spin: Duration,
    shard: Shard<RingLink>,
    acceptors: Vec<Acceptor>,
    mailbox: Mailbox,
    patience: &Patience,
    ready: impl FnOnce(Result<(), Unavailable>),
) -> Served {
    let mut ring = match patience.insist(Step::Ring, || setup::ring(config)) {
        Ok(ring) => ring,
        Err(unavailable) => {
            ready(Err(unavailable));
            return Served::nothing(Ok(()));
        }
    };
    let engine = Engine::new(
        &mut ring, config, spin, shard, acceptors, &mailbox, patience,
    );
    let mut engine = match engine {
        Ok(engine) => ManuallyDrop::new(engine),
        Err(unavailable) => {
            ready(Err(unavailable));
            return Served::nothing(Ok(()));
        }
    };
    if let Err(error) = engine.begin() {
        ready(Err(Unavailable::at("beginning to submit")(error)));
        return Served::nothing(Ok(()));
    }
    ready(Ok(()));
    let result = engine.serve().and_then(|()| engine.finish());
    engine.shard.say_held();
    // Nothing is in flight on these, whatever has failed.
    let parcels = std::mem::take(&mut engine.parcels);
    let mut left = Vec::new();
    if result.is_ok() {
        left = let_go(&mut engine.shard);
        drop(ManuallyDrop::into_inner(engine));
    }
    Served {
        parcels,
        left,
        result,
    }
}

impl<'r> Engine<'r> {
    /// On this ring, whose kernel is to know its buffers and, where it lets go of them, its sockets.
    fn new(
        ring: &'r mut IoUring,
        config: &RingConfig,
        spin: Duration,
        shard: Shard<RingLink>,
        acceptors: Vec<Acceptor>,
        mailbox: &'r Mailbox,
        patience: &Patience,
    ) -> Result<Self, Unavailable> {
        let listening: io::Result<_> = acceptors.into_iter().map(Listening::new).collect();
        let acceptors = listening.map_err(Unavailable::at("setting O_NONBLOCK on a listener"))?;
        let queue = Queue::new(ring);
        let files = if probe::lets_go_of_files() {
            Files::register(queue.submitter(), shard.desk.limits.connections)
        } else {
            Files::none()
        };
        // Their entries count where rings do.
        let buffers = patience.insist(Step::Buffers, || {
            // SAFETY: the engine, which owns the buffers, is dropped only after it has unregistered the group; otherwise it is
            // leaked.
            #[expect(unsafe_code, reason = "the kernel keeps the address of the buffers")]
            let registered = unsafe { Buffers::register(queue.submitter(), config) };
            registered.map_err(Unavailable::at(setup::BUFFERS))
        })?;
        Ok(Engine {
            queue,
            completed: Completed::default(),
            files,
            buffers,
            shard,
            acceptors,
            mailbox,
            clock: WorkerClock::new(),
            spin,
            starved: VecDeque::new(),
            turn: 0,
            parcels: Vec::new(),
            looks: Looks::default(),
            bulk: Bulk::new(),
            flights: Flights::default(),
            pause: Pause::new(),
            messages: Vec::new(),
            wake: Box::new(0),
            wake_armed: false,
            sources: Sources::Idle,
            finishes: false,
            alarm: Alarm::new(),
        })
    }

    /// Sees that the kernel takes what is submitted. Listeners wait for the mail that lets them accept.
    fn begin(&mut self) -> io::Result<()> {
        self.shard.woken(self.clock.now());
        self.arm_wake()?;
        self.enter(Wait::No)
    }

    /// Turns until the shard is done.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            self.turn = self.turn.wrapping_add(1);
            self.looks.begin_turn();
            turn::begin(&mut self.shard, self.mailbox, &mut self.acceptors);
            self.receive_pieces()?;
            self.update_accepts()?;
            self.shard.woken(self.clock.now());
            self.end_pause()?;
            self.arm_sources()?;
            self.update_touched()?;
            self.replenish()?;
            self.look()?;
            // Completions that the kernel has deferred are no reason: an enter that would wait runs them first, and does not
            // wait then. The ring's flag that there are some can stay behind after they were run.
            // Some of the connections without a buffer begin to receive in every turn, so this ends even if none of them
            // has anything to receive.
            let is_busy =
                || !self.starved.is_empty() || self.looks.is_waiting() || self.bulk.is_wanted();
            let (shard, acceptors) = (&mut self.shard, &mut self.acceptors);
            let pause = self.pause.ends();
            let plan = turn::plan(shard, self.mailbox, acceptors, is_busy, pause);
            match plan {
                Plan::Work | Plan::CatchUp => self.enter(Wait::No)?,
                Plan::Sleep(until) => self.sleep(until)?,
                Plan::Again => continue,
                Plan::End => return Ok(()),
            }
            self.mailbox.awake();
            self.shard.woken(self.clock.now());
            let has_begun_all = self.queue.begun() == self.queue.pushed();
            let count = self.dispatch_all()?;
            if plan == Plan::CatchUp && count == 0 && has_begun_all {
                self.shard.caught_up();
            }
        }
    }

    /// Waits until something completes, or until this time on the worker's clock.
    fn sleep(&mut self, until: Option<u64>) -> io::Result<()> {
        if let Some(until) = until {
            self.wake_at(until)?;
        }
        match self.spin.is_zero() {
            true => self.enter(Wait::Forever),
            false => self.spin(),
        }
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.shard.desk.meter.begin_growth();
        self.queue.enter(wait, &self.shard.desk.counters().engine)
    }

    /// Looks for completions without sleeping for as long as configured, then waits.
    fn spin(&mut self) -> io::Result<()> {
        let end = Instant::now() + self.spin;
        self.enter(Wait::No)?;
        while !self.queue.has_completions() {
            if Instant::now() >= end {
                return self.enter(Wait::Forever);
            }
            if self.queue.may_have_deferred_work() {
                self.enter(Wait::No)?;
            }
            std::hint::spin_loop();
        }
        Ok(())
    }

    /// Asks the kernel to end the operation of this identity.
    fn cancel(&mut self, operation: Operation) -> io::Result<()> {
        let cancel = Operation::new(Kind::Cancel, 0, 0);
        self.queue.cancel(operation.pack(), cancel.pack())
    }

    fn arm_wake(&mut self) -> io::Result<()> {
        let event = Fd(self.mailbox.event().as_raw_fd());
        let read = opcode::Read::new(event, (&raw mut *self.wake).cast(), size_of::<u64>() as u32)
            .build()
            .user_data(Operation::new(Kind::Wake, 0, 0).pack());
        // SAFETY: the box outlives the operation (see `Engine`), and nobody else uses it.
        #[expect(unsafe_code, reason = "submitting an operation")]
        unsafe {
            self.queue.push(&read)?;
        }
        self.wake_armed = true;
        Ok(())
    }

    /// There is mail, or the read has failed or was cancelled.
    fn woken(&mut self, completion: &Completion) -> io::Result<()> {
        self.wake_armed = false;
        if self.finishes {
            return Ok(());
        }
        if completion.result < 0 {
            self.pause(Operation::new(Kind::Wake, 0, 0));
            return Ok(());
        }
        // Also if nothing seems to be left to do: this mail may bring something.
        self.arm_wake()
    }

    /// Lets an operation pause that would fail again at once.
    fn pause(&mut self, operation: Operation) {
        self.pause.add(operation, self.shard.desk.now);
    }

    /// Lets what pauses go on if it is time.
    fn end_pause(&mut self) -> io::Result<()> {
        for operation in self.pause.over(self.shard.desk.now) {
            match operation.kind {
                Kind::Wake => self.arm_wake()?,
                Kind::Sources => self.sources = Sources::Idle,
                // It is a send.
                _ => self.try_room_again(operation),
            }
        }
        Ok(())
    }

    /// Ends what is still in flight when the shard is done, so that the memory can go.
    fn finish(&mut self) -> io::Result<()> {
        self.finishes = true;
        if self.wake_armed {
            self.cancel(Operation::new(Kind::Wake, 0, 0))?;
        }
        if self.alarm.is_armed() {
            self.cancel(Operation::new(Kind::Alarm, 0, 0))?;
        }
        if self.sources == Sources::Armed {
            self.cancel(Operation::new(Kind::Sources, 0, 0))?;
        }
        while self.wake_armed || self.alarm.is_armed() || self.sources == Sources::Armed {
            self.enter(Wait::AtMost(100))?;
            self.dispatch_all()?;
        }
        self.queue.submitter().unregister_buf_ring(buffers::GROUP)
    }
}
