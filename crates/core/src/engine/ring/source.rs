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
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::super::probe;
    use super::super::queue::{Chunk, Wait};
    use super::super::room::tests::serve;
    use super::*;
    use crate::mailbox::Mail;

    /// They fail here because they are cancelled, and would otherwise for want of memory.
    fn fail(engine: &mut Engine<'_>) -> io::Result<()> {
        engine.arm_sources()?;
        assert!(engine.wake_armed && engine.sources == Sources::Armed);
        for kind in [Kind::Wake, Kind::Sources] {
            engine.cancel(Operation::new(kind, 0, 0))?;
        }
        engine.enter(Wait::No)?;
        engine.dispatch_all(&mut Chunk::new())?;
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
}
