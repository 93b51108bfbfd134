//! One publisher and many readers. What all of them have makes room for the next publication.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use ringhold_benches::server::Server;

use super::Load;
use crate::connection::{Crowd, Incoming, Outgoing, Ready, connect};
use crate::grid::{Cell, Payload};
use crate::message::{FIRST, Message};

pub(crate) struct Fanout {
    /// The readers, and the publisher behind them.
    crowd: Crowd,
    readers: usize,
    publications: Outgoing,
    events: Incoming,
    depth: usize,
    /// How many readers have each of the publications that are under way, the oldest first.
    arrived: VecDeque<usize>,
    /// The number of the oldest.
    oldest: u32,
    ready: Vec<Ready>,
    running: bool,
}

impl Fanout {
    pub(crate) fn new(cell: &Cell, server: &Server) -> Self {
        let Payload::Of(payload) = cell.payload else {
            panic!("publications are all written alike");
        };
        let connect = || connect(server, cell.transport).unwrap();
        let sockets: Vec<OwnedFd> = (0..=cell.connections).map(|_| connect()).collect();
        let (readers, _publisher) = sockets.split_at(cell.connections);
        readers.iter().for_each(subscribe);
        readers.iter().for_each(await_subscribed);
        Fanout {
            crowd: Crowd::new(sockets),
            readers: cell.connections,
            publications: Outgoing::new(&[Message::publish(payload)], cell.depth),
            events: Incoming::new(vec![Message::event(payload)]),
            depth: cell.depth,
            arrived: VecDeque::new(),
            oldest: FIRST,
            ready: Vec::new(),
            running: false,
        }
    }

    fn publish(&mut self, count: usize) {
        self.arrived.extend(std::iter::repeat_n(0, count));
        self.crowd.connections[self.readers].due += count;
        self.crowd.send(self.readers, &mut self.publications);
    }

    /// Receives what a reader has: how many events.
    fn read(&mut self, reader: usize) -> usize {
        let first = self.crowd.connections[reader].expected - self.oldest;
        let count = self.crowd.receive(reader, &mut self.events);
        for arrived in self.arrived.range_mut(first as usize..).take(count) {
            *arrived += 1;
        }
        count
    }
}

/// A reader's first words: to be subscribed, and an answer when it is.
fn subscribe(reader: &OwnedFd) {
    let mut words = Message::subscribe().bytes;
    words.extend(Message::echo(0).bytes);
    assert_eq!(rustix::io::write(reader, &words), Ok(words.len()));
}

fn await_subscribed(reader: &OwnedFd) {
    let expected = Message::echoed(0).bytes;
    let mut answer = vec![0; expected.len()];
    let length = rustix::io::read(reader, &mut answer[..]).unwrap();
    assert_eq!(answer[..length], expected);
}

impl Load for Fanout {
    fn start(&mut self) {
        self.crowd.number_from_first();
        self.oldest = FIRST;
        self.running = true;
        self.publish(self.depth);
    }

    fn turn(&mut self) -> u64 {
        let mut delivered = 0;
        let mut ready = std::mem::take(&mut self.ready);
        self.crowd.look(&mut ready);
        for found in &ready {
            if found.index == self.readers {
                assert!(!found.readable, "nothing is due to the publisher");
                self.publish(0);
            } else {
                delivered += self.read(found.index);
            }
        }
        self.ready = ready;
        let mut everywhere = 0;
        while self.arrived.front() == Some(&self.readers) {
            self.arrived.pop_front();
            self.oldest += 1;
            everywhere += 1;
        }
        if self.running && everywhere > 0 {
            self.publish(everywhere);
        }
        delivered as u64
    }

    fn stop(&mut self) {
        self.running = false;
    }

    fn is_at_rest(&self) -> bool {
        self.arrived.is_empty()
    }
}
