//! What the load generator does to a server, one kind of it a module.

use ringhold_benches::server::{BARE, Server};

use crate::connection::{Crowd, Incoming, Outgoing, Ready};
use crate::grid::{Cell, Kind};
use crate::message::Message;

/// A load on one server, which can be started and stopped again and again.
pub(crate) trait Load {
    /// Begins.
    fn start(&mut self);

    /// Looks at all connections once, and does what there is to do: how many messages were done with it.
    fn turn(&mut self) -> u64;

    /// From now on nothing new is begun.
    fn stop(&mut self);

    /// Whether nothing is under way, so that the server has nothing to do.
    fn is_at_rest(&self) -> bool;

    /// Whether messages are counted when they are sent, and are not all handled before [`Load::is_at_rest`].
    fn counts_sent(&self) -> bool {
        false
    }
}

/// The load of a cell, connected and at rest.
pub(crate) fn of(cell: &Cell, server: &Server) -> Box<dyn Load> {
    match cell.kind {
        Kind::Echo => Box::new(Echo::new(cell, server)),
        Kind::Ingest | Kind::Fanout => todo!(),
    }
}

/// Requests, so many on each connection: those that are answered make room for the next ones.
struct Echo {
    crowd: Crowd,
    outgoing: Outgoing,
    incoming: Incoming,
    depth: usize,
    ready: Vec<Ready>,
    running: bool,
    under_way: usize,
}

impl Echo {
    fn new(cell: &Cell, server: &Server) -> Self {
        let request = Message::echo(cell.payload);
        let reply = if server.name == BARE {
            request.clone()
        } else {
            Message::echoed(cell.payload)
        };
        Echo {
            crowd: Crowd::connect(server, cell.transport, cell.connections),
            outgoing: Outgoing::new(&request, cell.depth),
            incoming: Incoming::new(reply),
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
        for Ready {
            index,
            readable,
            writable,
        } in &ready
        {
            let count = if *readable {
                self.crowd.receive(*index, &mut self.incoming)
            } else {
                0
            };
            answered += count;
            self.under_way -= count;
            let again = if self.running { count } else { 0 };
            if again > 0 || *writable {
                self.request(*index, again);
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
