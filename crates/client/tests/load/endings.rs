//! How a load ends when the server does not do its part: never as if all were well.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use ringhold_client::Address;
use ringhold_client::load::{self, Counts, LoadPlan, LoadReport, Mode};

use super::IN_VAIN;
use super::reference::{Behaviour, Server, once};

fn run(plan: &LoadPlan) -> LoadReport {
    load::run(plan, |_| ControlFlow::Continue(())).unwrap()
}

/// What was counted, without the bytes.
fn counts(report: &LoadReport) -> Counts {
    let mut counts = report.counts;
    (counts.bytes_sent, counts.bytes_received) = (0, 0);
    counts
}

fn counted(change: impl Fn(&mut Counts)) -> Counts {
    let mut counts = Counts::default();
    change(&mut counts);
    counts
}

/// A socket whose connections stand, in the backlog, and are never read or written.
fn silent() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().into();
    (listener, address)
}

/// How long what comes is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

fn plan(address: Address) -> LoadPlan {
    LoadPlan {
        duration: Duration::from_millis(200),
        drain: Duration::from_millis(200),
        ..LoadPlan::new(address)
    }
}

fn subscribe(params: Vec<u8>) -> Mode {
    Mode::Subscribe {
        params,
        sequence: false,
    }
}

fn has_problem(report: &LoadReport, part: &str) -> bool {
    let found = report.problems.iter().any(|problem| problem.contains(part));
    found && report.to_string().contains(part)
}

#[test]
fn a_subscription_that_is_not_answered_is_lost() {
    let (_listener, address) = silent();
    for count in [None, Some(5)] {
        let report = run(&LoadPlan {
            mode: subscribe(vec![0x90]),
            connections: 2,
            count,
            ..plan(address.clone())
        });
        let expected = counted(|counts| (counts.sent, counts.lost, counts.opened) = (2, 2, 2));
        assert_eq!(counts(&report), expected, "{report}");
        assert!(!report.is_clean());
        assert!(
            has_problem(&report, "1 requests were not answered"),
            "{report}"
        );
    }
}

#[test]
fn a_subscription_that_is_answered_is_not_lost() {
    let server = Server::start(Behaviour::default());
    let report = run(&LoadPlan {
        mode: subscribe(vec![0x93, 1, 2, 3]),
        method: "count".to_owned(),
        drain: PATIENCE,
        ..plan(server.address.clone())
    });
    let expected = counted(|counts| {
        (counts.sent, counts.answered, counts.opened) = (1, 1, 1);
        counts.notifications = 3;
    });
    assert_eq!(counts(&report), expected, "{report}");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_message_that_cannot_be_written_whole_is_a_fault() {
    // Far more than the buffers between the two take.
    let large = 16 << 20;
    let (_listener, address) = silent();
    let mut params = vec![0x91, 0xc6];
    params.extend_from_slice(&u32::to_be_bytes(large));
    params.resize(params.len() + large as usize, 0);
    for (mode, payload) in [(subscribe(params), 0), (Mode::Call, 8 << 20)] {
        let report = run(&LoadPlan {
            mode,
            payload,
            ..plan(address.clone())
        });
        let expected = counted(|counts| (counts.opened, counts.unfinished) = (1, 1));
        assert_eq!(counts(&report), expected, "{report}");
        assert!(!report.is_clean());
        assert!(has_problem(&report, "bytes were not taken"), "{report}");
    }
}

#[test]
fn one_way_ingest_into_a_server_that_never_reads_is_a_fault() {
    let (_listener, address) = silent();
    // A thousand small messages go into the buffers, and only the end of stream is missing.
    let report = run(&LoadPlan {
        mode: Mode::Notify,
        connections: 2,
        count: Some(1000),
        duration: PATIENCE,
        ..plan(address.clone())
    });
    let expected = counted(|counts| (counts.sent, counts.opened, counts.unfinished) = (1000, 2, 2));
    assert_eq!(counts(&report), expected, "{report}");
    assert!(!report.is_clean());
    assert!(has_problem(&report, "did not end its side"), "{report}");

    // Without a count the buffers fill up.
    let report = run(&LoadPlan {
        mode: Mode::Notify,
        payload: 4096,
        ..plan(address)
    });
    assert_eq!(report.counts.unfinished, 1, "{report}");
    assert!(!report.is_clean());
    assert!(has_problem(&report, "bytes were not taken"), "{report}");
}

#[test]
fn one_way_ingest_that_ends_in_a_reset_is_a_fault() {
    // Reads to the end, and then cuts the connection instead of ending it.
    let (server, address) = once(|mut stream| {
        stream.read_to_end(&mut Vec::new()).unwrap();
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    });
    let report = run(&LoadPlan {
        mode: Mode::Notify,
        count: Some(100),
        duration: PATIENCE,
        drain: PATIENCE,
        ..plan(address)
    });
    server.join().unwrap();
    let expected = counted(|counts| (counts.sent, counts.opened, counts.disconnects) = (100, 1, 1));
    assert_eq!(counts(&report), expected, "{report}");
    assert!(!report.is_clean());
    assert!(has_problem(&report, "instead of ending it"), "{report}");
}

#[test]
fn a_load_without_drain_still_sends() {
    for mode in [Mode::Call, Mode::Notify] {
        let server = Server::start(Behaviour::default());
        let plan = LoadPlan {
            mode: mode.clone(),
            depth: 4,
            duration: PATIENCE,
            drain: Duration::ZERO,
            ..plan(server.address.clone())
        };
        let report = load::run(&plan, |progress| {
            let counts = &progress.counts;
            match mode {
                Mode::Call if counts.answered == 0 => ControlFlow::Continue(()),
                _ if counts.sent == 0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })
        .unwrap();
        assert!(report.counts.sent > 0 && !report.stalled, "{report}");
        if mode == Mode::Call {
            let Counts {
                sent,
                answered,
                lost,
                ..
            } = report.counts;
            assert!(answered > 0 && lost <= 4, "{report}");
            assert_eq!(sent, answered + lost, "{report}");
        }
    }
}

#[test]
fn a_stall_ends_the_load_and_is_said() {
    let (_listener, address) = silent();
    for (rate, drain) in [
        (None, Duration::ZERO),
        (Some(100.0), Duration::from_millis(1500)),
    ] {
        let report = run(&LoadPlan {
            duration: Duration::from_secs(60),
            rate,
            drain,
            ..plan(address.clone())
        });
        let expected = counted(|counts| (counts.sent, counts.lost, counts.opened) = (1, 1, 1));
        assert_eq!(counts(&report), expected, "{report}");
        assert!(report.stalled && !report.is_clean(), "{report}");
        assert!(
            report.to_string().contains("the load ended early"),
            "{report}"
        );
    }
}

/// Answers one request of the plan rightly, and sends `rest` after it.
fn answer_once(stream: &mut TcpStream, rest: &[u8]) {
    // An array of four, 0, the id, `echo`, an array of one, and a bin.
    let mut request = [0; 7 + 5 + 1 + 2 + 64];
    stream.read_exact(&mut request).unwrap();
    let mut reply = vec![0x94, 0x01];
    reply.extend_from_slice(&request[2..7]);
    reply.push(0xc0);
    reply.extend_from_slice(&request[13..]);
    reply.extend_from_slice(rest);
    stream.write_all(&reply).unwrap();
}

/// The beginning of a reply.
const HALF: &[u8] = b"\x94\x01\xce\x00\x01";

#[test]
fn an_end_in_the_middle_of_a_frame_is_a_fault_though_everything_was_answered() {
    for linger in [None, Some(Duration::ZERO)] {
        let (server, address) = once(move |mut stream| {
            answer_once(&mut stream, HALF);
            stream.read_to_end(&mut Vec::new()).unwrap();
            socket2::SockRef::from(&stream).set_linger(linger).unwrap();
        });
        let report = run(&LoadPlan {
            count: Some(1),
            duration: PATIENCE,
            drain: PATIENCE,
            ..plan(address)
        });
        server.join().unwrap();
        let expected = counted(|counts| {
            (counts.sent, counts.answered) = (1, 1);
            (counts.opened, counts.violations) = (1, 1);
        });
        assert_eq!(counts(&report), expected, "{report}");
        assert!(!report.is_clean());
        assert!(
            has_problem(&report, "in the middle of a frame, 5 bytes into it"),
            "{report}"
        );
    }
}

#[test]
fn a_frame_that_does_not_end_is_a_fault_though_everything_was_answered() {
    let (listener, address) = silent();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        answer_once(&mut stream, HALF);
        // Kept open until the load is over.
        stream
    });
    let report = run(&LoadPlan {
        count: Some(1),
        duration: PATIENCE,
        drain: IN_VAIN,
        ..plan(address)
    });
    drop(server.join().unwrap());
    let expected = counted(|counts| {
        (counts.sent, counts.answered) = (1, 1);
        (counts.opened, counts.unfinished) = (1, 1);
    });
    assert_eq!(counts(&report), expected, "{report}");
    assert!(!report.is_clean());
    assert!(has_problem(&report, "5 bytes of a frame came"), "{report}");
}

#[test]
fn a_cut_says_how_much_of_a_frame_had_come() {
    let (server, address) = once(|mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(HALF).unwrap();
    });
    let report = run(&LoadPlan {
        count: Some(1),
        reconnect: false,
        duration: PATIENCE,
        drain: PATIENCE,
        ..plan(address)
    });
    server.join().unwrap();
    let expected = counted(|counts| {
        (counts.sent, counts.lost) = (1, 1);
        (counts.opened, counts.disconnects) = (1, 1);
    });
    assert_eq!(counts(&report), expected, "{report}");
    assert!(has_problem(&report, "5 bytes into a frame"), "{report}");
}

#[test]
fn a_server_that_never_ceases_to_send_does_not_keep_the_load_from_ending() {
    let (server, address) = once(|mut stream| {
        // The request is not answered.
        let mut chatter = b"\x93\x02\xa1a\x91\xc5\x40\x00".to_vec();
        chatter.resize(chatter.len() + 0x4000, 0);
        let chatter = chatter.repeat(64);
        while stream.write_all(&chatter).is_ok() {}
    });
    let report = run(&LoadPlan {
        mode: subscribe(vec![0x90]),
        ..plan(address)
    });
    server.join().unwrap();
    let counts = report.counts;
    assert_eq!((counts.sent, counts.lost), (1, 1), "{report}");
}
