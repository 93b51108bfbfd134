//! Frames in, nothing out, as fast as the server takes them.
//!
//! That it has handled all of them is known when it answers a request behind the last one.

use ringhold_benches::server::Server;

use super::Load;
use super::echo::replies;
use crate::connection::{Crowd, Incoming, Outgoing, Ready};
use crate::grid::{Cell, Payload};
use crate::message::Message;

/// What a connection sends before it is the next one's turn.
const TURN_BYTES: usize = 64 << 10;

/// Of the request at the end.
const QUESTION: Payload = Payload::Of(4);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Frames are sent while it is running; then the one that has begun, if any.
    Frames,
    /// The request is sent.
    Asking,
    /// Its reply is to come.
    Asked,
    Quiet,
}

pub(crate) struct Ingest {
    crowd: Crowd,
    frames: Outgoing,
    at_once: usize,
    question: Outgoing,
    answer: Incoming,
    /// Of each connection, with whether the kernel has room for more.
    phases: Vec<(Phase, bool)>,
    ready: Vec<Ready>,
    running: bool,
    /// Connections that are not quiet.
    under_way: usize,
}

impl Ingest {
    pub(crate) fn new(cell: &Cell, server: &Server) -> Self {
        let frames = Message::notifications(cell.payload);
        let bytes: usize = frames.iter().map(Message::len).sum();
        let at_once = (TURN_BYTES * frames.len() / bytes).max(1);
        let mut crowd = Crowd::connect(server, cell.transport, cell.connections);
        for index in 0..cell.connections {
            crowd.await_room(index, true);
        }
        Ingest {
            crowd,
            frames: Outgoing::new(&frames, at_once),
            at_once,
            question: Outgoing::new(&Message::requests(QUESTION), 1),
            answer: replies(server, QUESTION),
            phases: vec![(Phase::Quiet, true); cell.connections],
            ready: Vec::new(),
            running: false,
            under_way: 0,
        }
    }

    /// Takes a connection on: how many frames are whole with it.
    fn advance(&mut self, index: usize) -> u64 {
        let connection = &mut self.crowd.connections[index];
        let (phase, room) = &mut self.phases[index];
        let mut frames = 0;
        if *phase == Phase::Frames {
            let begun = usize::from(connection.sent > 0);
            let due = if self.running { self.at_once } else { begun };
            connection.due = due;
            *room = due == 0 || self.frames.send_once(connection);
            frames = due - connection.due;
            connection.due = 0;
            if !self.running && connection.sent == 0 {
                *phase = Phase::Asking;
                connection.next = connection.expected;
            }
        }
        if *phase == Phase::Asking && *room {
            connection.due = 1;
            *room = self.question.send_once(connection);
            if connection.due == 0 {
                *phase = Phase::Asked;
            }
        }
        frames as u64
    }
}

impl Load for Ingest {
    fn start(&mut self) {
        self.crowd.number_from_first();
        self.running = true;
        self.under_way = self.phases.len();
        for (phase, _) in &mut self.phases {
            *phase = Phase::Frames;
        }
    }

    fn turn(&mut self) -> u64 {
        let mut ready = std::mem::take(&mut self.ready);
        self.crowd.look(&mut ready);
        for found in &ready {
            self.phases[found.index].1 |= found.writable;
            if found.readable && self.crowd.receive(found.index, &mut self.answer) > 0 {
                self.phases[found.index].0 = Phase::Quiet;
                self.under_way -= 1;
            }
        }
        self.ready = ready;
        let mut frames = 0;
        for index in 0..self.phases.len() {
            if self.phases[index].1 {
                frames += self.advance(index);
            }
        }
        frames
    }

    fn stop(&mut self) {
        self.running = false;
    }

    fn is_at_rest(&self) -> bool {
        self.under_way == 0
    }

    fn counts_sent(&self) -> bool {
        true
    }
}
