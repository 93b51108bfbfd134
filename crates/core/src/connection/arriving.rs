//! A connection whose client is known when the header of its proxy is complete.

use super::{Connection, Life};
use crate::close::Close;
use crate::crowd::Party;
use crate::desk::Desk;
use crate::proxy::{self, Client, HEADER_BYTES_MAX};

impl Connection {
    /// Takes received bytes while the header is awaited. When it is complete the connection is open, and how many of the bytes
    /// were the header's is returned; or it ends, if that is wrong or its client has no place for it.
    pub(crate) fn take_header(&mut self, bytes: &[u8], desk: &mut Desk) -> Option<usize> {
        if self.life != Life::Arriving {
            return None;
        }
        let partial = self.input.take();
        let mut partial = partial.unwrap_or_else(|| desk.pools.partial());
        let before = partial.bytes.len();
        // So many are enough for a verdict.
        let count = bytes.len().min(HEADER_BYTES_MAX.saturating_sub(before));
        partial.bytes.extend_from_slice(&bytes[..count]);
        let seen = proxy::parse(&partial.bytes);
        if let Ok(None) = seen {
            self.input = Some(partial);
            return None;
        }
        desk.pools.give_partial(partial);
        match seen {
            Ok(header) => {
                let header = header?;
                self.client = header.client.map(Box::new);
                // The proxy itself, and whom it does not know, are not counted.
                let whose = || self.client.as_deref().and_then(Party::at);
                let Ok(place) = desk.crew.crowd.enter(self.name, whose) else {
                    self.close(Close::Crowded, desk);
                    return None;
                };
                if let Some(place) = place {
                    desk.places.insert(self.id.slot, place);
                }
                self.life = Life::Open;
                Some(header.length.saturating_sub(before))
            }
            Err(wrong) => {
                self.close(Close::ProxyHeader(wrong), desk);
                None
            }
        }
    }

    /// The peer has ended its side while the header is awaited, as one that only looks whether anybody is here.
    pub(super) fn ended_early(&mut self, desk: &mut Desk) {
        let why = match self.input {
            Some(_) => Close::ProxyHeader("but ended before that was complete"),
            None => Close::Finished,
        };
        self.close(why, desk);
        self.ended(desk);
    }

    /// What a successor has to know of the client.
    pub(crate) fn client(&self) -> Option<Client> {
        match self.life {
            Life::Arriving => Some(Client::Awaited),
            _ => self.client.as_deref().map(Client::from),
        }
    }
}
