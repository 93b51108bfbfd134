//! Taking over what a predecessor left.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Instant;

use super::Running;
use crate::crew::Name;
use crate::crowd::{Party, Place};
use crate::engine::party;
use crate::handover::bequest::{Contents, Legacy};
use crate::handover::parcel::Parcel;
use crate::handover::taking::Inheritance;
use crate::mailbox::Mail;
use crate::metrics::NameTotals;
use crate::plain;
use crate::server::ServerError;

/// What came from a predecessor.
#[derive(Clone, Copy)]
pub(crate) struct TakenOver {
    contents: Contents,
    /// Since when its clients were not served.
    paused: Option<Instant>,
}

impl TakenOver {
    /// All that can be gone on with.
    pub(crate) fn of(inheritance: &Inheritance) -> Self {
        TakenOver {
            contents: Contents::new(inheritance.parcels.len(), &inheritance.bequests),
            paused: inheritance.paused,
        }
    }
}

impl Running {
    /// Takes the predecessor's connections over. Their sessions are restored first, since whatever fails in that may be
    /// tried again; the predecessor's descriptors answer for them up to the moment when they are out of the store. The
    /// first byte moves only then.
    pub(crate) fn take_over(
        &mut self,
        inheritance: &mut Inheritance,
        legacies: &[Legacy],
    ) -> Result<(), ServerError> {
        let asking = legacies.iter();
        self.services = asking
            .map(|legacy| (legacy.service.clone(), legacy.is_asked_for()))
            .collect();
        if !inheritance.is_some() {
            return Ok(());
        }
        let names = &self.crew.names;
        say_whose_service_is_gone(names, &inheritance.parcels);
        for parcel in inheritance.parcels.drain(..) {
            // Every name is there: those that the configuration has no more are orphans.
            let name = names
                .iter()
                .position(|name| *name.name == parcel.state.name)
                .unwrap_or(0);
            let worker = self.crew.dealer.place(name);
            let mail = Mail::Restored {
                name: name as u16,
                place: self.place(name, &parcel),
                parcel: Box::new(parcel),
            };
            let _ = self.crew.posts[worker].send(mail);
        }
        let (report, reports) = mpsc::channel();
        self.post_all(|| Mail::Report(report.clone()));
        drop(report);
        for _ in &self.crew.posts {
            if reports.recv().is_err() {
                return Err(ServerError::Handover(
                    "a worker failed while it restored connections".into(),
                ));
            }
        }
        // Before anything else can have happened to any.
        let snapshot = self.crew.metrics.snapshot();
        inheritance.commit().map_err(ServerError::Handover)?;
        if inheritance.lost > 0 {
            tracing::error!(
                "lost {} of the predecessor",
                plain::connections(inheritance.lost as u64)
            );
        }
        for name in names.iter() {
            say_whom_it_lost(&name.name, snapshot.name(&name.name).unwrap_or_default());
        }
        for legacy in legacies {
            legacy.say_unclaimed();
            legacy.say_missing();
        }
        Ok(())
    }

    /// Says what was taken over, if there was a predecessor, and how long its clients have waited until `resumed`.
    pub(crate) fn say_taken_over(&self, resumed: Instant) {
        let Some(TakenOver { contents, paused }) = &self.taken_over else {
            return;
        };
        let Contents {
            connections,
            values,
            bytes,
        } = contents;
        let found = match values {
            0 => String::new(),
            // Whether it can be decoded is known to those who asked for it.
            _ => format!(
                " and found {} ({bytes} bytes)",
                plain::values(*values as u64)
            ),
        };
        let waited = paused.map_or_else(String::new, |since| {
            let millis = resumed.saturating_duration_since(since).as_millis();
            format!("; nobody was served for {millis} ms")
        });
        let connections = plain::connections(*connections as u64);
        tracing::info!("took over {connections}{found}{waited}");
    }

    /// Counts a connection for its client, whatever the limit says. As with new ones, a proxy is none.
    fn place(&self, name: usize, parcel: &Parcel) -> Option<Place> {
        let whose = || match &parcel.state.client {
            Some(client) => Party::at(&client.address()?),
            None if self.crew.names[name].proxy_protocol => None,
            None => party(parcel.socket.as_fd()),
        };
        self.crew.crowd.hold(name as u16, whose)
    }
}

/// Says of how many connections of a socket the service did not go on with: no restore, or a panic, or no new session. Each of them has
/// a line of its own before, with the reason.
fn say_whom_it_lost(socket: &str, totals: NameTotals) {
    let unrestored = totals.unrestored + totals.panics;
    let refused = totals.refused;
    if unrestored > 0 {
        let unrestored = plain::connections(unrestored);
        tracing::warn!(%socket, "closing {unrestored} that could not be restored");
    }
    if refused > 0 {
        let refused = plain::connections(refused);
        tracing::warn!(%socket, "closing {refused} that their service refuses now");
    }
}

/// Says whose connections end, because nobody answers their name any more, or another service does, to which what the one before
/// saved, and what it has not read, means nothing.
fn say_whose_service_is_gone(names: &[Name], parcels: &[Parcel]) {
    // By name, and by service before and now where another one answers.
    let mut ending = BTreeMap::new();
    for Parcel { state, .. } in parcels {
        let name = names.iter().find(|name| *name.name == *state.name);
        let before = &*state.service;
        if !name.is_some_and(|name| name.goes_on_with(before)) {
            let now = name.and_then(|name| name.service.as_ref());
            let change = now.map(|now| (before, &*now.name));
            *ending.entry((&*state.name, change)).or_insert(0_u64) += 1;
        }
    }
    for ((socket, change), count) in ending {
        let connections = plain::connections(count);
        match change {
            Some((before, now)) => tracing::info!(
                %socket,
                "closing {connections} of service {before}: service {now} answers this name now"
            ),
            None => tracing::info!(
                %socket,
                "closing {connections}: no section [sockets.{socket}] is enabled any more"
            ),
        }
    }
}
