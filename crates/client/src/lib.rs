//! A client.
#![forbid(unsafe_code)]
