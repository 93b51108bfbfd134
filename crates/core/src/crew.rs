//! What the workers of one server share.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::crowd::Crowd;
use crate::limits::Limits;
use crate::mailbox::{Mail, Post};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::placement::Dealer;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::tickets::Tally;

#[cfg(test)]
#[cfg(ringhold_loom)]
mod models;
mod steps;

pub(crate) use self::steps::Step;
use self::steps::Steps;

/// One socket name, as the workers know it; its number is its index.
#[derive(Clone)]
pub(crate) struct Name {
    pub(crate) name: Arc<str>,
    /// Who answers it; `None` for a disabled name.
    pub(crate) service: Option<NamedService>,
    /// Those of its connections, of which each worker holds `connections` at most. Of the others, what concerns more than one
    /// connection is the server's.
    pub(crate) limits: Limits,
    /// Its `frame_bytes` is that of its own section.
    pub(crate) own_frame_bytes: bool,
    /// How many of its connections a client may have; 0 is any number.
    pub(crate) connections_per_client: u32,
    /// Its connections begin with the header of a proxy.
    pub(crate) proxy_protocol: bool,
}

/// One of the services that each worker has.
#[derive(Clone)]
pub(crate) struct NamedService {
    pub(crate) name: Arc<str>,
    /// Which of the worker's it is.
    pub(crate) index: usize,
}

impl Name {
    /// One that nobody answers, and whose connections, however many, have these limits.
    pub(crate) fn unanswered(name: Arc<str>, limits: Limits) -> Self {
        Name {
            name,
            service: None,
            limits: Limits {
                connections: u32::MAX,
                ..limits
            },
            own_frame_bytes: false,
            connections_per_client: 0,
            proxy_protocol: false,
        }
    }

    /// Whether a connection of this name goes on that `service` answered in the predecessor.
    pub(crate) fn goes_on_with(&self, service: &str) -> bool {
        let now = self.service.as_ref();
        now.is_some_and(|now| *now.name == *service)
    }
}

/// The workers as they know of each other.
pub(crate) struct Crew {
    /// By worker.
    pub(crate) posts: Vec<Post>,
    pub(crate) names: Arc<[Name]>,
    pub(crate) dealer: Dealer,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) metrics: Arc<Metrics>,
    /// Deferred replies that are owed, and that a stop waits for.
    pub(crate) open_tickets: Tally,
    /// Those that it does not wait for.
    pub(crate) repeatable: Tally,
    /// Deferred replies that a stop did not wait for any longer.
    pub(crate) given_up: AtomicUsize,
    /// Connections that a handover waits for, since they end before it.
    pub(crate) endings: Tally,
    /// By worker, listeners that may still accept. While stopping, no worker ends before there are none, since any of them
    /// could be dealt a connection.
    acceptors: Vec<AtomicUsize>,
    /// By worker, whether its acceptors are, too, those that it has in place of others.
    called: Vec<AtomicBool>,
    /// By worker, whether a [`Mail::Room`] is on its way.
    room_told: Vec<AtomicBool>,
    /// A worker has begun to stop, and may wait for the others.
    stops: AtomicBool,
    /// How often a stop that waited in vain has begun to read connections again.
    thaws: AtomicUsize,
    /// A handover has nothing to wait for any more, or has waited long enough.
    parts: AtomicBool,
    /// Since when all workers know that, but for those that are not waited for.
    parted: OnceLock<Instant>,
    /// How far each has come.
    steps: Steps,
    /// By worker, whether a handover goes on without it, because it takes no turns although it should.
    left_behind: Vec<AtomicBool>,
    /// A burst of connections is over, and what it needed can be given back to the system.
    pub(crate) has_surplus: AtomicBool,
    /// Descriptors are used up but for those that the main thread is about to use: nobody is accepted.
    pub(crate) lends_descriptors: AtomicBool,
}

impl Crew {
    pub(crate) fn new(
        posts: Vec<Post>,
        names: Arc<[Name]>,
        dealer: Dealer,
        memory: Arc<Memory>,
        metrics: Arc<Metrics>,
        acceptors: Vec<usize>,
    ) -> Arc<Self> {
        let no = || posts.iter().map(|_| AtomicBool::new(false)).collect();
        Arc::new(Crew {
            open_tickets: metrics.open_tickets.clone(),
            repeatable: metrics.repeatable.clone(),
            endings: Tally::new(posts.len()),
            called: no(),
            room_told: no(),
            left_behind: no(),
            steps: Steps::new(posts.len()),
            posts,
            crowd: Crowd::new(names.iter().map(|name| name.connections_per_client)),
            names,
            dealer,
            memory,
            metrics,
            given_up: AtomicUsize::new(0),
            acceptors: acceptors.into_iter().map(AtomicUsize::new).collect(),
            stops: AtomicBool::new(false),
            thaws: AtomicUsize::new(0),
            parts: AtomicBool::new(false),
            parted: OnceLock::new(),
            has_surplus: AtomicBool::new(false),
            lends_descriptors: AtomicBool::new(false),
        })
    }

    /// There is room for connections again: whoever could not deal one should try again.
    pub(crate) fn announce_room(&self) {
        for (post, is_told) in self.posts.iter().zip(&self.room_told) {
            // A mail that is on its way is enough: its worker looks behind this. One that is stuck would get one for each.
            if !is_told.swap(true, Ordering::AcqRel) {
                // One that has ended accepts nothing.
                let _ = post.send(Mail::Room);
            }
        }
    }

    /// This worker has its [`Mail::Room`], and looks now. It needs another one for what comes from here on.
    pub(crate) fn room_heard(&self, worker: usize) {
        self.room_told[worker].swap(false, Ordering::AcqRel);
    }

    /// This worker may accept in place of others from now on, on so many listeners. To be called before anybody is told to stop, by
    /// the thread that does.
    pub(crate) fn call(&self, worker: usize, listeners: usize) {
        if !self.called[worker].swap(true, Ordering::SeqCst) {
            self.acceptors[worker].fetch_add(listeners, Ordering::AcqRel);
        }
        if self.posts[worker].send(Mail::Look).is_err() {
            // It has ended. Otherwise it says so later than this.
            self.acceptors[worker].store(0, Ordering::Release);
        }
    }

    /// Whether this worker may accept, or may have accepted, in place of others.
    pub(crate) fn is_called(&self, worker: usize) -> bool {
        self.called[worker].load(Ordering::SeqCst)
    }

    /// A listener of this worker will accept no more.
    pub(crate) fn acceptor_ended(&self, worker: usize) {
        if self.acceptors[worker].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_all();
        }
    }

    /// Whether this worker can be dealt no connection any more: nobody accepts but those who were left behind.
    pub(crate) fn is_dealt_no_more(&self, worker: usize) -> bool {
        let mut acceptors = self.acceptors.iter().enumerate();
        acceptors.all(|(acceptor, count)| {
            let is_waited_for = acceptor == worker || !self.is_left_behind(acceptor);
            !is_waited_for || count.load(Ordering::Acquire) == 0
        })
    }

    /// A worker has ended, or was never begun: nobody is to wait for it.
    pub(crate) fn worker_ended(&self, worker: usize) {
        self.acceptors[worker].store(0, Ordering::Release);
        self.count_out(worker);
    }

    /// A worker stops, and is going to look at what the others have.
    pub(crate) fn begin_stop(&self) {
        self.stops.store(true, Ordering::SeqCst);
    }

    /// A worker takes no turns: a handover does not wait for it any more. Should it take one after all, it goes on as
    /// all do, and may still be in time.
    pub(crate) fn leave_behind(&self, worker: usize) {
        self.left_behind[worker].store(true, Ordering::SeqCst);
        self.count_out(worker);
    }

    /// Nobody waits any more for what a worker owes or has to say, and nobody is dealt to it.
    fn count_out(&self, worker: usize) {
        self.dealer.leave_out(worker);
        self.open_tickets.forget(worker);
        self.repeatable.forget(worker);
        self.endings.forget(worker);
        self.steps.pass_over(worker);
        self.wake_all();
    }

    pub(crate) fn is_left_behind(&self, worker: usize) -> bool {
        self.left_behind[worker].load(Ordering::SeqCst)
    }

    /// A worker has come so far.
    pub(crate) fn reach(&self, worker: usize, step: Step) {
        if self.steps.reach(worker, step) {
            self.wake_all();
        }
    }

    pub(crate) fn has_reached(&self, worker: usize, step: Step) -> bool {
        self.steps.has_reached(worker, step)
    }

    /// Whether all workers have come so far, or are not waited for.
    pub(crate) fn have_all_reached(&self, step: Step) -> bool {
        self.steps.have_all_reached(step)
    }

    /// A worker that knows of so many thaws finds that a stop waits in vain. All thaw, once however many find that.
    pub(crate) fn thaw(&self, known: usize) {
        let order = Ordering::SeqCst;
        let counted = self.thaws.compare_exchange(known, known + 1, order, order);
        if counted.is_ok() {
            self.wake_all();
        }
    }

    /// How often they have begun to.
    pub(crate) fn thaws(&self) -> usize {
        self.thaws.load(Ordering::SeqCst)
    }

    /// Whether a handover has nothing more to wait for: no deferred reply, and no connection that ends before it.
    pub(crate) fn may_part(&self) -> bool {
        self.have_all_reached(Step::Asked)
            && self.endings.count() == 0
            && self.open_tickets.count() == 0
    }

    /// The waiting before a handover is over, for all workers.
    pub(crate) fn part(&self) {
        if !self.parts.swap(true, Ordering::SeqCst) {
            self.wake_all();
        }
    }

    /// Since when nobody is read any more, if a handover has come so far.
    pub(crate) fn parted(&self) -> Option<Instant> {
        self.parted.get().copied()
    }

    /// Whether the waiting is over and all workers know, this one included: nobody is read any more.
    pub(crate) fn all_part(&self, worker: usize) -> bool {
        if self.parts.load(Ordering::SeqCst) {
            self.reach(worker, Step::Parts);
        }
        let all_part = self.have_all_reached(Step::Parts);
        if all_part {
            self.parted.get_or_init(Instant::now);
        }
        all_part
    }

    /// Whether all deferred replies were given that a handover waits for, and none can be promised any more.
    pub(crate) fn have_all_given(&self) -> bool {
        self.have_all_reached(Step::Served) && self.open_tickets.count() == 0
    }

    /// A deferred reply was promised by this worker.
    pub(crate) fn ticket_opened(&self, worker: usize, is_repeatable: bool) {
        match is_repeatable {
            true => self.repeatable.opened(worker),
            false => self.open_tickets.opened(worker),
        }
    }

    /// A deferred reply of this worker was given, or will not be.
    pub(crate) fn ticket_closed(&self, worker: usize, is_repeatable: bool) {
        if is_repeatable {
            // Nobody waits for these.
            self.repeatable.closed(worker);
        } else {
            self.wake_if_last(&self.open_tickets, self.open_tickets.closed(worker));
        }
    }

    /// A connection of this worker has ended that a handover waited for, or is handed over after all.
    pub(crate) fn ending_over(&self, worker: usize) {
        self.wake_if_last(&self.endings, self.endings.closed(worker));
    }

    /// A worker that has none of these any more wakes those that wait for the last one in the process. It looks at the
    /// others' counts only if anybody waits.
    fn wake_if_last(&self, tally: &Tally, has_none: bool) {
        // Whoever begins to wait says so before it looks.
        if has_none && self.stops.load(Ordering::SeqCst) && tally.count() == 0 {
            self.wake_all();
        }
    }

    /// Makes every worker look again at what it waits for.
    fn wake_all(&self) {
        for post in &self.posts {
            let _ = post.send(Mail::Look);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::{Mailbox, mailbox};

    fn crew() -> (Arc<Crew>, [Mailbox; 2]) {
        let [(one, first), (other, second)] = [(); 2].map(|()| mailbox().unwrap());
        let crew = Crew::new(
            vec![one, other],
            Arc::new([]),
            Dealer::new(2, 1, [vec![0, 1]]),
            Memory::new(1, 2),
            Arc::new(Metrics::new(Vec::new(), 2, Memory::new(1, 2))),
            vec![1, 1],
        );
        (crew, [first, second])
    }

    fn is_woken(mailbox: &Mailbox) -> bool {
        let mail = std::iter::from_fn(|| mailbox.next());
        mail.filter(|mail| matches!(mail, Mail::Look)).count() > 0
    }

    #[test]
    fn who_waits_is_woken_when_the_last_ticket_in_the_process_is_closed() {
        let (crew, [_, waiting]) = crew();
        let wakes = || {
            for worker in [0, 0, 1] {
                crew.open_tickets.opened(worker);
            }
            [0, 0, 1].map(|worker| {
                crew.ticket_closed(worker, false);
                is_woken(&waiting)
            })
        };
        assert_eq!(wakes(), [false, false, false], "nobody waits");
        crew.begin_stop();
        assert_eq!(wakes(), [false, false, true]);
    }

    #[test]
    fn the_last_that_has_kept_what_it_promised_before_a_stop_wakes_the_others() {
        let (crew, [waiting, other]) = crew();
        let keep = |crew: &Crew, worker| {
            crew.reach(worker, Step::Kept);
            crew.have_all_reached(Step::Kept)
        };
        assert!(!keep(&crew, 0) && !keep(&crew, 0));
        assert!(!is_woken(&waiting) && !is_woken(&other));
        assert!(keep(&crew, 1));
        assert!(is_woken(&waiting) && is_woken(&other));
        assert!(keep(&crew, 0));
        assert!(!is_woken(&other), "it is known");
        let (crew, [waiting, _]) = self::crew();
        assert!(!keep(&crew, 0));
        crew.leave_behind(1);
        assert!(is_woken(&waiting) && keep(&crew, 0));
    }

    #[test]
    fn all_are_served_until_every_worker_knows_that_a_handover_waits_no_more() {
        let (crew, [waiting, _]) = crew();
        crew.part();
        assert!(is_woken(&waiting));
        crew.part();
        assert!(!is_woken(&waiting), "it is known");
        assert!(!crew.all_part(0) && !crew.all_part(0));
        assert!(!is_woken(&waiting));
        assert_eq!(crew.parted(), None, "the other one may still be busy");
        assert!(crew.all_part(1));
        let parted = crew.parted();
        assert!(parted.is_some());
        assert!(is_woken(&waiting) && crew.all_part(0));
        assert_eq!(crew.parted(), parted, "it is known");
        // The other one takes no turns.
        let (crew, [waiting, _]) = self::crew();
        crew.part();
        assert!(!crew.all_part(0) && is_woken(&waiting));
        crew.leave_behind(1);
        assert_eq!(crew.parted(), None, "this one still reads");
        assert!(is_woken(&waiting) && crew.all_part(0) && crew.parted().is_some());
    }

    #[test]
    fn a_worker_is_told_once_that_there_is_room_until_it_hears_that() {
        let (crew, [first, second]) = crew();
        let told = |mailbox: &Mailbox| {
            let mail = std::iter::from_fn(|| mailbox.next());
            mail.filter(|mail| matches!(mail, Mail::Room)).count()
        };
        (0..3).for_each(|_| crew.announce_room());
        assert_eq!(told(&first), 1);
        crew.room_heard(0);
        (0..3).for_each(|_| crew.announce_room());
        assert_eq!([&first, &second].map(told), [1, 1]);
    }

    #[test]
    fn who_was_called_is_waited_for_as_long_as_it_may_accept() {
        let (crew, [_first, second]) = crew();
        crew.acceptor_ended(0);
        crew.call(1, 2);
        crew.call(1, 2);
        assert!(is_woken(&second) && crew.is_called(1) && !crew.is_called(0));
        for _ in 0..3 {
            assert!(!crew.is_dealt_no_more(0));
            crew.acceptor_ended(1);
        }
        assert!(crew.is_dealt_no_more(0) && is_woken(&second));
        // It fails at the same time.
        let (crew, [_first, second]) = self::crew();
        crew.acceptor_ended(0);
        drop(second);
        crew.worker_ended(1);
        crew.call(1, 2);
        assert!(crew.is_dealt_no_more(0));
    }

    #[test]
    fn nobody_waits_for_what_a_worker_owed_that_has_ended() {
        let (crew, [waiting, _]) = crew();
        crew.begin_stop();
        crew.open_tickets.opened(1);
        crew.endings.opened(1);
        crew.reach(0, Step::Asked);
        assert!(!crew.may_part());
        // It is stuck, and is left behind; or it has ended.
        assert_eq!(crew.dealer.room(0, 1), 1);
        crew.leave_behind(1);
        assert_eq!(crew.dealer.room(0, 1), 0, "nobody is dealt to it");
        crew.part();
        assert!(crew.all_part(0));
        assert!(is_woken(&waiting) && crew.may_part());
        crew.open_tickets.opened(1);
        crew.worker_ended(1);
        assert!(is_woken(&waiting) && crew.may_part());
        assert_eq!(crew.open_tickets.count(), 0);
        assert!(!crew.is_dealt_no_more(0));
        crew.acceptor_ended(0);
        assert!(crew.is_dealt_no_more(0));
        crew.ticket_closed(1, false);
        assert!(crew.may_part());
    }
}
