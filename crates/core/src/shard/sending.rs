//! What engines ask for and tell about sends.

use super::{Entry, Phase, Shard};
use crate::connection::Life;
use crate::outbox::{Outbox, Segment};
use crate::peer::Link;
use crate::pool::Pools;

impl<L: Link> Shard<L> {
    /// What a send needs: the outbox, the engine's part, and the pools.
    pub(crate) fn sending(&mut self, slot: u32) -> Option<(&mut Outbox, &mut L, &mut Pools)> {
        let entry = self.connections.get_mut(slot as usize)?;
        Some((
            &mut entry.connection.outbox,
            &mut entry.link,
            &mut self.desk.pools,
        ))
    }

    /// A send ended; the kernel took `bytes` bytes.
    pub(crate) fn sent(&mut self, slot: u32, bytes: usize) {
        if bytes > 0 && !self.unread.is_empty() {
            self.unread.remove(&slot);
        }
        self.with(slot, |connection, desk| {
            connection.outbox.sent(&mut desk.pools, bytes);
            if bytes > 0 {
                connection.clock.write = desk.now;
                connection.clock.traffic = desk.now;
                desk.name_counters(connection.name)
                    .bytes_out
                    .add(bytes as u64);
            }
        });
    }

    /// Takes out what is to be sent, if nothing depends on when that is done: the engine is about to send it, and says only
    /// if it cannot ([`Shard::unsent`]). To the connection it is as good as sent.
    pub(crate) fn launch(&mut self, slot: u32, bytes_max: usize) -> Option<Segment> {
        if self.phase != Phase::Serving {
            return None;
        }
        let entry = self.connections.get_mut(slot as usize)?;
        let connection = &mut entry.connection;
        if connection.life != Life::Open
            || connection.is_paused()
            || connection.outbox.len() > bytes_max
        {
            return None;
        }
        let desk = &mut self.desk;
        let bytes = connection.outbox.take_piece(&mut desk.pools)?;
        if !self.unread.is_empty() {
            self.unread.remove(&slot);
        }
        connection.clock.traffic = desk.now;
        desk.name_counters(connection.name)
            .bytes_out
            .add(bytes.len() as u64);
        connection.account(desk);
        entry.tell_unsent();
        // With nothing left to write, it may be idle from now on.
        self.note_limits(slot);
        Some(bytes)
    }

    /// What was launched has not been sent, apart from the first `sent` bytes.
    pub(crate) fn unsent(&mut self, slot: u32, bytes: Segment, sent: usize) {
        self.with(slot, |connection, desk| {
            desk.name_counters(connection.name)
                .bytes_out
                .subtract((bytes.len() - sent) as u64);
            connection.outbox.put_back(&mut desk.pools, bytes, sent);
        });
    }
}

impl<L> Entry<L> {
    /// Lets those who push see how much there is to send.
    pub(super) fn tell_unsent(&self) {
        if let Some(handle) = self.handle.get() {
            handle.note_unsent(self.connection.outbox.len());
        }
    }
}
