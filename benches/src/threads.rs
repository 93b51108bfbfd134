//! How a process's work is divided between its threads.

use std::collections::BTreeMap;
use std::fs;

/// The CPU time of each thread so far, in nanoseconds, by its number.
pub type Threads = BTreeMap<u32, u64>;

/// What the threads of a process have used (`schedstat` in proc_pid(5)'s `task`). None of those that end meanwhile, and none at
/// all if the kernel does not tell.
pub fn look(pid: u32) -> Threads {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let used = tasks.into_iter().flatten().filter_map(|task| {
        let task = task.ok()?;
        let number = task.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some((number, cpu_time(&stat)?))
    });
    used.collect()
}

/// The first of the three figures.
fn cpu_time(stat: &str) -> Option<u64> {
    stat.split_whitespace().next()?.parse().ok()
}

/// The part of the busiest thread in what all of them used between two looks, 1 being all of it. None if they used nothing.
pub fn busiest(before: &Threads, after: &Threads) -> Option<f64> {
    let used = after.iter().map(|(number, now)| {
        let before = before.get(number).copied().unwrap_or(0);
        now.saturating_sub(before)
    });
    let (most, all) = used.fold((0, 0), |(most, all), one| (one.max(most), all + one));
    (all > 0).then(|| most as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_is_the_one_that_used_most_between_the_looks() {
        let before = Threads::from([(10, 5_000_000), (11, 100), (12, 0)]);
        let after = Threads::from([(10, 5_000_000), (11, 400), (13, 100)]);
        assert_eq!(busiest(&before, &after), Some(0.75));
        assert_eq!(busiest(&after, &after), None);
        assert_eq!(busiest(&Threads::new(), &Threads::new()), None);
    }

    #[test]
    fn the_kernel_says_the_time_first() {
        assert_eq!(cpu_time("53146021 1245 17\n"), Some(53_146_021));
        assert_eq!(cpu_time(""), None);
    }

    #[test]
    fn a_process_has_the_threads_that_run() {
        let own = rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .cast_unsigned();
        assert!(look(std::process::id()).contains_key(&own));
        assert_eq!(look(0), Threads::new());
    }
}
