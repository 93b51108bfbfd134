//! Every kind of load, against servers that do nothing wrong.

use ringhold_client::load::{Echo, LoadError};
use rmpv::Value;

use super::reference::{Behaviour, Family, Server};
use super::*;

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
    let mut plan = LoadPlan {
        connections: 0,
        short_lived: 1,
        duration: Duration::from_millis(100),
        ..LoadPlan::new(address)
    };
    // On a busy machine the time may be over before the first attempt.
    let report = loop {
        let report = run(&plan);
        if report.counts.failed_connects > 0 || plan.duration > Duration::from_secs(60) {
            break report;
        }
        plan.duration *= 2;
    };
    assert!(
        report.counts.failed_connects > 0 && report.counts.sent == 0,
        "{report}"
    );
}
