//! Doing what connections desire.

use std::io;
use std::os::fd::OwnedFd;

use super::Engine;
use super::link::{Pace, Receiving};
use super::receive::Shots;
use super::watch::Watch;
use crate::connection::{Finish, Receive};
use crate::engine::{read_last, reset, send_fin};
use crate::handover::parcel;
use crate::shard::Phase;

impl Engine<'_> {
    pub(super) fn update_touched(&mut self) -> io::Result<()> {
        while let Some(slot) = self.shard.next_touched() {
            self.update(slot)?;
        }
        Ok(())
    }

    /// Does what a connection desires.
    fn update(&mut self, slot: u32) -> io::Result<()> {
        let (Some(desire), Some(generation)) =
            (self.shard.desire(slot), self.shard.generation(slot))
        else {
            return Ok(());
        };
        match desire.finish {
            Finish::No => {}
            Finish::Shutdown => {
                send_fin(&mut self.shard, slot);
                return Ok(());
            }
            Finish::Close => return self.close(slot, generation, parcel::shut),
            Finish::Reset => return self.close(slot, generation, reset),
            Finish::Release => return self.release(slot, generation, desire.send),
        }
        let link = self.shard.link(slot);
        let (blocked, sending) =
            link.map_or((false, false), |link| (link.blocked, link.sending > 0));
        match (desire.send, blocked) {
            (true, false) => {
                if !self.launch(slot, generation)? {
                    self.send(slot, generation)?;
                }
            }
            (true, true) => self.arm_room(slot, generation)?,
            (false, _) if !sending => self.cancel_room(slot, generation)?,
            (false, _) => {}
        }
        self.update_receive(slot, generation, desire.receive)
    }

    fn update_receive(&mut self, slot: u32, generation: u32, desired: Receive) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if desired == Receive::Large {
            link.expect_large();
        } else if desired != Receive::Stream
            || matches!(link.pace, Pace::Patient { .. }) && link.receiving != Receiving::Polled
        {
            self.cancel_readable(slot, generation)?;
        }
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.watch == Watch::Fired {
            link.watch = Watch::Over;
            if matches!(link.receiving, Receiving::Stream(_)) {
                // It is begun again and then looks at the state of the socket.
                return self.cancel_receive(slot, generation);
            }
        }
        let is_patient = matches!(link.pace, Pace::Patient { .. });
        match (desired, link.receiving) {
            // It has become eager or bulky.
            (Receive::Stream, Receiving::Stream(Shots::Many { .. })) if !is_patient => {
                self.cancel_receive(slot, generation)
            }
            (Receive::Stream, Receiving::No) if !is_patient => match link.pace {
                Pace::Bulky(_) => self.arm_bulk(slot, generation),
                _ => self.arm_eager(slot, generation),
            },
            (Receive::Stream, Receiving::No) => {
                // A fresh connection has rarely sent anything yet. One that was accepted while stopping is read at
                // once, because it is about to be asked to end.
                let polls_first = self.shard.phase() == Phase::Serving;
                self.arm_stream(slot, generation, polls_first)
            }
            (Receive::Pause | Receive::Stop | Receive::Large, Receiving::Stream(_)) => {
                self.cancel_receive(slot, generation)
            }
            (Receive::Large, Receiving::No) => self.arm_bulk(slot, generation),
            // It keeps its place, which is void if it is still paused when its turn comes.
            (Receive::Pause, Receiving::Starved | Receiving::Queued) => Ok(()),
            (Receive::Pause, Receiving::Polled)
            | (Receive::Stop, Receiving::Starved | Receiving::Queued | Receiving::Polled) => {
                // Its place in the queue is found to be void when its turn comes.
                link.receiving = Receiving::No;
                self.shard.touch(slot);
                Ok(())
            }
            // It is over by the time that this can be told of it.
            (_, Receiving::Look(_)) => Ok(()),
            (Receive::Stop, Receiving::No) => {
                read_last(&mut self.shard, slot);
                Ok(())
            }
            (
                Receive::Stream,
                Receiving::Stream(_) | Receiving::Starved | Receiving::Queued | Receiving::Polled,
            )
            | (Receive::Large, Receiving::Starved | Receiving::Queued | Receiving::Polled)
            | (Receive::Pause, Receiving::No) => Ok(()),
        }
    }

    /// Ends a connection and closes it once nothing is in flight on it; until then, ends what is.
    fn close(&mut self, slot: u32, generation: u32, end: fn(&OwnedFd)) -> io::Result<()> {
        self.cancel_receive(slot, generation)?;
        self.cancel_send(slot, generation)?;
        self.cancel_readable(slot, generation)?;
        self.cancel_watch(slot, generation)?;
        self.cancel_room(slot, generation)?;
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.in_flight() {
            return Ok(());
        }
        end(&link.socket);
        self.unregister(slot);
        self.shard.closed(slot);
        Ok(())
    }

    /// Lets a connection go that is at rest: writes until the kernel takes no more, then gives up what is left.
    fn release(&mut self, slot: u32, generation: u32, send: bool) -> io::Result<()> {
        self.cancel_receive(slot, generation)?;
        self.cancel_readable(slot, generation)?;
        self.cancel_watch(slot, generation)?;
        self.cancel_room(slot, generation)?;
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if send && !link.blocked {
            return self.send(slot, generation);
        }
        if link.in_flight() {
            return Ok(());
        }
        self.unregister(slot);
        if let Some(parcel) = self.shard.release(slot) {
            self.parcels.push(parcel);
        }
        Ok(())
    }
}
