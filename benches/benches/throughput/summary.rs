//! What is said on the terminal.

use ringhold_benches::server::RINGHOLD;

use crate::results::CellResult;

/// So much of a CPU is nothing.
const IDLE: f64 = 0.02;

/// A cell, as soon as it is measured.
pub(crate) fn print_cell(result: &CellResult) {
    println!("{}", result.cell);
    let unit = result.cell.kind.unit();
    for one in &result.measured {
        let syscalls = one
            .syscalls
            .map_or("n/a".into(), |calls| format!("{calls:.3}"));
        let beside = match result.ratio(one) {
            Some(ratio) if one.server != RINGHOLD => format!("  {RINGHOLD} is {ratio} of it"),
            _ => String::new(),
        };
        println!(
            "  {:<13}{:>9.1} ns CPU/{unit}  {:>9.0} {unit}s/s  {:>3.0} % busy  {syscalls:>6} syscalls/{unit}{}{beside}",
            one.server,
            one.cpu_per_message(),
            one.rate(),
            one.busy() * 100.0,
            if one.ring_workers {
                "  (ring workers)"
            } else {
                ""
            },
        );
        if one.busy_at_rest > IDLE {
            println!(
                "  {} also used {:.0} % of the CPU while the others were measured, which disturbs them",
                one.server,
                one.busy_at_rest * 100.0
            );
        }
    }
}
