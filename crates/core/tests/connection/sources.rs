//! Services for which the worker watches descriptors.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::time::Duration;

use ringhold_core::limits::Limits;
use ringhold_core::testing::{Exchange, Setup};
use ringhold_core::{
    Flow, Frame, Handle, Peer, Refusal, Reply, Saved, Service, SourceId, Tick, Watch, Worker,
};

/// What a datagram asks for, instead of being passed on.
const FAIL: u8 = 0x7d;
const END: u8 = 0x7e;
const PANIC: u8 = 0x7f;

/// Passes each datagram of its sockets on to the last client, one a call, behind the number of the socket.
struct Relay {
    sockets: Vec<(SourceId, Rc<UnixDatagram>)>,
    calls: Rc<RefCell<usize>>,
    reader: Option<Handle>,
}

impl Service for Relay {
    type Session = ();

    fn connected(&mut self, peer: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        self.reader = Some(peer.handle());
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn readable(&mut self, source: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
        *self.calls.borrow_mut() += 1;
        let mut sockets = self.sockets.iter().enumerate();
        let (number, (_, socket)) = sockets.find(|(_, (known, _))| *known == source).unwrap();
        let mut byte = [0];
        socket.recv(&mut byte)?;
        match byte[0] {
            FAIL => return Err(io::Error::other("on purpose")),
            END => return Ok(Watch::End),
            PANIC => panic!("on purpose"),
            byte => {
                if let Some(reader) = &self.reader {
                    // The last client may be gone.
                    let _ = reader.push(vec![number as u8, byte]);
                }
            }
        }
        Ok(Watch::Continue)
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

/// One end of each socket, and how a worker's relay of the other ends is made.
struct Rig {
    senders: Vec<UnixDatagram>,
    receivers: Vec<Rc<UnixDatagram>>,
    calls: Rc<RefCell<usize>>,
}

impl Rig {
    fn new(count: usize) -> Self {
        let pair = |_| {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            receiver.set_nonblocking(true).unwrap();
            (sender, Rc::new(receiver))
        };
        let (senders, receivers) = (0..count).map(pair).unzip();
        Rig {
            senders,
            receivers,
            calls: Rc::default(),
        }
    }

    fn relay(&self, worker: &Worker) -> Relay {
        self.relay_of(|socket| worker.watch(socket))
    }

    fn relay_of(&self, watch: impl Fn(Rc<UnixDatagram>) -> SourceId) -> Relay {
        let watch = |socket: &Rc<UnixDatagram>| (watch(socket.clone()), socket.clone());
        Relay {
            sockets: self.receivers.iter().map(watch).collect(),
            calls: self.calls.clone(),
            reader: None,
        }
    }

    fn exchange(&self) -> Exchange {
        Exchange::with_worker(|worker| self.relay(worker), Limits::default())
    }

    fn send(&self, socket: usize, bytes: &[u8]) {
        for byte in bytes {
            self.senders[socket].send(&[*byte]).unwrap();
        }
    }

    fn calls(&self) -> usize {
        *self.calls.borrow()
    }

    /// Whether something is left to be read.
    fn is_empty(&self, socket: usize) -> bool {
        let left = self.receivers[socket].recv(&mut [0]);
        left.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const NEARLY: Duration = Duration::from_millis(999);
const REST: Duration = Duration::from_millis(1);

#[test]
fn what_can_be_read_is_read_as_long_as_there_is_any() {
    let rig = Rig::new(2);
    let mut exchange = rig.exchange();
    let client = exchange.connect();
    assert_eq!(rig.calls(), 0, "there is nothing");
    rig.send(0, &[1, 2, 3]);
    rig.send(1, &[4]);
    // The service is called once a turn, so that others have theirs.
    for (calls, sent) in [
        (2, [[0, 1], [1, 4]].concat()),
        (3, vec![0, 2]),
        (4, vec![0, 3]),
    ] {
        exchange.deliver();
        let mut events = exchange.take_sent(client);
        events.as_chunks_mut::<2>().0.sort_unstable();
        assert_eq!((rig.calls(), events), (calls, sent));
    }
    exchange.advance(100_000 * SECOND);
    assert_eq!(rig.calls(), 4);
    rig.send(0, &[5]);
    exchange.deliver();
    assert_eq!(exchange.take_sent(client), [0, 5]);
}

/// Each value of a service has duplicates of its own, and what nobody has read yet is there for the successor's.
#[test]
fn what_the_application_has_is_there_for_services_and_their_successors() {
    let rig = Rig::new(1);
    let feed = rig.receivers[0].as_fd().try_clone_to_owned().unwrap();
    let make = |worker: &Worker| {
        let [feed, again] = [(); 2].map(|()| worker.descriptor("feed"));
        assert_ne!(feed.as_raw_fd(), again.as_raw_fd());
        let feed = Rc::new(UnixDatagram::from(feed));
        Relay {
            sockets: vec![(worker.watch(feed.clone()), feed)],
            calls: rig.calls.clone(),
            reader: None,
        }
    };
    let mut exchange = Setup::new(Limits::default())
        .service("relay", &["test"], make)
        .descriptor("feed", feed)
        .start();
    let client = exchange.connect();
    rig.send(0, &[1, END, 2]);
    exchange.deliver();
    exchange.deliver();
    assert_eq!((exchange.take_sent(client), rig.calls()), (vec![0, 1], 2));
    let mut exchange = exchange.hand_over(make);
    exchange.deliver();
    assert_eq!(exchange.take_sent(client), [0, 2]);
}

#[test]
fn nothing_is_read_any_more_that_has_ended() {
    let rig = Rig::new(2);
    let mut exchange = rig.exchange();
    let client = exchange.connect();
    rig.send(0, &[1, END, 2]);
    rig.send(1, &[3]);
    for _ in 0..5 {
        exchange.advance(10 * SECOND);
    }
    assert_eq!(exchange.take_sent(client).len(), 4);
    assert!(!rig.is_empty(0) && rig.is_empty(1));
    let holders = [0, 1].map(|socket| Rc::strong_count(&rig.receivers[socket]));
    assert_eq!(holders, [2, 3], "the worker has let go");
    rig.send(1, &[4]);
    exchange.deliver();
    assert_eq!(exchange.take_sent(client), [1, 4]);
}

#[test]
fn who_fails_once_is_called_again_at_once() {
    for (what, panics) in [(FAIL, 0), (PANIC, 1)] {
        let rig = Rig::new(1);
        let mut exchange = rig.exchange();
        let client = exchange.connect();
        for round in 1..5 {
            rig.send(0, &[what, 1]);
            exchange.deliver();
            exchange.deliver();
            assert_eq!(exchange.take_sent(client), [0, 1]);
            assert_eq!(exchange.counters().panics, round * panics);
        }
    }
}

/// As a socket does that tells of an ICMP message now and then.
#[test]
fn who_fails_rarely_is_called_again_at_once_each_time() {
    for what in [FAIL, PANIC] {
        for pause in [Duration::ZERO, REST, SECOND, 10 * SECOND] {
            let rig = Rig::new(1);
            let mut exchange = rig.exchange();
            let client = exchange.connect();
            for _ in 0..3 {
                rig.send(0, &[what]);
                exchange.deliver();
                exchange.advance(pause);
            }
            rig.send(0, &[what, 1]);
            exchange.deliver();
            exchange.deliver();
            assert_eq!(exchange.take_sent(client), [0, 1], "{pause:?}");
            assert_eq!(rig.calls(), 5);
        }
    }
}

#[test]
fn who_fails_again_and_again_is_called_once_a_second() {
    for (what, panics) in [(FAIL, 0), (PANIC, 1)] {
        let rig = Rig::new(2);
        let mut exchange = rig.exchange();
        let client = exchange.connect();
        rig.send(0, &[what, what, what, 1, what, 1]);
        exchange.deliver();
        exchange.deliver();
        assert_eq!((rig.calls(), exchange.counters().panics), (2, 2 * panics));
        for calls in [3, 4] {
            exchange.advance(NEARLY);
            assert_eq!(rig.calls(), calls - 1);
            exchange.advance(REST);
            assert_eq!(rig.calls(), calls);
        }
        assert_eq!(exchange.take_sent(client), [0, 1]);
        // It has gone well in between.
        exchange.deliver();
        exchange.deliver();
        assert_eq!(exchange.take_sent(client), [0, 1]);
        // The others are watched meanwhile.
        rig.send(0, &[what, what]);
        rig.send(1, &[2]);
        exchange.deliver();
        exchange.deliver();
        exchange.deliver();
        assert_eq!((rig.calls(), exchange.take_sent(client)), (9, vec![1, 2]));
        assert!(exchange.is_open(client));
    }
}

/// Panics when it is asked for its descriptor, if it is to.
struct Shy {
    socket: Rc<UnixDatagram>,
    panics: Rc<Cell<bool>>,
}

impl AsFd for Shy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        assert!(!self.panics.get(), "on purpose");
        self.socket.as_fd()
    }
}

#[test]
fn who_panics_when_asked_for_its_descriptor_is_asked_again() {
    let rig = Rig::new(1);
    let panics = Rc::new(Cell::new(true));
    let make = |worker: &Worker| {
        rig.relay_of(|socket| {
            let panics = panics.clone();
            worker.watch(Shy { socket, panics })
        })
    };
    let mut exchange = Exchange::with_worker(make, Limits::default());
    let client = exchange.connect();
    rig.send(0, &[1, FAIL, FAIL, 2, END, 3]);
    exchange.deliver();
    assert_eq!(rig.calls(), 0);
    panics.set(false);
    exchange.advance(SECOND);
    assert_eq!((rig.calls(), exchange.take_sent(client)), (1, vec![0, 1]));
    // When it is looked at after an error, and when it rests.
    panics.set(true);
    exchange.deliver();
    exchange.deliver();
    panics.set(false);
    exchange.advance(SECOND);
    assert_eq!(exchange.take_sent(client), [0, 2]);
    // And at its end.
    panics.set(true);
    exchange.deliver();
    assert_eq!(Rc::strong_count(&rig.receivers[0]), 2, "it is let go of");
    assert!(exchange.is_open(client));
}

/// Watches the pieces of a stream, one after the other: each datagram brings the next socket.
struct Chain {
    next: Vec<Rc<UnixDatagram>>,
    ids: Vec<SourceId>,
}

impl Service for Chain {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn tick(&mut self, tick: &Tick<'_>) -> Option<Duration> {
        self.ids.push(tick.watch(self.next.pop()?));
        None
    }

    fn readable(&mut self, source: SourceId, tick: &Tick<'_>) -> io::Result<Watch> {
        assert_eq!(self.ids.last(), Some(&source));
        self.ids
            .extend(self.next.pop().map(|next| tick.watch(next)));
        Ok(Watch::End)
    }
}

#[test]
fn what_is_opened_later_is_watched_too() {
    let rig = Rig::new(5);
    let next = rig.receivers.iter().rev().cloned().collect();
    let ids = Vec::new();
    let mut exchange = Exchange::new(Chain { next, ids });
    // Before it is watched, and after that.
    rig.send(0, &[0]);
    rig.send(2, &[0]);
    for index in 0..5 {
        rig.send(index, &[0]);
        exchange.deliver();
        let held = |receiver: &Rc<UnixDatagram>| Rc::strong_count(receiver) - 1;
        let held: Vec<usize> = rig.receivers.iter().map(held).collect();
        let expected = [0, 1, 2, 3, 4].map(|other| usize::from(other > index));
        assert_eq!(held, expected, "{index}");
    }
}

type Act = Box<dyn FnOnce(&Tick<'_>) -> io::Result<Watch>>;

/// Does in its next call what it is told, and notes what can be read, which it never reads.
#[derive(Clone, Default)]
struct Puppet {
    in_tick: Rc<RefCell<Option<Act>>>,
    when_readable: Rc<RefCell<Option<Act>>>,
    found: Rc<RefCell<Vec<SourceId>>>,
}

impl Puppet {
    /// Has it do this in its tick, and returns what could be read after it.
    fn tick(
        &self,
        exchange: &mut Exchange,
        act: impl FnOnce(&Tick<'_>) + 'static,
    ) -> Vec<SourceId> {
        *self.in_tick.borrow_mut() = Some(Box::new(|tick| {
            act(tick);
            Ok(Watch::Continue)
        }));
        exchange.advance(REST);
        assert!(self.in_tick.borrow().is_none());
        self.found.take()
    }

    /// Has it watch this, and returns its number.
    fn watch(&self, exchange: &mut Exchange, socket: &Rc<UnixDatagram>) -> SourceId {
        let (socket, watched) = (socket.clone(), Rc::new(Cell::new(None)));
        let number = watched.clone();
        self.tick(exchange, move |tick| number.set(Some(tick.watch(socket))));
        watched.get().unwrap()
    }

    /// What can be read in a turn, when it does this for the first.
    fn turn(
        &self,
        exchange: &mut Exchange,
        act: impl FnOnce(&Tick<'_>) -> io::Result<Watch> + 'static,
    ) -> Vec<SourceId> {
        *self.when_readable.borrow_mut() = Some(Box::new(act));
        exchange.deliver();
        self.when_readable.take();
        self.found.take()
    }
}

impl Service for Puppet {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn tick(&mut self, tick: &Tick<'_>) -> Option<Duration> {
        if let Some(act) = self.in_tick.take() {
            let _ = act(tick);
        }
        Some(REST)
    }

    fn readable(&mut self, source: SourceId, tick: &Tick<'_>) -> io::Result<Watch> {
        self.found.borrow_mut().push(source);
        let act = self.when_readable.take();
        act.map_or(Ok(Watch::Continue), |act| act(tick))
    }
}

#[test]
fn a_service_lets_go_of_what_it_watches_whenever_it_likes() {
    let rig = Rig::new(2);
    let [one, other] = [0, 1].map(|socket| rig.receivers[socket].clone());
    let holders = Rc::strong_count(&one);
    let puppet = Puppet::default();
    let mut exchange = Exchange::new(puppet.clone());
    let go_on = |_: &Tick<'_>| Ok(Watch::Continue);
    rig.send(0, &[1]);
    let first = puppet.watch(&mut exchange, &one);
    assert_eq!(puppet.turn(&mut exchange, go_on), [first]);

    // It is closed before the call returns, so that it can be opened again there.
    let watched = one.clone();
    let found = puppet.tick(&mut exchange, move |tick| {
        tick.unwatch(first);
        assert_eq!(Rc::strong_count(&watched), holders + 1, "this call has one");
    });
    assert_eq!((found, Rc::strong_count(&one)), (vec![], holders));
    assert_eq!(puppet.turn(&mut exchange, go_on), []);

    // What is watched later is not ended by an old number.
    let second = puppet.watch(&mut exchange, &one);
    assert_ne!(first, second);
    let found = puppet.tick(&mut exchange, move |tick| tick.unwatch(first));
    assert_eq!(found, [second]);

    // Nor by that of the same descriptor, which the kernel has refused to watch twice.
    let twice = puppet.watch(&mut exchange, &one);
    let found = puppet.tick(&mut exchange, move |tick| tick.unwatch(twice));
    assert_eq!(found, [second]);

    // Of two that can be read, the one that is called first ends both.
    let third = puppet.watch(&mut exchange, &other);
    rig.send(1, &[1]);
    let found = puppet.turn(&mut exchange, move |tick| {
        tick.unwatch(second);
        tick.unwatch(third);
        Ok(Watch::Continue)
    });
    assert_eq!(found.len(), 1);
    assert_eq!(puppet.turn(&mut exchange, go_on), []);
    let count = [&one, &other].map(Rc::strong_count);
    assert_eq!(count, [holders; 2]);
}

#[test]
fn what_cannot_be_waited_for_is_let_go_of() {
    let rig = Rig::new(1);
    let file = Rc::new(tempfile::tempfile().unwrap());
    let watched = file.clone();
    let make = |worker: &Worker| {
        worker.watch(watched);
        rig.relay(worker)
    };
    let mut exchange = Exchange::with_worker(make, Limits::default());
    let client = exchange.connect();
    assert_eq!(Rc::strong_count(&file), 1);
    rig.send(0, &[1]);
    exchange.deliver();
    assert_eq!(exchange.take_sent(client), [0, 1]);
}

#[test]
fn what_rests_may_be_watched_anew() {
    let rig = Rig::new(1);
    let socket = rig.receivers[0].clone();
    let puppet = Puppet::default();
    let mut exchange = Exchange::new(puppet.clone());
    let go_on = |_: &Tick<'_>| Ok(Watch::Continue);
    let fail = |_: &Tick<'_>| Err(io::Error::other("on purpose"));
    let first = puppet.watch(&mut exchange, &socket);
    rig.send(0, &[1]);
    for found in [&[first][..], &[first], &[]] {
        assert_eq!(puppet.turn(&mut exchange, fail), found);
    }
    puppet.tick(&mut exchange, move |tick| tick.unwatch(first));
    let second = puppet.watch(&mut exchange, &socket);
    assert_eq!(puppet.turn(&mut exchange, go_on), [second]);
    exchange.advance(SECOND);
    assert_eq!(puppet.found.take(), [second]);
}

#[test]
fn it_goes_on_in_a_stop_as_long_as_there_is_anybody() {
    let rig = Rig::new(1);
    let mut exchange = rig.exchange();
    let client = exchange.connect();
    exchange.keep_open(client);
    exchange.stop_within(10 * SECOND);
    rig.send(0, &[1, 2]);
    exchange.deliver();
    exchange.deliver();
    assert_eq!(rig.calls(), 2);
}

#[test]
fn what_is_left_is_the_successors_after_a_handover() {
    let rig = Rig::new(1);
    let mut exchange = rig.exchange();
    let client = exchange.connect();
    rig.send(0, &[1, 2, 3]);
    exchange.deliver();
    assert_eq!(exchange.take_sent(client), [0, 1]);
    let mut exchange = exchange.hand_over(|worker| rig.relay(worker));
    for _ in 0..3 {
        exchange.deliver();
    }
    rig.send(0, &[4]);
    exchange.deliver();
    assert_eq!(exchange.take_sent(client), [0, 2, 0, 3, 0, 4]);
    assert_eq!(rig.calls(), 4);
}
