//! See `src/rpc.rs`.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use ringhold_fuzz::{allow_panics_on_purpose, rpc};

fuzz_target!(init: allow_panics_on_purpose(), |data: &[u8]| rpc::run(data));
