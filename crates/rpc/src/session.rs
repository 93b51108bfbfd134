//! What is kept per connection.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::sync::Arc;

/// The state of one connection: nothing, until a handler keeps something or takes a
/// [`Notifier`](crate::Notifier).
#[derive(Default)]
pub struct Session {
    /// Shared with every notifier of the connection, so that the count tells whether there are any.
    subscription: Option<Arc<()>>,
    data: Vec<(TypeId, Box<dyn Any>)>,
    /// Why a handler wants the connection to end.
    pub(crate) closing: Option<Cow<'static, str>>,
}

impl Session {
    /// Whether a successor can serve the connection without knowing anything about it.
    pub(crate) fn is_stateless(&self) -> bool {
        let subscribed = self
            .subscription
            .as_ref()
            .is_some_and(|subscription| Arc::strong_count(subscription) > 1);
        !subscribed && self.data.is_empty()
    }

    pub(crate) fn subscribe(&mut self) -> Arc<()> {
        self.subscription.get_or_insert_default().clone()
    }

    /// The value of this type, made when it is asked for first.
    pub(crate) fn data<T: Default + 'static>(&mut self) -> &mut T {
        let wanted = TypeId::of::<T>();
        let index = match self.data.iter().position(|(id, _)| *id == wanted) {
            Some(index) => index,
            None => {
                self.data.push((wanted, Box::new(T::default())));
                self.data.len() - 1
            }
        };
        match self.data[index].1.downcast_mut() {
            Some(value) => value,
            None => unreachable!("each value is stored under its own type"),
        }
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
}
