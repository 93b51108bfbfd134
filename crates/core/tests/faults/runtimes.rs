//! Services that use asynchronous runtimes. A worker is a plain thread to them, whatever its engine is made of.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringhold_core::{Ended, Flow, Frame, Peer, Refusal, Reply, Responder, Service, Ticket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Sender, channel};

use crate::bed::{Bed, Engine};
use crate::common::client;

const ASK_ELSEWHERE: u8 = 1;
const BLOCK: u8 = 2;
const DROP: u8 = 3;

/// Owns a runtime, blocks on it in every call, and drops it when its worker ends.
struct Blocks {
    runtime: Option<Runtime>,
    questions: Sender<Responder>,
    /// How many runtimes were dropped.
    dropped: Arc<AtomicUsize>,
}

impl Blocks {
    fn block(&self) -> u8 {
        self.runtime.as_ref().unwrap().block_on(async {
            tokio::task::yield_now().await;
            BLOCK
        })
    }

    fn drop_runtime(&self, runtime: Option<Runtime>) {
        drop(runtime);
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let runtime = self.runtime.take();
        self.drop_runtime(runtime);
    }
}

impl Service for Blocks {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, reply: &mut Reply<'_>) -> Result<(), Refusal> {
        let greeting = self.block();
        reply.write(|out| out.push(greeting));
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        match frame[0] {
            ASK_ELSEWHERE => {
                let responder = reply.defer(Ticket(0));
                self.questions.blocking_send(responder).unwrap();
            }
            DROP => {
                self.drop_runtime(Some(runtime()));
                reply.write(|out| out.push(DROP));
            }
            _ => {
                let answer = self.block();
                reply.write(|out| out.push(answer));
            }
        }
        Flow::Continue
    }

    fn disconnected(&mut self, (): (), _: &Ended<'_>) {
        self.block();
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

pub(crate) fn services_may_block_on_runtimes(engine: Engine) {
    let config = "
        workers = 2
        [sockets.blocks]
        listen = [\"127.0.0.1:0\"]";
    // Room for one, so that who asks often waits.
    let (questions, mut asked) = channel::<Responder>(1);
    let answers = std::thread::spawn(move || {
        while let Some(responder) = asked.blocking_recv() {
            responder.answer(vec![ASK_ELSEWHERE]);
        }
    });
    let dropped = Arc::new(AtomicUsize::new(0));
    let theirs = dropped.clone();
    let bed = Bed::start(engine, config, |server| {
        server.service("blocks", move |_| Blocks {
            runtime: Some(runtime()),
            questions: questions.clone(),
            dropped: theirs.clone(),
        })
    });
    let mut clients: Vec<_> = (0..4).map(|_| bed.connect("blocks")).collect();
    for client in &mut clients {
        client::expect(client, &[BLOCK]);
        for kind in [ASK_ELSEWHERE, BLOCK, DROP] {
            let frames = [kind; 20];
            client.write_all(&frames).unwrap();
            client::expect(client, &frames);
        }
    }
    assert_eq!(bed.total().open, 4);
    clients.truncate(2);
    bed.until_open(2);
    let end = bed.finish();
    assert_eq!(end.total().panics, 0);
    assert_eq!(dropped.load(Ordering::Relaxed), 4 * 20 + 2);
    drop(clients);
    answers.join().unwrap();
}
