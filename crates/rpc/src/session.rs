//! What is kept per connection.

use std::any::TypeId;
use std::borrow::Cow;
use std::sync::Arc;

use ringhold_core::Saved;

use crate::drops::OneByOne;
use crate::notify::Notifier;
use crate::resume::{self, Resumes, warn_once};

/// The state of one connection: nothing, until a handler keeps something or takes a
/// [`Notifier`]. It is named only as the [`Service::Session`](ringhold_core::Service::Session) of
/// [`Rpc`](crate::Rpc); handlers reach it through their [`Context`](crate::Context).
#[derive(Default)]
pub struct Session {
    /// Most connections keep nothing, and there may be very many of them.
    kept: Option<Box<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// Shared with every notifier that no data stands for, so that the count tells whether there are any.
    subscription: Option<Arc<()>>,
    data: OneByOne<resume::Kept>,
    /// Why a handler wants the connection to end.
    closing: Option<Cow<'static, str>>,
}

impl Session {
    /// What a successor needs to serve the connection.
    pub(crate) fn save(&self, resumes: &Resumes) -> Saved {
        let Some(kept) = &self.kept else {
            return Saved::Stateless;
        };
        let subscription = kept.subscription.as_ref();
        if subscription.is_some_and(|shared| Arc::strong_count(shared) > 1) {
            let why = format_args!(
                "notifiers of Context::notifier are held; with those of Context::subscription, and Router::resume, they go on"
            );
            warn_once(TypeId::of::<Notifier>(), why);
            return Saved::Close;
        }
        resumes.save(&kept.data)
    }

    pub(crate) fn subscribe(&mut self) -> Arc<()> {
        let kept = self.kept.get_or_insert_default();
        kept.subscription.get_or_insert_default().clone()
    }

    /// Ends the connection after the call that is under way. The first reason counts.
    pub(crate) fn close(&mut self, reason: Cow<'static, str>) {
        let kept = self.kept.get_or_insert_default();
        kept.closing.get_or_insert(reason);
    }

    /// Why a handler wanted the connection to end.
    pub(crate) fn take_closing(&mut self) -> Option<Cow<'static, str>> {
        self.kept.as_mut()?.closing.take()
    }

    /// Keeps a value, in the place of one of its type.
    pub(crate) fn keep(&mut self, value: resume::Kept) {
        let data = &mut self.kept.get_or_insert_default().data;
        match data.iter_mut().find(|kept| kept.kind == value.kind) {
            Some(kept) => *kept = value,
            None => data.push(value),
        }
    }

    /// The value of this type, if there is one.
    pub(crate) fn get<T: 'static>(&mut self) -> Option<&mut T> {
        let mut data = self.kept.as_mut()?.data.iter_mut();
        let kept = data.find(|kept| kept.kind == TypeId::of::<T>())?;
        kept.value.downcast_mut()
    }

    /// The value of this type, made when it is asked for first.
    pub(crate) fn data<T: Default + 'static>(&mut self) -> &mut T {
        let data = &mut self.kept.get_or_insert_default().data;
        let wanted = TypeId::of::<T>();
        let index = match data.iter().position(|kept| kept.kind == wanted) {
            Some(index) => index,
            None => {
                data.push(resume::Kept::new(T::default()));
                data.len() - 1
            }
        };
        match data[index].value.downcast_mut() {
            Some(value) => value,
            None => unreachable!("each value is stored under its own type"),
        }
    }

    /// The value of this type, which is kept no longer.
    pub(crate) fn take_data<T: 'static>(&mut self) -> Option<T> {
        let data = &mut self.kept.as_mut()?.data;
        let wanted = TypeId::of::<T>();
        let index = data.iter().position(|kept| kept.kind == wanted)?;
        // The others keep their order, in which they are resumed.
        let kept = data.remove(index);
        kept.value.downcast().ok().map(|value| *value)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.data.len());
        write!(f, "Session({kept} values kept)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_stateless(session: &Session) -> bool {
        session.save(&Resumes::default()) == Saved::Stateless
    }

    #[test]
    fn a_session_that_keeps_nothing_is_one_pointer() {
        assert_eq!(size_of::<Session>(), size_of::<usize>());
        let mut session = Session::default();
        assert!(session.take_closing().is_none() && is_stateless(&session));
        assert!(session.kept.is_none());
    }

    #[test]
    fn a_session_is_stateless_until_somebody_may_notify_it_and_again_afterwards() {
        let mut session = Session::default();
        assert!(is_stateless(&session));
        let first = session.subscribe();
        let second = session.subscribe();
        drop(first);
        assert!(!is_stateless(&session));
        drop(second);
        assert!(is_stateless(&session));
        drop(session.subscribe());
        assert!(is_stateless(&session));
    }

    #[test]
    fn a_session_keeps_one_value_of_each_type_and_is_not_stateless_then() {
        let mut session = Session::default();
        *session.data::<u32>() += 7;
        session.data::<String>().push('x');
        *session.data::<u32>() += 1;
        assert_eq!(*session.data::<u32>(), 8);
        assert_eq!(session.data::<String>(), "x");
        assert!(!is_stateless(&session));
    }

    #[test]
    fn a_session_is_saved_in_the_order_in_which_its_values_were_kept() {
        let mut resumes = Resumes::default();
        resumes.add("first", |_, _: &mut u8| Ok(()));
        resumes.add("second", |_, _: &mut u16| Ok(()));
        resumes.add("third", |_, _: &mut u32| Ok(()));
        let mut session = Session::default();
        *session.data::<u8>() = 1;
        *session.data::<u16>() = 2;
        *session.data::<u32>() = 3;
        let saved = |session: &Session| match session.save(&resumes) {
            Saved::Bytes(bytes) => {
                let saved: Vec<(String, serde_bytes::ByteBuf)> =
                    rmp_serde::from_slice(&bytes).unwrap();
                saved.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(saved(&session), ["first", "second", "third"]);
        assert_eq!(session.take_data::<u8>(), Some(1));
        assert_eq!(saved(&session), ["second", "third"]);
        // It is kept anew.
        *session.data::<u8>() = 4;
        assert_eq!(saved(&session), ["second", "third", "first"]);
    }

    #[test]
    fn a_session_is_stateless_again_when_the_last_value_was_taken() {
        let mut session = Session::default();
        assert_eq!(session.take_data::<u32>(), None);
        assert!(session.kept.is_none());
        *session.data::<u32>() = 7;
        session.data::<String>().push('x');
        assert_eq!(session.take_data::<u64>(), None);
        assert_eq!(session.take_data::<u32>(), Some(7));
        assert_eq!(session.take_data::<u32>(), None);
        assert!(!is_stateless(&session));
        assert_eq!(session.take_data::<String>().as_deref(), Some("x"));
        assert!(is_stateless(&session));
        assert_eq!(*session.data::<u32>(), 0);
    }
}
