//! What is kept per connection.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::sync::Arc;

/// The state of one connection: nothing, until a handler keeps something or takes a
/// [`Notifier`](crate::Notifier).
#[derive(Default)]
pub struct Session {
    /// Most connections keep nothing, and there may be very many of them.
    kept: Option<Box<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// Shared with every notifier of the connection, so that the count tells whether there are any.
    subscription: Option<Arc<()>>,
    data: Vec<(TypeId, Box<dyn Any>)>,
    /// Why a handler wants the connection to end.
    closing: Option<Cow<'static, str>>,
}

impl Session {
    /// Whether a successor can serve the connection without knowing anything about it.
    pub(crate) fn is_stateless(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| {
            let subscription = kept.subscription.as_ref();
            let subscribed = subscription.is_some_and(|shared| Arc::strong_count(shared) > 1);
            !subscribed && kept.data.is_empty()
        })
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

    /// The value of this type, made when it is asked for first.
    pub(crate) fn data<T: Default + 'static>(&mut self) -> &mut T {
        let data = &mut self.kept.get_or_insert_default().data;
        let wanted = TypeId::of::<T>();
        let index = match data.iter().position(|(id, _)| *id == wanted) {
            Some(index) => index,
            None => {
                data.push((wanted, Box::new(T::default())));
                data.len() - 1
            }
        };
        match data[index].1.downcast_mut() {
            Some(value) => value,
            None => unreachable!("each value is stored under its own type"),
        }
    }

    /// The value of this type, which is kept no longer.
    pub(crate) fn take_data<T: 'static>(&mut self) -> Option<T> {
        let data = &mut self.kept.as_mut()?.data;
        let index = data.iter().position(|(id, _)| *id == TypeId::of::<T>())?;
        let (_, value) = data.swap_remove(index);
        value.downcast().ok().map(|value| *value)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session(stateless: {})", self.is_stateless())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_keeps_nothing_is_one_pointer() {
        assert_eq!(size_of::<Session>(), size_of::<usize>());
        let mut session = Session::default();
        assert!(session.take_closing().is_none() && session.is_stateless());
        assert!(session.kept.is_none());
    }

    #[test]
    fn a_session_is_stateless_until_somebody_may_notify_it_and_again_afterwards() {
        let mut session = Session::default();
        assert!(session.is_stateless());
        let first = session.subscribe();
        let second = session.subscribe();
        drop(first);
        assert!(!session.is_stateless());
        drop(second);
        assert!(session.is_stateless());
        drop(session.subscribe());
        assert!(session.is_stateless());
    }

    #[test]
    fn a_session_keeps_one_value_of_each_type_and_is_not_stateless_then() {
        let mut session = Session::default();
        *session.data::<u32>() += 7;
        session.data::<String>().push('x');
        *session.data::<u32>() += 1;
        assert_eq!(*session.data::<u32>(), 8);
        assert_eq!(session.data::<String>(), "x");
        assert!(!session.is_stateless());
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
        assert!(!session.is_stateless());
        assert_eq!(session.take_data::<String>().as_deref(), Some("x"));
        assert!(session.is_stateless());
        assert_eq!(*session.data::<u32>(), 0);
    }
}
