//! Telling the service manager: sd_notify(3). Without `NOTIFY_SOCKET` all of it does nothing.

use sd_notify::NotifyState;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}

pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// A reload begins. systemd wants to know when, to tell it from an earlier one (sd_notify(3), RELOADING=1).
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("cannot notify the service manager: {error}"),
    }
}

pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

pub(crate) fn status(line: &str) {
    notify(&[NotifyState::Status(line)]);
}

pub(crate) fn watchdog() {
    notify(&[NotifyState::Watchdog]);
}
