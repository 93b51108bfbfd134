//! The load generator finds each fault of a server, counts it exactly, and ends whatever the server does.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod endings;
mod faults;
mod plans;
#[path = "../reference/mod.rs"]
mod reference;

use std::ops::ControlFlow;
use std::time::Duration;

use ringhold_client::load::{self, Counts, LoadPlan, LoadReport, Mode};

use self::reference::{Behaviour, Server};

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
