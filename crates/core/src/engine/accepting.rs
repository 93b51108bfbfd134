//! When to accept, and what becomes of an accepted connection: dealt to a worker, waiting for room, turned away.
//!
//! This is the same for every engine: a poll tells that somebody has connected, and accept4(2) takes connections one by one,
//! for as long as there is room. A multishot accept of io_uring would take whole backlogs, of all listeners of a worker, before it could
//! be told to stop, and what was accepted must be served. Where the poll comes from is the engine's own matter: after
//! each event on a listener it looks at [`Accepting::is_wanted`] and [`Accepting::is_stopping`] and brings what it has in flight
//! into line.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::{Acceptor, party};
use crate::crew::{Crew, Name};
use crate::crowd::{Crowded, Place};
use crate::journal;
use crate::listeners::Listener;
use crate::mailbox::Mail;
use crate::peer::Link;
use crate::plain;
use crate::rlimit;
use crate::shard::{Accept, Shard};

/// How long accepting rests after descriptors or memory ran out.
const BACKOFF_MS: u64 = 100;

/// So many connections are accepted on one listener in one turn; then those that are open have theirs.
const ACCEPTS_PER_TURN_MAX: usize = 64;

/// One listener of a worker: its own, or one that it accepts from while the owner is stuck.
pub(crate) struct Accepting {
    listener: Arc<Listener>,
    /// This worker.
    worker: usize,
    /// Index of the socket name.
    name: u16,
    state: State,
    /// Every worker of the partition holds as many connections as it may.
    is_paused: bool,
    /// What was accepted for the last room, when another worker was faster.
    waiting: Option<(OwnedFd, Option<Place>)>,
    /// The pause was logged, and that it is over is to be.
    pause_is_logged: bool,
    /// The turn in which somebody was last found to have connected; zero if all of those were accepted.
    turn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It does not accept yet: should this process end before it answers for its predecessor's connections, nobody who
    /// connects is to be lost.
    Held,
    /// It accepts unless it is paused.
    Open,
    /// Descriptors or memory ran out: it accepts nothing until this time on the worker's clock.
    Resting { until: u64 },
    /// It is to accept no more. What the engine has on its way is still taken in.
    Stopping,
    /// It accepts no more.
    Ended,
}

impl Accepting {
    /// Sets O_NONBLOCK, since somebody else who has the listener could take the connection that a poll has announced,
    /// and accept4(2) would then hang the worker. The flag belongs to everybody who has the listener.
    ///
    /// # Errors
    ///
    /// Those of fcntl(2).
    pub(crate) fn new(acceptor: Acceptor) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&acceptor.listener.socket, true)?;
        Ok(Accepting {
            listener: acceptor.listener,
            worker: acceptor.worker,
            name: acceptor.name,
            state: State::Held,
            is_paused: false,
            waiting: None,
            pause_is_logged: false,
            turn: 0,
        })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.listener.socket.as_fd()
    }

    /// Whether it may accept: the worker owns the listener, or was called to accept in place of others. Otherwise nobody counts it as an
    /// acceptor, and it need not be looked at.
    pub(crate) fn is_in_use(&self, crew: &Crew) -> bool {
        self.listener.owner == self.worker || crew.is_called(self.worker)
    }

    /// Whether connections are to be accepted as of now.
    pub(crate) fn is_wanted(&self) -> bool {
        self.state == State::Open
            && !self.is_paused
            && self.listener.is_accepted_by(self.worker)
            && !self.listener.is_closed()
    }

    /// Whether the engine is to call [`Accepting::end`] once nothing can come any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.state == State::Stopping
    }

    /// Whether it accepts no more.
    pub(crate) fn has_ended(&self, crew: &Crew) -> bool {
        self.state == State::Ended || !self.is_in_use(crew)
    }

    /// When [`Accepting::end_rest`] has something to do, on the worker's clock.
    pub(crate) fn rest_ends(&self) -> Option<u64> {
        match self.state {
            State::Resting { until } => Some(until),
            State::Held | State::Open | State::Stopping | State::Ended => None,
        }
    }

    /// Ends the rest if its time is over by now.
    pub(crate) fn end_rest(&mut self, now: u64) {
        if self.rest_ends().is_some_and(|until| until <= now) {
            self.state = State::Open;
        }
    }

    /// Somebody has connected. Accepts who waits, for as long as there is room.
    pub(crate) fn accept<L: Link>(&mut self, shard: &mut Shard<L>) {
        let turn = shard.desk.counters().engine.turns.value();
        // An accept in vain costs nearly as much as another one. So who comes alone is accepted alone, and whoever else there is
        // makes the next poll complete at once, that is, in the next turn.
        let are_many = turn - std::mem::replace(&mut self.turn, turn) <= 1;
        let most = if are_many { ACCEPTS_PER_TURN_MAX } else { 1 };
        for count in 0..most {
            if !self.is_wanted() {
                return;
            }
            if self.listener.enabled && !self.has_room(shard) {
                // Whether anybody waits behind those that were accepted is not known before the next poll.
                if count == 0 {
                    self.pause(shard);
                }
                return;
            }
            let crew = &shard.desk.crew;
            // Who was left behind may be too late for whom it accepts, and the others for whom it deals to them.
            if crew.lends_descriptors.load(Ordering::SeqCst) || crew.is_left_behind(self.worker) {
                return self.rest(shard);
            }
            match accept_with(self.socket(), SocketFlags::CLOEXEC) {
                Ok(socket) => self.take_in(socket, shard),
                Err(Errno::AGAIN) => {
                    self.turn = 0;
                    return;
                }
                Err(errno) => self.failed(&errno.into(), shard),
            }
        }
    }

    /// Gives a new connection to the worker whose turn it is, or lets it wait for room. That of a client which has as many as it may
    /// is closed: in the backlog it would wait before those of others.
    fn take_in<L: Link>(&mut self, socket: OwnedFd, shard: &mut Shard<L>) {
        let counters = shard.desk.name_counters(self.name);
        if !self.listener.enabled {
            // The first, the second, the fourth, ...: it may go on for as long as the process runs.
            let count = counters.turned_away.value() + 1;
            if count.is_power_of_two() {
                tracing::warn!(
                    socket = %self.listener.name,
                    "turned away {} so far: the configuration disables this socket",
                    plain::connections(count)
                );
            }
            counters.turned_away.add(1);
            return;
        }
        let place = match self.enter(&socket, shard) {
            Ok(place) => place,
            Err(Crowded(client)) => {
                counters.crowded.add(1);
                return journal::crowded(self.name, client, &shard.desk);
            }
        };
        counters.accepted.add(1);
        match self.deal(shard) {
            Some(worker) => self.hand_to(worker, socket, place, shard),
            None => {
                self.waiting = Some((socket, place));
                self.pause(shard);
            }
        }
    }

    /// Counts a new connection for its client, if that is known: behind a proxy it is when the header is there.
    fn enter<L>(&self, socket: &OwnedFd, shard: &Shard<L>) -> Result<Option<Place>, Crowded> {
        if shard.desk.names[self.name as usize].proxy_protocol {
            return Ok(None);
        }
        let crowd = &shard.desk.crew.crowd;
        crowd.enter(self.name, || party(socket.as_fd()))
    }

    /// No worker has room for a connection, so accepting pauses.
    fn pause<L>(&mut self, shard: &Shard<L>) {
        if std::mem::replace(&mut self.is_paused, true) {
            return;
        }
        let pauses = &shard.desk.name_counters(self.name).accept_pauses;
        pauses.add(1);
        let count = pauses.value();
        // As with those turned away: each connection that ends makes room for one, and the next one waits.
        if !count.is_power_of_two() {
            return;
        }
        self.pause_is_logged = true;
        tracing::warn!(
            socket = %self.listener.name,
            "accepting paused ({count} so far): {}. New connections wait until others end; raise that, or set idle_timeout \
             to close those without traffic, or connections_per_client if a single client has them",
            self.lack_of_room(shard),
        );
    }

    /// Who has no room, and for which limit.
    fn lack_of_room<L>(&self, shard: &Shard<L>) -> String {
        let who = if self.listener.dealt {
            "every worker of its partition"
        } else {
            "its worker"
        };
        let dealer = &shard.desk.crew.dealer;
        let mut workers = self.workers(&shard.desk.worker).iter();
        if workers.any(|worker| dealer.is_at_limit_of_name(self.name as usize, *worker)) {
            let Name { name, limits, .. } = &shard.desk.names[self.name as usize];
            let connections = limits.connections;
            format!("{who} holds sockets.{name}.connections = {connections}")
        } else {
            let connections = shard.desk.limits.connections;
            format!("{who} holds limits.connections = {connections}")
        }
    }

    /// The workers that its connections go to; `own` is this one.
    fn workers<'a>(&'a self, own: &'a usize) -> &'a [usize] {
        if self.listener.dealt {
            &self.listener.partition
        } else {
            std::slice::from_ref(own)
        }
    }

    fn has_room<L>(&self, shard: &Shard<L>) -> bool {
        let dealer = &shard.desk.crew.dealer;
        let mut workers = self.workers(&shard.desk.worker).iter();
        workers.any(|worker| dealer.room(self.name as usize, *worker) > 0)
    }

    /// Some worker may have room again.
    fn deal_waiting<L: Link>(&mut self, shard: &mut Shard<L>) {
        if !self.is_paused || !self.has_room(shard) {
            return;
        }
        if let Some((socket, place)) = self.waiting.take() {
            let Some(worker) = self.deal(shard) else {
                self.waiting = Some((socket, place));
                return;
            };
            self.hand_to(worker, socket, place, shard);
        }
        self.is_paused = false;
        if std::mem::take(&mut self.pause_is_logged) {
            tracing::info!(socket = %self.listener.name, "there is room again: accepting goes on");
        }
    }

    /// The kernel failed to accept. Whatever lasts makes accepting rest; the connections stay in the backlog.
    pub(crate) fn failed<L>(&mut self, error: &io::Error, shard: &Shard<L>) {
        let errno = error.raw_os_error().unwrap_or_default();
        // A listener that a stop closes is closed before the worker is through with its mail.
        if !self.is_wanted() || is_about_one_connection(errno) {
            return;
        }
        let backoffs = &shard.desk.counters().engine.accept_backoffs;
        backoffs.add(1);
        if backoffs.value().is_power_of_two() {
            tracing::warn!(
                socket = %self.listener.name,
                "accepting rests for {BACKOFF_MS} ms: {error}; connections wait in the backlog{}",
                rlimit::advice(error)
            );
        }
        self.rest(shard);
    }

    fn rest<L>(&mut self, shard: &Shard<L>) {
        self.state = State::Resting {
            until: shard.desk.now + BACKOFF_MS,
        };
    }

    /// Does what a mail asks for.
    pub(crate) fn obey<L: Link>(&mut self, order: Accept, shard: &mut Shard<L>) {
        match (order, self.state) {
            (Accept::Begin, State::Held) => self.state = State::Open,
            (Accept::Deal, State::Open | State::Resting { .. }) => self.deal_waiting(shard),
            (Accept::Begin | Accept::Deal, _) | (Accept::Stop, State::Ended) => {}
            (Accept::Stop, _) => self.state = State::Stopping,
        }
    }

    /// Nothing more can come from this listener: the engine has nothing in flight on it.
    pub(crate) fn end<L: Link>(&mut self, shard: &mut Shard<L>) {
        debug_assert!(self.is_stopping());
        // Nothing that was accepted is lost to a limit.
        if let Some((socket, place)) = self.waiting.take() {
            let worker = shard.desk.worker;
            shard.desk.crew.dealer.hold(self.name as usize, worker);
            self.hand_to(worker, socket, place, shard);
        }
        self.state = State::Ended;
        shard.desk.crew.acceptor_ended(self.worker);
    }

    /// The worker for a new connection, which is counted there; `None` if there is no room.
    fn deal<L>(&self, shard: &Shard<L>) -> Option<usize> {
        let dealer = &shard.desk.crew.dealer;
        let name = self.name as usize;
        let dealt = if self.listener.dealt {
            dealer.deal(name)
        } else {
            dealer.keep(name, shard.desk.worker)
        };
        if dealt.frees {
            shard.desk.crew.announce_room();
        }
        dealt.worker
    }

    fn hand_to<L: Link>(
        &self,
        worker: usize,
        socket: OwnedFd,
        place: Option<Place>,
        shard: &mut Shard<L>,
    ) {
        let name = self.name;
        let own = shard.desk.worker;
        let mail = Mail::Accepted {
            name,
            socket,
            place,
        };
        let sent = match worker == own || shard.desk.crew.is_left_behind(worker) {
            true => Err(mail),
            false => shard.desk.crew.posts[worker].send(mail),
        };
        let Err(Mail::Accepted { socket, place, .. }) = sent else {
            return;
        };
        if worker != own {
            // That worker has failed, or is stuck; its connections are lost, this one need not be.
            shard.desk.crew.dealer.release(name as usize, worker);
            shard.desk.crew.dealer.hold(name as usize, own);
        }
        shard.open(name, L::new(socket), place);
    }
}

/// Whether an error of accept(2) concerns the connection that was next, so that the one after it can be accepted at
/// once. Linux passes pending network errors of the new connection on; accept(2) asks to treat them like EAGAIN.
fn is_about_one_connection(errno: i32) -> bool {
    matches!(
        errno,
        libc::EAGAIN
            | libc::EINTR
            | libc::ECANCELED
            | libc::ECONNABORTED
            | libc::ENETDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
    )
}
