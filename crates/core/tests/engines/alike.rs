//! Random scripts of what clients do (see [`script`]) end in the same way with both engines, with connections that have
//! no sockets, and for somebody who reads each client's stream in one piece.
//!
//! A script follows from a seed: streams of objects of every family and size, cut anywhere; what is no msgpack, too large,
//! too deep, of the wrong type; clients that end their side, in the middle of a frame, too, leave without reading, reset
//! the connection, or pause; deferred answers and pushes; a service that refuses, closes or panics; limits on time, memory
//! and what waits for a client. Compared are the bytes that each client was sent, what the service was told, how and why
//! the connection ended, and the counters. Of what a race decides, such as how many replies come before a reset, that is
//! asked which must hold anyway: it is a beginning of what is due. Only `pauses` is not looked at, since how often there
//! is one depends on what the kernel takes.
//!
//! `RINGHOLD_SEEDS=2000` takes so many seeds instead of the usual ones, `RINGHOLD_SEEDS=17..18` those from 17 to before
//! 18: that is how to repeat a fault, which is reported with its seed and the smallest script found that shows it.

mod actor;
mod client;
mod compare;
mod item;
mod make;
mod outcome;
mod pure;
mod reading;
mod real;
mod script;
mod shrink;

use std::ops::Range;
use std::time::Duration;

use self::compare::Expected;
use self::outcome::{Outcome, Reason};
use self::reading::{Fate, Reading};
use self::script::Script;
use crate::bed::{Engine, engines};
use crate::common::PATIENCE;

/// The seeds of an ordinary run.
const SEEDS: Range<u64> = 0..80;

/// How long a script that is a part of one with a fault is waited for. One that hangs is found soon enough.
const LITTLE_PATIENCE: Duration = Duration::from_secs(3);

/// Those that `RINGHOLD_SEEDS` asks for, or the usual ones.
pub(crate) fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("RINGHOLD_SEEDS") else {
        return usual;
    };
    let number = |text: &str| match text.parse() {
        Ok(number) => number,
        Err(_) => {
            panic!("RINGHOLD_SEEDS is {text:?}, not a number or two with \"..\" between them")
        }
    };
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

/// The clients of a script that do anything, with what must become of them.
fn readings(script: &Script) -> Vec<(usize, Reading)> {
    let steps = script.steps();
    let clients = (0..script.clients.len()).filter(|client| script.mentions(*client));
    clients
        .map(|client| (client, Reading::new(script, &steps, client)))
        .collect()
}

/// Lets a script happen everywhere. Returns the first difference.
fn fault_of(script: &Script, engines: &[Engine], patience: Duration) -> Option<String> {
    let steps = script.steps();
    let readings = readings(script);
    let pure = match pure::run(script, &steps) {
        Ok(pure) => pure,
        Err(fault) => return Some(format!("without sockets: {fault}")),
    };
    let compare = |outcomes: &[Outcome]| {
        readings.iter().try_for_each(|(client, reading)| {
            let expected = Expected {
                reading,
                pure: &pure.outcomes[*client],
                is_exact: pure.is_exact[*client],
                is_settled: pure.is_settled[*client],
            };
            let compared = expected.check(&outcomes[*client]);
            compared.map_err(|fault| format!("client {client}, {:?}: {fault}", reading.fate))
        })
    };
    if let Err(fault) = compare(&pure.outcomes) {
        return Some(format!("without sockets: {fault}"));
    }
    for engine in engines {
        let run = real::run(script, &steps, &pure, *engine, patience);
        if let Err(fault) = run.and_then(|outcomes| compare(&outcomes)) {
            return Some(format!("{engine}: {fault}"));
        }
    }
    None
}

#[test]
fn random_scripts_end_in_the_same_way() {
    actor::hush_panics();
    let engines = engines();
    for seed in seeds(SEEDS) {
        let script = Script::random(seed);
        if let Some(fault) = fault_of(&script, &engines, PATIENCE) {
            eprintln!("seed {seed}: {fault}\n{script:?}\nlooking for a smaller script");
            let (smallest, again) = shrink::shrink(&script, |script| {
                fault_of(script, &engines, LITTLE_PATIENCE)
            });
            panic!("seed {seed}: {fault}\nthe smallest script: {smallest:#?}\nends so: {again:?}");
        }
    }
}

#[test]
fn the_usual_scripts_cover_every_end() {
    let scripts: Vec<Script> = SEEDS.map(Script::random).collect();
    let readings: Vec<Reading> = scripts
        .iter()
        .flat_map(|script| readings(script).into_iter().map(|(_, reading)| reading))
        .collect();
    let reasons = [
        Reason::Finished,
        Reason::Truncated,
        Reason::Refused,
        Reason::Asked,
        Reason::Panicked,
        Reason::Overflow,
        Reason::Memory,
        Reason::Idle,
        Reason::FrameTimeout,
        Reason::WriteTimeout,
        Reason::Stopping,
    ];
    for reason in reasons {
        let is_there = readings.iter().any(|reading| reading.why == reason);
        assert!(is_there, "none ends for {reason:?}");
    }
    for words in ["reserved", "deeper", "larger"] {
        let says = |reading: &Reading| matches!(&reading.why, Reason::Framing(text) if text.contains(words));
        assert!(readings.iter().any(says), "none is {words}");
    }
    let is_top_level = |reading: &Reading| matches!(reading.why, Reason::TopLevel(_));
    assert!(readings.iter().any(is_top_level));
    assert!(readings.iter().any(|reading| reading.fate == Fate::Left));
}
