//! The peer on tokio-uring: io_uring below tokio's scheduler, one task a connection, buffers that are handed to the
//! kernel and come back.
//!
//! # How it is tuned
//! - The ring is set up with `SINGLE_ISSUER`, `COOP_TASKRUN` and `TASKRUN_FLAG`. None of them costs 0.99 to 1.11,
//!   single ones are in between. With `DEFER_TASKRUN` tokio-uring hangs: it waits in epoll, where deferred work is not
//!   seen.
//! - One `BytesMut` a connection to receive into, behind what there is of a message, with at least 64 KiB of room. For
//!   small messages 16 KiB are no better (0.97 to 1.00).
//! - One write for all replies of a receive, and the next receive behind it. To receive while the replies are sent
//!   costs 1.01 to 1.25.
//! - Connections are accepted when tokio says that there are some (`AsyncFd`), since tokio-uring cannot take over a unix listener.
//!   Short connections by way of tokio's own listeners, which put each into the epoll and out of it again, cost 1.04 to 1.07 one
//!   at a time and 0.97 to 1.04 with 64 at a time; over TCP, with 16 accepts in the ring at once, 1.00 to 1.04 and 0.97 to 1.00.
//!
//! The ratios are server CPU per message relative to the code as it is, over several runs on a busy machine.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use ringhold_peers::{Batch, Listeners, Outbox, Replies, Service, Session, serve_on_each_cpu};
use tokio::io::unix::AsyncFd;
use tokio_uring::BufResult;
use tokio_uring::buf::{BoundedBuf, BoundedBufMut};
use tokio_uring::net::{TcpStream, UnixStream};
use tokio_uring::spawn;

/// As many operations as can be submitted at once. With 10,000 connections as many receives are in flight.
const ENTRIES: u32 = 16 * 1024;

/// tokio-uring can hang if completions do not fit.
const COMPLETIONS: u32 = 4 * ENTRIES;

/// The least that a receive has room for.
const RECEIVE_BYTES: usize = 64 * 1024;

/// How far room is made ahead of what has arrived of a large message.
const RECEIVE_BYTES_AHEAD: usize = 256 * 1024;

/// Pieces that one write gathers.
const PIECES_MAX: usize = 64;

fn main() -> io::Result<()> {
    serve_on_each_cpu(run)
}

fn run(listeners: Listeners) -> io::Result<()> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_single_issuer()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_cqsize(COMPLETIONS);
    tokio_uring::builder()
        .entries(ENTRIES)
        .uring_builder(&ring)
        .start(serve(listeners))
}

async fn serve(listeners: Listeners) -> io::Result<()> {
    let service = Service::new();
    listeners.announce()?;
    let tcp = register(listeners.tcp)?;
    let unix = register(listeners.unix)?;
    let accept_tcp = async {
        loop {
            let (stream, _) = accepted(&tcp, TcpListener::accept).await?;
            spawn(connection(TcpStream::from_std(stream), service.clone()));
        }
    };
    let accept_unix = async {
        loop {
            let (stream, _) = accepted(&unix, UnixListener::accept).await?;
            spawn(connection(UnixStream::from_std(stream), service.clone()));
        }
    };
    tokio::select! {
        error = accept_tcp => error,
        error = accept_unix => error,
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for what does not keep its descriptor open; listeners do"
)]
fn register<L: AsRawFd>(listener: L) -> io::Result<AsyncFd<L>> {
    AsyncFd::new(listener)
}

/// The next connection, whose socket does not say that it should not be waited for: operations of a ring wait by themselves,
/// but not for sockets that say so.
async fn accepted<L: AsRawFd, S>(
    listener: &AsyncFd<L>,
    accept: impl Fn(&L) -> io::Result<S>,
) -> io::Result<S> {
    loop {
        let mut ready = listener.readable().await?;
        if let Ok(accepted) = ready.try_io(|listener| accept(listener.get_ref())) {
            return accepted;
        }
    }
}

/// What both kinds of streams can do.
trait Stream: 'static {
    async fn read<B: BoundedBufMut>(&self, buffer: B) -> BufResult<usize, B>;
    async fn write_all(&self, bytes: Vec<u8>) -> BufResult<(), Vec<u8>>;
    async fn write_vectored(&self, pieces: Vec<Bytes>) -> BufResult<usize, Vec<Bytes>>;
    fn shutdown(&self);
}

macro_rules! stream {
    ($stream:ty) => {
        impl Stream for $stream {
            async fn read<B: BoundedBufMut>(&self, buffer: B) -> BufResult<usize, B> {
                self.read(buffer).await
            }

            async fn write_all(&self, bytes: Vec<u8>) -> BufResult<(), Vec<u8>> {
                self.write_all(bytes).await
            }

            async fn write_vectored(&self, pieces: Vec<Bytes>) -> BufResult<usize, Vec<Bytes>> {
                self.writev(pieces).await
            }

            fn shutdown(&self) {
                // It fails if the client has closed the connection, which the receive reports, too.
                let _ = self.shutdown(Shutdown::Both);
            }
        }
    };
}

stream!(TcpStream);
stream!(UnixStream);

/// Answers until the client ends.
async fn connection<S: Stream>(stream: S, service: Rc<RefCell<Service>>) -> io::Result<()> {
    let mut session = Session::new(&service);
    let mut replies = Replies::default();
    loop {
        if !receive(&stream, &mut session).await? {
            return Ok(());
        }
        session.received(&mut replies)?;
        send(&stream, &mut replies).await?;
        if let Some(outbox) = session.outbox().cloned() {
            return subscriber(Rc::new(stream), session, outbox).await;
        }
    }
}

/// Receives behind what there is of a message. `false` at the end of the stream.
async fn receive<S: Stream>(stream: &S, session: &mut Session) -> io::Result<bool> {
    let room = session.missing().clamp(RECEIVE_BYTES, RECEIVE_BYTES_AHEAD);
    let mut buffer = std::mem::take(session.buffer());
    buffer.reserve(room);
    let start = buffer.len();
    let (result, buffer) = stream.read(buffer.slice(start..)).await;
    *session.buffer() = buffer.into_inner();
    Ok(result? > 0)
}

async fn send<S: Stream>(stream: &S, replies: &mut Replies) -> io::Result<()> {
    if replies.is_empty() {
        return Ok(());
    }
    if let Some(bytes) = replies.plain() {
        let (result, mut sent) = stream.write_all(std::mem::take(bytes)).await;
        sent.clear();
        *bytes = sent;
        return result;
    }
    let mut batch = Batch::default();
    replies.take(&mut batch);
    send_batch(stream, &mut batch).await
}

async fn send_batch<S: Stream>(stream: &S, batch: &mut Batch) -> io::Result<()> {
    while batch.has_remaining() {
        let pieces = batch.pieces().take(PIECES_MAX).cloned().collect();
        let (result, _) = stream.write_vectored(pieces).await;
        batch.advance(result?);
    }
    Ok(())
}

/// Answers a client that gets events as well. What is to be sent goes through its outbox, which a task of its own
/// empties, since a receive in flight cannot be put aside.
async fn subscriber<S: Stream>(
    stream: Rc<S>,
    mut session: Session,
    outbox: Rc<Outbox>,
) -> io::Result<()> {
    let mut replies = Replies::default();
    spawn(publish(stream.clone(), outbox.clone()));
    while receive(&*stream, &mut session).await? {
        session.received(&mut replies)?;
        outbox.push_replies(&mut replies);
    }
    Ok(())
}

/// Sends what a subscriber is to get, its replies as well.
async fn publish<S: Stream>(stream: Rc<S>, outbox: Rc<Outbox>) {
    let mut batch = Batch::default();
    while outbox.take(&mut batch).await && send_batch(&*stream, &mut batch).await.is_ok() {}
    stream.shutdown();
}
