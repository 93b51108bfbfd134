//! A thread of the application's own writes what clients send to a file, on behalf of all workers. A restart or reload loses nothing of it,
//! nor does a stop, as far as the disk takes it. Try it with `cargo run -p ringhold-rpc --example writer`, from another terminal with
//! `ringhold call 127.0.0.1:4675 note '"it rains"'`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringhold_core::config::Config;
use ringhold_core::{Server, Worker};
use ringhold_log::Filter;
use ringhold_rpc::{Fault, Router, Rpc};

const CONFIG: &str = r#"
[sockets.writer]
listen = ["127.0.0.1:4675"]
"#;

/// So many lines wait for the disk. Who sends more is told so.
pub(crate) const WAITING_MAX: usize = 1000;

/// Lines that are not written yet, in their order.
type Lines = VecDeque<String>;

/// The thread, and the way to it. Only routers own it, so that it is dropped with the last of them.
pub(crate) struct Writer {
    /// None when it has been stopped.
    running: Mutex<Option<(Sender<String>, JoinHandle<Lines>)>>,
    waiting: Arc<AtomicUsize>,
}

impl Writer {
    fn start(file: File, left: Lines) -> io::Result<Self> {
        let (sender, lines) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(left.len()));
        let counted = waiting.clone();
        let thread = thread::Builder::new().name("writer".to_owned());
        let thread = thread.spawn(move || write(file, left, &lines, &counted))?;
        let running = Mutex::new(Some((sender, thread)));
        Ok(Writer { running, waiting })
    }

    fn push(&self, line: String) -> Result<(), Fault> {
        let running = lock(&self.running);
        let (sender, _) = running
            .as_ref()
            .ok_or_else(|| Fault::new("the server is restarting"))?;
        if self.waiting.load(Relaxed) >= WAITING_MAX {
            return Err(Fault::new("the disk does not keep up"));
        }
        self.waiting.fetch_add(1, Relaxed);
        Ok(sender.send(line)?)
    }

    /// Has the thread write what it can, and ends it. What it could not write goes to the one of the workers that asks first.
    fn leave(&self) -> Option<Lines> {
        let (sender, thread) = lock(&self.running).take()?;
        drop(sender);
        thread.join().ok()
    }
}

impl Drop for Writer {
    /// Where nobody was asked for what is handed over: in a stop without a store.
    fn drop(&mut self) {
        let lost = self.leave().unwrap_or_default().len();
        if lost > 0 {
            tracing::error!("{lost} lines could not be written, and are lost");
        }
    }
}

/// The thread: until nobody can send it lines any more, and all are written or the disk takes none.
fn write(
    mut file: File,
    mut lines: Lines,
    more: &Receiver<String>,
    waiting: &AtomicUsize,
) -> Lines {
    loop {
        // A line of which the disk took a part is written once more.
        while let Some(line) = lines.front()
            && file.write_all(format!("{line}\n").as_bytes()).is_ok()
        {
            lines.pop_front();
            waiting.fetch_sub(1, Relaxed);
        }
        match more.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => lines.push_back(line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return lines,
        }
    }
}

/// The service of one worker. The first of them starts the thread, which is in `shared` for the others.
pub(crate) fn make(
    worker: &Worker,
    shared: &Mutex<Weak<Writer>>,
    open: impl FnOnce() -> io::Result<File>,
) -> io::Result<Rpc> {
    let mut shared = lock(shared);
    let writer = match shared.upgrade() {
        Some(writer) => writer,
        None => {
            let left = Router::taken_over::<Option<Lines>>(worker, "lines");
            let left = left.into_iter().flatten().flatten().collect();
            let writer = Arc::new(Writer::start(open()?, left)?);
            *shared = Arc::downgrade(&writer);
            writer
        }
    };
    let leaving = writer.clone();
    let router = router(Some(writer)).hand_over("lines", move || leaving.leave());
    Ok(Rpc::new(worker, router))
}

/// Without a writer in the program that a reload asks.
fn router(writer: Option<Arc<Writer>>) -> Router {
    Router::new().method("note", move |line: String| match &writer {
        Some(writer) => writer.push(line),
        None => Err(Fault::new("there is no writer")),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = Filter::from_env("WRITER_LOG")?.unwrap_or_default();
    ringhold_log::start("writer", filter);
    let shared = Mutex::new(Weak::new());
    let open = || {
        File::options()
            .append(true)
            .create(true)
            .open("/tmp/writer")
    };
    Server::new(Config::parse(CONFIG, "built-in")?)
        .preflight(|| {
            router(None);
            Ok(())
        })
        .try_service("writer", move |worker: &Worker| make(worker, &shared, open))
        .run()?;
    Ok(())
}
