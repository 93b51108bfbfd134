//! What routers do from time to time, and when there is something to read.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::rc::{Rc, Weak};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::limits::Limits;
use ringhold_core::testing::Exchange;
use ringhold_core::{EngineKind, Server, Watch};
use ringhold_rpc::{Router, Rpc};

type Log<T> = Rc<RefCell<Vec<T>>>;

const SECOND: Duration = Duration::from_secs(1);

/// What takes longer than that has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(router: Router) -> Exchange {
    Exchange::with_worker(|worker| Rpc::new(worker, router), Limits::default())
}

#[test]
fn each_descriptor_has_its_reader() {
    let log = Log::default();
    let pairs = [(); 2].map(|()| UnixDatagram::pair().unwrap());
    let pairs = pairs.map(|(sender, receiver)| (sender, Rc::new(receiver)));
    let mut router = Router::new();
    for (name, (_, receiver)) in ["a", "b"].into_iter().zip(&pairs) {
        let (socket, log) = (receiver.clone(), log.clone());
        router = router.watch(receiver.clone(), move |_| {
            let mut byte = [0];
            socket.recv(&mut byte)?;
            log.borrow_mut().push((name, byte[0]));
            match byte[0] {
                0 => Ok(Watch::End),
                1 => Err(io::Error::other("on purpose")),
                _ => Ok(Watch::Continue),
            }
        });
    }
    let mut exchange = start(router);
    let send = |index: usize, byte| pairs[index].0.send(&[byte]).unwrap();
    for (index, byte) in [(1, 5), (0, 6), (0, 1), (1, 0), (0, 7), (1, 8)] {
        send(index, byte);
        exchange.deliver();
    }
    assert_eq!(
        *log.borrow(),
        [("b", 5), ("a", 6), ("a", 1), ("b", 0), ("a", 7)]
    );
}

/// A device that `plugs` plugs in, opened again whenever it has ended. Its bytes go to `log`.
fn reopening(plugs: Receiver<UnixStream>, log: &Log<u8>) -> Router {
    let log = log.clone();
    let mut device = Weak::new();
    Router::new().every(SECOND, move |turn| {
        if device.strong_count() > 0 {
            return;
        }
        let Ok(stream) = plugs.try_recv().map(Rc::new) else {
            return;
        };
        device = Rc::downgrade(&stream);
        let log = log.clone();
        turn.watch(stream.clone(), move |_| {
            let mut byte = [0];
            match (&*stream).read(&mut byte)? {
                0 => return Ok(Watch::End),
                _ => log.borrow_mut().push(byte[0]),
            }
            Ok(Watch::Continue)
        });
    })
}

#[test]
fn what_has_ended_is_let_go_of_and_may_be_opened_again() {
    let log = Log::default();
    let (plug, plugs) = channel();
    let mut exchange = start(reopening(plugs, &log));
    for number in 0..5 {
        let (mut instrument, device) = UnixStream::pair().unwrap();
        instrument.set_nonblocking(true).unwrap();
        plug.send(device).unwrap();
        exchange.advance(SECOND);
        for part in 0..2 {
            instrument.write_all(&[number, part]).unwrap();
            exchange.deliver();
            exchange.deliver();
            assert_eq!(log.take(), [number, part]);
        }
        instrument.shutdown(Shutdown::Write).unwrap();
        exchange.deliver();
        // Nobody has the other end open.
        assert_eq!(instrument.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn what_is_silent_is_let_go_of_before_it_is_opened_again() {
    let log = Log::default();
    let name = format!("ringhold-rpc-{}-silent", std::process::id());
    let name = SocketAddr::from_abstract_name(name).unwrap();
    let (own, told, mut source) = (name.clone(), log.clone(), None);
    let router = Router::new().every(SECOND, move |turn| {
        if let Some(source) = source.take() {
            turn.unwatch(source);
            // It has ended.
            turn.unwatch(source);
        }
        // The name is in use for as long as anybody has the last one open.
        let socket = Rc::new(UnixDatagram::bind_addr(&own).unwrap());
        let told = told.clone();
        source = Some(turn.watch(socket.clone(), move |turn| {
            socket.recv(&mut [0])?;
            told.borrow_mut().push(turn.now().as_secs());
            Ok(Watch::Continue)
        }));
    });
    let mut exchange = start(router);
    let sender = UnixDatagram::unbound().unwrap();
    for _ in 0..3 {
        exchange.advance(SECOND);
        sender.send_to_addr(&[0], &name).unwrap();
        exchange.deliver();
    }
    assert_eq!(log.take(), [1, 2, 3]);
    assert_eq!(exchange.counters().panics, 0);
}

#[test]
fn a_reader_may_let_go_of_itself_and_of_others() {
    let log = Log::default();
    let pairs = [(); 3].map(|()| UnixDatagram::pair().unwrap());
    let (senders, receivers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let (told, mut receivers) = (log.clone(), receivers.into_iter());
    let sources = Rc::new(RefCell::new(Vec::new()));
    let router = Router::new().every(SECOND, move |turn| {
        for receiver in receivers.by_ref().map(Rc::new) {
            let (sources, told, read) = (sources.clone(), told.clone(), receiver.clone());
            let number = sources.borrow().len();
            let all = sources.clone();
            let source = turn.watch(receiver, move |turn| {
                let mut byte = [0];
                read.recv(&mut byte)?;
                told.borrow_mut().push((number, byte[0]));
                turn.unwatch(sources.borrow()[usize::from(byte[0])]);
                Ok(Watch::Continue)
            });
            all.borrow_mut().push(source);
        }
    });
    let mut exchange = start(router);
    exchange.advance(SECOND);
    let send = |sender: usize, byte| senders[sender].send(&[byte]).is_ok();
    assert!(send(0, 2));
    exchange.deliver();
    assert!(!send(2, 0));
    assert!(send(0, 0));
    exchange.deliver();
    assert!(!send(0, 0) && send(1, 0));
    exchange.deliver();
    assert_eq!(log.take(), [(0, 2), (0, 0), (1, 0)]);
    assert_eq!(exchange.counters().panics, 0);
}

#[test]
fn a_reader_may_watch_what_it_has_accepted() {
    let log = Log::default();
    let name = format!("ringhold-rpc-{}-accepted", std::process::id());
    let name = SocketAddr::from_abstract_name(name).unwrap();
    let listener = Rc::new(UnixListener::bind_addr(&name).unwrap());
    let (accepting, told) = (listener.clone(), log.clone());
    let router = Router::new().watch(listener, move |turn| {
        let (stream, _) = accepting.accept()?;
        let (stream, told) = (Rc::new(stream), told.clone());
        turn.watch(stream.clone(), move |turn| {
            let mut bytes = [0; 8];
            let length = (&*stream).read(&mut bytes)?;
            let now = turn.now().as_secs();
            told.borrow_mut().push((now, bytes[..length].to_vec()));
            Ok(match length {
                0 => Watch::End,
                _ => Watch::Continue,
            })
        });
        Ok(Watch::Continue)
    });
    let mut exchange = start(router);
    let mut streams = [(); 2].map(|()| UnixStream::connect_addr(&name).unwrap());
    exchange.deliver();
    exchange.deliver();
    streams[1].write_all(b"b").unwrap();
    exchange.advance(SECOND);
    streams[0].write_all(b"a").unwrap();
    exchange.advance(SECOND);
    drop(streams);
    exchange.advance(SECOND);
    let expected = [(1, &b"b"[..]), (2, b"a"), (3, b""), (3, b"")];
    assert_eq!(log.take(), expected.map(|(at, bytes)| (at, bytes.to_vec())));
}

/// The worker lets go of it, and with it of its reader.
#[test]
fn what_cannot_be_waited_for_is_let_go_of() {
    let alive = Rc::new(());
    let held = alive.clone();
    let router = Router::new().every(SECOND, move |turn| {
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let held = held.clone();
        turn.watch(file, move |_| {
            let _ = &held;
            Ok(Watch::Continue)
        });
    });
    let mut exchange = start(router);
    for _ in 0..3 {
        exchange.advance(SECOND);
        exchange.deliver();
        assert_eq!(Rc::strong_count(&alive), 2);
    }
}

/// And closed when it has ended.
#[test]
fn what_is_opened_later_is_read_with_either_engine() {
    let mut engines = vec![EngineKind::Portable];
    if ringhold_core::probe::probe().unavailable.is_none() {
        engines.push(EngineKind::Ring);
    }
    for engine in engines {
        let (plug, plugs) = channel();
        let plugs = Mutex::new(Some(plugs));
        let text = format!("engine = \"{engine}\"\nworkers = 1\n");
        let running = Server::new(Config::parse(&text, "test").unwrap())
            .inherited(Inherited::none())
            .service("echo", move |worker| {
                let plugs = plugs.lock().unwrap().take();
                Rpc::new(worker, echoing(plugs.unwrap()))
            })
            .start()
            .unwrap();
        let mut several = Vec::new();
        for number in 0..50 {
            let (mut instrument, device) = UnixStream::pair().unwrap();
            instrument.set_read_timeout(Some(PATIENCE)).unwrap();
            plug.send(device).unwrap();
            let mut echo = |byte| {
                instrument.write_all(&[byte]).unwrap();
                let mut answer = [0];
                instrument.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [byte]);
            };
            echo(number);
            echo(number + 1);
            match number % 5 {
                0 => several.push(instrument),
                _ => ends(instrument),
            }
        }
        several.drain(..5).for_each(ends);
        // The others are let go of with the worker.
        running.stop();
        running.join().unwrap();
        for mut instrument in several {
            assert_eq!(instrument.read(&mut [0]).unwrap(), 0);
        }
    }
}

/// It is closed when it has ended.
fn ends(mut instrument: UnixStream) {
    instrument.shutdown(Shutdown::Write).unwrap();
    assert_eq!(instrument.read(&mut [0]).unwrap(), 0);
}

/// Echoes on all streams that are plugged in.
fn echoing(plugs: Receiver<UnixStream>) -> Router {
    Router::new().every(Duration::from_millis(1), move |turn| {
        for stream in plugs.try_iter().map(Rc::new) {
            turn.watch(stream.clone(), move |_| {
                let mut bytes = [0; 8];
                match (&*stream).read(&mut bytes)? {
                    0 => return Ok(Watch::End),
                    length => (&*stream).write_all(&bytes[..length])?,
                }
                Ok(Watch::Continue)
            });
        }
    })
}

#[test]
fn a_panic_changes_nothing_for_anybody() {
    let log = Log::default();
    let mut router = Router::new();
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    let mut receiver = Some(Rc::new(receiver));
    for minutes in [60, 59] {
        let log = log.clone();
        let mut receiver = receiver.take();
        let interval = Duration::from_secs(60 * minutes);
        router = router.every(interval, move |turn| {
            log.borrow_mut().push((turn.now().as_secs() / 60, minutes));
            if let Some(receiver) = receiver.take() {
                let log = log.clone();
                turn.watch(receiver.clone(), move |turn| {
                    receiver.recv(&mut [0])?;
                    log.borrow_mut().push((turn.now().as_secs() / 60, 0));
                    Ok(Watch::Continue)
                });
            }
            assert_eq!(minutes, 59, "on purpose");
        });
    }
    let mut exchange = start(router);
    for _ in 0..120 {
        exchange.advance(60 * SECOND);
    }
    let expected = [(0, 60), (0, 59), (59, 59), (60, 60), (118, 59), (120, 60)];
    assert_eq!(log.take(), expected);
    assert_eq!(exchange.counters().panics, 3);
    // What was watched before the panic is.
    sender.send(&[0]).unwrap();
    exchange.deliver();
    assert_eq!(log.take(), [(120, 0)]);
}

#[test]
fn the_first_call_comes_behind_what_was_handed_over_and_before_any_request() {
    let log = Log::default();
    let router = || {
        let [connected, resumed, first, only, called] = [(); 5].map(|()| log.clone());
        Router::new()
            .connected(move |_| {
                connected.borrow_mut().push("connected");
                Ok(())
            })
            .resume("count", move |_, _: &mut u64| {
                resumed.borrow_mut().push("resumed");
                Ok(())
            })
            .every(SECOND, move |_| first.borrow_mut().push("each second"))
            .every(Duration::MAX, move |_| only.borrow_mut().push("once"))
            .method_with("call", move |context, ()| {
                context.data::<u64>();
                called.borrow_mut().push("called");
                Ok(())
            })
    };
    let mut exchange = start(router());
    assert_eq!(log.take(), ["each second", "once"]);
    let client = exchange.connect();
    let request = b"\x94\x00\x01\xa4call\x90";
    exchange.receive(client, request);
    exchange.receive(client, &request[..5]);
    assert_eq!(log.take(), ["connected", "called"]);
    let mut exchange = exchange.hand_over(|worker| Rpc::new(worker, router()));
    let begun = ["connected", "resumed", "each second", "once"];
    assert_eq!(log.take(), begun);
    exchange.receive(client, &request[5..]);
    exchange.advance(SECOND);
    assert_eq!(log.take(), ["called", "each second"]);
}
