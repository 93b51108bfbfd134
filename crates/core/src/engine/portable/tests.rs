use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::ioctl_fionread;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::*;
use crate::answering::answering;
use crate::config::impossible_rings;
use crate::engine::pause::PAUSE_MS;
use crate::frame::Frame;
use crate::limits::Limits;
use crate::mailbox::{Mail, Post};
use crate::peer::{Link, Peer};
use crate::reply::Reply;
use crate::service::{Flow, Refusal, Saved, Service};
use crate::testing::Setup;

/// No mail takes as long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// The receive buffer is as large as four of these. So many frames of a byte each are given at once.
const PIECE: usize = 512;

/// Does this with an engine of these services, which has no listeners.
fn with_engine(services: Setup<'_>, act: impl FnOnce(&mut Engine<'_>)) {
    let (runtime, entries) = setup::runtime(8).unwrap();
    let (mut shard, mailbox) = services.shard();
    let _ = shard.deliver(Mail::Resume);
    let watch = Watch::new(0).unwrap();
    let sizes = (4, PIECE);
    let mut engine = Engine::new(&runtime, entries, sizes, shard, Vec::new(), watch, mailbox);
    act(&mut engine);
}

/// Sends every frame back, and goes on with a successor.
struct Echo;

impl Service for Echo {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

fn echo() -> Setup<'static> {
    Setup::new(Limits::default()).service("echo", &["test"], |_| Echo)
}

impl Engine<'_> {
    /// Opens a connection. Returns its slot, and the other end, which does not wait.
    fn connect(&mut self) -> (u32, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        self.shard.desk.crew.dealer.hold(0, 0);
        let id = self.shard.open(0, PortableLink::new(ours.into()), None);
        (id.slot, theirs)
    }

    /// Begins what connections desire, and waits until so many of them can be received from.
    fn until_readable(&mut self, count: usize) {
        while self.receives.len() < count {
            self.update_all();
            self.look().unwrap();
        }
    }

    fn link(&mut self, slot: u32) -> &mut PortableLink {
        self.shard.link(slot).unwrap()
    }

    /// How many bytes the kernel has for a connection.
    fn unreceived(&mut self, slot: u32) -> usize {
        ioctl_fionread(self.link(slot)).unwrap() as usize
    }

    /// What pauses goes on.
    fn rest(&mut self) {
        self.shard.desk.now = self.pause.ends().unwrap();
        self.end_pause();
    }

    /// Turns until all who have left are gone.
    fn stop(&mut self) {
        self.arm_wake();
        let stop = Mail::Stop { hand_over: false };
        self.shard.desk.crew.posts[0].send(stop).ok().unwrap();
        self.turn().unwrap();
    }
}

/// What comes then waits for the services: the kernel is to keep it, and to make the peer slower.
#[test]
fn a_worker_that_is_late_receives_little() {
    if probe().is_err() {
        return;
    }
    const SENT: usize = 3 * PIECE;
    let given = Rc::new(Cell::new(0));
    let theirs = given.clone();
    let count = Setup::new(Limits::default()).service("count", &["test"], |_| {
        answering(move |_, _| {
            theirs.set(theirs.get() + 1);
            Flow::Continue
        })
    });
    with_engine(count, |engine| {
        let (slot, mut client) = engine.connect();
        client.write_all(&[1; SENT]).unwrap();
        engine.until_readable(1);
        engine.receive_all();
        assert_eq!((engine.unreceived(slot), given.get()), (0, SENT));

        client.write_all(&[1; SENT]).unwrap();
        engine.until_readable(1);
        engine.shard.desk.stopwatch.make_late();
        engine.receive_all();
        let left = SENT - PIECE;
        assert_eq!((engine.unreceived(slot), given.get()), (left, SENT));
        // Not before the service has got that.
        engine.update_all();
        assert!(engine.receives.is_empty());

        drop(client);
        engine.stop();
    });
    assert_eq!(given.get(), 2 * SENT);
}

/// A frame that ends with this number, alone in a receive or larger than the receive buffer.
fn numbered(number: u8, is_large: bool) -> Vec<u8> {
    if !is_large {
        return vec![number];
    }
    let payload = vec![number; 100_000];
    let length = (payload.len() as u32).to_be_bytes();
    [&[0xc6][..], &length, &payload].concat()
}

/// Then the answer is in the cache still, and so is the memory for the next one.
#[test]
fn who_is_received_from_is_answered_before_the_next_one() {
    if probe().is_err() {
        return;
    }
    const CLIENTS: u8 = 5;
    let clients = Rc::new(RefCell::new(Vec::<UnixStream>::new()));
    // What has arrived by the next frame at whom the last one was from.
    let arrived = Rc::new(RefCell::new(Vec::new()));
    let (theirs, seen) = (clients.clone(), arrived.clone());
    let mut last = None;
    let service = Setup::new(Limits::default()).service("number", &["test"], |_| {
        answering(move |frame, reply| {
            let number = *frame.last().unwrap();
            if let Some(last) = last.replace(number) {
                let mut answer = [0; 2];
                let read = theirs.borrow_mut()[usize::from(last)].read(&mut answer);
                seen.borrow_mut().push((last, read.ok(), answer[0]));
            }
            reply.write(|out| out.push(number));
            Flow::Continue
        })
    });
    with_engine(service, |engine| {
        let open = |_| engine.connect().1;
        *clients.borrow_mut() = (0..CLIENTS).map(open).collect();
        for (round, is_large) in [(1, false), (2, true)] {
            for (client, number) in clients.borrow_mut().iter_mut().zip(0..) {
                client.write_all(&numbered(number, is_large)).unwrap();
            }
            engine.until_readable(CLIENTS.into());
            while arrived.borrow().len() + 1 < round * usize::from(CLIENTS) {
                engine.update_all();
                engine.receive_all();
                engine.look().unwrap();
            }
        }
        clients.borrow_mut().clear();
        engine.stop();
    });
    for (number, read, answer) in arrived.take() {
        assert_eq!((read, answer), (Some(1), number));
    }
}

/// Above all those of large frames, of which the service gets nothing before they are whole.
#[test]
fn no_service_is_charged_for_receives_of_others() {
    if probe().is_err() {
        return;
    }
    with_engine(echo(), |engine| {
        let (_, mut large) = engine.connect();
        large.write_all(&numbered(1, true)[..PIECE]).unwrap();
        engine.until_readable(1);
        engine.receive_all();

        let (_, mut small) = engine.connect();
        large.write_all(&[1; PIECE]).unwrap();
        small.write_all(&[2]).unwrap();
        engine.until_readable(2);
        engine.receives.make_contiguous().sort_unstable();
        // The first receive of the two has taken its time.
        engine.shard.desk.stopwatch.set_back(1000);
        engine.receive_all();
        let counters = engine.shard.desk.name_counters(0);
        assert_eq!((counters.frames_in.value(), counters.slow.value()), (1, 0));
        drop((large, small));
        engine.stop();
    });
}

/// Memory for sockets may have run out.
#[test]
fn who_is_ready_in_vain_rests_and_goes_on() {
    if probe().is_err() {
        return;
    }
    with_engine(echo(), |engine| {
        let (slot, mut client) = engine.connect();
        client.write_all(&[1]).unwrap();
        engine.until_readable(1);
        let mut taken = [0; 2];
        assert_eq!(
            recv(engine.link(slot), &mut taken, RecvFlags::DONTWAIT)
                .unwrap()
                .0,
            1
        );
        engine.receive_all();
        assert_eq!(engine.link(slot).receiving.progress, Progress::Pausing);
        client.write_all(&[2]).unwrap();
        engine.update_all();
        assert_eq!(engine.link(slot).receiving.progress, Progress::Pausing);

        let mut filled = 0;
        while let Ok(length) = send(engine.link(slot), &[0; 1000], SendFlags::DONTWAIT) {
            filled += length;
        }
        // So says the poll.
        engine.link(slot).sending.readiness = Readiness::Ready;
        engine.rest();
        engine.until_readable(1);
        engine.receive_all();
        assert_eq!(engine.link(slot).sending.progress, Progress::Pausing);
        client.read_exact(&mut vec![0; filled]).unwrap();
        engine.update_all();
        assert_eq!(engine.link(slot).sending.progress, Progress::Pausing);

        engine.rest();
        while engine.sends.is_empty() {
            engine.update_all();
            engine.look().unwrap();
        }
        engine.send_all();
        assert_eq!((client.read(&mut taken).unwrap(), taken[0]), (1, 2));
        drop(client);
        engine.stop();
    });
}

/// A poll that fails is tried again later, for either direction.
#[test]
fn whose_poll_fails_rests_and_goes_on() {
    if probe().is_err() {
        return;
    }
    with_engine(echo(), |engine| {
        let (slot, client) = engine.connect();
        let generation = engine.shard.generation(slot).unwrap();
        // It has none yet.
        engine.readable(slot, generation, -libc::ENOMEM);
        engine.writable(slot, generation, -libc::ENOMEM);
        engine.update_all();
        let rests = |link: &PortableLink| [link.receiving.progress, link.sending.progress];
        assert_eq!(rests(engine.link(slot)), [Progress::Pausing; 2]);
        engine.rest();
        engine.update_all();
        let [receiving, sending] = rests(engine.link(slot));
        assert!(matches!(receiving, Progress::Polling(_)) && sending == Progress::No);
        drop(client);
        engine.stop();
    });
}

/// A poll that waits at the end takes nothing, neither before nor when something comes behind it.
#[test]
fn what_was_not_received_is_handed_over_in_the_socket() {
    if probe().is_err() {
        return;
    }
    with_engine(echo(), |engine| {
        let (_, mut client) = engine.connect();
        client.write_all(&[1]).unwrap();
        engine.until_readable(1);
        engine.receive_all();
        engine.update_all();
        engine.look().unwrap();
        client.write_all(&[2; 5]).unwrap();
        let stop = Mail::Stop { hand_over: true };
        engine.shard.desk.crew.posts[0].send(stop).ok().unwrap();
        engine.arm_wake();
        engine.turn().unwrap();
        let parcel = engine.parcels.pop().unwrap();
        client.write_all(&[2; 5]).unwrap();
        for _ in 0..3 {
            engine.look().unwrap();
            engine.receive_all();
        }
        let mut answers = [0; 20];
        let answered = client.read(&mut answers).unwrap() - 1;
        let unread = ioctl_fionread(&parcel.socket).unwrap() as usize;
        assert_eq!(answered + parcel.state.input.len() + unread, 10);
    });
}

#[test]
fn sizes_that_no_file_could_ask_for_are_refused() {
    for config in impossible_rings() {
        match parts(&config, Vec::new(), &Patience::default()) {
            Ok(_) => panic!("{config:?} was taken"),
            Err(unavailable) => {
                let text = unavailable.to_string();
                assert!(
                    text.contains("making receive buffers: there cannot be"),
                    "{text}"
                );
            }
        }
    }
}

/// Serves nobody, and has the polls for mail and for what services read from fail.
fn serve_with_polls_that_fail(posts: &Sender<Post>) {
    with_engine(Setup::new(Limits::default()), |engine| {
        let post = engine.shard.desk.crew.posts[0].clone();
        posts.send(post).unwrap();
        // The kernel polls none of these.
        let path = open("/", OFlags::PATH, Mode::empty()).unwrap();
        engine.sources_armed = true;
        for poll in [Operation::Wake, Operation::Sources] {
            engine.flights.readable(poll, path.as_fd());
        }
        engine.turn().unwrap();
        assert!(!engine.sources_armed);
    });
}

#[test]
fn a_worker_whose_poll_for_mail_fails_gets_its_mail() {
    if probe().is_err() {
        return;
    }
    let (sender, posts) = channel();
    let worker = thread::spawn(move || serve_with_polls_that_fail(&sender));
    let post = posts.recv().unwrap();
    // At first the mail may be found although nothing polls for it.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(10 * PAUSE_MS) {
        let (report, reported) = channel();
        post.send(Mail::Report(report)).ok().unwrap();
        reported.recv_timeout(PATIENCE).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    post.send(Mail::Stop { hand_over: false }).ok().unwrap();
    worker.join().unwrap();
}

#[test]
fn nothing_that_is_due_waits_for_the_end_of_a_spin() {
    let clock = WorkerClock::new();
    let [early, end, late] = [20, 1000, 2000].map(|at| clock.instant(at));
    assert_eq!(spin_end(end, Some(early)), early);
    assert_eq!(spin_end(end, Some(late)), end);
    assert_eq!(spin_end(end, None), end);
}
