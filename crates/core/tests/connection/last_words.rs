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
}

/// What is written for each.
const WORD: u8 = 0x2a;

impl Service for Farewell {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        match frame[1] {
            what::PUSHES => {
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

#[test]
fn too_much_of_it_is_an_overflow_as_ever() {
    let late = std::rc::Rc::default();
    let service = Farewell { late };
    let limits = Limits {
        outbox_bytes: 10,
        ..Limits::default()
    };
    let mut exchange = Exchange::with_limits(service, limits);
    let client = exchange.connect();
    exchange.set_window(client, Some(0));
    exchange.receive(client, &[0x92, what::PUSHES, 0xc2].repeat(5));
    let last = [
        [0x92, what::PUSHES, 0xc2].repeat(9),
        vec![0x92, what::PUSHES, 0xc3],
    ];
    exchange.receive(client, &last.concat());
    assert!(!exchange.is_open(client));
}
