//! What services count themselves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// What services count under one name ([`Worker::counter`](crate::Worker::counter), [`Worker::gauge`](crate::Worker::gauge)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OwnMetric {
    /// Its name.
    pub name: String,
    /// What it counts, for people.
    pub help: String,
    /// Whether it can go down.
    pub kind: OwnKind,
    /// In the order of services, labels and workers.
    pub values: Vec<OwnValue>,
}

/// Whether a number can go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OwnKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One number of an [`OwnMetric`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OwnValue {
    /// The service that counts.
    pub service: String,
    /// The worker that it counts on.
    pub worker: usize,
    /// What tells it from others of that service and worker.
    pub labels: BTreeMap<String, String>,
    /// How much it is. A counter of more than 2^63 - 1 is that.
    pub value: i64,
}

/// Most numbers that services may have on a worker: each is a line of what is asked for again and again.
const NUMBERS_MAX: usize = 65_536;

/// Labels that every number has.
const RESERVED: [&str; 2] = ["service", "worker"];

/// How the names of the server's own numbers begin where Prometheus is shown them. Two metrics of one name would cost it all of them.
const SERVERS: &str = "ringhold_";

/// The numbers that services count.
#[derive(Default)]
pub(crate) struct Own(Mutex<Shown>);

#[derive(Default)]
struct Shown {
    /// By name.
    families: BTreeMap<String, Family>,
    /// How many there are, by worker.
    counts: BTreeMap<usize, usize>,
}

/// Those of one name.
struct Family {
    help: String,
    kind: OwnKind,
    numbers: BTreeMap<Key, Number>,
}

/// What tells the numbers of one name apart, in the order in which they are shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    service: String,
    labels: BTreeMap<String, String>,
    worker: usize,
}

impl Key {
    pub(crate) fn new(service: &str, worker: usize, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        Key {
            service: service.to_owned(),
            labels: labels.collect(),
            worker,
        }
    }
}

/// Who gives a name.
enum Whose {
    Service,
    Server,
}

/// What is counted.
#[derive(Clone)]
enum Number {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicI64>),
}

impl Own {
    /// The counter of this name. The same as before if there is one, and one that nobody sees if it cannot be shown.
    pub(crate) fn counter(&self, name: &str, help: &str, key: Key) -> Arc<AtomicU64> {
        self.counter_of(Whose::Service, name, help, key)
    }

    /// As [`Own::counter`], of a name that is refused to services.
    pub(crate) fn server_counter(&self, name: &str, help: &str, key: Key) -> Arc<AtomicU64> {
        self.counter_of(Whose::Server, name, help, key)
    }

    fn counter_of(&self, whose: Whose, name: &str, help: &str, key: Key) -> Arc<AtomicU64> {
        match self.number(whose, name, help, OwnKind::Counter, key) {
            Some(Number::Counter(count)) => count,
            _ => Arc::default(),
        }
    }

    /// As [`Own::counter`].
    pub(crate) fn gauge(&self, name: &str, help: &str, key: Key) -> Arc<AtomicI64> {
        match self.number(Whose::Service, name, help, OwnKind::Gauge, key) {
            Some(Number::Gauge(level)) => level,
            _ => Arc::default(),
        }
    }

    fn number(
        &self,
        whose: Whose,
        name: &str,
        help: &str,
        kind: OwnKind,
        key: Key,
    ) -> Option<Number> {
        let (service, worker) = (key.service.clone(), key.worker);
        let number = match whose {
            Whose::Service if name.starts_with(SERVERS) => {
                Err(format!("names that begin with {SERVERS} are the server's"))
            }
            _ => self.enter(name, help, kind, key),
        };
        let say = |why: &String| {
            tracing::error!(
                worker,
                "what service {service} counts as {name:?} is not shown: {why}"
            );
        };
        number.inspect_err(say).ok()
    }

    fn enter(&self, name: &str, help: &str, kind: OwnKind, key: Key) -> Result<Number, String> {
        let mut names = std::iter::once(name).chain(key.labels.keys().map(String::as_str));
        if let Some(bad) = names.find(|name| !is_name(name)) {
            return Err(format!(
                "{bad:?} is no name: letters, digits and _, the first of them a letter"
            ));
        }
        if let Some(taken) = RESERVED.iter().find(|it| key.labels.contains_key(**it)) {
            return Err(format!("each number has a label {taken} already"));
        }
        // Prometheus is shown counters with it, and gauges without.
        let (given, name) = (name, name.trim_end_matches("_total"));
        if name != given && kind == OwnKind::Gauge {
            return Err("what ends in _total is a counter".into());
        }
        let mut shown = self.lock();
        let Shown { families, counts } = &mut *shown;
        let known = families.get(name);
        if known.is_some_and(|family| family.kind != kind) {
            return Err("it is a counter and a gauge".into());
        }
        let is_new = !known.is_some_and(|family| family.numbers.contains_key(&key));
        let count = counts.entry(key.worker).or_default();
        if is_new && *count >= NUMBERS_MAX {
            return Err(format!(
                "there are {NUMBERS_MAX} numbers on this worker already"
            ));
        }
        *count += usize::from(is_new);
        let family = families.entry(name.to_owned()).or_insert_with(|| Family {
            help: help.to_owned(),
            kind,
            numbers: BTreeMap::new(),
        });
        let number = family.numbers.entry(key).or_insert_with(|| match kind {
            OwnKind::Counter => Number::Counter(Arc::default()),
            OwnKind::Gauge => Number::Gauge(Arc::default()),
        });
        Ok(number.clone())
    }

    /// All numbers as they are now, in the order of their names.
    pub(super) fn snapshot(&self) -> Vec<OwnMetric> {
        let Shown { families, .. } = &*self.lock();
        let metric = |(name, family): (&String, &Family)| OwnMetric {
            name: name.clone(),
            help: family.help.clone(),
            kind: family.kind,
            values: family.numbers.iter().map(value).collect(),
        };
        families.iter().map(metric).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn value((key, number): (&Key, &Number)) -> OwnValue {
    OwnValue {
        service: key.service.clone(),
        worker: key.worker,
        labels: key.labels.clone(),
        value: match number {
            Number::Counter(count) => {
                i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
            }
            Number::Gauge(level) => level.load(Ordering::Relaxed),
        },
    }
}

/// Whether it names a metric and a label in the text format of Prometheus, where names that begin with an underscore are for others.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_by_name_and_owner() {
        let own = Own::default();
        let level = own.gauge("level", "How full it is.", Key::new("tank", 1, &[]));
        level.store(-3, Ordering::Relaxed);
        for (worker, count) in [(1, 7), (0, 5)] {
            let stored = own.counter(
                "stored",
                "Readings.",
                Key::new("tank", worker, &[("to", "a")]),
            );
            stored.fetch_add(count, Ordering::Relaxed);
        }
        own.counter("stored", "Readings.", Key::new("tank", 0, &[("to", "a")]))
            .fetch_add(u64::MAX / 2, Ordering::Relaxed);
        let shown: Vec<_> = own
            .snapshot()
            .into_iter()
            .flat_map(|OwnMetric { name, values, .. }| {
                values
                    .into_iter()
                    .map(move |v| (name.clone(), v.service, v.worker, v.labels.len(), v.value))
            })
            .collect();
        let row = |name: &str, worker, labels, value| {
            (name.to_owned(), "tank".to_owned(), worker, labels, value)
        };
        assert_eq!(
            shown,
            [
                row("level", 1, 0, -3),
                row("stored", 0, 1, i64::MAX),
                row("stored", 1, 1, 7),
            ]
        );
    }

    #[test]
    fn what_cannot_be_shown_counts_all_the_same() {
        let own = Own::default();
        own.counter("kept", "", Key::new("a", 0, &[]));
        for (name, labels) in [
            ("", &[] as &[_]),
            ("1st", &[]),
            ("with space", &[]),
            ("_x", &[]),
            ("ringhold_owed", &[]),
            ("ringhold_socket_open", &[]),
            ("ringhold_method_calls", &[]),
            ("ringhold_", &[]),
            ("ok", &[("worker", "1")]),
            ("ok", &[("a-b", "1")]),
        ] {
            let hidden = own.counter(name, "", Key::new("a", 0, labels));
            hidden.fetch_add(1, Ordering::Relaxed);
            assert_eq!(hidden.load(Ordering::Relaxed), 1, "{name}");
        }
        // It is the same to Prometheus.
        own.counter("kept_total", "", Key::new("a", 0, &[]));
        own.counter("kept_total_total", "", Key::new("a", 0, &[]));
        own.gauge("level_total", "", Key::new("a", 0, &[]));
        // The kind is that of who came first.
        own.gauge("kept", "", Key::new("b", 0, &[]))
            .store(1, Ordering::Relaxed);
        let all = own.snapshot();
        assert_eq!((all.len(), all[0].values.len()), (1, 1));
        assert_eq!((all[0].kind, all[0].values[0].value), (OwnKind::Counter, 0));
    }

    #[test]
    fn the_server_counts_under_names_that_services_may_not_give() {
        let own = Own::default();
        let key = || Key::new("a", 0, &[]);
        own.gauge("ringhold_x", "", key());
        own.server_counter("ringhold_x", "", key())
            .fetch_add(1, Ordering::Relaxed);
        own.counter("ringhold_x", "", key())
            .fetch_add(5, Ordering::Relaxed);
        let all = own.snapshot();
        assert_eq!((all.len(), all[0].values[0].value), (1, 1));
    }

    #[test]
    fn there_is_a_limit() {
        let own = Own::default();
        for number in 0..=NUMBERS_MAX {
            let number = number.to_string();
            own.counter("n", "", Key::new("a", 0, &[("number", &number)]));
        }
        own.gauge("another", "", Key::new("a", 0, &[]));
        own.counter("n", "", Key::new("a", 1, &[]));
        let counts: Vec<_> = own.snapshot().iter().map(|it| it.values.len()).collect();
        assert_eq!(counts, [NUMBERS_MAX + 1]);
        // Who has one has it still.
        let known = own.counter("n", "", Key::new("a", 0, &[("number", "3")]));
        known.store(9, Ordering::Relaxed);
        assert_eq!(
            own.snapshot()[0]
                .values
                .iter()
                .map(|it| it.value)
                .sum::<i64>(),
            9
        );
    }
}
