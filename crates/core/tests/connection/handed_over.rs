//! What a service is told of connections that it loses to a successor.

use std::cell::RefCell;
use std::rc::Rc;

use ringhold_core::testing::Exchange;
use ringhold_core::{Ended, Flow, Frame, Peer, Refusal, Reply, RestoreError, Saved, Service};

/// Keeps what it is told; its sessions are the numbers that it was sent last.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<Vec<(u8, String)>>>);

const UNSAVED: u8 = 7;

impl Service for Told {
    type Session = u8;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<u8, Refusal> {
        Ok(0)
    }

    fn frame(&mut self, session: &mut u8, frame: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        *session = frame[0];
        Flow::Continue
    }

    fn disconnected(&mut self, session: u8, ended: &Ended<'_>) {
        self.0.borrow_mut().push((session, ended.why().to_string()));
    }

    fn save(&self, session: &u8) -> Saved {
        match *session {
            UNSAVED => Saved::Close,
            _ => Saved::Stateless,
        }
    }
}

#[test]
fn a_session_that_ends_with_its_process_is_told_from_one_that_ends_with_its_connection() {
    let told = Told::default();
    let mut exchange = Exchange::new(told.clone());
    let [kept, unsaved] = [1, UNSAVED].map(|number| {
        let client = exchange.connect();
        exchange.receive(client, &[number]);
        client
    });
    let exchange = exchange.hand_over(|_| Told::default());
    assert!(exchange.is_open(kept) && !exchange.is_open(unsaved));
    let mut told = told.0.take();
    told.sort();
    let expected = [
        (1, "a successor goes on with the connection".to_owned()),
        (UNSAVED, "the server stops".to_owned()),
    ];
    assert_eq!(told, expected);
}

/// Answers with what it knows of the connection. Keeps what it was sent, if it is not 0, and may let nobody go on.
struct Strict {
    refuses: bool,
}

impl Strict {
    fn ask(&self, peer: &Peer<'_>) -> Result<(), Refusal> {
        match self.refuses && peer.is_handed_over() {
            true => Err(Refusal::new("not any more")),
            false => Ok(()),
        }
    }
}

impl Service for Strict {
    type Session = (u8, bool);

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(u8, bool), Refusal> {
        self.ask(peer)?;
        Ok((0, peer.is_handed_over()))
    }

    fn frame(
        &mut self,
        (kept, goes_on): &mut (u8, bool),
        frame: Frame<'_>,
        reply: &mut Reply<'_>,
    ) -> Flow {
        reply.write(|out| out.extend([*kept, u8::from(*goes_on)]));
        *kept = frame[0];
        Flow::Continue
    }

    fn save(&self, (kept, _): &(u8, bool)) -> Saved {
        match kept {
            0 => Saved::Stateless,
            kept => Saved::Bytes(vec![*kept].into()),
        }
    }

    fn restore(&mut self, peer: &Peer<'_>, saved: &[u8]) -> Result<(u8, bool), RestoreError> {
        self.ask(peer)?;
        Ok((saved[0], peer.is_handed_over()))
    }
}

#[test]
fn who_is_refused_by_a_successor_counts_alike_with_a_session_and_without() {
    let mut exchange = Exchange::new(Strict { refuses: true });
    let clients = [0, 7].map(|number| {
        let client = exchange.connect();
        exchange.receive(client, &[number]);
        assert_eq!(exchange.take_sent(client), [0, 0]);
        client
    });
    let mut exchange = exchange.hand_over(|_| Strict { refuses: false });
    for (client, number) in clients.into_iter().zip([0, 7]) {
        exchange.receive(client, &[number]);
        assert_eq!(exchange.take_sent(client), [number, 1]);
    }
    let mut exchange = exchange.hand_over(|_| Strict { refuses: true });
    assert!(clients.iter().all(|client| !exchange.is_open(*client)));
    let counters = exchange.counters();
    assert_eq!((counters.refused, counters.unrestored), (2, 0));
    let other = exchange.connect();
    exchange.receive(other, &[1]);
    assert_eq!(exchange.take_sent(other), [0, 0]);
}
