//! What a service is told about who is at the other end.

use std::cell::RefCell;
use std::rc::Rc;

use ringhold_core::testing::Exchange;
use ringhold_core::{
    Credentials, Flow, Frame, Peer, PeerAddress, Refusal, Reply, RestoreError, Saved, Service,
};

type Who = (PeerAddress, Option<Credentials>);

/// What happened to whom, and whether that was the predecessor's.
type Event = (&'static str, Who, bool);

/// Remembers who connected, who was restored and who sent a frame.
#[derive(Clone, Default)]
struct Porter(Rc<RefCell<Vec<Event>>>);

impl Porter {
    fn note(&self, when: &'static str, peer: &Peer<'_>) {
        let who = (peer.address().unwrap(), peer.credentials().unwrap());
        self.0.borrow_mut().push((when, who, peer.is_handed_over()));
    }
}

impl Service for Porter {
    /// Whether it is saved.
    type Session = bool;

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<bool, Refusal> {
        self.note("connected", peer);
        Ok(false)
    }

    fn frame(&mut self, saved: &mut bool, _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        *saved = true;
        self.note("frame", &reply.peer());
        Flow::Continue
    }

    fn save(&self, saved: &bool) -> Saved {
        match saved {
            true => Saved::Bytes(vec![1].into()),
            false => Saved::Stateless,
        }
    }

    fn restore(&mut self, peer: &Peer<'_>, _: &[u8]) -> Result<bool, RestoreError> {
        self.note("restored", peer);
        Ok(true)
    }
}

#[test]
fn clients_are_who_the_test_says_and_stay_so() {
    let porter = Porter::default();
    let mut exchange = Exchange::new(porter.clone());
    let ourselves = exchange.connect();
    let far: PeerAddress = PeerAddress::Tcp("192.0.2.1:4660".parse().unwrap());
    exchange.set_peer(far.clone(), None);
    exchange.connect();
    let somebody = Credentials {
        pid: Some(4711),
        uid: 1000,
        gid: 100,
    };
    exchange.set_peer(PeerAddress::Unix, Some(somebody));
    let kept = exchange.connect();
    exchange.receive(kept, &[1]);

    let here = Credentials {
        pid: Some(std::process::id()),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    let [here, far, somebody] = [
        (PeerAddress::Unix, Some(here)),
        (far, None),
        (PeerAddress::Unix, Some(somebody)),
    ];
    let expected = [
        ("connected", here.clone(), false),
        ("connected", far.clone(), false),
        ("connected", somebody.clone(), false),
        ("frame", somebody.clone(), false),
    ];
    assert_eq!(porter.0.take(), expected);

    let mut exchange = exchange.hand_over(|_| porter.clone());
    exchange.receive(ourselves, &[1]);
    exchange.connect();
    let mut seen = porter.0.take();
    let behind = seen.split_off(3);
    let expected = [
        ("connected", far, true),
        ("restored", somebody.clone(), true),
        ("connected", here.clone(), true),
    ];
    assert_eq!(seen.len(), 3);
    for expected in expected {
        assert!(seen.contains(&expected), "{seen:?}");
    }
    let expected = [("frame", here, true), ("connected", somebody, false)];
    assert_eq!(behind, expected);
}
