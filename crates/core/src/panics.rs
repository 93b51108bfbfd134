//! Panics of services, which cost a call or a connection and not the process: what is known of one that was caught, and
//! what a panic hook may leave to the log.
//!
//! A worker catches a panic in any call of a service and logs it, at most ten a second, two of one client, and all in the last call; with
//! the stack if `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` asks for it, see [`std::backtrace`]. The panic hook of the standard library prints
//! it all the same, each time, before it is caught. A program that does not want that twice, nor as often as some client likes, calls
//! [`leave_caught_to_log`] when its log has begun; one with a hook of its own asks [`leave_to_log`] there.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::rc::Rc;
use std::time::Instant;

use crate::calling::Call;
use crate::connection::Connection;
use crate::desk::Desk;
use crate::journal::{Named, whose};
use crate::peer::Link;
use crate::plain::Plain;
use crate::warnings::{Kind, Warnings};

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
    static NOTED: RefCell<Option<Noted>> = const { RefCell::new(None) };
    static GIVEN: Rc<Cell<usize>> = Rc::default();
    /// Bounds what is logged of calls that panic again.
    static AGAIN: (Instant, Warnings) = (Instant::now(), Warnings::default());
}

/// A panic that was left to the log.
struct Noted {
    caught: Caught,
    /// How many [frames were given](given) by then. If it is more now the call in which it arose has returned, so that its
    /// service has caught it.
    given: usize,
}

/// How many frames the services of this thread were given: whoever gives them counts.
pub(crate) fn given() -> Rc<Cell<usize>> {
    GIVEN.with(Rc::clone)
}

/// The panic that was left to the log last, if the call in which it arose has not returned.
fn take_noted() -> Option<Caught> {
    let noted = NOTED.take()?;
    (noted.given == given().get()).then_some(noted.caught)
}

/// From now on a panic that a worker will catch is only logged, by that worker, which bounds how much it logs: whoever finds
/// out how to cause one could make the usual hook write at any rate. Others are printed as ever.
pub fn leave_caught_to_log() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        if !leave_to_log(panic) {
            usual(panic);
        }
    }));
}

/// Whether a worker will catch this panic and log what it says and where it arose. For the panic hook of a program, which
/// need not print it then; only what a hook has asked about here is logged with its place and its stack.
///
/// It will not if it arose in another thread, or outside of the calls of a service and the one that makes it. What a service catches itself is not
/// logged, unless the service reports it with [`Reply::report_panic`](crate::Reply::report_panic) or
/// [`Tick::report_panic`](crate::Tick::report_panic).
///
/// A call may panic again while an earlier panic of it unwinds, which ends the process, or when its service has caught that one. Only
/// if the service gives what it catches to [`Caught::new`] is it known which. Otherwise the earlier one is logged here and the
/// later one left to the hook, at most ten times a second.
pub fn leave_to_log(panic: &PanicHookInfo<'_>) -> bool {
    let before = NOW.get();
    if before == Now::Unguarded || cfg!(panic = "abort") {
        return false;
    }
    let mut text = Plain(message(panic.payload())).to_string();
    if let Some(place) = panic.location() {
        text = format!("{text}, at {place}");
    }
    let first = take_noted().filter(|_| before == Now::Panicking);
    NOW.set(Now::Panicking);
    let backtrace = Backtrace::capture();
    NOTED.set(Some(Noted {
        caught: Caught { text, backtrace },
        given: given().get(),
    }));
    first.is_none_or(|first| !says_again(&first))
}

/// Logs a panic that was not reported before the same call panicked again. Returns whether it did.
#[cold]
fn says_again(first: &Caught) -> bool {
    AGAIN.with(|(start, warnings)| {
        let now = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let passes = warnings.lets_pass(Kind::Panic, now);
        if passes {
            tracing::error!("a call of a service panics again; before: {first}");
        }
        passes
    })
}

/// A panic that was caught. It is displayed as what it says (in one line, for which line ends and other control characters are
/// escaped, and no more of it than 2000 bytes) and, if the panic hook has asked [`leave_to_log`] about it, its place, and its stack
/// in further lines if one is asked for.
#[derive(Debug)]
pub struct Caught {
    text: String,
    /// Its symbols are looked for when it is displayed, since most panics of many are not.
    backtrace: Backtrace,
}

impl Caught {
    /// The panic that [`catch_unwind`] has just returned on this thread. Its value is dropped; should that panic, nobody
    /// learns of it.
    pub fn new(panic: Box<dyn Any + Send>) -> Self {
        let noted = settle();
        let caught = noted.unwrap_or_else(|| Caught {
            text: Plain(message(&*panic)).to_string(),
            backtrace: Backtrace::disabled(),
        });
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            // That one may do the same.
            std::mem::forget(another);
            settle();
        }
        caught
    }

    /// What it says and, if that is known, its place.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Logs it, at most ten times a second on each worker, twice for each client: whoever finds out how to cause it can do so at
    /// any rate.
    #[cold]
    pub(crate) fn log(&self, what: &str, connection: &Connection, desk: &Desk, link: &dyn Link) {
        self.log_in(what, "", connection, desk, link);
    }

    /// As [`Caught::log`], of what only the worker has caught.
    #[cold]
    pub(crate) fn log_call(
        &self,
        call: Call,
        connection: &Connection,
        desk: &Desk,
        link: &dyn Link,
    ) {
        let place = match call {
            Call::Frame => String::new(),
            call => format!(" in {call}"),
        };
        self.log_in("the service", &place, connection, desk, link);
    }

    fn log_in(
        &self,
        what: &str,
        place: &str,
        connection: &Connection,
        desk: &Desk,
        link: &dyn Link,
    ) {
        let client = || whose(connection, desk, link);
        if !desk.warnings.lets_pass_of(Kind::Panic, desk.now, client) {
            return;
        }
        let named = Named::new(connection, desk, link);
        tracing::error!(
            socket = %named.socket,
            connection = %named.id,
            peer = named.peer(),
            "{} panicked{place} on {named}: {self}",
            Plain(what)
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

/// What was left to the log does not unwind any more.
fn settle() -> Option<Caught> {
    if NOW.get() != Now::Panicking {
        return None;
    }
    NOW.set(Now::Guarded);
    take_noted()
}

/// What a panic says.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
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
    let result = catch_unwind(AssertUnwindSafe(call)).map_err(Caught::new);
    NOW.set(outer);
    result
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;
    use std::sync::Once;

    use super::*;
    use crate::answering::answering;
    use crate::frame::Frame;
    use crate::reply::Reply;
    use crate::service::Flow;
    use crate::testing::Exchange;

    thread_local! {
        /// What the hook was told of each panic of this thread.
        static TOLD: RefCell<Vec<bool>> = const { RefCell::new(Vec::new()) };
    }

    const CATCH: u8 = 1;
    const REPORT: u8 = 2;
    const FAIL: u8 = 3;

    /// A value that panics when it is dropped, with another such value.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic_any(Bomb);
            }
        }
    }

    /// Panics as many times as the frame's second byte says, and catches that unless it is to `FAIL`.
    fn careful(frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        for _ in 0..frame[2] {
            if frame[1] == FAIL {
                panic_any(Bomb);
            }
            let panic = catch_unwind(|| panic!("on purpose")).unwrap_err();
            if frame[1] == REPORT {
                reply.report_panic("a part of it", &Caught::new(panic));
            }
        }
        reply.write(|out| out.push(frame[1]));
        Flow::Continue
    }

    fn exchange() -> Exchange {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let usual = take_hook();
            set_hook(Box::new(move |info| {
                let is_left = leave_to_log(info);
                TOLD.with_borrow_mut(|told| told.push(is_left));
                if !info.payload().is::<Bomb>() && message(info.payload()) != "on purpose" {
                    usual(info);
                }
            }));
        });
        TOLD.take();
        Exchange::new(answering(careful))
    }

    #[test]
    fn what_a_service_catches_is_neither_logged_nor_printed() {
        let mut exchange = exchange();
        let client = exchange.connect();
        exchange.receive(client, &[0x92, CATCH, 1].repeat(500));
        assert_eq!(TOLD.take(), [true; 500]);
        exchange.receive(client, &[0x92, REPORT, 100].repeat(2));
        assert_eq!(TOLD.take(), [true; 200]);
        assert_eq!(exchange.counters().panics, 200);
        assert_eq!(exchange.take_sent(client).len(), 502);
    }

    #[test]
    fn of_a_call_that_panics_again_little_is_printed() {
        let mut exchange = exchange();
        let client = exchange.connect();
        let start = Instant::now();
        exchange.receive(client, &[0x92, CATCH, 100].repeat(20));
        let told = TOLD.take();
        assert_eq!(told.len(), 2000);
        assert_eq!(told[..11], [&[true][..], &[false; 10]].concat());
        let printed = told.iter().filter(|is_left| !**is_left).count() as u64;
        assert!(printed <= 10 * (start.elapsed().as_secs() + 2), "{printed}");
        assert_eq!(exchange.take_sent(client), [CATCH; 20]);
    }

    #[test]
    fn a_panic_with_a_value_that_panics_costs_a_connection_like_any_other() {
        let mut exchange = exchange();
        for _ in 0..3 {
            let client = exchange.connect();
            exchange.receive(client, &[0x92, CATCH, 0, 0x92, FAIL, 1]);
            assert!(exchange.is_shut(client) && !exchange.is_open(client));
            assert_eq!(exchange.take_sent(client), [CATCH]);
        }
        // Each, and what its value did then.
        assert_eq!(TOLD.take(), [true; 6]);
        assert_eq!(exchange.counters().panics, 3);
        assert!(NOW.get() == Now::Unguarded);
    }
}
