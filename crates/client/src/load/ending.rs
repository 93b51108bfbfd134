//! How a connection of a load comes to its end, and what that says about the server.

use std::io;

use super::connection::{Connection, State};
use super::context::Context;
use super::plan::Mode;
use crate::stream::Stream;

/// How long the server's end of stream is waited for at most, once everything was answered and no frame is begun.
const FINISH: u64 = 1_000_000_000;

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Gone {
    /// The server ended its sending side.
    Ended,
    /// Reading or writing failed.
    Failed(io::Error),
    /// The server sent what it should not.
    Violation(String),
    /// The server answered the subscription with an error, which is counted as that: nothing will come.
    Unsubscribed,
    /// The load leaves: it has what it came for, or has waited for as long as it may.
    Left,
}

impl Connection {
    /// Ends the sending side if everything was sent and answered and nothing more is to come.
    pub(crate) fn finish_if_done(&mut self, context: &mut Context<'_>) {
        let done = (context.ending || self.left == 0) && !self.is_waiting();
        if self.state != State::Open || !done {
            return;
        }
        // Whoever pushes has no reason to end its side, so a subscriber does not wait for that.
        if matches!(context.plan.mode, Mode::Subscribe { .. }) {
            return self.over(context, Gone::Left);
        }
        match self.stream.as_ref().map(Stream::shut_write) {
            Some(Err(error)) => self.over(context, Gone::Failed(error)),
            _ => {
                self.state = State::Finishing { since: context.now };
                self.list(context);
            }
        }
    }

    /// How long the server's end of stream is waited for, in nanoseconds. A frame that is begun is waited for as long as
    /// the drain allows, and so is the end of one-way ingest, which has no other sign that everything was taken.
    pub(super) fn patience(&self, context: &Context<'_>) -> u64 {
        let drain = context.plan.drain.as_nanos() as u64;
        match context.plan.mode == Mode::Notify || !self.partial.is_empty() {
            true => drain,
            false => drain.min(FINISH),
        }
    }

    /// Leaves the connection, because the load is over.
    pub(crate) fn settle(&mut self, context: &mut Context<'_>) {
        if self.state != State::Closed {
            self.over(context, Gone::Left);
        }
    }

    /// The connection is over; every one that stood comes to its end here. Counts what that says about the server and
    /// what was lost with it, and opens anew if that is wanted.
    pub(super) fn over(&mut self, context: &mut Context<'_>, gone: Gone) {
        context.tick();
        let index = self.index;
        let left = matches!(gone, Gone::Left);
        let refused = matches!(gone, Gone::Unsubscribed);
        self.judge(context, gone);
        let unsent = self.take_back(context);
        let lost = u64::from(self.window.outstanding()).saturating_sub(unsent);
        context.counts.lost += lost;
        if left && lost > 0 {
            context.problem(|| format!("connection {index}: {lost} requests were not answered"));
        }
        if !context.ending && !refused && (self.short_lived || context.plan.reconnect) {
            self.close();
            self.open_soon(context);
        } else {
            self.end(context);
        }
    }

    /// Counts what the server did wrong by this end, if it did.
    fn judge(&mut self, context: &mut Context<'_>, gone: Gone) {
        let index = self.index;
        let begun = self.partial.len();
        let one_way = context.plan.mode == Mode::Notify;
        let finishing = matches!(self.state, State::Finishing { .. });
        match gone {
            Gone::Left => self.count_unfinished(context),
            Gone::Unsubscribed => {}
            Gone::Violation(what) => {
                context.counts.violations += 1;
                context.problem(|| format!("connection {index}: {what}"));
            }
            Gone::Ended | Gone::Failed(_) if finishing && begun > 0 => {
                context.counts.violations += 1;
                context.problem(|| {
                    format!(
                        "connection {index}: it ended in the middle of a frame, {begun} bytes into it"
                    )
                });
            }
            Gone::Failed(error) if finishing && one_way => {
                context.counts.disconnects += 1;
                context.problem(|| {
                    format!("connection {index}: the server cut it instead of ending it, so it may not have taken everything: {error}")
                });
            }
            // The time of one-way ingest runs until the server has taken everything.
            Gone::Ended if finishing && one_way => context.settled(),
            Gone::Ended | Gone::Failed(_) if finishing => {}
            Gone::Ended | Gone::Failed(_) => {
                context.counts.disconnects += 1;
                let outstanding = self.window.outstanding();
                context.problem(|| {
                    let middle = match begun {
                        0 => String::new(),
                        _ => format!(", {begun} bytes into a frame"),
                    };
                    let how = match gone {
                        Gone::Failed(error) => error.to_string(),
                        _ => "the server closed it".to_owned(),
                    };
                    format!("connection {index}: disconnected with {outstanding} requests outstanding{middle}: {how}")
                });
            }
        }
    }

    /// Counts a connection that the load leaves although bytes still wait to be written, although the server has not shown
    /// that it took what it was sent one way, or in the middle of a frame. (A subscriber may leave in the middle of what
    /// is pushed to it.)
    fn count_unfinished(&mut self, context: &mut Context<'_>) {
        let (index, pending, begun) = (self.index, self.pending(), self.partial.len());
        let finishing = matches!(self.state, State::Finishing { .. });
        if pending > 0 {
            context.problem(|| format!("connection {index}: {pending} bytes were not taken"));
        } else if finishing && context.plan.mode == Mode::Notify {
            context.problem(|| {
                format!("connection {index}: the server did not end its side, so it may not have taken everything")
            });
        } else if begun > 0 && context.plan.mode == Mode::Call {
            context.problem(|| {
                format!("connection {index}: {begun} bytes of a frame came, and not the rest of it")
            });
        } else {
            return;
        }
        context.counts.unfinished += 1;
    }

    /// Takes the messages back that were not written whole, from the counts too. How many they were.
    fn take_back(&mut self, context: &mut Context<'_>) -> u64 {
        let unsent = match context.plan.mode {
            Mode::Subscribe { .. } => u64::from(self.pending() > 0),
            _ => self.pending().div_ceil(context.template.message_len()) as u64,
        };
        context.counts.sent -= unsent;
        if !matches!(context.plan.mode, Mode::Subscribe { .. }) {
            context.allowance += unsent;
        }
        unsent
    }

    /// Closes for good.
    pub(super) fn end(&mut self, context: &mut Context<'_>) {
        self.close();
        self.state = State::Closed;
        context.alive -= 1;
    }

    pub(super) fn close(&mut self) {
        self.stream = None;
        self.window.reset();
        self.out.clear();
        self.written = 0;
        self.partial.clear();
        self.parked = None;
        self.sequence = None;
    }
}
