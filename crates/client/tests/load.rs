//! The load generator finds each fault of a server, and counts it exactly.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod reference;

use std::ops::ControlFlow;
use std::time::Duration;

use reference::{Behaviour, Family, Fault, Server};
use ringhold_client::Limits;
use ringhold_client::load::{self, Counts, Echo, LoadError, LoadPlan, LoadReport, Mode};
use rmpv::Value;

/// A plan of 1000 requests, bounded in time whatever the server does.
fn plan(server: &Server) -> LoadPlan {
    LoadPlan {
        connections: 2,
        depth: 8,
        count: Some(1000),
        duration: Duration::from_secs(120),
        drain: Duration::from_secs(120),
        ..LoadPlan::new(server.address.clone())
    }
}

/// How long replies are waited for that do not come. By then those that do must be there.
const IN_VAIN: Duration = Duration::from_secs(3);

fn run(plan: &LoadPlan) -> LoadReport {
    let report = load::run(plan, |_| ControlFlow::Continue(())).unwrap();
    let counts = &report.counts;
    if plan.mode == Mode::Call {
        assert_eq!(
            counts.sent,
            counts.answered + counts.wrong + counts.errors + counts.lost,
            "{report}"
        );
    }
    report
}

/// Runs the plan against a server with these faults and compares the counts that matter.
fn check(behaviour: Behaviour, change: impl Fn(&mut LoadPlan), expected: Counts) -> LoadReport {
    let server = Server::start(behaviour);
    let mut plan = plan(&server);
    change(&mut plan);
    let report = run(&plan);
    let mut found = report.counts;
    (found.bytes_sent, found.bytes_received) = (0, 0);
    assert_eq!(found, expected, "{report}");
    report
}

/// What a run of 1000 requests over 2 connections without any fault counts.
fn clean() -> Counts {
    let mut counts = Counts::default();
    (counts.sent, counts.answered, counts.opened) = (1000, 1000, 2);
    counts
}

fn with(change: impl Fn(&mut Counts)) -> Counts {
    let mut counts = clean();
    change(&mut counts);
    counts
}

#[test]
fn a_good_server_is_clean_on_every_family() {
    for family in [Family::Tcp, Family::Unix, Family::Abstract] {
        let server = Server::start_on(family, Behaviour::default());
        let report = run(&plan(&server));
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.counts.answered, server.requests()), (1000, 1000));
        assert_eq!(report.latency.count(), 1000);
        assert_eq!(report.measured, 1000);
        assert!(report.problems.is_empty());
        assert!(report.longest_gap_ns > 0 && report.messages_per_second > 0.0);
    }
}

#[test]
fn order_cuts_widths_and_chatter_are_no_faults() {
    let reverse = Behaviour {
        reverse: true,
        ..Behaviour::default()
    };
    check(reverse, |_| {}, clean());
    let split = Behaviour {
        split: true,
        ..Behaviour::default()
    };
    check(
        split,
        |plan| plan.count = Some(200),
        with(|counts| (counts.sent, counts.answered) = (200, 200)),
    );
    let wide = Behaviour {
        wide: true,
        ..Behaviour::default()
    };
    check(wide, |_| {}, clean());
    let chatty = Behaviour {
        chatty: true,
        ..Behaviour::default()
    };
    check(chatty, |_| {}, with(|counts| counts.notifications = 1000));
    // Held back until the pipeline is full, and then answered from the last to the first.
    let gather = Behaviour {
        gather: 8,
        reverse: true,
        ..Behaviour::default()
    };
    check(
        gather,
        |plan| (plan.connections, plan.count) = (1, Some(800)),
        with(|counts| {
            (counts.sent, counts.answered, counts.opened) = (800, 800, 1);
        }),
    );
}

#[test]
fn a_load_of_which_nothing_was_measured_is_not_clean() {
    let server = Server::start(Behaviour::default());
    let over_in_the_warm_up = LoadPlan {
        warmup: Duration::from_secs(3600),
        ..plan(&server)
    };
    let report = run(&over_in_the_warm_up);
    assert_eq!((report.counts.answered, report.measured), (1000, 0));
    assert_eq!(report.problems, ["nothing was measured"]);
    assert!(!report.is_clean(), "{report}");

    // What it subscribes to pushes nothing.
    let (params, sequence) = (vec![0x90], false);
    let subscription = LoadPlan {
        mode: Mode::Subscribe { params, sequence },
        count: None,
        duration: Duration::from_millis(300),
        ..plan(&server)
    };
    let report = run(&subscription);
    assert_eq!(
        (report.counts.answered, report.counts.notifications),
        (2, 0)
    );
    assert_eq!(report.problems, ["nothing was received"]);
    assert!(!report.is_clean(), "{report}");
}

#[test]
fn every_payload_comes_back() {
    for payload in [0, 1, 8, 255, 256, 70_000, 1_000_000] {
        let count = if payload > 1000 { 40 } else { 200 };
        let change = |plan: &mut LoadPlan| (plan.payload, plan.count) = (payload, Some(count));
        check(
            Behaviour::default(),
            change,
            with(|counts| (counts.sent, counts.answered) = (count, count)),
        );
    }
    let all = |plan: &mut LoadPlan| (plan.method, plan.echo) = ("all".to_owned(), Echo::All);
    check(Behaviour::default(), all, clean());
}

#[test]
fn dropped_replies_are_lost() {
    let faults = Behaviour::faulty([(3, Fault::Drop), (4, Fault::Drop), (500, Fault::Drop)]);
    let report = check(
        faults,
        |plan| plan.drain = IN_VAIN,
        with(|counts| (counts.answered, counts.lost) = (997, 3)),
    );
    assert!(!report.is_clean());
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.contains("not answered")),
        "{report}"
    );
}

#[test]
fn a_pipeline_that_is_stuck_ends_the_load() {
    let faults = Behaviour::faulty([(10, Fault::Drop)]);
    let report = check(
        faults,
        |plan| (plan.connections, plan.depth, plan.drain) = (1, 1, IN_VAIN),
        with(|counts| (counts.sent, counts.answered, counts.lost, counts.opened) = (11, 10, 1, 1)),
    );
    assert_eq!(report.unsent, 989);
    assert!(!report.is_clean());
}

#[test]
fn repeated_replies_are_found_up_to_the_last() {
    let faults = Behaviour::faulty([
        (0, Fault::Repeat),
        (77, Fault::Repeat),
        (999, Fault::Repeat),
    ]);
    check(faults, |_| {}, with(|counts| counts.repeated = 3));
    let faults = Behaviour::faulty([(0, Fault::Unasked), (500, Fault::Unasked)]);
    check(faults, |_| {}, with(|counts| counts.repeated = 2));
}

#[test]
fn altered_results_are_wrong() {
    let faults = [
        (0, Fault::Alter),
        (1, Fault::Another),
        (600, Fault::Alter),
        (999, Fault::Another),
    ];
    let report = check(
        Behaviour::faulty(faults.clone()),
        |_| {},
        with(|counts| (counts.answered, counts.wrong) = (996, 4)),
    );
    assert!(report.problems[0].contains("wrong result"), "{report}");
    assert_eq!(report.latency.count(), 996);
    let split = Behaviour {
        split: true,
        ..Behaviour::faulty(faults)
    };
    check(
        split,
        |_| {},
        with(|counts| (counts.answered, counts.wrong) = (996, 4)),
    );
}

#[test]
fn a_result_that_belongs_to_another_request_is_wrong() {
    // The reply to the first request of a connection, sent to its second: the id is right, the payload is not.
    let mut reply = b"\x94\x01\xce\x00\x01\x00\x01\xc0\xc4\x40".to_vec();
    reply.extend_from_slice(&[0; 64]);
    let faults = Behaviour::faulty([(1, Fault::Bytes(reply))]);
    check(
        faults,
        |plan| plan.connections = 1,
        with(|counts| (counts.answered, counts.wrong, counts.opened) = (999, 1, 1)),
    );
}

#[test]
fn errors_are_counted_and_put_into_words() {
    let faults = [
        (5, Fault::Error("no such thing".into())),
        (
            6,
            Fault::Error(Value::Array(vec![7.into(), "seven".into()])),
        ),
    ];
    let report = check(
        Behaviour::faulty(faults),
        |_| {},
        with(|counts| (counts.answered, counts.errors) = (998, 2)),
    );
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.contains("\"no such thing\"")),
        "{report}"
    );
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.contains("[7, \"seven\"]")),
        "{report}"
    );
}

#[test]
fn a_cut_connection_loses_what_was_outstanding() {
    for fault in [Fault::CutReply, Fault::Close] {
        // Eight requests come together; three are answered, the fourth cuts the connection.
        let behaviour = Behaviour {
            gather: 8,
            ..Behaviour::faulty([(3, fault)])
        };
        let report = check(
            behaviour,
            |plan| (plan.connections, plan.count) = (1, Some(8)),
            with(|counts| {
                (counts.sent, counts.answered, counts.lost) = (8, 3, 5);
                (counts.opened, counts.disconnects) = (1, 1);
            }),
        );
        assert!(
            report.problems[0].contains("disconnected with 5 requests outstanding"),
            "{report}"
        );
    }
}

#[test]
fn a_cut_connection_is_opened_anew_unless_told_otherwise() {
    for reconnect in [true, false] {
        let server = Server::start(Behaviour::faulty([
            (3, Fault::Close),
            (300, Fault::CutReply),
        ]));
        let report = run(&LoadPlan {
            connections: 1,
            reconnect,
            ..plan(&server)
        });
        let counts = report.counts;
        // What the client still sent into the closed connection is lost too, so at most two pipelines are.
        if reconnect {
            assert_eq!(
                (counts.opened, counts.disconnects, counts.sent),
                (3, 2, 1000),
                "{report}"
            );
            assert!((2..=32).contains(&counts.lost), "{report}");
        } else {
            assert_eq!(
                (counts.opened, counts.disconnects, counts.answered),
                (1, 1, 3),
                "{report}"
            );
            assert_eq!(report.unsent, 1000 - counts.sent);
        }
    }
}

#[test]
fn what_is_not_the_protocol_costs_the_connection() {
    let garbage: [&[u8]; 5] = [
        b"\xc1",
        b"\x07",
        b"\x94\x00\x01\xa1m\x90",
        b"\x93\x01\x02\x03",
        b"\xdd\xff\xff\xff\xff",
    ];
    for bytes in garbage {
        let behaviour = Behaviour {
            gather: 8,
            ..Behaviour::faulty([(3, Fault::Bytes(bytes.to_vec()))])
        };
        let report = check(
            behaviour,
            |plan| (plan.connections, plan.count) = (1, Some(8)),
            with(|counts| {
                (counts.sent, counts.answered, counts.lost) = (8, 3, 5);
                (counts.opened, counts.violations) = (1, 1);
            }),
        );
        assert!(report.problems[0].contains("received"), "{report}");
    }
}

#[test]
fn a_frame_beyond_the_limits_of_the_load_is_said_to_be_that() {
    let limits = Limits {
        frame_bytes: 1000,
        depth: 4,
    };
    for (bytes, part) in [
        (&b"\xc6\x00\x00\x10\x00"[..], "limit of 1000 bytes"),
        (&[0x91; 5], "limit of 4 levels"),
    ] {
        let faults = Behaviour::faulty([(0, Fault::Bytes(bytes.to_vec()))]);
        let report = check(
            faults,
            |plan| {
                (plan.connections, plan.depth, plan.count) = (1, 1, Some(1));
                plan.limits = limits;
            },
            with(|counts| {
                (counts.sent, counts.answered, counts.lost) = (1, 0, 1);
                (counts.opened, counts.violations) = (1, 1);
            }),
        );
        assert!(report.problems[0].contains(part), "{report}");
    }
}

#[test]
fn a_server_that_stops_reading_does_not_stop_the_load_for_ever() {
    let faults = Behaviour::faulty([(2, Fault::Stall)]);
    let server = Server::start(faults);
    // Far more than the buffers between the two take.
    let plan = LoadPlan {
        connections: 1,
        depth: 64,
        payload: 1 << 20,
        drain: IN_VAIN,
        ..plan(&server)
    };
    let report = run(&plan);
    assert!(
        report.counts.answered <= 2 && report.counts.lost > 0,
        "{report}"
    );
    assert_eq!(report.counts.sent + report.unsent, 1000, "{report}");
}

#[test]
fn short_lived_connections_come_and_go() {
    for family in [Family::Tcp, Family::Unix] {
        let server = Server::start_on(family, Behaviour::default());
        let plan = LoadPlan {
            connections: 0,
            short_lived: 3,
            requests_per_connection: 4,
            depth: 3,
            count: Some(120),
            ..plan(&server)
        };
        let report = run(&plan);
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.counts.answered, 120);
        assert_eq!(server.requests(), 120);
        // The last ones may have been opened when nothing was left to be sent.
        assert!((30..=33).contains(&report.counts.opened), "{report}");
    }
}

#[test]
fn both_kinds_of_connections_run_at_a_time_and_on_several_threads() {
    let server = Server::start(Behaviour::default());
    let plan = LoadPlan {
        connections: 3,
        short_lived: 2,
        threads: 5,
        requests_per_connection: 7,
        ..plan(&server)
    };
    let report = run(&plan);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.counts.answered, server.requests()), (1000, 1000));
    assert_eq!(report.latency.count(), 1000);
    assert!(report.counts.opened > 5, "{report}");
}

#[test]
fn faults_of_short_lived_connections_count_too() {
    let behaviour = Behaviour::faulty([
        (1, Fault::Close),
        (20, Fault::Alter),
        (30, Fault::Repeat),
        (40, Fault::Drop),
    ]);
    let server = Server::start(behaviour);
    let plan = LoadPlan {
        connections: 0,
        short_lived: 2,
        count: Some(100),
        drain: IN_VAIN,
        ..plan(&server)
    };
    let report = run(&plan);
    let counts = report.counts;
    assert_eq!(
        (counts.answered, counts.wrong, counts.repeated),
        (97, 1, 1),
        "{report}"
    );
    assert_eq!((counts.lost, counts.disconnects), (2, 1), "{report}");
}

#[test]
fn an_open_loop_sends_what_its_schedule_says() {
    let server = Server::start(Behaviour::default());
    let plan = LoadPlan {
        rate: Some(2000.0),
        count: Some(300),
        depth: 1000,
        ..plan(&server)
    };
    let report = run(&plan);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.counts.sent, server.requests()), (300, 300));
}

#[test]
fn an_open_loop_charges_a_stall_to_all_that_it_delayed() {
    // The first reply waits for the eighth request. With room for one request only, none would ever
    // be sent; with room for eight, the latency of the first is at least seven intervals.
    let behaviour = Behaviour {
        gather: 8,
        ..Behaviour::default()
    };
    let server = Server::start(behaviour);
    let plan = LoadPlan {
        connections: 1,
        rate: Some(100.0),
        count: Some(8),
        ..plan(&server)
    };
    let report = run(&plan);
    assert!(report.is_clean(), "{report}");
    assert!(report.latency.max() >= 70_000_000, "{report}");
}

#[test]
fn the_duration_and_the_caller_end_a_load_without_count() {
    let server = Server::start(Behaviour::default());
    let timed = LoadPlan {
        count: None,
        duration: Duration::from_millis(200),
        ..plan(&server)
    };
    let report = run(&timed);
    assert!(report.is_clean() && report.counts.answered > 0, "{report}");

    let endless = LoadPlan {
        count: None,
        warmup: Duration::from_millis(100),
        ..plan(&server)
    };
    // Of what is answered between two looks, no more than the pipelines hold was asked before the first.
    let pipelines = endless.connections as u64 * u64::from(endless.depth);
    let mut seen = vec![0];
    let report = load::run(&endless, |progress| {
        let answered = progress.counts.answered;
        if progress.elapsed > endless.warmup && answered > seen[seen.len() - 1] + pipelines {
            seen.push(answered);
        }
        if seen.len() < 4 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })
    .unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(report.counts.answered >= seen[3], "{seen:?}, {report}");
    // The warm-up is counted but not measured.
    assert!(report.latency.count() < report.counts.answered && report.latency.count() > 0);
}

#[test]
fn one_way_ingest_arrives_whole() {
    for (connections, rate) in [(1, None), (3, None), (3, Some(10_000.0))] {
        let server = Server::start(Behaviour::default());
        let plan = LoadPlan {
            mode: Mode::Notify,
            connections,
            rate,
            ..plan(&server)
        };
        let report = run(&plan);
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.counts.sent, server.notifications()), (1000, 1000));
        assert_eq!(report.measured, 1000);
    }
}

#[test]
fn a_subscriber_checks_the_sequence() {
    let subscribe = |numbers: &[u64], sequence, count| {
        let server = Server::start(Behaviour::default());
        let mut params = Vec::new();
        let numbers = numbers.iter().map(|number| (*number).into()).collect();
        rmpv::encode::write_value(&mut params, &Value::Array(numbers)).unwrap();
        let mode = Mode::Subscribe { params, sequence };
        run(&LoadPlan {
            mode,
            connections: 1,
            count: Some(count),
            method: "count".to_owned(),
            ..plan(&server)
        })
    };
    let report = subscribe(&[5, 6, 7, 8], true, 4);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.counts.notifications, report.measured), (4, 4));

    let report = subscribe(&[1, 2, 5, 5, 6], true, 5);
    assert_eq!(
        (report.counts.lost, report.counts.repeated),
        (2, 1),
        "{report}"
    );
    assert!(subscribe(&[1, 2, 5, 5, 6], false, 5).is_clean());
}

#[test]
fn a_load_without_server_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let address = ringhold_client::Address::Unix(directory.path().join("none.sock"));
    let plan = LoadPlan::new(address);
    let error = load::run(&plan, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, LoadError::Connect { .. }));
    assert!(error.to_string().contains("none.sock"), "{error}");
    let error = load::run(
        &LoadPlan { depth: 0, ..plan },
        |_| ControlFlow::Continue(()),
    )
    .unwrap_err();
    assert!(error.to_string().contains("depth"), "{error}");
}

#[test]
fn failed_connects_are_counted_until_the_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let address = ringhold_client::Address::Unix(directory.path().join("none.sock"));
    let plan = LoadPlan {
        connections: 0,
        short_lived: 1,
        duration: Duration::from_millis(100),
        ..LoadPlan::new(address)
    };
    let report = run(&plan);
    assert!(
        report.counts.failed_connects > 0 && report.counts.sent == 0,
        "{report}"
    );
}
