//! The daemon.
#![forbid(unsafe_code)]
mod json;
fn main() {}
