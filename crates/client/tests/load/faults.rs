//! What a server does wrong, and how it is counted and told.

use ringhold_client::Limits;
use ringhold_client::load::LoadPlan;
use rmpv::Value;

use super::reference::{Behaviour, Fault, Server};
use super::*;

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
fn what_came_with_a_violation_is_measured() {
    // The second request is answered together with the first, and with what is no message.
    let behaviour = Behaviour {
        gather: 2,
        ..Behaviour::faulty([(1, Fault::Bytes(b"\xc1".to_vec()))])
    };
    let report = check(
        behaviour,
        |plan| {
            (plan.connections, plan.depth, plan.count) = (1, 2, Some(2));
            plan.reconnect = false;
        },
        with(|counts| {
            (counts.sent, counts.answered, counts.opened) = (2, 1, 1);
            (counts.violations, counts.lost) = (1, 1);
        }),
    );
    assert!(!report.duration.is_zero(), "{report}");
    assert!(report.longest_gap_ns > 0, "{report}");
}
