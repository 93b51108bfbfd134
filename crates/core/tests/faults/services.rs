//! Services for tests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};

use crate::frames::digest;

/// Sends every frame back.
pub(crate) struct Echo;

impl Service for Echo {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}

/// Answers each frame with its number, its length and a digest of its bytes, so that where frames were cut shows.
pub(crate) struct Digest;

impl Service for Digest {
    type Session = u32;

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<u32, Refusal> {
        Ok(0)
    }

    fn frame(&mut self, number: &mut u32, frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let digest = digest(*number, &frame);
        *number += 1;
        reply.write(|out| out.extend_from_slice(&digest));
        Flow::Continue
    }
}

/// Takes frames, counts them where others can look, and answers nothing.
#[derive(Clone, Default)]
pub(crate) struct Sink(pub(crate) Arc<AtomicU64>);

impl Service for Sink {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        self.0.fetch_add(1, Ordering::Relaxed);
        Flow::Continue
    }
}

/// Answers each frame with how many frames the sink has taken by then.
pub(crate) struct Count(pub(crate) Sink);

impl Service for Count {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        let count = self.0.0.load(Ordering::Relaxed);
        reply.write(|out| {
            out.push(0xcf);
            out.extend_from_slice(&count.to_be_bytes());
        });
        Flow::Continue
    }
}

/// Holds up a worker inside a service call, so that everything else that happens meanwhile happens at once for it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    /// Workers that stand at the gate.
    waiting: usize,
    open: bool,
}

impl Gate {
    /// Waits until so many workers stand at the gate.
    pub(crate) fn wait_for(&self, workers: usize) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        while state.waiting < workers {
            state = changed.wait(state).unwrap();
        }
    }

    /// Lets everybody through, from now on.
    pub(crate) fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().open = true;
        changed.notify_all();
    }

    fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.waiting += 1;
        changed.notify_all();
        while !state.open {
            state = changed.wait(state).unwrap();
        }
        state.waiting -= 1;
    }
}

/// The worker waits at the gate with every frame.
impl Service for Gate {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.pass();
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }
}
