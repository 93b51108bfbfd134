//! Too few descriptors for a start: whatever their number, they suffice or the error says that they do not.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use ringhold_core::config::Config;
use ringhold_core::{
    Flow, Frame, Peer, Refusal, Reply, Server, Service, SourceId, Tick, Watch, probe,
};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::accepting::take_all_descriptors;
use crate::bed::{Bed, Engine};
use crate::common::{PATIENCE, client};
use crate::services::Echo;
use crate::tickets::{ANSWERED, Asking, answer, request};

/// How many descriptors the process may open.
const DESCRIPTORS: u64 = 128;

/// So many are enough for everything here.
const ENOUGH: usize = 60;

fn limit_descriptors() {
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Lets `attempt` have 0, 1, 2, ... descriptors, until it succeeds with three numbers of them in a row. Each failure must name the
/// lack of descriptors, and as many must be free after each attempt as before.
fn with_few_descriptors(attempt: impl Fn() -> Result<(), String>) {
    limit_descriptors();
    let (mut failures, mut successes) = (0, 0);
    for free in 0..ENOUGH {
        let mut taken = take_all_descriptors();
        let all = taken.len();
        taken.truncate(all - free);
        let result = attempt();
        taken.extend(take_all_descriptors());
        // A runtime of tokio-uring that cannot be made leaks some. What it takes is tried before, but the other worker, which is at its next
        // step, may have taken one since.
        let may_leak = matches!(&result, Err(why) if why.contains("making the runtime"));
        assert!(
            taken.len() == all || may_leak,
            "{free} descriptors: {} of {all}, {result:?}",
            taken.len()
        );
        match result {
            Ok(()) => successes += 1,
            Err(why) => {
                successes = 0;
                failures += 1;
                assert!(
                    why.contains("Too many open files"),
                    "{free} descriptors: {why}"
                );
                let advice = why.matches("raise LimitNOFILE=").count();
                assert_eq!(advice, 1, "{free} descriptors: {why}");
            }
        }
        if successes == 3 {
            break;
        }
    }
    assert!(failures > 0, "they are taken");
    assert_eq!(successes, 3, "they suffice in the end");
}

pub(crate) fn a_probe_names_the_lack_of_descriptors(engine: Engine) {
    with_few_descriptors(|| {
        let report = probe::probe();
        let unavailable = match engine {
            Engine::Ring => report.unavailable,
            _ => report.portable_unavailable,
        };
        unavailable.map_or(Ok(()), Err)
    });
}

pub(crate) fn a_start_names_the_lack_of_descriptors(engine: Engine) {
    // More than what trying the engine takes for a moment, so that they can run out at the listeners, too.
    let listen: Vec<String> = (0..10)
        .map(|index| format!("unix:@ringhold-{}-{index}", std::process::id()))
        .collect();
    let text = format!("engine = \"{engine}\"\nworkers = 2\n[sockets.echo]\nlisten = {listen:?}\n");
    with_few_descriptors(|| {
        let server = Server::new(Config::parse(&text, "test").unwrap());
        let running = server.service("echo", |_| Echo).start();
        let running = running.map_err(|error| error.to_string())?;
        running.stop();
        running.join().map_err(|error| error.to_string())
    });
}

/// Takes all descriptors as soon as it serves, as connections may, until it is called for what it watches.
struct Hoarder {
    taken: Vec<OwnedFd>,
    calls: mpsc::Sender<()>,
}

impl Service for Hoarder {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
        Flow::Continue
    }

    fn tick(&mut self, _: &Tick<'_>) -> Option<Duration> {
        self.taken = take_all_descriptors();
        None
    }

    fn readable(&mut self, _: SourceId, _: &Tick<'_>) -> io::Result<Watch> {
        self.taken.clear();
        self.calls.send(()).unwrap();
        Ok(Watch::End)
    }
}

pub(crate) fn what_is_watched_from_the_start_needs_no_descriptor_later(engine: Engine) {
    limit_descriptors();
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    sender.send(&[0]).unwrap();
    let receiver = Mutex::new(Some(receiver));
    let (calls, called) = mpsc::channel();
    let bed = Bed::start(engine, "workers = 1", |server| {
        server.service("hoarder", move |worker| {
            worker.watch(receiver.lock().unwrap().take().unwrap());
            Hoarder {
                taken: Vec::new(),
                calls: calls.clone(),
            }
        })
    });
    called.recv_timeout(Duration::from_secs(60)).unwrap();
    bed.finish();
}

/// It is accepted to be refused, which takes a descriptor, over a unix socket.
pub(crate) fn who_waits_when_the_server_stops_is_refused(engine: Engine) {
    limit_descriptors();
    for are_used_up in [false, true] {
        let (sender, questions) = mpsc::channel();
        let sender = Mutex::new(sender);
        let config = "workers = 1
            [limits]
            connections = 1
            [handover]
            drain = \"1h\"
            [sockets.first]
            service = \"ask\"
            listen = [\"unix:@/first\"]
            [sockets.second]
            service = \"ask\"
            listen = [\"unix:@/second\"]";
        let bed = Bed::start(engine, config, |server| {
            server.service("ask", move |_| Asking(sender.lock().unwrap().clone()))
        });
        let mut held = bed.connect_unix("first");
        held.write_all(&request(0, 0)).unwrap();
        let (responder, ..) = questions.recv_timeout(PATIENCE).unwrap();
        let waiting = ["first", "first", "second", "second"].map(|file| {
            let mut waiting = bed.connect_unix(file);
            waiting.write_all(&request(1, 1)).unwrap();
            waiting
        });
        let taken = are_used_up.then(take_all_descriptors);
        bed.stop();
        for mut waiting in waiting {
            let end = waiting.read(&mut [0]).unwrap_err();
            assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{are_used_up}");
        }
        drop(taken);
        // The stop is not over.
        responder.answer(answer(ANSWERED, 0, 0).to_vec());
        client::expect(&mut held, &answer(ANSWERED, 0, 0));
        client::expect_end(&mut held);
        assert!(questions.try_recv().is_err(), "nobody else was accepted");
        bed.finish();
    }
}
