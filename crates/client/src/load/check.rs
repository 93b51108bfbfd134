//! The checking of what a connection receives.

use ringhold_framer::Progress;
use rmp::decode::{self, Bytes};

use super::connection::Connection;
use super::context::Context;
use super::ending::Gone;
use super::plan::Mode;
use crate::Envelope;
use crate::envelope::{self, NIL};
use crate::error::Refused;
use crate::render::Rendered;

impl Connection {
    /// Checks every message in `bytes`, which continue those of the call before, and keeps the
    /// beginning of one that is not whole.
    pub(super) fn digest(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<(), Gone> {
        let settled = context.counts.answered + context.counts.wrong + context.counts.errors;
        let result = self.messages(bytes, context);
        if context.counts.answered + context.counts.wrong + context.counts.errors > settled {
            context.longest_gap = context
                .longest_gap
                .max(context.now.saturating_sub(self.waiting_since));
            self.waiting_since = context.now;
            context.settled();
        }
        result
    }

    fn messages(&mut self, mut bytes: &[u8], context: &mut Context<'_>) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let used = match self.expected(bytes, context) {
                Some(used) => used,
                None => self.any(bytes, context)?,
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// The quick path: a whole reply with the very result that it should have. Since the result is
    /// one msgpack object, equal bytes have the same end, and no framer is needed.
    fn expected(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Option<usize> {
        if !self.partial.is_empty() || context.plan.mode != Mode::Call {
            return None;
        }
        let (id, start) = envelope::success_head(bytes)?;
        let end = start + context.template.result_len();
        if !context
            .template
            .is_right(bytes.get(start..end)?, id, self.salt)
        {
            return None;
        }
        self.reply(id, Verdict::Right, context);
        Some(end)
    }

    /// The other path: whatever it is, framed first. Answers how many bytes of it there were.
    fn any(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<usize, Gone> {
        if let Some(parked) = self.parked.take() {
            context.framer.resume(parked);
        }
        match context.framer.feed(bytes) {
            Ok(Progress::Complete { used }) if self.partial.is_empty() => {
                self.message(&bytes[..used], context)?;
                Ok(used)
            }
            Ok(Progress::Complete { used }) => {
                let mut frame = std::mem::take(&mut self.partial);
                frame.extend_from_slice(&bytes[..used]);
                let result = self.message(&frame, context);
                // The memory is kept for the next frame that comes in pieces.
                frame.clear();
                self.partial = frame;
                result.map(|()| used)
            }
            Ok(Progress::More { .. }) => {
                self.parked = context.framer.park();
                self.partial.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            Err(error) => {
                context.framer.reset();
                let refused = Refused::frame(error, &context.plan.limits);
                Err(Gone::Violation(format!("received {refused}")))
            }
        }
    }

    /// Checks one whole message.
    fn message(&mut self, frame: &[u8], context: &mut Context<'_>) -> Result<(), Gone> {
        let envelope =
            Envelope::parse(frame).map_err(|error| Gone::Violation(format!("received {error}")))?;
        match envelope {
            Envelope::Response { id, error, result } => {
                let verdict = match error {
                    [NIL] if self.is_right(result, id, context) => Verdict::Right,
                    [NIL] => Verdict::Wrong(result),
                    error => Verdict::Error(error),
                };
                let is_refused = matches!(verdict, Verdict::Error(_));
                self.reply(id, verdict, context);
                if is_refused && matches!(context.plan.mode, Mode::Subscribe { .. }) {
                    return Err(Gone::Unsubscribed);
                }
            }
            Envelope::Notification { params, .. } => self.notification(params, context),
            Envelope::Request { .. } => {
                return Err(Gone::Violation("received a request".to_owned()));
            }
        }
        Ok(())
    }

    fn is_right(&self, result: &[u8], id: u32, context: &Context<'_>) -> bool {
        match context.plan.mode {
            Mode::Call => context.template.is_right(result, id, self.salt),
            _ => true,
        }
    }

    fn reply(&mut self, id: u32, verdict: Verdict<'_>, context: &mut Context<'_>) {
        let index = self.index;
        let Some(since) = self.window.close(id) else {
            context.counts.repeated += 1;
            context.problem(|| {
                format!("connection {index}: a second or unasked-for reply to the request {id}")
            });
            return;
        };
        match verdict {
            Verdict::Right => {
                context.counts.answered += 1;
                if since >= context.measure_from && context.plan.mode == Mode::Call {
                    context.latency.record(context.now.saturating_sub(since));
                }
            }
            Verdict::Wrong(result) => {
                context.counts.wrong += 1;
                context.problem(|| {
                    format!(
                        "connection {index}: a wrong result for the request {id}: {}",
                        Rendered(result)
                    )
                });
            }
            Verdict::Error(error) => {
                context.counts.errors += 1;
                context.problem(|| {
                    format!(
                        "connection {index}: the request {id} was answered with an error: {}",
                        Rendered(error)
                    )
                });
            }
        }
    }

    fn notification(&mut self, params: &[u8], context: &mut Context<'_>) {
        context.counts.notifications += 1;
        let Mode::Subscribe { sequence, .. } = context.plan.mode else {
            return;
        };
        context.settled();
        context.allowance = context.allowance.saturating_sub(1);
        if sequence {
            self.check_sequence(params, context);
        }
    }

    fn check_sequence(&mut self, params: &[u8], context: &mut Context<'_>) {
        let index = self.index;
        let mut bytes = Bytes::new(params);
        let number: Option<u64> = decode::read_array_len(&mut bytes)
            .ok()
            .and_then(|_| decode::read_int(&mut bytes).ok());
        let Some(number) = number else {
            context.counts.wrong += 1;
            context.problem(|| {
                format!(
                    "connection {index}: a notification without a number: {}",
                    Rendered(params)
                )
            });
            return;
        };
        let due = self.sequence.unwrap_or(number);
        if number < due {
            context.counts.repeated += 1;
            context.problem(|| {
                format!("connection {index}: notification {number} came when {due} was due")
            });
            return;
        }
        if number > due {
            context.counts.lost += number - due;
            context.problem(|| {
                format!(
                    "connection {index}: notifications {due} to {} are missing",
                    number - 1
                )
            });
        }
        self.sequence = number.checked_add(1);
    }
}

/// What a reply was worth.
enum Verdict<'a> {
    Right,
    Wrong(&'a [u8]),
    Error(&'a [u8]),
}
