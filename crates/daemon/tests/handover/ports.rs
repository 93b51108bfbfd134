//! Addresses for those who bind them themselves.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// A TCP port that nobody listens on, at whatever address. It is below those that the kernel chooses from, so that nobody is
/// given it before it is bound: another test that binds port 0, or a connection.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that test at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(61);
    loop {
        let next = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + next % COUNT) as u16;
        let is_taken = |ip: &str| {
            TcpListener::bind((ip, port)).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
        };
        if !is_taken("::") && !is_taken("0.0.0.0") {
            return port;
        }
    }
}

/// A TCP address of loopback that nobody listens on, as [`free_port`] has it.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}
