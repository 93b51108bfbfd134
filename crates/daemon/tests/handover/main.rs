//! Restart and reload: what a client sees of them, which is nothing. Real processes under a small service manager.
#![forbid(unsafe_code)]

mod load;
mod manager;
mod wire;

mod load_through;
