//! Short connections: each asks once, gets its reply, and ends. So many of them are under way at once.
//!
//! The client ends first, as clients do. It ends its own side and waits for the server to end the other one: so the server
//! sees the same as if the client had closed the socket, and it is known when it is done with the connection.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use ringhold_benches::server::Server;

use super::Load;
use super::echo::replies;
use crate::connection::{Crowd, Incoming, Outgoing, Ready, connect, connect_from};
use crate::grid::{Cell, Transport};
use crate::message::Message;

/// A TCP connection that its client has ended keeps the address and port of the client for a minute (TIME_WAIT). There are some
/// 28,000 ports for an address and a server, so that after so many connections another address is taken: all of 127.0.0.0/8 are this machine.
const CONNECTIONS_AN_ADDRESS: u32 = 16 << 10;

/// Where the first address is, far from those that somebody listens on.
const ADDRESSES: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

/// So many addresses, and then the same again.
const ADDRESSES_MAX: u32 = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Asked, and not yet answered.
    Asked,
    /// Answered, and the client has ended its side.
    Ending,
    /// The server has ended its side, too.
    Over,
}

pub(crate) struct Connects<'a> {
    server: &'a Server,
    transport: Transport,
    crowd: Crowd,
    request: Outgoing,
    reply: Incoming,
    /// Of each place in the crowd; there is none before the first start.
    phases: Vec<Phase>,
    /// How many are under way at once.
    at_once: usize,
    ready: Vec<Ready>,
    running: bool,
}

impl<'a> Connects<'a> {
    pub(crate) fn new(cell: &Cell, server: &'a Server) -> Self {
        Connects {
            server,
            transport: cell.transport,
            crowd: Crowd::new([]),
            request: Outgoing::new(&Message::requests(cell.payload), 1),
            reply: replies(server, cell.payload),
            phases: Vec::new(),
            at_once: cell.connections,
            ready: Vec::new(),
            running: false,
        }
    }

    fn socket(&self) -> OwnedFd {
        match self.transport {
            Transport::Tcp => connect_from(self.server, next_address()).unwrap(),
            Transport::Unix => connect(self.server, Transport::Unix).unwrap(),
        }
    }

    /// Connects and asks.
    fn begin(&mut self, index: usize) {
        let socket = self.socket();
        self.crowd.put(index, socket);
        self.crowd.connections[index].due = 1;
        self.crowd.send(index, &mut self.request);
        self.phases[index] = Phase::Asked;
    }
}

impl Load for Connects<'_> {
    fn start(&mut self) {
        self.running = true;
        self.phases.resize(self.at_once, Phase::Over);
        for index in 0..self.at_once {
            self.begin(index);
        }
    }

    /// How many connections are over with it.
    fn turn(&mut self) -> u64 {
        let mut over = 0;
        let mut ready = std::mem::take(&mut self.ready);
        self.crowd.look(&mut ready);
        for Ready { index, .. } in ready.iter().copied() {
            match self.phases[index] {
                Phase::Asked => {
                    if self.crowd.receive(index, &mut self.reply) > 0 {
                        self.crowd.end_sending(index);
                        self.phases[index] = Phase::Ending;
                    }
                }
                Phase::Ending => {
                    if self.crowd.has_ended(index) {
                        self.phases[index] = Phase::Over;
                        over += 1;
                    }
                }
                Phase::Over => {}
            }
            if self.phases[index] == Phase::Over && self.running {
                self.begin(index);
            }
        }
        self.ready = ready;
        over
    }

    fn stop(&mut self) {
        self.running = false;
    }

    fn is_at_rest(&self) -> bool {
        self.phases.iter().all(|phase| *phase == Phase::Over)
    }
}

/// The address that the next connection comes from.
fn next_address() -> Ipv4Addr {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    let address = made / CONNECTIONS_AN_ADDRESS % ADDRESSES_MAX;
    Ipv4Addr::from_bits(ADDRESSES.to_bits() + address)
}
