//! The methods that a router has without being told.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use ringhold_core::Worker;
use ringhold_core::metrics::{EngineTotals, NameTotals, OwnMetric, Snapshot};
use serde::Serialize;

use crate::fault::Fault;
use crate::methods::Methods;
use crate::params;

/// From this length on `echo` keeps the parameters where they were received instead of copying them.
const KEEP_BYTES_MIN: usize = 32 * 1024;

/// The built-in methods. Those that ask the server wait for [`bind`].
pub(crate) fn methods() -> Methods {
    let mut methods = Methods::default();
    methods.insert_builtin("ping", "answers \"pong\"", |_, answer| {
        answer.encoded(b"\xa4pong")
    });
    methods.insert_builtin("echo", "gives its parameter back", |call, answer| {
        let object = params::only(call.params()).unwrap_or(call.params());
        if object.len() < KEEP_BYTES_MIN {
            answer.encoded(object)
        } else {
            answer.share(call.keep(object))
        }
    });
    methods.insert_builtin(
        "time",
        "the server's clock: seconds and nanoseconds since 1970-01-01 UTC",
        |call, answer| answer.result(call.decode().and_then(|()| Time::now())),
    );
    for (name, description) in [METHODS, STATUS] {
        methods.insert_builtin(name, description, |_, answer| {
            answer.fault(Fault::new("the router is not served yet"))
        });
    }
    methods
}

pub(crate) const METHODS: (&str, &str) = ("methods", "the methods and what they do");
const STATUS: (&str, &str) = ("status", "the server's counters");

/// Gives the methods that ask the server what they need.
pub(crate) fn bind(methods: &mut Methods, worker: &Worker) {
    if methods.has_builtin(METHODS.0) {
        let list = methods.list().into_iter();
        let list: BTreeMap<String, String> = list
            .map(|(name, description)| (name.to_owned(), description.to_owned()))
            .collect();
        methods.insert_builtin(METHODS.0, METHODS.1, move |call, answer| {
            answer.result(call.decode().map(|()| &list))
        });
    }
    if methods.has_builtin(STATUS.0) {
        let metrics = worker.metrics().clone();
        methods.insert_builtin(STATUS.0, STATUS.1, move |call, answer| {
            answer.result(call.decode().map(|()| Status::from(metrics.snapshot())))
        });
    }
}

/// A map rather than msgpack's timestamp, which is an extension type that many clients do not decode by themselves.
#[derive(Serialize)]
struct Time {
    seconds: u64,
    nanoseconds: u32,
}

impl Time {
    fn now() -> Result<Self, Fault> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Time {
            seconds: since.as_secs(),
            nanoseconds: since.subsec_nanos(),
        })
    }
}

/// The counters, with the socket names as keys.
#[derive(Serialize)]
struct Status {
    uptime_seconds: f64,
    memory_bytes: u64,
    owed: u64,
    /// Over all workers.
    names: BTreeMap<String, NameTotals>,
    workers: Vec<WorkerStatus>,
    own: Vec<OwnMetric>,
}

#[derive(Serialize)]
struct WorkerStatus {
    engine: EngineTotals,
    names: BTreeMap<String, NameTotals>,
}

impl From<Snapshot> for Status {
    fn from(snapshot: Snapshot) -> Self {
        let mut names: BTreeMap<String, NameTotals> = BTreeMap::new();
        for worker in &snapshot.workers {
            for (name, counters) in &worker.names {
                names.entry(name.clone()).or_default().add(counters);
            }
        }
        let workers = snapshot
            .workers
            .into_iter()
            .map(|worker| WorkerStatus {
                engine: worker.engine,
                names: worker.names.into_iter().collect(),
            })
            .collect();
        Status {
            uptime_seconds: snapshot.uptime_seconds,
            memory_bytes: snapshot.memory_bytes,
            owed: snapshot.owed,
            names,
            workers,
            own: snapshot.own,
        }
    }
}
