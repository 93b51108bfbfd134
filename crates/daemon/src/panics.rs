//! What is printed of panics.

use std::panic::{set_hook, take_hook};

/// From now on a panic of a service or handler is only logged, by the worker that catches it and bounds how much it logs:
/// whoever finds out how to cause one could make the usual hook write at any rate. Others are printed as ever.
pub(crate) fn leave_caught_ones_to_the_log() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        if !ringhold_core::panics::leave_to_log(panic) {
            usual(panic);
        }
    }));
}
