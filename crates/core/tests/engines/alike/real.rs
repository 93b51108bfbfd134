//! A script with sockets: a server with one engine, and clients that one thread drives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringhold_core::metrics::NameTotals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::actor::{Actor, Shared};
use super::client::Client;
use super::outcome::{Outcome, counters_of, is_refused};
use super::pure::{Mark, Run};
use super::script::{Ending, Script, Step, socket_name};
use crate::bed::{Bed, Engine};

/// How often counters are looked at that are waited for.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 300_000,
};

struct World<'a> {
    script: &'a Script,
    pure: &'a Run,
    bed: Bed,
    shared: Arc<Shared>,
    clients: Vec<Option<Client>>,
    /// What the pure run says of each client as of now.
    marks: Vec<Mark>,
    /// How long anything is waited for.
    patience: Duration,
}

/// Lets the script happen with this engine. Returns what happened, by client.
///
/// # Errors
///
/// What was waited for in vain.
pub(crate) fn run(
    script: &Script,
    steps: &[(usize, Step)],
    pure: &Run,
    engine: Engine,
    patience: Duration,
) -> Result<Vec<Outcome>, String> {
    let shared = Shared::new(script);
    let config = script.settings.config(script.clients.len());
    let theirs = shared.clone();
    let bed = Bed::start(engine, &config, |server| {
        if script.settings.arrays_only {
            server.service("actor", move |_| Actor::<true>(theirs.clone()))
        } else {
            server.service("actor", move |_| Actor::<false>(theirs.clone()))
        }
    });
    let mut world = World {
        script,
        pure,
        bed,
        shared,
        clients: script.clients.iter().map(|_| None).collect(),
        marks: vec![Mark::default(); script.clients.len()],
        patience,
    };
    for (index, (client, step)) in steps.iter().enumerate() {
        world.act(*client, step, &pure.marks[index])?;
        world.marks[*client] = pure.marks[index];
    }
    world.finish()
}

impl World<'_> {
    fn connect(&self, number: usize) -> std::io::Result<Client> {
        let plan = &self.script.clients[number];
        let name = socket_name(number);
        let mut client = if plan.unix {
            Client::unix(&self.bed.path(&name))?
        } else {
            Client::tcp(self.bed.address(&name), plan.narrow)?
        };
        client.keeps_open = plan.keeps_open;
        Ok(client)
    }

    /// The client with this number, which has connected.
    fn client(&mut self, number: usize) -> &mut Client {
        self.clients[number].as_mut().unwrap()
    }

    fn act(&mut self, number: usize, step: &Step, mark: &Mark) -> Result<(), String> {
        if self.clients[number].is_none() {
            let client = self.connect(number).map_err(|error| error.to_string())?;
            self.clients[number] = Some(client);
        }
        match step {
            Step::Send { pieces, paced } => {
                for piece in pieces {
                    self.client(number).send(piece);
                    self.go_on();
                    if *paced {
                        self.pace(number)?;
                    }
                }
            }
            Step::Sync => {
                self.sync(number, *mark)?;
                self.shared.let_go(number);
            }
            Step::Pause => self.client(number).is_paused = true,
            Step::Resume => self.client(number).is_paused = false,
            Step::Decide { ticket, decision } => {
                self.sync(number, self.marks[number])?;
                self.shared.decide(number, *ticket, *decision);
                self.shared.carry_out();
                self.sync(number, *mark)?;
            }
            Step::Leave(leave) => self.client(number).leave(*leave),
        }
        self.go_on();
        Ok(())
    }

    /// Whatever can be done without waiting.
    fn go_on(&mut self) {
        self.shared.carry_out();
        self.clients.iter_mut().flatten().for_each(Client::go_on);
    }

    /// Waits until the server has received what this client has sent, if it will.
    fn pace(&mut self, number: usize) -> Result<(), String> {
        self.until(&format!("the server has all of {number}"), |world| {
            let counters = world.counters(number);
            let client = world.client(number);
            let is_received = !client.has_pending() && counters.bytes_in == client.sent as u64;
            let is_taken = is_received || is_refused(&counters);
            client.is_paused || client.has_left() || client.end.is_some() || is_taken
        })
    }

    /// Waits until this client is as far as `mark` says, if it reads.
    fn sync(&mut self, number: usize, mark: Mark) -> Result<(), String> {
        self.until(&format!("client {number} is at {mark:?}"), |world| {
            let counters = world.counters(number);
            let client = world.client(number);
            let is_there = counters.opened == 1
                && client.received.len() >= mark.received
                && (mark.is_refused || !client.has_pending() && counters.bytes_in == mark.bytes_in)
                && counters.frames_in == mark.frames_in
                && !mark.is_over;
            client.is_paused || client.has_left() || client.end.is_some() || is_there
        })
    }

    fn counters(&self, number: usize) -> NameTotals {
        counters_of(&self.bed.snapshot(), number)
    }

    /// Waits until `condition` holds.
    fn until(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        let start = Instant::now();
        loop {
            self.go_on();
            if condition(self) {
                return Ok(());
            }
            if start.elapsed() > self.patience {
                return Err(format!("in vain until {what}{}", self.state()));
            }
            self.wait();
        }
    }

    /// How far everybody is.
    fn state(&self) -> String {
        let clients = self.clients.iter().enumerate();
        let line = |(number, client): (usize, &Option<Client>)| {
            let client = client.as_ref()?;
            let (sent, received, end) = (client.sent, client.received.len(), client.end);
            let counters = self.counters(number);
            Some(format!(
                "\nclient {number}: {sent} bytes sent, {received} received, end {end:?}, {counters:?}"
            ))
        };
        clients.filter_map(line).collect()
    }

    /// Waits until a client can go on, or it is time to look at the counters again.
    fn wait(&self) {
        let interests = self.clients.iter().flatten().filter_map(Client::interest);
        let mut polls: Vec<PollFd<'_>> = interests
            .map(|(socket, reads, writes)| {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, reads);
                flags.set(PollFlags::OUT, writes);
                PollFd::from_borrowed_fd(socket, flags)
            })
            .collect();
        // Interrupted or not, everything is looked at again.
        let _ = poll(&mut polls, Some(&LOOK));
    }

    /// The clients that have connected, by whether they have left since.
    fn those(&self, left: bool) -> Vec<usize> {
        let clients = self.clients.iter().enumerate();
        clients
            .filter(|(_, client)| {
                client
                    .as_ref()
                    .is_some_and(|client| client.has_left() == left)
            })
            .map(|(number, _)| number)
            .collect()
    }

    /// Lets everybody get what is due, unless the server is to stop before, and stops it.
    fn finish(mut self) -> Result<Vec<Outcome>, String> {
        let staying = self.those(false);
        if self.script.settings.ending == Ending::Early {
            for number in 0..self.clients.len() {
                if self.clients[number].is_some() {
                    self.until("all are accepted", |world| {
                        world.counters(number).opened == 1
                    })?;
                }
            }
        } else {
            self.rest(&staying)?;
        }
        let snapshot = self.bed.snapshot();
        let mut outcomes: Vec<Outcome> = self.clients.iter().map(|_| Outcome::default()).collect();
        for number in staying {
            let counters = counters_of(&snapshot, number);
            let client = self.client(number);
            (client.is_paused, client.keeps_open) = (false, false);
            outcomes[number].stays = client.end.is_none() && counters.open == 1;
            outcomes[number].taken = counters.bytes_in;
        }
        self.stop(outcomes)
    }

    /// Lets everybody get what is due.
    fn rest(&mut self, staying: &[usize]) -> Result<(), String> {
        for number in staying {
            if self.pure.outcomes[*number].counters.timed_out == 1 {
                self.until("a time limit takes effect", |world| {
                    world.counters(*number).timed_out == 1
                })?;
            }
        }
        for number in staying {
            self.client(*number).is_paused = false;
        }
        for number in staying {
            self.sync(*number, self.pure.at_rest[*number])?;
        }
        if self.script.settings.ending == Ending::Dropping {
            for number in staying {
                self.shared.drop_tickets(*number);
            }
        }
        for number in staying {
            self.sync(*number, self.pure.at_end[*number])?;
        }
        for number in self.those(true) {
            self.until("the server knows who left", |world| {
                world.shared.drop_tickets(number);
                let counters = world.counters(number);
                counters.opened == 1 && counters.open == 0
            })?;
        }
        Ok(())
    }

    fn stop(mut self, mut outcomes: Vec<Outcome>) -> Result<Vec<Outcome>, String> {
        self.bed.stop();
        self.until("all have seen the end", |world| {
            if world.script.settings.ending == Ending::Early {
                let clients = 0..world.clients.len();
                clients.for_each(|number| world.shared.drop_tickets(number));
            }
            let mut clients = world.clients.iter().flatten();
            clients.all(|client| client.end.is_some() || client.has_left())
                && world.bed.total().open == 0
        })?;
        let snapshot = self.bed.end();
        for (number, outcome) in outcomes.iter_mut().enumerate() {
            if let Some(client) = self.clients[number].take() {
                outcome.sent = client.sent;
                outcome.received = client.received;
                outcome.end = client.end;
            }
            self.shared.let_go(number);
            outcome.seen = self.shared.with(number, std::mem::take);
            outcome.counters = counters_of(&snapshot, number);
        }
        Ok(outcomes)
    }
}
