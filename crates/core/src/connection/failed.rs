//! A connection whose socket has failed. The peer has sent what was received before, as whoever closes without reading the
//! replies, and it is given to the service like that of one that ends its side. If it was a send that failed, the kernel may
//! have more: as much as that has by then is taken, and no more, since the peer may still be there and send for ever.

use std::io;

use super::{Connection, Life, Pause};
use crate::close::Close;
use crate::desk::Desk;

impl Connection {
    /// The socket has failed, while the connection takes frames.
    pub(crate) fn fail(&mut self, error: io::Error, desk: &Desk) {
        // Both directions may say so.
        if self.life != Life::Failed {
            let why = Close::Failed(error);
            self.count(&why, desk);
            self.clock.end = desk.now;
            self.life = Life::Failed;
            // Once more it is looked what there is.
            self.quiet = false;
            self.why = Some(why);
        }
    }

    /// Nobody gets what the service answers, or promises, and the peer is not waited for. When everything has been taken and
    /// given to it, the connection is over.
    pub(super) fn settle_failed(&mut self, desk: &mut Desk) {
        // It may have failed for want of memory, and the peer be there: that is not to see an orderly end behind a part.
        self.is_cut |= !self.outbox.is_empty();
        // What is in a send goes when that is over.
        self.outbox.clear(&mut desk.pools);
        for promise in self.tickets.close_all() {
            desk.ticket_closed(&promise);
        }
        self.pause = Pause::No;
        if self.quiet && !self.has_backlog() {
            self.life = Life::Over;
        }
    }
}
