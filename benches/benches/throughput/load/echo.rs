//! Requests, so many on each connection: those that are answered make room for the next ones.

use ringhold_benches::server::{BARE, Server};

use super::Load;
use crate::connection::{Crowd, Incoming, Outgoing, Ready};
use crate::grid::{Cell, Payload};
use crate::message::Message;

pub(crate) struct Echo {
    crowd: Crowd,
    outgoing: Outgoing,
    incoming: Incoming,
    depth: usize,
    ready: Vec<Ready>,
    running: bool,
    /// Requests without a reply, over all connections.
    under_way: usize,
}

/// What a server answers to [`Message::requests`].
pub(crate) fn replies(server: &Server, payload: Payload) -> Incoming {
    Incoming::new(if server.name == BARE {
        Message::requests(payload)
    } else {
        Message::replies(payload)
    })
}

impl Echo {
    pub(crate) fn new(cell: &Cell, server: &Server) -> Self {
        Echo {
            crowd: Crowd::connect(server, cell.transport, cell.connections),
            outgoing: Outgoing::new(&Message::requests_of(cell), cell.depth),
            incoming: replies(server, cell.payload),
            depth: cell.depth,
            ready: Vec::new(),
            running: false,
            under_way: 0,
        }
    }

    fn request(&mut self, index: usize, count: usize) {
        self.crowd.connections[index].due += count;
        self.under_way += count;
        self.crowd.send(index, &mut self.outgoing);
    }
}

impl Load for Echo {
    fn start(&mut self) {
        self.crowd.number_from_first();
        self.running = true;
        for index in 0..self.crowd.connections.len() {
            self.request(index, self.depth);
        }
    }

    fn turn(&mut self) -> u64 {
        let mut answered = 0;
        let mut ready = std::mem::take(&mut self.ready);
        self.crowd.look(&mut ready);
        for found in &ready {
            let mut again = 0;
            if found.readable {
                let count = self.crowd.receive(found.index, &mut self.incoming);
                answered += count;
                self.under_way -= count;
                again = if self.running { count } else { 0 };
            }
            if again > 0 || found.writable {
                self.request(found.index, again);
            }
        }
        self.ready = ready;
        answered as u64
    }

    fn stop(&mut self) {
        self.running = false;
    }

    fn is_at_rest(&self) -> bool {
        self.under_way == 0
    }
}
