//! The portable engine: tokio-uring, Linux 5.10 or newer.
//!
//! One runtime a worker. Its loop is the ring engine's, with the same order of events, and runs outside the runtime, so that
//! services are called in plain code here, too. Where that engine has the kernel wait with an operation in hand, this one polls first and
//! acts only when it can go on at once, since tokio-uring cannot cancel; [`flights`] says how. So a connection or a byte is at any moment
//! either still in the kernel or ours, and a worker that stops leaves nothing behind that could take or send more.
//!
//! tokio-uring submits only when its runtime parks. The engine has it park once a turn; where there is work left, it does
//! so with an operation in hand that completes at once.

mod accept;
mod flights;
mod link;
mod probe;
mod receive;
mod send;
mod setup;
#[cfg(test)]
mod tests;
mod uptake;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio_uring::Runtime;

use self::accept::{Listening, Watch};
use self::flights::{Flights, Operation};
use self::link::{Progress, Readiness, Way};
use crate::config::RingConfig;
use crate::connection::{Desire, Finish, Receive};
use crate::engine::pause::Pause;
use crate::engine::turn::{self, Plan};
use crate::engine::{Acceptor, Served, WorkerClock, let_go, read_last, reset, send_fin};
use crate::handover::parcel::{self, Parcel};
#[cfg(doc)]
use crate::mailbox::Mail;
use crate::mailbox::Mailbox;
use crate::patience::{Patience, Step};
use crate::shard::Shard;

pub(crate) use self::link::PortableLink;
pub(crate) use self::probe::probe;
pub(crate) use self::setup::Unavailable;
#[cfg(test)]
pub(in crate::engine) use self::setup::{EVENT, RUNTIME, THREAD};
pub(in crate::engine) use self::setup::{rehearse, smallest};

/// The receive buffer is not larger than this, so that it and as many bytes of replies fit into a usual second-level cache.
const BUFFER_BYTES_MAX: usize = 192 * 1024;

/// One worker's engine, for as long as it runs.
struct Engine<'a> {
    runtime: &'a Runtime,
    flights: Flights,
    /// What is received goes through it, but for large frames. Whoever keeps a part of it gets a copy.
    buffer: Box<[u8]>,
    /// So much of it is received into on a worker that is late.
    late_bytes_max: usize,
    shard: Shard<PortableLink>,
    /// First the worker's own, then those of others.
    acceptors: Vec<Listening>,
    watch: Watch,
    mailbox: Mailbox,
    clock: WorkerClock,
    spin: Duration,
    /// What services read from besides connections is polled.
    sources_armed: bool,
    /// Connections to receive from and to send on, slot and generation, first first.
    receives: VecDeque<(u32, u32)>,
    sends: VecDeque<(u32, u32)>,
    /// Polls that have failed, or said that a socket is ready which was not.
    pause: Pause<Operation>,
    /// Connections that were let go, for the successor.
    parcels: Vec<Parcel>,
}

/// Serves until the shard is done. Returns the connections that it hands over, if the stop was one that does.
///
/// `ready` is called once when the engine is set up, or with the reason why it cannot work here. In the latter case the
/// shard and the listeners are unused. Nobody is accepted before [`Mail::Resume`].
///
/// It fails if an eventfd cannot be read.
pub(crate) fn run(
    config: &RingConfig,
    spin: Duration,
    shard: Shard<PortableLink>,
    acceptors: Vec<Acceptor>,
    mailbox: Mailbox,
    patience: &Patience,
    ready: impl FnOnce(Result<(), Unavailable>),
) -> Served {
    let (runtime, entries, sizes, acceptors, watch) = match parts(config, acceptors, patience) {
        Ok(parts) => parts,
        Err(unavailable) => {
            ready(Err(unavailable));
            return Served::nothing(Ok(()));
        }
    };
    let mut engine = Engine::new(&runtime, entries, sizes, shard, acceptors, watch, mailbox);
    engine.spin = spin;
    ready(Ok(()));
    let served = engine.serve();
    if !served.parcels.is_empty() {
        // A poll for each connection that was let go is left. To drop the runtime would cancel them in one go, and
        // tokio-uring aborts the process if the answers do not fit its completion queue. They take nothing, and this
        // process makes room for its successor, so they may as well stay until its end.
        std::mem::forget(runtime);
    }
    served
}

/// A runtime with the entries of its ring, the sizes of receive buffers, the listeners, and what watches them.
type Parts = (Runtime, u32, (u16, usize), Vec<Listening>, Watch);

/// What an engine is made of and may not be had.
fn parts(
    config: &RingConfig,
    acceptors: Vec<Acceptor>,
    patience: &Patience,
) -> Result<Parts, Unavailable> {
    let sizes = config
        .buffer_sizes()
        .map_err(Unavailable::at(setup::BUFFERS))?;
    let (runtime, entries) = patience.insist(Step::Ring, || setup::runtime(config.entries))?;
    let listening: io::Result<Vec<_>> = acceptors.into_iter().map(Listening::new).collect();
    let acceptors = listening.map_err(Unavailable::at(setup::NONBLOCK))?;
    let watch = Watch::new(acceptors.len()).map_err(Unavailable::at(setup::EPOLL))?;
    Ok((runtime, entries, sizes, acceptors, watch))
}

impl<'a> Engine<'a> {
    /// Of a runtime whose ring has so many entries, with one receive buffer for so many of such a size.
    fn new(
        runtime: &'a Runtime,
        entries: u32,
        (buffers, buffer_bytes): (u16, usize),
        shard: Shard<PortableLink>,
        acceptors: Vec<Listening>,
        watch: Watch,
        mailbox: Mailbox,
    ) -> Self {
        let buffer = BUFFER_BYTES_MAX.min(usize::from(buffers) * buffer_bytes);
        Engine {
            runtime,
            flights: Flights::new(entries),
            buffer: vec![0; buffer].into(),
            late_bytes_max: buffer_bytes.min(buffer),
            shard,
            acceptors,
            watch,
            mailbox,
            clock: WorkerClock::new(),
            spin: Duration::ZERO,
            sources_armed: false,
            receives: VecDeque::new(),
            sends: VecDeque::new(),
            pause: Pause::new(),
            parcels: Vec::new(),
        }
    }

    fn serve(mut self) -> Served {
        self.arm_wake();
        let result = self.turn();
        self.shard.say_held();
        let left = let_go(&mut self.shard);
        Served {
            parcels: self.parcels,
            left,
            result,
        }
    }

    /// Turns until the shard is done.
    fn turn(&mut self) -> io::Result<()> {
        self.shard.woken(self.clock.now());
        loop {
            turn::begin(&mut self.shard, &self.mailbox, &mut self.acceptors);
            self.end_pause();
            self.update_accepts();
            self.arm_sources();
            self.shard.woken(self.clock.now());
            self.update_all();
            self.send_all();
            // What they desire now that something was sent. Who has more to send does so in the next turn.
            self.update_all();
            let is_busy =
                || self.flights.has_landed() || !self.receives.is_empty() || !self.sends.is_empty();
            let pause = self.pause.ends();
            let (shard, acceptors) = (&mut self.shard, &mut self.acceptors);
            let plan = turn::plan(shard, &self.mailbox, acceptors, is_busy, pause);
            let count = match plan {
                Plan::Work | Plan::CatchUp => self.look()?,
                Plan::Sleep(until) => self.sleep(until)?,
                Plan::Again => continue,
                Plan::End => return Ok(()),
            };
            self.mailbox.awake();
            if plan == Plan::CatchUp && count == 0 && self.flights.are_all_taken() {
                self.shard.caught_up();
            }
            self.receive_all();
        }
    }

    /// Submits what is queued and dispatches what has completed by now; returns how much it was.
    fn look(&mut self) -> io::Result<u64> {
        self.flights.turn();
        self.park(None)
    }

    /// Submits what is queued, waits until something completes, or until this time on the worker's clock, and dispatches what has;
    /// returns how much it was. Before it sleeps it looks for completions for as long as configured.
    fn sleep(&mut self, until: Option<u64>) -> io::Result<u64> {
        let until = until.map(|until| self.clock.instant(until));
        if !self.spin.is_zero() {
            let end = spin_end(Instant::now() + self.spin, until);
            while Instant::now() < end {
                let count = self.look()?;
                if count > 0 {
                    return Ok(count);
                }
            }
        }
        self.park(until)
    }

    fn park(&mut self, until: Option<Instant>) -> io::Result<u64> {
        self.shard.desk.meter.begin_growth();
        self.shard.desk.counters().engine.enters.add(1);
        self.flights.park(self.runtime, until);
        self.dispatch_all()
    }

    /// Dispatches everything that has completed by now. Returns how much it was.
    fn dispatch_all(&mut self) -> io::Result<u64> {
        self.shard.woken(self.clock.now());
        let mut count = 0;
        self.flights.collect();
        while let Some((operation, result)) = self.flights.next() {
            if operation != Operation::Turn {
                count += 1;
                // Not before there is anything: who only spins is going to sleep.
                self.mailbox.awake();
                self.dispatch(operation, result)?;
            }
        }
        self.shard.desk.counters().engine.completions.add(count);
        Ok(count)
    }

    fn dispatch(&mut self, operation: Operation, result: i32) -> io::Result<()> {
        match operation {
            Operation::Readable { slot, generation } => self.readable(slot, generation, result),
            Operation::Writable { slot, generation } => self.writable(slot, generation, result),
            Operation::Acceptable => self.acceptable(result),
            Operation::Sources => self.sources_polled(result),
            Operation::Wake => self.woken(result)?,
            Operation::Turn => {}
        }
        Ok(())
    }

    /// Begins to wait for what services read from besides connections, unless that has happened.
    fn arm_sources(&mut self) {
        if let Some(sources) = self.shard.sources()
            && !std::mem::replace(&mut self.sources_armed, true)
        {
            self.flights.readable(Operation::Sources, sources);
        }
    }

    /// There is something to read, or the poll has failed.
    fn sources_polled(&mut self, result: i32) {
        if result >= 0 {
            self.sources_armed = false;
        } else {
            self.pause(Operation::Sources);
        }
        self.shard.read_sources();
    }

    fn arm_wake(&mut self) {
        self.flights.readable(Operation::Wake, self.mailbox.event());
    }

    /// Resets the mailbox's eventfd, unless the poll has failed. It blocks, but nobody else reads it, so that what was readable stays
    /// so until this.
    fn woken(&mut self, result: i32) -> io::Result<()> {
        if result < 0 {
            self.pause(Operation::Wake);
            return Ok(());
        }
        match rustix::io::read(self.mailbox.event(), &mut [0; 8]) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.arm_wake();
        Ok(())
    }

    /// Does what the connections desire.
    fn update_all(&mut self) {
        while let Some(slot) = self.shard.next_touched() {
            self.update(slot);
        }
    }

    /// Does what a connection desires.
    fn update(&mut self, slot: u32) {
        let (Some(desire), Some(generation)) = (self.desire(slot), self.shard.generation(slot))
        else {
            return;
        };
        match desire.finish {
            Finish::No => {}
            Finish::Shutdown => return send_fin(&mut self.shard, slot),
            Finish::Close => return self.close(slot, parcel::shut),
            Finish::Reset => return self.close(slot, reset),
            Finish::Release => return self.release(slot, generation, desire.send),
        }
        if desire.send {
            self.send(slot, generation);
        }
        match desire.receive {
            Receive::Stream | Receive::Large => self.receive(slot, generation),
            Receive::Stop => read_last(&mut self.shard, slot),
            // A poll may go on: it takes nothing.
            Receive::Pause => {}
        }
    }

    /// What a connection desires. It receives nothing as long as its service has not got through what it received last.
    fn desire(&mut self, slot: u32) -> Option<Desire> {
        let mut desire = self.shard.desire(slot)?;
        if desire.receive == Receive::Stream && self.shard.is_ready(slot) {
            desire.receive = Receive::Pause;
        }
        Some(desire)
    }

    /// Ends a connection, and closes it once the kernel polls it no more.
    fn close(&mut self, slot: u32, end: fn(&OwnedFd)) {
        let Some(link) = self.shard.link(slot) else {
            return;
        };
        if !std::mem::replace(&mut link.shut_down, true) {
            // It completes every poll.
            end(&link.socket);
        }
        if !link.is_polled() {
            self.shard.closed(slot);
        }
    }

    /// Lets a connection go that is at rest: writes until the kernel takes no more, then gives up what is left.
    fn release(&mut self, slot: u32, generation: u32, send: bool) {
        let Some(link) = self.shard.link(slot) else {
            return;
        };
        if send && link.sending.readiness != Readiness::Unready {
            return self.send_now(slot, generation);
        }
        for way in [&mut link.receiving, &mut link.sending] {
            if let Progress::Polling(poll) = way.progress {
                self.flights.forget(poll);
                way.progress = Progress::No;
            }
        }
        self.parcels.extend(self.shard.release(slot));
    }

    /// The turn of a connection has come in a queue, for this direction of it: what it desires by now. `None` if it does not wait there
    /// any more.
    fn take_up(
        &mut self,
        (slot, generation): (u32, u32),
        way: fn(&mut PortableLink) -> &mut Way,
    ) -> Option<Desire> {
        let way = way(self.shard.link_of(slot, generation)?);
        if way.progress != Progress::Queued {
            return None;
        }
        way.progress = Progress::No;
        self.desire(slot)
    }

    /// Lets a poll pause. A direction of a connection is marked so.
    fn pause(&mut self, poll: Operation) {
        self.pause.add(poll, self.shard.desk.now);
    }

    /// Lets what pauses go on if it is time.
    fn end_pause(&mut self) {
        for poll in self.pause.over(self.shard.desk.now) {
            match poll {
                Operation::Wake => self.arm_wake(),
                Operation::Sources => self.sources_armed = false,
                Operation::Readable { slot, generation } => {
                    self.go_on(slot, generation, |link| &mut link.receiving);
                }
                Operation::Writable { slot, generation } => {
                    self.go_on(slot, generation, |link| &mut link.sending);
                }
                // They are no polls, or wait for what goes wrong with them in another way.
                Operation::Acceptable | Operation::Turn => {}
            }
        }
    }

    /// Lets one direction of a connection go on if it pauses.
    fn go_on(&mut self, slot: u32, generation: u32, way: fn(&mut PortableLink) -> &mut Way) {
        if let Some(link) = self.shard.link_of(slot, generation) {
            let way = way(link);
            if way.progress == Progress::Pausing {
                way.progress = Progress::No;
            }
            self.shard.touch(slot);
        }
    }
}

/// When to stop looking for completions, if that may go on until `end`: not behind what is waited for.
fn spin_end(end: Instant, until: Option<Instant>) -> Instant {
    until.map_or(end, |until| end.min(until))
}
