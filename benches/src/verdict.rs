//! Whether a target is met, as far as that can be told.

use std::fmt;

use crate::statistics::Spread;

/// What became of a target. Of several, the greatest is that of all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The whole interval is on the right side.
    Met,
    /// The limit is within the interval.
    Undecided,
    /// There are too few values for an interval.
    Unknown,
    /// The whole interval is on the wrong side.
    Missed,
}

impl Verdict {
    /// Of a figure that is to be so much at most.
    pub fn at_most(found: Spread, limit: f64) -> Self {
        match found.interval {
            None => Verdict::Unknown,
            Some([_, high]) if high <= limit => Verdict::Met,
            Some([low, _]) if low > limit => Verdict::Missed,
            Some(_) => Verdict::Undecided,
        }
    }

    /// Of figures that are all to be so much at most: it is missed if one of them certainly is more, and met if all of them
    /// certainly are not.
    pub fn all_at_most(found: impl IntoIterator<Item = Spread>, limit: f64) -> Self {
        let verdicts = found.into_iter().map(|one| Verdict::at_most(one, limit));
        verdicts.max().unwrap_or(Verdict::Unknown)
    }
}

/// As it stands in a table.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Met => "met",
            Verdict::Undecided => "undecided",
            Verdict::Unknown => "n/a",
            Verdict::Missed => "**missed**",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::spread;

    fn figure(low: f64, high: f64) -> Spread {
        Spread {
            median: low.midpoint(high),
            interval: Some([low, high]),
        }
    }

    #[test]
    fn what_the_interval_leaves_open_is_undecided() {
        let beside_one = |low, high| Verdict::at_most(figure(low, high), 1.0);
        assert_eq!(beside_one(0.8, 1.0), Verdict::Met);
        assert_eq!(beside_one(1.01, 1.1), Verdict::Missed);
        assert_eq!(beside_one(0.68, 1.43), Verdict::Undecided);
        assert_eq!(beside_one(0.3, 1.01), Verdict::Undecided);
    }

    #[test]
    fn a_few_values_decide_nothing() {
        assert_eq!(Verdict::at_most(spread(&[0.5]), 1.0), Verdict::Unknown);
        assert_eq!(Verdict::at_most(spread(&[2.0; 5]), 1.0), Verdict::Unknown);
        assert_eq!(Verdict::at_most(spread(&[0.5; 6]), 1.0), Verdict::Met);
        assert_eq!(Verdict::at_most(spread(&[2.0; 6]), 1.0), Verdict::Missed);
    }

    #[test]
    fn all_are_as_good_as_the_worst() {
        let (below, around, above) = (figure(0.8, 0.9), figure(0.9, 1.1), figure(1.1, 1.2));
        let few = spread(&[0.5]);
        let all = |found: &[Spread]| Verdict::all_at_most(found.iter().copied(), 1.0);
        assert_eq!(all(&[below, below]), Verdict::Met);
        assert_eq!(all(&[below, around, below]), Verdict::Undecided);
        assert_eq!(all(&[below, around, few]), Verdict::Unknown);
        assert_eq!(all(&[above, around, few, below]), Verdict::Missed);
        assert_eq!(all(&[]), Verdict::Unknown);
    }
}
