//! The core of a socket server for high-rate data daemons on Linux.
//!
//! A daemon is a set of *named sockets*, each answered by a *service*. The sockets come from the service manager by
//! name (systemd socket activation) or are bound as the configuration says; their connections are spread over
//! *workers*, one thread and one io_uring per core; msgpack frames are cut out of the stream without copying them and
//! lent to the service.
//!
//! ```no_run
//! use ringhold_core::config::Config;
//! use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Saved, Server, Service};
//!
//! /// Sends every frame back.
//! struct Echo;
//!
//! impl Service for Echo {
//!     type Session = ();
//!
//!     fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
//!         Ok(())
//!     }
//!
//!     fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
//!         reply.write(|out| out.extend_from_slice(&frame));
//!         Flow::Continue
//!     }
//!
//!     // Without it, each restart and reload would end the connections.
//!     fn save(&self, _: &()) -> Saved {
//!         Saved::Stateless
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = Config::parse(
//!         "[sockets.echo]\nservice = \"echo\"\nlisten = [\"127.0.0.1:4661\"]\n",
//!         "built-in",
//!     )?;
//!     Server::new(config).service("echo", |_| Echo).run()?;
//!     Ok(())
//! }
//! ```

pub mod config;
pub mod cpus;
pub mod inherit;
pub mod limits;
pub mod listeners;
pub mod metrics;
pub mod panics;
pub mod probe;
pub mod rlimit;
pub mod testing;

// The service that is one closure, which other tests have, too.
#[cfg(test)]
extern crate self as ringhold_core;
#[cfg(test)]
#[path = "../tests/common/service.rs"]
mod answering;
mod belongings;
mod calling;
mod cgroup;
mod close;
mod connection;
mod control;
mod crew;
mod crowd;
mod desk;
mod engine;
mod fan;
mod frame;
mod handover;
mod heap;
mod host;
mod journal;
mod mailbox;
mod memory;
mod notify;
mod outbox;
mod partial;
mod patience;
mod peer;
mod placement;
mod plain;
mod pool;
mod proxy;
mod reply;
mod run;
mod running;
#[cfg(test)]
mod seccomp;
mod server;
mod service;
mod shard;
mod slots;
mod slow;
mod sync;
mod tick;
mod tickets;
mod timers;
mod transit;
mod warnings;
mod worker;

pub use close::{Close, Ended};
pub use engine::EngineKind;
pub use frame::Frame;
pub use handover::bequest::Claims;
pub use peer::{ConnectionId, Credentials, Handle, Peer, PeerAddress, PushError};
// For what ringhold-rpc says. Not for others.
#[doc(hidden)]
pub use plain::{Plain, with_sources};
pub use reply::{Abandoned, Reply, Responder, Ticket};
pub use run::block_signals;
pub use running::Running;
pub use server::{Server, ServerError};
pub use service::{Flow, Refusal, RestoreError, Saved, Service, SourceId, TopLevel, Watch};
pub use tick::Tick;
pub use worker::Worker;
