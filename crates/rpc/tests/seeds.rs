//! The seeds of the fuzz targets, run once each: what a fuzzer would find at once is found without one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "../../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets use it, too")]
mod targets;

use std::panic;
use std::path::Path;
use std::sync::{Arc, Mutex};

use targets::{connection, framer, reference, rpc};

type Run = fn(&[u8]);

#[test]
fn the_seeds_of_all_fuzz_targets_pass() {
    let targets: [(&str, Run); 3] = [
        ("connection", connection::run),
        ("framer", framer::run),
        ("rpc", rpc::run),
    ];
    // A panic that a service call catches counts as well, unless it is on purpose.
    let panics = Arc::new(Mutex::new(Vec::new()));
    let caught = panics.clone();
    panic::set_hook(Box::new(move |info| {
        caught.lock().unwrap().push(info.to_string());
    }));
    targets::allow_panics_on_purpose();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut failed = Vec::new();
    let mut counts = [0; 3];
    for ((target, run), count) in targets.into_iter().zip(&mut counts) {
        for seed in std::fs::read_dir(corpus.join(target)).unwrap() {
            let path = seed.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            let _ = panic::catch_unwind(|| run(&data));
            *count += 1;
            let panics = std::mem::take(&mut *panics.lock().unwrap());
            failed.extend(panics.into_iter().map(|panic| (path.clone(), panic)));
        }
    }
    drop(panic::take_hook());
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(counts.iter().all(|count| *count >= 20), "{counts:?}");
}
