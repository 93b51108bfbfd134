//! Giving what is held to the successor.

pub(crate) mod carton;
pub(crate) mod vault;
