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
}

impl Capacity {
    /// Asks at start, and says if a restart will close connections.
    pub(crate) fn ask() -> Self {
        let room = store::room();
        match &room {
            Ok(room) => say(*room, "a restart will close open connections"),
            Err(error) => tracing::warn!(
                "whether the service manager stores descriptors is unknown, a restart will ask again: {error}"
            ),
        }
        Capacity { room: room.ok() }
    }

    /// Asks once more, and says what has changed for the worse since the start.
    pub(crate) fn ask_again(self) -> Self {
        let room = store::room();
        match &room {
            Ok(room) if self.room != Some(*room) => {
                say(*room, "a restart closes open connections");
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
                return Capacity { room: Some(0) };
            }
        }
        Capacity { room: room.ok() }
    }

    /// This, or what is known otherwise if it is nothing.
    pub(crate) fn or(self, other: Self) -> Self {
        Capacity {
            room: self.room.or(other.room),
        }
    }

    /// Whether it is certain that a package would be kept.
    pub(crate) fn suffices(self) -> bool {
        self.room == Some(store::NEEDED)
    }
}

/// Says what follows unless the room suffices.
fn say(room: usize, consequence: &str) {
    match room {
        store::NEEDED => {}
        0 if !notify::is_wanted() => {}
        0 => tracing::info!(
            "the service manager stores no descriptors for this unit (FileDescriptorStoreMax=): {consequence}"
        ),
        room => tracing::warn!(
            "the service manager has room for {room} descriptors of this unit, and {} are needed (raise \
             FileDescriptorStoreMax=): {consequence}",
            store::NEEDED
        ),
    }
}
