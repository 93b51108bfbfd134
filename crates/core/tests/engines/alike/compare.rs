//! What must hold of an outcome.

use super::outcome::{End, Lanes, Outcome, Reason};
use super::reading::{Fate, Reading};

/// What an outcome is compared with.
pub(crate) struct Expected<'a> {
    pub(crate) reading: &'a Reading,
    /// What became of the client in the pure run.
    pub(crate) pure: &'a Outcome,
    /// Whether all that the client is sent has one order only.
    pub(crate) is_exact: bool,
    /// The client left, but not before everything was at rest.
    pub(crate) is_settled: bool,
}

/// How much a client must have got of what it is sent because of the frames that the service was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    All,
    /// All but what is deferred.
    Replies,
    Beginning,
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Expected<'_> {
    /// # Errors
    ///
    /// How `outcome` differs from what it must be.
    pub(crate) fn check(&self, outcome: &Outcome) -> Result<(), String> {
        self.check_calls(outcome)?;
        self.check_reason(outcome)?;
        self.check_received(outcome)?;
        self.check_end(outcome)?;
        self.check_counters(outcome)
    }

    fn share(&self, outcome: &Outcome) -> Share {
        let reading = self.reading;
        match reading.fate {
            Fate::Served => Share::All,
            Fate::Ended => Share::Replies,
            Fate::Left if self.is_settled => Share::All,
            Fate::Cut | Fate::Left => Share::Beginning,
            Fate::Stopped => match outcome.seen.ends.first().unwrap_or(&reading.why) {
                Reason::Stopping | Reason::Finished | Reason::Truncated => Share::All,
                Reason::Overflow => Share::Beginning,
                _ if reading.loses => Share::Beginning,
                _ => Share::Replies,
            },
        }
    }

    /// Whether the script says which frames the service is given.
    fn is_certain(&self) -> bool {
        match self.reading.fate {
            Fate::Served | Fate::Ended | Fate::Cut => true,
            Fate::Left => self.is_settled,
            Fate::Stopped => false,
        }
    }

    /// The service was given the frames of the stream, unchanged, and none twice.
    fn check_calls(&self, outcome: &Outcome) -> Result<(), String> {
        let seen = &outcome.seen;
        ensure(seen.connected == 1, || {
            format!("connected {} times", seen.connected)
        })?;
        is_beginning("frame", &seen.calls, &self.reading.calls, self.is_certain())?;
        if self.reading.fate == Fate::Stopped {
            let ends = self.reading.calls.iter().scan(0, |end, call| {
                *end += call.len();
                Some(*end)
            });
            let whole = ends
                .take_while(|end| *end <= outcome.taken as usize)
                .count();
            ensure(seen.calls.len() >= whole, || {
                format!("{} of {whole} frames that were received", seen.calls.len())
            })?;
        }
        ensure(seen.changed.is_empty(), || {
            format!("frames have changed that were kept: {:?}", seen.changed)
        })
    }

    fn check_reason(&self, outcome: &Outcome) -> Result<(), String> {
        let ends = &outcome.seen.ends;
        if !self.reading.has_session {
            return ensure(ends.is_empty(), || format!("a session ended: {ends:?}"));
        }
        let [why] = &ends[..] else {
            return Err(format!("the session ended for {ends:?}"));
        };
        ensure(self.may_end_for(why, outcome), || {
            format!("ended for {why:?}, not {:?}", self.reading.why)
        })
    }

    fn may_end_for(&self, why: &Reason, outcome: &Outcome) -> bool {
        let reading = self.reading;
        let is_due = *why == reading.why && outcome.seen.calls.len() == reading.calls.len();
        match reading.fate {
            Fate::Served | Fate::Ended | Fate::Cut => is_due,
            Fate::Left if self.is_settled => Some(why) == self.pure.seen.ends.first(),
            Fate::Left => match why {
                Reason::Failed | Reason::Finished | Reason::Truncated => true,
                // A server that stops in the middle may be faster.
                Reason::Stopping => reading.stops_early,
                _ => is_due,
            },
            Fate::Stopped => is_due || *why == Reason::Stopping,
        }
    }

    fn check_received(&self, outcome: &Outcome) -> Result<(), String> {
        let (got, due) = (Lanes::of(&outcome.received)?, &self.reading.lanes);
        let share = self.share(outcome);
        let (replies, tickets) = self.reading.counts[outcome.seen.calls.len()];
        let replies = &due.replies[..replies];
        is_beginning("reply", &got.replies, replies, share != Share::Beginning)?;
        // What is pushed to a connection that ends may find it gone.
        is_beginning(
            "push",
            &got.pushes,
            &due.pushes,
            outcome.stays && !self.reading.stops_early,
        )?;
        are_among(&got.deferred, &due.deferred[..tickets], share == Share::All)?;
        let is_whole = got.rest.is_empty() || share == Share::Beginning && self.is_next(&got);
        ensure(is_whole, || {
            format!("{} bytes of something else at the end", got.rest.len())
        })?;
        let is_exact = self.is_exact
            && self.is_certain()
            && share != Share::Beginning
            && due.pushes.is_empty();
        ensure(!is_exact || outcome.received == self.pure.received, || {
            "the same messages in another order".to_owned()
        })
    }

    /// Whether the rest is how a message may begin that comes next.
    fn is_next(&self, got: &Lanes) -> bool {
        let due = &self.reading.lanes;
        let reply = due.replies.get(got.replies.len());
        let push = due.pushes.get(got.pushes.len());
        let mut next = reply.into_iter().chain(push).chain(&due.deferred);
        next.any(|message| message.starts_with(&got.rest))
    }

    fn check_end(&self, outcome: &Outcome) -> Result<(), String> {
        let fin = outcome.end == Some(End::Fin);
        let is_possible = match self.reading.fate {
            // It may have seen what became of it before it left.
            Fate::Left => true,
            Fate::Served => fin,
            // A unix socket reports that something was not read. Nothing is lost.
            Fate::Ended | Fate::Stopped if self.reading.is_late => outcome.end.is_some(),
            Fate::Ended => fin,
            Fate::Cut => outcome.end.is_some(),
            Fate::Stopped => fin || self.share(outcome) == Share::Beginning,
        };
        ensure(is_possible, || format!("the client saw {:?}", outcome.end))?;
        let is_there = outcome.stays == self.pure.stays || self.reading.stops_early;
        ensure(is_there, || format!("open at the end: {}", outcome.stays))
    }

    /// The counters say what happened.
    fn check_counters(&self, outcome: &Outcome) -> Result<(), String> {
        let (seen, reading) = (&outcome.seen, self.reading);
        let mut counters = outcome.counters;
        let why = seen.ends.first().unwrap_or(&reading.why);
        let mut expected = why.counters();
        (expected.accepted, expected.opened) = (1, 1);
        expected.frames_in = seen.calls.len() as u64;
        expected.abandoned = seen.abandoned.len() as u64;
        // How often a kernel takes less than it is given, or a machine stalls in a call, is their own matter.
        (counters.pauses, counters.slow) = (0, 0);
        if reading.fate == Fate::Left && *why != Reason::Failed {
            // Whoever leaves while it is ended for another reason may cost itself the last of what it was owed.
            counters.failed = 0;
        }
        let (bytes_in, bytes_out) = (counters.bytes_in as usize, counters.bytes_out as usize);
        (counters.bytes_in, counters.bytes_out) = (0, 0);
        ensure(counters == expected, || {
            format!("counters: {counters:?}\nexpected: {expected:?}")
        })?;
        let in_min = match reading.fate {
            Fate::Served => outcome.sent,
            Fate::Ended | Fate::Cut => reading.needed,
            Fate::Left | Fate::Stopped => seen.calls.iter().map(Vec::len).sum(),
        };
        let out_max = match self.share(outcome) {
            Share::Beginning => usize::MAX,
            Share::All | Share::Replies => outcome.received.len(),
        };
        ensure((in_min..=outcome.sent).contains(&bytes_in), || {
            format!("{bytes_in} bytes in of {}, at least {in_min}", outcome.sent)
        })?;
        ensure(
            (outcome.received.len()..=out_max).contains(&bytes_out),
            || format!("{bytes_out} bytes out, {} received", outcome.received.len()),
        )
    }
}

/// Whether `got` is a beginning of `due`, or `all` of it.
fn is_beginning(what: &str, got: &[Vec<u8>], due: &[Vec<u8>], all: bool) -> Result<(), String> {
    for (number, (got, due)) in got.iter().zip(due).enumerate() {
        ensure(got == due, || {
            let at = got.iter().zip(due).position(|(got, due)| got != due);
            let (got, due) = (got.len(), due.len());
            format!("{what} {number} differs at {at:?}: {got} bytes, not {due}")
        })?;
    }
    let is_there = if all {
        got.len() == due.len()
    } else {
        got.len() <= due.len()
    };
    ensure(is_there, || {
        format!("{what}: {} of {}", got.len(), due.len())
    })
}

/// Whether each of `got` is one of `due`, in any order, or they are `all` of them.
fn are_among(got: &[Vec<u8>], due: &[Vec<u8>], all: bool) -> Result<(), String> {
    let mut left: Vec<&Vec<u8>> = due.iter().collect();
    for message in got {
        let Some(position) = left.iter().position(|due| *due == message) else {
            return Err("a deferred reply that is not due, or came twice".to_owned());
        };
        left.swap_remove(position);
    }
    ensure(!all || left.is_empty(), || {
        format!("{} deferred replies of {}", got.len(), due.len())
    })
}
