//! See `src/connection.rs`.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use ringhold_fuzz::{allow_panics_on_purpose, connection};

fuzz_target!(init: allow_panics_on_purpose(), |data: &[u8]| connection::run(data));
