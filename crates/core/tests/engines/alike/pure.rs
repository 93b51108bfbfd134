//! A script without sockets: connections in an [`Exchange`], where everything happens at once.

use std::sync::Arc;
use std::time::Duration;

use ringhold_core::testing::{Client, Exchange, Setup};

use super::actor::{Actor, Shared};
use super::outcome::{End, Outcome, counters_of, is_refused};
use super::script::{Decision, Ending, Leave, Script, Step, socket_name};

/// What a client has got and the server has taken of it at one time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    pub(crate) received: usize,
    pub(crate) bytes_in: u64,
    pub(crate) frames_in: u64,
    /// The server has ended the connection.
    pub(crate) is_over: bool,
    /// What it sends is of no use any more. How much of that is read depends on when it comes.
    pub(crate) is_refused: bool,
}

/// What happened, by client.
pub(crate) struct Run {
    pub(crate) outcomes: Vec<Outcome>,
    /// After each step, for its client.
    pub(crate) marks: Vec<Mark>,
    /// When all clients have read everything.
    pub(crate) at_rest: Vec<Mark>,
    /// When the tickets that are dropped are dropped.
    pub(crate) at_end: Vec<Mark>,
    /// Whether the order of all that the client is sent follows from the script. It does not where an answer may overtake
    /// a reply.
    pub(crate) is_exact: Vec<bool>,
    /// Whether the client left when it had got everything and the server had, too.
    pub(crate) is_settled: Vec<bool>,
}

#[derive(Default)]
struct State {
    client: Option<Client>,
    sent: usize,
    received: Vec<u8>,
    is_paused: bool,
    half_closed: bool,
    left: bool,
    /// The last step waited.
    is_synced: bool,
    is_inexact: bool,
    is_settled: bool,
    /// Bytes that were received before the server was told to stop.
    taken: u64,
}

struct World<'a> {
    script: &'a Script,
    exchange: Exchange,
    shared: Arc<Shared>,
    states: Vec<State>,
}

/// Lets the script happen.
///
/// # Errors
///
/// What is left at the end.
pub(crate) fn run(script: &Script, steps: &[(usize, Step)]) -> Result<Run, String> {
    let shared = Shared::new(script);
    let names: Vec<String> = (0..script.clients.len()).map(socket_name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let limits = script.settings.limits();
    let setup = Setup::new(limits);
    let setup = if script.settings.arrays_only {
        setup.service("actor", &names, |_| Actor::<true>(shared.clone()))
    } else {
        setup.service("actor", &names, |_| Actor::<false>(shared.clone()))
    };
    let exchange = setup.start();
    let mut world = World {
        script,
        exchange,
        shared,
        states: script.clients.iter().map(|_| State::default()).collect(),
    };
    let mut marks = Vec::new();
    for (client, step) in steps {
        world.act(*client, step);
        marks.push(world.mark(*client));
    }
    world.finish(marks)
}

impl World<'_> {
    fn act(&mut self, number: usize, step: &Step) {
        let state = &mut self.states[number];
        let exchange = &mut self.exchange;
        let client = *state.client.get_or_insert_with(|| {
            let client = exchange.connect_to(&socket_name(number));
            if self.script.clients[number].keeps_open {
                exchange.keep_open(client);
            }
            client
        });
        if state.left {
            return;
        }
        match step {
            Step::Send { pieces, .. } if !state.half_closed => {
                for piece in pieces {
                    state.sent += piece.len();
                    exchange.receive(client, piece);
                }
            }
            Step::Send { .. } => {}
            Step::Sync => self.shared.let_go(number),
            Step::Pause => {
                state.is_paused = true;
                exchange.set_window(client, Some(0));
            }
            Step::Resume => {
                state.is_paused = false;
                exchange.set_window(client, None);
            }
            Step::Decide { ticket, decision } => self.decide(number, *ticket, *decision),
            Step::Leave(Leave::HalfClose) => {
                state.half_closed = true;
                exchange.end(client);
            }
            Step::Leave(leave) => self.leave(number, client, *leave),
        }
        self.shared.carry_out();
        self.exchange.deliver();
        self.states[number].is_synced = matches!(step, Step::Sync);
    }

    fn decide(&mut self, number: usize, ticket: usize, decision: Decision) {
        let is_over = self.mark(number).is_over;
        let state = &mut self.states[number];
        let is_there = self.shared.has_ticket(number, ticket);
        state.is_inexact |= state.is_paused || is_over || !is_there;
        self.shared.decide(number, ticket, decision);
    }

    fn leave(&mut self, number: usize, client: Client, leave: Leave) {
        let is_over = self.mark(number).is_over;
        let state = &mut self.states[number];
        state.is_settled = self.script.settings.ending != Ending::Early
            && state.is_synced
            && !state.is_paused
            && !state.half_closed
            && !is_over
            && self.shared.open_tickets(number) == 0;
        state.left = true;
        let is_reset = leave == Leave::Reset && !self.script.clients[number].unix;
        if state.is_settled && !is_reset {
            self.exchange.end(client);
        } else {
            self.exchange.reset(client);
        }
    }

    fn mark(&mut self, number: usize) -> Mark {
        let state = &mut self.states[number];
        let Some(client) = state.client else {
            return Mark::default();
        };
        state.received.extend(self.exchange.take_sent(client));
        let counters = counters_of(&self.exchange.snapshot(), number);
        Mark {
            received: state.received.len(),
            bytes_in: counters.bytes_in,
            frames_in: counters.frames_in,
            is_over: !self.exchange.is_open(client) || self.exchange.is_shut(client),
            is_refused: is_refused(&counters),
        }
    }

    fn marks(&mut self) -> Vec<Mark> {
        let numbers = 0..self.states.len();
        numbers.map(|number| self.mark(number)).collect()
    }

    /// The same end as that of the engines.
    fn finish(mut self, marks: Vec<Mark>) -> Result<Run, String> {
        let ending = self.script.settings.ending;
        if self.script.settings.timing.is_some() {
            self.exchange.advance(Duration::from_secs(1000));
        }
        if ending == Ending::Early {
            for number in 0..self.states.len() {
                self.states[number].taken = self.mark(number).bytes_in;
            }
            self.exchange.stop_within(Duration::from_secs(30));
        }
        for state in &self.states {
            if let Some(client) = state.client {
                self.exchange.set_window(client, None);
            }
        }
        self.shared.carry_out();
        self.exchange.deliver();
        let at_rest = self.marks();
        for (number, state) in self.states.iter_mut().enumerate() {
            if ending != Ending::Abandoning || state.left {
                self.shared.drop_tickets(number);
            } else {
                // A server that stops gives its tickets up in any order.
                state.is_inexact |= self.shared.open_tickets(number) > 1;
            }
        }
        self.exchange.deliver();
        let at_end = self.marks();
        self.end_those_that_are_over(&at_end);
        self.exchange.stop_within(Duration::ZERO);
        if ending == Ending::Early {
            // A server that stops reads what is there already, which may open more of them.
            (0..self.states.len()).for_each(|number| self.shared.drop_tickets(number));
            self.exchange.deliver();
        }
        let stopped = self.marks();
        self.end_those_that_are_over(&stopped);
        let (open, held) = (self.exchange.counters().open, self.exchange.memory_held());
        if (open, held) != (0, 0) {
            return Err(format!("{open} connections and {held} bytes are left"));
        }
        let outcomes = (0..self.states.len())
            .map(|number| self.outcome(number, &at_end[number]))
            .collect();
        Ok(Run {
            outcomes,
            marks,
            at_rest,
            at_end,
            is_exact: self.states.iter().map(|state| !state.is_inexact).collect(),
            is_settled: self.states.iter().map(|state| state.is_settled).collect(),
        })
    }

    /// Clients that keep their side open do so until the server stops.
    fn end_those_that_are_over(&mut self, marks: &[Mark]) {
        for (state, mark) in self.states.iter().zip(marks) {
            if let Some(client) = state.client.filter(|_| mark.is_over) {
                self.exchange.end(client);
            }
        }
    }

    fn outcome(&mut self, number: usize, at_end: &Mark) -> Outcome {
        let state = &mut self.states[number];
        let Some(client) = state.client else {
            return Outcome::default();
        };
        let mut counters = counters_of(&self.exchange.snapshot(), number);
        // An exchange has no listeners.
        counters.accepted = 1;
        self.shared.let_go(number);
        let end = match self.exchange.is_shut(client) {
            true => End::Fin,
            false => End::Reset,
        };
        Outcome {
            sent: state.sent,
            received: std::mem::take(&mut state.received),
            end: (!state.left).then_some(end),
            stays: !state.left && !at_end.is_over,
            seen: self.shared.with(number, std::mem::take),
            taken: state.taken,
            counters,
        }
    }
}
