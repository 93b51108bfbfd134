//! An inbox, in the orders in which handles and the worker can come to it.

use std::cell::OnceCell;

use loom::thread::{self, JoinHandle};

use super::super::{Handle, Handles};
use super::*;
use crate::mailbox::{Mail, Mailbox, mailbox};
use crate::peer::ConnectionId;
use crate::sync::check;

/// What came besides pushes, which are numbers.
const END: u8 = 100;
const ANSWER: u8 = 101;

/// A connection to which so much may be pushed, and what has come of what was left for it.
struct Connection {
    mailbox: Mailbox,
    handle: Handle,
    came: Vec<u8>,
}

impl Connection {
    fn new(pushed_max: usize) -> Self {
        let (post, mailbox) = mailbox().unwrap();
        let handles = Handles {
            post,
            memory: Memory::new(1000, 1),
        };
        let id = ConnectionId {
            worker: 0,
            generation: 0,
            slot: 0,
        };
        Connection {
            mailbox,
            handle: handles.handle(id, pushed_max, &OnceCell::new(), None),
            came: Vec::new(),
        }
    }

    fn spawn<R: 'static>(&self, act: impl FnOnce(Handle) -> R + 'static) -> JoinHandle<R> {
        let handle = self.handle.clone();
        thread::spawn(move || act(handle))
    }

    /// As a worker does with its mail, but that it takes no more than `most` items in a visit.
    fn deliver(&mut self, most: usize) {
        while let Some(mail) = self.mailbox.next() {
            assert!(matches!(mail, Mail::Inbox { .. }));
            let shared = &self.handle.shared;
            shared.posted();
            let mut items = Vec::new();
            let has_more = shared.take(&mut items, most);
            self.came.extend(items.iter().map(|item| match item {
                Item::Push { bytes, .. } => bytes[0],
                Item::End(_) => END,
                Item::Answer { .. } | Item::Dropped { .. } => ANSWER,
            }));
            if has_more && shared.post() {
                self.handle.post.send_behind(mail).ok().unwrap();
            }
        }
    }

    #[track_caller]
    fn assert_empty(&self) {
        let inbox = self.handle.shared.lock();
        assert!(inbox.first.is_none() && inbox.behind.is_empty());
        assert_eq!(inbox.pushed, 0);
    }
}

fn push(handle: &Handle, number: u8) -> Result<(), PushError> {
    handle.push(Bytes::copy_from_slice(&[number]))
}

#[test]
fn what_is_pushed_comes_once_in_order_with_one_mail_at_a_time() {
    for (preemptions, threads, each) in [(3, 1, 3), (3, 2, 1), (2, 2, 2)] {
        check(preemptions, move || {
            let mut connection = Connection::new(1000);
            let pushing = (0..threads).map(|thread| {
                connection.spawn(move |handle| {
                    (0..each).for_each(|number| push(&handle, 10 * thread + number).unwrap());
                })
            });
            let pushing: Vec<_> = pushing.collect();
            connection.deliver(1);
            pushing.into_iter().for_each(|it| it.join().unwrap());
            let waiting: Vec<Mail> = std::iter::from_fn(|| connection.mailbox.next()).collect();
            assert!(waiting.len() <= 1);
            for mail in waiting {
                connection.handle.post.send_behind(mail).ok().unwrap();
            }
            connection.deliver(1);
            for thread in 0..threads {
                let own = connection.came.iter().filter(|it| **it / 10 == thread);
                assert!(own.copied().eq(10 * thread..10 * thread + each));
            }
            assert_eq!(connection.came.len(), usize::from(threads * each));
            connection.assert_empty();
        });
    }
}

type Act = fn(&Handle, u8) -> Result<(), PushError>;

#[test]
fn what_is_accepted_comes_before_the_connection_is_given_away() {
    let close = |handle: &Handle, _| handle.close("on purpose");
    let cut = |handle: &Handle, _| handle.cut("on purpose");
    let acts: [Act; 3] = [push, close, cut];
    for (preemptions, acts) in [
        (4, &acts[..1]),
        (4, &acts[1..2]),
        (4, &acts[2..]),
        (2, &acts[..2]),
        (2, &acts[1..]),
    ] {
        let acts = acts.to_vec();
        check(preemptions, move || {
            let mut connection = Connection::new(1000);
            let acting = acts.iter().map(|act| {
                let act = *act;
                connection.spawn(move |handle| act(&handle, 1).is_ok())
            });
            let acting: Vec<_> = acting.collect();
            connection.handle.shared.part();
            connection.deliver(64);
            let is_given = connection.handle.shared.is_delivered();
            let given = connection.came.len();
            let accepted = acting.into_iter().filter_map(|it| it.join().ok());
            let accepted = accepted.filter(|is_accepted| *is_accepted).count();
            connection.deliver(64);
            assert_eq!(connection.came.len(), accepted);
            assert!(!is_given || given == accepted, "it comes too late");
            connection.assert_empty();
        });
    }
}

#[test]
fn of_two_that_end_a_connection_one_does_and_nothing_comes_behind() {
    check(3, || {
        // Room for one of two pushes.
        let mut connection = Connection::new(150);
        let pushing =
            [1, 2].map(|number| connection.spawn(move |handle| handle.push(vec![number; 100])));
        let closing = connection.spawn(|handle| handle.close("on purpose"));
        let pushed = pushing.map(|it| it.join().unwrap());
        let closed = closing.join().unwrap();
        connection.deliver(64);
        let ends = connection.came.iter().filter(|it| **it == END).count();
        assert_eq!((ends, connection.came.last()), (1, Some(&END)));
        let accepted = pushed.iter().filter(|it| it.is_ok()).count();
        assert_eq!(connection.came.len(), accepted + 1);
        let overflows = pushed.contains(&Err(PushError::Overflow));
        assert!(closed.is_ok() || overflows);
        connection.assert_empty();
    });
}

#[test]
fn who_is_closed_and_cut_twice_is_cut_once_and_last() {
    check(3, || {
        let mut connection = Connection::new(1000);
        let cutting = [(); 2].map(|()| connection.spawn(|handle| handle.cut("on purpose").is_ok()));
        let closing = connection.spawn(|handle| handle.close("on purpose").is_ok());
        let cut = cutting.map(|it| it.join().unwrap());
        let closed = closing.join().unwrap();
        connection.deliver(64);
        assert_eq!(cut.iter().filter(|is_cut| **is_cut).count(), 1);
        assert_eq!(connection.came.len(), 1 + usize::from(closed));
        connection.assert_empty();
    });
}

#[test]
fn nothing_stays_in_the_inbox_of_a_connection_that_is_gone() {
    check(3, || {
        let mut connection = Connection::new(1000);
        let pushing = connection.spawn(|handle| push(&handle, 1).is_ok());
        let answering = connection.spawn(|handle| handle.leave(Item::Dropped { serial: 1 }, false));
        connection.deliver(64);
        connection.handle.shared.forget();
        pushing.join().unwrap();
        answering.join().unwrap();
        connection.assert_empty();
        assert!(push(&connection.handle, 1).is_err());
    });
}

#[test]
fn who_pushes_when_a_worker_has_ended_is_told() {
    check(3, || {
        let Connection {
            mailbox, handle, ..
        } = Connection::new(1000);
        let threads = [1, 2].map(|number| {
            let handle = handle.clone();
            thread::spawn(move || push(&handle, number))
        });
        drop(mailbox);
        for it in threads {
            let _ = it.join().unwrap();
        }
        assert_eq!(push(&handle, 3), Err(PushError::Gone));
    });
}
