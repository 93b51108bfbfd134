//! The peer on compio: io_uring, one task a connection, multishot receives into a pool of buffers.
//!
//! # How it is tuned
//! - The ring is set up with `single_issuer`, `defer_taskrun`, `coop_taskrun` and `taskrun_flag`. None of them, which
//!   is the default, costs 1.10 to 1.31; all but `defer_taskrun` 1.00 to 1.32.
//! - Up to 16,384 tasks run before the ring is looked at in between. With the default, 61, more connections than that
//!   cost dearly (1024: 1.31 to 1.77; 64: 0.99 to 1.02), because such a look waits, for no time, and so arms a timer.
//! - `read_multi`, multishot receives into the pool. `read_managed`, one at a time from the same pool, costs 1.06 to
//!   1.26; `read` into a `BytesMut` of the connection 1.03 to 1.14.
//! - But that is what a connection begins with, and stays with while it sends much at once: pieces of large messages
//!   would have to be copied together (1 MiB: 1.26; 16 messages of 16 KiB: 1.04 to 1.30). It is also the way out when
//!   the pool is empty.
//! - 64 buffers of 64 KiB. 32 and 128 KiB (0.96 to 1.10), and 256 and 1024 buffers (0.95 to 1.12), are no clear
//!   difference.
//! - One accept at a time, and a close when a connection is dropped. Multishot accepts (`incoming`) cost 0.97 to 1.04 for a short
//!   connection, closing through the ring 1.00 to 1.04, and both together 1.01 to 1.05 one at a time and 0.96 to 1.01 with 64 at
//!   a time.
//!
//! The ratios are server CPU per message relative to the code as it is, over several runs on a busy machine.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::iter;
use std::num::NonZeroU16;
use std::pin::pin;
use std::rc::Rc;

use bytes::BytesMut;
use compio::buf::{BufResult, IntoInner, IoBuf, IoBufMut};
use compio::driver::ProactorBuilder;
use compio::io::{AsyncRead, AsyncReadMulti, AsyncWrite, AsyncWriteExt};
use compio::net::{TcpListener, UnixListener};
use compio::runtime::{RuntimeBuilder, spawn};
use futures_util::{FutureExt, StreamExt, select_biased};
use ringhold_peers::{Batch, Listeners, Outbox, Replies, Service, Session, serve_on_each_cpu};

/// As many operations as can be submitted at once; twice as many can complete.
const ENTRIES: u32 = 16 * 1024;

/// The pool of buffers that is received into.
const POOL_BUFFERS: NonZeroU16 = NonZeroU16::new(64).unwrap();
const POOL_BUFFER_BYTES: usize = 64 * 1024;

/// What a receive without the pool has room for at least, and at most ahead of what has arrived.
const OWN_BYTES_MIN: usize = 64 * 1024;
const OWN_BYTES_AHEAD: usize = 256 * 1024;

/// A connection is received from without the pool until it has sent less than so much so many times in a row.
const MUCH_BYTES: usize = 32 * 1024;
const PLAIN_RECEIVES: u32 = 8;

/// So many tasks run before the ring is looked at in between: as many as there may be.
const EVENT_INTERVAL: usize = 16 * 1024;

fn main() -> io::Result<()> {
    serve_on_each_cpu(run)
}

fn run(listeners: Listeners) -> io::Result<()> {
    let mut proactor = ProactorBuilder::new();
    proactor
        .capacity(ENTRIES)
        .single_issuer(true)
        .defer_taskrun(true)
        .coop_taskrun(true)
        .taskrun_flag(true)
        .buffer_pool_size(POOL_BUFFERS)
        .buffer_pool_buffer_len(POOL_BUFFER_BYTES);
    let runtime = RuntimeBuilder::new()
        .with_proactor(proactor)
        .event_interval(EVENT_INTERVAL)
        .build()?;
    runtime.block_on(serve(listeners))
}

async fn serve(listeners: Listeners) -> io::Result<()> {
    let service = Service::new();
    listeners.announce()?;
    let tcp = TcpListener::from_std(listeners.tcp)?;
    let unix = UnixListener::from_std(listeners.unix)?;
    let accept_tcp = async {
        loop {
            let (stream, _) = tcp.accept().await?;
            spawn(connection(stream, service.clone())).detach();
        }
    };
    let accept_unix = async {
        loop {
            let (stream, _) = unix.accept().await?;
            spawn(connection(stream, service.clone())).detach();
        }
    };
    select_biased! {
        error = pin!(accept_tcp.fuse()) => error,
        error = pin!(accept_unix.fuse()) => error,
    }
}

/// Answers until the client ends.
async fn connection<S>(mut stream: S, service: Rc<RefCell<Service>>) -> io::Result<()>
where
    S: AsyncRead + AsyncReadMulti + AsyncWrite + Clone + 'static,
{
    let mut session = Session::new(&service);
    let mut replies = Replies::default();
    let mut outbox: Option<Rc<Outbox>> = None;
    let mut reader = stream.clone();
    let mut received = pin!(reader.read_multi(0));
    // The plain receives still to come. There is one at least: a multishot receive that finds data and the end of the
    // stream when it begins misses the end.
    let mut plain = PLAIN_RECEIVES;
    loop {
        if plain > 0 {
            let length = receive(&mut stream, &mut session).await?;
            if length == 0 {
                return Ok(());
            }
            session.received(&mut replies)?;
            if length >= MUCH_BYTES {
                plain = PLAIN_RECEIVES;
            } else if session.missing() == 0 {
                plain -= 1;
                if plain == 0 {
                    *session.buffer() = BytesMut::new();
                }
            }
        } else {
            match received.next().await {
                None => return Ok(()),
                Some(Ok(buffer)) => session.receive(buffer.as_init(), &mut replies)?,
                // The pool is empty.
                Some(Err(error)) if error.kind() == ErrorKind::ResourceBusy => plain = 1,
                Some(Err(error)) => return Err(error),
            }
        }
        match &outbox {
            None => send(&mut stream, &mut replies).await?,
            Some(outbox) => outbox.push_replies(&mut replies),
        }
        if outbox.is_none()
            && let Some(subscribed) = session.outbox()
        {
            outbox = Some(subscribed.clone());
            spawn(publish(stream.clone(), subscribed.clone())).detach();
        }
    }
}

/// Receives without the pool, behind what there is of a message.
async fn receive(stream: &mut impl AsyncRead, session: &mut Session) -> io::Result<usize> {
    let room = session.missing().clamp(OWN_BYTES_MIN, OWN_BYTES_AHEAD);
    let mut buffer = std::mem::take(session.buffer());
    BytesMut::reserve(&mut buffer, room);
    let BufResult(result, buffer) = stream.read(buffer.uninit()).await;
    *session.buffer() = buffer.into_inner();
    result
}

async fn send(stream: &mut impl AsyncWrite, replies: &mut Replies) -> io::Result<()> {
    if replies.is_empty() {
        return Ok(());
    }
    if let Some(bytes) = replies.plain() {
        let BufResult(result, mut sent) = stream.write_all(std::mem::take(bytes)).await;
        sent.clear();
        *bytes = sent;
        return result;
    }
    let mut batch = Batch::default();
    replies.take(&mut batch);
    send_batch(stream, &mut batch).await
}

async fn send_batch(stream: &mut impl AsyncWrite, batch: &mut Batch) -> io::Result<()> {
    let pieces: Vec<_> = iter::from_fn(|| batch.pop()).collect();
    let BufResult(result, _) = stream.write_vectored_all(pieces).await;
    result
}

/// Sends what a subscriber is to get, its replies as well.
async fn publish(mut stream: impl AsyncWrite, outbox: Rc<Outbox>) {
    let mut batch = Batch::default();
    while outbox.take(&mut batch).await && send_batch(&mut stream, &mut batch).await.is_ok() {}
    let _ = stream.shutdown().await;
}
