//! Descriptors for what a new program takes besides those of connections.

use super::{FOR_SIGNALS, RESERVE};
use crate::handover::question::Question;
use crate::handover::spare::Spare;
use crate::handover::store;
use crate::rlimit::RAISE_LIMIT;
use crate::server::ServerError;

/// Fails if this program `takes` more descriptors to start than the asking process has, and so many that connections would be lost. What
/// takes no more goes on with all of them.
pub(super) fn is_there_for(takes: usize, question: &Question) -> Result<(), ServerError> {
    let open = question.connections;
    let needed = takes + store::NEEDED + FOR_SIGNALS + RESERVE;
    if takes <= question.takes {
        return Ok(());
    }
    let free = Spare::keep(needed + open).count();
    if free == needed + open {
        return Ok(());
    }
    Err(ServerError::Handover(format!(
        "it takes {needed} descriptors to serve and to reload, and the {open} connections that are open leave {}{RAISE_LIMIT} and \
         restart, or try again when connections have ended",
        free.saturating_sub(open)
    )))
}

/// Keeps what the new program `takes` more than this one `has`, so that those who connect until it is executed do not use it up. An older
/// version does not say what it takes.
///
/// # Errors
///
/// They have used it up since the new program looked.
pub(super) fn keep(takes: Option<usize>, has: usize) -> Result<Spare, String> {
    let more = takes.unwrap_or(0).saturating_sub(has);
    let kept = Spare::keep(more);
    if kept.count() == more {
        return Ok(kept);
    }
    Err(format!(
        "the new program takes {more} descriptors more than this one, and connections leave {} by now{RAISE_LIMIT} and restart, or try \
         again when connections have ended",
        kept.count()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_new_program_takes_more_is_kept() {
        for (takes, has, kept) in [(Some(41), 38, 3), (Some(38), 41, 0), (None, 41, 0)] {
            assert_eq!(keep(takes, has).unwrap().count(), kept);
        }
    }
}
