//! How long requests took, window by window and all together.

use hdrhistogram::Histogram;

use crate::statistics::Spread;

/// Times in nanoseconds.
pub type Times = Histogram<u64>;

/// Resamples of a bootstrap, fewer than of medians: each merges all histograms.
const RESAMPLES: usize = 200;

/// The longest time that is told from longer ones: a minute.
const LONGEST: u64 = 60_000_000_000;

/// None so far; to three digits.
#[expect(
    clippy::unwrap_used,
    reason = "the bounds are in order, and there are at most five digits"
)]
pub fn times() -> Times {
    Histogram::new_with_bounds(1, LONGEST, 3).unwrap()
}

/// Those of all windows: what is rare is in them as often as it happened, while it is not in a median over the windows
/// unless it happened in every second one.
#[expect(
    clippy::unwrap_used,
    reason = "histograms of the same bounds can be added"
)]
pub fn pooled<'t>(windows: impl IntoIterator<Item = &'t Times>) -> Times {
    let mut all = times();
    for window in windows {
        all.add(window).unwrap();
    }
    all
}

/// A quantile of all of one server's requests divided by that of another's, the windows resampled in pairs.
pub fn pooled_ratio(own: &[Times], other: &[Times], quantile: f64) -> Spread {
    let mut random = fastrand::Rng::with_seed(7);
    let count = own.len().min(other.len());
    let ratio = |picked: &[usize]| {
        let level = |windows: &[Times]| {
            let windows = picked.iter().map(|index| &windows[*index]);
            pooled(windows).value_at_quantile(quantile) as f64
        };
        level(own) / level(other)
    };
    let resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            ratio(
                &(0..count)
                    .map(|_| random.usize(..count))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    Spread::of(ratio(&(0..count).collect::<Vec<_>>()), count, &resampled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::median;

    /// Windows of a thousand requests each, of which `stalls` have so many slow ones.
    fn windows(count: usize, stalls: usize, slow: u64) -> Vec<Times> {
        let window = |index| {
            let mut window = times();
            let slow = if index < stalls { slow } else { 0 };
            window.record_n(20_000, 1000 - slow).unwrap();
            window.record_n(5_000_000, slow).unwrap();
            window
        };
        (0..count).map(window).collect()
    }

    fn near(value: u64, expected: u64) -> bool {
        value.abs_diff(expected) <= expected / 500
    }

    #[test]
    fn a_stall_in_fewer_than_half_of_the_windows_is_in_the_pool() {
        let windows = windows(10, 4, 10);
        let each = windows
            .iter()
            .map(|one| one.value_at_quantile(0.999) as f64);
        assert!(near(median(&each.collect::<Vec<_>>()) as u64, 20_000));
        let all = pooled(&windows);
        assert_eq!(all.len(), 10_000);
        assert!(near(all.value_at_quantile(0.999), 5_000_000));
        assert!(near(all.max(), 5_000_000));
        assert!(near(all.value_at_quantile(0.5), 20_000));
    }

    #[test]
    fn a_pool_of_none_is_empty() {
        assert_eq!(pooled(&[]).len(), 0);
    }

    #[test]
    fn the_interval_of_a_ratio_says_how_few_stalls_there_were() {
        let (calm, stalled) = (windows(6, 0, 0), windows(6, 1, 5));
        // Five of 6,000 requests are less than the slowest thousandth, but in every fourth resample there are ten.
        assert_eq!(
            pooled_ratio(&calm, &calm, 0.999).to_string(),
            "1.00 [1.00 1.00]"
        );
        let ratio = pooled_ratio(&stalled, &calm, 0.999);
        assert!(ratio.median < 1.1, "{ratio}");
        assert!(ratio.interval.unwrap()[1] > 200.0, "{ratio}");
    }

    #[test]
    fn a_few_windows_have_no_interval() {
        let few = windows(5, 0, 0);
        assert_eq!(pooled_ratio(&few, &few, 0.999).interval, None);
    }
}
