//! Publish and subscribe, over all workers; subscriptions survive restarts and reloads. Try it with
//! `cargo run -p ringhold-rpc --example topics`, and from other terminals with
//! `ringhold call --follow 127.0.0.1:4671 subscribe '"weather"'`, which prints what comes,
//! `ringhold call 127.0.0.1:4671 publish '"weather"' '"rain"'`, and `kill -HUP`.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringhold_core::config::Config;
use ringhold_core::{ConnectionId, Server};
use ringhold_log::Filter;
use ringhold_rpc::{Fault, Notification, Notifier, Router, ServeRpc};
use rmpv::Value;
use serde::{Deserialize, Serialize};

pub(crate) const CONFIG: &str = r#"
[sockets.topics]
service = "topics"
listen = ["127.0.0.1:4671"]
"#;

type Topics = HashMap<String, HashMap<ConnectionId, Notifier>>;

/// Who reads what, on whichever worker.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<Topics>>);

impl Hub {
    pub(crate) fn topics(&self) -> MutexGuard<'_, Topics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, topic: &str, notifier: Notifier) {
        let mut topics = self.topics();
        let readers = topics.entry(topic.to_owned()).or_default();
        readers.insert(notifier.connection(), notifier);
    }

    /// A topic without readers is forgotten.
    fn leave(&self, topic: &str, reader: ConnectionId) {
        let mut topics = self.topics();
        if let Some(readers) = topics.get_mut(topic) {
            readers.remove(&reader);
            if readers.is_empty() {
                topics.remove(topic);
            }
        }
    }

    /// How many readers it goes to.
    pub(crate) fn publish(&self, topic: &str, event: &Notification) -> usize {
        let topics = self.topics();
        let readers = topics.get(topic).into_iter().flat_map(HashMap::values);
        readers.filter(|reader| reader.send(event).is_ok()).count()
    }
}

/// Most topics that one connection reads, and the longest of them, in bytes.
const TOPICS_MAX: usize = 1000;
const TOPIC_BYTES_MAX: usize = 256;

/// The topics that a connection reads, which its next process has to know.
#[derive(Default, Serialize, Deserialize)]
struct Reads(BTreeSet<String>);

pub(crate) fn router(hub: &Hub) -> Router {
    let [joined, left, gone_from, published, resumed] = [(); 5].map(|()| hub.clone());
    Router::new()
        .method_with("subscribe", move |context, topic: String| {
            let (reads, notifier) = context.subscription::<Reads>();
            // What handlers keep for a connection is theirs to limit; it goes to the successor, too.
            if reads.0.len() >= TOPICS_MAX || topic.len() > TOPIC_BYTES_MAX {
                return Err(Fault::new("these are too many topics, or too long a one"));
            }
            if reads.0.insert(topic.clone()) {
                joined.join(&topic, notifier);
            }
            Ok(())
        })
        .describe("subscribe", "event notifications of a topic from now on")
        .method_with("unsubscribe", move |context, topic: String| {
            let reads = context.get::<Reads>();
            if reads.is_some_and(|reads| reads.0.remove(&topic)) {
                left.leave(&topic, context.connection());
            }
            Ok(())
        })
        .method("publish", move |(topic, value): (String, Value)| {
            let event = Notification::new("event", &(&topic, &value))?;
            Ok(published.publish(&topic, &event))
        })
        .describe(
            "publish",
            "a topic and a value; how many readers it goes to",
        )
        .resume("topics", move |connection, reads: &mut Reads| {
            for topic in &reads.0 {
                resumed.join(topic, connection.notifier());
            }
            Ok(())
        })
        .gone(move |gone| {
            let Reads(topics) = gone.take_data().unwrap_or_default();
            for topic in topics {
                gone_from.leave(&topic, gone.ended().connection());
            }
        })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = Filter::from_env("TOPICS_LOG")?.unwrap_or_default();
    ringhold_log::start("topics", filter);
    let hub = Hub::default();
    Server::new(Config::parse(CONFIG, "built-in")?)
        .rpc("topics", move || router(&hub))
        .run()?;
    Ok(())
}
