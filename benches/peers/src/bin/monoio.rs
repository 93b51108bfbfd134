//! The peer on monoio: io_uring, one task a connection, buffers that are handed to the kernel and come back.
//!
//! # How it is tuned
//! - The ring is set up with `SINGLE_ISSUER`, `DEFER_TASKRUN`, `COOP_TASKRUN` and `TASKRUN_FLAG`. monoio's default,
//!   none of them, costs 0.96 to 1.22, `SINGLE_ISSUER` alone 0.96 to 1.24, with `COOP_TASKRUN` 0.98 to 1.07: most on
//!   TCP, and when the machine is busy. The size of the ring makes no difference from 256 to 16,384 (0.99 to 1.01).
//! - One `BytesMut` a connection to receive into, behind what there is of a message. A `Vec` that is received into
//!   from its start, with the beginnings of messages copied elsewhere, is as good for small messages (0.93 to 1.04)
//!   and worse for 16 messages of 16 KiB (1.10 to 1.20).
//! - At least 64 KiB of room for each receive. 32 KiB cost 1.07 to 1.24 for 16 messages of 16 KiB, and 0.96 to 1.00
//!   for small ones; 256 KiB 0.85 to 1.07 and 0.99 to 1.03; room that grows from 16 KiB when it was filled 0.99 to
//!   1.12 and 0.97 to 1.00.
//! - One write for all replies of a receive, and the next receive behind it. To receive while the replies are sent
//!   costs 1.08 to 1.24 with 64 connections (with one 0.95 to 1.04): when a receive is submitted later, what it asks
//!   for has often come already.
//! - Waiting with `readable`, and a buffer from a pool only then, costs 0.97 to 1.19; streams of the `poll-io`
//!   feature, with one buffer for all connections, 0.92 with one connection and 1.08 to 1.21 with more.
//! - One accept at a time. With 4 or 16 at once, short connections cost 0.97 to 1.01 one at a time; of 64 at a time 0.98 to 1.02
//!   over TCP and 1.04 to 1.11 over unix sockets.
//!
//! The ratios are server CPU per message relative to the code as it is, over several runs on a busy machine.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use io_uring_for_tokio::IoUring;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Split, Splitable};
use monoio::net::{TcpListener, UnixListener};
use monoio::{IoUringDriver, RuntimeBuilder, spawn};
use ringhold_peers::{Batch, Listeners, Outbox, Replies, Service, Session, serve_on_each_cpu};

/// As many operations as can be submitted at once; twice as many can complete. With 10,000 connections as many
/// receives are in flight.
const ENTRIES: u32 = 16 * 1024;

/// The least that a receive has room for.
const RECEIVE_BYTES: usize = 64 * 1024;

/// How far room is made ahead of what has arrived of a large message.
const RECEIVE_BYTES_AHEAD: usize = 256 * 1024;

/// Events up to this length are joined when several wait: monoio can gather bytes that are shared only by way of raw
/// pointers.
const JOIN_BYTES_MAX: usize = 16 * 1024;

fn main() -> io::Result<()> {
    serve_on_each_cpu(run)
}

fn run(listeners: Listeners) -> io::Result<()> {
    let mut ring = IoUring::builder();
    ring.setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag();
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(ring)
        .with_entries(ENTRIES)
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
            spawn(connection(stream, service.clone()));
        }
    };
    let accept_unix = async {
        loop {
            let (stream, _) = unix.accept().await?;
            spawn(connection(stream, service.clone()));
        }
    };
    monoio::select! {
        error = accept_tcp => error,
        error = accept_unix => error,
    }
}

/// Answers until the client ends.
async fn connection<S>(mut stream: S, service: Rc<RefCell<Service>>) -> io::Result<()>
where
    S: AsyncReadRent + AsyncWriteRent + Split + 'static,
{
    let mut session = Session::new(&service);
    let mut replies = Replies::default();
    loop {
        if !receive(&mut stream, &mut session).await? {
            return Ok(());
        }
        session.received(&mut replies)?;
        send(&mut stream, &mut replies).await?;
        if let Some(outbox) = session.outbox().cloned() {
            return subscriber(stream, session, outbox).await;
        }
    }
}

/// Receives behind what there is of a message. `false` at the end of the stream.
async fn receive(stream: &mut impl AsyncReadRent, session: &mut Session) -> io::Result<bool> {
    let room = session.missing().clamp(RECEIVE_BYTES, RECEIVE_BYTES_AHEAD);
    let mut buffer = std::mem::take(session.buffer());
    buffer.reserve(room);
    let start = buffer.len();
    let (result, buffer) = stream.read(buffer.slice_mut(start..)).await;
    *session.buffer() = buffer.into_inner();
    Ok(result? > 0)
}

async fn send(stream: &mut impl AsyncWriteRent, replies: &mut Replies) -> io::Result<()> {
    if replies.is_empty() {
        return Ok(());
    }
    if let Some(bytes) = replies.plain() {
        let (result, mut sent) = stream.write_all(std::mem::take(bytes)).await;
        sent.clear();
        *bytes = sent;
        return result.map(drop);
    }
    let mut batch = Batch::default();
    replies.take(&mut batch);
    send_batch(stream, &mut batch).await
}

async fn send_batch(stream: &mut impl AsyncWriteRent, batch: &mut Batch) -> io::Result<()> {
    while let Some(piece) = batch.pop_joined(JOIN_BYTES_MAX) {
        stream.write_all(piece).await.0?;
    }
    Ok(())
}

/// Answers a client that gets events as well. What is to be sent goes through its outbox, which a task of its own
/// empties, since a receive in flight cannot be put aside.
async fn subscriber<S>(stream: S, mut session: Session, outbox: Rc<Outbox>) -> io::Result<()>
where
    S: AsyncReadRent + AsyncWriteRent + Split + 'static,
{
    let (mut reader, mut writer) = stream.into_split();
    let mut replies = Replies::default();
    let same = outbox.clone();
    spawn(async move {
        let mut batch = Batch::default();
        while same.take(&mut batch).await && send_batch(&mut writer, &mut batch).await.is_ok() {}
        let _ = writer.shutdown().await;
    });
    while receive(&mut reader, &mut session).await? {
        session.received(&mut replies)?;
        outbox.push_replies(&mut replies);
    }
    Ok(())
}
