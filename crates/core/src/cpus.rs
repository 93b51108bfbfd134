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
/// `Auto` is one worker for each CPU, or `quota` workers if those are fewer. `pin` is the key of the configuration; without it
/// workers are pinned if they are as many as the CPUs. More than those are never pinned, since some would have to share while
/// others do not.
pub(crate) fn assign(
    workers: Workers,
    pin: Option<bool>,
    available: &[usize],
    quota: usize,
) -> Vec<Option<usize>> {
    let count = match workers {
        Workers::Auto => available.len().min(quota).max(1),
        Workers::Count(count) => count,
    };
    let pins = pin.unwrap_or(count == available.len()) && count <= available.len();
    match pins {
        true => available.iter().copied().map(Some).take(count).collect(),
        false => vec![None; count],
    }
}

/// So many CPUs' time is what the process may use, by the quota of its control group (cpu.max in the kernel's cgroup-v2
/// documentation) and its affinity mask.
pub(crate) fn quota() -> usize {
    std::thread::available_parallelism().map_or(usize::MAX, usize::from)
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
    fn workers_that_are_as_many_as_the_cpus_are_pinned() {
        let assign = |workers, pin| assign(workers, pin, &[1, 5], 2);
        let both = [Some(1), Some(5)];
        assert_eq!(assign(Workers::Auto, None), both);
        assert_eq!(assign(Workers::Count(2), None), both);
        assert_eq!(assign(Workers::Count(1), None), [None]);
        assert_eq!(assign(Workers::Count(3), None), [None; 3]);
        assert_eq!(assign(Workers::Auto, Some(false)), [None; 2]);
        assert_eq!(assign(Workers::Count(1), Some(true)), [Some(1)]);
        assert_eq!(assign(Workers::Count(3), Some(true)), [None; 3]);
    }

    #[test]
    fn a_quota_below_the_cpus_makes_fewer_workers_which_are_not_pinned() {
        let auto = |pin, quota| assign(Workers::Auto, pin, &[0, 1, 2, 3], quota);
        assert_eq!(auto(None, 2), [None; 2]);
        assert_eq!(auto(Some(true), 2), [Some(0), Some(1)]);
        assert_eq!(auto(None, 64).len(), 4);
        assert_eq!(assign(Workers::Auto, None, &[], 1), [None]);
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
