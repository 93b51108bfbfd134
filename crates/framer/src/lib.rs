//! Where does one msgpack object end?
#![no_std]
#![forbid(unsafe_code)]
