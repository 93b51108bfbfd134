//! What the log says of the way of a daemon from its start to its end.

use std::path::Path;

use crate::handover::bequest::Contents;
use crate::metrics::Metrics;
use crate::plain::{self, Counted};
use crate::running::Running;
use crate::server::ServerError;

/// One line a listener: where, and how we got it.
pub(super) fn announce(running: &Running) {
    for listener in running.listeners() {
        tracing::info!(
            socket = %listener.name,
            "{} on {} ({}{}), service {}{}",
            if listener.enabled { "listening" } else { "turning clients away" },
            listener.address,
            listener.origin,
            if listener.is_kept { ", kept" } else { "" },
            listener.service,
            if listener.enabled { "" } else { " disabled" },
        );
    }
    if running.listeners().len() == 0 {
        tracing::warn!("no socket is configured and none was inherited: nothing will ever connect");
    }
}

/// Says what the workers, who were told to stop, have to wait for.
pub(super) fn say_awaited(running: &Running) {
    let open = running.open_tickets();
    if open > 0 {
        tracing::info!(
            "waiting for deferred replies ({open} open), for at most handover.drain; those promised meanwhile have as long"
        );
    }
}

/// Says how many clients got an error instead of a reply, because it took too long for the stop.
pub(super) fn say_given_up(running: &Running) {
    let given_up = running.given_up();
    if given_up > 0 {
        let replies = Counted(given_up as u64, "deferred reply", "deferred replies");
        tracing::warn!("gave up {replies} after handover.drain");
    }
}

/// Says what this process has done, which ends and is not replaced.
pub(super) fn say_stopped(metrics: &Metrics) {
    tracing::info!("stopped; {} were served", served(metrics));
}

/// Says what goes to the program that takes this process's place, and what this one has done.
pub(super) fn say_handed(contents: Contents, program: &Path, metrics: &Metrics) {
    let (program, served) = (program.display(), served(metrics));
    tracing::info!("handing {contents} over to {program}; this process has served {served}");
}

fn served(metrics: &Metrics) -> String {
    let total = metrics.snapshot().total();
    format!(
        "{} and {}",
        plain::connections(total.opened),
        Counted(total.frames_in, "frame", "frames")
    )
}

/// Says whose connections end although there is a successor: nothing is wrong with it, but their clients see it.
pub(super) fn say_unsaved(metrics: &Metrics) {
    let snapshot = metrics.snapshot();
    // Every worker has every name.
    for (name, _) in snapshot
        .workers
        .iter()
        .take(1)
        .flat_map(|worker| &worker.names)
    {
        let unsaved = snapshot.name(name).map_or(0, |totals| totals.unsaved);
        if unsaved > 0 {
            tracing::info!(
                socket = %name,
                "closed {} whose sessions their services did not save",
                plain::connections(unsaved)
            );
        }
    }
}

/// Says which worker had failed, if one had.
pub(super) fn say_failed(failed: Option<ServerError>) {
    if let Some(failed) = failed {
        tracing::error!("{failed}; its connections and what its services would have left are lost");
    }
}
