//! A service whose value on each worker leaves something to the successor, and says what it has taken over.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Saved, Service, Tick, Ticket, Worker};

/// Deferred replies that were given in the end, by any worker.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// Counts frames on one worker.
pub(crate) struct Keeper {
    flags: PathBuf,
    worker: usize,
    /// What all workers of the process before have left.
    taken_over: String,
    frames: u64,
}

impl Keeper {
    pub(crate) fn new(worker: &Worker, flags: PathBuf) -> Result<Self, &'static str> {
        let taken_over = match flags.join("take-over").exists() {
            true => worker.taken_over(),
            false => &[],
        };
        if flags.join("panic-when-given").exists() && !taken_over.is_empty() {
            panic!("what was left is no good, on purpose");
        }
        let taken_over: Vec<&str> = taken_over
            .iter()
            .map(|left| std::str::from_utf8(left).unwrap())
            .collect();
        let keeper = Keeper {
            worker: worker.index(),
            taken_over: taken_over.join(" "),
            frames: 0,
            flags,
        };
        match keeper.is_told("fail") {
            true => Err("the database does not answer, on purpose"),
            false => Ok(keeper),
        }
    }

    /// Whether a flag is set for this worker.
    fn is_told(&self, flag: &str) -> bool {
        self.flags.join(format!("{flag}-{}", self.worker)).exists()
    }
}

impl Service for Keeper {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    /// Answers with the worker, how many frames that had, and what was taken over.
    fn frame(&mut self, (): &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        self.frames += 1;
        if frame[0] == 0x80 {
            loop {
                std::thread::park();
            }
        }
        if frame[0] == 0x90 {
            let responder = reply.defer(Ticket(0));
            let flag = self.flags.join("answer");
            std::thread::spawn(move || {
                while !flag.exists() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                if responder.is_wanted() {
                    ANSWERED.fetch_add(1, Ordering::Relaxed);
                }
                responder.answer(vec![0xc3]);
            });
            return Flow::Continue;
        }
        let said = format!("{} {} {}", self.worker, self.frames, self.taken_over);
        reply.write(|out| {
            out.extend_from_slice(&[0xd9, said.len() as u8]);
            out.extend_from_slice(said.as_bytes());
        });
        Flow::Continue
    }

    fn save(&self, (): &()) -> Saved {
        Saved::Stateless
    }

    fn hand_over(&mut self, _: &Tick<'_>) -> Option<Bytes> {
        if self.is_told("panic-at-last") {
            panic!("the last call, on purpose");
        }
        while self.is_told("stick-at-last") {
            std::thread::park();
        }
        let frames = self.frames + ANSWERED.load(Ordering::Relaxed);
        let left = format!("{}:{frames}", self.worker);
        self.flags.join("leave").exists().then(|| left.into())
    }
}
