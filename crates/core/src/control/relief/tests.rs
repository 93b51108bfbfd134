//! Workers are stuck for as long as a test wants it, and new clients find others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::turns::LOOK_INTERVAL;
use super::*;
use crate::config::Config;
use crate::frame::Frame;
use crate::inherit::Inherited;
use crate::listeners::Address;
use crate::metrics::NameTotals;
use crate::peer::Peer;
use crate::reply::Reply;
use crate::server::Server;
use crate::service::{Flow, Refusal, Saved, Service};

/// Nothing takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who asks for this is not answered before the test says so; who asks for anything else, at once.
const BLOCK: u8 = 0x7f;

/// Where calls are held up: what each of them waits for.
type Gate = Arc<Mutex<Sender<Sender<()>>>>;

/// Answers with the number of the worker.
struct Gated {
    worker: u8,
    gate: Gate,
    /// The end of worker 1 is held up as well.
    holds_end: Arc<AtomicBool>,
}

impl Gated {
    fn hold_up(&self) {
        let (open, opened) = channel();
        self.gate.lock().unwrap().send(open).unwrap();
        // It is open, too, when the test has ended.
        let _ = opened.recv();
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        if self.worker == 1 && self.holds_end.load(Ordering::SeqCst) {
            self.hold_up();
        }
    }
}

impl Service for Gated {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        if frame[0] == BLOCK {
            self.hold_up();
        }
        reply.write(|out| out.push(self.worker));
        Flow::Continue
    }

    fn save(&self, (): &()) -> Saved {
        Saved::Stateless
    }
}

/// A server, and what its main thread does for new clients.
struct Stage {
    running: Running,
    relief: Relief,
    held_up: Receiver<Sender<()>>,
    holds_end: Arc<AtomicBool>,
    now: Instant,
}

impl Stage {
    fn start(engine: &str, config: &str) -> Self {
        Self::start_inheriting(engine, config, Inherited::none())
    }

    fn start_inheriting(engine: &str, config: &str, inherited: Inherited) -> Self {
        let text = format!("engine = \"{engine}\"\n{config}");
        let (enter, held_up) = channel();
        let gate = Arc::new(Mutex::new(enter));
        let holds_end = Arc::<AtomicBool>::default();
        let theirs = holds_end.clone();
        let running = Server::new(Config::parse(&text, "test").unwrap())
            .inherited(inherited)
            .service("gated", move |worker| Gated {
                worker: worker.index() as u8,
                gate: gate.clone(),
                holds_end: theirs.clone(),
            })
            .start()
            .unwrap();
        let now = Instant::now();
        Stage {
            relief: Relief::begin(&running, now).unwrap(),
            running,
            held_up,
            holds_end,
            now,
        }
    }

    fn address(&self, name: &str) -> SocketAddr {
        let listener = self.running.listeners().find(|it| &*it.name == name);
        match listener.unwrap().address {
            Address::Tcp(address) => address,
            _ => panic!("{name} is one of TCP"),
        }
    }

    fn connect(&self) -> TcpStream {
        connect(self.address("gated"))
    }

    /// So many new clients, of which each was answered, and by which workers.
    fn serve(&self, count: usize) -> (Vec<TcpStream>, Vec<u8>) {
        let mut clients: Vec<_> = (0..count).map(|_| self.connect()).collect();
        let workers = clients.iter_mut().map(ask).collect();
        (clients, workers)
    }

    /// One client of each of these workers, which are all that there are.
    fn serve_by_each<const N: usize>(&self) -> [TcpStream; N] {
        let (mut clients, mut workers) = self.serve(N);
        // The kernel gives them to the workers where each of those has a listener, and may take none for one.
        while let Some(missing) = (0..N as u8).find(|worker| !workers.contains(worker)) {
            assert!(clients.len() < 100, "worker {missing} is given nobody");
            let (more, by) = self.serve(1);
            clients.extend(more);
            workers.extend(by);
        }
        let mut clients: Vec<_> = workers.into_iter().zip(clients).collect();
        clients.sort_by_key(|(worker, _)| *worker);
        clients.dedup_by_key(|(worker, _)| *worker);
        let clients: Vec<TcpStream> = clients.into_iter().map(|(_, client)| client).collect();
        clients.try_into().unwrap()
    }

    /// Keeps the worker of this client in a call until the result is dropped.
    fn block(&self, client: &mut TcpStream) -> Sender<()> {
        client.write_all(&[BLOCK]).unwrap();
        self.held_up.recv_timeout(PATIENCE).unwrap()
    }

    /// Looks until these workers are found to be stuck, and no others. Those that are not have had no time for a turn in the first
    /// looks, one of which follows the other at once.
    fn find_stuck(&mut self, expected: &[bool]) {
        let start = Instant::now();
        loop {
            self.now += LOOK_INTERVAL;
            self.relief.update(&self.running, self.now);
            if self.relief.stuck == expected {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "never: {expected:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// By worker, a count of all names.
    fn counts(&self, count: impl Fn(&NameTotals) -> u64) -> Vec<u64> {
        let snapshot = self.running.metrics().snapshot();
        let workers = snapshot.workers.iter();
        let of = |names: &[(String, NameTotals)]| names.iter().map(|(_, it)| count(it)).sum();
        workers.map(|worker| of(&worker.names)).collect()
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        self.running.stop();
        self.running.join().unwrap();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The worker that answers.
fn ask(client: &mut TcpStream) -> u8 {
    client.write_all(&[1]).unwrap();
    answer(client)
}

fn answer(client: &mut TcpStream) -> u8 {
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    answer[0]
}

fn has_ended(client: &mut TcpStream) -> bool {
    !matches!(client.read(&mut [0]), Ok(1..))
}

const ENGINES: [&str; 2] = ["ring", "portable"];

const TWO: &str = "workers = 2\n[sockets.gated]\nlisten = [\"127.0.0.1:0\"]\n";

#[test]
fn another_worker_accepts_on_the_listener_of_one_that_is_stuck() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, TWO);
        let mut first = stage.serve_by_each::<2>();
        let blocked = stage.block(&mut first[0]);
        stage.find_stuck(&[true, false]);
        let (_more, workers) = stage.serve(5);
        assert_eq!(workers, [1; 5], "{engine}");
        assert_eq!(stage.counts(|it| it.open), [1, 6], "{engine}");
        assert_eq!(stage.counts(|it| it.accepted), [2, 5], "{engine}");
        drop(blocked);
        assert_eq!(answer(&mut first[0]), 0, "{engine}");
        stage.find_stuck(&[false; 2]);
        // Now it holds fewest, and accepts itself.
        let (_still_more, workers) = stage.serve(5);
        assert_eq!(workers, [0; 5], "{engine}");
        assert_eq!(stage.counts(|it| it.open), [6, 6], "{engine}");
        assert_eq!(stage.counts(|it| it.accepted), [7, 5], "{engine}");
        stage.end();
    }
}

#[test]
fn nobody_is_dealt_to_a_worker_that_is_stuck() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, TWO);
        let mut first = stage.serve_by_each::<2>();
        let blocked = stage.block(&mut first[1]);
        stage.find_stuck(&[false, true]);
        let (_more, workers) = stage.serve(5);
        assert_eq!(workers, [0; 5], "{engine}");
        drop(blocked);
        stage.find_stuck(&[false; 2]);
        let (_still_more, workers) = stage.serve(5);
        assert_eq!(workers, [1; 5], "{engine}");
        assert_eq!(stage.counts(|it| it.accepted), [12, 0], "{engine}");
        stage.end();
    }
}

#[test]
fn a_deputy_that_is_stuck_has_a_deputy() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, &TWO.replace("= 2", "= 3"));
        let mut first = stage.serve_by_each::<3>();
        let owner = stage.block(&mut first[0]);
        let deputy = stage.block(&mut first[1]);
        stage.find_stuck(&[true, true, false]);
        assert_eq!(stage.serve(4).1, [2; 4], "{engine}");
        // Nothing can be done if all are. Who connects then is served by whoever is first to go on.
        let last = stage.block(&mut first[2]);
        stage.find_stuck(&[true; 3]);
        let mut waiting = stage.connect();
        drop(deputy);
        stage.find_stuck(&[true, false, true]);
        assert_eq!(ask(&mut waiting), 1, "{engine}");
        drop((owner, last));
        stage.end();
    }
}

/// It is not known to its service, and has its descriptor.
#[test]
fn who_is_on_the_way_to_a_worker_that_is_stuck_is_a_connection() {
    for engine in ENGINES {
        let stage = Stage::start(engine, TWO);
        let mut first = stage.serve_by_each::<2>();
        let blocked = stage.block(&mut first[1]);
        let _more = [(); 4].map(|()| stage.connect());
        stage.until("all are accepted", |it| {
            it.counts(|it| it.accepted) == [6, 0] && it.counts(|it| it.open) == [3, 1]
        });
        assert_eq!(stage.running.connections(), 6, "{engine}");
        drop(blocked);
        stage.end();
    }
}

/// Connections stay with the worker that accepts them.
#[test]
fn a_listener_for_each_worker_has_a_deputy() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, &format!("{TWO}reuse_port = true\n"));
        let mut first = stage.serve_by_each::<2>();
        let blocked = stage.block(&mut first[0]);
        stage.find_stuck(&[true, false]);
        let before = stage.counts(|it| it.accepted)[0];
        // The kernel gives them to either listener.
        assert_eq!(stage.serve(40).1, [1; 40], "{engine}");
        assert_eq!(stage.counts(|it| it.accepted)[0], before, "{engine}");
        drop(blocked);
        stage.find_stuck(&[false; 2]);
        stage.serve_by_each::<2>();
        stage.end();
    }
}

#[test]
fn clients_of_a_disabled_name_see_the_end_although_its_worker_is_stuck() {
    for engine in ENGINES {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = format!("{TWO}[sockets.off]\nservice = \"gated\"\nenable = false\n");
        let inherited = Inherited::from_descriptors(vec![("off".to_owned(), listener.into())]);
        let mut stage = Stage::start_inheriting(engine, &config, inherited);
        let mut first = stage.serve_by_each::<2>();
        let blocked = stage.block(&mut first[0]);
        stage.find_stuck(&[true, false]);
        for _ in 0..3 {
            assert!(has_ended(&mut connect(address)), "{engine}");
        }
        assert_eq!(stage.counts(|it| it.turned_away), [0, 3], "{engine}");
        drop(blocked);
        stage.end();
    }
}

/// Whoever is connected last waits until there is room at the other worker, or at this one when it goes on.
#[test]
fn limits_are_kept_without_a_worker_that_is_stuck() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, &format!("{TWO}connections = 2\n"));
        let [mut first, other] = stage.serve_by_each::<2>();
        let blocked = stage.block(&mut first);
        stage.find_stuck(&[true, false]);
        let (mut more, workers) = stage.serve(1);
        assert_eq!(workers, [1], "{engine}");
        // There is room at the one that is stuck only. The third finds none, and no third is accepted.
        let mut waiting = [(); 3].map(|()| stage.connect());
        stage.until("it pauses", |it| it.counts(|it| it.accept_pauses)[1] == 1);
        assert_eq!(stage.counts(|it| it.accepted), [2, 2], "{engine}");
        drop((other, more.pop()));
        for waiting in &mut waiting[1..] {
            assert_eq!(ask(waiting), 1, "{engine}");
        }
        drop(blocked);
        assert_eq!(ask(&mut waiting[0]), 0, "{engine}");
        assert_eq!(stage.counts(|it| it.accepted), [2, 4], "{engine}");
        stage.end();
    }
}

#[test]
fn a_stop_ends_deputies_and_waits_for_who_is_stuck() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, TWO);
        let mut first = stage.serve_by_each::<2>();
        let blocked = stage.block(&mut first[0]);
        stage.find_stuck(&[true, false]);
        let (mut more, workers) = stage.serve(2);
        assert_eq!(workers, [1; 2], "{engine}");
        let address = stage.address("gated");
        let metrics = stage.running.metrics().clone();
        stage.running.stop();
        assert!(TcpStream::connect(address).is_err(), "{engine}");
        for client in &mut more {
            assert!(has_ended(client), "{engine}");
        }
        assert!(!stage.running.have_ended()[0], "{engine}");
        drop(blocked);
        // What had arrived is answered.
        assert_eq!(answer(&mut first[0]), 0, "{engine}");
        assert!(has_ended(&mut first[0]), "{engine}");
        stage.running.join().unwrap();
        let total = metrics.snapshot().total();
        assert_eq!((total.accepted, total.opened, total.open), (4, 4, 0));
    }
}

/// It could accept in place of the other, and was never called to.
#[test]
fn a_stop_ends_a_worker_although_another_one_is_stuck_that_accepts_nothing() {
    for engine in ENGINES {
        let stage = Stage::start(engine, TWO);
        let mut first = stage.serve_by_each::<2>();
        let blocked = stage.block(&mut first[1]);
        stage.running.stop();
        stage.until("the other ends", |it| it.running.have_ended()[0]);
        assert!(!stage.running.have_ended()[1], "{engine}");
        drop(blocked);
        stage.running.join().unwrap();
    }
}

/// It owns no listener, and might still have connections from another's.
#[test]
fn who_was_a_deputy_once_and_is_stuck_is_waited_for_by_no_other_worker_in_the_end() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, TWO);
        let mut first = stage.serve_by_each::<2>();
        let owner = stage.block(&mut first[0]);
        stage.find_stuck(&[true, false]);
        drop(owner);
        stage.find_stuck(&[false, false]);
        let blocked = stage.block(&mut first[1]);
        stage.running.stop();
        stage.running.end_without(1, "it has taken no turn");
        stage.until("the other ends", |it| it.running.have_ended()[0]);
        assert!(!stage.running.have_ended()[1], "{engine}");
        drop(blocked);
        assert_eq!(answer(&mut first[1]), 1, "{engine}");
        stage.running.join().unwrap();
    }
}

/// Or it would be counted as one that may accept, and hold up the others in a stop.
#[test]
fn who_is_found_stuck_as_well_is_not_called_to_be_a_deputy() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, &TWO.replace("= 2", "= 3"));
        let mut first = stage.serve_by_each::<3>();
        let owner = stage.block(&mut first[0]);
        let blocked = stage.block(&mut first[1]);
        stage.find_stuck(&[true, true, false]);
        drop(owner);
        stage.find_stuck(&[false, true, false]);
        stage.running.stop();
        stage.until("the others end", |it| {
            it.running.have_ended() == [true, false, true]
        });
        drop(blocked);
        stage.running.join().unwrap();
    }
}

/// Who connects while the handover waits for the one that is stuck is served, and handed over with the others. `is_left_behind`: it
/// stays stuck.
fn hand_over(engine: &str, is_left_behind: bool) {
    let mut stage = Stage::start(engine, TWO);
    let mut first = stage.serve_by_each::<2>();
    let blocked = stage.block(&mut first[0]);
    stage.find_stuck(&[true, false]);
    stage.running.stop_to_hand_over();
    let (_more, workers) = stage.serve(3);
    assert_eq!(workers, [1; 3], "{engine}");
    match is_left_behind {
        true => stage.running.leave_behind(0, "the test says so"),
        false => blocked.send(()).unwrap(),
    }
    let metrics = stage.running.metrics().clone();
    let released = stage.running.release();
    let lost = usize::from(is_left_behind);
    assert_eq!(released.parcels.len(), 5 - lost, "{engine}");
    assert_eq!(released.failed.is_some(), is_left_behind, "{engine}");
    assert_eq!(metrics.snapshot().total().accepted, 5, "{engine}");
    drop(blocked);
}

#[test]
fn a_handover_takes_along_whom_a_deputy_has_accepted() {
    for engine in ENGINES {
        hand_over(engine, false);
    }
}

#[test]
fn a_handover_that_leaves_a_worker_behind_takes_along_whom_its_deputy_has_accepted() {
    for engine in ENGINES {
        hand_over(engine, true);
    }
}

/// The others have nothing left to do, and look for no more connections, while it goes on. Who connects is the successor's.
#[test]
fn who_was_left_behind_accepts_nobody() {
    for engine in ENGINES {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let successors = listener.try_clone().unwrap();
        let inherited = Inherited::from_descriptors(vec![("gated".to_owned(), listener.into())]);
        let stage = Stage::start_inheriting(engine, TWO, inherited);
        let mut first: [_; 2] = [(); 2].map(|()| connect(address));
        let mut workers: Vec<u8> = first.iter_mut().map(ask).collect();
        if workers[0] == 1 {
            first.reverse();
            workers.reverse();
        }
        assert_eq!(workers, [0, 1]);
        let blocked = stage.block(&mut first[0]);
        stage.holds_end.store(true, Ordering::SeqCst);
        stage.running.stop_to_hand_over();
        stage.running.leave_behind(0, "the test says so");
        let ending = stage.held_up.recv_timeout(PATIENCE).unwrap();
        let mut late = connect(address);
        late.write_all(&[1]).unwrap();
        drop(blocked);
        let metrics = stage.running.metrics().clone();
        stage.until("it has nothing left to do", |it| it.running.has_finished(0));
        drop(ending);
        let released = stage.running.release();
        assert_eq!(metrics.snapshot().total().accepted, 2, "{engine}");
        successors.set_nonblocking(true).unwrap();
        assert!(successors.accept().is_ok(), "{engine}");
        drop((released, late));
    }
}

#[test]
fn idle_workers_are_not_woken() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, TWO);
        let are_asleep =
            |it: &Stage| [0, 1].map(|worker| it.running.is_asleep(worker)) == [true; 2];
        stage.until("both sleep", are_asleep);
        let before: Vec<u64> = stage.running.turns().collect();
        for _ in 0..20 {
            stage.find_stuck(&[false; 2]);
            // One that was woken takes a turn before it sleeps again.
            stage.until("both sleep", are_asleep);
        }
        let after: Vec<u64> = stage.running.turns().collect();
        assert_eq!(after, before, "{engine}");
        stage.end();
    }
}

/// Each call is one that a worker comes to when it has slept, and is found whatever brought it there.
#[test]
fn who_is_stuck_does_not_look_asleep() {
    for engine in ENGINES {
        let mut stage = Stage::start(engine, TWO);
        let mut first = stage.serve_by_each::<2>();
        for worker in [0, 1] {
            stage.until("it sleeps", |it| it.running.is_asleep(worker));
            let blocked = stage.block(&mut first[worker]);
            assert!(!stage.running.is_asleep(worker), "{engine}");
            stage.find_stuck(&[worker == 0, worker == 1]);
            drop(blocked);
            assert_eq!(answer(&mut first[worker]), worker as u8, "{engine}");
            stage.find_stuck(&[false; 2]);
        }
        stage.end();
    }
}

#[test]
fn where_every_name_has_one_worker_nobody_is_looked_for() {
    let config = "workers = 2\n[sockets.gated]\nworkers = \"1\"\nlisten = [\"127.0.0.1:0\"]\n";
    let running = Server::new(Config::parse(config, "test").unwrap())
        .inherited(Inherited::none())
        .service("gated", |_| Gated {
            worker: 0,
            gate: Arc::new(Mutex::new(channel().0)),
            holds_end: Arc::default(),
        })
        .start()
        .unwrap();
    assert!(Relief::begin(&running, Instant::now()).is_none());
    running.stop();
    running.join().unwrap();
}
