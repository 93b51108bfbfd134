//! Waiting until a socket has room for what is to be sent.
//!
//! Sends never wait in the kernel: once the peer has ended its side, the kernel takes its own poll for room as ready at
//! once, since that poll reports ends too, tries 128 times in vain and then leaves the send to a thread of its own. So a
//! send that finds no room fails, and a poll tells when there is some. It is a multishot one, because that reports
//! changes: one that reports states would be ready at once as well.
//!
//! So it says nothing more where there is room and a send finds none all the same, for want of memory. That is tried again after
//! a pause.

use std::io;

use super::Engine;
use super::link::Polling;
use super::operation::{Kind, Operation};
use super::queue::Completion;

impl Engine<'_> {
    /// Waits for room.
    pub(super) fn arm_room(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.room != Polling::No {
            return Ok(());
        }
        link.room = Polling::Armed;
        let file = link.file(slot);
        let poll = Operation::new(Kind::Room, generation, slot);
        self.queue.poll(file, libc::POLLOUT, true, poll.pack())
    }

    pub(super) fn room_found(&mut self, operation: Operation, completion: &Completion) {
        let slot = operation.slot;
        let Some(link) = self.shard.expected_link(slot, operation.generation) else {
            return;
        };
        if !completion.more() {
            link.room = Polling::No;
            // Whatever ended it, the next send tells how things are.
            link.blocked = false;
        }
        let worth_a_try = libc::POLLOUT | libc::POLLERR | libc::POLLHUP;
        if completion.result & i32::from(worth_a_try) != 0 {
            link.blocked = false;
        }
        self.shard.touch(slot);
    }

    /// Lets one try again that found no room where there was some.
    pub(super) fn try_room_again(&mut self, send: Operation) {
        if let Some(link) = self.shard.link_of(send.slot, send.generation) {
            link.blocked = false;
            self.shard.touch(send.slot);
        }
    }

    /// Ends the poll for room, which would otherwise report whatever the peer takes.
    pub(super) fn cancel_room(&mut self, slot: u32, generation: u32) -> io::Result<()> {
        let Some(link) = self.shard.link(slot) else {
            return Ok(());
        };
        if link.room != Polling::Armed {
            return Ok(());
        }
        link.room = Polling::Cancelled;
        self.cancel(Operation::new(Kind::Room, generation, slot))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};
    use std::mem::ManuallyDrop;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;
    use std::time::Duration;

    use super::super::queue::Wait;
    use super::super::{RingLink, probe, setup};
    use super::*;
    use crate::config::RingConfig;
    use crate::limits::Limits;
    use crate::mailbox::{Mail, Post};
    use crate::patience::Patience;
    use crate::peer::{ConnectionId, Link, Peer};
    use crate::testing::Setup;
    use crate::{Flow, Frame, Refusal, Reply, Service, Worker};

    /// Says a byte to who connects.
    struct Greeter;

    impl Service for Greeter {
        type Session = ();

        fn connected(&mut self, _: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
            reply.write(|out| out.push(7));
            Ok(())
        }

        fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
            Flow::Continue
        }
    }

    /// Runs a worker of these services, behind what `act` does with it.
    pub(in crate::engine::ring) fn work(
        services: Setup<'_>,
        act: impl FnOnce(&mut Engine<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let config = RingConfig::default();
        let mut ring = setup::ring(&config).unwrap();
        let (mut shard, mailbox) = services.shard();
        let _ = shard.deliver(Mail::Resume);
        let engine = Engine::new(
            &mut ring,
            &config,
            Duration::ZERO,
            shard,
            Vec::new(),
            &mailbox,
            &Patience::default(),
        );
        let mut engine = ManuallyDrop::new(engine.unwrap());
        engine.begin()?;
        act(&mut engine)?;
        engine.serve().and_then(|()| engine.finish())?;
        drop(ManuallyDrop::into_inner(engine));
        Ok(())
    }

    /// Serves one connection, behind what `act` does with it. A socket that says nothing is watched besides.
    pub(in crate::engine::ring) fn serve(
        socket: UnixStream,
        posts: &Sender<Post>,
        act: impl FnOnce(&mut Engine<'_>, ConnectionId) -> io::Result<()>,
    ) -> io::Result<()> {
        let (silent, _theirs) = UnixStream::pair().unwrap();
        let greeter = move |worker: &Worker| {
            worker.watch(silent.try_clone().unwrap());
            Greeter
        };
        let greeter = Setup::new(Limits::default()).service("greeter", &["test"], greeter);
        work(greeter, |engine| {
            posts.send(engine.shard.desk.crew.posts[0].clone()).unwrap();
            engine.shard.desk.crew.dealer.hold(0, 0);
            let id = engine.shard.open(0, RingLink::new(socket.into()), None);
            act(engine, id)
        })
    }

    /// The poll has said that there is room, and the first send finds none.
    fn finds_none_where_there_is_some(engine: &mut Engine<'_>, id: ConnectionId) -> io::Result<()> {
        engine.shard.link(id.slot).unwrap().blocked = true;
        engine.update_touched()?;
        engine.enter(Wait::No)?;
        engine.dispatch_all()?;
        let link = engine.shard.link(id.slot).unwrap();
        assert!(!link.blocked && link.room == Polling::Armed);
        let (outbox, link, pools) = engine.shard.sending(id.slot).unwrap();
        link.sending = outbox.begin(pools).map(|slice| slice.len() as u32).sum();
        // The kernel answers so where it has no memory for what is sent.
        let send = Operation::new(Kind::Send, id.generation, id.slot);
        let mut full = Completion::default();
        full.result = -libc::EAGAIN;
        engine.sent(send, &full);
        assert!(engine.pause.ends().is_some());
        Ok(())
    }

    /// There is none, and a send that is tried all the same, while the poll waits, finds none either.
    fn finds_none_where_there_is_none(engine: &mut Engine<'_>, id: ConnectionId) -> io::Result<()> {
        for _ in 0..2 {
            engine.update_touched()?;
            engine.enter(Wait::No)?;
            engine.dispatch_all()?;
            let link = engine.shard.link(id.slot).unwrap();
            assert!(link.blocked && link.sending == 0);
            engine.update_touched()?;
            let link = engine.shard.link(id.slot).unwrap();
            assert!(link.room == Polling::Armed);
            link.blocked = false;
            engine.shard.touch(id.slot);
        }
        assert_eq!(engine.pause.ends(), None);
        Ok(())
    }

    #[test]
    fn who_finds_no_room_where_there_is_none_waits_for_it() {
        if probe().unavailable.is_some() {
            return;
        }
        let (sender, posts) = channel();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 1000]).is_ok() {}
        ours.set_nonblocking(false).unwrap();
        let worker = thread::spawn(move || {
            serve(ours, &sender, |engine, id| {
                let done = finds_none_where_there_is_none(engine, id);
                drop(theirs);
                done
            })
        });
        let post = posts.recv().unwrap();
        post.send(Mail::Stop { hand_over: false }).ok().unwrap();
        worker.join().unwrap().unwrap();
    }

    #[test]
    fn who_found_no_room_where_there_is_some_tries_again() {
        if probe().unavailable.is_some() {
            return;
        }
        let (sender, posts) = channel();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let worker = thread::spawn(move || serve(ours, &sender, finds_none_where_there_is_some));
        let post = posts.recv().unwrap();
        theirs
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut greeting = [0];
        theirs.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, [7]);
        post.send(Mail::Stop { hand_over: false }).ok().unwrap();
        worker.join().unwrap().unwrap();
        assert_eq!(theirs.read(&mut greeting).unwrap(), 0);
    }
}
