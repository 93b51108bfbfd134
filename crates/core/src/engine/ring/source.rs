//! The poll of what services read from besides connections.

use std::io;
use std::os::fd::AsRawFd;

use super::Engine;
use super::files::File;
use super::operation::{Kind, Operation};
use super::queue::Completion;

/// How far the poll is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sources {
    /// Not begun.
    Idle,
    /// In flight.
    Armed,
    /// It has failed, and is begun again after a pause.
    Paused,
}

impl Engine<'_> {
    /// Begins to wait for something to read, unless that has happened.
    pub(super) fn arm_sources(&mut self) -> io::Result<()> {
        let Some(sources) = self.shard.sources() else {
            return Ok(());
        };
        if self.sources != Sources::Idle {
            return Ok(());
        }
        self.sources = Sources::Armed;
        let file = File::descriptor(sources.as_raw_fd());
        let poll = Operation::new(Kind::Sources, 0, 0);
        self.queue.poll(file, libc::POLLIN, false, poll.pack())
    }

    /// There is something to read, or the poll has failed or was cancelled.
    pub(super) fn sources_polled(&mut self, completion: &Completion) {
        self.sources = Sources::Idle;
        if self.finishes {
            return;
        }
        if completion.result < 0 {
            self.sources = Sources::Paused;
            self.pause(Operation::new(Kind::Sources, 0, 0));
        }
        self.shard.read_sources();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;
    use std::time::Duration;

    use super::super::probe;
    use super::super::queue::Wait;
    use super::super::room::tests::{serve, work};
    use super::*;
    use crate::limits::Limits;
    use crate::mailbox::{Mail, Post};
    use crate::peer::Peer;
    use crate::testing::Setup;
    use crate::tick::Tick;
    use crate::{Flow, Frame, Refusal, Reply, Service, SourceId, Watch, Worker};

    /// They fail here because they are cancelled, and would otherwise for want of memory.
    fn fail(engine: &mut Engine<'_>) -> io::Result<()> {
        engine.arm_sources()?;
        assert!(engine.wake_armed && engine.sources == Sources::Armed);
        for kind in [Kind::Wake, Kind::Sources] {
            engine.cancel(Operation::new(kind, 0, 0))?;
        }
        engine.enter(Wait::No)?;
        engine.dispatch_all()?;
        engine.arm_sources()?;
        assert!(!engine.wake_armed && engine.sources == Sources::Paused);
        // The turns that follow begin them again.
        assert!(engine.pause.ends().is_some());
        Ok(())
    }

    #[test]
    fn what_wakes_a_worker_is_not_begun_again_at_once_when_it_fails() {
        if probe().unavailable.is_some() {
            return;
        }
        let (sender, posts) = channel();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let worker = thread::spawn(move || serve(ours, &sender, |engine, _| fail(engine)));
        let post = posts.recv().unwrap();
        let patience = Some(Duration::from_secs(60));
        theirs.set_read_timeout(patience).unwrap();
        let mut greeting = [0];
        theirs.read_exact(&mut greeting).unwrap();
        post.send(Mail::Stop { hand_over: false }).ok().unwrap();
        worker.join().unwrap().unwrap();
        assert_eq!(theirs.read(&mut greeting).unwrap(), 0);
    }

    /// Reads what is there, and says so.
    struct Reader {
        source: UnixStream,
        news: Sender<usize>,
    }

    impl Service for Reader {
        type Session = ();

        fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
            Ok(())
        }

        fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
            Flow::Continue
        }

        fn readable(&mut self, _: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
            let read = (&self.source).read(&mut [0; 16])?;
            let _ = self.news.send(read);
            Ok(Watch::Continue)
        }
    }

    /// Serves nobody, and fails to wait for the source at first.
    fn read_behind_a_failure(
        source: UnixStream,
        posts: &Sender<Post>,
        news: Sender<usize>,
    ) -> io::Result<()> {
        let reader = move |worker: &Worker| {
            worker.watch(source.try_clone().unwrap());
            Reader { source, news }
        };
        let reader = Setup::new(Limits::default()).service("reader", &["test"], reader);
        work(reader, |engine| {
            engine.arm_sources()?;
            engine.cancel(Operation::new(Kind::Sources, 0, 0))?;
            engine.enter(Wait::No)?;
            engine.dispatch_all()?;
            assert_eq!(engine.sources, Sources::Paused);
            posts.send(engine.shard.desk.crew.posts[0].clone()).unwrap();
            Ok(())
        })
    }

    #[test]
    fn what_comes_when_a_poll_has_failed_is_read_although_nothing_else_happens() {
        if probe().unavailable.is_some() {
            return;
        }
        let (sender, posts) = channel();
        let (news, heard) = channel();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let worker = thread::spawn(move || read_behind_a_failure(ours, &sender, news));
        let post = posts.recv().unwrap();
        theirs.write_all(b"?").unwrap();
        let read = heard.recv_timeout(Duration::from_secs(60));
        post.send(Mail::Stop { hand_over: false }).ok().unwrap();
        worker.join().unwrap().unwrap();
        assert_eq!(read, Ok(1));
    }
}
