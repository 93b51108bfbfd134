//! The same bytes, cut in the same places, make the same calls and the same answers, whatever the engine.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};

use ringhold_core::{Close, Flow, Frame, Peer, Refusal, Reply, Service};

use crate::bed::{Bed, engines, frame};

/// What the service was told of each connection, by the number in its first frame.
type Records = Arc<Mutex<BTreeMap<u8, Vec<String>>>>;

/// Records every call, and answers each frame with its length and its last byte.
struct Recorder(Records);

#[derive(Default)]
struct Session {
    number: Option<u8>,
}

impl Recorder {
    fn note(&self, session: &Session, what: String) {
        let mut records = self.0.lock().unwrap();
        let number = session.number.unwrap_or(u8::MAX);
        records.entry(number).or_default().push(what);
    }
}

impl Service for Recorder {
    type Session = Session;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<Session, Refusal> {
        Ok(Session::default())
    }

    fn frame(&mut self, session: &mut Session, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        session.number.get_or_insert(frame[0]);
        let last = frame[frame.len() - 1];
        self.note(session, format!("{} bytes, last {last}", frame.len()));
        reply.write(|out| {
            out.push(0xce);
            out.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            out.push(last & 0x7f);
        });
        if last == 0x55 && frame.len() == 1 {
            return Flow::Close("it was asked to".into());
        }
        Flow::Continue
    }

    fn disconnected(&mut self, session: Session, why: &Close) {
        self.note(&session, format!("over: {why}"));
    }
}

/// Numbers that look random and are the same in every run.
struct Random(u32);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % bound
    }
}

/// What one client sends, in pieces.
fn pieces(number: u8) -> Vec<Vec<u8>> {
    let mut random = Random(u32::from(number) * 7919 + 17);
    // The first frame says who it is.
    let mut all = vec![number];
    for seed in 0..random.below(60) {
        match random.below(20) {
            0 => all.extend(frame(70_000 + random.below(200_000) as usize, seed)),
            1..=3 => all.extend(frame(5 + random.below(20_000) as usize, seed)),
            4..=9 => all.extend(frame(5 + random.below(300) as usize, seed)),
            10..=18 => all.push(random.below(0x50) as u8),
            // An array of two numbers, one in two bytes.
            _ => all.extend([0x92, 0xcc, 200, 3]),
        }
    }
    match random.below(5) {
        // Not msgpack at all, with something behind it.
        0 => all.extend([0xc1, 1, 2, 3]),
        // A frame without its end.
        1 => all.extend(&frame(5000, 1)[..random.below(4999) as usize + 1]),
        // The service ends it, with something behind it.
        2 => all.extend([0x55, 1, 2, 3]),
        _ => {}
    }
    let mut pieces = Vec::new();
    while !all.is_empty() {
        let length = match random.below(4) {
            0 => 1 + random.below(3),
            1 => 1 + random.below(500),
            _ => 1 + random.below(100_000),
        };
        let rest = all.split_off(all.len().min(length as usize));
        pieces.push(std::mem::replace(&mut all, rest));
    }
    pieces
}

/// Sends what client `number` sends, ends its side, and returns everything that it is answered.
fn talk<S>(stream: S, number: u8, end: impl Fn(&S) + Sync) -> Vec<u8>
where
    S: Sync,
    for<'a> &'a S: Read + Write,
{
    let mut answers = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for piece in pieces(number) {
                // The server may have ended the connection; what comes then is discarded.
                if (&stream).write_all(&piece).is_err() {
                    break;
                }
            }
            end(&stream);
        });
        (&stream).read_to_end(&mut answers).unwrap();
    });
    answers
}

/// Everything that clients were answered and the service was told, with one engine.
fn run(engine: &str) -> (Vec<Vec<u8>>, BTreeMap<u8, Vec<String>>) {
    let records = Records::default();
    let service = records.clone();
    let bed = Bed::start_serving(
        engine,
        "
        workers = 2
        [sockets.recorder]
        listen = [\"127.0.0.1:0\", \"unix:@/recorder.sock\"]
        ",
        |server| server.service("recorder", move |_| Recorder(service.clone())),
    );
    let mut answers = Vec::new();
    for number in 0..40 {
        answers.push(if number % 2 == 0 {
            talk(bed.connect(), number, |stream| {
                let _ = stream.shutdown(Shutdown::Write);
            })
        } else {
            let stream = crate::bed::connect_unix(&bed.path("recorder.sock"));
            talk(stream, number, |stream| {
                let _ = stream.shutdown(Shutdown::Write);
            })
        });
    }
    bed.until("no connection", |bed| bed.total().open == 0);
    bed.finish();
    let records = std::mem::take(&mut *records.lock().unwrap());
    (answers, records)
}

#[test]
fn the_same_bytes_make_the_same_calls_and_answers() {
    let mut runs = engines().into_iter().map(|engine| (engine, run(engine)));
    let (first, (answers, records)) = runs.next().unwrap();
    assert_eq!(records.len(), 40);
    for expected in ["ended the connection", "0xc1", "in the middle", "asked to"] {
        let said = |calls: &Vec<String>| calls.last().is_some_and(|call| call.contains(expected));
        assert!(records.values().any(said), "nobody saw: {expected}");
    }
    for (engine, (their_answers, their_records)) in runs {
        for (number, calls) in &records {
            assert_eq!(Some(calls), their_records.get(number), "{first}, {engine}");
        }
        for (number, (ours, theirs)) in answers.iter().zip(&their_answers).enumerate() {
            assert!(ours == theirs, "answers to {number}: {first}, {engine}");
        }
    }
}
