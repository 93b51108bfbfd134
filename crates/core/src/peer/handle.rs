//! How to reach a connection from anywhere.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use self::state::{Left, Pushed};
use super::ConnectionId;
use crate::close::Close;
use crate::mailbox::{Mail, Post};
use crate::memory::Memory;

mod state;

pub(crate) use self::state::{HandleState, Item};

/// What it takes to make handles for the connections of one worker.
#[derive(Clone)]
pub(crate) struct Handles {
    pub(crate) post: Post,
    /// `limits.outbox_bytes`: what may be pushed to a connection and not yet queued on it.
    pub(crate) pushed_max: usize,
    pub(crate) memory: Arc<Memory>,
}

impl Handles {
    /// A handle of a connection, which ends if pushes to it are answered with `error`. Others than the first one know that already.
    pub(crate) fn handle(
        &self,
        id: ConnectionId,
        state: &OnceCell<Arc<HandleState>>,
        error: Option<PushError>,
    ) -> Handle {
        let new = || {
            let state = HandleState::new(self.pushed_max, self.memory.clone());
            if let Some(error) = error {
                state.end(error);
            }
            Arc::new(state)
        };
        let shared = state.get_or_init(new);
        Handle {
            id,
            shared: shared.clone(),
            post: self.post.clone(),
        }
    }
}

/// Pushes bytes to one connection, from any thread.
///
/// The bytes must be whole frames of the service's protocol. They are queued behind everything that the connection
/// was sent before, in the order in which they were pushed: by one thread, or by several of which one did it before the other, as
/// under a lock, or on what the other had said. They are delivered after the service call in which
/// they were pushed: replies to requests that were received with the present one may come before them. What was accepted
/// before the connection begins to end is still delivered. A connection that is handed over to a successor takes nothing any
/// more from its handles, and is none of this process's afterwards.
#[derive(Clone)]
pub struct Handle {
    id: ConnectionId,
    shared: Arc<HandleState>,
    post: Post,
}

/// Why a push was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// The connection is gone, or about to be.
    Gone,
    /// The peer is too slow: more was pushed than `limits.outbox_bytes` allows. Or its worker is: what was pushed from other
    /// threads and has not reached a connection yet would be more than `limits.memory` leaves room for. The connection is being
    /// closed, or was.
    Overflow,
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PushError::Gone => "the connection is gone",
            PushError::Overflow => {
                "the connection is too slow for what is pushed to it and is closed"
            }
        })
    }
}

impl std::error::Error for PushError {}

impl Handle {
    /// Names the connection.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether the connection still takes bytes. It may end at any moment after this.
    pub fn is_open(&self) -> bool {
        self.shared.check().is_ok()
    }

    /// About how many bytes wait for the peer: what was pushed or replied and the kernel has not taken. Who pushes what is worth
    /// little later, such as the newest of many values, can leave some out for a peer that is behind, before it has so much to
    /// catch up with that it is closed.
    ///
    /// What the worker has sent since its last turn is still in it, and each push from another thread counts with 96 bytes more until
    /// the worker has looked at it. What the kernel holds for the peer is not in it.
    pub fn unsent_bytes(&self) -> usize {
        self.shared.unsent()
    }

    /// Whether an answer to the ticket with this serial number would be written.
    pub(crate) fn wants_answer(&self, serial: u64) -> bool {
        self.shared.takes_answers() && !self.shared.has_given_up(serial)
    }

    /// Queues `bytes` on the connection. Shared bytes are not copied, unless they are a few hundred bytes or less.
    ///
    /// What the peer has not read yet is known to the connection's worker only. So a push that is accepted may turn out
    /// there to be one too many: then the connection is closed, and later pushes are told why.
    ///
    /// # Errors
    ///
    /// [`PushError::Gone`] if the connection has ended; [`PushError::Overflow`] if its peer does not keep up, because of
    /// which the connection is closed.
    pub fn push(&self, bytes: impl Into<Bytes>) -> Result<(), PushError> {
        self.push_shared(&bytes.into())
    }

    /// Queues `bytes` on the connection as [`Handle::push`] does. Whoever pushes the same bytes to many connections, with
    /// one push after the other, saves a reference for each.
    ///
    /// # Errors
    ///
    /// As [`Handle::push`].
    pub fn push_shared(&self, bytes: &Bytes) -> Result<(), PushError> {
        let shared = &*self.shared;
        shared.check()?;
        // What waits already comes first: then this waits behind it.
        if !shared.waits() {
            if !shared.has_room(bytes.len()) {
                return self.after(shared.overflow_of("limits.outbox_bytes"));
            }
            if self.post.push_here(self.id, shared, bytes) {
                shared.pushed_here(bytes.len());
                return Ok(());
            }
        }
        self.after(shared.push(bytes, self.post.is_here()))
    }

    /// Ends the connection for this reason, from any thread: a client that is to go, a device that is there a second time, a
    /// deadline that is over.
    ///
    /// It is as if its service ended it with [`Flow::Close`](crate::Flow::Close) when its worker learns of this, behind everything
    /// that was pushed before: what was accepted by then, from whichever thread, is still written, as are replies to the requests
    /// that are served meanwhile, and answers to deferred ones that were given. Those that are still owed are not given any
    /// more, without a word about them. A peer that reads nothing has
    /// `limits.write_timeout`; one that reads slowly, as long as it takes.
    /// [`disconnected`](crate::Service::disconnected) gets [`Close::Service`] with the reason, unless the connection ends for
    /// another one before. From now on pushes are told [`PushError::Gone`].
    ///
    /// # Errors
    ///
    /// [`PushError::Gone`] if the connection has ended, is ending, or was closed through another handle before, whose reason
    /// stays; [`PushError::Overflow`] if it is closed for that. Nothing is left to be done then, except in a restart or reload: a
    /// connection that is being handed over takes nothing any more from its handles either, and goes on in the successor. A
    /// close that was accepted before takes effect: the connection ends and is not handed over.
    pub fn close(&self, reason: impl Into<Cow<'static, str>>) -> Result<(), PushError> {
        let why = Close::Service(reason.into());
        let left = self.shared.close(PushError::Gone, why)?;
        self.tell(left)
    }

    /// What is said of a push when the worker knows of what it has left.
    fn after(&self, pushed: Pushed) -> Result<(), PushError> {
        match pushed {
            Pushed::Left(left) => self.tell(left),
            Pushed::Overflowed(left) => self.tell(left).and(Err(PushError::Overflow)),
            Pushed::Refused(error) => Err(error),
        }
    }

    /// Leaves what is no push, unless nobody comes for it any more.
    pub(crate) fn leave(&self, item: Item) {
        if let Ok(left) = self.shared.leave(item) {
            let _ = self.tell(left);
        }
    }

    /// Tells the worker that something has been left.
    fn tell(&self, left: Left) -> Result<(), PushError> {
        if self.post.is_here() {
            // Whatever other threads have posted, it is looked at in the next turn.
            if self.shared.call() {
                self.post.call_here(self.id);
            }
            return Ok(());
        }
        // What lies before it was told of, unless the worker has failed and leaves it there.
        if left == Left::Behind && !self.post.is_over() {
            return Ok(());
        }
        let mail = Mail::Inbox { of: self.id };
        self.post.send_behind(mail).map_err(|_| {
            // The worker has ended.
            self.shared.forget();
            PushError::Gone
        })
    }
}

#[cfg(test)]
impl Handle {
    /// As if another thread had left bytes, and not posted this mail yet.
    pub(crate) fn begin_push(&self, bytes: &'static [u8]) -> Mail {
        let pushed = self.shared.push(&Bytes::from_static(bytes), false);
        assert_eq!(pushed, Pushed::Left(Left::First));
        Mail::Inbox { of: self.id }
    }

    /// As if another thread had ended the connection, and not posted this mail yet.
    pub(crate) fn begin_end(&self, error: PushError, why: Close) -> Mail {
        assert_eq!(self.shared.close(error, why), Ok(Left::First));
        Mail::Inbox { of: self.id }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::mailbox::{Mailbox, mailbox};

    /// Delivers what is there. Returns how many pushes and ends.
    fn deliver(mailbox: &Mailbox, handle: &Handle) -> usize {
        while mailbox.next().is_some() {}
        let mut items = Vec::new();
        assert!(!handle.shared.take(&mut items, 1000));
        items.len()
    }

    /// That of a connection of its own, to which 1000 bytes may be pushed.
    fn handle(post: &Post) -> Handle {
        let id = ConnectionId {
            worker: 0,
            generation: 0,
            slot: 0,
        };
        let handles = Handles {
            post: post.clone(),
            pushed_max: 1000,
            memory: Memory::new(1000, 1),
        };
        handles.handle(id, &OnceCell::new(), None)
    }

    /// So many connections are given away, each while another thread acts on it, a little earlier or later. Returns how many
    /// acts were accepted, which must be those whose mail was delivered before.
    fn give_away_while_another_thread_acts(
        count: usize,
        act: impl Fn(&Handle) -> Result<(), PushError> + Sync,
    ) -> usize {
        let (post, mailbox) = mailbox().unwrap();
        let rounds: Vec<Handle> = (0..count).map(|_| handle(&post)).collect();
        // The round that may begin, and the one that the other thread has ended.
        let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let wait_for = |counter: &AtomicUsize, round: usize| {
            let mut looks = 0;
            while counter.load(Ordering::Acquire) < round {
                looks += 1;
                // The other one may need this CPU.
                match looks % 1000 {
                    0 => std::thread::yield_now(),
                    _ => std::hint::spin_loop(),
                }
            }
        };
        let accepted = std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                let act = |(round, handle): (usize, &Handle)| {
                    wait_for(&begun, round + 1);
                    (0..round % 7).for_each(|_| std::hint::spin_loop());
                    let accepted = act(handle).is_ok();
                    ended.store(round + 1, Ordering::Release);
                    usize::from(accepted)
                };
                rounds.iter().enumerate().map(act).collect::<Vec<_>>()
            });
            let mut delivered = Vec::with_capacity(count);
            for (round, handle) in rounds.iter().enumerate() {
                // Now and then one of them comes first for certain.
                if round % 10 == 1 {
                    handle.shared.part();
                }
                begun.store(round + 1, Ordering::Release);
                match round % 10 {
                    0 => wait_for(&ended, round + 1),
                    _ => (0..round % 31).for_each(|_| std::hint::spin_loop()),
                }
                handle.shared.part();
                delivered.push(deliver(&mailbox, handle));
                wait_for(&ended, round + 1);
                assert_eq!(deliver(&mailbox, handle), 0);
            }
            let accepted = acting.join().unwrap();
            assert!(accepted == delivered);
            accepted
        });
        accepted.iter().sum()
    }

    fn is_delivered_or_refused(act: impl Fn(&Handle) -> Result<(), PushError> + Sync) {
        // On a machine with much else to do, fewer must do.
        let start = std::time::Instant::now();
        for _ in (0..30).take_while(|_| start.elapsed().as_secs() < 3) {
            let accepted = give_away_while_another_thread_acts(1000, &act);
            assert!((100..=900).contains(&accepted), "{accepted}");
        }
    }

    #[test]
    fn a_push_is_delivered_before_the_connection_is_given_away_or_refused() {
        let event = Bytes::from_static(&[1]);
        is_delivered_or_refused(|handle| handle.push_shared(&event));
    }

    #[test]
    fn a_close_is_delivered_before_the_connection_is_given_away_or_refused() {
        is_delivered_or_refused(|handle| handle.close("on purpose"));
    }

    /// Delivers what comes while there is room for so much mail of others. Returns the first byte of each push and answer, and the
    /// number of each ticket that is dropped.
    fn arrivals(mailbox: &Mailbox, handles: &[&Handle], mut room: usize) -> Vec<u8> {
        let mut arrived = Vec::new();
        let of = |id| handles.iter().find(|handle| handle.id == id).unwrap();
        while let Some(mail) = mailbox.next_within(&mut room) {
            match mail {
                Mail::Push { to, bytes } => {
                    of(to).shared.arrived(bytes.len());
                    arrived.push(bytes[0]);
                }
                Mail::Inbox { of: id } | Mail::Called { of: id } => {
                    let mut items = Vec::new();
                    assert!(!of(id).shared.take(&mut items, usize::MAX));
                    arrived.extend(items.iter().map(|item| match item {
                        Item::Push { bytes, here, .. } => {
                            if *here {
                                of(id).shared.arrived(bytes.len());
                            }
                            bytes[0]
                        }
                        Item::Answer { bytes, .. } => bytes[0],
                        Item::Dropped { serial } => *serial as u8,
                        Item::End(_) => panic!("nobody ends it"),
                    }));
                }
                _ => panic!("nothing else is posted"),
            }
        }
        arrived
    }

    /// Or who reads the numbers that several workers count would see them go back.
    #[test]
    fn what_several_threads_leave_arrives_in_the_order_in_which_they_do() {
        let (post, mailbox) = mailbox().unwrap();
        mailbox.adopt();
        let (handle, mut other) = (handle(&post), handle(&post));
        other.id.slot = 1;
        let elsewhere = |act: &(dyn Fn() + Sync)| {
            std::thread::scope(|scope| {
                scope.spawn(act);
            });
        };
        let push = |number: u8| handle.push(vec![number]).unwrap();
        let answer = |number: u8| {
            let bytes = vec![number].into();
            handle.leave(Item::Answer { serial: 0, bytes });
        };
        let drop = |number: u64| handle.leave(Item::Dropped { serial: number });
        for _ in 0..2 {
            push(0);
            elsewhere(&|| push(1));
            push(2);
            other.push(vec![100]).unwrap();
            answer(3);
            elsewhere(&|| push(4));
            drop(5);
            // To another connection nothing is under way.
            assert_eq!(
                arrivals(&mailbox, &[&handle, &other], 9),
                [0, 100, 1, 2, 3, 4, 5]
            );
            elsewhere(&|| answer(1));
            push(2);
            elsewhere(&|| drop(3));
            drop(4);
            push(5);
            assert_eq!(arrivals(&mailbox, &[&handle], 9), [1, 2, 3, 4, 5]);
            assert!(handle.shared.is_delivered() && other.shared.is_delivered());
        }
    }

    /// Or a worker that pushes more in a turn than it takes mail of others would never come to the end of it, since what it pushes
    /// waits behind what others have pushed.
    #[test]
    fn what_a_worker_leaves_behind_others_takes_no_room_of_theirs() {
        let (post, mailbox) = mailbox().unwrap();
        mailbox.adopt();
        let handle = handle(&post);
        let events = Bytes::from_static(&[1, 2, 3]);
        for limit in 0..2 {
            std::thread::scope(|scope| {
                scope.spawn(|| handle.push(events.slice(..1)).unwrap());
            });
            handle.push(events.slice(1..)).unwrap();
            handle.push(events.slice(2..)).unwrap();
            assert_eq!(arrivals(&mailbox, &[&handle], limit), [1, 2, 3]);
            assert!(handle.shared.is_delivered());
        }
    }

    /// What other threads have pushed takes memory besides its bytes until then.
    #[test]
    fn a_worker_pushes_as_many_bytes_behind_others_as_without_them() {
        let (post, mailbox) = mailbox().unwrap();
        mailbox.adopt();
        let handle = handle(&post);
        std::thread::scope(|scope| {
            scope.spawn(|| handle.push(vec![1; 10]).unwrap());
        });
        let most = 1000 - 10 - crate::transit::ITEM_BYTES;
        for _ in 0..most {
            handle.push(vec![2]).unwrap();
        }
        assert_eq!(handle.push(vec![2]), Err(PushError::Overflow));
        let mut items = Vec::new();
        assert!(handle.shared.take(&mut items, 3));
        assert_eq!(items.len(), 3);
        items.clear();
        assert!(!handle.shared.take(&mut items, usize::MAX));
        assert!(matches!(items.pop(), Some(Item::End(_))));
        assert_eq!(items.len(), most - 2);
    }

    #[test]
    fn answers_that_were_given_up_are_not_wanted_again() {
        let (post, _mailbox) = mailbox().unwrap();
        let handle = handle(&post);
        assert!(handle.wants_answer(1));
        handle.shared.give_up_until(3);
        handle.shared.give_up_until(1);
        assert!(!handle.wants_answer(1) && !handle.wants_answer(3));
        assert!(handle.wants_answer(4));
    }

    /// The thread has found the connection open before that.
    #[test]
    fn who_pushes_too_much_to_what_is_not_open_any_more_is_told_so() {
        let (post, _mailbox) = mailbox().unwrap();
        let befalls: [fn(&Handle); 4] = [
            |handle| handle.shared.part(),
            |handle| handle.shared.end(PushError::Gone),
            |handle| handle.close("kicked").unwrap(),
            |_| (),
        ];
        for (number, befall) in befalls.into_iter().enumerate() {
            let handle = handle(&post);
            befall(&handle);
            let (expected, error) = match number {
                3 => (Pushed::Overflowed(Left::First), PushError::Overflow),
                _ => (Pushed::Refused(PushError::Gone), PushError::Gone),
            };
            let pushed = handle.shared.push(&Bytes::from(vec![1; 1001]), false);
            assert_eq!(pushed, expected);
            assert_eq!(handle.push(vec![1]), Err(error));
        }
    }

    /// Its engine has failed while something waited.
    #[test]
    fn a_worker_that_has_ended_takes_nothing() {
        let (post, mailbox) = mailbox().unwrap();
        let handle = handle(&post);
        handle.push(vec![1]).unwrap();
        drop(mailbox);
        assert!(handle.is_open(), "nobody can know yet");
        assert_eq!(handle.push(vec![1]), Err(PushError::Gone));
        assert!(!handle.is_open());
    }
}
