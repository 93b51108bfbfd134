//! How a load ends when the server does not do its part: never as if all were well.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod reference;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use reference::{Behaviour, Server};
use ringhold_client::Address;
use ringhold_client::load::{self, Counts, LoadPlan, LoadReport, Mode};

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

/// Serves one connection with `serve` on a thread of its own.
fn once(serve: impl FnOnce(TcpStream) + Send + 'static) -> (thread::JoinHandle<()>, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().into();
    let thread = thread::spawn(move || serve(listener.accept().unwrap().0));
    (thread, address)
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
