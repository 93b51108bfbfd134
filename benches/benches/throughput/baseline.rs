//! What criterion makes of the windows: it keeps them, and says what has changed since.
//!
//! The windows are measured already when criterion asks for them, since those of all servers take turns; it is given one
//! after the other, as the time of so many messages at that window's CPU time a message. Its warm-up is one call, which it
//! takes for the speed of the routine: so that is what plans the samples, all of them alike, and the measured times are
//! far from the target time that is set here. That is of no consequence but that it does not complain.

use std::time::Duration;

use criterion::{Criterion, SamplingMode};

use crate::results::{CellResult, Window};

/// Criterion wants so many samples.
const SAMPLES_MIN: usize = 10;

/// Hands all windows over. Fewer rounds than criterion needs make no baseline.
pub(crate) fn record<'a>(
    cells: impl Iterator<Item = &'a CellResult> + Clone,
    save: Option<&str>,
    compare: Option<&str>,
) {
    let windows = cells.clone().flat_map(|result| &result.measured);
    let Some(samples) = windows.map(|one| one.windows.len()).min() else {
        return;
    };
    if samples < SAMPLES_MIN {
        return println!("no baselines with fewer than {SAMPLES_MIN} rounds");
    }
    let mut criterion = Criterion::default()
        .sample_size(samples)
        .nresamples(10_000)
        .warm_up_time(Duration::from_nanos(1))
        .measurement_time(Duration::from_millis(10))
        .without_plots();
    if let Some(name) = save {
        criterion = criterion.save_baseline(name.to_owned());
    }
    if let Some(name) = compare {
        criterion = criterion.retain_baseline(name.to_owned(), false);
    }
    for result in cells {
        record_cell(&mut criterion, result);
    }
}

fn record_cell(criterion: &mut Criterion, result: &CellResult) {
    let mut group = criterion.benchmark_group(result.cell.to_string());
    group.sampling_mode(SamplingMode::Flat);
    for one in &result.measured {
        // The warm-up takes the first one.
        let mut windows = one.windows.iter().take(1).chain(&one.windows);
        group.bench_function(&one.server, |bencher| {
            bencher.iter_custom(|messages| {
                let cost = windows.next().map_or(0.0, Window::cpu_per_message);
                Duration::from_secs_f64(cost * messages as f64 / 1e9)
            });
        });
    }
    group.finish();
}
