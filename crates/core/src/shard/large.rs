//! Large frames, which the engine receives straight into a buffer of their own.

use bytes::BytesMut;

use super::Shard;
use crate::connection::Receive;
use crate::peer::Link;

impl<L: Link> Shard<L> {
    /// Lets the engine `receive` into the spare capacity of the buffer of the large frame that is under way, at most so many
    /// bytes, and tell how many that were. Returns that, or what the engine failed with; `None` if no large frame is under way.
    pub(crate) fn receive_large<E>(
        &mut self,
        slot: u32,
        receive: impl FnOnce(&L, &mut BytesMut, usize) -> Result<usize, E>,
    ) -> Option<Result<usize, E>> {
        if self.desire(slot)?.receive != Receive::Large {
            return None;
        }
        let place = self.connections.get_mut(slot as usize)?;
        let partial = place.connection.input.as_mut()?;
        debug_assert_eq!(partial.scanned, partial.bytes.len());
        partial.make_room(0, partial.missing, &mut self.desk.pools);
        let bytes = &mut partial.bytes;
        let room = partial.missing.min(bytes.capacity() - bytes.len());
        let result = receive(&place.link, bytes, room);
        // This may have been megabytes, and others' before it, none of which the services were called for.
        self.desk.stopwatch.go_on();
        let received = *result.as_ref().unwrap_or(&0);
        if received == 0 {
            place.connection.account(&mut self.desk);
        } else {
            self.with_host(slot, |host, reply| {
                reply.connection.clock.traffic = reply.desk.now;
                reply
                    .desk
                    .name_counters(reply.connection.name)
                    .bytes_in
                    .add(received as u64);
                host.in_place(reply);
            });
        }
        Some(result)
    }
}
