//! See `src/framer.rs`.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use ringhold_fuzz::framer;

fuzz_target!(|data: &[u8]| framer::run(data));
