//! What the values of services leave to the successor, besides sessions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What one worker's value of a service left.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bequest {
    pub(crate) service: String,
    #[serde(with = "serde_bytes")]
    pub(crate) bytes: Vec<u8>,
}

impl Bequest {
    /// What a service leaves, if the successor's will ask for it: the version of the state follows from who asks.
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

/// What one service of the predecessor left, on all of its workers. All workers of this process look at the same.
#[derive(Debug)]
pub(crate) struct Legacy {
    pub(crate) service: String,
    /// In the order of the predecessor's workers.
    values: Vec<Bytes>,
    is_asked_for: AtomicBool,
}

impl Legacy {
    fn new(service: &str) -> Self {
        Legacy {
            service: service.to_owned(),
            values: Vec::new(),
            is_asked_for: AtomicBool::new(false),
        }
    }

    fn add(&mut self, value: Bytes) {
        self.values.push(value);
    }

    pub(crate) fn count(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn look(&self) -> &[Bytes] {
        self.is_asked_for.store(true, Ordering::Relaxed);
        &self.values
    }

    /// Whether any worker has looked. A service that has will ask in the successor, too, so that it may leave something itself.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.is_asked_for.load(Ordering::Relaxed)
    }

    /// Says what nobody has looked at.
    pub(crate) fn say_unclaimed(&self) {
        if !self.values.is_empty() && !self.is_asked_for() {
            tracing::warn!(
                "dropping what service {} of the predecessor left ({} values): this program has no such service, or it does not \
                 ask for it (Worker::taken_over)",
                self.service,
                self.count()
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
        legacies[index].add(bytes.into());
    }
    legacies.into()
}

/// How much is handed over, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) connections: usize,
    /// What services left.
    pub(crate) values: usize,
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.values > 0 {
            write!(f, "{} values of services and ", self.values)?;
        }
        write!(f, "{} connections", self.connections)
    }
}
