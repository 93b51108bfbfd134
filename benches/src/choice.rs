//! Which of several is the best, and how far something else is from it, by different rounds.
//!
//! The one that is chosen by some rounds was lucky in them, the more so the more there are to choose from. So what it is
//! compared by are the others: there it is as lucky as anybody.
//! It need not be the best, though, where they differ by less than their rounds do.

use crate::statistics::median;

/// The rounds that choose: every second one, or the only one.
pub fn choosing<T>(rounds: &[T]) -> impl Iterator<Item = &T> {
    let first = usize::from(rounds.len() > 1);
    rounds.iter().skip(first).step_by(2)
}

/// The rounds that judge what was chosen: those in between.
pub fn judging<T>(rounds: &[T]) -> impl Iterator<Item = &T> {
    rounds.iter().step_by(2)
}

/// The place of the candidate with the least median in the rounds that choose.
pub fn least(candidates: &[Vec<f64>]) -> Option<usize> {
    let level = |rounds: &[f64]| median(&choosing(rounds).copied().collect::<Vec<_>>());
    let levels = candidates.iter().map(|rounds| level(rounds)).enumerate();
    let least = levels.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    Some(least.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_either_chooses_or_judges() {
        for count in [2_u32, 3, 10, 15] {
            let rounds: Vec<u32> = (0..count).collect();
            let mut all: Vec<u32> = choosing(&rounds).chain(judging(&rounds)).copied().collect();
            all.sort_unstable();
            assert_eq!(all, rounds);
        }
    }

    #[test]
    fn the_only_round_does_both() {
        assert_eq!(choosing(&[7]).collect::<Vec<_>>(), [&7]);
        assert_eq!(judging(&[7]).collect::<Vec<_>>(), [&7]);
        assert_eq!(choosing::<u8>(&[]).count(), 0);
    }

    #[test]
    fn what_one_was_chosen_for_is_not_what_it_is_judged_by() {
        let lucky_when_chosen = vec![3.0, 1.0, 3.0, 1.0, 3.0];
        let lucky_when_judged = vec![1.0, 2.0, 1.0, 2.0, 1.0];
        let candidates = [lucky_when_judged, lucky_when_chosen.clone()];
        assert_eq!(least(&candidates), Some(1));
        assert!(judging(&lucky_when_chosen).all(|cost| *cost == 3.0));
        assert_eq!(least(&[]), None);
    }

    #[test]
    fn alike_candidates_are_judged_alike() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut judged, mut chosen) = (Vec::new(), Vec::new());
        for _ in 0..400 {
            let candidates: Vec<Vec<f64>> = (0..4)
                .map(|_| (0..10).map(|_| 1.0 + random.f64()).collect())
                .collect();
            let best = &candidates[least(&candidates).unwrap()];
            judged.extend(judging(best));
            chosen.extend(choosing(best));
        }
        // The mean of each is 1.5.
        let mean = |costs: &[f64]| costs.iter().sum::<f64>() / costs.len() as f64;
        assert!((mean(&judged) - 1.5).abs() < 0.03);
        assert!(mean(&chosen) < 1.4);
    }
}
