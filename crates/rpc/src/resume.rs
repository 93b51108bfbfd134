//! What becomes of the data that handlers keep for a connection when its process is replaced.

use std::any::{Any, TypeId, type_name};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use ringhold_core::{Peer, Plain, RestoreError, Saved};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::drops::OneByOne;
use crate::fault::Fault;
use crate::notify::Notifier;
use crate::router::Router;
use crate::session::Session;
use crate::strings::Strings;

/// A value that handlers keep for a connection, and its type.
pub(crate) struct Kept {
    pub(crate) kind: TypeId,
    /// What the type is called.
    kind_name: &'static str,
    /// The successor makes it anew, if it is not resumed.
    is_derived: bool,
    pub(crate) value: Box<dyn Any>,
}

impl Kept {
    pub(crate) fn new<T: 'static>(value: T) -> Self {
        Kept {
            kind: TypeId::of::<T>(),
            kind_name: type_name::<T>(),
            is_derived: false,
            value: Box::new(value),
        }
    }

    pub(crate) fn derived<T: 'static>(value: T) -> Self {
        Kept {
            is_derived: true,
            ..Kept::new(value)
        }
    }
}

/// What is written for the successor: the name and the msgpack of each value, in the order in which they were kept.
type Written<'a> = Vec<(&'a str, &'a serde_bytes::Bytes)>;

impl Router {
    /// Has data of this type that handlers keep for a connection ([`Context::data`](crate::Context::data)) survive restarts and reloads, and with it
    /// the connection. `resume` is called for each connection that has such a value, in the process that goes on with it,
    /// before anything is received or sent there; it may change the value, which is kept again. So subscriptions are resumed:
    ///
    /// ```
    /// # use std::{cell::RefCell, mem::replace, rc::Rc};
    /// # use ringhold_rpc::{Notification, Notifier, Router};
    /// /// Whether a connection reads the news.
    /// #[derive(Default, serde::Serialize, serde::Deserialize)]
    /// struct Reads(bool);
    ///
    /// type Readers = Rc<RefCell<Vec<Notifier>>>;
    ///
    /// fn router(readers: Readers) -> Router {
    ///     let known = readers.clone();
    ///     Router::new()
    ///         .method_with("subscribe", move |context, ()| {
    ///             let (reads, notifier) = context.subscription::<Reads>();
    ///             if !replace(&mut reads.0, true) {
    ///                 readers.borrow_mut().push(notifier);
    ///             }
    ///             Ok(())
    ///         })
    ///         .resume("reads", move |resumed, _: &mut Reads| {
    ///             known.borrow_mut().push(resumed.notifier());
    ///             Ok(())
    ///         })
    /// }
    ///
    /// /// Whoever has gone is forgotten.
    /// fn publish(readers: &Readers, news: &Notification) {
    ///     readers.borrow_mut().retain(|reader| reader.send(news).is_ok());
    /// }
    /// # let _ = (router(Readers::default()), publish);
    /// ```
    ///
    /// `examples/topics.rs` is a whole daemon, where each connection reads what it wants.
    ///
    /// `name` stands for the type in what is passed on, as msgpack with the names of fields, so it has to stay the same from
    /// version to version of the program. Fields may be added and left out if `#[serde(default)]` makes up for them.
    ///
    /// The value is written when nothing more is accepted by notifiers, and all that was accepted is on its way with the connection
    /// ([`Service::save`](ringhold_core::Service::save)). So a number in it that changes under one lock with each notification that is
    /// sent, and that is locked to be serialized, says where to go on, without a gap; `docs/services.md` has an example.
    ///
    /// A connection whose value the successor does not know by its name, cannot decode, or for which `resume` fails, is
    /// closed, which is logged and counted. Likewise one that keeps a value as well that is not resumed, or a [`Context::notifier`](crate::Context::notifier).
    ///
    /// # Panics
    ///
    /// If another type is resumed under this name, or the type under another one.
    #[must_use]
    pub fn resume<T>(
        mut self,
        name: &str,
        resume: impl FnMut(&Resumed<'_>, &mut T) -> Result<(), Fault> + 'static,
    ) -> Self
    where
        T: Serialize + DeserializeOwned + 'static,
    {
        self.resumes.add(name, resume);
        self
    }
}

/// A connection of the predecessor's that goes on in this process.
pub struct Resumed<'a> {
    peer: Peer<'a>,
    strings: Strings,
}

impl<'a> Resumed<'a> {
    pub(crate) fn new(peer: Peer<'a>, strings: Strings) -> Self {
        Resumed { peer, strings }
    }

    /// The other end. Its [id](Peer::id) is another one than in the predecessor.
    pub fn peer(&self) -> Peer<'a> {
        self.peer
    }

    /// A way to send notifications to this connection later, from anywhere, for what the resumed value subscribes to: as
    /// that of [`Context::subscription`](crate::Context::subscription).
    pub fn notifier(&self) -> Notifier {
        Notifier::of_subscription(self.peer.handle(), self.strings)
    }
}

impl fmt::Debug for Resumed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resumed({:?})", self.peer)
    }
}

/// The types of which values are passed on, with the names that they have there.
#[derive(Default)]
pub(crate) struct Resumes(OneByOne<Resume>);

struct Resume {
    name: Box<str>,
    kind: TypeId,
    write: fn(&dyn Any) -> Result<Vec<u8>, String>,
    read: Box<Read>,
    /// Whether the log says already that a value cannot be written.
    is_reported: Cell<bool>,
}

type Read = dyn FnMut(&Resumed<'_>, &[u8]) -> Result<Kept, String>;

impl Resumes {
    /// Adds a type.
    ///
    /// # Panics
    ///
    /// If there is one of that name, or the same one.
    pub(crate) fn add<T: Serialize + DeserializeOwned + 'static>(
        &mut self,
        name: &str,
        mut resume: impl FnMut(&Resumed<'_>, &mut T) -> Result<(), Fault> + 'static,
    ) {
        let kind = TypeId::of::<T>();
        for Resume {
            name: other,
            kind: known,
            ..
        } in self.0.iter()
        {
            assert!(**other != *name, "two types are resumed as {name:?}");
            assert!(
                *known != kind,
                "the type of {name:?} is resumed as {other:?} already"
            );
        }
        let read = move |resumed: &Resumed<'_>, bytes: &[u8]| {
            let mut value: T = rmp_serde::from_slice(bytes).map_err(|error| error.to_string())?;
            resume(resumed, &mut value).map_err(|fault| fault.to_string())?;
            Ok(Kept::new(value))
        };
        self.0.push(Resume {
            name: name.into(),
            kind,
            write: write::<T>,
            read: Box::new(read),
            is_reported: Cell::new(false),
        });
    }

    /// The values for the successor, unless it could not go on with one of them.
    pub(crate) fn save(&self, kept: &[Kept]) -> Saved {
        let mut parts = Vec::with_capacity(kept.len());
        for Kept {
            kind,
            kind_name,
            is_derived,
            value,
        } in kept
        {
            let Some(resume) = self.0.iter().find(|resume| resume.kind == *kind) else {
                if *is_derived {
                    continue;
                }
                warn_once(
                    *kind,
                    format_args!(
                        "handlers keep data of the type {kind_name}, which no Router::resume passes on"
                    ),
                );
                return Saved::Close;
            };
            match (resume.write)(&**value) {
                Ok(bytes) => parts.push((&*resume.name, bytes)),
                Err(error) => {
                    if !resume.is_reported.replace(true) {
                        let name = &resume.name;
                        tracing::error!(
                            "the data {name:?} of a connection cannot be serialized, so that the connection is closed \
                             instead of handed over: {}",
                            Plain(error)
                        );
                    }
                    return Saved::Close;
                }
            }
        }
        if parts.is_empty() {
            return Saved::Stateless;
        }
        let written: Written<'_> = parts
            .iter()
            .map(|(name, bytes)| (*name, serde_bytes::Bytes::new(bytes)))
            .collect();
        rmp_serde::to_vec(&written).map_or(Saved::Close, |bytes| Saved::Bytes(bytes.into()))
    }

    /// Keeps the values that the predecessor saved, resumed one after the other.
    pub(crate) fn restore(
        &mut self,
        resumed: &Resumed<'_>,
        saved: &[u8],
        session: &mut Session,
    ) -> Result<(), RestoreError> {
        let written: Written<'_> =
            rmp_serde::from_slice(saved).map_err(|error| RestoreError::new(error.to_string()))?;
        for (name, bytes) in written {
            let known = self.0.iter_mut().find(|resume| *resume.name == *name);
            let Some(resume) = known else {
                let why = format!("this version of the program does not resume the data {name:?}");
                return Err(RestoreError::new(why));
            };
            session.keep((resume.read)(resumed, bytes).map_err(|error| {
                RestoreError::new(format!("the data {name:?} is not resumed: {error}"))
            })?);
        }
        Ok(())
    }
}

/// Says why connections are closed by restarts and reloads, once in the life of a process for each type of what is held: it is
/// the same for all connections and workers, each of which is asked several times.
pub(crate) fn warn_once(kind: TypeId, why: fmt::Arguments<'_>) {
    static SAID: Mutex<BTreeSet<TypeId>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.insert(kind) {
        tracing::warn!("connections are closed instead of handed over: {why}");
    }
}

fn write<T: Serialize + 'static>(value: &dyn Any) -> Result<Vec<u8>, String> {
    match value.downcast_ref::<T>() {
        // With the names of fields, so that another version may have more of them, or fewer.
        Some(value) => rmp_serde::to_vec_named(value).map_err(|error| error.to_string()),
        None => unreachable!("each value is kept under its own type"),
    }
}
