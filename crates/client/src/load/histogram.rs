//! Latencies.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// A distribution of times in nanoseconds, exact to three digits from 1 ns to one hour.
///
/// Its serialized form is a summary: `count`, `min_ns`, `mean_ns`, `p50_ns`, `p90_ns`, `p99_ns`,
/// `p999_ns`, `max_ns`.
#[derive(Clone, PartialEq)]
pub struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    pub(crate) fn new() -> Self {
        #[expect(
            clippy::expect_used,
            reason = "the bounds are constants that the constructor accepts"
        )]
        let histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("valid bounds");
        Self { histogram }
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.histogram.saturating_record(nanoseconds);
    }

    /// Records the ages of things, none of which is older than `oldest`, of which `younger(age)` are younger than an age:
    /// by what the distribution can tell apart, since they may be very many.
    pub(crate) fn record_ages(&mut self, oldest: u64, younger: impl Fn(u64) -> u64) {
        let (mut age, mut counted) = (0, 0);
        while age <= oldest {
            let next = self.histogram.next_non_equivalent(age).min(oldest + 1);
            let all = younger(next);
            // Recording none would still count as the shortest or the longest.
            if all > counted {
                self.histogram.saturating_record_n(age, all - counted);
            }
            (age, counted) = (next, all);
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        // Both have the same bounds, so every value of one has a place in the other.
        let _ = self.histogram.add(&other.histogram);
    }

    /// How many times were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The time that this part of all, in percent, did not exceed; 0 if there are none.
    ///
    /// ```
    /// # use ringhold_client::load::LoadReport;
    /// # fn show(report: &LoadReport) {
    /// println!("half of the replies took at most {} ns", report.latency.percentile(50.0));
    /// # }
    /// ```
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        self.histogram.value_at_percentile(percent)
    }

    /// The shortest time in nanoseconds; 0 if there are none.
    #[must_use]
    pub fn min(&self) -> u64 {
        self.histogram.min()
    }

    /// The longest time in nanoseconds; 0 if there are none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.histogram.max()
    }

    /// The mean in nanoseconds; 0 if there are none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.histogram.mean()
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |percent| Nanoseconds(self.percentile(percent));
        write!(
            f,
            "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            show(50.0),
            show(90.0),
            show(99.0),
            show(99.9),
            Nanoseconds(self.max())
        )
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latency({} times, {self})", self.count())
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut summary = serializer.serialize_struct("Latency", 8)?;
        summary.serialize_field("count", &self.count())?;
        summary.serialize_field("min_ns", &self.min())?;
        summary.serialize_field("mean_ns", &self.mean())?;
        summary.serialize_field("p50_ns", &self.percentile(50.0))?;
        summary.serialize_field("p90_ns", &self.percentile(90.0))?;
        summary.serialize_field("p99_ns", &self.percentile(99.0))?;
        summary.serialize_field("p999_ns", &self.percentile(99.9))?;
        summary.serialize_field("max_ns", &self.max())?;
        summary.end()
    }
}

/// Displays nanoseconds in the unit that suits them, with three digits, as the histogram has.
pub(crate) struct Nanoseconds(pub(crate) u64);

impl fmt::Display for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0 as f64;
        let (value, unit) = match self.0 {
            0..1_000 => return write!(f, "{} ns", self.0),
            1_000..1_000_000 => (value / 1e3, "µs"),
            1_000_000..1_000_000_000 => (value / 1e6, "ms"),
            _ => (value / 1e9, "s"),
        };
        let decimals = if value < 10.0 {
            2
        } else {
            usize::from(value < 100.0)
        };
        write!(f, "{value:.decimals$} {unit}")
    }
}

impl From<Duration> for Nanoseconds {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_percentiles() {
        let mut latency = Latency::new();
        assert_eq!(
            (latency.min(), latency.max(), latency.percentile(50.0)),
            (0, 0, 0)
        );
        for value in 1..=1000 {
            latency.record(value);
        }
        let mut other = Latency::new();
        other.record(5_000_000_000_000);
        latency.merge(&other);
        assert_eq!(latency.count(), 1001);
        assert_eq!(latency.percentile(50.0), 501);
        assert_eq!(latency.min(), 1);
        assert!(latency.max() >= 3_600_000_000_000);
    }

    #[test]
    fn shows_three_digits() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_500, "1.50 µs"),
            (12_345, "12.3 µs"),
            (123_456_789, "123 ms"),
            (2_000_000_000, "2.00 s"),
        ];
        for (value, text) in cases {
            assert_eq!(Nanoseconds(value).to_string(), text);
        }
    }
}
