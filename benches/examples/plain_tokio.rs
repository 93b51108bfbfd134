//! What one writes without ringhold: a MessagePack-RPC echo on tokio, with its socket from the service manager. It is
//! what the bench `restart` measures beside ringhold.
//!
//! Told to stop, it does its best: it accepts no more, answers what it has read whole, ends each connection, and exits.
//! The listening socket stays with the service manager, so that new clients wait and are not refused. With `--grace-ms`, for
//! where its successor serves already, each connection may have one more answer before it ends: so no request of a client
//! that asks within that time is on its way to a connection that ends.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;
use std::time::Duration;

use clap::Parser;
use listenfd::ListenFd;
use rmpv::Value;
use sd_notify::NotifyState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the connections may take to end.
const DRAIN: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Arguments {
    /// How long a connection that owes nothing may wait for one more request when the server stops.
    #[arg(long, default_value_t = 0)]
    grace_ms: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let grace = Duration::from_millis(Arguments::parse().grace_ms);
    let mut terminate = signal(SignalKind::terminate())?;
    let inherited = ListenFd::from_env().take_tcp_listener(0)?;
    let listener = inherited.ok_or("no socket from the service manager")?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    sd_notify::notify(&[NotifyState::Ready])?;

    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(serve(stream, stopping.clone(), grace));
            }
            Some(_) = connections.join_next() => {}
            _ = terminate.recv() => break,
        }
    }
    sd_notify::notify(&[NotifyState::Stopping])?;
    stop.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    // Those that take longer are cut.
    let _ = tokio::time::timeout(DRAIN, ended).await;
    Ok(())
}

/// Answers requests until the client ends or the server stops.
async fn serve(
    mut stream: TcpStream,
    mut stopping: watch::Receiver<bool>,
    grace: Duration,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(16 * 1024);
    let mut replies = Vec::new();
    loop {
        tokio::select! {
            // What is there comes first.
            biased;
            length = stream.read_buf(&mut received) => if length? == 0 {
                return Ok(());
            },
            () = over(&mut stopping, grace) => return stream.shutdown().await,
        }
        let mut used = 0;
        while let Some(request) = next(&mut &received[used..], &mut used) {
            answer(&request, &mut replies)?;
        }
        received.drain(..used);
        stream.write_all(&replies).await?;
        replies.clear();
        if *stopping.borrow() && received.is_empty() {
            return stream.shutdown().await;
        }
    }
}

/// Returns when the server has stopped for so long.
async fn over(stopping: &mut watch::Receiver<bool>, grace: Duration) {
    // That its other end is gone means the same.
    let _ = stopping.wait_for(|stops| *stops).await;
    tokio::time::sleep(grace).await;
}

/// The next whole object, if it is all there.
fn next(rest: &mut &[u8], used: &mut usize) -> Option<Value> {
    let before = rest.len();
    let value = rmpv::decode::read_value(rest).ok()?;
    *used += before - rest.len();
    Some(value)
}

/// `[0, id, method, [value]]` becomes `[1, id, nil, value]`, whatever the method.
fn answer(request: &Value, replies: &mut Vec<u8>) -> io::Result<()> {
    let [_, id, _, params] = request.as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let value = params.as_array().and_then(|params| params.first());
    let reply = [
        1.into(),
        id.clone(),
        Value::Nil,
        value.cloned().unwrap_or(Value::Nil),
    ];
    rmpv::encode::write_value(replies, &Value::Array(reply.to_vec())).map_err(io::Error::from)
}
