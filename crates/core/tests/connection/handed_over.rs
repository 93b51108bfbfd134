//! What a service is told of connections that it loses to a successor.

use std::cell::RefCell;
use std::rc::Rc;

use ringhold_core::testing::Exchange;
use ringhold_core::{Close, Flow, Frame, Peer, Refusal, Reply, Saved, Service};

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

    fn disconnected(&mut self, session: u8, why: &Close) {
        self.0.borrow_mut().push((session, why.to_string()));
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
