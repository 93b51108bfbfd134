//! What threads share. The usual build takes it from std, the models (see `docs/architecture.md`) from loom, which takes a test through
//! the orders in which its threads can run and the values that the memory model lets them read.

#[cfg(not(all(test, ringhold_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic, mpsc as queue};

#[cfg(all(test, ringhold_loom))]
pub(crate) use self::models::{Mutex, MutexGuard, atomic, check, queue};

#[cfg(test)]
#[cfg(ringhold_loom)]
mod models;
