//! Several threads, as `#[tokio::main]` has them: one epoll for all, and who has nothing to do takes the tasks of others.
//!
//! Each thread has the shared buffers and the service that the single one has; tasks use those of the thread that polls
//! them. Which thread accepts does not matter: tasks are where they are woken.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;

use ringhold_peers::{Listeners, MovingSession, Replies, Service};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Builder;
use tokio::spawn;

use crate::{OWN_BYTES_MIN, Scratch, accept, poll_turn, read_own, send};

/// What the tasks on one thread share.
struct Worker {
    service: Service,
    scratch: Scratch,
}

thread_local! {
    static WORKER: RefCell<Worker> = RefCell::new(Worker {
        service: Service::without_events(),
        scratch: Scratch::default(),
    });
}

pub(crate) fn run(listeners: Listeners, threads: usize) -> io::Result<()> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_io()
        .build()?;
    runtime.block_on(accept(
        listeners,
        |stream| drop(spawn(connection(stream))),
        |stream| drop(spawn(connection(stream))),
    ))
}

/// Answers until the client ends.
async fn connection<S>(mut stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = MovingSession::default();
    let mut unsent = Replies::default();
    loop {
        if session.missing() > OWN_BYTES_MIN {
            if !read_own(&mut stream, session.missing(), session.buffer()).await? {
                return Ok(());
            }
            WORKER.with_borrow_mut(|worker| session.received(&mut worker.service, &mut unsent))?;
        } else {
            let turn = poll_fn(|context| {
                WORKER.with_borrow_mut(|Worker { service, scratch }| {
                    poll_turn(
                        context,
                        &mut stream,
                        scratch,
                        &mut unsent,
                        |bytes, replies| session.receive(service, bytes, replies),
                    )
                })
            });
            if !turn.await? {
                return Ok(());
            }
        }
        if !unsent.is_empty() {
            send(&mut stream, &mut unsent).await?;
        }
    }
}
