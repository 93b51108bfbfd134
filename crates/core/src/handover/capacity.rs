//! Whether connections survive a restart: what the service manager's store has room for.
//!
//! It is asked at start, so that the log says in good time what a restart will do, and once more when it matters: by then the
//! unit may be another one (`systemctl daemon-reload`), or the store full, or the service manager no longer too busy to answer.

use std::io;

use super::store;
use crate::{notify, rlimit};

/// What is known of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// How many descriptors of a package it would keep; `None` if the service manager did not say.
    room: Option<usize>,
    /// How many descriptors of the application's own were stored before.
    own: usize,
}

impl Capacity {
    /// Asks at start, and says if a restart will close connections. So many descriptors of the application's own are there already.
    pub(crate) fn ask(own: usize) -> Self {
        let room = store::room();
        match &room {
            Ok(room) => say(*room, own, "a restart will close open connections"),
            Err(error) => tracing::warn!(
                "whether the service manager stores descriptors is unknown, a restart will ask again: {error}"
            ),
        }
        Capacity {
            room: room.ok(),
            own,
        }
    }

    /// Asks once more, and says what has changed for the worse since the start.
    pub(crate) fn ask_again(self) -> Self {
        let room = store::room();
        match &room {
            Ok(room) if self.room != Some(*room) => {
                say(*room, self.own, "a restart closes open connections");
            }
            Ok(_) => {}
            // It may be there all the same.
            Err(error) if error.kind() == io::ErrorKind::TimedOut || rlimit::is_used_up(error) => {
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
fn say(room: usize, own: usize, consequence: &str) {
    let needed = store::NEEDED;
    match room {
        store::NEEDED => {}
        0 if !notify::is_wanted() => {}
        0 if own == 0 => tracing::info!(
            "the service manager stores no descriptors for this unit (FileDescriptorStoreMax=): {consequence}"
        ),
        // It may have none of the application's either.
        0 => tracing::warn!(
            "the service manager has no room for {needed} descriptors of this unit besides the application's own (raise \
             FileDescriptorStoreMax= to {}): {consequence}, and may lose the application's own",
            needed + own
        ),
        room => tracing::warn!(
            "the service manager has room for {room} descriptors of this unit{}, and {needed} are needed (raise \
             FileDescriptorStoreMax=): {consequence}",
            if own == 0 {
                ""
            } else {
                " besides the application's own"
            }
        ),
    }
}
