//! A service that is one closure.

use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};

/// Lets everybody in, and does this with every frame.
pub(crate) fn answering<F>(frame: F) -> impl Service
where
    F: FnMut(Frame<'_>, &mut Reply<'_>) -> Flow + 'static,
{
    Answering(frame)
}

struct Answering<F>(F);

impl<F> Service for Answering<F>
where
    F: FnMut(Frame<'_>, &mut Reply<'_>) -> Flow + 'static,
{
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.0(frame, reply)
    }
}
