//! From sections and descriptors to listeners.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::{AsRawFd, OwnedFd};

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::listeners::{Listener, Plan, StartError, plan};
use rustix::net::sockopt;

mod binding;
mod inheriting;
mod unix_paths;

const SERVICES: [&str; 2] = ["rpc", "log"];

fn config(text: &str) -> Config {
    Config::parse(text, "test.toml").unwrap()
}

fn inherited<const N: usize>(descriptors: [(&str, OwnedFd); N]) -> Inherited {
    let descriptors = descriptors
        .into_iter()
        .map(|(name, fd)| (name.to_owned(), fd));
    Inherited::from_descriptors(descriptors.collect())
}

/// A plan for two workers.
fn planned(text: &str, inherited: Inherited) -> Result<Plan, StartError> {
    plan(&config(text), inherited, false, &SERVICES, 2)
}

fn opened(text: &str, inherited: Inherited) -> Vec<Listener> {
    planned(text, inherited).unwrap().open().unwrap()
}

/// The problems of a plan, a line each.
fn problems(text: &str, inherited: Inherited) -> Vec<String> {
    let error = planned(text, inherited).unwrap_err();
    error.problems().iter().map(ToString::to_string).collect()
}

/// The only problem of a plan.
fn problem(text: &str, inherited: Inherited) -> String {
    let mut all = problems(text, inherited);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Why what is planned cannot be opened.
fn refused(text: &str) -> String {
    planned(text, Inherited::none())
        .unwrap()
        .open()
        .unwrap_err()
        .to_string()
}

fn tcp() -> OwnedFd {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()
}

/// After how many seconds of silence the kernel asks the peer, if it does.
fn kept_alive(connection: &OwnedFd) -> Option<u64> {
    let idle = sockopt::tcp_keepidle(connection).unwrap();
    sockopt::socket_keepalive(connection)
        .unwrap()
        .then_some(idle.as_secs())
}

/// After how many seconds without an answer it asks again, and how often in all.
fn asked_again(connection: &OwnedFd) -> (u64, u32) {
    let interval = sockopt::tcp_keepintvl(connection).unwrap();
    (
        interval.as_secs(),
        sockopt::tcp_keepcnt(connection).unwrap(),
    )
}

/// The same, of a socket that nobody has changed.
fn asked_again_by_default() -> (u64, u32) {
    asked_again(&tcp())
}

fn close_on_exec(listener: &Listener) -> bool {
    rustix::io::fcntl_getfd(&listener.socket)
        .unwrap()
        .contains(rustix::io::FdFlags::CLOEXEC)
}

fn number(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}
