//! What was pushed or answered before a connection began to end is still written to its peer.

use ringhold_core::limits::Limits;
use ringhold_core::testing::Exchange;
use ringhold_core::{
    Abandoned, Flow, Frame, Handle, Peer, PushError, Refusal, Reply, Service, Ticket,
};

/// Pushes, answers or drops first, then ends the connection if the frame says so: `[what, ends]`.
struct Farewell {
    late: std::rc::Rc<std::cell::RefCell<Vec<Handle>>>,
}

mod what {
    pub(super) const PUSHES: u8 = 1;
    pub(super) const ANSWERS: u8 = 2;
    pub(super) const DROPS: u8 = 3;
    pub(super) const ANSWERS_ELSEWHERE: u8 = 4;
    pub(super) const PUSHES_BEHIND_MUCH: u8 = 5;
}

/// What is written for each.
const WORD: u8 = 0x2a;
/// What is written before it at once.
const MUCH: [u8; 30] = [0x2b; 30];

impl Service for Farewell {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        match frame[1] {
            what::PUSHES | what::PUSHES_BEHIND_MUCH => {
                if frame[1] == what::PUSHES_BEHIND_MUCH {
                    reply.write(|out| out.extend_from_slice(&MUCH));
                }
                let handle = reply.handle();
                handle.push(vec![WORD]).unwrap();
                self.late.borrow_mut().push(handle);
            }
            what::ANSWERS => reply.defer(Ticket(1)).answer(vec![WORD]),
            what::DROPS => drop(reply.defer(Ticket(1))),
            _ => {
                let responder = reply.defer(Ticket(1));
                let elsewhere = std::thread::spawn(|| responder.answer(vec![WORD]));
                elsewhere.join().unwrap();
            }
        }
        match frame[2] {
            0xc3 => Flow::close("enough"),
            _ => Flow::Continue,
        }
    }

    fn abandoned(&mut self, _: &mut (), _: Ticket, _: Abandoned, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.push(WORD));
        Flow::Continue
    }
}

const ALL: [u8; 4] = [
    what::PUSHES,
    what::ANSWERS,
    what::DROPS,
    what::ANSWERS_ELSEWHERE,
];

fn exchange() -> (Exchange, std::rc::Rc<std::cell::RefCell<Vec<Handle>>>) {
    let late = std::rc::Rc::default();
    let service = Farewell {
        late: std::rc::Rc::clone(&late),
    };
    (Exchange::with_limits(service, Limits::default()), late)
}

#[test]
fn before_the_service_ends_the_connection() {
    for what in ALL {
        if what == what::DROPS {
            // The service wants no more of this connection, so it is not called for it.
            continue;
        }
        let (mut exchange, late) = exchange();
        let client = exchange.connect();
        exchange.receive(client, &[0x92, what, 0xc3]);
        assert_eq!(exchange.take_sent(client), [WORD], "{what}");
        assert!(exchange.is_shut(client) && !exchange.is_open(client));
        assert_eq!(exchange.memory_held(), 0);
        for handle in late.borrow().iter() {
            assert_eq!(handle.push(vec![1]), Err(PushError::Gone));
        }
    }
}

#[test]
fn before_the_peer_ends_its_side() {
    for what in ALL {
        let (mut exchange, _) = exchange();
        let client = exchange.connect();
        // Both arrive in one turn.
        exchange.end_with(client, &[0x92, what, 0xc2]);
        assert_eq!(exchange.take_sent(client), [WORD], "{what}");
        assert!(exchange.is_shut(client) && !exchange.is_open(client));
    }
}

#[test]
fn before_the_server_stops() {
    for what in ALL {
        let (mut exchange, _) = exchange();
        let client = exchange.connect();
        let other = exchange.connect();
        exchange.stop_unread(client, &[0x92, what, 0xc2]);
        assert_eq!(exchange.take_sent(client), [WORD], "{what}");
        assert!(exchange.is_shut(client) && exchange.is_shut(other));
    }
}

fn exchange_with_outbox(outbox_bytes: usize) -> Exchange {
    let late = std::rc::Rc::default();
    let limits = Limits {
        outbox_bytes,
        ..Limits::default()
    };
    Exchange::with_limits(Farewell { late }, limits)
}

#[test]
fn a_reply_above_the_outbox_is_no_reason_to_refuse_a_push() {
    for (ends, window) in [(0xc2, None), (0xc2, Some(0)), (0xc3, None), (0xc3, Some(0))] {
        let mut exchange = exchange_with_outbox(10);
        let client = exchange.connect();
        exchange.set_window(client, window);
        exchange.receive(client, &[0x92, what::PUSHES_BEHIND_MUCH, ends]);
        exchange.set_window(client, None);
        let sent = exchange.take_sent(client);
        assert_eq!(sent, [&MUCH[..], &[WORD]].concat(), "{ends} {window:?}");
        assert_eq!(exchange.is_open(client), ends == 0xc2);
        assert_eq!(exchange.counters().cut, 0);
        assert_eq!(exchange.memory_held(), 0);
    }
}

#[test]
fn too_much_of_it_is_not_written_nor_what_was_pushed_behind_it() {
    let mut exchange = exchange_with_outbox(10);
    let client = exchange.connect();
    exchange.set_window(client, Some(0));
    let push = [0x92, what::PUSHES, 0xc2];
    exchange.receive(client, &push.repeat(5));
    let answer = [0x92, what::ANSWERS, 0xc2];
    let last = [0x92, what::PUSHES, 0xc3];
    // The six are delivered together and the last one apart from them, for which there would be room.
    let rest = [&push.repeat(6)[..], &answer, &last].concat();
    exchange.receive(client, &rest);
    assert!(exchange.is_open(client), "it has something to write");
    exchange.set_window(client, None);
    assert_eq!(exchange.take_sent(client), [WORD; 6]);
    assert!(exchange.is_shut(client) && !exchange.is_open(client));
    assert_eq!(exchange.counters().cut, 0);
    assert_eq!(exchange.counters().ended_by_service, 1);
    assert_eq!(exchange.memory_held(), 0);
}
