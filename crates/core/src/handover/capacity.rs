//! Whether connections survive a restart: what the service manager's store has room for.
//!
//! It is asked at start, so that the log says in good time what a restart will do, and once more when it matters: by then the
//! unit may be another one (`systemctl daemon-reload`), or the store full, or the service manager no longer too busy to answer.

use std::io;

use super::store;
use crate::notify::{self, Term};
use crate::rlimit;

/// What is known of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// How many descriptors of a package it would keep; `None` if the service manager did not say.
    room: Option<usize>,
    /// How many descriptors of the application's own were stored before.
    own: usize,
    /// Whether services may leave something to the next process.
    leaves: bool,
}

impl Capacity {
    /// Asks at start, and says what a restart will close and lose. So many descriptors of the application's own are there already, and
    /// `leaves` says whether services may leave something.
    pub(crate) fn ask(own: usize, leaves: bool) -> Self {
        let room = store::room(Term::of(store::PROBE_PATIENCE));
        match &room {
            Ok(room) => say(*room, own, "a restart will close open connections", leaves),
            Err(error) => tracing::warn!(
                "whether the service manager stores descriptors is unknown, a restart will ask again: {error}"
            ),
        }
        Capacity {
            room: room.ok(),
            own,
            leaves,
        }
    }

    /// Nothing is known yet: it is asked again when it matters.
    pub(crate) fn unknown(own: usize, leaves: bool) -> Self {
        Capacity {
            room: None,
            own,
            leaves,
        }
    }

    /// Asks once more, and says what has changed for the worse since the start.
    pub(crate) fn ask_again(self, term: Term) -> Self {
        let room = store::room(term);
        match &room {
            Ok(room) if self.room != Some(*room) => {
                say(
                    *room,
                    self.own,
                    "a restart closes open connections",
                    self.leaves,
                );
            }
            Ok(_) => {}
            // It may be there all the same.
            Err(error)
                if error.kind() == io::ErrorKind::TimedOut
                    || rlimit::is_used_up(error)
                    || notify::is_short(error) =>
            {
                tracing::warn!(
                    "whether the service manager stores descriptors is unknown at the moment: {error}"
                );
            }
            Err(error) => {
                tracing::warn!("the service manager cannot keep open connections: {error}");
                return Capacity {
                    room: Some(0),
                    ..self
                };
            }
        }
        Capacity {
            room: room.ok(),
            ..self
        }
    }

    /// This, or what is known otherwise if it is nothing.
    pub(crate) fn or(self, other: Self) -> Self {
        Capacity {
            room: self.room.or(other.room),
            ..self
        }
    }

    /// Whether it is certain that a package would be kept.
    pub(crate) fn suffices(self) -> bool {
        self.room == Some(store::NEEDED)
    }
}

/// Says what follows unless the room suffices.
fn say(room: usize, own: usize, consequence: &str, leaves: bool) {
    let needed = store::NEEDED;
    let lost = match leaves {
        true => "; what services leave to the next process is lost, too",
        false => "",
    };
    match room {
        store::NEEDED => {}
        0 if !notify::is_wanted() => {}
        0 if own == 0 => tracing::info!(
            "the service manager stores no descriptors for this unit (FileDescriptorStoreMax=): {consequence}{lost}"
        ),
        // It may have none of the application's either.
        0 => tracing::warn!(
            "the service manager has no room for {needed} descriptors of this unit besides the application's own (raise \
             FileDescriptorStoreMax= to {}): {consequence}, and may lose the application's own{lost}",
            needed + own
        ),
        room => tracing::warn!(
            "the service manager has room for {room} descriptors of this unit{}, and {needed} are needed (raise \
             FileDescriptorStoreMax=): {consequence}{lost}",
            if own == 0 {
                ""
            } else {
                " besides the application's own"
            }
        ),
    }
}
