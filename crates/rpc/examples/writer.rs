//! A thread of the application's own writes what clients send to a file, on behalf of all workers. A restart or reload loses nothing of it,
//! nor does a stop, as far as the disk takes it. Try it with `cargo run -p ringhold-rpc --example writer`, from another terminal with
//! `ringhold call 127.0.0.1:4675 note '"it rains"'`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
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

/// A disk that hangs is not waited for any longer when the process ends: meanwhile no client is served.
const PATIENCE: Duration = Duration::from_secs(3);

/// Lines in their order.
type Lines = VecDeque<String>;

/// What the workers and the thread share.
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Those that are not written yet. The first of them may be under way.
    waiting: Lines,
    /// No more are taken, and the thread is to end.
    is_closed: bool,
    /// The thread has written what it could, or was waited for in vain.
    is_over: bool,
}

/// The way to the thread. Only routers own it, so that it is dropped with the last of them.
pub(crate) struct Writer(Arc<Queue>);

impl Writer {
    fn start(file: File, left: Lines) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            state: Mutex::new(State {
                waiting: left,
                is_closed: false,
                is_over: false,
            }),
            changed: Condvar::new(),
        });
        let shared = queue.clone();
        let thread = thread::Builder::new().name("writer".to_owned());
        thread.spawn(move || write(file, &shared))?;
        Ok(Writer(queue))
    }

    fn push(&self, line: String) -> Result<(), Fault> {
        let mut state = lock(&self.0.state);
        if state.is_closed {
            return Err(Fault::new("the server is restarting"));
        }
        if state.waiting.len() >= WAITING_MAX {
            return Err(Fault::new("the disk does not keep up"));
        }
        state.waiting.push_back(line);
        self.0.changed.notify_all();
        Ok(())
    }

    /// Has the thread write what it can, and ends it. What it could not write in time goes to the one of the workers that asks first. A
    /// line that is under way by then may be written twice: here, and by the successor.
    fn leave(&self) -> Option<Lines> {
        let mut state = lock(&self.0.state);
        state.is_closed = true;
        self.0.changed.notify_all();
        // Not for ever, as `JoinHandle::join` may: a worker that waits here for long is left behind, with its connections and all lines.
        let waited = self
            .0
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !state.is_over);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        let left = std::mem::take(&mut state.waiting);
        (!left.is_empty()).then_some(left)
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

/// The thread: until it is told to end, and all lines are written or taken away, or the disk takes none.
fn write(mut file: File, queue: &Queue) {
    let mut state = lock(&queue.state);
    loop {
        let Some(line) = state.waiting.front().map(|line| format!("{line}\n")) else {
            if state.is_closed {
                break;
            }
            let waited = queue.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        // Workers do not wait for the disk.
        drop(state);
        // A line of which the disk took a part is written once more.
        let is_written = file.write_all(line.as_bytes()).is_ok();
        state = lock(&queue.state);
        if is_written {
            state.waiting.pop_front();
        } else if state.is_closed {
            break;
        } else {
            let second = Duration::from_secs(1);
            let waited = queue
                .changed
                .wait_timeout_while(state, second, |state| !state.is_closed);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
    state.is_over = true;
    queue.changed.notify_all();
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
