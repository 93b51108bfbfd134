//! What services read from besides connections, in the tests that are run on old kernels, too.

use crate::bed::{Engine, engines};
use crate::sources;

const TESTS: [fn(Engine); 6] = [
    sources::what_is_watched_is_read_in_order,
    sources::what_is_always_readable_holds_up_nobody,
    sources::a_start_that_fails_reads_nothing,
    sources::what_panics_when_it_is_let_go_of_costs_nobody_else,
    sources::an_idle_worker_looks_again_at_what_has_failed,
    sources::what_is_silent_can_be_opened_again,
];

#[test]
fn services_read_what_they_watch() {
    for engine in engines() {
        TESTS.iter().for_each(|test| test(engine));
    }
}
