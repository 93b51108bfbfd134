//! Services that have no time for all that has arrived, when the server stops.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use super::{Client, Exchange};
use crate::close::{Close, Ended};
use crate::control::longest_end;
use crate::crew::Step;
use crate::frame::Frame;
use crate::handover::store::PROBE_PATIENCE;
use crate::host::FRAMES_PER_CALL_MAX;
use crate::limits::Limits;
use crate::mailbox::Mail;
use crate::peer::Peer;
use crate::reply::Reply;
use crate::service::{Flow, Refusal, Saved, Service};

/// Sends frames back. A session is worth nothing to a successor, or cannot be continued.
struct Echo {
    saved: Saved,
    /// Why sessions have ended.
    ends: Rc<RefCell<Vec<String>>>,
}

type Ends = Rc<RefCell<Vec<String>>>;

fn echo(saved: Saved) -> (Echo, Ends) {
    let ends = Ends::default();
    let echo = Echo {
        saved,
        ends: ends.clone(),
    };
    (echo, ends)
}

fn exchange(saved: Saved) -> (Exchange, Ends) {
    let (echo, ends) = echo(saved);
    (Exchange::new(echo), ends)
}

impl Service for Echo {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }

    fn save(&self, _: &()) -> Saved {
        self.saved.clone()
    }

    fn disconnected(&mut self, (): (), ended: &Ended<'_>) {
        self.ends.borrow_mut().push(ended.why().to_string());
    }
}

/// So many frames of a connection are given in one turn.
const SHARE: usize = FRAMES_PER_CALL_MAX;

/// How long a turn takes, which is longer than peers are waited for.
const TURN: u64 = 2000;

/// In how many turns a stop gives them what has arrived.
const TURNS: usize = 9;

impl Exchange {
    /// One turn of an engine.
    fn turn(&mut self) {
        self.begin_turn();
        self.end_turn();
    }

    fn begin_turn(&mut self) {
        self.now += TURN;
        self.shard.woken(self.now);
        self.shard.tick();
        while let Some(mail) = self.mailbox.next() {
            let _ = self.shard.deliver(mail);
        }
        self.shard.work();
    }

    fn end_turn(&mut self) {
        while let Some(slot) = self.shard.next_touched() {
            self.update(slot);
        }
        if self.shard.has_nothing_left() {
            self.shard.becomes_idle();
        }
    }

    /// The client has sent so many frames, of which the first are given at once.
    fn arrive(&mut self, client: Client, frames: usize) {
        self.shard.received(client.0 as u32, &vec![1; frames], None);
    }
}

#[test]
fn a_stop_waits_for_them_and_then_for_the_peers() {
    for hand_over in [false, true] {
        let (mut exchange, ends) = exchange(Saved::Close);
        let [busy, deaf] = [(); 2].map(|()| exchange.connect());
        exchange.set_window(deaf, Some(0));
        exchange.arrive(busy, 5 * SHARE);
        exchange.arrive(deaf, 1);
        exchange.tell_to_stop(Duration::ZERO, hand_over);
        for shares in [2, 1, 1, 1] {
            exchange.turn();
            assert_eq!(exchange.take_sent(busy).len(), shares * SHARE);
        }
        assert!(exchange.is_open(deaf));
        // An engine comes back at once, and knows how late it is.
        assert!(
            exchange
                .shard
                .next_due()
                .is_some_and(|due| due <= exchange.now)
        );
        exchange.turn();
        assert!(exchange.is_shut(busy) && exchange.is_open(deaf));
        assert_eq!(exchange.shard.next_due(), Some(exchange.now + 1000));
        exchange.advance(Duration::from_millis(999));
        assert!(exchange.is_open(deaf));
        exchange.advance(Duration::from_millis(1));
        assert!(!exchange.is_open(deaf) && exchange.shard.is_done());
        assert_eq!(exchange.counters().frames_in as usize, 5 * SHARE + 1);
        assert_eq!(exchange.counters().timed_out, 1);
        let ended = ["the server stops"; 2];
        assert_eq!(*ends.borrow(), ended, "of the other one all was answered");
    }
}

#[test]
fn who_is_not_served_in_time_is_sent_what_was_answered() {
    for hand_over in [false, true] {
        let (mut exchange, ends) = exchange(Saved::Close);
        let client = exchange.connect();
        exchange.arrive(client, 20 * SHARE);
        exchange.tell_to_stop(Duration::ZERO, hand_over);
        (0..12).for_each(|_| exchange.turn());
        assert!(exchange.is_shut(client) && exchange.shard.is_done());
        let given = exchange.counters().frames_in as usize;
        assert_eq!(exchange.take_sent(client).len(), given);
        assert_eq!(given, (1 + TURNS) * SHARE);
        assert_eq!(exchange.counters().timed_out, 0);
        assert_eq!(exchange.counters().unsaved, u64::from(hand_over));
        assert_eq!(*ends.borrow(), [Close::Unserved.to_string()]);
        assert_eq!(exchange.memory_held(), 0);
    }
}

/// Each time its pause is over it is given more.
#[test]
fn a_peer_that_reads_on_and_on_prolongs_no_stop() {
    let limits = Limits {
        outbox_bytes: 1024,
        ..Limits::default()
    };
    let (echo, ends) = echo(Saved::Close);
    let mut exchange = Exchange::with_limits(echo, limits);
    let client = exchange.connect();
    exchange.set_window(client, Some(0));
    exchange.arrive(client, 100 * SHARE);
    exchange.tell_to_stop(Duration::ZERO, false);
    for _ in 0..20 {
        exchange.set_window(client, Some(512));
        exchange.turn();
    }
    assert!(exchange.shard.is_done());
    assert_eq!(ends.borrow().len(), 1);
    assert!((exchange.counters().frames_in as usize) < 100 * SHARE);
}

/// A peer that has had everything owes nothing while another one's frames are given to a service.
#[test]
fn who_has_had_everything_is_not_cut_while_others_are_served() {
    let (mut exchange, ends) = exchange(Saved::Close);
    let [gone, idle] = [(); 2].map(|()| exchange.connect());
    exchange.arrive(gone, 5 * SHARE);
    let reset = std::io::Error::from(ErrorKind::ConnectionReset);
    exchange.shard.failed(gone.0 as u32, reset);
    exchange.tell_to_stop(Duration::ZERO, true);
    (0..12).for_each(|_| exchange.turn());
    exchange.advance(Duration::from_secs(1));
    assert!(exchange.is_shut(idle) && exchange.shard.is_done());
    assert_eq!(exchange.counters().timed_out, 0);
    assert_eq!(exchange.counters().frames_in as usize, 5 * SHARE);
    let failed = Close::Failed(ErrorKind::ConnectionReset.into()).to_string();
    assert_eq!(*ends.borrow(), [failed, Close::Stopping.to_string()]);
}

/// Who may still be pushed to is not cut before it could have read that.
#[test]
fn what_is_pushed_while_others_are_served_is_sent() {
    // The last one is more than is sent ahead of a peer.
    for pushed in [1, 600 * 1024] {
        let limits = Limits {
            outbox_bytes: 1024 * 1024,
            ..Limits::default()
        };
        let (echo, ends) = echo(Saved::Close);
        let mut exchange = Exchange::with_limits(echo, limits);
        let [gone, idle, deaf] = [(); 3].map(|()| exchange.connect());
        exchange.set_window(deaf, Some(0));
        exchange.arrive(gone, 8 * SHARE);
        let reset = || std::io::Error::from(ErrorKind::ConnectionReset);
        exchange.shard.failed(gone.0 as u32, reset());
        exchange.tell_to_stop(Duration::ZERO, true);
        (0..3).for_each(|_| exchange.turn());
        for client in [idle, deaf] {
            let push = Mail::Push {
                to: exchange.id(client).unwrap(),
                bytes: vec![7; pushed].into(),
            };
            let _ = exchange.shard.desk.handles.post.send_behind(push);
        }
        exchange.turn();
        assert_eq!(exchange.take_sent(idle), vec![7; pushed]);
        assert!(exchange.is_open(deaf));
        (0..12).for_each(|_| exchange.turn());
        exchange.advance(Duration::from_secs(1));
        assert!(exchange.is_shut(idle) && exchange.shard.is_done());
        assert_eq!(exchange.counters().frames_in as usize, 8 * SHARE);
        assert_eq!(exchange.counters().timed_out, 1, "of the deaf one");
        let failed = Close::Failed(reset()).to_string();
        let stopping = Close::Stopping.to_string();
        assert_eq!(*ends.borrow(), [failed, stopping.clone(), stopping]);
    }
}

/// No successor would.
#[test]
fn a_handover_gives_them_what_those_had_sent_that_have_reset() {
    for shares in [5, 20] {
        let (mut exchange, ends) = exchange(Saved::Stateless);
        let [gone, kept] = [(); 2].map(|()| exchange.connect());
        exchange.arrive(gone, shares * SHARE);
        let reset = std::io::Error::from(ErrorKind::ConnectionReset);
        exchange.shard.failed(gone.0 as u32, reset);
        exchange.tell_to_stop(Duration::ZERO, true);
        (0..12).for_each(|_| exchange.turn());
        assert!(!exchange.is_open(gone) && exchange.shard.is_done());
        let why = match shares {
            5 => Close::Failed(ErrorKind::ConnectionReset.into()),
            _ => Close::Unserved,
        };
        let ends_so = |end: &&String| **end == why.to_string();
        assert_eq!(ends.borrow().iter().filter(ends_so).count(), 1);
        let parted: Vec<_> = exchange.parted.iter().map(|parted| parted.client).collect();
        assert_eq!(parted, [kept]);
        let counters = exchange.counters();
        assert_eq!(counters.frames_in as usize, shares.min(1 + TURNS) * SHARE);
        assert_eq!(
            (counters.failed, counters.timed_out, counters.unsaved),
            (1, 0, 0)
        );
        assert_eq!(exchange.memory_held(), 0);
    }
}

/// An engine may learn of a send that failed before it comes to what had been received by then.
#[test]
fn what_is_received_behind_a_failed_send_is_given_to_them() {
    let reset = || std::io::Error::from(ErrorKind::ConnectionReset);
    for hand_over in [None, Some(false), Some(true)] {
        let (mut exchange, ends) = exchange(Saved::Stateless);
        let client = exchange.connect();
        exchange.arrive(client, 10);
        if let Some(hand_over) = hand_over {
            exchange.tell_to_stop(Duration::ZERO, hand_over);
        }
        exchange.shard.failed(client.0 as u32, reset());
        exchange.arrive(client, 5 * SHARE);
        exchange.shard.failed(client.0 as u32, reset());
        (0..8).for_each(|_| exchange.turn());
        assert!(!exchange.is_open(client));
        let counters = exchange.counters();
        assert_eq!(counters.frames_in as usize, 10 + 5 * SHARE);
        assert_eq!((counters.failed, counters.timed_out), (1, 0));
        assert_eq!(*ends.borrow(), [Close::Failed(reset()).to_string()]);
    }
}

/// If the socket has not failed altogether, the peer might send for ever what nobody answers.
#[test]
fn a_failed_send_is_followed_by_what_the_kernel_has_and_no_more() {
    const PIECE: usize = 2 * SHARE;
    for hand_over in [None, Some(false), Some(true)] {
        let (mut exchange, ends) = exchange(Saved::Stateless);
        let client = exchange.connect();
        let more = bytes::Bytes::from_static(&[1; PIECE]);
        let wire = exchange.wire(client).unwrap();
        wire.incoming
            .extend([more.clone(), more.clone(), more.clone()]);
        let broken = || std::io::Error::from(ErrorKind::BrokenPipe);
        exchange.shard.failed(client.0 as u32, broken());
        if let Some(hand_over) = hand_over {
            exchange.tell_to_stop(Duration::ZERO, hand_over);
        }
        exchange.turn();
        while let Some(wire) = exchange.wire(client) {
            wire.incoming.push_back(more.clone());
            exchange.turn();
        }
        assert_eq!(exchange.counters().frames_in as usize, 3 * PIECE);
        assert_eq!(*ends.borrow(), [Close::Failed(broken()).to_string()]);
        assert_eq!(exchange.memory_held(), 0);
    }
}

/// The reset would have ended it anyway.
#[test]
fn one_that_cannot_be_handed_over_and_is_reset_counts_as_that_only() {
    for shares in [5, 20] {
        let (mut exchange, ends) = exchange(Saved::Close);
        let client = exchange.connect();
        exchange.arrive(client, shares * SHARE);
        exchange.tell_to_stop(Duration::ZERO, true);
        exchange.turn();
        let reset = std::io::Error::from(ErrorKind::ConnectionReset);
        exchange.shard.failed(client.0 as u32, reset);
        (0..12).for_each(|_| exchange.turn());
        assert!(!exchange.is_open(client) && exchange.shard.is_done());
        let why = match shares {
            5 => Close::Failed(ErrorKind::ConnectionReset.into()),
            _ => Close::Unserved,
        };
        assert_eq!(*ends.borrow(), [why.to_string()]);
        let counters = exchange.counters();
        assert_eq!(counters.frames_in as usize, shares.min(1 + TURNS) * SHARE);
        assert_eq!((counters.failed, counters.unsaved), (1, 0), "{why}");
    }
}

/// No service of this process is given it any more, and the successor's is, as if the failure had been noticed there.
#[test]
fn what_waits_of_one_that_resets_at_rest_is_the_successors() {
    for is_alone in [true, false] {
        let limits = Limits {
            outbox_bytes: 1024,
            ..Limits::default()
        };
        let (echo, ends) = echo(Saved::Stateless);
        let mut exchange = Exchange::with_limits(echo, limits);
        let _other = (!is_alone).then(|| exchange.add_busy_worker(1 << 30));
        let client = exchange.connect();
        exchange.set_window(client, Some(0));
        exchange.arrive(client, 2 * SHARE);
        let given = exchange.counters().frames_in as usize;
        assert!(given < SHARE, "dispatch has paused");
        exchange.tell_to_stop(Duration::ZERO, true);
        exchange.turn();
        if !is_alone {
            exchange.shard.desk.crew.all_part(1);
            exchange.turn();
        }
        exchange.begin_turn();
        let reset = std::io::Error::from(ErrorKind::ConnectionReset);
        exchange.wire(client).unwrap().flight = None;
        exchange.shard.sent(client.0 as u32, 0);
        exchange.shard.failed(client.0 as u32, reset);
        exchange.end_turn();
        if !is_alone {
            exchange.turn();
            assert!(exchange.is_open(client), "another worker is waited for");
            exchange.shard.desk.crew.reach(1, Step::Rests);
            exchange.shard.desk.crew.reach(1, Step::Idle);
        }
        (0..2).for_each(|_| exchange.turn());
        assert!(exchange.shard.is_done());
        let state = &exchange.parted[0].parcel.state;
        assert_eq!(
            (state.input.len(), state.output.len()),
            (2 * SHARE - given, 0)
        );
        assert!(!state.ended, "the kernel may have more");
        assert_eq!(exchange.counters().frames_in as usize, given);
        assert_eq!(exchange.counters().failed, 0);
        assert_eq!(*ends.borrow(), [Close::HandedOver.to_string()]);
    }
}

/// A send can fail although the peer is there, which would read what the successor says behind a gap.
#[test]
fn who_misses_output_when_a_send_fails_at_rest_is_not_handed_over() {
    let failures = [
        (libc::ENOBUFS, 7, false),
        (libc::ENOMEM, 7, false),
        (libc::ENOBUFS, 0, true),
        (libc::ECONNRESET, 7, true),
        (libc::EPIPE, 7, true),
        (libc::ETIMEDOUT, 7, true),
        (libc::EHOSTUNREACH, 7, true),
    ];
    for (errno, missing, is_handed_over) in failures {
        let (mut exchange, ends) = exchange(Saved::Stateless);
        let _other = exchange.add_busy_worker(1 << 30);
        let client = exchange.connect();
        exchange.set_window(client, Some(10 - missing));
        exchange.arrive(client, 10);
        exchange.tell_to_stop(Duration::ZERO, true);
        exchange.turn();
        exchange.shard.desk.crew.all_part(1);
        exchange.turn();
        exchange.begin_turn();
        if exchange.wire(client).unwrap().flight.take().is_some() {
            exchange.shard.sent(client.0 as u32, 0);
        }
        let error = || std::io::Error::from_raw_os_error(errno);
        exchange.shard.failed(client.0 as u32, error());
        exchange.end_turn();
        exchange.shard.desk.crew.reach(1, Step::Rests);
        exchange.shard.desk.crew.reach(1, Step::Idle);
        (0..2).for_each(|_| exchange.turn());
        assert!(exchange.shard.is_done());
        let why = if is_handed_over {
            Close::HandedOver
        } else {
            Close::Failed(error())
        };
        assert_eq!(*ends.borrow(), [why.to_string()]);
        let left: Vec<_> = exchange.parted.iter().collect();
        assert_eq!(left.len(), usize::from(is_handed_over), "{errno}");
        assert!(left.iter().all(|it| it.parcel.state.output.is_empty()));
        assert_eq!(exchange.memory_held(), 0);
    }
}

/// Nor are frames given behind the last question what a session is worth.
#[test]
fn a_handover_leaves_to_the_successor_what_they_have_no_time_for() {
    let (mut exchange, _) = exchange(Saved::Stateless);
    let client = exchange.connect();
    exchange.arrive(client, 20 * SHARE);
    exchange.tell_to_stop(Duration::ZERO, true);
    (0..2).for_each(|_| exchange.turn());
    // The last one has taken too long.
    exchange.shard.desk.stopwatch.make_late();
    (0..2).for_each(|_| exchange.turn());
    assert!(exchange.shard.is_done());
    assert_eq!(exchange.counters().frames_in as usize, 3 * SHARE);
    assert_eq!(exchange.parted[0].parcel.state.input.len(), 17 * SHARE);
}

/// However long deferred replies would be waited for.
#[test]
fn a_handover_that_owes_nothing_waits_for_them_no_longer_for_a_long_drain() {
    for drain in [0, 60].map(Duration::from_secs) {
        let (mut exchange, ends) = exchange(Saved::Stateless);
        let client = exchange.connect();
        exchange.arrive(client, 100 * SHARE);
        exchange.tell_to_stop(drain, true);
        (0..12).for_each(|_| exchange.turn());
        assert!(exchange.shard.is_done(), "{drain:?}");
        assert_eq!(exchange.counters().frames_in as usize, (1 + TURNS) * SHARE);
        assert_eq!(*ends.borrow(), [Close::HandedOver.to_string()]);
    }
}

/// Although another worker is busy when the time for deferred replies is over, and for as long as it may be without being left
/// behind.
#[test]
fn a_handover_takes_no_longer_than_the_service_manager_is_told() {
    const BUSY_MAX: Duration = Duration::from_secs(16);
    for drain in [0, 2, 4, 20].map(Duration::from_secs) {
        let (mut exchange, ends) = exchange(Saved::Close);
        let _mailbox = exchange.add_busy_worker(1 << 30);
        let client = exchange.connect();
        exchange.arrive(client, 100 * SHARE);
        let began = exchange.now;
        exchange.tell_to_stop(drain, true);
        let mut took = Duration::ZERO;
        while !exchange.shard.is_done() {
            exchange.turn();
            took = Duration::from_millis(exchange.now - began);
            if took >= drain + BUSY_MAX {
                let crew = &exchange.shard.desk.crew;
                crew.all_part(1);
                crew.reach(1, Step::Rests);
                crew.reach(1, Step::Idle);
            }
        }
        assert_eq!(*ends.borrow(), [Close::Unserved.to_string()]);
        // Before, the service manager was asked whether it has a store.
        let longest = longest_end(drain);
        assert!(took + PROBE_PATIENCE <= longest, "{took:?} of {longest:?}");
    }
}
