//! MessagePack-RPC as a service of ringhold-core.
#![forbid(unsafe_code)]

mod answer;
mod builtin;
mod call;
mod context;
mod envelope;
mod fault;
mod names;
mod notify;
mod params;
mod responder;
mod router;
mod service;
mod session;
mod strings;
mod token;

pub use answer::{Answer, Answered};
pub use call::Call;
pub use context::Context;
pub use fault::Fault;
pub use notify::{Notification, Notifier, NotifyError};
pub use responder::Responder;
pub use router::Router;
pub use service::Rpc;
pub use session::Session;
pub use strings::Strings;
