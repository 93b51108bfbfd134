//! Medians, and how far they can be trusted.

use std::fmt;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// An interval takes so many values. Not even that from the least to the greatest of five holds the median of what they are
/// drawn from in 95 % of all cases, but in 1 - 2 / 2^5, which are 94 %.
const VALUES_MIN: usize = 6;

/// A figure with the interval that holds 95 % of its bootstrap distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The figure itself, not that of the resamples.
    pub median: f64,
    /// Where the interval begins and ends, unless there are too few values for one.
    pub interval: Option<[f64; 2]>,
}

impl Spread {
    /// A figure of so many values, and what became of it in resamples.
    pub(crate) fn of(median: f64, values: usize, resampled: &[f64]) -> Self {
        let interval = [0.025, 0.975].map(|part| quantile(resampled, part));
        Spread {
            median,
            interval: (values >= VALUES_MIN).then_some(interval),
        }
    }

    /// Of a ratio, the one the other way round.
    #[must_use]
    pub fn inverse(self) -> Self {
        Spread {
            median: 1.0 / self.median,
            interval: self.interval.map(|[low, high]| [1.0 / high, 1.0 / low]),
        }
    }

    /// Whether the whole interval is above.
    pub fn is_above(&self, limit: f64) -> bool {
        self.interval.is_some_and(|[low, _]| low > limit)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = self.median;
        match self.interval {
            Some([low, high]) => write!(f, "{median:.2} [{low:.2} {high:.2}]"),
            None => write!(f, "{median:.2} [n/a]"),
        }
    }
}

/// The median; of an even number of values the mean of those in the middle.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Between two values, in proportion.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = part * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

/// The median of these values, resampled.
pub fn spread(values: &[f64]) -> Spread {
    geometric_mean(&[values.to_vec()])
}

/// The geometric mean of the medians of these groups of values, each of them resampled.
pub fn geometric_mean(groups: &[Vec<f64>]) -> Spread {
    // The same in every run: what is measured is to be the only chance in it.
    let mut random = fastrand::Rng::with_seed(7);
    let mean = |median: &mut dyn FnMut(&[f64]) -> f64| {
        let logarithms = groups.iter().map(|group| median(group).ln());
        (logarithms.sum::<f64>() / groups.len() as f64).exp()
    };
    let mut resampled = Vec::new();
    let means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            mean(&mut |group| {
                resampled.clear();
                resampled.extend(group.iter().map(|_| group[random.usize(..group.len())]));
                median(&resampled)
            })
        })
        .collect();
    let values = groups.iter().map(Vec::len).min().unwrap_or(0);
    Spread::of(mean(&mut |group| median(group)), values, &means)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn what_does_not_vary_has_no_spread() {
        let spread = spread(&[2.0; 15]);
        let [low, high] = spread.interval.unwrap();
        assert!((low..=high).contains(&spread.median) && high - low < 1e-9);
        assert_eq!(spread.to_string(), "2.00 [2.00 2.00]");
    }

    #[test]
    fn the_interval_holds_the_median_and_leaves_a_stray_out() {
        let mut values: Vec<f64> = (0..15).map(|step| 1.0 + f64::from(step) / 100.0).collect();
        values[14] = 50.0;
        let Spread { median, interval } = spread(&values);
        let [low, high] = interval.unwrap();
        assert!(1.0 <= low && low < median && median < high && high < 1.14);
    }

    #[test]
    fn a_few_values_have_no_interval() {
        assert_eq!(spread(&[2.0]).to_string(), "2.00 [n/a]");
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0]).interval, None);
        assert!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).interval.is_some());
        let groups = [vec![2.0; 9], vec![2.0; 5]];
        assert_eq!(geometric_mean(&groups).interval, None);
    }

    #[test]
    fn the_other_way_round_the_interval_holds_the_figure_too() {
        let ratio = Spread {
            median: 0.5,
            interval: Some([0.4, 0.8]),
        };
        assert_eq!(ratio.inverse().to_string(), "2.00 [1.25 2.50]");
        assert!(ratio.is_above(0.39) && !ratio.is_above(0.4));
    }

    #[test]
    fn the_geometric_mean_takes_twice_and_half_for_one() {
        let mean = geometric_mean(&[vec![2.0; 9], vec![0.5; 9]]);
        assert!((mean.median - 1.0).abs() < 1e-9);
    }
}
