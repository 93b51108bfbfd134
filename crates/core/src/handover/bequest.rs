//! What the values of services leave to the successor, besides sessions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::plain::{self, Counted};

/// What one worker's value of a service left.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bequest {
    pub(crate) service: String,
    #[serde(with = "serde_bytes")]
    pub(crate) bytes: Vec<u8>,
}

impl Bequest {
    /// What a service leaves, if the successor's will ask for it: whether a restart loses anything is said beforehand, by who asks.
    pub(crate) fn of(service: &str, asks: bool, left: Bytes) -> Option<Self> {
        if !asks {
            tracing::error!(
                "service {service} leaves something to the successor, which is lost: it does not ask for what was left to itself \
                 (Worker::taken_over)"
            );
            return None;
        }
        Some(Bequest {
            service: service.to_owned(),
            bytes: left.into(),
        })
    }
}

/// Who leaves several things in one value, each under a name, notes here which of them were left and which are asked for. What is
/// left and not asked for is lost, and the log says so when all workers have made their services. See [`Worker::claims`](crate::Worker::claims).
#[derive(Debug, Clone, Default)]
pub struct Claims(Arc<Mutex<BTreeMap<String, bool>>>);

impl Claims {
    /// The predecessor has left something under this name.
    pub fn note_left(&self, name: &str) {
        self.lock().entry(name.to_owned()).or_default();
    }

    /// This worker's value of the service asks for what was left under this name.
    pub fn claim(&self, name: &str) {
        self.lock().insert(name.to_owned(), true);
    }

    /// Whether any worker's value of the service has asked for this name. A name of which that is so when all are made will be asked
    /// for in the successor, too.
    pub fn is_claimed(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|claimed| *claimed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one service of the predecessor left, on all of its workers. All workers of this process look at the same.
#[derive(Debug)]
pub(crate) struct Legacy {
    pub(crate) service: String,
    /// In the order of the predecessor's workers.
    values: Vec<Bytes>,
    is_asked_for: AtomicBool,
    pub(crate) claims: Claims,
}

impl Legacy {
    fn new(service: &str) -> Self {
        Legacy {
            service: service.to_owned(),
            values: Vec::new(),
            is_asked_for: AtomicBool::new(false),
            claims: Claims::default(),
        }
    }

    pub(crate) fn look(&self) -> &[Bytes] {
        self.is_asked_for.store(true, Ordering::Relaxed);
        &self.values
    }

    /// Whether any worker has looked. A service that has will ask in the successor, too, so that it may leave something itself.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.is_asked_for.load(Ordering::Relaxed)
    }

    /// Says what was asked for and is not there: its workers may have been stuck, or have had nothing to leave.
    pub(crate) fn say_missing(&self) {
        if self.values.is_empty() && self.is_asked_for() {
            tracing::info!(
                "the predecessor left nothing of service {}, which asks for it",
                self.service
            );
        }
    }

    /// Says what nobody has looked at.
    pub(crate) fn say_unclaimed(&self) {
        if !self.values.is_empty() && !self.is_asked_for() {
            tracing::warn!(
                "dropping what service {} of the predecessor left ({}): this program has no such service, or it does not \
                 ask for it (Worker::taken_over)",
                self.service,
                Counted(self.values.len() as u64, "value", "values")
            );
        }
        for (name, _) in self.claims.lock().iter().filter(|(_, claimed)| !**claimed) {
            tracing::warn!(
                "dropping {name:?}, which service {} of the predecessor left: this program does not ask for it",
                self.service
            );
        }
    }
}

/// One legacy for each of these services, by number, and behind them those of services that are not there any more.
pub(crate) fn by_service<'a>(
    services: impl Iterator<Item = &'a str>,
    bequests: Vec<Bequest>,
) -> Arc<[Legacy]> {
    let mut legacies: Vec<Legacy> = services.map(Legacy::new).collect();
    for Bequest { service, bytes } in bequests {
        let known = legacies.iter().position(|legacy| legacy.service == service);
        let index = known.unwrap_or(legacies.len());
        if known.is_none() {
            legacies.push(Legacy::new(&service));
        }
        legacies[index].values.push(bytes.into());
    }
    legacies.into()
}

/// How much is handed over, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) connections: usize,
    /// What services left,
    pub(crate) values: usize,
    /// and how much all of it is.
    pub(crate) bytes: usize,
}

impl Contents {
    pub(crate) fn new(connections: usize, bequests: &[Bequest]) -> Self {
        Contents {
            connections,
            values: bequests.len(),
            bytes: bequests.iter().map(|left| left.bytes.len()).sum(),
        }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.connections == 0 && self.values == 0
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Contents {
            connections,
            values,
            bytes,
        } = self;
        if *values > 0 {
            let values = plain::values(*values as u64);
            write!(f, "{values} ({bytes} bytes) and ")?;
        }
        plain::connections(*connections as u64).fmt(f)
    }
}
