//! A worker's part in bounding what all connections hold.

use std::collections::BinaryHeap;

use super::Shard;
use crate::close::Close;
use crate::mailbox::Mail;
use crate::peer::Link;

impl<L: Link> Shard<L> {
    /// Bounds the memory in a turn, and before anything is sent in the same one: small changes wait until the worker sleeps.
    pub(crate) fn bound_memory(&mut self) {
        if self.desk.meter.must_publish() {
            self.settle_memory();
        }
    }

    /// Tells the others what this worker's connections hold by now, which it must before it sleeps. If that is too much, cuts
    /// connections, or tells the worker to do so that holds the largest. Returns whether it cut any.
    pub(crate) fn settle_memory(&mut self) -> bool {
        let me = self.desk.worker;
        let mut holder = self.desk.meter.publish();
        let has_cut = holder == Some(me) && self.shed();
        if holder == Some(me) && !has_cut {
            // What was known of this worker was out of date.
            holder = self.desk.meter.publish();
        }
        if let Some(worker) = holder
            && worker != me
            && self.desk.meter.tell(worker)
            && let Some(post) = self.desk.crew.posts.get(worker)
        {
            let _ = post.send(Mail::Shed);
        }
        has_cut
    }

    /// The worker was told to cut connections.
    pub(super) fn shed_as_told(&mut self) {
        self.desk.meter.hear();
        self.shed();
    }

    /// Cuts the connections that hold most, as long as it has to be done and is this worker's to do. Returns whether it did.
    fn shed(&mut self) -> bool {
        let holders = self
            .connections
            .iter()
            .map(|(slot, entry)| (entry.connection.metered, slot as u32));
        let mut holders: BinaryHeap<(usize, u32)> = holders.filter(|holder| holder.0 > 0).collect();
        let mut has_cut = false;
        loop {
            let (held, slot) = holders.pop().unwrap_or_default();
            if !self.desk.meter.must_cut(held) {
                return has_cut;
            }
            self.cut(slot, Close::Memory);
            has_cut = true;
        }
    }
}
