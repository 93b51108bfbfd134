//! Asking the new program whether it could take over, before the old one lets go.
//!
//! The program is run as a child, with the [`question`] in its environment. [`Server::run`] answers
//! before it opens anything: so does every daemon that is built on this crate.
//!
//! [`Server::run`]: crate::Server::run

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::exec::Program;
use super::killed;
use super::question::{self, Question};
use super::spare::Spare;
use crate::plain::Plain;
use crate::rlimit;

/// Tells the child that the asking process has a `NOTIFY_SOCKET`, which it has not: ringhold-log writes as that one does.
const NOTIFIES: &str = "RINGHOLD_PREFLIGHT_NOTIFIES";

/// What the child writes if it could take over. If that is nowhere in what it writes, it could not.
const YES: &str = "ringhold: ready to take over\n";

/// What it writes behind that, before how many descriptors it takes to start besides those of connections. An older version does not.
const TAKES: &str = "ringhold: descriptors: ";

/// What it writes before the reason, to the end of the line, if it could not.
pub(crate) const NO: &str = "ringhold: cannot take over: ";

/// How long the child may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether the child has ended, where nothing tells.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long a child may take to end when it was killed, which as a rule is no time at all.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Descriptors that connections cannot use up: starting a child takes three or four for a moment. There are more, since those
/// who wait for descriptors may take some as soon as they are free.
pub(crate) const SPARE_FOR_CHILD: usize = 8;

/// So much of the end of the output is looked at: the answer is the last thing that [`Server::run`](crate::Server::run) writes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// So much of that is the reason of a child that has written none as such.
const REASON_BYTES_MAX: usize = 1500;

/// A child that writes more than this is taken for one that writes for ever.
const OUTPUT_MIB_MAX: usize = 16;

/// What the child writes if it could take over, and takes so many descriptors.
pub(crate) fn yes(takes: usize) -> String {
    format!("{YES}{TAKES}{takes}\n")
}

/// A child that was asked and has not answered yet. Dropped, it is killed.
///
/// It has answered when it has ended: what it has started may hold its standard output for longer.
#[derive(Debug)]
pub(crate) struct Asked {
    child: Mortal,
    /// Readable when the child has ended (pidfd_open(2)), where that is allowed.
    end: Option<OwnedFd>,
    /// It does not block.
    output: ChildStdout,
    /// The output has ended; the child need not have.
    is_said: bool,
    /// The end of the output.
    answer: Vec<u8>,
    /// How long the output is.
    written: usize,
    deadline: Instant,
}

impl Asked {
    /// Asks. What the child writes to its standard error goes where ours goes. The descriptors that it takes are made room for
    /// in `spare`, which is filled again.
    ///
    /// # Errors
    ///
    /// Why the program cannot be started.
    pub(crate) fn start(
        program: &Program,
        question: &Question,
        spare: &mut Spare,
    ) -> Result<Self, String> {
        spare.fill(SPARE_FOR_CHILD);
        let mut asked = Err(Errno::MFILE.into());
        // A connection that is just being accepted may take one of those that the first attempt has made room for; the second
        // one finds its own.
        for _ in 0..2 {
            spare.release(SPARE_FOR_CHILD / 2);
            asked = Self::spawn(program, question);
            if !asked.as_ref().is_err_and(is_out_of_descriptors) {
                break;
            }
        }
        spare.fill(SPARE_FOR_CHILD);
        asked.map_err(|error| {
            let (path, advice) = (program.path().display(), advice(&error));
            format!("{path} cannot be started: {error}{advice}")
        })
    }

    fn spawn(program: &Program, question: &Question) -> io::Result<Self> {
        let mut command = program.command();
        command
            .env(question::VARIABLE, question.to_string())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            command.env(NOTIFIES, "yes");
        }
        let mut child = command.spawn()?;
        let output = child.stdout.take();
        let pid = Pid::from_raw(child.id().cast_signed());
        let child = Mortal(Some(child));
        let end = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let output = output.ok_or_else(|| io::Error::other("the child has no standard output"))?;
        rustix::io::ioctl_fionbio(&output, true)?;
        Ok(Asked {
            child,
            end: end.and_then(Result::ok),
            output,
            is_said: false,
            answer: Vec::new(),
            written: 0,
            deadline: Instant::now() + PATIENCE,
        })
    }

    /// Leaves the descriptors to `spare`. The child is killed if it has not ended.
    pub(crate) fn leave(self, spare: &mut Spare) {
        drop(self.child);
        spare.replace(self.output.into());
        if let Some(end) = self.end {
            spare.replace(end);
        }
        spare.fill(SPARE_FOR_CHILD);
    }

    /// What is readable when [`Asked::read`] has something to do.
    pub(crate) fn news(&self) -> [Option<BorrowedFd<'_>>; 2] {
        // An output that has ended is readable for ever.
        let output = (!self.is_said).then(|| self.output.as_fd());
        [output, self.end.as_ref().map(AsFd::as_fd)]
    }

    /// When [`Asked::read`] is to be called at the latest.
    pub(crate) fn next_look(&self) -> Instant {
        match &self.end {
            Some(_) => self.deadline,
            None => self.deadline.min(Instant::now() + LOOK_INTERVAL),
        }
    }

    /// Reads what is there and never waits. The inner result is the answer, if there is one by now or it comes too late: why the
    /// program cannot take over, if it cannot.
    pub(crate) fn read(&mut self) -> Option<Result<(), String>> {
        // First this: what the child has written is there when it has ended.
        let ended = self.child.0.as_mut().map_or(Ok(None), Child::try_wait);
        if let Err(reason) = self.receive() {
            return Some(Err(reason));
        }
        match ended {
            Ok(Some(status)) => Some(self.conclude(Some(status))),
            Ok(None) => self.too_late().map(Err),
            // It has ended, and how it did is not known: whoever started this process has SIGCHLD ignored, or a thread of the
            // application waits for all children.
            Err(error) if error.raw_os_error() == Some(Errno::CHILD.raw_os_error()) => {
                // Its number may be another process's by now.
                self.child.0 = None;
                Some(self.conclude(None))
            }
            Err(error) => Some(Err(format!("the child cannot be waited for: {error}"))),
        }
    }

    /// Reads what there is of the output.
    fn receive(&mut self) -> Result<(), String> {
        let mut buffer = [0; 4096];
        while !self.is_said {
            match self.output.read(&mut buffer) {
                Ok(0) => self.is_said = true,
                Ok(count) => {
                    self.answer.extend_from_slice(&buffer[..count]);
                    self.written += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the answer cannot be read: {error}")),
            }
            if self.written > OUTPUT_MIB_MAX << 20 {
                return Err(format!(
                    "the new program writes more than {OUTPUT_MIB_MAX} MiB to its standard output"
                ));
            }
            // Not with each piece, which would move all of it each time.
            if self.answer.len() > 2 * ANSWER_BYTES_MAX {
                self.answer.drain(..self.answer.len() - ANSWER_BYTES_MAX);
            }
        }
        Ok(())
    }

    fn says_yes(&self) -> bool {
        // Its `main` may have said something before, and goes on afterwards.
        let mut places = self.answer.windows(YES.len());
        places.any(|place| place == YES.as_bytes())
    }

    /// How many descriptors the new program takes besides those of connections, if it could take over and says so.
    pub(crate) fn takes(&self) -> Option<usize> {
        self.line_behind(TAKES)?.parse().ok()
    }

    /// The reason of a refusal that `Server::run` has found. Its `main` may have said more than that, before and behind.
    fn refusal(&self) -> Option<String> {
        self.line_behind(NO)
    }

    /// What stands behind this where it was written last, to the end of the line.
    fn line_behind(&self, mark: &str) -> Option<String> {
        let answer = String::from_utf8_lossy(&self.answer);
        let (_, rest) = answer.rsplit_once(mark)?;
        Some(rest.lines().next().unwrap_or_default().to_owned())
    }

    /// What to say if the deadline has passed.
    fn too_late(&self) -> Option<String> {
        if Instant::now() < self.deadline {
            return None;
        }
        let late = |what| format!("the new program {what} within {PATIENCE:?}");
        Some(match self.refusal() {
            _ if self.says_yes() => late("answered, but did not end"),
            Some(reason) => format!("{}: {}", late("refuses, and did not end"), Plain(reason)),
            None => late("gave no answer"),
        })
    }

    /// The answer of a child that has ended, if that is known, with this status.
    fn conclude(&self, status: Option<ExitStatus>) -> Result<(), String> {
        let is_success = status.map(|status| status.success());
        if is_success != Some(false) && self.says_yes() {
            return Ok(());
        }
        let status = match status {
            Some(status) => status.to_string(),
            None => "exit status unknown".to_owned(),
        };
        if self.says_yes() {
            return Err(format!(
                "the new program could take over, but fails behind Server::run ({status}); its messages say why"
            ));
        }
        let refusal = self.refusal();
        let is_silent = refusal.is_none() && is_success == Some(true);
        let reason = refusal.unwrap_or_else(|| {
            // What it has ended with tells more than what it has begun with.
            let answer = self.answer.trim_ascii_end();
            let end = &answer[answer.len().saturating_sub(REASON_BYTES_MAX)..];
            String::from_utf8_lossy(end).into_owned()
        });
        let verdict = if is_silent {
            "the new program ended without an answer and without an error: its main has to come to Server::run, and to return the error of \
             that"
                .to_owned()
        } else {
            format!("the new program refuses ({status})")
        };
        Err(match &*reason {
            "" if is_silent => verdict,
            "" => format!("{verdict}; its messages say why"),
            reason => format!("{verdict}: {}", Plain(reason)),
        })
    }
}

/// Dropped, it is killed.
#[derive(Debug)]
struct Mortal(Option<Child>);

impl Drop for Mortal {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        // Fails if it has ended and was waited for.
        let _ = child.kill();
        let deadline = Instant::now() + KILL_PATIENCE;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                killed::add(&child);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MFILE.raw_os_error())
}

/// What can be done if the child cannot be started, to be put behind the error.
fn advice(error: &io::Error) -> &'static str {
    match is_out_of_descriptors(error) {
        true => "; try again when connections have ended, or raise LimitNOFILE= and restart",
        // It counts as a thread does.
        false => rlimit::thread_advice(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks a shell that is called so and runs this.
    fn ask(name: &str, script: &str) -> Asked {
        let program = Program::other("/bin/sh", &[name, "-c", script]);
        let question = Question::default();
        Asked::start(&program, &question, &mut Spare::keep(0)).unwrap()
    }

    /// Reads until `done` says something.
    fn until<T>(
        asked: &mut Asked,
        done: impl Fn(&Asked, Option<Result<(), String>>) -> Option<T>,
    ) -> T {
        loop {
            let answer = asked.read();
            if let Some(value) = done(asked, answer) {
                return value;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn without_a_pidfd_nothing_is_readable_for_ever() {
        let mut asked = ask("sh", "exec sleep 1000 >&-");
        asked.end = None;
        until(&mut asked, |asked, answer| {
            assert_eq!(answer, None);
            asked.is_said.then_some(())
        });
        assert!(asked.news().iter().all(Option::is_none));
        assert!(asked.next_look() < asked.deadline);

        let mut asked = ask("sh", &format!("echo '{}'", YES.trim_end()));
        asked.end = None;
        assert_eq!(until(&mut asked, |_, answer| answer), Ok(()));
    }

    /// Also by a program whose `main` goes on to write behind that; an older one does not say it.
    #[test]
    fn who_could_take_over_says_how_much_it_takes() {
        let said = yes(41);
        for (output, takes) in [
            (format!("the log\n{said}"), Some(41)),
            (format!("{said}41 2\n{TAKES}"), None),
            (format!("{said}done\n"), Some(41)),
            (YES.to_owned(), None),
        ] {
            let mut asked = ask("sh", &format!("printf '%s' '{output}'"));
            assert_eq!(until(&mut asked, |_, answer| answer), Ok(()));
            assert_eq!(asked.takes(), takes, "{output:?}");
        }
    }

    /// Whatever else it writes to its standard output, where its log may go as well.
    #[test]
    fn a_refusal_has_the_reason() {
        let log = "yes 'a line of the log' | head -n";
        for (script, status, reason) in [
            (
                format!("{log} 50000; echo '{NO}no such group'; {log} 3000; exit 1"),
                1,
                "no such group",
            ),
            (
                "echo of another kind; exit 2".to_owned(),
                2,
                "of another kind",
            ),
            (
                "head -c 3000 /dev/zero | tr '\\0' z; echo ' no such group'; exit 1".to_owned(),
                1,
                &format!("{} no such group", "z".repeat(REASON_BYTES_MAX - 14)),
            ),
        ] {
            let answer = until(&mut ask("sh", &script), |_, answer| answer);
            let expected = format!("the new program refuses (exit status: {status}): {reason}");
            assert_eq!(answer, Err(expected));
        }
        for (said, end) in [("", ""), ("hello", ": hello")] {
            let script = format!("echo '{said}'");
            let why = until(&mut ask("sh", &script), |_, answer| answer).unwrap_err();
            let expected = format!(
                "its main has to come to Server::run, and to return the error of that{end}"
            );
            assert!(why.ends_with(&expected), "{why}");
        }
        let answer = until(&mut ask("sh", "exec yes"), |_, answer| answer);
        let expected = "the new program writes more than 16 MiB to its standard output";
        assert_eq!(answer, Err(expected.to_owned()));
        let script = format!("echo '{}'; exit 3", YES.trim_end());
        let why = until(&mut ask("sh", &script), |_, answer| answer).unwrap_err();
        assert!(
            why.contains("could take over, but fails") && why.contains("exit status: 3"),
            "{why}"
        );
    }

    /// Something of it that does not end may be the very thing.
    #[test]
    fn a_refusal_of_one_that_does_not_end_has_the_reason() {
        let refuses = format!("echo '{NO}no such group'");
        let agrees = format!("echo '{}'", YES.trim_end());
        for (script, expected) in [
            (
                refuses,
                "the new program refuses, and did not end within 10s: no such group",
            ),
            (
                agrees,
                "the new program answered, but did not end within 10s",
            ),
            (
                "echo of another kind".to_owned(),
                "the new program gave no answer within 10s",
            ),
        ] {
            let mut asked = ask("sh", &format!("{script}; exec sleep 1000 >&-"));
            until(&mut asked, |asked, answer| {
                assert_eq!(answer, None);
                asked.is_said.then_some(())
            });
            asked.deadline = Instant::now();
            assert_eq!(asked.read(), Some(Err(expected.to_owned())));
        }
    }

    #[test]
    fn who_may_start_no_process_learns_which_limit_to_raise() {
        let said = |errno: Errno| advice(&errno.into());
        assert!(said(Errno::AGAIN).contains("TasksMax="));
        assert!(said(Errno::MFILE).contains("LimitNOFILE="));
        assert!(said(Errno::NFILE).contains("fs.file-max"));
        assert_eq!(said(Errno::NOENT), "");
    }

    /// Some programs do one thing or another by the name that they are called by.
    #[test]
    fn the_program_is_asked_by_its_name() {
        for (name, is_right) in [("counterd", true), ("sh", false)] {
            let script = format!("test \"$0\" = counterd && echo '{}'", YES.trim_end());
            let answer = until(&mut ask(name, &script), |_, answer| answer);
            assert_eq!(answer.is_ok(), is_right, "{name}: {answer:?}");
        }
    }
}
