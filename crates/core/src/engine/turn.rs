//! What the turns of every engine have in common: the order in which a worker hears of things, and how it goes on.

use std::io;

use super::Acceptor;
use super::accepting::Accepting;
use crate::mailbox::{Mail, Mailbox};
use crate::peer::Link;
use crate::shard::Shard;

/// So much mail from other threads is delivered in one turn. What else there is comes in the next ones, so that those who
/// post cannot keep a worker from its sockets.
const MAIL_PER_TURN_MAX: usize = 1024;

/// One listener of a worker, and how far the engine's poll of it is.
pub(crate) struct Listening<P> {
    pub(crate) accepting: Accepting,
    /// It waits until somebody connects, and takes nothing, so it may go on while nobody is wanted.
    pub(crate) poll: P,
}

impl<P: Default> Listening<P> {
    /// # Errors
    ///
    /// Those of [`Accepting::new`].
    pub(crate) fn new(acceptor: Acceptor) -> io::Result<Self> {
        Ok(Listening {
            accepting: Accepting::new(acceptor)?,
            poll: P::default(),
        })
    }
}

/// How to go on at the end of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// With what there is to do.
    Work,
    /// There is nothing to do. It is looked whether anything has happened that must be known before limits take effect.
    CatchUp,
    /// There is nothing to do until something happens, or until this time on the worker's clock.
    Sleep(Option<u64>),
    /// With the next turn at once: the worker was done, and had mail.
    Again,
    /// Not at all: the worker is done.
    End,
}

/// Begins a turn: handles timers and mail, and gives the services what has waited for them.
pub(crate) fn begin<L: Link, P>(
    shard: &mut Shard<L>,
    mailbox: &Mailbox,
    listening: &mut [Listening<P>],
) {
    shard.tick();
    let mut quota = mailbox.quota(MAIL_PER_TURN_MAX);
    while let Some(mail) = mailbox.next_within(&mut quota) {
        deliver(mail, shard, listening);
        quota.spend(shard.answers_taken());
    }
    // Behind the mail: who is asked for a sign of life takes another turn than those that were counted by then.
    shard.desk.counters().engine.turns.add(1);
    shard.work();
}

/// How to go on when everything has been begun that the connections desire. The engine may be busy with something of its own; when
/// it sleeps, it wakes up for what is `due` there.
pub(crate) fn plan<L: Link, P>(
    shard: &mut Shard<L>,
    mailbox: &Mailbox,
    listening: &mut [Listening<P>],
    is_busy: impl FnOnce() -> bool,
    due: Option<u64>,
) -> Plan {
    shard.desk.counters().calling.over();
    if shard.has_nothing_left() && !shard.is_busy() {
        if let Some(mail) = mailbox.next() {
            deliver(mail, shard, listening);
            return Plan::Again;
        }
        if shard.becomes_idle() {
            let crew = &shard.desk.crew;
            let mut acceptors = listening.iter();
            debug_assert!(acceptors.all(|it| it.accepting.has_ended(crew)) && shard.len() == 0);
            return Plan::End;
        }
    }
    if shard.is_busy() || is_busy() || shard.settle_memory() {
        return Plan::Work;
    }
    if let Some(mail) = mailbox.prepare_sleep() {
        deliver(mail, shard, listening);
        return Plan::Work;
    }
    if shard.is_catching_up() {
        return Plan::CatchUp;
    }
    let rests = listening.iter();
    let rests = rests.filter_map(|it| it.accepting.rest_ends());
    Plan::Sleep(rests.chain(shard.next_due()).chain(due).min())
}

fn deliver<L: Link, P>(mail: Mail, shard: &mut Shard<L>, listening: &mut [Listening<P>]) {
    if let Some(order) = shard.deliver(mail) {
        for Listening { accepting, .. } in listening {
            accepting.obey(order, shard);
        }
    }
}
