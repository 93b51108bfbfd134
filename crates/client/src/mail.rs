//! What a client waits for, and what arrived and was not taken.

use std::collections::{HashMap, VecDeque};

use crate::error::{Exceeded, Refused};
use crate::message::Message;

/// The requests of a client that are not answered yet, and the messages that nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Mail {
    next_id: u32,
    /// The requests that are not answered yet; false when their caller has given up on the reply.
    outstanding: HashMap<u32, bool>,
    /// How many of them are false.
    given_up: usize,
    /// What arrived and was not taken, in the order of arrival.
    queue: VecDeque<Message>,
    queued_bytes: usize,
    /// How many bytes may be queued.
    room: usize,
}

impl Mail {
    pub(crate) fn new(room: usize) -> Self {
        Self {
            next_id: 0,
            outstanding: HashMap::new(),
            given_up: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            room,
        }
    }

    /// How many requests are waiting for a reply that somebody wants.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.len() - self.given_up
    }

    /// Whether this request is waiting for its reply.
    pub(crate) fn is_outstanding(&self, id: u32) -> bool {
        self.outstanding.contains_key(&id)
    }

    /// The id of the next request, which is waiting for its reply from now on.
    pub(crate) fn post(&mut self) -> u32 {
        // Four thousand million calls later an id may still be waiting for its reply.
        while self.outstanding.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.outstanding.insert(id, true);
        self.next_id = id.wrapping_add(1);
        id
    }

    /// The reply to this request is not wanted any more.
    pub(crate) fn give_up(&mut self, id: u32) {
        if let Some(wanted) = self.outstanding.get_mut(&id) {
            self.given_up += usize::from(*wanted);
            *wanted = false;
        }
    }

    /// Takes the first queued message that is wanted.
    pub(crate) fn take(&mut self, wanted: impl Fn(&Message) -> bool) -> Option<Message> {
        let index = self.queue.iter().position(wanted)?;
        let message = self.queue.remove(index)?;
        self.queued_bytes -= message.size();
        Some(message)
    }

    /// Queues a message, unless it is a reply that nobody wants any more.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn accept(&mut self, message: Message) -> Result<(), Refused> {
        if let Message::Reply(reply) = &message {
            match self.outstanding.remove(&reply.id) {
                Some(true) => {}
                Some(false) => {
                    self.given_up -= 1;
                    return Ok(());
                }
                None => {
                    return Err(Refused::Violation(format!(
                        "a reply to the request {}, which is not waiting for one",
                        reply.id
                    )));
                }
            }
        }
        // What waits counts, not the message that comes: that may be the one that is wanted, and `frame_bytes` bounds it.
        if self.queued_bytes > self.room {
            // What is not queued is not received.
            if let Message::Reply(reply) = &message {
                self.outstanding.insert(reply.id, true);
            }
            return Err(Refused::Limit(Exceeded::QueueBytes(self.room)));
        }
        self.queued_bytes += message.size();
        self.queue.push_back(message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Notification;

    #[test]
    fn the_room_is_counted_in_memory_and_not_in_payload() {
        let message = |payload: usize| {
            Message::Notification(Notification {
                method: Vec::new(),
                params: vec![0; payload],
            })
        };
        let room = 100 * size_of::<Message>();
        let mut mail = Mail::new(room);
        let taken = (0..200)
            .take_while(|_| mail.accept(message(1)).is_ok())
            .count();
        assert!((1..100).contains(&taken), "{taken}");
        assert_eq!(
            mail.accept(message(1)),
            Err(Refused::Limit(Exceeded::QueueBytes(room)))
        );
        while mail.take(|_| true).is_some() {}
        assert_eq!(mail.queued_bytes, 0);
        // A payload counts as well, but one alone may be larger.
        assert_eq!(mail.accept(message(room)), Ok(()));
        assert!(mail.accept(message(1)).is_err());
        assert!(mail.take(|_| true).is_some());
        assert_eq!(mail.accept(message(1)), Ok(()));
    }
}
