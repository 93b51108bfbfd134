//! What becomes of connections that cannot be handed over.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::wire::Wire;
use super::{Client, Exchange};
use crate::frame::Frame;
use crate::limits::Limits;
use crate::mailbox::Mail;
use crate::peer::{Handle, Peer};
use crate::reply::{Abandoned, Reply, Responder, Ticket};
use crate::service::{Flow, Refusal, Saved, Service};
use crate::shard::Phase;

const DRAIN: Duration = Duration::from_secs(3);
const LINGER: Duration = Duration::from_secs(1);

/// Sends frames back, and cannot save a session after [`UNSAVED`], until [`SAVED`].
#[derive(Clone, Default)]
struct Fickle {
    handles: Rc<RefCell<Vec<Handle>>>,
    promised: Rc<Cell<Option<Responder>>>,
    /// From this call on it saves nothing.
    last_save: Option<usize>,
    never_saves: Rc<Cell<bool>>,
    saves: Rc<Cell<usize>>,
}

const UNSAVED: u8 = 1;
const SAVED: u8 = 10;
/// Is answered later, and cannot be saved before.
const DEFER: u8 = 2;
const LARGE: u8 = 3;
const PANIC: u8 = 4;
/// What comes instead of a deferred reply.
const APOLOGY: u8 = 9;

impl Service for Fickle {
    /// The last order.
    type Session = u8;

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<u8, Refusal> {
        self.handles.borrow_mut().push(peer.handle());
        Ok(0)
    }

    fn frame(&mut self, last: &mut u8, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        if matches!(frame[0], UNSAVED | SAVED | DEFER | PANIC) {
            *last = frame[0];
        }
        match frame[0] {
            DEFER => self.promised.set(Some(reply.defer(Ticket(1)))),
            LARGE => reply.write(|out| out.resize(out.len() + 10_000, LARGE)),
            _ => reply.write(|out| out.extend_from_slice(&frame)),
        }
        Flow::Continue
    }

    fn abandoned(&mut self, _: &mut u8, _: Ticket, _: Abandoned, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.push(APOLOGY));
        Flow::Continue
    }

    fn save(&self, last: &u8) -> Saved {
        self.saves.set(self.saves.get() + 1);
        let promised = self.promised.take();
        let has_promised = promised.is_some();
        self.promised.set(promised);
        assert!(*last != PANIC, "on purpose");
        match *last {
            UNSAVED => Saved::Close,
            _ if self.never_saves.get() => Saved::Close,
            DEFER if has_promised => Saved::Close,
            _ if self.last_save.is_some_and(|last| self.saves.get() >= last) => Saved::Close,
            _ => Saved::Stateless,
        }
    }
}

fn exchange(service: Fickle) -> Exchange {
    let limits = Limits {
        outbox_bytes: 18_000,
        ..Limits::default()
    };
    let mut exchange = Exchange::with_limits(service, limits);
    exchange.shard.drain = DRAIN;
    exchange
}

impl Exchange {
    /// The client has sent these pieces when the server is told to hand over, and the connection has not read them.
    fn hand_over_unread(&mut self, client: Client, pieces: &[&[u8]]) {
        let wire = self.wire(client).unwrap();
        wire.incoming
            .extend(pieces.iter().map(|piece| Bytes::copy_from_slice(piece)));
        let _ = self.shard.deliver(Mail::Stop { hand_over: true });
        self.settle();
    }

    /// The server is told to hand over, and comes to the point where nobody is read any more, before the receives end that
    /// are under way.
    fn begin_to_drain(&mut self) {
        let _ = self.shard.deliver(Mail::Stop { hand_over: true });
        self.shard.woken(self.now);
        while !matches!(self.shard.phase(), Phase::Draining { .. }) {
            self.shard.work();
            while let Some(mail) = self.mailbox.next() {
                let _ = self.shard.deliver(mail);
            }
        }
    }

    /// A client connects that has sent this by then.
    fn connect_with_bytes(&mut self, bytes: &[u8]) -> Client {
        self.shard.desk.crew.dealer.hold(0, 0);
        let wire = Wire {
            incoming: [Bytes::copy_from_slice(bytes)].into(),
            ..Wire::default()
        };
        let id = self.shard.open(0, wire, None);
        self.ids.push(Some(id));
        self.settle();
        Client(self.ids.len() - 1)
    }

    /// Those that were handed over, in order.
    fn parted(&self) -> Vec<Client> {
        let mut parted: Vec<Client> = self.parted.iter().map(|parted| parted.client).collect();
        parted.sort_by_key(|client| client.0);
        parted
    }
}

#[test]
fn what_had_arrived_for_them_is_answered() {
    let mut exchange = exchange(Fickle::default());
    let [kept, unsaved] = [(); 2].map(|()| exchange.connect());
    exchange.receive(unsaved, &[UNSAVED]);
    exchange.hand_over_unread(unsaved, &[&[5, 6], &[7, UNSAVED], &[0x92, 1]]);
    assert_eq!(exchange.take_sent(unsaved), [UNSAVED, 5, 6, 7, UNSAVED]);
    assert!(exchange.is_shut(unsaved) && !exchange.is_open(unsaved));
    assert_eq!(exchange.parted(), [kept]);
    assert!(exchange.shard.is_done());
    assert_eq!(exchange.counters().unsaved, 1);
    assert_eq!(exchange.counters().bad_input, 0);
}

#[test]
fn the_others_are_served_until_they_have_ended() {
    let mut exchange = exchange(Fickle::default());
    let [kept, unsaved] = [(); 2].map(|()| exchange.connect());
    exchange.set_window(unsaved, Some(0));
    exchange.receive(unsaved, &[UNSAVED, LARGE, LARGE]);
    exchange.hand_over_unread(unsaved, &[&[6, LARGE], &[7]]);
    exchange.receive(kept, &[5]);
    assert_eq!(exchange.take_sent(kept), [5]);
    let late = exchange.connect();
    exchange.receive(late, &[5]);
    assert_eq!(exchange.take_sent(late), [5]);
    assert_eq!(exchange.parted(), []);
    exchange.set_window(unsaved, None);
    let large = &[LARGE; 10_000][..];
    let due = [&[UNSAVED][..], large, large, &[6], large, &[7]];
    assert!(exchange.take_sent(unsaved) == due.concat());
    assert!(exchange.is_shut(unsaved) && !exchange.is_open(unsaved));
    assert_eq!(exchange.parted(), [kept, late]);
    assert!(exchange.shard.is_done());
}

#[test]
fn who_does_not_read_is_waited_for_as_long_as_a_stop_waits() {
    let mut exchange = exchange(Fickle::default());
    let [kept, deaf, stays] = [(); 3].map(|()| exchange.connect());
    exchange.set_window(deaf, Some(0));
    exchange.keep_open(stays);
    exchange.receive(stays, &[UNSAVED]);
    exchange.receive(deaf, &[UNSAVED, LARGE, LARGE, UNSAVED]);
    exchange.hand_over_unread(deaf, &[]);
    assert!(exchange.is_shut(stays));
    exchange.advance(DRAIN - Duration::from_millis(1));
    assert_eq!(exchange.parted(), []);
    exchange.receive(kept, &[5]);
    assert_eq!(exchange.take_sent(kept), [5]);
    exchange.advance(Duration::from_millis(1));
    exchange.advance(LINGER - Duration::from_millis(1));
    assert!(exchange.is_open(deaf) && !exchange.is_open(stays));
    exchange.advance(Duration::from_millis(1));
    assert!(!exchange.is_open(deaf) && !exchange.is_shut(deaf));
    assert_eq!(exchange.parted(), [kept]);
    assert!(exchange.shard.is_done());
    assert_eq!(exchange.counters().unsaved, 2);
}

/// No request of theirs could bring its end about, and what they promise themselves would be waited for behind it.
#[test]
fn who_is_not_read_any_more_stays_so_when_only_ends_are_waited_for() {
    let service = Fickle::default();
    let mut exchange = exchange(service.clone());
    let [calls, deaf] = [(); 2].map(|()| exchange.connect());
    exchange.set_window(deaf, Some(0));
    exchange.receive(deaf, &[UNSAVED, LARGE]);
    exchange.hand_over_unread(deaf, &[]);
    exchange.receive(calls, &[DEFER]);
    service.promised.take().unwrap().answer(vec![8]);
    exchange.settle();
    assert!(!exchange.reads(calls));
    for _ in 0..3 {
        exchange.advance(DRAIN / 4);
        assert!(!exchange.reads(calls));
    }
    exchange.set_window(deaf, None);
    assert_eq!(exchange.parted(), [calls]);
}

#[test]
fn who_becomes_one_while_a_handover_waits_is_answered_as_well() {
    let service = Fickle::default();
    let mut exchange = exchange(service.clone());
    let [waiting, changed] = [(); 2].map(|()| exchange.connect());
    exchange.receive(waiting, &[DEFER]);
    exchange.hand_over_unread(changed, &[]);
    exchange.receive(changed, &[UNSAVED]);
    assert!(exchange.reads(changed));
    let wire = exchange.wire(changed).unwrap();
    wire.incoming.push_back(Bytes::from_static(&[7]));
    service.promised.take().unwrap().answer(vec![8]);
    exchange.deliver();
    assert_eq!(exchange.take_sent(changed), [UNSAVED, 7]);
    assert!(exchange.is_shut(changed) && !exchange.is_open(changed));
    // This one could not have been saved when the stop began.
    assert_eq!(exchange.parted(), [waiting]);
    assert_eq!(exchange.parted[0].wire.sent, [8]);
    assert_eq!(exchange.counters().unsaved, 1);
}

#[test]
fn who_is_one_when_the_time_for_deferred_replies_is_over_is_answered_before_the_others_rest() {
    let service = Fickle::default();
    let mut exchange = exchange(service.clone());
    let [kept, waiting, slow, changed] = [(); 4].map(|()| exchange.connect());
    exchange.receive(waiting, &[DEFER]);
    exchange.hand_over_unread(changed, &[]);
    exchange.receive(changed, &[UNSAVED]);
    exchange.set_window(slow, Some(0));
    exchange.receive(slow, &[UNSAVED, LARGE]);
    for (client, bytes) in [(slow, &[8, 9]), (changed, &[7, 0x92])] {
        let wire = exchange.wire(client).unwrap();
        wire.incoming.push_back(Bytes::copy_from_slice(bytes));
    }
    exchange.advance(DRAIN);
    assert_eq!(exchange.take_sent(changed), [UNSAVED, 7]);
    assert_eq!(exchange.take_sent(waiting), [APOLOGY]);
    assert!(!exchange.reads(kept));
    assert_eq!(exchange.parted(), [], "the slow one may be given more");
    let late = exchange.connect();
    exchange.set_window(slow, None);
    let due = [&[UNSAVED][..], &[LARGE; 10_000], &[8, 9]].concat();
    assert!(exchange.take_sent(slow) == due);
    // The service keeps the responder, for which the session cannot be saved.
    for client in [waiting, slow, changed] {
        assert!(exchange.is_shut(client) && !exchange.is_open(client));
    }
    assert_eq!(exchange.parted(), [kept, late]);
    assert!(exchange.shard.is_done());
    assert_eq!(exchange.counters().unsaved, 3);
}

/// As those that were there before.
#[test]
fn who_comes_when_the_others_are_about_to_rest_ends_as_well() {
    let mut exchange = exchange(Fickle {
        last_save: Some(1),
        ..Fickle::default()
    });
    let slow = exchange.connect();
    exchange.set_window(slow, Some(0));
    exchange.receive(slow, &[LARGE, 6]);
    exchange.hand_over_unread(slow, &[]);
    exchange.advance(DRAIN);
    let late = exchange.connect_with_bytes(&[7, 8]);
    assert_eq!(exchange.take_sent(late), [7, 8]);
    exchange.set_window(slow, None);
    let due = [&[LARGE; 10_000][..], &[6]].concat();
    assert!(exchange.take_sent(slow) == due);
    assert!(exchange.is_shut(slow) && exchange.is_shut(late));
    assert!(exchange.shard.is_done());
    assert_eq!(exchange.parted(), []);
    assert_eq!(exchange.counters().unsaved, 2);
}

#[test]
fn whose_last_frames_make_it_whole_again_is_handed_over() {
    let mut exchange = exchange(Fickle::default());
    let [other, changed] = [(); 2].map(|()| exchange.connect());
    exchange.set_window(other, Some(0));
    exchange.receive(other, &[UNSAVED]);
    exchange.receive(changed, &[UNSAVED]);
    exchange.hand_over_unread(changed, &[&[SAVED, 0x92, 6]]);
    assert_eq!(exchange.take_sent(changed), [UNSAVED, SAVED]);
    // However long that waits for the other one.
    exchange.advance(DRAIN / 2);
    exchange.receive(changed, &[7]);
    assert_eq!(exchange.unread(changed), 1, "it is the successor's");
    exchange.set_window(other, None);
    assert_eq!(exchange.parted(), [changed]);
    let [parted] = &exchange.parted[..] else {
        unreachable!()
    };
    assert_eq!(parted.parcel.state.input[..], [0x92, 6]);
    assert_eq!(parted.wire.unread(), 1);
    assert_eq!(exchange.counters().unsaved, 1, "the other one");
    assert!(exchange.shard.is_done());
}

/// Its service can change its mind once more.
#[test]
fn who_is_whole_again_for_a_while_only_is_answered() {
    let service = Fickle {
        last_save: Some(5),
        ..Fickle::default()
    };
    let mut exchange = exchange(service.clone());
    let [other, changed] = [(); 2].map(|()| exchange.connect());
    exchange.set_window(other, Some(0));
    exchange.receive(other, &[UNSAVED]);
    exchange.receive(changed, &[UNSAVED]);
    exchange.hand_over_unread(changed, &[&[SAVED]]);
    assert_eq!(
        service.saves.get(),
        4,
        "both, before and behind their last frames"
    );
    exchange.receive(changed, &[6, 7]);
    assert_eq!(exchange.unread(changed), 2);
    exchange.set_window(other, None);
    assert_eq!(exchange.take_sent(changed), [UNSAVED, SAVED, 6, 7]);
    assert!(exchange.is_shut(changed) && exchange.shard.is_done());
    assert_eq!(exchange.parted(), []);
    assert_eq!(exchange.counters().unsaved, 2);
}

/// The engines end it, and then tell what it has brought.
#[test]
fn what_a_receive_under_way_makes_unsaved_is_answered_to_the_end() {
    for (header, last) in [(&b"PROXY UNKNOWN\r\n"[..], 5), (b"", UNSAVED)] {
        let service = Fickle::default();
        let mut exchange = exchange(service.clone());
        exchange.set_proxy_protocol(!header.is_empty());
        let client = exchange.connect();
        exchange.begin_to_drain();
        if !header.is_empty() {
            service.never_saves.set(true);
        }
        let bytes = [header, &[last]].concat();
        exchange.shard.received(client.0 as u32, &bytes, None);
        exchange.hand_over_unread(client, &[&[6, 7]]);
        assert_eq!(exchange.take_sent(client), [last, 6, 7]);
        assert!(exchange.is_shut(client) && exchange.shard.is_done());
        assert_eq!(exchange.parted(), []);
        assert_eq!(exchange.counters().unsaved, 1);
        // When no deferred reply was awaited, when nothing more was received, and in the end.
        let asked = service.saves.get();
        assert_eq!(asked, if header.is_empty() { 3 } else { 2 });
    }
}

/// Frames that wait when nobody is read any more can change what a session is worth.
#[test]
fn whose_backlog_makes_it_unsaved_is_answered_to_the_end() {
    let mut exchange = exchange(Fickle::default());
    let [long, paused, half, slow, kept] = [(); 5].map(|()| exchange.connect());
    exchange.set_window(half, Some(0));
    exchange.receive(half, &[LARGE, UNSAVED, LARGE, 5]);
    exchange.shard.ended(half.0 as u32);
    exchange.set_window(slow, Some(0));
    exchange.receive(slow, &[UNSAVED, LARGE, 5]);
    exchange.set_window(paused, Some(0));
    exchange.receive(paused, &[LARGE, UNSAVED]);
    for (client, bytes) in [(paused, &[6, 7]), (kept, &[8, 9])] {
        let wire = exchange.wire(client).unwrap();
        wire.incoming.push_back(Bytes::copy_from_slice(bytes));
    }
    // More than is given in one turn.
    let frames = [&[5; 6_000][..], &[UNSAVED]].concat();
    exchange.shard.received(long.0 as u32, &frames, None);
    exchange.shard.drain = Duration::ZERO;
    exchange.hand_over_unread(long, &[&[6], &[7]]);
    assert!(exchange.take_sent(long) == [&frames[..], &[6, 7]].concat());
    assert_eq!(exchange.parted(), [], "the slow one may be given more");
    exchange.set_window(paused, None);
    let due = [&[LARGE; 10_000][..], &[UNSAVED, 6, 7]].concat();
    assert!(exchange.take_sent(paused) == due);
    exchange.set_window(half, Some(10_000));
    exchange.set_window(slow, None);
    let due = [&[UNSAVED][..], &[LARGE; 10_000], &[5]].concat();
    assert!(exchange.take_sent(slow) == due);
    exchange.set_window(half, None);
    let due = [&[LARGE; 10_000], &[UNSAVED][..], &[LARGE; 10_000], &[5]].concat();
    assert!(exchange.take_sent(half) == due);
    for client in [long, paused, slow] {
        assert!(exchange.is_shut(client) && !exchange.is_open(client));
    }
    assert!(!exchange.is_open(half));
    assert_eq!(exchange.parted(), [kept]);
    assert_eq!(exchange.parted[0].wire.unread(), 2);
    assert!(exchange.shard.is_done());
    assert_eq!(exchange.counters().unsaved, 3);
}

/// A service can say so at the last moment. Then no service may be given a frame any more.
#[test]
fn who_cannot_be_saved_in_the_end_still_ends_in_order() {
    let mut exchange = exchange(Fickle {
        last_save: Some(3),
        ..Fickle::default()
    });
    let client = exchange.connect();
    exchange.set_window(client, Some(1));
    exchange.receive(client, &[5, LARGE, LARGE]);
    exchange.hand_over_unread(client, &[&[6]]);
    assert_eq!(exchange.parted(), []);
    assert!(exchange.is_open(client) && !exchange.shard.is_done());
    exchange.set_window(client, None);
    let due = [&[5][..], &[LARGE; 10_000]].concat();
    assert!(exchange.take_sent(client) == due, "what was made by then");
    assert_eq!(exchange.unread(client), 0, "a close would be a reset");
    assert!(exchange.is_shut(client) && !exchange.is_open(client));
    assert!(exchange.shard.is_done());
    assert_eq!(exchange.counters().unsaved, 1);
}

/// Also if that takes longer than others have been waited for.
#[test]
fn who_is_let_go_late_has_time_to_end() {
    let service = Fickle {
        last_save: Some(3),
        ..Fickle::default()
    };
    let mut exchange = exchange(service.clone());
    let client = exchange.connect();
    exchange.set_window(client, Some(1));
    exchange.receive(client, &[5, LARGE]);
    // Another thread has begun to push.
    let handle = service.handles.borrow()[0].clone();
    let mail = handle.begin_push(&[9]);
    exchange.hand_over_unread(client, &[]);
    exchange.advance(DRAIN + 2 * LINGER);
    let _ = exchange.shard.deliver(mail);
    exchange.settle();
    exchange.advance(LINGER - Duration::from_millis(1));
    exchange.set_window(client, None);
    let due = [&[5][..], &[LARGE; 10_000], &[9]].concat();
    assert!(exchange.take_sent(client) == due);
    assert!(exchange.is_shut(client) && exchange.shard.is_done());
    assert_eq!(exchange.parted(), []);
}

#[test]
fn a_service_that_panics_when_it_saves_costs_the_connection_in_order() {
    let mut exchange = exchange(Fickle::default());
    let [kept, panics] = [(); 2].map(|()| exchange.connect());
    exchange.set_window(panics, Some(0));
    exchange.receive(panics, &[PANIC, LARGE]);
    exchange.hand_over_unread(panics, &[&[6]]);
    exchange.set_window(panics, None);
    let due = [&[PANIC][..], &[LARGE; 10_000]].concat();
    assert!(exchange.take_sent(panics) == due);
    assert!(exchange.is_shut(panics) && !exchange.is_open(panics));
    assert_eq!(exchange.parted(), [kept]);
    let counters = exchange.counters();
    assert_eq!((counters.panics, counters.unsaved), (1, 1));
}

/// As a stop does that cuts somebody.
#[test]
fn what_a_closing_connection_still_owes_is_not_given_up_without_a_word() {
    let mut exchange = exchange(Fickle::default());
    let [kept, deaf] = [(); 2].map(|()| exchange.connect());
    exchange.set_window(deaf, Some(1));
    exchange.receive(deaf, &[5, 6, 7, 0xc1]);
    exchange.hand_over_unread(kept, &[]);
    exchange.advance(DRAIN);
    assert_eq!(exchange.parted(), [kept]);
    assert!(!exchange.is_open(deaf) && !exchange.is_shut(deaf));
    assert_eq!(exchange.take_sent(deaf), [5]);
    let counters = exchange.counters();
    assert_eq!((counters.bad_input, counters.timed_out), (1, 1));
    assert_eq!(exchange.memory_held(), 0);
}

/// Another thread pushes, and does not come to say so, before a connection ends that has only output left.
#[test]
fn what_is_pushed_last_goes_on_with_it() {
    let service = Fickle::default();
    let mut exchange = exchange(service.clone());
    let client = exchange.connect();
    exchange.set_window(client, Some(1));
    exchange.receive(client, &[5, 6, 7]);
    let handle = service.handles.borrow()[0].clone();
    let mail = handle.begin_push(&[9]);
    exchange.end(client);
    exchange.hand_over_unread(client, &[]);
    assert_eq!(exchange.parted(), [client]);
    assert_eq!(exchange.parted[0].parcel.state.output[..], [6, 7, 9]);
    let _ = exchange.shard.deliver(mail);
    assert!(exchange.shard.is_done());
}
