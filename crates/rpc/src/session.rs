//! What is kept per connection.

use std::any::{Any, TypeId};
use std::sync::Arc;

/// The state of one connection: nothing, until a handler keeps something or takes a
/// [`Notifier`](crate::Notifier).
#[derive(Default)]
pub struct Session {
    /// Shared with every notifier of the connection, so that the count tells whether there are any.
    subscription: Option<Arc<()>>,
    data: Vec<(TypeId, Box<dyn Any>)>,
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
