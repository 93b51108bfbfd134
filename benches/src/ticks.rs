//! Windows of whole ticks.
//!
//! Of a process that is running, the CPU time that others are told advances when the kernel's timer ticks, by 4 ms with 250
//! ticks a second. A window of 17.5 ticks counts 17 or 18 of them, whatever the server does; one of whole ticks counts them all.

use std::time::Duration;

/// Whole ticks wherever there are 100, 250, 300 or 1000 a second.
const WHOLE: Duration = Duration::from_millis(20);

/// The length that is nearest to this one and lasts whole ticks, at least one.
pub fn whole(length: Duration) -> Duration {
    let count = (length + WHOLE / 2).as_nanos() / WHOLE.as_nanos();
    WHOLE * u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(length: u64) -> u128 {
        whole(Duration::from_millis(length)).as_millis()
    }

    #[test]
    fn the_nearest_length_is_taken() {
        assert_eq!([60, 69, 70, 80].map(millis), [60, 60, 80, 80]);
        assert_eq!(millis(120 / 3), 40);
        assert_eq!([0, 1, 29].map(millis), [20; 3]);
    }

    #[test]
    fn it_lasts_whole_ticks_on_every_kernel() {
        for length in 0..200 {
            for ticks_a_second in [100, 250, 300, 1000] {
                assert_eq!(millis(length) * ticks_a_second % 1000, 0);
            }
        }
    }
}
