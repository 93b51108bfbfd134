//! What one writes without ringhold: a MessagePack-RPC echo on tokio, with its socket from the service manager. It is
//! what the bench `restart` measures beside ringhold.
//!
//! Told to stop, it does its best: it accepts no more, answers what it has read whole, ends each connection, and exits.
//! The listening socket stays with the service manager, so that new clients wait and are not refused.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;
use std::time::Duration;

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

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let inherited = ListenFd::from_env().take_tcp_listener(0)?;
    let listener = inherited.ok_or("no socket from the service manager")?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    sd_notify::notify(&[NotifyState::Ready])?;

    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(serve(stream, stopping.clone()));
            }
            Some(_) = connections.join_next() => {}
            _ = terminate.recv() => break,
        }
    }
    sd_notify::notify(&[NotifyState::Stopping])?;
    stop.send_replace(());
    let ended = async { while connections.join_next().await.is_some() {} };
    // Those that take longer are cut.
    let _ = tokio::time::timeout(DRAIN, ended).await;
    Ok(())
}

/// Answers requests until the client ends or the server stops.
async fn serve(mut stream: TcpStream, mut stopping: watch::Receiver<()>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(16 * 1024);
    let mut replies = Vec::new();
    loop {
        tokio::select! {
            length = stream.read_buf(&mut received) => if length? == 0 {
                return Ok(());
            },
            _ = stopping.changed() => return stream.shutdown().await,
        }
        let mut used = 0;
        while let Some(request) = next(&mut &received[used..], &mut used) {
            answer(&request, &mut replies)?;
        }
        received.drain(..used);
        stream.write_all(&replies).await?;
        replies.clear();
    }
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
