//! Medians, and how far they can be trusted.

use std::fmt;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// A figure with the interval that holds 95 % of its bootstrap distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { median, low, high } = self;
        write!(f, "{median:.2} [{low:.2} {high:.2}]")
    }
}

/// The median; of an even number of values the mean of those in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
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
pub(crate) fn spread(values: &[f64]) -> Spread {
    geometric_mean(&[values.to_vec()])
}

/// The geometric mean of the medians of these groups of values, each of them resampled.
pub(crate) fn geometric_mean(groups: &[Vec<f64>]) -> Spread {
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
    Spread {
        median: mean(&mut |group| median(group)),
        low: quantile(&means, 0.025),
        high: quantile(&means, 0.975),
    }
}
