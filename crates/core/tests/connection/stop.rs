//! What becomes of connections when the server stops.

use std::time::Duration;

use ringhold_core::Abandoned;
use ringhold_core::limits::Limits;

use crate::service::{Manner, Rig, ask, bin, defer, pattern, verb};

const STOPS: &str = "the server stops";

fn apologetic() -> Rig {
    Rig::with_manner(Manner {
        apology: Some(0x55),
        makes_handles: true,
        ..Manner::default()
    })
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn whole_frames_are_answered_and_half_ones_dropped() {
    let mut rig = Rig::new();
    let clients: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    rig.receive(clients[0], &[1, 2, 0x92, 3]);
    rig.receive(clients[1], &vec![5; 10_000]);
    rig.stop();
    assert_eq!(rig.take_sent(clients[0]), [1, 2]);
    assert_eq!(rig.take_sent(clients[1]), vec![5; 10_000]);
    assert!(clients.iter().all(|client| rig.is_shut(*client)));
    assert_eq!(rig.reasons(), [STOPS; 3]);
    rig.assert_empty(&clients);
    assert_eq!(rig.counters().bad_input, 0, "the peer did nothing wrong");
}

#[test]
fn tickets_are_waited_for_and_then_abandoned() {
    let mut rig = apologetic();
    let [quick, slow, idle] = [rig.connect(), rig.connect(), rig.connect()];
    rig.receive(quick, &defer(1));
    rig.receive(slow, &[&defer(2)[..], &defer(3)].concat());
    rig.stop_within(ms(5000));
    assert_eq!(rig.counters().open, 3);
    for client in [quick, slow, idle] {
        rig.receive(client, &[7]);
        assert_eq!(rig.take_sent(client), [7]);
    }
    rig.responder().answer(vec![8]);
    rig.deliver();
    assert_eq!(rig.take_sent(quick), [8]);
    rig.advance(ms(4999));
    assert_eq!(rig.counters().open, 3);
    rig.responder().answer(vec![9]);
    rig.deliver();
    rig.advance(ms(1));
    assert_eq!(rig.take_sent(slow), [9, 0x55, 3]);
    assert_eq!(rig.seen().abandoned, [(1, 3, Abandoned::Stopping)]);
    assert_eq!(rig.counters().abandoned, 1);
    assert_eq!(rig.reasons(), [STOPS; 3]);
    rig.assert_empty(&[quick, slow, idle]);
    rig.let_go();
    assert_eq!(rig.seen().abandoned.len(), 1, "abandoned once");
}

/// Who calls quick methods notices nothing of another one's slow call, until nothing is owed of before the stop.
#[test]
fn all_are_served_until_what_was_promised_before_the_stop_is_given() {
    let mut rig = apologetic();
    let [slow, quick, idle] = [(); 3].map(|()| rig.connect());
    rig.receive(slow, &[defer(1), defer(2)].concat());
    rig.receive(quick, &defer(3));
    rig.stop_within(ms(5000));
    let [first, last, own] = rig.take_responders().try_into().unwrap();
    let call = |rig: &mut Rig, client, number| {
        rig.receive(client, &defer(4));
        assert!(rig.reads(client));
        rig.responder().answer(vec![number]);
        rig.deliver();
        assert_eq!(rig.take_sent(client), [number]);
    };
    call(&mut rig, quick, 1);
    for (responder, client) in [(own, quick), (first, slow)] {
        responder.answer(vec![8]);
        rig.deliver();
        assert_eq!(rig.take_sent(client), [8]);
        for number in 0..3 {
            call(&mut rig, quick, number);
            call(&mut rig, slow, number);
        }
    }
    rig.receive(quick, &defer(5));
    last.answer(vec![8]);
    rig.deliver();
    assert_eq!(rig.take_sent(slow), [8]);
    assert!(!rig.reads(quick), "it waits for an answer of its own");
    // It waited for nothing when that was given, then makes a call.
    assert!(rig.reads(slow) && rig.reads(idle));
    rig.receive(idle, &[&[7][..], &defer(6)].concat());
    assert!(!rig.reads(idle));
    rig.responder().answer(vec![9]);
    rig.deliver();
    assert_eq!(rig.take_sent(quick), [9]);
    assert!(
        !rig.reads(quick),
        "its next request could open the next ticket"
    );
    rig.responder().answer(vec![10]);
    rig.deliver();
    assert_eq!(rig.take_sent(idle), [7, 10]);
    rig.assert_empty(&[slow, quick, idle]);
    assert_eq!(rig.counters().abandoned, 0);
}

/// Nor is anything owed to who has gone.
#[test]
fn whoever_goes_is_not_waited_for_by_those_that_are_served() {
    let mut rig = apologetic();
    let [gone, other, quick] = [(); 3].map(|()| rig.connect());
    for client in [gone, other] {
        rig.receive(client, &defer(1));
    }
    rig.stop_within(ms(5000));
    rig.receive(quick, &defer(2));
    rig.reset(other);
    assert!(rig.reads(quick));
    rig.reset(gone);
    assert!(!rig.reads(quick), "it is the last one");
    // Another one in the place of who has gone, which the stop did not find.
    let late = rig.connect();
    rig.receive(late, &[7]);
    assert_eq!(rig.take_sent(late), [7]);
    rig.take_responder(2).answer(vec![9]);
    rig.deliver();
    assert_eq!(rig.take_sent(quick), [9]);
    rig.assert_empty(&[gone, other, quick, late]);
    rig.let_go();
}

/// The process was held up for longer than a stop takes: whoever is given up hears of it all the same, and whoever has not taken
/// its reply has a second for it.
#[test]
fn a_stop_that_comes_too_late_for_everything_still_says_what_is_due() {
    let mut rig = apologetic();
    let [waiting, unread] = [(); 2].map(|()| rig.connect());
    rig.receive(waiting, &defer(1));
    rig.set_window(unread, Some(0));
    rig.receive(unread, &ask(100));
    rig.stop_within(ms(500));
    rig.advance(ms(10_000));
    assert_eq!(rig.take_sent(waiting), [0x55, 1]);
    rig.advance(ms(999));
    rig.set_window(unread, None);
    assert_eq!(rig.take_sent(unread), pattern(100));
    assert_eq!(rig.reasons(), [STOPS; 2]);
    rig.assert_empty(&[waiting, unread]);
    rig.let_go();
}

/// How long the server has waited for others by then is nothing to who is promised a reply.
#[test]
fn what_is_promised_during_the_wait_is_waited_for_as_long_from_then_on() {
    let mut rig = apologetic();
    let [old, both, quick, slow, idle] = [(); 5].map(|()| rig.connect());
    rig.receive(old, &defer(1));
    rig.receive(both, &defer(2));
    rig.stop_within(ms(1000));
    // In another millisecond it would not be read any more.
    rig.advance(ms(249));
    rig.receive(both, &defer(3));
    rig.advance(ms(750));
    rig.receive(quick, &defer(4));
    rig.receive(slow, &defer(5));
    rig.advance(ms(1));
    assert_eq!(rig.take_sent(old), [0x55, 1]);
    assert_eq!(rig.take_sent(both), [0x55, 2]);
    assert!(rig.is_shut(old) && rig.is_shut(idle));
    assert!(
        [both, quick, slow]
            .iter()
            .all(|client| rig.is_open(*client))
    );
    assert!([both, quick, slow].iter().all(|client| !rig.reads(*client)));
    rig.advance(ms(999));
    rig.take_responder(3).answer(vec![6]);
    rig.take_responder(3).answer(vec![7]);
    rig.deliver();
    assert_eq!(rig.take_sent(both), []);
    assert_eq!(rig.take_sent(quick), [6]);
    assert_eq!(rig.take_sent(slow), [7]);
    assert!(rig.is_shut(quick) && rig.is_shut(slow));
    rig.advance(ms(1));
    assert_eq!(rig.take_sent(both), [0x55, 3]);
    rig.assert_empty(&[old, both, quick, slow, idle]);
    rig.let_go();
    assert_eq!(rig.counters().abandoned, 3);
}

#[test]
fn a_reply_that_was_promised_during_the_wait_has_time_to_be_written() {
    let mut rig = apologetic();
    let [old, late, deaf] = [(); 3].map(|()| rig.connect());
    rig.receive(old, &defer(1));
    rig.set_window(deaf, Some(0));
    rig.receive(deaf, &ask(100));
    rig.stop_within(ms(5000));
    rig.set_window(late, Some(0));
    rig.receive(late, &defer(2));
    rig.advance(ms(5000 + 2000));
    rig.take_responder(1).answer(bin(3000, 3));
    rig.deliver();
    rig.advance(ms(999));
    assert!(rig.is_open(late) && rig.is_open(deaf));
    rig.set_window(late, None);
    assert_eq!(rig.take_sent(late), bin(3000, 3));
    rig.advance(ms(1));
    rig.assert_empty(&[old, late, deaf]);
}

#[test]
fn the_last_answer_ends_the_wait() {
    let mut rig = apologetic();
    let clients = [rig.connect(), rig.connect()];
    rig.receive(clients[0], &defer(1));
    rig.receive(clients[1], &defer(2));
    rig.stop_within(Duration::from_secs(1000));
    rig.responder().answer(vec![1]);
    rig.deliver();
    assert_eq!(rig.counters().open, 2);
    rig.responder().answer(vec![2]);
    rig.deliver();
    assert_eq!(rig.take_sent(clients[0]), [1]);
    assert_eq!(rig.take_sent(clients[1]), [2]);
    rig.assert_empty(&clients);
}

#[test]
fn the_end_of_the_last_connection_that_waits_ends_the_wait() {
    let mut rig = apologetic();
    let clients = [rig.connect(), rig.connect()];
    rig.receive(clients[0], &defer(1));
    rig.stop_within(Duration::from_secs(1000));
    rig.reset(clients[0]);
    rig.assert_empty(&clients);
}

#[test]
fn an_abandoned_ticket_without_an_apology_ends_its_connection() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.receive(client, &[defer(1), defer(2)].concat());
    rig.stop();
    assert_eq!(
        rig.seen().abandoned,
        [(0, 1, Abandoned::Stopping)],
        "once is enough"
    );
    let counters = rig.counters();
    assert_eq!((counters.abandoned, counters.bad_input), (1, 0));
    rig.assert_empty(&[client]);
    rig.let_go();
}

#[test]
fn an_answer_after_the_drain_comes_too_late() {
    let mut rig = apologetic();
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &defer(1));
    rig.stop_within(ms(100));
    rig.advance(ms(100));
    assert!(rig.is_open(client), "the apology is not taken yet");
    rig.responder().answer(vec![1]);
    rig.deliver();
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), [0x55, 1]);
    rig.assert_empty(&[client]);
}

#[test]
fn replies_that_are_on_their_way_are_written() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(100_000));
    rig.stop();
    assert!(rig.is_open(client));
    rig.advance(ms(999));
    rig.set_window(client, Some(60_000));
    assert!(rig.is_open(client));
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), pattern(100_000));
    assert!(rig.is_shut(client));
    rig.assert_empty(&[client]);
}

#[test]
fn peers_that_do_not_take_their_replies_are_not_waited_for_for_ever() {
    let mut rig = Rig::with_limits(Limits {
        write_timeout: Duration::ZERO,
        outbox_bytes: 10_000,
        ..Limits::default()
    });
    let clients: Vec<_> = (0..4).map(|_| rig.connect()).collect();
    for client in &clients {
        rig.set_window(*client, Some(0));
    }
    rig.receive(clients[0], &ask(100));
    rig.receive(clients[1], &ask(9000));
    rig.receive_unasked(clients[1], &ask(10));
    rig.receive(clients[2], &[0x91, verb::CLOSE]);
    rig.receive(clients[3], &ask(100));
    rig.end(clients[3]);
    rig.stop_within(ms(500));
    rig.advance(ms(500));
    rig.advance(ms(999));
    assert_eq!(rig.counters().open, 4);
    rig.advance(ms(1));
    rig.assert_empty(&clients);
}

#[test]
fn a_peer_that_keeps_its_side_open_is_waited_for_a_second() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.keep_open(client);
    rig.stop();
    assert!(rig.is_shut(client) && rig.is_open(client));
    rig.advance(ms(999));
    assert!(rig.is_open(client));
    rig.advance(ms(100));
    assert_eq!(rig.reasons(), [STOPS]);
    rig.assert_empty(&[client]);
}

#[test]
fn what_a_paused_connection_had_received_is_answered() {
    let mut rig = Rig::with_limits(Limits {
        outbox_bytes: 10_000,
        ..Limits::default()
    });
    let client = rig.connect();
    rig.set_window(client, Some(0));
    let stream: Vec<u8> = (0..40).flat_map(|i| bin(995, i)).collect();
    rig.receive(client, &stream);
    assert!(rig.frames() < 10);
    rig.stop();
    rig.advance(ms(500));
    rig.set_window(client, None);
    assert!(rig.take_sent(client) == stream);
    assert!(rig.is_shut(client));
    rig.assert_empty(&[client]);
}

/// What comes after the stop is not read any more, however long the connection has still to go.
#[test]
fn what_a_paused_connection_had_not_read_by_then_is_answered_too() {
    let mut rig = Rig::with_limits(Limits {
        outbox_bytes: 10_000,
        ..Limits::default()
    });
    let client = rig.connect();
    rig.set_window(client, Some(0));
    let pieces: Vec<Vec<u8>> = (0..40).map(|i| bin(995, i)).collect();
    for piece in &pieces {
        rig.receive(client, piece);
    }
    assert!(rig.unread(client) > 30_000);
    rig.stop();
    for i in 40..80 {
        rig.receive(client, &bin(995, i));
    }
    rig.advance(ms(500));
    rig.set_window(client, Some(12_000));
    rig.set_window(client, None);
    let sent = rig.take_sent(client);
    assert!(sent.starts_with(&pieces.concat()));
    // The look that looks for the end may find one more.
    assert!(sent.len() <= 41 * pieces[0].len());
    assert!(rig.is_shut(client));
    assert_eq!(rig.reasons(), [STOPS]);
    rig.assert_empty(&[client]);
}

#[test]
fn a_connection_that_comes_while_the_server_stops_is_served_what_it_sent() {
    let mut rig = apologetic();
    let waiting = rig.connect();
    rig.receive(waiting, &defer(1));
    rig.stop_within(ms(1000));
    let late = rig.connect();
    rig.receive(late, &[1, 2]);
    assert_eq!(rig.take_sent(late), [1, 2]);
    rig.responder().answer(vec![3]);
    rig.deliver();
    rig.assert_empty(&[waiting, late]);
    let later = rig.connect();
    rig.assert_empty(&[later]);
}

#[test]
fn a_deferred_reply_in_the_last_frames_is_waited_for_as_long_as_one_promised_during_the_wait() {
    let mut rig = Rig::with(
        Limits {
            outbox_bytes: 10_000,
            ..Limits::default()
        },
        Manner {
            apology: Some(0x55),
            ..Manner::default()
        },
    );
    let client = rig.connect();
    rig.set_window(client, Some(0));
    // The request waits behind a reply that the peer does not take, so its ticket is opened after the wait is over.
    rig.receive(
        client,
        &[ask(9000), defer(1).to_vec(), defer(2).to_vec()].concat(),
    );
    rig.stop_within(ms(1000));
    assert_eq!(rig.frames(), 1);
    rig.set_window(client, None);
    assert_eq!(rig.frames(), 3);
    assert!(rig.is_open(client));
    rig.responder().answer(vec![1]);
    rig.deliver();
    rig.advance(ms(1999));
    assert_eq!(rig.take_sent(client)[9000..], [1]);
    rig.advance(ms(1));
    assert_eq!(rig.take_sent(client), [0x55, 2]);
    rig.assert_empty(&[client]);
    rig.let_go();
}

#[test]
fn a_second_stop_changes_nothing() {
    let mut rig = apologetic();
    let client = rig.connect();
    rig.receive(client, &defer(1));
    rig.stop_within(ms(1000));
    rig.stop();
    assert!(rig.is_open(client));
    rig.responder().answer(vec![1]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), [1]);
    rig.assert_empty(&[client]);
}

#[test]
fn pushes_are_delivered_while_the_server_waits() {
    let mut rig = apologetic();
    let client = rig.connect();
    rig.receive(client, &defer(1));
    rig.stop_within(ms(1000));
    rig.seen().handles[0].push(vec![4]).unwrap();
    rig.deliver();
    assert_eq!(rig.take_sent(client), [4]);
    rig.responder().answer(vec![1]);
    rig.deliver();
    assert!(rig.seen().handles[0].push(vec![4]).is_err());
    rig.assert_empty(&[client]);
}
