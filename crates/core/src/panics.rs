//! Panics of services, which cost a call or a connection and not the process: what is known of one that was caught, and
//! what a panic hook may leave to the log.
//!
//! A worker catches a panic in any call of a service and logs it, at most ten a second; with the stack if `RUST_BACKTRACE` or
//! `RUST_LIB_BACKTRACE` asks for it, see [`std::backtrace`]. The panic hook of
//! the standard library prints it all the same, each time, before it is caught. A program that does not want that twice,
//! nor as often as some client likes, installs a hook that asks [`leave_to_log`]:
//!
//! ```
//! use std::panic;
//!
//! let usual = panic::take_hook();
//! panic::set_hook(Box::new(move |info| {
//!     if !ringhold_core::panics::leave_to_log(info) {
//!         usual(info);
//!     }
//! }));
//! ```

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

use crate::connection::Connection;
use crate::desk::Desk;
use crate::journal::Named;
use crate::peer::Link;
use crate::warnings::Kind;

/// What this thread does, as far as a panic is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Now {
    /// Nothing that would catch one.
    Unguarded,
    /// It calls a service.
    Guarded,
    /// The same, and one was left to the log that is not caught yet.
    Panicking,
}

thread_local! {
    static NOW: Cell<Now> = const { Cell::new(Now::Unguarded) };
    /// What is known of the panic, while it is `Panicking`.
    static NOTED: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

/// Whether a worker will catch this panic and log what it says and where it arose. For the panic hook of a program, which
/// need not print it then; only what a hook has asked about here is logged with its place and its stack.
///
/// It will not if it arose in another thread, or outside of the calls of a service, or while an earlier one unwinds, which
/// ends the process; that one is logged here. What a service catches itself is not logged, unless the service reports it
/// with [`Reply::report_panic`](crate::Reply::report_panic).
pub fn leave_to_log(panic: &PanicHookInfo<'_>) -> bool {
    let before = NOW.get();
    if before == Now::Unguarded || cfg!(panic = "abort") {
        return false;
    }
    let mut text = message(panic.payload()).to_owned();
    if let Some(place) = panic.location() {
        text = format!("{text}, at {place}");
    }
    NOW.set(Now::Panicking);
    let backtrace = Backtrace::capture();
    let first = NOTED.replace(Some(Caught { text, backtrace }));
    if let Some(first) = first.filter(|_| before == Now::Panicking) {
        tracing::error!("a panic was not caught before the next one: {first}");
    }
    before == Now::Guarded
}

/// A panic that was caught. It is displayed as what it says and, if the panic hook has asked [`leave_to_log`] about it, its
/// place, and its stack in further lines if one is asked for.
#[derive(Debug)]
pub struct Caught {
    text: String,
    /// Its symbols are looked for when it is displayed, since most panics of many are not.
    backtrace: Backtrace,
}

impl Caught {
    /// The panic that [`catch_unwind`] has just returned on this thread.
    pub fn new(panic: &(dyn Any + Send)) -> Self {
        if NOW.get() == Now::Panicking {
            NOW.set(Now::Guarded);
            if let Some(noted) = NOTED.take() {
                return noted;
            }
        }
        Caught {
            text: message(panic).to_owned(),
            backtrace: Backtrace::disabled(),
        }
    }

    /// Logs it, at most ten times a second on each worker: whoever finds out how to cause it can do so at any rate.
    #[cold]
    pub(crate) fn log(&self, what: &str, connection: &Connection, desk: &Desk, link: &dyn Link) {
        if !desk.warnings.lets_pass(Kind::Panic, desk.now) {
            return;
        }
        let named = Named::new(connection, desk, link);
        tracing::error!(
            socket = %named.socket,
            connection = %named.id,
            peer = named.peer(),
            "{what} panicked on {named}: {self}"
        );
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.backtrace.status() {
            BacktraceStatus::Captured => write!(f, "\n{}", self.backtrace),
            _ => Ok(()),
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with a value that is no text")
}

/// Calls a service. What becomes of its value after a panic is up to the service, as documented.
///
/// # Errors
///
/// The panic, which the caller logs.
#[inline]
pub(crate) fn catch<R>(call: impl FnOnce() -> R) -> Result<R, Caught> {
    let outer = NOW.replace(Now::Guarded);
    let result = catch_unwind(AssertUnwindSafe(call)).map_err(|panic| Caught::new(&*panic));
    NOW.set(outer);
    result
}
