//! The bytes of one connection: reading what there is, writing what the pipeline takes.

use std::io::{self, Read, Write};

use super::connection::{Connection, State};
use super::context::Context;
use super::ending::Gone;
use super::plan::Mode;

/// No more is put together while this much waits to be written.
pub(super) const OUT_HIGH: usize = 256 << 10;

/// What one-way ingest writes at once.
const CHUNK: usize = 128 << 10;

/// How often a connection is read before the others get their turn.
const READS: u32 = 8;

impl Connection {
    pub(super) fn work(&mut self, context: &mut Context<'_>, readable: bool, closed: bool) {
        let mut result = Ok(());
        if readable {
            result = self.read(context, closed);
        }
        if result.is_ok() && self.state == State::Open {
            result = self.try_pump(context);
        }
        match result {
            Ok(()) => self.finish_if_done(context),
            Err(gone) => self.over(context, gone),
        }
    }

    fn read(&mut self, context: &mut Context<'_>, closed: bool) -> Result<(), Gone> {
        let mut scratch = std::mem::take(&mut context.scratch);
        let result = self.read_into(&mut scratch, context, closed);
        context.scratch = scratch;
        result
    }

    /// Reads until the socket is empty. Fewer bytes than asked for mean that it is (epoll(7)),
    /// except when its end was announced already: that is to be read too.
    fn read_into(
        &mut self,
        scratch: &mut [u8],
        context: &mut Context<'_>,
        closed: bool,
    ) -> Result<(), Gone> {
        for _ in 0..READS {
            let Some(stream) = &mut self.stream else {
                return Ok(());
            };
            match stream.read(scratch) {
                Ok(0) => return Err(Gone::Ended),
                Ok(n) => {
                    context.tick();
                    context.moved();
                    context.counts.bytes_received += n as u64;
                    self.digest(&scratch[..n], context)?;
                    if n < scratch.len() && !closed {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Gone::Failed(error)),
            }
        }
        self.queue(context);
        Ok(())
    }

    pub(super) fn try_pump(&mut self, context: &mut Context<'_>) -> Result<(), Gone> {
        loop {
            self.fill(context);
            if self.pending() == 0 || !self.writable {
                return Ok(());
            }
            self.flush(context)?;
            if context.plan.mode == Mode::Notify && self.pending() == 0 && !context.ending {
                self.queue(context);
                return Ok(());
            }
        }
    }

    /// Puts together what a closed loop sends now.
    fn fill(&mut self, context: &mut Context<'_>) {
        if context.ending || context.plan.rate.is_some() || self.state != State::Open {
            return;
        }
        let high = match context.plan.mode {
            Mode::Call => OUT_HIGH,
            Mode::Notify => CHUNK,
            Mode::Subscribe { .. } => return,
        };
        if !self.has_room(context) {
            return;
        }
        let now = context.tick();
        while context.allowance > 0 && self.pending() < high && self.has_room(context) {
            self.append(context, now);
        }
    }

    fn flush(&mut self, context: &mut Context<'_>) -> Result<(), Gone> {
        while let Some(stream) = &mut self.stream
            && self.written < self.out.len()
        {
            match stream.write(&self.out[self.written..]) {
                Ok(n) => {
                    self.written += n;
                    context.moved();
                    context.counts.bytes_sent += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.drained(context, error)),
            }
        }
        if context.plan.mode == Mode::Notify {
            context.settled();
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written >= OUT_HIGH {
            self.out.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Nothing can be written any more. The replies that came before that count: reads them.
    fn drained(&mut self, context: &mut Context<'_>, error: io::Error) -> Gone {
        loop {
            let before = context.counts.bytes_received;
            match self.read(context, true) {
                Err(gone @ Gone::Violation(_)) => return gone,
                Ok(()) if context.counts.bytes_received > before => {}
                _ => return Gone::Failed(error),
            }
        }
    }
}
