//! Peers that reset when a handover gives nothing more to the services, and are owed deferred replies.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::{Client, Exchange};
use crate::close::Ended;
use crate::crew::Step;
use crate::frame::Frame;
use crate::mailbox::Mailbox;
use crate::peer::Peer;
use crate::reply::{Abandoned, Reply, Responder, Ticket};
use crate::service::{Flow, Refusal, Saved, Service};

const DRAIN: Duration = Duration::from_secs(10);

/// What instead of a deferred reply is said.
const APOLOGY: u8 = 0x63;

/// Promises to answer each frame. A session is the number of replies that are given up.
#[derive(Clone, Default)]
struct Promising {
    promised: Rc<RefCell<Vec<Responder>>>,
    abandoned: Rc<RefCell<Vec<(Ticket, Abandoned)>>>,
    /// Why sessions have ended.
    ends: Rc<RefCell<Vec<String>>>,
}

impl Service for Promising {
    type Session = u8;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<u8, Refusal> {
        Ok(0)
    }

    fn frame(&mut self, _: &mut u8, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let responder = reply.defer(Ticket(frame[0].into()));
        self.promised.borrow_mut().push(responder);
        Flow::Continue
    }

    fn abandoned(
        &mut self,
        given_up: &mut u8,
        ticket: Ticket,
        why: Abandoned,
        reply: &mut Reply<'_>,
    ) -> Flow {
        *given_up += 1;
        self.abandoned.borrow_mut().push((ticket, why));
        reply.write(|out| out.push(APOLOGY));
        Flow::Continue
    }

    fn save(&self, given_up: &u8) -> Saved {
        Saved::Bytes(vec![*given_up].into())
    }

    fn disconnected(&mut self, _: u8, ended: &Ended<'_>) {
        self.ends.borrow_mut().push(ended.why().to_string());
    }
}

/// What a successor gets of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    input: Vec<u8>,
    output: Vec<u8>,
    given_up: u8,
}

impl Exchange {
    fn turn_after(&mut self, time: Duration) {
        self.now += time.as_millis() as u64;
        self.settle();
    }

    fn receives(&mut self, client: Client, bytes: &[u8]) {
        self.shard.received(client.0 as u32, bytes, None);
    }

    fn fails(&mut self, client: Client, errno: i32) {
        let error = io::Error::from_raw_os_error(errno);
        self.shard.failed(client.0 as u32, error);
    }

    fn left(&self, client: Client) -> Option<Left> {
        let mut parted = self.parted.iter();
        let parted = parted.find(|parted| parted.client == client)?;
        let state = &parted.parcel.state;
        Some(Left {
            input: state.input.to_vec(),
            output: state.output.to_vec(),
            given_up: state.session.as_ref()?[0],
        })
    }
}

/// A handover for which an answer has been promised before it began, and another one meanwhile, of which the time is over for the first. The
/// worker gives nothing more to its service, as the other one does not after [`rests`].
fn at_rest(service: Promising) -> (Exchange, Mailbox, [Client; 2]) {
    let mut exchange = Exchange::new(service);
    let other = exchange.add_busy_worker(1 << 30);
    let [first, late] = [(); 2].map(|()| exchange.connect());
    exchange.set_window(first, Some(0));
    exchange.receives(first, &[1]);
    exchange.tell_to_stop(DRAIN, true);
    exchange.turn_after(DRAIN / 2);
    // What is behind it is the beginning of a frame.
    exchange.receives(late, &[2, 0x92, 3]);
    exchange.turn_after(DRAIN / 2);
    exchange.shard.desk.crew.all_part(1);
    exchange.settle();
    assert!(exchange.shard.desk.crew.has_reached(0, Step::Rests));
    assert_eq!(exchange.shard.desk.crew.open_tickets.count(), 1);
    (exchange, other, [first, late])
}

fn rests(exchange: &mut Exchange) {
    exchange.shard.desk.crew.reach(1, Step::Rests);
    exchange.shard.desk.crew.reach(1, Step::Idle);
    exchange.settle();
}

/// Nobody gets the reply, and everybody would wait for it.
#[test]
fn who_resets_at_rest_is_not_waited_for() {
    for others_rest_before in [false, true] {
        let service = Promising::default();
        let (mut exchange, _other, [first, late]) = at_rest(service.clone());
        if others_rest_before {
            rests(&mut exchange);
            assert_eq!(exchange.shard.len(), 1);
        }
        exchange.fails(late, libc::ECONNRESET);
        let responder = service.promised.borrow_mut().pop().unwrap();
        assert!(!responder.is_wanted());
        if others_rest_before {
            exchange.settle();
        } else {
            // Nor is the service told again that this one does not answer.
            drop(responder);
            exchange.settle();
            assert_eq!(exchange.shard.len(), 2);
            rests(&mut exchange);
        }
        assert!(exchange.shard.is_done());
        let [given_up, left] = [first, late].map(|client| exchange.left(client).unwrap());
        assert_eq!((given_up.output, given_up.given_up), (vec![APOLOGY], 1));
        let expected = Left {
            input: vec![0x92, 3],
            output: vec![],
            given_up: 1,
        };
        assert_eq!(left, expected);
        let abandoned = [1, 2].map(|ticket| (Ticket(ticket), Abandoned::Stopping));
        assert_eq!(*service.abandoned.borrow(), abandoned);
        assert_eq!(service.ends.borrow().len(), 2);
        let counters = exchange.counters();
        assert_eq!((counters.handed_over, counters.failed), (2, 0));
    }
}

/// It gets the reply from the successor.
#[test]
fn who_may_be_there_is_waited_for_when_its_socket_fails_at_rest() {
    let service = Promising::default();
    let (mut exchange, _other, [_, late]) = at_rest(service.clone());
    rests(&mut exchange);
    exchange.fails(late, libc::ENOMEM);
    exchange.turn_after(DRAIN / 2);
    assert!(exchange.is_open(late) && !exchange.shard.is_done());
    let responder = service.promised.borrow_mut().pop().unwrap();
    assert!(responder.is_wanted());
    exchange.set_window(late, Some(0));
    responder.answer(vec![7]);
    exchange.settle();
    assert!(exchange.shard.is_done());
    let expected = Left {
        input: vec![0x92, 3],
        output: vec![7],
        given_up: 0,
    };
    assert_eq!(exchange.left(late), Some(expected));
}
