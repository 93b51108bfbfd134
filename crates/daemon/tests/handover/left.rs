//! What services leave to the next process besides sessions: one value of each worker.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use ringhold_client::Address;

use crate::common::wire::Wire;
use crate::common::{SMALL_MEMORY, until};
use crate::crash::PARTS;
use crate::manager::Manager;

const ENGINES: [&str; 2] = ["auto", "portable"];

/// A daemon with this many workers that counts frames on each, and leaves the counts.
struct Bed {
    manager: Manager,
    address: Address,
}

fn config(workers: usize) -> String {
    format!("workers = {workers}\n{SMALL_MEMORY}[sockets.keeper]\n")
}

impl Bed {
    fn new(engine: &'static str, store_max: usize, workers: usize) -> Self {
        let mut manager = Manager::on(engine, store_max, &config(workers)).with_test_daemon();
        let address = manager.listen_unix("keeper");
        manager.set_flag("leave", true);
        manager.set_flag("take-over", true);
        manager.start();
        Bed { manager, address }
    }

    fn connect(&self) -> Wire {
        Wire::connect(&self.address)
    }

    /// What was taken over, in the eyes of a new connection.
    fn taken_over(&self) -> String {
        ask(&mut self.connect()).2
    }
}

/// Which worker has answered, how many frames it had, and what it has taken over.
fn ask(wire: &mut Wire) -> (usize, u64, String) {
    wire.send(b"\x01");
    let said = wire.value();
    let mut parts = said.as_str().unwrap().splitn(3, ' ');
    let mut part = || parts.next().unwrap();
    let (worker, frames) = (part().parse().unwrap(), part().parse().unwrap());
    (worker, frames, part().to_owned())
}

/// Each process leaves what it has counted itself. The number of workers, the engine and the carrier change.
#[test]
fn what_all_workers_leave_is_there_on_each_of_the_next() {
    for store_max in [0, 16] {
        let mut bed = Bed::new("auto", store_max, 2);
        let mut wires: Vec<Wire> = (0..6).map(|_| bed.connect()).collect();
        let mut expected = String::new();
        for (step, workers) in [2, 1, 3, 3, 2].into_iter().cycle().take(10).enumerate() {
            let mut frames = vec![0; bed_workers(step)];
            for (index, wire) in wires.iter_mut().enumerate() {
                for _ in 0..=index {
                    let (worker, count, taken_over) = ask(wire);
                    assert_eq!(taken_over, expected, "step {step}");
                    frames[worker] = count;
                }
            }
            assert_eq!(frames.iter().sum::<u64>(), 21);
            bed.manager.use_engine(ENGINES[step / 2 % 2]);
            bed.manager.configure(&config(workers));
            // Without a store a restart would close them.
            match store_max > 0 && step % 2 == 1 {
                true => bed.manager.restart(),
                false => bed.manager.reload(),
            }
            let found = match frames.len() {
                1 => "1 value of a service".to_owned(),
                count => format!("{count} values of services"),
            };
            let said = format!("took over 6 connections and found {found}");
            bed.manager.logged(1, &[&said]);
            let left = frames.iter().enumerate();
            let left: Vec<String> = left
                .map(|(worker, count)| format!("{worker}:{count}"))
                .collect();
            expected = left.join(" ");
        }
        let log = bed.manager.log();
        // What any call may be on a busy machine.
        let is_slow = |line: &str| line.contains("unless the machine is overloaded");
        let complains = |line: &str| ["ERROR", "WARN"].iter().any(|level| line.contains(level));
        let mut lines = log.lines();
        assert!(
            !lines.any(|line| complains(line) && !is_slow(line)),
            "{log}"
        );
        bed.manager.stop_for_good();
    }

    /// How many workers there are before this step.
    fn bed_workers(step: usize) -> usize {
        [2, 2, 1, 3, 3][step % 5]
    }
}

/// What a service leaves may be shared by all workers: none is asked for it while another one still answers.
#[test]
fn nobody_is_asked_before_the_last_answer_of_all() {
    for engine in ENGINES {
        let mut bed = Bed::new(engine, 16, 2);
        bed.manager
            .configure(&format!("handover.drain = \"3s\"\n{}", config(2)));
        bed.manager.reload();
        let mut wires: Vec<Wire> = (0..4).map(|_| bed.connect()).collect();
        let worker_of = |wire: &mut Wire| ask(wire).0;
        wires.retain_mut(|wire| worker_of(wire) == 1);
        let [held, late] = wires.as_mut_slice() else {
            panic!("they are dealt in turn");
        };
        let before = ask(late).1;
        held.send(b"\x90");
        let mut asked = 0;
        until("the frame that is held", || {
            asked += 1;
            (ask(late).1 == before + asked + 1).then_some(())
        });
        bed.manager.signal(Signal::SIGHUP);
        bed.manager
            .logged(1, &["waiting for deferred replies (1 open)"]);
        // Each has its time from when it was promised: so much later than the one that is held, this one is given up.
        thread::sleep(Duration::from_millis(1500));
        late.send(b"\x90");
        // It is given up, and the other one has time yet.
        assert!(held.is_over());
        let mark = bed.manager.mark();
        bed.manager.set_flag("answer", true);
        assert_eq!(late.exactly(1), [0xc3]);
        bed.manager.wait_for(mark, "READY=1");
        assert_eq!(ask(late).2, format!("0:3 1:{}", 6 + asked));
        bed.manager.stop_for_good();
    }
}

#[test]
fn it_needs_no_connections() {
    for engine in ENGINES {
        let mut bed = Bed::new(engine, 16, 2);
        assert_eq!(bed.taken_over(), "");
        bed.manager.restart();
        bed.manager.restart();
        let left = "2 values of services (6 bytes) and 0 connections";
        bed.manager.logged(
            1,
            &[&format!(
                "left {left} with the service manager, which closes them unless a start follows"
            )],
        );
        bed.manager.logged(
            1,
            &["took over 0 connections and found 2 values of services (6 bytes)"],
        );
        assert_eq!(bed.taken_over(), "0:0 1:0");
        bed.manager.wait_until_nothing_is_stored();
        // A crash leaves nothing, nor does a service without anything to leave.
        bed.manager.kill();
        bed.manager.start();
        assert_eq!(bed.taken_over(), "");
        bed.manager.set_flag("leave", false);
        bed.manager.reload();
        assert_eq!(bed.taken_over(), "");
        bed.manager.stop_for_good();
    }
}

/// What is lost is said at start, and once more when it happens.
#[test]
fn it_is_said_to_be_lost_without_a_store() {
    for store_max in [0, 2] {
        let mut bed = Bed::new("auto", store_max, 2);
        bed.manager.logged(
            1,
            &["a restart will close open connections; what services leave to the next process is lost, too"],
        );
        let _wires = [bed.connect(), bed.connect()].map(|mut wire| {
            ask(&mut wire);
            wire
        });
        bed.manager.stop();
        let said = "closing 2 connections for want of a descriptor store (FileDescriptorStoreMax=), and without what services would \
                    leave to the next process";
        bed.manager.logged(1, &[said]);
        bed.manager.start();
        assert_eq!(bed.taken_over(), "");
        bed.manager.stop();
    }
}

/// Until a start succeeds it is as it was, and then it is gone.
#[test]
fn a_start_that_fails_leaves_it_to_the_next() {
    let mut bed = Bed::new("auto", 16, 2);
    let mut wire = bed.connect();
    let (worker, ..) = ask(&mut wire);
    let expected = ["0:1 1:0", "0:0 1:1"][worker];
    bed.manager.stop();
    bed.manager.set_flag("abort-at-start", true);
    bed.manager.launch();
    assert!(bed.manager.ended().code().is_none());
    bed.manager.set_flag("abort-at-start", false);
    // It says what is wrong, and that is no attempt, however often.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    bed.manager.configure(&format!(
        "{}[sockets.taken]\nservice = \"keeper\"\nlisten = \"{taken}\"\n",
        config(2)
    ));
    for _ in 0..4 {
        bed.manager.launch();
        assert_eq!(bed.manager.ended().code(), Some(1));
        assert_eq!(bed.manager.state().stored(), PARTS);
    }
    bed.manager.configure(&config(2));
    bed.manager.start();
    let (_, frames, taken_over) = ask(&mut wire);
    assert_eq!((frames, &*taken_over), (1, expected));
    bed.manager.wait_until_nothing_is_stored();
    bed.manager.stop_for_good();
    bed.manager.start();
    assert_eq!(bed.taken_over(), "");
    bed.manager.stop_for_good();
}

/// What the program says when the second worker's value of the service cannot be made.
const UNMADE: &str =
    "service keeper cannot be made on worker 1: the database does not answer, on purpose";

/// And of what it was left.
const WAITS: [&str; 3] = [
    "this start fails: 2 values of services (",
    " and 6 connections wait in the service manager's store for one that succeeds",
    "; stopping the service loses them",
];

/// Connections, and who has asked on which of two workers how often, in the words of a successor.
fn asked(bed: &Bed) -> (Vec<Wire>, String) {
    let mut wires: Vec<Wire> = (0..6).map(|_| bed.connect()).collect();
    let mut frames = [0; 2];
    for wire in &mut wires {
        let (worker, count, _) = ask(wire);
        frames[worker] = count;
    }
    (wires, format!("0:{} 1:{}", frames[0], frames[1]))
}

/// Starts that fail because a service cannot be made, and then one that takes over everything.
fn goes_on_when_it_can(bed: &mut Bed, wires: &mut [Wire], expected: &str, before: usize) {
    for times in 1..=5 {
        assert_eq!(bed.manager.state().stored(), PARTS);
        bed.manager.launch();
        assert_eq!(bed.manager.ended().code(), Some(1));
        assert_eq!(bed.manager.log().matches(UNMADE).count(), before + times);
        bed.manager.logged(before + times, &WAITS);
    }
    bed.manager.set_flag("fail-1", false);
    bed.manager.start();
    bed.manager.logged(
        1,
        &["took over 6 connections and found 2 values of services"],
    );
    for wire in wires {
        assert_eq!(ask(wire).2, expected);
    }
    bed.manager.wait_until_nothing_is_stored();
    assert!(!bed.manager.log().contains("panicked"));
}

/// The program does not crash on what it was given; it says that it cannot serve now.
#[test]
fn a_service_that_cannot_be_made_is_no_attempt() {
    for engine in ENGINES {
        let mut bed = Bed::new(engine, 16, 2);
        let (mut wires, expected) = asked(&bed);
        bed.manager.stop();
        bed.manager.set_flag("fail-1", true);
        goes_on_when_it_can(&mut bed, &mut wires, &expected, 0);
        bed.manager.stop_for_good();
    }
}

/// Nobody can go back then. What is with the service manager waits for the next start.
#[test]
fn a_service_that_cannot_be_made_after_a_reload_costs_everything_without_a_store() {
    for store_max in [16, 0] {
        let mut bed = Bed::new("auto", store_max, 2);
        let (mut wires, expected) = asked(&bed);
        bed.manager.set_flag("fail-1", true);
        bed.manager.signal(Signal::SIGHUP);
        assert_eq!(bed.manager.ended().code(), Some(1));
        assert_eq!(bed.manager.log().matches(UNMADE).count(), 1);
        if store_max > 0 {
            goes_on_when_it_can(&mut bed, &mut wires, &expected, 1);
        } else {
            let lost = [
                "lost 2 values of services (",
                " and 6 connections of the predecessor: this start fails, and no descriptor store has them (FileDescriptorStoreMax=)",
            ];
            bed.manager.logged(1, &lost);
            assert!(wires.iter_mut().all(Wire::is_over));
            bed.manager.set_flag("fail-1", false);
            bed.manager.start();
            assert_eq!(bed.taken_over(), "");
        }
        bed.manager.stop_for_good();
    }
}

/// It is given up with everything else, since nobody knows what of it is to blame.
#[test]
fn what_makes_services_panic_is_given_up_after_three_attempts() {
    let mut bed = Bed::new("auto", 16, 2);
    let mut wire = bed.connect();
    ask(&mut wire);
    bed.manager.stop();
    bed.manager.set_flag("panic-when-given", true);
    for attempt in 1..=3 {
        assert_eq!(bed.manager.state().stored(), PARTS);
        bed.manager.launch();
        assert_eq!(bed.manager.ended().code(), Some(1));
        let said = format!("this start fails (attempt {attempt} of 3)");
        let becomes = match attempt {
            3 => "lost 2 values of services (",
            _ => ": 2 values of services (",
        };
        bed.manager.logged(1, &[&said, becomes]);
    }
    let said = "what was left is no good, on purpose, at ";
    let log = bed.manager.log();
    for worker in 0..2 {
        let logged = format!("service keeper panicked when worker {worker} made it: {said}");
        assert_eq!(log.matches(&logged).count(), 3, "{log}");
    }
    let reason = format!(" failed: service keeper panicked when it was made: {said}");
    assert_eq!(log.matches(&reason).count(), 3, "{log}");
    bed.manager.start();
    bed.manager.logged(
        1,
        &["tried 3 times without success: 1 descriptor is closed"],
    );
    assert!(wire.is_over());
    assert_eq!(bed.taken_over(), "");
    bed.manager.stop_for_good();
}

#[test]
fn a_panic_costs_the_one_value() {
    for engine in ENGINES {
        let mut bed = Bed::new(engine, 16, 3);
        let mut wire = bed.connect();
        ask(&mut wire);
        bed.manager.set_flag("panic-at-last-1", true);
        for step in [Manager::reload, Manager::restart] {
            step(&mut bed.manager);
            bed.manager.logged(
                1,
                &["ERROR", "panicked in hand_over: the last call, on purpose"],
            );
            let taken_over = ask(&mut wire).2;
            let left: Vec<&str> = taken_over.split(' ').collect();
            assert!(
                left.len() == 2 && left[0].starts_with("0:") && left[1].starts_with("2:"),
                "{left:?}"
            );
        }
        bed.manager.stop_for_good();
    }
}

/// In a frame, or when it is asked what it leaves. By then its connections were let go, and are lost all the same.
fn a_worker_is_stuck(engine: &'static str, at_last: bool) {
    let mut bed = Bed::new(engine, 16, 2);
    let mut wires: Vec<Wire> = (0..4).map(|_| bed.connect()).collect();
    let workers: Vec<usize> = wires.iter_mut().map(|wire| ask(wire).0).collect();
    let stuck = workers[0];
    match at_last {
        true => bed
            .manager
            .set_flag(&format!("stick-at-last-{stuck}"), true),
        false => wires[0].send(b"\x80"),
    }
    bed.manager.reload();
    let call = match at_last {
        true => "(hand_over)",
        false => "(frame, socket keeper)",
    };
    bed.manager.logged(
        1,
        &[
            "ERROR",
            &format!("a call of service keeper {call} does not return; the handover"),
            "goes on without it and its 2 connections, and without what its services would leave",
        ],
    );
    bed.manager.logged(
        1,
        &["took over 2 connections and found 1 value of a service"],
    );
    for (wire, worker) in wires.iter_mut().zip(workers) {
        match worker == stuck {
            true => assert!(wire.is_over()),
            false => assert_eq!(ask(wire).2, format!("{worker}:2")),
        }
    }
    if at_last {
        bed.manager
            .set_flag(&format!("stick-at-last-{stuck}"), false);
    }
    bed.manager.stop_for_good();
}

#[test]
fn a_stuck_worker_costs_the_one_value() {
    thread::scope(|scope| {
        for (engine, at_last) in [("auto", false), ("auto", true), ("portable", true)] {
            scope.spawn(move || a_worker_is_stuck(engine, at_last));
        }
    });
}

/// So that it is known beforehand whether anything may be left.
#[test]
fn who_never_asks_leaves_nothing() {
    let mut bed = Bed::new("auto", 0, 1);
    bed.manager.set_flag("take-over", false);
    bed.manager.reload();
    let mut wire = bed.connect();
    ask(&mut wire);
    bed.manager.reload();
    let lost = ["ERROR", "service keeper leaves something", "which is lost"];
    bed.manager.logged(1, &lost);
    bed.manager.logged(1, &["took over 1 connection"]);
    assert_eq!(ask(&mut wire).2, "");
    bed.manager.stop_for_good();
}

#[test]
fn what_is_asked_for_and_was_not_left_is_said() {
    let mut bed = Bed::new("auto", 0, 2);
    let mut wire = bed.connect();
    ask(&mut wire);
    let said = "the predecessor left nothing of service keeper, which asks for it";
    bed.manager.reload();
    assert!(!bed.manager.log().contains(said), "it has left something");
    bed.manager.set_flag("leave", false);
    bed.manager.reload();
    bed.manager.logged(1, &["INFO", said]);
    assert_eq!(ask(&mut wire).2, "");
    bed.manager.stop_for_good();
}

#[test]
fn what_nobody_asks_for_is_dropped_with_a_warning() {
    let mut bed = Bed::new("auto", 0, 2);
    bed.manager.set_flag("take-over", false);
    bed.manager.signal(Signal::SIGHUP);
    let said = "dropping what service keeper of the predecessor left (2 values)";
    bed.manager.logged(1, &["WARN", said]);
    bed.manager.stop_for_good();
}
