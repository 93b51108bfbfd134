//! What load to put on a server.

use std::fmt;
use std::time::Duration;

use ringhold_framer::Limits;

use crate::Address;
use crate::params::Checker;

/// A load: against whom, how much, how long. Every field may be set; [`new`](Self::new) fills in the defaults.
///
/// ```
/// use ringhold_client::load::LoadPlan;
/// let address = "127.0.0.1:4660".parse().unwrap();
/// let plan = LoadPlan { connections: 16, depth: 32, payload: 200, ..LoadPlan::new(address) };
/// assert!(plan.check().is_ok());
/// ```
///
/// The load always ends: by its [`count`](Self::count), by its [`duration`](Self::duration),
/// whichever comes first, or because nothing more can be done: no connection is left, or it
/// [stalled](super::LoadReport::stalled).
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The server.
    pub address: Address,
    /// What is sent and what must come back. [`Mode::Call`].
    pub mode: Mode,
    /// Connections that stay: each must see no disconnect. 1.
    pub connections: usize,
    /// Connections that come and go besides those that stay: each sends
    /// [`requests_per_connection`](Self::requests_per_connection) requests, reads the replies and
    /// the server's end of stream, and opens anew. This is how many there are at a time. 0.
    pub short_lived: usize,
    /// The requests of a short-lived connection. 1.
    pub requests_per_connection: u64,
    /// How many requests of a connection may be unanswered at a time. 1. A subscriber makes only one.
    pub depth: u32,
    /// The bytes of the payload, a bin, in each request or notification. 64. With fewer than 8, several have the same. A
    /// subscriber sends its own parameters.
    pub payload: usize,
    /// The method of the requests or notifications. `echo`.
    pub method: String,
    /// Where the payload is in a right reply. [`Echo::First`].
    pub echo: Echo,
    /// Messages a second over all connections, sent on schedule whether or not replies come (open
    /// loop), as far as [`depth`](Self::depth) allows. Latency then counts from the moment at which
    /// the schedule wanted the message sent, so a stall of the server is charged to every message
    /// that it delayed; those that it kept from being sent at all are
    /// [overdue](super::LoadReport::overdue). `None` sends as fast as replies come back (closed loop). A subscriber sends
    /// nothing, so it has no rate.
    pub rate: Option<f64>,
    /// Ends the sending after so many messages in all (in [`Mode::Subscribe`]: after so many were
    /// received). `None`.
    pub count: Option<u64>,
    /// How long messages are sent, not counting the warm-up. With a count it is the bound. 10 seconds.
    pub duration: Duration,
    /// How long the load runs before latency and throughput are measured. Replies are checked, and
    /// counted, in the warm-up too. 0.
    pub warmup: Duration,
    /// How long to wait for replies, or in [`Mode::Notify`] for the server's end of stream, after the
    /// last message was sent, before they count as lost or missing. 5 seconds.
    pub drain: Duration,
    /// How long connecting may take. 5 seconds.
    pub connect_timeout: Duration,
    /// Whether a connection that the server cut is opened anew. It counts as a disconnect either
    /// way. True.
    pub reconnect: bool,
    /// The threads that make the load; the connections are dealt to them. 1.
    pub threads: usize,
    /// What a frame from the server may cost. 16 MiB and 128 levels; a larger one costs the
    /// connection and is counted as a violation.
    pub limits: Limits,
}

impl LoadPlan {
    /// One connection, one request at a time, for ten seconds.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            mode: Mode::Call,
            connections: 1,
            short_lived: 0,
            requests_per_connection: 1,
            depth: 1,
            payload: 64,
            method: "echo".to_owned(),
            echo: Echo::First,
            rate: None,
            count: None,
            duration: Duration::from_secs(10),
            warmup: Duration::ZERO,
            drain: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            reconnect: true,
            threads: 1,
            limits: Limits::default(),
        }
    }

    /// Tells whether the plan can be carried out.
    ///
    /// # Errors
    /// The first field that cannot be, and why.
    pub fn check(&self) -> Result<(), PlanError> {
        let all = self.connections.saturating_add(self.short_lived);
        if all == 0 || all > MAX_CONNECTIONS {
            return refuse(
                "connections",
                "there must be from 1 to 1048576, persistent and short-lived together",
            );
        }
        if self.threads == 0 || self.threads > all {
            return refuse(
                "threads",
                "there must be at least one and at most one for each connection",
            );
        }
        if self.depth == 0 || self.depth > MAX_DEPTH {
            return refuse("depth", "it must be from 1 to 1048576");
        }
        if all as u64 * u64::from(self.window()) > MAX_OUTSTANDING {
            return refuse(
                "depth",
                "at most 16777216 requests may be unanswered at a time, over all connections",
            );
        }
        if self.count == Some(0) {
            return refuse("count", "there must be at least one message");
        }
        if self.payload > self.limits.frame_bytes as usize / 2 {
            return refuse("payload", "it must be at most half of the largest frame");
        }
        if self.method.len() > 4096 {
            return refuse("method", "its name must be at most 4096 bytes");
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e9)) {
            return refuse(
                "rate",
                "it must be above 0 and at most 1e9 messages a second",
            );
        }
        if let Mode::Subscribe { params, .. } = &self.mode {
            if self.rate.is_some() {
                return refuse("rate", "a subscriber sends one request and then nothing");
            }
            if let Err(why) = Checker::new(self.limits).params(params) {
                return refuse("params", &why);
            }
        }
        self.check_times()?;
        if self.short_lived > 0 && (self.requests_per_connection == 0 || self.mode != Mode::Call) {
            return refuse(
                "short_lived",
                "such connections call, and make at least one request each",
            );
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), PlanError> {
        if self.duration.is_zero() {
            return refuse("duration", "it must be above zero");
        }
        for (field, time) in [
            ("duration", self.duration),
            ("warmup", self.warmup),
            ("drain", self.drain),
        ] {
            if time > LONGEST {
                return refuse(field, "it may be 30 days at most");
            }
        }
        Ok(())
    }

    /// How many requests of one connection are ever unanswered at a time.
    pub(crate) fn window(&self) -> u32 {
        match self.mode {
            Mode::Call => self.depth,
            Mode::Notify => 0,
            Mode::Subscribe { .. } => 1,
        }
    }
}

fn refuse(field: &'static str, why: &str) -> Result<(), PlanError> {
    let why = why.to_owned();
    Err(PlanError { field, why })
}

/// More than a process may have open on a usual machine.
const MAX_CONNECTIONS: usize = 1 << 20;
const MAX_DEPTH: u32 = 1 << 20;
/// Each takes up to 64 bytes, so all of them 1 GiB.
const MAX_OUTSTANDING: u64 = 1 << 24;
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a load sends, and what must come back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Requests, each of which must be answered exactly once, with its own payload.
    Call,
    /// Notifications, as many as the server takes: one-way ingest, nothing comes back. At the end
    /// the sending side is closed, and the server's end of stream waited for: the only sign that
    /// everything was taken. A connection without it counts as [unfinished](super::Counts::unfinished).
    Notify,
    /// One request on each connection to begin with, which must be answered, then nothing: what the
    /// server pushes is read, checked and counted.
    Subscribe {
        /// The encoded parameters of the request, one msgpack array; the method is that of the plan.
        params: Vec<u8>,
        /// Whether the first parameter of each notification is a number that goes up by one on each
        /// connection. Gaps then count as lost, steps back as repeated.
        sequence: bool,
    },
}

/// What the server under load makes of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// The result is the first parameter: `echo(x)` is `x`.
    First,
    /// The result is the array of all parameters: `echo(x)` is `[x]`.
    All,
}

/// A plan that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    field: &'static str,
    why: String,
}

impl PlanError {
    /// The field of the [`LoadPlan`], or of its [`Mode`], that cannot be carried out.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What it has to be.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

impl std::error::Error for PlanError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_cannot_be_is_refused_by_field() {
        let plan = LoadPlan::new("127.0.0.1:1".parse().unwrap());
        assert_eq!(plan.check(), Ok(()));
        type Change = fn(&mut LoadPlan);
        let changes: [(&str, Change); 20] = [
            ("connections", |plan| plan.connections = 0),
            ("connections", |plan| plan.connections = usize::MAX),
            ("connections", |plan| {
                (plan.connections, plan.short_lived) = (usize::MAX, 1);
            }),
            ("connections", |plan| {
                (plan.connections, plan.short_lived) = (0, usize::MAX);
            }),
            ("connections", |plan| plan.short_lived = MAX_CONNECTIONS),
            ("depth", |plan| {
                (plan.connections, plan.depth) = (17, MAX_DEPTH)
            }),
            ("threads", |plan| plan.threads = 0),
            ("threads", |plan| plan.threads = 2),
            ("depth", |plan| plan.depth = 0),
            ("depth", |plan| plan.depth = MAX_DEPTH + 1),
            ("count", |plan| plan.count = Some(0)),
            ("payload", |plan| plan.payload = 9 << 20),
            ("method", |plan| plan.method = "m".repeat(5000)),
            ("rate", |plan| plan.rate = Some(f64::NAN)),
            ("rate", |plan| {
                let (params, sequence) = (vec![0x90], false);
                plan.mode = Mode::Subscribe { params, sequence };
                plan.rate = Some(1.0);
            }),
            ("duration", |plan| plan.duration = Duration::ZERO),
            ("warmup", |plan| plan.warmup = LONGEST * 2),
            ("drain", |plan| plan.drain = Duration::MAX),
            ("short_lived", |plan| {
                (plan.short_lived, plan.requests_per_connection) = (1, 0)
            }),
            ("short_lived", |plan| {
                (plan.short_lived, plan.mode) = (1, Mode::Notify)
            }),
        ];
        for (field, change) in changes {
            let mut changed = plan.clone();
            change(&mut changed);
            assert_eq!(changed.check().unwrap_err().field, field);
        }
    }

    #[test]
    fn a_subscriber_needs_one_array() {
        let mut plan = LoadPlan::new("127.0.0.1:1".parse().unwrap());
        let mut check = |params: &[u8]| {
            let (params, sequence) = (params.to_vec(), false);
            plan.mode = Mode::Subscribe { params, sequence };
            plan.check().map_err(|error| error.field())
        };
        assert_eq!(check(b"\x92\x01\xa1x"), Ok(()));
        for bad in [
            &b""[..],
            b"\x01",
            b"\x91",
            b"\x90\x90",
            b"\xc1",
            b"\x91\xc1",
        ] {
            assert_eq!(check(bad), Err("params"), "{bad:x?}");
        }
    }

    #[test]
    fn the_depth_bounds_only_who_waits_for_replies() {
        let plan = LoadPlan {
            connections: 16,
            depth: MAX_DEPTH,
            ..LoadPlan::new("127.0.0.1:1".parse().unwrap())
        };
        assert_eq!((plan.check(), plan.window()), (Ok(()), MAX_DEPTH));
        let (params, sequence) = (vec![0x90], false);
        for (mode, window) in [(Mode::Notify, 0), (Mode::Subscribe { params, sequence }, 1)] {
            let connections = MAX_CONNECTIONS;
            let plan = LoadPlan {
                mode,
                connections,
                ..plan.clone()
            };
            assert_eq!((plan.check(), plan.window()), (Ok(()), window));
        }
    }
}
