//! What the load generator does to a server, each kind of it in a module.

use ringhold_benches::server::Server;

use crate::grid::{Cell, Kind};

mod connect;
mod echo;
mod fanout;
mod ingest;
pub(crate) mod paced;

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
pub(crate) fn of<'a>(cell: &Cell, server: &'a Server) -> Box<dyn Load + 'a> {
    match cell.kind {
        Kind::Echo | Kind::Fetch => Box::new(echo::Echo::new(cell, server)),
        Kind::Ingest => Box::new(ingest::Ingest::new(cell, server)),
        Kind::Fanout => Box::new(fanout::Fanout::new(cell, server)),
        Kind::Connect => Box::new(connect::Connects::new(cell, server)),
    }
}
