//! What handlers keep on a worker, and leave to the next process.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use ringhold_core::panics::Caught;
use ringhold_core::{Claims, Worker};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is written for the successor: the name and the msgpack of each value.
type Written<'a> = Vec<(&'a str, &'a serde_bytes::Bytes)>;

type Leave = Box<dyn FnMut() -> Result<Vec<u8>, rmp_serde::encode::Error>>;

/// What [`Router::hand_over`](crate::Router::hand_over) was given, by name.
#[derive(Default)]
pub(crate) struct Leavings(Vec<(String, Leave)>);

impl Leavings {
    pub(crate) fn add<T: Serialize>(&mut self, name: &str, mut leave: impl FnMut() -> T + 'static) {
        let is_taken = self.0.iter().any(|(taken, _)| taken == name);
        assert!(!is_taken, "two values are handed over as {name:?}");
        let leave = move || rmp_serde::to_vec_named(&leave());
        self.0.push((name.to_owned(), Box::new(leave)));
    }

    /// All of it for the successor; `None` if there is nothing. What cannot be written or is not claimed is logged and left
    /// out, and so is what has panicked, of which `report` is told.
    pub(crate) fn write(
        &mut self,
        claims: &Claims,
        report: impl Fn(&str, &Caught),
    ) -> Option<Bytes> {
        let write = |(name, leave): &mut (String, Leave)| {
            if !claims.is_claimed(name) {
                tracing::error!(
                    "{name:?} is lost and not handed over: this program does not ask for what was left under that name \
                     (Router::taken_over)"
                );
                return None;
            }
            // Unwind safety: it is called once, and what others see of its state is up to the handlers.
            match catch_unwind(AssertUnwindSafe(leave)) {
                Ok(Ok(value)) => return Some((name.clone(), value)),
                Ok(Err(error)) => {
                    tracing::error!("{name:?} cannot be handed over, it is no msgpack: {error}");
                }
                Err(panic) => {
                    let what = format!("what is handed over as {name:?}");
                    report(&what, &Caught::new(panic));
                }
            }
            None
        };
        let values: Vec<_> = self.0.iter_mut().filter_map(write).collect();
        let values = values.iter();
        let written: Written<'_> = values
            .map(|(name, value)| (&**name, serde_bytes::Bytes::new(value)))
            .collect();
        // An array of pairs of str and bin can be written, always.
        let bytes = (!written.is_empty()).then(|| rmp_serde::to_vec(&written).ok());
        bytes.flatten().map(Bytes::from)
    }
}

/// What was left under this name, in the order of the predecessor's workers.
pub(crate) fn taken_over<T: DeserializeOwned>(worker: &Worker, name: &str) -> Vec<T> {
    let claims = worker.claims();
    claims.claim(name);
    let read = |left: &Bytes| -> Result<Vec<T>, rmp_serde::decode::Error> {
        let written: Written<'_> = rmp_serde::from_slice(left)?;
        written
            .iter()
            .for_each(|(known, _)| claims.note_left(known));
        let named = written.into_iter().filter(|(known, _)| *known == name);
        named
            .map(|(_, value)| rmp_serde::from_slice(value))
            .collect()
    };
    let say = |error| {
        tracing::error!("{name:?}, which the predecessor left, cannot be taken over: {error}");
    };
    let left = worker.taken_over().iter();
    left.flat_map(|left| read(left).map_err(say).unwrap_or_default())
        .collect()
}
