//! The peer on tokio: epoll, one task a connection. On several CPUs it is [`threads`].
//!
//! # How it is tuned
//! - A `LocalRuntime`, so that tasks need not be `Send`. A `LocalSet` on a current-thread runtime costs 1.00 to 1.09.
//! - What is received goes through one buffer for all connections. It is lent to a read while that is polled, so an
//!   idle connection has no buffer, and the memory is always warm. A `BytesMut` of 16 KiB and `read_buf` for each
//!   connection are as good for small messages (0.98 to 1.08), and cost up to 1.9 for 16 messages of 16 KiB.
//!   `readable` and `try_read` into the shared buffer cost 1.02 to 1.19: after a short read `poll_read` knows that the
//!   socket is empty, where `try_read` has to ask once more.
//! - That buffer has 128 KiB. 64 KiB cost 1.10 to 1.13 for 16 messages of 16 KiB; 256 KiB are no better (0.94 to
//!   1.04). For small messages it makes no difference.
//! - The replies to all messages of a read leave in one write, at once, from a buffer that is shared as well; only
//!   what the socket does not take is kept with the connection.
//! - The rest of a large message is read where it is to lie, 256 KiB at a time (64 KiB: 1.05 to 1.09; 1 MiB: 0.99 to
//!   1.02), and echoed from there by a gathering write (copied: 1.02 to 1.27). To read its beginning there as well,
//!   once a connection has sent a large message, is no gain (1.03 to 1.12).
//! - Events are written by whoever publishes them, to one subscriber after the other; a subscriber's task is woken
//!   only for what its socket does not take. To wake it always costs 1.06 to 1.14 on unix and 0.98 to 1.07 on TCP.
//! - The number of tasks between two looks at epoll, 61, makes no difference from 16 to 1024.
//!
//! The ratios are server CPU per message relative to the code as it is, over several runs on a busy machine.
#![forbid(unsafe_code)]

mod threads;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use ringhold_peers::{Arguments, Batch, Garbage, Listeners, Outbox, Replies, Service, Session};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

/// What all connections receive into.
const BUFFER_BYTES: usize = 128 * 1024;

/// A message of which more than this is missing is received into a buffer of its own.
const OWN_BYTES_MIN: usize = 32 * 1024;

/// How far that buffer is reserved ahead of what has arrived.
const OWN_BYTES_AHEAD: usize = 256 * 1024;

/// Pieces that one write gathers.
const PIECES_MAX: usize = 64;

fn main() -> io::Result<()> {
    let arguments = Arguments::read();
    let listeners = Listeners::open(&arguments)?;
    if arguments.threads() > 1 {
        return threads::run(listeners, arguments.threads());
    }
    let runtime = Builder::new_current_thread()
        .enable_io()
        .build_local(LocalOptions::default())?;
    runtime.block_on(serve(listeners))
}

/// What all connections share.
struct Worker {
    service: Rc<RefCell<Service>>,
    scratch: RefCell<Scratch>,
}

/// Buffers that are used while a task is polled, and are empty between.
struct Scratch {
    received: Vec<u8>,
    replies: Replies,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            received: vec![0; BUFFER_BYTES],
            replies: Replies::with_capacity(BUFFER_BYTES),
        }
    }
}

async fn serve(listeners: Listeners) -> io::Result<()> {
    let worker = Rc::new(Worker {
        service: Service::new(),
        scratch: RefCell::default(),
    });
    let same = worker.clone();
    accept(
        listeners,
        move |stream| drop(spawn_local(connection(stream, worker.clone()))),
        move |stream| drop(spawn_local(connection(stream, same.clone()))),
    )
    .await
}

/// Hands out what is accepted.
async fn accept(
    listeners: Listeners,
    on_tcp: impl Fn(TcpStream),
    on_unix: impl Fn(UnixStream),
) -> io::Result<()> {
    listeners.announce()?;
    let tcp = TcpListener::from_std(listeners.tcp)?;
    let unix = UnixListener::from_std(listeners.unix)?;
    let accept_tcp = async {
        loop {
            let (stream, _) = tcp.accept().await?;
            on_tcp(stream);
        }
    };
    let accept_unix = async {
        loop {
            let (stream, _) = unix.accept().await?;
            on_unix(stream);
        }
    };
    tokio::select! {
        error = accept_tcp => error,
        error = accept_unix => error,
    }
}

/// Answers until the client ends.
async fn connection<S: Stream>(mut stream: S, worker: Rc<Worker>) -> io::Result<()> {
    let mut session = Session::new(&worker.service);
    let mut unsent = Replies::default();
    loop {
        if session.missing() > OWN_BYTES_MIN {
            if !read_own(&mut stream, session.missing(), session.buffer()).await? {
                return Ok(());
            }
            session.received(&mut unsent)?;
        } else {
            let turn = poll_fn(|context| {
                let scratch = &mut worker.scratch.borrow_mut();
                poll_turn(
                    context,
                    &mut stream,
                    scratch,
                    &mut unsent,
                    |bytes, replies| session.receive(bytes, replies),
                )
            });
            if !turn.await? {
                return Ok(());
            }
        }
        if !unsent.is_empty() {
            send(&mut stream, &mut unsent).await?;
        }
        if let Some(outbox) = session.outbox().cloned() {
            return subscriber(Rc::new(stream), session, &outbox).await;
        }
    }
}

/// Receives into the shared buffer, handles what is whole, and sends the replies if the socket takes them. Those that
/// it does not take are `unsent`. `false` at the end of the stream.
fn poll_turn<S>(
    context: &mut Context<'_>,
    mut stream: &mut S,
    scratch: &mut Scratch,
    unsent: &mut Replies,
    receive: impl FnOnce(&[u8], &mut Replies) -> Result<(), Garbage>,
) -> Poll<io::Result<bool>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Scratch { received, replies } = scratch;
    let mut buffer = ReadBuf::new(received);
    ready!(Pin::new(&mut stream).poll_read(context, &mut buffer))?;
    let received = buffer.filled();
    if received.is_empty() {
        return Poll::Ready(Ok(false));
    }
    replies.clear();
    receive(received, replies)?;
    if let Some(bytes) = replies.plain()
        && !bytes.is_empty()
        && let Poll::Ready(sent) = Pin::new(&mut stream).poll_write(context, bytes)
    {
        bytes.drain(..sent?);
    }
    if !replies.is_empty() {
        std::mem::swap(replies, unsent);
    }
    Poll::Ready(Ok(true))
}

/// Receives behind what there is of a large message. `false` at the end of the stream.
async fn read_own<S: AsyncRead + Unpin>(
    stream: &mut S,
    missing: usize,
    buffer: &mut BytesMut,
) -> io::Result<bool> {
    buffer.reserve(missing.min(OWN_BYTES_AHEAD));
    Ok(stream.read_buf(buffer).await? > 0)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, replies: &mut Replies) -> io::Result<()> {
    if let Some(bytes) = replies.plain() {
        stream.write_all(bytes).await?;
        bytes.clear();
        return Ok(());
    }
    let mut batch = Batch::default();
    replies.take(&mut batch);
    stream.write_all_buf(&mut batch).await
}

/// Answers a client that gets events as well, whenever there are some.
///
/// Whoever publishes writes to the subscribers itself; only what a socket does not take at once is left to this task.
async fn subscriber<S: Stream>(stream: Rc<S>, session: Session, outbox: &Outbox) -> io::Result<()> {
    let same = stream.clone();
    outbox.set_shortcut(move |bytes| same.try_write(bytes).unwrap_or(0));
    let reader = &stream;
    // It owns the session, whose end is that of the outbox.
    let receive = async move {
        let mut session = session;
        let mut replies = Replies::default();
        loop {
            reader.readable().await?;
            session.buffer().reserve(4096);
            match reader.try_read_buf(session.buffer()) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            session.received(&mut replies)?;
            outbox.push_replies(&mut replies);
        }
    };
    let mut send = pin!(async {
        let mut batch = Batch::default();
        while outbox.take(&mut batch).await {
            while batch.has_remaining() {
                stream.writable().await?;
                match stream.try_write_batch(&batch) {
                    Ok(written) => batch.advance(written),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    });
    tokio::select! {
        ended = receive => match ended {
            Ok(()) => send.await,
            error => error,
        },
        ended = &mut send => ended,
    }
}

/// What both kinds of streams can do without being borrowed exclusively.
trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {
    async fn readable(&self) -> io::Result<()>;
    async fn writable(&self) -> io::Result<()>;
    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize>;
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    fn try_write_batch(&self, batch: &Batch) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let count = batch.chunks_vectored(&mut slices);
        self.try_write_vectored(&slices[..count])
    }
}

macro_rules! stream {
    ($stream:ty) => {
        impl Stream for $stream {
            async fn readable(&self) -> io::Result<()> {
                self.readable().await
            }

            async fn writable(&self) -> io::Result<()> {
                self.writable().await
            }

            fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
                self.try_read_buf(buffer)
            }

            fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
                self.try_write(bytes)
            }

            fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
                self.try_write_vectored(slices)
            }
        }
    };
}

stream!(TcpStream);
stream!(UnixStream);
