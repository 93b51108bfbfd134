//! The methods of a router by name, and by the number that stands for one.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringhold_core::Worker;

use crate::answer::{Answer, Answered};
use crate::call::Call;
use crate::drops::OneByOne;
use crate::names::{Index, is_same};

/// Where no entry is.
const NONE: usize = usize::MAX;

pub(crate) struct Methods {
    entries: OneByOne<Entry>,
    index: Index,
    /// Position of the entry that was called last: one client mostly asks for the same method again.
    last: usize,
    /// Calls of methods that there are not.
    unknown: Arc<AtomicU64>,
}

pub(crate) struct Entry {
    pub(crate) method: Method,
    pub(crate) handler: Handler,
}

/// What is known of a method besides its handler.
pub(crate) struct Method {
    pub(crate) name: Box<str>,
    pub(crate) description: Cow<'static, str>,
    /// A method of one's own may take the place of a built-in one.
    pub(crate) builtin: bool,
    pub(crate) promises: Promises,
    /// Counted up by its worker only.
    calls: Arc<AtomicU64>,
    pub(crate) faults: Faults,
}

/// What a method promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promises {
    /// Nothing, or what its handler says.
    Nothing,
    /// An answer that comes later, from this process.
    Answer,
    /// An answer that comes later, from this process or from its successor, which is asked again.
    Repeatable,
}

pub(crate) type Handler = Box<dyn FnMut(Call<'_>, Answer<'_>) -> Answered>;

/// How many calls of a method have failed. Deferred ones are counted by whoever answers, on any thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<AtomicU64>);

impl Faults {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Entry {
    pub(crate) fn new(
        name: &str,
        description: &'static str,
        builtin: bool,
        handler: impl FnMut(Call<'_>, Answer<'_>) -> Answered + 'static,
    ) -> Self {
        Entry {
            method: Method {
                name: name.into(),
                description: Cow::Borrowed(description),
                builtin,
                promises: Promises::Nothing,
                calls: Arc::default(),
                faults: Faults::default(),
            },
            handler: Box::new(handler),
        }
    }
}

impl Method {
    /// A call of it comes. It has one writer, so it need not be added to in one step, which would cost as much as a small call does.
    #[inline]
    pub(crate) fn count_call(&self) {
        let calls = self.calls.load(Ordering::Relaxed);
        self.calls.store(calls.wrapping_add(1), Ordering::Relaxed);
    }
}

impl Default for Methods {
    fn default() -> Self {
        Methods {
            entries: OneByOne::default(),
            index: Index::default(),
            last: NONE,
            unknown: Arc::default(),
        }
    }
}

impl Methods {
    /// Adds a method, or puts it in the place of a built-in one.
    ///
    /// # Panics
    ///
    /// If there is another one of this name.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let name = &entry.method.name;
        match self.index.get(name.as_bytes()) {
            Some(position) => {
                let present = &mut self.entries[*position];
                assert!(
                    present.method.builtin,
                    "there are two methods named {name:?}"
                );
                *present = entry;
            }
            None => {
                self.index
                    .insert(name.as_bytes().into(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    /// Adds a built-in method, or puts it in the place of one.
    pub(crate) fn insert_builtin(
        &mut self,
        name: &str,
        description: &'static str,
        handler: impl FnMut(Call<'_>, Answer<'_>) -> Answered + 'static,
    ) {
        self.insert(Entry::new(name, description, true, handler));
    }

    /// Has the calls of each counted where the server shows it.
    pub(crate) fn count(&mut self, worker: &Worker) {
        for Entry { method, .. } in self.entries.iter_mut() {
            let labels = [("method", &*method.name)];
            let [calls, faults] =
                [CALLS, FAULTS].map(|(name, help)| worker.server_counter(name, help, &labels));
            (method.calls, method.faults) = (calls, Faults(faults));
        }
        self.unknown = worker.server_counter(UNKNOWN.0, UNKNOWN.1, &[]);
    }

    /// The number of a method.
    #[inline]
    pub(crate) fn find(&self, name: &[u8]) -> Option<usize> {
        let is_last = |entry: &Entry| is_same(entry.method.name.as_bytes(), name);
        if !self.entries.get(self.last).is_some_and(is_last) {
            return self.index.get(name).copied();
        }
        Some(self.last)
    }

    /// The method of this number, which is called now.
    #[inline]
    pub(crate) fn call(&mut self, number: usize) -> Option<&mut Entry> {
        self.last = number;
        self.entries.get_mut(number)
    }

    /// A frame calls a method that there is not.
    pub(crate) fn call_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame calls no method.
    pub(crate) fn call_none(&mut self) {
        self.last = NONE;
    }

    /// The method that was called last, unless another frame came since.
    pub(crate) fn last(&self) -> Option<&Method> {
        self.get(self.last)
    }

    /// The method of this number.
    pub(crate) fn get(&self, number: usize) -> Option<&Method> {
        self.entries.get(number).map(|entry| &entry.method)
    }

    /// The method of this name.
    pub(crate) fn named(&mut self, name: &str) -> Option<&mut Method> {
        let position = *self.index.get(name.as_bytes())?;
        Some(&mut self.entries.get_mut(position)?.method)
    }

    /// Whether `name` means a built-in method.
    pub(crate) fn has_builtin(&self, name: &str) -> bool {
        let position = self.index.get(name.as_bytes());
        position.is_some_and(|position| self.entries[*position].method.builtin)
    }

    /// Their names and descriptions, sorted by name.
    pub(crate) fn list(&self) -> Vec<(&str, &str)> {
        let mut list: Vec<_> = self
            .iter()
            .map(|method| (&*method.name, &*method.description))
            .collect();
        list.sort_unstable();
        list
    }

    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Method> {
        self.entries.iter().map(|entry| &entry.method)
    }
}

impl fmt::Debug for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.list().into_iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

const CALLS: (&str, &str) = (
    "ringhold_method_calls",
    "Calls of a method of MessagePack-RPC, notifications included.",
);
const FAULTS: (&str, &str) = (
    "ringhold_method_faults",
    "Calls of a method of MessagePack-RPC that failed: answered with an error, or a notification that would have been.",
);
const UNKNOWN: (&str, &str) = (
    "ringhold_unknown_method_calls",
    "Calls of methods of MessagePack-RPC that the service does not have, notifications included.",
);
