//! MessagePack-RPC.
#![forbid(unsafe_code)]
