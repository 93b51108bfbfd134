//! The congestion control of TCP connections, at both ends.
//!
//! The default of a machine may be one that paces what it sends by a timer, as bbr does. On loopback it then measures the
//! timer: the same server took up to twice the CPU per byte, and which of two servers took less was chance.

use std::net::TcpListener;

use rustix::net::sockopt::set_tcp_congestion;

/// The usual one of Linux, where a process may choose it, else the one that every process may.
pub(crate) fn usual() -> &'static str {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    if set_tcp_congestion(&socket, "cubic").is_ok() {
        "cubic"
    } else {
        "reno"
    }
}
