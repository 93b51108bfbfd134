//! Large frames, which the engine receives straight into a buffer of their own.

use bytes::BytesMut;

use super::Shard;
use crate::peer::Link;

impl<L: Link> Shard<L> {
    /// Takes the buffer of the large frame that is under way, to receive into its spare capacity, at most the second
    /// value's number of bytes. It must be given back with [`Shard::large_received`].
    pub(crate) fn take_large(&mut self, slot: u32) -> Option<(BytesMut, usize)> {
        let connection = &mut self.connections.get_mut(slot as usize)?.connection;
        let partial = connection.input.as_mut()?;
        debug_assert_eq!(partial.scanned, partial.bytes.len());
        partial.make_room(0, partial.missing, &mut self.desk.pools);
        let lent = partial.lend();
        connection.account(&mut self.desk);
        Some(lent)
    }

    /// Gives the buffer back that [`Shard::take_large`] lent, longer by what was received.
    pub(crate) fn large_received(&mut self, slot: u32, bytes: BytesMut) {
        self.with_host(slot, |host, reply| {
            let Some(partial) = reply.connection.input.as_mut() else {
                return; // It was closed meanwhile.
            };
            let received = partial.take_back(bytes);
            if received > 0 {
                reply.connection.clock.traffic = reply.desk.now;
                reply
                    .desk
                    .name_counters(reply.connection.name)
                    .bytes_in
                    .add(received as u64);
                host.in_place(reply);
            }
        });
    }
}
