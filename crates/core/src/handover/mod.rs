//! Giving what is held to the successor, and taking it over.
//!
//! What is left of each connection, a [`parcel`], the listeners that we bound ourselves and what services leave, each a
//! [`bequest`], go into a [`carton`] (descriptors) and a [`vault`] (state). [`giving`] packs them, [`taking`] unpacks them. Two carriers
//! bring the same three descriptors to the successor, which wakes up in the same way each time: [`store`] (the service manager keeps them
//! over a restart, if its [`capacity`] suffices) and [`exec`] (the process replaces itself). [`preflight`] asks the new program a
//! [`question`] first, and what was [`killed`] then may end later.

pub(crate) mod bequest;
pub(crate) mod capacity;
pub(crate) mod carton;
pub(crate) mod exec;
pub(crate) mod giving;
pub(crate) mod killed;
pub(crate) mod parcel;
pub(crate) mod preflight;
pub(crate) mod question;
pub(crate) mod spare;
pub(crate) mod store;
pub(crate) mod taking;
pub(crate) mod vault;
