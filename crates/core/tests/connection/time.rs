//! Time limits, on a clock that the tests move.

use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::Client;

use crate::service::{Manner, Rig, array, ask, bin, defer, pattern, verb};

const IDLE: &str = "nothing was received or sent for idle_timeout";
const FRAME: &str = "a frame was not complete within frame_timeout";
const WRITE: &str = "the peer took nothing for write_timeout";

/// A time limit takes effect within so many milliseconds.
pub(crate) const PRECISION: u64 = 32;

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// No limits but these, in milliseconds; 0 = never.
pub(crate) fn limits(idle: u64, frame: u64, write: u64) -> Limits {
    Limits {
        outbox_bytes: 10_000,
        idle_timeout: ms(idle),
        frame_timeout: ms(frame),
        write_timeout: ms(write),
        ..Limits::default()
    }
}

fn rig(idle: u64, frame: u64, write: u64) -> Rig {
    let manner = Manner {
        makes_handles: true,
        ..Manner::default()
    };
    Rig::with(limits(idle, frame, write), manner)
}

/// With a client.
fn connected(idle: u64, frame: u64, write: u64) -> (Rig, Client) {
    let mut rig = rig(idle, frame, write);
    let client = rig.connect();
    (rig, client)
}

/// The connection must end `after` milliseconds from now: not earlier, and not much later, however the time passes.
#[track_caller]
fn ends_after(rig: &mut Rig, client: Client, after: u64, reason: &str) {
    for step in [after / 2, after / 3] {
        rig.advance(ms(step));
        assert!(rig.is_open(client), "too early");
    }
    rig.advance(ms(after - after / 2 - after / 3 - 1));
    assert!(rig.is_open(client), "a millisecond too early");
    rig.advance(ms(1 + PRECISION));
    assert!(!rig.is_open(client), "too late");
    assert_eq!(rig.reasons(), [reason]);
    assert_eq!(rig.counters().timed_out, 1);
    rig.assert_empty(&[client]);
}

#[test]
fn an_idle_connection_is_closed_at_its_time() {
    // Below, at and far above what the wheel of timers reaches in one go.
    for limit in [1, 31, 32, 33, 1000, 16_352, 16_384, 60_000, 3_600_000] {
        let mut rig = rig(limit, 0, 0);
        rig.advance(ms(12_345));
        let client = rig.connect();
        ends_after(&mut rig, client, limit, IDLE);
        assert!(rig.is_shut(client), "the peer is told in an orderly way");
    }
}

#[test]
fn time_in_small_steps_and_in_one_leap() {
    let (mut rig, client) = connected(5000, 0, 0);
    for _ in 0..4999 {
        rig.advance(ms(1));
        assert!(rig.is_open(client));
    }
    rig.advance(ms(PRECISION + 1));
    assert!(!rig.is_open(client));
    let client = rig.connect();
    rig.advance(Duration::from_secs(1_000_000));
    rig.assert_empty(&[client]);
}

#[test]
fn zero_is_never() {
    let (mut rig, client) = connected(0, 0, 0);
    rig.set_window(client, Some(0));
    rig.receive(client, &[&ask(100)[..], &[0x92, 1]].concat());
    rig.advance(Duration::from_secs(100 * 365 * 86_400));
    assert!(rig.is_open(client));
}

#[test]
fn limits_beyond_all_measure_are_never_too() {
    let mut rig = Rig::with_limits(Limits {
        idle_timeout: Duration::MAX,
        frame_timeout: Duration::MAX,
        write_timeout: Duration::MAX,
        ..Limits::default()
    });
    let client = rig.connect();
    rig.advance(ms(1000));
    rig.set_window(client, Some(0));
    rig.receive(client, &[&ask(100)[..], &[0x92, 1]].concat());
    rig.advance(Duration::from_secs(1_000_000));
    assert!(rig.is_open(client));
}

#[test]
fn a_limit_below_the_clocks_unit_is_not_never() {
    let mut rig = Rig::with_limits(Limits {
        idle_timeout: Duration::from_micros(10),
        ..Limits::default()
    });
    let client = rig.connect();
    rig.advance(ms(1 + PRECISION));
    assert_eq!(rig.reasons(), [IDLE]);
    rig.assert_empty(&[client]);
}

#[test]
fn what_is_received_is_traffic() {
    let (mut rig, client) = connected(1000, 0, 0);
    for piece in bin(20, 1).chunks(1) {
        rig.advance(ms(999));
        assert!(rig.receive(client, piece));
    }
    ends_after(&mut rig, client, 1000, IDLE);
}

#[test]
fn what_is_sent_is_traffic() {
    let (mut rig, client) = connected(1000, 0, 0);
    for i in 0..10 {
        rig.advance(ms(999));
        rig.seen().handles[0].push(vec![i]).unwrap();
        rig.deliver();
    }
    assert_eq!(rig.take_sent(client), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    ends_after(&mut rig, client, 1000, IDLE);
}

#[test]
fn a_connection_that_waits_for_its_answer_is_not_idle() {
    let (mut rig, client) = connected(1000, 0, 0);
    rig.receive(client, &defer(1));
    rig.advance(ms(100_000));
    rig.responder().answer(vec![7]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), [7]);
    rig.advance(ms(PRECISION));
    assert!(rig.is_open(client), "it has just been answered");
    rig.advance(ms(1000 - PRECISION - 1));
    assert!(rig.is_open(client));
    rig.advance(ms(1 + PRECISION));
    assert_eq!(rig.reasons(), [IDLE]);
}

#[test]
fn a_connection_whose_ticket_was_abandoned_silently_is_idle_from_then_on() {
    let (mut rig, client) = connected(1000, 0, 0);
    rig.receive(client, &defer(1));
    rig.advance(ms(100_000));
    rig.responder().answer(vec![]);
    rig.deliver();
    ends_after(&mut rig, client, 1000, IDLE);
}

#[test]
fn a_connection_that_reads_slowly_is_not_idle() {
    let (mut rig, client) = connected(1000, 0, 0);
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(100));
    rig.advance(ms(100_000));
    rig.set_window(client, None);
    assert_eq!(rig.take_sent(client), pattern(100));
    ends_after(&mut rig, client, 1000, IDLE);
}

#[test]
fn a_frame_must_be_complete_in_time() {
    for limit in [1, 32, 1000, 30_000] {
        for size in [10, 100_000] {
            let (mut rig, client) = connected(0, limit, 0);
            rig.advance(ms(3));
            rig.receive(client, &[&[0x2a][..], &bin(size, 1)[..8]].concat());
            assert_eq!(rig.take_sent(client), [0x2a]);
            ends_after(&mut rig, client, limit, FRAME);
            assert!(rig.is_shut(client));
        }
    }
}

#[test]
fn trickling_does_not_buy_a_frame_more_time() {
    for size in [1000, 100_000] {
        let (mut rig, client) = connected(0, 1000, 0);
        let frame = bin(size, 1);
        for byte in 0..100 {
            rig.receive(client, &frame[byte..byte + 1]);
            rig.advance(ms(10));
            if byte < 98 {
                assert!(rig.is_open(client));
            }
        }
        rig.advance(ms(PRECISION));
        assert_eq!(rig.reasons(), [FRAME]);
    }
}

#[test]
fn a_stream_whose_pieces_all_end_in_mid_frame_is_in_time() {
    let frame = array(&[&[1], &bin(1000, 2)]);
    let stream = vec![frame.clone(); 100].concat();
    for piece in [frame.len() - 1, frame.len() + 1, 3 * frame.len() + 7] {
        let (mut rig, client) = connected(0, 1000, 0);
        for piece in stream.chunks(piece) {
            rig.receive(client, piece);
            rig.advance(ms(400));
        }
        assert!(rig.take_sent(client) == stream);
        assert!(rig.is_open(client));
    }
}

#[test]
fn large_frames_one_behind_the_other_are_in_time() {
    let stream = vec![bin(100_000, 1); 10].concat();
    let (mut rig, client) = connected(0, 1000, 0);
    for piece in stream.chunks(40_000) {
        rig.receive(client, piece);
        rig.advance(ms(300));
    }
    assert!(rig.take_sent(client) == stream);
}

#[test]
fn a_completed_frame_leaves_no_deadline_behind() {
    let (mut rig, client) = connected(0, 1000, 0);
    rig.receive(client, &[0x92, 1]);
    rig.advance(ms(900));
    rig.receive(client, &[2]);
    rig.advance(ms(100_000));
    rig.receive(client, &[0x92, 1]);
    ends_after(&mut rig, client, 1000, FRAME);
}

#[test]
fn a_short_limit_that_comes_after_a_long_one_is_not_missed() {
    let (mut rig, client) = connected(3_600_000, 1000, 5000);
    rig.advance(ms(10));
    rig.receive(client, &[0x92]);
    ends_after(&mut rig, client, 1000, FRAME);

    let (mut rig, client) = connected(3_600_000, 10_000, 500);
    rig.receive(client, &[0x92]);
    rig.advance(ms(3));
    rig.set_window(client, Some(0));
    rig.receive(client, &[&[1][..], &ask(10)].concat());
    ends_after(&mut rig, client, 500, WRITE);
}

#[test]
fn a_long_limit_that_comes_after_a_short_one_is_kept_too() {
    let (mut rig, client) = connected(5000, 100, 0);
    for _ in 0..3 {
        rig.receive(client, &[0x91]);
        rig.advance(ms(99));
        rig.receive(client, &[0x01]);
    }
    ends_after(&mut rig, client, 5000, IDLE);
}

#[test]
fn a_peer_that_takes_nothing_is_cut() {
    for limit in [1, 32, 1000, 30_000] {
        let (mut rig, client) = connected(0, 0, limit);
        rig.set_window(client, Some(5));
        rig.receive(client, &ask(100));
        ends_after(&mut rig, client, limit, WRITE);
        assert_eq!(rig.take_sent(client), pattern(5));
        assert!(!rig.is_shut(client), "it is cut, not ended");
    }
}

#[test]
fn a_peer_that_takes_something_is_not_cut() {
    let (mut rig, client) = connected(0, 0, 1000);
    rig.set_window(client, Some(0));
    rig.receive(client, &ask(30));
    for _ in 0..20 {
        rig.advance(ms(999));
        rig.set_window(client, Some(1));
    }
    assert_eq!(rig.take_sent(client), pattern(20));
    ends_after(&mut rig, client, 1000, WRITE);
}

#[test]
fn more_output_does_not_buy_a_peer_more_time() {
    let (mut rig, client) = connected(0, 0, 1000);
    rig.set_window(client, Some(0));
    for _ in 0..9 {
        rig.receive(client, &[1]);
        rig.advance(ms(100));
    }
    ends_after(&mut rig, client, 100, WRITE);
}

#[test]
fn who_sent_what_is_bad_and_takes_nothing_is_counted_as_both_and_told_as_bad() {
    let (mut rig, client) = connected(0, 0, 5000);
    rig.set_window(client, Some(0));
    rig.receive(client, &[&ask(100)[..], &[0xc1]].concat());
    rig.advance(ms(5100));
    rig.advance(ms(5100));
    let reasons = rig.reasons();
    assert!(reasons[0].contains("not acceptable msgpack"), "{reasons:?}");
    let counters = rig.counters();
    assert_eq!((counters.bad_input, counters.timed_out), (1, 1));
    rig.assert_empty(&[client]);
}

#[test]
fn a_peer_that_does_not_take_the_last_reply_is_cut_too() {
    // After its own end, of which the service would be told that all was answered, and after the service's.
    let ended = "the service ended the connection";
    for (last, reason) in [(&ask(100)[..], WRITE), (&[0x91, verb::CLOSE], ended)] {
        let (mut rig, client) = connected(0, 0, 1000);
        rig.set_window(client, Some(0));
        rig.receive(client, last);
        rig.end(client);
        rig.advance(ms(999));
        assert!(rig.is_open(client));
        rig.advance(ms(1 + PRECISION));
        rig.assert_empty(&[client]);
        assert!(rig.reasons()[0].starts_with(reason));
        assert_eq!(rig.counters().timed_out, 1);
    }
}

#[test]
fn a_frame_has_no_deadline_while_its_connection_is_not_read() {
    let (mut rig, client) = connected(0, 1000, 0);
    rig.set_window(client, Some(0));
    rig.receive(client, &[0x93, 1]);
    rig.advance(ms(500));
    rig.seen().handles[0].push(vec![7; 9000]).unwrap();
    rig.deliver();
    assert!(!rig.reads(client));
    rig.advance(ms(10_000));
    assert!(rig.is_open(client));
    rig.set_window(client, None);
    assert!(rig.reads(client));
    rig.advance(ms(500));
    assert!(rig.is_open(client), "it could not be completed before");
    rig.receive(client, &[2]);
    ends_after(&mut rig, client, 500, FRAME);
}

#[test]
fn a_peer_that_keeps_its_side_open_is_waited_for_a_second() {
    let (mut rig, client) = connected(0, 0, 0);
    rig.keep_open(client);
    rig.receive(client, &[0x91, verb::CLOSE]);
    assert!(rig.is_shut(client));
    for _ in 0..9 {
        rig.advance(ms(100));
        rig.receive(client, &[1; 100]);
    }
    rig.advance(ms(99));
    assert!(rig.is_open(client));
    rig.advance(ms(1 + PRECISION));
    assert_eq!(
        rig.reasons(),
        ["the service ended the connection: asked to"]
    );
    assert_eq!(rig.counters().timed_out, 0, "it had ended before");
    rig.assert_empty(&[client]);
}

#[test]
fn every_connection_has_its_own_time() {
    let mut rig = rig(1000, 0, 0);
    let clients: Vec<Client> = (0..50)
        .map(|_| {
            let client = rig.connect();
            rig.advance(ms(40));
            client
        })
        .collect();
    // 25 of them have had their time already.
    let open = |rig: &Rig| {
        clients
            .iter()
            .filter(|client| rig.is_open(**client))
            .count()
    };
    for left in (0..25).rev() {
        assert!(open(&rig) <= left + 1);
        rig.advance(ms(40));
    }
    rig.advance(ms(40));
    let ends: Vec<usize> = rig.seen().ends.iter().map(|(number, _)| *number).collect();
    assert_eq!(ends, (0..50).collect::<Vec<_>>());
    rig.assert_empty(&clients);
}

#[test]
fn a_reused_slot_does_not_inherit_a_deadline() {
    let mut rig = rig(1000, 0, 0);
    for _ in 0..20 {
        let client = rig.connect();
        rig.advance(ms(900));
        assert!(rig.is_open(client));
        rig.end(client);
    }
    let client = rig.connect();
    rig.advance(ms(999));
    assert!(rig.is_open(client));
    assert_eq!(rig.counters().timed_out, 0);
}

/// What a stopping server does not read any more is not the peer's fault.
#[test]
fn who_is_not_read_because_the_server_stops_is_not_cut() {
    let mut rig = rig(1000, 1000, 0);
    let [early, client] = [(); 2].map(|()| rig.connect());
    rig.receive(early, &defer(1));
    rig.stop_within(ms(10_000));
    rig.receive(client, &[&defer(2)[..], &[0x92, 1]].concat());
    // Nothing is left that was promised before the stop.
    rig.reset(early);
    assert!(!rig.reads(client));
    for _ in 0..9 {
        rig.advance(ms(1000));
    }
    assert!(rig.is_open(client));
    rig.take_responder(1).answer(vec![9]);
    rig.deliver();
    assert_eq!(rig.take_sent(client), [9]);
    assert_eq!(rig.counters().timed_out, 0);
    rig.assert_empty(&[early, client]);
    rig.let_go();
}
