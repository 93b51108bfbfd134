//! The medians of all runs, beside their targets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What is done to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// A stop for good and a first start, with no client.
    Cold,
    /// The clients are left in peace.
    Nothing,
    Restart,
    Reload,
}

/// What one of them took, and what the clients saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// SIGTERM to exit.
    pub(crate) stop: Duration,
    /// exec to READY.
    pub(crate) start: Duration,
    /// Both; of a reload, SIGHUP to READY.
    pub(crate) whole: Duration,
    /// The longest that a connection of the steady client was without a reply.
    pub(crate) gap: Duration,
    /// Replies that were checked.
    pub(crate) checked: u64,
    /// Those of the steady client, while it sent, and how long that was.
    pub(crate) measured: u64,
    pub(crate) time: Duration,
    /// Requests that were never answered.
    pub(crate) lost: u64,
    /// Connections that were cut.
    pub(crate) disconnected: u64,
}

/// All runs, by server, open connections and what was done.
pub(crate) struct Runs {
    load_at_begin: String,
    runs: BTreeMap<(&'static str, Operation, usize), Vec<Run>>,
}

impl Runs {
    pub(crate) fn begin() -> Self {
        Runs {
            load_at_begin: load(),
            runs: BTreeMap::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        server: &'static str,
        connections: usize,
        operation: Operation,
        run: Run,
    ) -> &Run {
        let runs = self
            .runs
            .entry((server, operation, connections))
            .or_default();
        runs.push(run);
        &runs[runs.len() - 1]
    }
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        writeln!(
            f,
            "Medians in ms, on {cores} CPUs; load average {} at the beginning, {} at the end.",
            self.load_at_begin,
            load()
        )?;
        writeln!(
            f,
            "The steady client's replies are to come at 10000 a second or more.\n"
        )?;
        writeln!(
            f,
            "| server | what | open | runs | SIGTERM to exit | exec to READY | signal to READY | longest gap | target \
             | replies checked | a second | lost | disconnected |"
        )?;
        writeln!(f, "|---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|")?;
        for ((server, operation, connections), runs) in &self.runs {
            let median = |time: fn(&Run) -> Duration| median(runs, time);
            let (mut stop, mut start, mut gap) = (
                milliseconds(median(|run| run.stop)),
                milliseconds(median(|run| run.start)),
                milliseconds(median(|run| run.gap)),
            );
            let mut whole = milliseconds(median(|run| run.whole));
            let none = || "-".to_owned();
            match operation {
                Operation::Cold => gap = none(),
                Operation::Nothing => (stop, start, whole) = (none(), none(), none()),
                Operation::Restart => {}
                Operation::Reload => (stop, start) = (none(), none()),
            }
            let sum = |count: fn(&Run) -> u64| runs.iter().map(count).sum::<u64>();
            let time: Duration = runs.iter().map(|run| run.time).sum();
            let rate = sum(|run| run.measured) as f64 / time.as_secs_f64();
            let rate = if time.is_zero() {
                none()
            } else {
                format!("{rate:.0}")
            };
            writeln!(
                f,
                "| {server} | {} | {connections} | {} | {stop} | {start} | {whole} | {gap} | {} | {} | {rate} | {} | {} |",
                match operation {
                    Operation::Cold => "first start",
                    Operation::Nothing => "nothing",
                    Operation::Restart => "restart",
                    Operation::Reload => "reload",
                },
                runs.len(),
                verdict(server, *operation, *connections, runs),
                sum(|run| run.checked),
                sum(|run| run.lost),
                sum(|run| run.disconnected),
            )?;
        }
        Ok(())
    }
}

/// The target, and whether it is met.
fn verdict(server: &str, operation: Operation, connections: usize, runs: &[Run]) -> String {
    let (what, limit, time): (_, _, fn(&Run) -> Duration) = match (operation, connections) {
        _ if server != "ringhold" => return "-".into(),
        (Operation::Cold, _) => ("exec to READY", 10, |run| run.start),
        (Operation::Reload, 1000) => ("gap", 20, |run| run.gap),
        (Operation::Restart, 1000) => ("signal to READY", 30, |run| run.whole),
        (Operation::Restart, 5000) => ("signal to READY", 80, |run| run.whole),
        _ => return "-".into(),
    };
    let met = median(runs, time) <= Duration::from_millis(limit);
    format!("{what} {limit}: {}", if met { "met" } else { "**missed**" })
}

fn median(runs: &[Run], time: fn(&Run) -> Duration) -> Duration {
    let mut times: Vec<Duration> = runs.iter().map(time).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

/// What else the machine has to do, over the last minute.
pub(crate) fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_owned()
}
