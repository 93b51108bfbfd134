//! A bound on what is logged about connections, which peers could otherwise make write as fast as they connect. Each kind
//! of warning has its own, so that none hides another, and what was not logged is said when its second is over. A client
//! gets few of the lines, so that it does not hide others that do the same.

use std::cell::Cell;

use crate::crowd::Party;
use crate::peer::ConnectionId;
use crate::plain::{self, Counted};

/// So many warnings of a kind are let through in each window.
const WARNINGS_MAX: usize = 10;

/// And so many about one client: two, since there may be two things wrong with it.
const OF_ONE_MAX: usize = 2;

/// The length of a window, on the worker's clock.
const WINDOW_MS: u64 = 1_000;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident,)*) => {
        /// What a warning is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kind { $($(#[doc = $doc])* $kind,)* }

        /// In the order of their numbers.
        const KINDS: [Kind; [$(Kind::$kind,)*].len()] = [$(Kind::$kind,)*];
    };
}

kinds! {
    Truncated,
    ProxyHeader,
    /// A client has as many connections as it may.
    Crowded,
    Framing,
    TopLevel,
    Refused,
    Rejected,
    Abandoned,
    Unrestored,
    Panicked,
    Overflow,
    Cut,
    FrameTimeout,
    WriteTimeout,
    ReplyTimeout,
    Untaken,
    Unserved,
    Memory,
    /// The kernel had no memory for a socket.
    KernelMemory,
    /// A panic of a service. It need not end a connection.
    Panic,
    /// A call of a service that took long.
    Slow,
    /// A service could not read from what it watches.
    Unreadable,
    /// A deferred reply that will not come.
    Unanswered,
    /// What a peer sent has failed, and the protocol has no answer to it.
    Untold,
}

impl Kind {
    /// Logs that there were `count` more of them than have lines of their own, and where most are counted if that `can_be_asked`.
    fn log(self, count: u64, worker: usize, can_be_asked: bool) {
        let not_logged = match count {
            1 => "was not logged",
            _ => "were not logged one by one",
        };
        let status = match can_be_asked {
            true => "; ringhold status counts them",
            false => "",
        };
        let closed = |why: &str| {
            tracing::warn!(
                worker,
                "{} that closed {not_logged} ({why}){status}",
                plain::connections(count)
            );
        };
        let others = |one, several, counted: &str| {
            let what = Counted(count, one, several);
            tracing::warn!(worker, "{what} {not_logged}{counted}");
        };
        match self {
            Kind::Truncated => closed("the peer ended the connection in the middle of a frame"),
            Kind::ProxyHeader => closed("the PROXY protocol header was missing, wrong or late"),
            Kind::Crowded => {
                closed("their client has as many others as connections_per_client allows")
            }
            Kind::Framing => closed("the input is not acceptable msgpack"),
            Kind::TopLevel => {
                closed("a frame began with a byte whose type its service does not take")
            }
            Kind::Refused => closed("the service refused the connection"),
            Kind::Rejected => closed("the service rejects the input"),
            Kind::Abandoned => {
                closed("the service ended the connection for want of a deferred reply")
            }
            Kind::Unrestored => closed("its session cannot be restored"),
            Kind::Panicked => closed("the service panicked"),
            Kind::Overflow => closed("more was pushed to the connection than it may hold"),
            Kind::Cut => closed("the service cut the connection"),
            Kind::FrameTimeout => closed("a frame was not complete within frame_timeout"),
            Kind::WriteTimeout => closed("the peer took nothing for write_timeout"),
            Kind::ReplyTimeout => {
                closed("the peer had not taken all that was left within reply_timeout")
            }
            Kind::Untaken => {
                closed("the server ended and waited no longer for the peer to take it")
            }
            Kind::Unserved => closed("the server ended and waited no longer for its service"),
            Kind::Memory => closed("limits.memory was exceeded"),
            Kind::KernelMemory => closed("the kernel had no memory for what they send or receive"),
            Kind::Panic => {
                let panics = Counted(count, "panic of a service", "panics of services");
                tracing::error!(worker, "{panics} {not_logged}{status}");
            }
            Kind::Slow => others("slow call of a service", "slow calls of services", status),
            Kind::Unreadable => others(
                "failure to read what a service watches",
                "failures to read what services watch",
                "",
            ),
            Kind::Unanswered => others(
                "deferred reply that will not come",
                "deferred replies that will not come",
                status,
            ),
            Kind::Untold => others(
                "failure that a peer is not told of",
                "failures that peers are not told of",
                "",
            ),
        }
    }
}

/// Who may cause any number of the same warnings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Culprit {
    /// None that others could be told from.
    #[default]
    Nobody,
    /// A client, with all of its connections. `None` are all those of whom the kernel does not know any more who they were.
    Client(Option<Party>),
}

/// One worker's warnings about connections, counted by kind and second.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    /// The window that the counts are of.
    window: Cell<u64>,
    counts: [Count; KINDS.len()],
    /// When what was held back is to be said.
    due: Cell<Option<u64>>,
    /// Who was asked for last.
    party: Cell<Option<(ConnectionId, Option<Party>)>>,
}

#[derive(Debug, Default)]
struct Count {
    logged: Cell<usize>,
    /// Who has caused those that are logged; the others are of earlier windows.
    culprits: [Cell<Culprit>; WARNINGS_MAX],
    held: Cell<u64>,
}

impl Warnings {
    /// Whether a warning is logged at the time `now`, in milliseconds on the worker's clock. If not, it is counted.
    pub(crate) fn lets_pass(&self, kind: Kind, now: u64) -> bool {
        self.passes(kind, now, || Culprit::Nobody)
    }

    /// As [`Warnings::lets_pass`], for a warning of which its client may cause any number of others. Who that is, if it is known, is
    /// asked only as long as there is room for a line of anybody.
    pub(crate) fn lets_pass_of(
        &self,
        kind: Kind,
        now: u64,
        client: impl FnOnce() -> Option<Party>,
    ) -> bool {
        self.passes(kind, now, || Culprit::Client(client()))
    }

    fn passes(&self, kind: Kind, now: u64, culprit: impl FnOnce() -> Culprit) -> bool {
        let window = now / WINDOW_MS;
        if self.window.replace(window) != window {
            self.counts.iter().for_each(|count| count.logged.set(0));
        }
        let count = &self.counts[kind as usize];
        let logged = count.logged.get();
        if logged < WARNINGS_MAX {
            let culprit = culprit();
            let earlier = count.culprits[..logged].iter();
            let of_it = earlier.filter(|it| it.get() == culprit).count();
            if culprit == Culprit::Nobody || of_it < OF_ONE_MAX {
                count.culprits[logged].set(culprit);
                count.logged.set(logged + 1);
                return true;
            }
        }
        count.held.set(count.held.get() + 1);
        if self.due.get().is_none() {
            self.due.set(Some((window + 1) * WINDOW_MS));
        }
        false
    }

    /// Who has this connection, which is asked unless it is the one that was asked for last.
    pub(crate) fn last_party(
        &self,
        connection: ConnectionId,
        ask: impl FnOnce() -> Option<Party>,
    ) -> Option<Party> {
        match self.party.get() {
            Some((last, party)) if last == connection => party,
            _ => {
                let party = ask();
                self.party.set(Some((connection, party)));
                party
            }
        }
    }

    /// When to call [`Warnings::say_held`] next, on the worker's clock; `None` as long as nothing is held back.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.get()
    }

    /// Logs how many warnings of each kind were held back and have not been spoken of yet. The counters of a process end with it,
    /// and this says whether they `can_be_asked` for from now on.
    #[cold]
    pub(crate) fn say_held(&self, worker: usize, can_be_asked: bool) {
        self.take_held()
            .for_each(|(kind, count)| kind.log(count, worker, can_be_asked));
    }

    fn take_held(&self) -> impl Iterator<Item = (Kind, u64)> {
        self.due.set(None);
        let counts = KINDS.into_iter().zip(&self.counts);
        let held = counts.map(|(kind, count)| (kind, count.held.take()));
        held.filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many of `count` warnings are let through.
    fn passed(warnings: &Warnings, kind: Kind, now: u64, count: usize) -> usize {
        (0..count).filter(|_| warnings.lets_pass(kind, now)).count()
    }

    #[test]
    fn ten_of_a_kind_pass_in_each_second() {
        let warnings = Warnings::default();
        assert_eq!(passed(&warnings, Kind::TopLevel, 1, 7), 7);
        assert_eq!(passed(&warnings, Kind::TopLevel, 999, 1_000), 3);
        assert_eq!(passed(&warnings, Kind::FrameTimeout, 999, 1), 1);
        assert_eq!(passed(&warnings, Kind::TopLevel, 1_000, 11), 10);
    }

    #[test]
    fn one_client_gets_two_of_the_ten() {
        let warnings = Warnings::default();
        let passed = |client, now, count: usize| {
            let each = 0..count;
            each.filter(|_| warnings.lets_pass_of(Kind::Untold, now, || client))
                .count()
        };
        let user = |uid| Some(Party::User(uid));
        assert_eq!(passed(user(0), 1, 100), 2);
        // Those who cannot be told apart are one, too.
        assert_eq!(passed(None, 1, 100), 2);
        assert!((1..=3).all(|uid| passed(user(uid), 2, 1) == 1));
        // What no client causes is not counted for one.
        assert!((1..=3).all(|_| warnings.lets_pass(Kind::Untold, 3)));
        let asked = || unreachable!("ten were logged");
        assert!(!warnings.lets_pass_of(Kind::Untold, 4, asked));
        assert_eq!(passed(user(0), 1_000, 100), 2);
        assert!((1..=4).all(|uid| passed(user(uid), 1_001, 2) == 2));
        assert_eq!(
            warnings.take_held().next(),
            Some((Kind::Untold, 98 + 98 + 1 + 98))
        );
    }

    /// It may go on for ever, and is left out after two lines.
    #[test]
    fn who_one_connection_belongs_to_is_asked_once() {
        let warnings = Warnings::default();
        let asked = Cell::new(0);
        let cause = |slot, uid| {
            let connection = ConnectionId {
                worker: 0,
                generation: 1,
                slot,
            };
            let ask = || {
                asked.set(asked.get() + 1);
                Some(Party::User(uid))
            };
            warnings.lets_pass_of(Kind::Untold, 1, || warnings.last_party(connection, ask))
        };
        assert_eq!((0..1_000).filter(|_| cause(1, 7)).count(), 2);
        assert_eq!(asked.get(), 1);
        assert!(cause(2, 8));
        assert!(!cause(1, 7));
        assert_eq!(asked.get(), 3);
    }

    #[test]
    fn what_is_held_back_is_due_when_its_second_is_over() {
        let warnings = Warnings::default();
        assert_eq!(passed(&warnings, Kind::Panic, 1_500, 10), 10);
        assert_eq!(warnings.next_due(), None);
        assert_eq!(passed(&warnings, Kind::Panic, 1_600, 2), 0);
        assert_eq!(passed(&warnings, Kind::Memory, 1_700, 13), 10);
        assert_eq!(warnings.next_due(), Some(2_000));
        // Those of the next second, if it is late, are said with them.
        assert_eq!(passed(&warnings, Kind::Memory, 2_001, 14), 10);
        assert_eq!(warnings.next_due(), Some(2_000));
        let held: Vec<_> = warnings.take_held().collect();
        assert_eq!(held, [(Kind::Memory, 7), (Kind::Panic, 2)]);
        assert_eq!(warnings.next_due(), None);
        assert_eq!(warnings.take_held().count(), 0);
        assert_eq!(passed(&warnings, Kind::Memory, 2_002, 1), 0);
        assert_eq!(warnings.next_due(), Some(3_000));
    }
}
