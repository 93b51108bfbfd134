//! Whose turn it is, in rounds.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The order of each round, a random one: whoever always followed the same one would always find the caches and the clock
/// of the CPU as that one leaves them.
#[derive(Debug)]
pub struct Turns {
    random: fastrand::Rng,
    order: Vec<usize>,
}

impl Turns {
    /// For so many. `what` is measured says which random orders these are, the same in every run.
    pub fn new(what: &str, count: usize) -> Self {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        Turns {
            random: fastrand::Rng::with_seed(hasher.finish()),
            order: (0..count).collect(),
        }
    }

    /// The order of the next round.
    pub fn next_round(&mut self) -> &[usize] {
        self.random.shuffle(&mut self.order);
        &self.order
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn rounds(what: &str, rounds: usize, count: usize) -> Vec<Vec<usize>> {
        let mut turns = Turns::new(what, count);
        (0..rounds).map(|_| turns.next_round().to_vec()).collect()
    }

    #[test]
    fn everybody_has_one_turn_in_each_round() {
        for mut round in rounds("echo/tcp/1x1/16B", 15, 6) {
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4, 5]);
        }
        assert_eq!(rounds("nobody", 2, 0), [[0; 0]; 2]);
    }

    #[test]
    fn everybody_follows_everybody_else() {
        let rounds = rounds("echo/tcp/1x1/16B", 60, 6);
        let pairs = rounds.iter().flat_map(|round| round.windows(2));
        let pairs: BTreeSet<&[usize]> = pairs.collect();
        assert_eq!(pairs.len(), 6 * 5);
    }

    #[test]
    fn the_order_is_that_of_what_is_measured() {
        let (one, other) = ("echo/tcp/1x1/16B", "echo/unix/1x1/16B");
        assert_eq!(rounds(one, 15, 6), rounds(one, 15, 6));
        assert_ne!(rounds(one, 15, 6), rounds(other, 15, 6));
    }
}
