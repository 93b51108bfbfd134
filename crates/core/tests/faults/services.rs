//! Services for tests.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use ringhold_core::inherit::Inherited;
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Server, Service};

use crate::bed::{Bed, Engine};
use crate::common::client;
use crate::common::service::answering;
use crate::frames::digest;

/// Sends every frame back.
pub(crate) struct Echo;

impl Service for Echo {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

/// Answers each frame with its number, its length and a digest of its bytes, so that where frames were cut shows.
pub(crate) struct Digest;

impl Service for Digest {
    type Session = u32;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<u32, Refusal> {
        Ok(0)
    }

    fn frame(&mut self, number: &mut u32, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let digest = digest(*number, &frame);
        *number += 1;
        reply.write(|out| out.extend_from_slice(&digest));
        Flow::Continue
    }
}

/// Takes frames, counts them where others can look, and answers nothing.
#[derive(Clone, Default)]
pub(crate) struct Sink(pub(crate) Arc<AtomicU64>);

impl Service for Sink {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        self.0.fetch_add(1, Ordering::Relaxed);
        Flow::Continue
    }
}

/// Answers each frame with how many frames the sink has taken by then.
pub(crate) fn count(sink: Sink) -> impl Service {
    answering(move |_, reply| {
        let count = sink.0.load(Ordering::Relaxed);
        reply.write(|out| {
            out.push(0xcf);
            out.extend_from_slice(&count.to_be_bytes());
        });
        Flow::Continue
    })
}

/// Holds up workers inside a service call, so that everything that happens meanwhile happens at once for them.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    /// Workers that stand at the gate.
    waiting: usize,
    open: bool,
}

/// Starts a server as [`Bed::start`] does, which has a gate besides: the socket `gate`, which the configuration does not
/// mention.
pub(crate) fn gated(
    engine: Engine,
    config: &str,
    services: impl FnOnce(Server) -> Server,
) -> (Bed, Gate) {
    gated_inheriting(engine, config, Inherited::none(), services)
}

/// As [`gated`], with these sockets inherited.
pub(crate) fn gated_inheriting(
    engine: Engine,
    config: &str,
    inherited: Inherited,
    services: impl FnOnce(Server) -> Server,
) -> (Bed, Gate) {
    let gate = Gate::default();
    let theirs = gate.clone();
    let config = format!("{config}\n[sockets.gate]\nlisten = [\"127.0.0.1:0\"]");
    let bed = Bed::start_inheriting(engine, &config, inherited, |server| {
        services(server).service("gate", move |_| theirs.clone())
    });
    (bed, gate)
}

impl Gate {
    /// Calls `crowd` while all `workers` of the server are held up. They are with the socket `gate`, which this service
    /// must answer.
    pub(crate) fn hold<R>(&self, bed: &Bed, workers: usize, crowd: impl FnOnce() -> R) -> R {
        self.hold_and_stay(bed, workers, crowd).0
    }

    /// As [`Gate::hold`]; the connections that did it live on for as long as the second value.
    pub(crate) fn hold_and_stay<R>(
        &self,
        bed: &Bed,
        workers: usize,
        crowd: impl FnOnce() -> R,
    ) -> (R, Vec<TcpStream>) {
        // Those of the last time are gone, so that each worker is dealt one.
        bed.until_open_on("gate", 0);
        let mut keepers: Vec<TcpStream> = (0..workers).map(|_| bed.connect("gate")).collect();
        for keeper in &mut keepers {
            keeper.write_all(&[1]).unwrap();
        }
        self.wait_for(workers);
        let result = crowd();
        self.open();
        for keeper in &mut keepers {
            client::expect(keeper, &[1]);
        }
        self.change(|state| state.waiting == 0, |state| state.open = false);
        (result, keepers)
    }

    /// So many connections to `name`, which answers every byte, send something at once. Returns how often a receive
    /// found no buffer. With as many connections a worker as it has buffers, that tells whether all of these can be
    /// used: some kernels look for one more at the end, so it is to be compared with what a fresh server does.
    ///
    /// It is the least of some times behind the first one, which brings all buffers into circulation. They stay there for a second.
    pub(crate) fn lack(&self, bed: &Bed, name: &str, workers: usize, count: usize) -> u64 {
        bed.until_open_on(name, 0);
        let mut clients: Vec<TcpStream> = (0..workers * count).map(|_| bed.connect(name)).collect();
        let lacks = [(); 4].map(|()| self.lack_of(bed, workers, &mut clients));
        lacks[1..].iter().copied().min().unwrap()
    }

    fn lack_of(&self, bed: &Bed, workers: usize, clients: &mut [TcpStream]) -> u64 {
        for client in &mut *clients {
            // Nobody is in the middle of anything after this.
            client.write_all(&[1]).unwrap();
            client::expect_some(client);
        }
        let before = bed.counters().starved;
        // It takes a buffer to notice an end, too, so that of these comes last.
        let _keepers = self.hold_and_stay(bed, workers, || {
            for client in &mut *clients {
                client.write_all(&[1]).unwrap();
            }
        });
        clients.iter_mut().for_each(client::expect_some);
        bed.counters().starved - before
    }

    /// Whether all `buffers` receive buffers of each worker can be used, given the [`Gate::lack`] of the fresh server. The portable engine
    /// has a single one, which it lends nobody.
    pub(crate) fn assert_all_buffers_are_back(
        &self,
        bed: &Bed,
        name: &str,
        workers: usize,
        buffers: usize,
        fresh: u64,
    ) {
        if bed.engine == Engine::Portable {
            return;
        }
        let lack = self.lack(bed, name, workers, buffers);
        assert_eq!(lack, fresh, "buffers are missing");
        // To be sure that it would have been noticed.
        let lack = self.lack(bed, name, workers, buffers + 1);
        assert!(lack > fresh, "{lack}");
    }

    /// Waits until so many workers stand here.
    pub(crate) fn wait_for(&self, workers: usize) {
        self.change(|state| state.waiting == workers, |_| ());
    }

    /// Lets everybody through from now on.
    pub(crate) fn open(&self) {
        self.change(|_| true, |state| state.open = true);
    }

    /// Stands here until it is open.
    pub(crate) fn pass(&self) {
        self.change(|_| true, |state| state.waiting += 1);
        self.change(|state| state.open, |state| state.waiting -= 1);
    }

    /// Waits until the state is as `when` says, then changes it.
    fn change(&self, when: impl Fn(&GateState) -> bool, change: impl FnOnce(&mut GateState)) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        while !when(&state) {
            state = changed.wait(state).unwrap();
        }
        change(&mut state);
        changed.notify_all();
    }
}

/// The worker waits at the gate with every frame.
impl Service for Gate {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.pass();
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

/// Answers each frame with the name of its socket.
pub(crate) fn name() -> impl Service {
    answering(|_, reply| {
        let name = reply.peer().socket_name().to_owned();
        reply.write(|out| out.extend_from_slice(name.as_bytes()));
        Flow::Continue
    })
}
