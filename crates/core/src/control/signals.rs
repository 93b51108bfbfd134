//! The signals of the process: who blocks them, and reading them.

use std::io;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::server::ServerError;

/// The signals that are read. They are blocked, so that one that arrives while the process replaces itself stays pending
/// for the successor.
pub(crate) struct Signals {
    pub(super) stop: SignalFd,
    pub(super) reload: SignalFd,
}

impl Signals {
    /// Blocks them for this thread and all that it will start, and SIGXFSZ, which nobody reads: what a write would exceed the
    /// limit of a file with (RLIMIT_FSIZE, for files in memory too) is an error of the write then, not the end of the process.
    pub(crate) fn block() -> io::Result<()> {
        let mut all = stop_signals();
        all.extend(&reload_signals());
        all.add(Signal::SIGXFSZ);
        Ok(all.thread_block()?)
    }

    /// Blocks them, and makes sure that every other thread does.
    ///
    /// # Errors
    ///
    /// [`ServerError::Signals`] if one does not. The kernel gives a signal to any such thread (signal(7)), and there it would
    /// end the process.
    pub(crate) fn claim() -> Result<(), ServerError> {
        Self::block()?;
        thread_to_signal().map_or(Ok(()), |thread| Err(ServerError::Signals { thread }))
    }

    /// Claims them, and reads them from here on.
    ///
    /// # Errors
    ///
    /// As [`Signals::claim`], or that there are no descriptors.
    pub(crate) fn read() -> Result<Self, ServerError> {
        Self::claim()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let open = |signals: SigSet| {
            let opened = SignalFd::with_flags(&signals, flags).map_err(io::Error::from);
            opened.map_err(ServerError::at("making a signalfd"))
        };
        Ok(Signals {
            stop: open(stop_signals())?,
            reload: open(reload_signals())?,
        })
    }
}

/// A thread that makes another one blocks every signal meanwhile, and so does the new one at first (pthread_create(3) of the
/// usual libraries). So who blocks everything is looked at again, so many times, before that is taken for its own choice.
const MASK_LOOKS: u32 = 100;
const MASK_LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// The name of a thread of this process that one of the signals could go to, if there is one and /proc tells.
fn thread_to_signal() -> Option<String> {
    let mut signals = stop_signals();
    signals.extend(&reload_signals());
    let ours = mask(signals.iter().map(|signal| signal as u32));
    for _ in 0..MASK_LOOKS {
        let threads = blocked_signals()?;
        let reached = threads.iter().find(|(_, blocked)| blocked & ours != ours);
        if let Some((name, _)) = reached {
            return Some(name.clone());
        }
        if !threads.iter().any(|(_, blocked)| is_everything(*blocked)) {
            return None;
        }
        std::thread::sleep(MASK_LOOK_INTERVAL);
    }
    None
}

/// Whether who blocks these signals may be making a thread. SIGKILL and SIGSTOP cannot be blocked, those from 32 to 34 are the library's
/// own, and sanitizers leave those of faults, SIGPIPE and SIGSYS (`BlockSignals` in LLVM's sanitizer_common).
fn is_everything(blocked: u64) -> bool {
    let everything = !mask([4, 5, 6, 7, 8, 9, 11, 13, 19, 31, 32, 33, 34]);
    blocked & everything == everything
}

/// The threads of this process, each with its name and the signals that it blocks.
fn blocked_signals() -> Option<Vec<(String, u64)>> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    // One that has ended meanwhile is none.
    let read = |thread: std::fs::DirEntry| {
        let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
        let name = field(&status, "Name:")?.to_owned();
        Some((name, field_of_signals(&status, "SigBlk:")?))
    };
    Some(threads.flatten().filter_map(read).collect())
}

/// Whether SIGTERM or SIGINT has come and was not read yet, if /proc tells. Where nobody blocks them they do not wait to be read.
pub(crate) fn is_told_to_stop() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let waiting = field_of_signals(&status, "ShdPnd:").unwrap_or(0);
    waiting & mask(stop_signals().iter().map(|signal| signal as u32)) != 0
}

/// What stands behind `name` in a file `status` of proc(5).
fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    let mut lines = status.lines();
    lines
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

fn field_of_signals(status: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(field(status, name)?, 16).ok()
}

/// Signal n is bit n - 1.
fn mask(signals: impl IntoIterator<Item = u32>) -> u64 {
    signals
        .into_iter()
        .fold(0, |mask, signal| mask | 1 << (signal - 1))
}

fn stop_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

fn reload_signals() -> SigSet {
    [Signal::SIGHUP].into_iter().collect()
}

/// A signal that has arrived. One that is not read for now stays, and its descriptor readable.
pub(super) fn read(signals: &SignalFd) -> io::Result<Option<Signal>> {
    match signals.read_signal() {
        Ok(Some(info)) => Ok(Some(Signal::try_from(info.ssi_signo as i32)?)),
        Ok(None) | Err(nix::errno::Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_a_thread_blocks_everything() {
        // As /proc tells of glibc alone, and of glibc under AddressSanitizer.
        assert!(is_everything(0xffff_ffff_fffb_feff));
        assert!(is_everything(0xffff_fffe_bffb_ea07));
        let ours = stop_signals() | reload_signals();
        assert!(!is_everything(mask(
            ours.iter().map(|signal| signal as u32)
        )));
    }
}
