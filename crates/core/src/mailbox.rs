//! How anything outside a worker reaches it: a queue and a wake-up.
//!
//! The queue is `std::sync::mpsc`. A worker that is about to sleep announces it, looks at the queue once more and
//! then sleeps on its eventfd; whoever posts writes to the eventfd only if sleep was announced, so that a busy worker
//! costs its posters no system call.
//!
//! A service that pushes to connections of its own worker posts on the worker's own thread. Such mail does not go through
//! the shared queue but through one of the thread's, which costs no atomic operations, and pushes are gathered in a
//! [`Fan`] before they become mail.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use rustix::event::{EventfdFlags, eventfd};

use crate::crowd::Place;
use crate::fan::{Fan, Fanned};
use crate::handover::parcel::Parcel;
use crate::peer::{ConnectionId, HandleState};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::queue;

#[cfg(test)]
#[cfg(ringhold_loom)]
mod models;

/// What a worker can be told.
pub(crate) enum Mail {
    /// A connection that another worker accepted on the listeners of a socket name. The mailbox owns the descriptor.
    Accepted {
        name: u16,
        socket: OwnedFd,
        place: Option<Place>,
    },
    /// Something waits for this connection that handles and responders have left. One is on its way for each at a time.
    Inbox { of: ConnectionId },
    /// As [`Mail::Inbox`], some of it from the worker's own thread: all that waits is taken.
    Called { of: ConnectionId },
    /// Bytes that a [`Handle`](crate::Handle) pushed on the worker's own thread.
    Push { to: ConnectionId, bytes: Bytes },
    /// What handles pushed to several connections on the worker's own thread.
    Fan(Box<Fanned>),
    /// A worker that held as many connections as it may holds fewer now: who could not deal should try again.
    Room,
    /// The process holds more memory than it may, and this worker holds the largest connection. There is one such mail at a time.
    Shed,
    /// A connection that the predecessor handed over, counted for this worker.
    Restored {
        name: u16,
        parcel: Box<Parcel>,
        place: Option<Place>,
    },
    /// Say when everything that was posted before has been done.
    Report(mpsc::Sender<()>),
    /// The connections are this process's. Until this mail no byte moves on any, and nobody is accepted.
    Resume,
    /// Stop as [`crate::Running::stop`] says; with `hand_over`, connections are not closed but given up as parcels.
    Stop { hand_over: bool },
    /// Accept no more.
    StopAccepting,
    /// What was posted for this connection before it began to end has been delivered.
    Fence { to: ConnectionId },
    /// Something that a stopping worker waits for has changed; look again.
    Look,
}

/// The sending side of a worker's mailbox.
#[derive(Clone)]
pub(crate) struct Post {
    sender: queue::Sender<Mail>,
    wake: Arc<Wake>,
}

/// The receiving side, owned by the worker.
pub(crate) struct Mailbox {
    receiver: queue::Receiver<Mail>,
    wake: Arc<Wake>,
}

struct Wake {
    event: OwnedFd,
    /// The worker sleeps or is about to, and nobody has woken it. It calls no service until it has taken that back.
    sleeping: AtomicBool,
    /// The worker has ended.
    is_over: AtomicBool,
}

/// The mailbox that belongs to a thread, and what was posted to it on that thread.
struct Own {
    /// Tells the mailboxes apart.
    wake: *const Wake,
    mail: VecDeque<Mail>,
    /// Comes behind `mail`.
    fan: Fan,
    /// Those for which something was left behind what others have left, which comes behind what was pushed to them before.
    called: VecDeque<ConnectionId>,
}

impl Own {
    fn post(&mut self, mail: Mail) {
        self.mail.extend(self.fan.complete());
        self.mail.push_back(mail);
    }

    fn next(&mut self, called: &mut usize) -> Option<Mail> {
        let mail = self.mail.pop_front().or_else(|| self.fan.complete());
        mail.or_else(|| {
            *called = called.checked_sub(1)?;
            let of = self.called.pop_front()?;
            Some(Mail::Called { of })
        })
    }
}

/// How much mail a turn takes by now.
pub(crate) struct Quota {
    /// From other threads.
    others: usize,
    /// As many [`Mail::Called`] as were there when it began. A service that is told of something in one may leave more behind, and would
    /// hold the worker with that for ever.
    called: usize,
}

impl Quota {
    /// Something was as much work as so many mails of others.
    pub(crate) fn spend(&mut self, mails: usize) {
        self.others = self.others.saturating_sub(mails);
    }
}

thread_local! {
    static OWN: RefCell<Own> = RefCell::new(Own {
        wake: std::ptr::null(),
        mail: VecDeque::new(),
        fan: Fan::default(),
        called: VecDeque::new(),
    });
}

/// Looks at the thread's own mailbox, unless the thread is about to end or that is being looked at: bytes that a push has
/// shared may post something when the last of them goes, and take the way of other threads then.
fn with_own<R>(look: impl FnOnce(&mut Own) -> R) -> Option<R> {
    OWN.try_with(|own| Some(look(&mut *own.try_borrow_mut().ok()?)))
        .ok()
        .flatten()
}

/// A mailbox and its sending side.
pub(crate) fn mailbox() -> io::Result<(Post, Mailbox)> {
    let (sender, receiver) = queue::channel();
    let wake = Arc::new(Wake {
        // Blocking on purpose: a read through io_uring then waits for readiness instead of failing with EAGAIN.
        event: eventfd(0, EventfdFlags::CLOEXEC)?,
        sleeping: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
    });
    let post = Post {
        sender,
        wake: wake.clone(),
    };
    Ok((post, Mailbox { receiver, wake }))
}

impl Post {
    /// Queues `mail`. Gives it back if the worker has ended.
    pub(crate) fn send(&self, mail: Mail) -> Result<(), Mail> {
        let mut mail = Some(mail);
        with_own(|own| {
            if own.wake == Arc::as_ptr(&self.wake)
                && let Some(mail) = mail.take()
            {
                own.post(mail);
            }
        });
        mail.map_or(Ok(()), |mail| self.send_behind(mail))
    }

    /// Queues `mail` behind all that any thread has posted to the worker by now, its own included. Gives it back if the worker has ended.
    pub(crate) fn send_behind(&self, mail: Mail) -> Result<(), Mail> {
        self.sender.send(mail).map_err(|error| error.0)?;
        if self.wake.sleeping.swap(false, Ordering::SeqCst) {
            // The counter of an eventfd takes 2^64 - 2 wake-ups before a write could block or fail.
            let _ = rustix::io::write(&self.wake.event, &1u64.to_ne_bytes());
        }
        Ok(())
    }

    /// Queues a push if the calling thread is the worker's own. Returns whether it is.
    pub(crate) fn push_here(&self, to: ConnectionId, state: &HandleState, bytes: &Bytes) -> bool {
        let here = with_own(|own| {
            let here = own.wake == Arc::as_ptr(&self.wake);
            if here && let Some(mail) = own.fan.push(to, state, bytes) {
                own.mail.push_back(mail);
            }
            here
        });
        here.unwrap_or(false)
    }

    /// Whether the calling thread is the worker's own.
    pub(crate) fn is_here(&self) -> bool {
        with_own(|own| own.wake == Arc::as_ptr(&self.wake)).unwrap_or(false)
    }

    /// Whether the worker sleeps or is about to, and was not woken: it is not in a call of a service.
    pub(crate) fn is_asleep(&self) -> bool {
        self.wake.sleeping.load(Ordering::Relaxed)
    }

    /// Whether the worker has ended: what was left for its connections is not taken any more.
    pub(crate) fn is_over(&self) -> bool {
        self.wake.is_over.load(Ordering::Relaxed)
    }

    /// Notes on the worker's own thread that it has left something for this connection.
    pub(crate) fn call_here(&self, of: ConnectionId) {
        with_own(|own| own.called.push_back(of));
    }
}

/// Takes back what [`Mail::Fan`] came in.
pub(crate) fn reuse(fanned: Box<Fanned>) {
    OWN.with_borrow_mut(|own| own.fan.reuse(fanned));
}

impl Mailbox {
    /// From now on what the calling thread posts stays on it, unless the thread has another mailbox already. Only this
    /// thread may look for mail afterwards.
    pub(crate) fn adopt(&self) {
        OWN.with_borrow_mut(|own| {
            if own.wake.is_null() {
                own.wake = Arc::as_ptr(&self.wake);
            }
        });
    }

    pub(crate) fn next(&self) -> Option<Mail> {
        self.next_within(&mut Quota {
            others: 1,
            called: 1,
        })
    }

    /// That of a turn that begins, with so much mail of other threads.
    pub(crate) fn quota(&self, others: usize) -> Quota {
        let called = self.of_own(|own| own.called.len()).unwrap_or(0);
        Quota { others, called }
    }

    /// As [`Mailbox::next`], but takes no more than that, and notes what it took. What else the worker has
    /// posted to itself is as much as it was made to do in its last turn.
    pub(crate) fn next_within(&self, quota: &mut Quota) -> Option<Mail> {
        let own = self.of_own(|own| own.next(&mut quota.called)).flatten();
        own.or_else(|| {
            quota.others = quota.others.checked_sub(1)?;
            self.receiver.try_recv().ok()
        })
    }

    /// Whether the worker has posted something to itself that is not delivered yet, such as what a service has pushed.
    pub(crate) fn has_own(&self) -> bool {
        let has_any = self
            .of_own(|own| !(own.mail.is_empty() && own.fan.is_empty() && own.called.is_empty()));
        has_any.unwrap_or(false)
    }

    /// Looks at what the calling thread has posted, if the mailbox is its own.
    fn of_own<R>(&self, look: impl FnOnce(&mut Own) -> R) -> Option<R> {
        OWN.with_borrow_mut(|own| (own.wake == Arc::as_ptr(&self.wake)).then(|| look(own)))
    }

    /// Announces sleep. If this returns mail, the worker must not sleep.
    pub(crate) fn prepare_sleep(&self) -> Option<Mail> {
        // Exchanges rather than stores, here and in `awake`: this one reads what a poster wrote last, and so sees that poster's mail if
        // the poster did not see the announcement.
        self.wake.sleeping.swap(true, Ordering::SeqCst);
        let mail = self.next();
        if mail.is_some() {
            self.awake();
        }
        mail
    }

    /// Takes the announcement back. To be called before any service is, or a worker that is stuck in that call would be taken for one
    /// that sleeps.
    ///
    /// A poster that does not see it yet wakes the worker for nothing.
    pub(crate) fn awake(&self) {
        // Nothing is there to take back as a rule, as on a worker that does not sleep.
        if self.wake.sleeping.load(Ordering::Relaxed) {
            self.wake.sleeping.swap(false, Ordering::Relaxed);
        }
    }

    /// Becomes readable when a sleeping worker is to wake up; reading eight bytes resets it.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.wake.event.as_fd()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.wake.is_over.store(true, Ordering::Relaxed);
        let mail = OWN.with_borrow_mut(|own| {
            if own.wake != Arc::as_ptr(&self.wake) {
                return VecDeque::new();
            }
            own.wake = std::ptr::null();
            own.mail.extend(own.fan.complete());
            own.called.clear();
            std::mem::take(&mut own.mail)
        });
        // Not while it is borrowed: what is in there may have something to post when it goes.
        drop(mail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;

    #[test]
    fn mail_is_small() {
        assert!(size_of::<Mail>() <= 64);
    }

    fn wakeups(mailbox: &Mailbox) -> u64 {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let event = mailbox.event();
        let mut fds = [PollFd::new(&event, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())).unwrap() == 0 {
            return 0;
        }
        let mut count = [0; 8];
        rustix::io::read(event, &mut count).unwrap();
        u64::from_ne_bytes(count)
    }

    #[test]
    fn wakes_only_a_sleeper_and_only_once() {
        let (post, mailbox) = mailbox().unwrap();
        post.send(Mail::Look).ok().unwrap();
        assert_eq!(
            wakeups(&mailbox),
            0,
            "a worker that is awake needs no system call"
        );
        assert!(
            mailbox.prepare_sleep().is_some(),
            "mail that came before must be seen"
        );
        assert!(mailbox.prepare_sleep().is_none());
        post.send(Mail::Look).ok().unwrap();
        post.send(Mail::Stop { hand_over: false }).ok().unwrap();
        assert_eq!(wakeups(&mailbox), 1);
        assert!(matches!(mailbox.next(), Some(Mail::Look)));
        assert!(matches!(mailbox.next(), Some(Mail::Stop { .. })));
    }

    #[test]
    fn what_its_own_thread_posts_stays_in_order_and_comes_first() {
        let (post, mailbox) = mailbox().unwrap();
        let (other, others) = super::mailbox().unwrap();
        mailbox.adopt();
        let stop = |hand_over| Mail::Stop { hand_over };
        std::thread::scope(|scope| {
            scope.spawn(|| post.send(Mail::Look).ok().unwrap());
        });
        post.send(stop(false)).ok().unwrap();
        post.send(stop(true)).ok().unwrap();
        other.send(Mail::Room).ok().unwrap();
        let mail: Vec<Mail> = std::iter::from_fn(|| mailbox.next()).collect();
        assert!(matches!(
            mail[..],
            [
                Mail::Stop { hand_over: false },
                Mail::Stop { hand_over: true },
                Mail::Look
            ]
        ));
        assert!(matches!(others.next(), Some(Mail::Room)));
        assert!(mailbox.prepare_sleep().is_none());
        post.send(Mail::Look).ok().unwrap();
        assert_eq!(wakeups(&mailbox), 0, "it is awake, since it posts");
        assert!(mailbox.prepare_sleep().is_some());
    }

    #[test]
    fn only_mail_of_others_takes_room() {
        let (post, mailbox) = mailbox().unwrap();
        mailbox.adopt();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..3).for_each(|_| post.send(Mail::Look).ok().unwrap()));
        });
        (0..5).for_each(|_| post.send(Mail::Room).ok().unwrap());
        let mut quota = mailbox.quota(2);
        let mail: Vec<Mail> = std::iter::from_fn(|| mailbox.next_within(&mut quota)).collect();
        assert!(mail[..5].iter().all(|mail| matches!(mail, Mail::Room)));
        assert!(matches!(mail[5..], [Mail::Look, Mail::Look]));
        assert!(matches!(mailbox.next(), Some(Mail::Look)));
    }

    #[test]
    fn what_is_called_for_during_a_turn_is_looked_into_in_the_next() {
        let (post, mailbox) = mailbox().unwrap();
        mailbox.adopt();
        let of = ConnectionId {
            worker: 0,
            generation: 0,
            slot: 0,
        };
        let is_called = |mail: Option<Mail>| matches!(mail, Some(Mail::Called { .. }));
        post.call_here(of);
        for _ in 0..3 {
            let mut quota = mailbox.quota(9);
            assert!(is_called(mailbox.next_within(&mut quota)));
            post.call_here(of);
            post.send(Mail::Look).ok().unwrap();
            let next = mailbox.next_within(&mut quota);
            assert!(matches!(next, Some(Mail::Look)));
            assert!(mailbox.next_within(&mut quota).is_none());
        }
        assert!(is_called(mailbox.prepare_sleep()), "it must not sleep");
    }

    #[test]
    fn other_mail_does_not_overtake_pushes() {
        let (post, mailbox) = mailbox().unwrap();
        mailbox.adopt();
        let state = HandleState::new(1000, Memory::new(1000, 1));
        let to = ConnectionId {
            worker: 0,
            generation: 0,
            slot: 0,
        };
        let event = Bytes::from(vec![1]);
        assert!(post.push_here(to, &state, &event));
        post.send(Mail::Look).ok().unwrap();
        assert!(post.push_here(to, &state, &event));
        let mail: Vec<Mail> = std::iter::from_fn(|| mailbox.next()).collect();
        assert!(matches!(
            mail[..],
            [Mail::Push { .. }, Mail::Look, Mail::Push { .. }]
        ));
        std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| post.push_here(to, &state, &event));
            assert!(!elsewhere.join().unwrap());
        });
    }

    #[test]
    fn a_thread_has_one_mailbox_at_a_time() {
        let (post, first) = mailbox().unwrap();
        let (other, second) = mailbox().unwrap();
        first.adopt();
        second.adopt();
        post.send(Mail::Look).ok().unwrap();
        other.send(Mail::Room).ok().unwrap();
        assert!(matches!(second.next(), Some(Mail::Room)));
        drop(first);
        second.adopt();
        assert!(second.next().is_none(), "that was the first one's");
    }

    #[test]
    fn gives_mail_back_when_the_worker_is_gone() {
        let (post, mailbox) = mailbox().unwrap();
        drop(mailbox);
        assert!(matches!(
            post.send(Mail::Stop { hand_over: false }),
            Err(Mail::Stop { .. })
        ));
    }
}
