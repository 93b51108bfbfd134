//! CPUs: which ones we may use, how many workers that makes, and pinning.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::config::Workers;

/// The CPUs in the affinity mask of the calling thread (sched_setaffinity(2)), ascending. Call it before any thread is
/// pinned.
///
/// # Errors
/// That the kernel does not tell, e.g. because it has more than 1024 CPUs.
pub fn available() -> io::Result<Vec<usize>> {
    let mask = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| mask.is_set(cpu))
        .collect())
}

/// The CPU that each worker is pinned to, given those that are `available`. The length is the number of workers.
///
/// `Auto` is one worker for each CPU. A number of workers up to that of the CPUs takes the first ones; a larger one
/// leaves all workers unpinned, since some would have to share while others do not.
pub fn assign(workers: Workers, available: &[usize]) -> Vec<Option<usize>> {
    let pinned = available.iter().copied().map(Some);
    match workers {
        Workers::Auto if available.is_empty() => vec![None],
        Workers::Auto => pinned.collect(),
        Workers::Count(count) if count <= available.len() => pinned.take(count).collect(),
        Workers::Count(count) => vec![None; count],
    }
}

/// Pins the calling thread to `cpu`.
///
/// # Errors
/// That the CPU does not exist or may not be used (sched_setaffinity(2)).
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut mask = CpuSet::new();
    mask.set(cpu);
    Ok(sched_setaffinity(None, &mask)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_take_the_cpus_of_the_mask() {
        assert_eq!(assign(Workers::Auto, &[1, 5]), [Some(1), Some(5)]);
        assert_eq!(assign(Workers::Auto, &[]), [None]);
        assert_eq!(assign(Workers::Count(1), &[1, 5]), [Some(1)]);
        assert_eq!(assign(Workers::Count(2), &[1, 5]), [Some(1), Some(5)]);
        assert_eq!(assign(Workers::Count(3), &[1, 5]), [None, None, None]);
    }

    #[test]
    fn a_pinned_thread_has_one_cpu() {
        let all = available().unwrap();
        let last = *all.last().unwrap();
        let seen = std::thread::spawn(move || {
            pin(last).unwrap();
            available().unwrap()
        });
        assert_eq!(seen.join().unwrap(), [last]);
        assert_eq!(available().unwrap(), all, "other threads keep their mask");
        assert!(pin(CpuSet::MAX_CPU).is_err());
    }
}
