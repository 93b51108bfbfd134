//! What a load found out.

use std::fmt;
use std::ops::{AddAssign, Sub};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::histogram::{Latency, Nanoseconds};
use crate::Address;

/// Everything that is counted, over all connections and the whole run, warm-up included.
///
/// Each request that was sent ends as exactly one of answered, wrong, error or lost:
/// `sent = answered + wrong + errors + lost` once the load is over. In
/// [`Mode::Notify`](super::Mode::Notify) nothing is answered, so only `sent` counts of these. With a
/// sequence to check, [`Mode::Subscribe`](super::Mode::Subscribe) counts lost and wrong
/// notifications too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Messages handed to the system whole. One that a disconnect cut off before is not counted.
    pub sent: u64,
    /// Requests that were answered rightly.
    pub answered: u64,
    /// Requests that were never answered: not when the connection went, not until the drain was over.
    pub lost: u64,
    /// Replies to a request that was answered before, or that was never made.
    pub repeated: u64,
    /// Replies whose result was not the one expected.
    pub wrong: u64,
    /// Replies that were an error of the server.
    pub errors: u64,
    /// Connections given up because the server sent something that is not MessagePack-RPC, or a frame
    /// that exceeds the [limits](super::LoadPlan::limits) of the load; and those that the server ended in the middle of a
    /// frame although the load had ended them in order. (One cut before is a [disconnect](Self::disconnects).)
    pub violations: u64,
    /// Notifications received.
    pub notifications: u64,
    /// Connections made.
    pub opened: u64,
    /// Connections that the server ended or cut before the load had ended them.
    pub disconnects: u64,
    /// Connections with which the load could not come to its end: when the [drain](super::LoadPlan::drain) was over, bytes
    /// still waited to be written or, in [`Mode::Notify`](super::Mode::Notify), the server's end of stream had not come
    /// or, in [`Mode::Call`](super::Mode::Call), a frame had begun to come and not ended.
    pub unfinished: u64,
    /// Attempts to connect that failed. Those for which this machine had no port or descriptor left are tried
    /// again and not counted.
    pub failed_connects: u64,
    /// Bytes written.
    pub bytes_sent: u64,
    /// Bytes read.
    pub bytes_received: u64,
}

impl Counts {
    /// Calls `f` with each counter of both.
    fn zip(&mut self, other: &Self, f: impl Fn(&mut u64, u64)) {
        f(&mut self.sent, other.sent);
        f(&mut self.answered, other.answered);
        f(&mut self.lost, other.lost);
        f(&mut self.repeated, other.repeated);
        f(&mut self.wrong, other.wrong);
        f(&mut self.errors, other.errors);
        f(&mut self.violations, other.violations);
        f(&mut self.notifications, other.notifications);
        f(&mut self.opened, other.opened);
        f(&mut self.disconnects, other.disconnects);
        f(&mut self.unfinished, other.unfinished);
        f(&mut self.failed_connects, other.failed_connects);
        f(&mut self.bytes_sent, other.bytes_sent);
        f(&mut self.bytes_received, other.bytes_received);
    }

    /// Whether nothing is counted that should not happen.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let Self {
            lost,
            repeated,
            wrong,
            errors,
            violations,
            disconnects,
            unfinished,
            failed_connects,
            ..
        } = self;
        [
            lost,
            repeated,
            wrong,
            errors,
            violations,
            disconnects,
            unfinished,
            failed_connects,
        ]
        .iter()
        .all(|count| **count == 0)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.zip(&other, |mine, theirs| *mine += theirs);
    }
}

impl Sub for Counts {
    type Output = Self;

    /// What was counted since `earlier`. Never below zero.
    fn sub(mut self, earlier: Self) -> Self {
        self.zip(&earlier, |mine, theirs| *mine = mine.saturating_sub(theirs));
        self
    }
}

/// The state of a load that is running.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// The time since the load began.
    pub elapsed: Duration,
    /// What was counted so far.
    pub counts: Counts,
    /// What was counted since the last call.
    pub recent: Counts,
    /// The time since the last call.
    pub recent_time: Duration,
}

/// What a load found out. Shown to people by `Display`; its serialized form has the same numbers.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LoadReport {
    /// The server.
    pub address: Address,
    /// What was counted, over the whole run.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages of the planned count that were not sent (or not received, for a subscriber) before
    /// the load ended. 0 without a count.
    pub unsent: u64,
    /// Messages that an open loop's [schedule](super::LoadPlan::rate) wanted sent before the sending ended, and that no
    /// connection had room for: the server did not keep up. That is no fault, so a load with such messages may be
    /// [clean](Self::is_clean); [`latency`](Self::latency) has them. With a count they are among the `unsent`, too. 0
    /// without a rate.
    pub overdue: u64,
    /// Whether the load ended before its time because nothing moved any more: requests or bytes were
    /// outstanding, and no byte came or was taken for a second, or for the
    /// [drain](super::LoadPlan::drain) if that is longer.
    pub stalled: bool,
    /// How long was measured: from the end of the warm-up until the sending ended or, when a count
    /// ended it, until the last reply. In seconds when serialized.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub duration: Duration,
    /// Messages in that time: right replies, or notifications sent or received in the modes without replies.
    pub measured: u64,
    /// Measured messages a second.
    pub messages_per_second: f64,
    /// Bytes written a second in that time.
    pub bytes_sent_per_second: f64,
    /// Bytes read a second in that time.
    pub bytes_received_per_second: f64,
    /// The latencies of the right replies to the requests that were sent after the warm-up. Of a request that was
    /// [overdue](Self::overdue), the time from when it was due until the sending ended.
    pub latency: Latency,
    /// The longest time that any one connection waited for its next reply, in nanoseconds: between
    /// two replies, or from the request that found nothing outstanding to its reply. Measured over
    /// the whole run. A request that is never answered does not count here.
    pub longest_gap_ns: u64,
    /// The first things that went wrong, in words.
    pub problems: Vec<String>,
}

impl LoadReport {
    /// Whether every request was answered exactly once and rightly, nothing was cut, nothing of the
    /// plan was left undone, and anything was sent, and measured, at all. An open loop that the server was too slow for is
    /// clean all the same: [`overdue`](Self::overdue) tells.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let any = self.counts.sent > 0 && self.is_measured();
        any && self.counts.is_clean() && self.unsent == 0 && !self.stalled
    }

    /// Whether there is a throughput or a latency. A reply that comes after the sending ended has a latency only.
    pub(super) fn is_measured(&self) -> bool {
        self.measured > 0 || self.latency.count() > 0
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(f, "server      {}", self.address)?;
        writeln!(
            f,
            "throughput  {} over {}, {} out, {} in",
            Scaled(self.messages_per_second, " messages/s"),
            Nanoseconds::from(self.duration),
            Scaled(self.bytes_sent_per_second, "B/s"),
            Scaled(self.bytes_received_per_second, "B/s")
        )?;
        if self.latency.count() > 0 {
            writeln!(f, "latency     {}", self.latency)?;
            writeln!(f, "longest gap {}", Nanoseconds(self.longest_gap_ns))?;
        }
        writeln!(
            f,
            "sent        {}, answered {}",
            counts.sent, counts.answered
        )?;
        if counts.notifications > 0 {
            writeln!(f, "received    {} notifications", counts.notifications)?;
        }
        writeln!(
            f,
            "faults      lost {}, repeated {}, wrong {}, errors {}, violations {}",
            counts.lost, counts.repeated, counts.wrong, counts.errors, counts.violations
        )?;
        write!(
            f,
            "connections {} opened, {} disconnects, {} unfinished, {} failed to connect",
            counts.opened, counts.disconnects, counts.unfinished, counts.failed_connects
        )?;
        if self.unsent > 0 {
            write!(f, "\nmissing     {} of the planned messages", self.unsent)?;
        }
        if self.overdue > 0 {
            write!(
                f,
                "\noverdue     {} messages were due and found no connection with room",
                self.overdue
            )?;
        }
        if self.stalled {
            f.write_str("\nstalled     the load ended early, because nothing moved any more")?;
        }
        for problem in &self.problems {
            write!(f, "\nproblem     {problem}")?;
        }
        Ok(())
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Displays a number with three digits, the prefix that suits it, and its unit.
struct Scaled(f64, &'static str);

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value, unit) = *self;
        let (value, prefix) = match value {
            1e9.. => (value / 1e9, "G"),
            1e6.. => (value / 1e6, "M"),
            1e4.. => (value / 1e3, "k"),
            _ => return write!(f, "{value:.0} {}", unit.trim_start()),
        };
        let decimals = if value < 10.0 {
            2
        } else {
            usize::from(value < 100.0)
        };
        write!(f, "{value:.decimals$} {prefix}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_fault_makes_it_unclean() {
        assert!(
            Counts {
                sent: 9,
                answered: 9,
                notifications: 1,
                opened: 1,
                ..Counts::default()
            }
            .is_clean()
        );
        let faults: [fn(&mut Counts) -> &mut u64; 8] = [
            |counts| &mut counts.lost,
            |counts| &mut counts.repeated,
            |counts| &mut counts.wrong,
            |counts| &mut counts.errors,
            |counts| &mut counts.violations,
            |counts| &mut counts.disconnects,
            |counts| &mut counts.unfinished,
            |counts| &mut counts.failed_connects,
        ];
        for fault in faults {
            let mut counts = Counts::default();
            *fault(&mut counts) = 1;
            assert!(!counts.is_clean(), "{counts:?}");
        }
    }

    #[test]
    fn sums_and_differences_touch_every_counter() {
        let mut counts = Counts::default();
        let mut value = 0;
        for counter in [
            &mut counts.sent,
            &mut counts.bytes_received,
            &mut counts.failed_connects,
        ] {
            value += 1;
            *counter = value;
        }
        let mut twice = counts;
        twice += counts;
        assert_eq!(
            (twice.sent, twice.bytes_received, twice.failed_connects),
            (2, 4, 6)
        );
        assert_eq!(twice - counts, counts);
        assert_eq!(counts - twice, Counts::default());
    }

    fn report(counts: Counts) -> LoadReport {
        LoadReport {
            address: "127.0.0.1:4660".parse().unwrap(),
            counts,
            unsent: 0,
            overdue: 0,
            stalled: false,
            duration: Duration::from_millis(1500),
            measured: 6,
            messages_per_second: 4.0,
            bytes_sent_per_second: 0.0,
            bytes_received_per_second: 0.0,
            latency: Latency::new(),
            longest_gap_ns: 9,
            problems: vec!["one".to_owned()],
        }
    }

    #[test]
    fn a_load_that_sent_or_measured_nothing_or_stalled_or_left_something_out_is_not_clean() {
        let counts = Counts {
            sent: 1,
            ..Counts::default()
        };
        assert!(report(counts).is_clean());
        assert!(!report(Counts::default()).is_clean());
        let changes: [fn(&mut LoadReport); 3] = [
            |report| report.stalled = true,
            |report| report.unsent = 1,
            |report| report.measured = 0,
        ];
        for change in changes {
            let mut report = report(counts);
            change(&mut report);
            assert!(!report.is_clean(), "{report}");
        }
    }

    #[test]
    fn its_serialized_form_is_flat() {
        let counts = Counts {
            sent: 7,
            lost: 1,
            ..Counts::default()
        };
        let report = report(counts);
        let bytes = rmp_serde::to_vec_named(&report).unwrap();
        let value = rmpv::decode::read_value(&mut &bytes[..]).unwrap();
        let field = |name: &str| {
            let fields = value.as_map().unwrap();
            let (_, field) = fields
                .iter()
                .find(|(key, _)| key.as_str() == Some(name))
                .unwrap();
            field.clone()
        };
        assert_eq!(field("address"), "127.0.0.1:4660".into());
        assert_eq!(
            (field("sent"), field("lost"), field("measured")),
            (7.into(), 1.into(), 6.into())
        );
        assert_eq!(field("seconds"), rmpv::Value::F64(1.5));
        assert_eq!(field("latency").as_map().unwrap()[7].0, "max_ns".into());
        assert!(!report.is_clean());
        assert!(report.to_string().contains("lost 1"), "{report}");
    }

    #[test]
    fn is_shown_with_units() {
        let cases = [
            (0.0, " m/s", "0 m/s"),
            (9_999.0, "B/s", "9999 B/s"),
            (12_345.0, " m/s", "12.3 k m/s"),
            (1.5e6, "B/s", "1.50 MB/s"),
            (2e9, "B/s", "2.00 GB/s"),
        ];
        for (value, unit, text) in cases {
            assert_eq!(Scaled(value, unit).to_string(), text);
        }
    }
}
