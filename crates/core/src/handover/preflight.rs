//! Asking the new program whether it could take over, before the old one lets go.
//!
//! The program is run as a child, with `RINGHOLD_PREFLIGHT` describing what it would inherit. [`Server::run`] answers
//! before it opens anything: so does every daemon that is built on this crate.
//!
//! [`Server::run`]: crate::Server::run

use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::exec::Program;
use super::vault;

/// Where the question is.
pub(crate) const VARIABLE: &str = "RINGHOLD_PREFLIGHT";

/// What the child writes if it could take over; any other answer, or none, means that it could not.
pub(crate) const YES: &str = "ringhold: ready to take over\n";

/// How long the child may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a successor is asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The version of the state that it would be handed.
    pub(crate) version: u32,
    /// The descriptor names of the listeners that it would inherit.
    pub(crate) names: Vec<String>,
}

impl Question {
    /// For this program's state.
    pub(crate) fn new(names: Vec<String>) -> Self {
        Question {
            version: vault::VERSION,
            names,
        }
    }

    /// Reads what [`Question`]'s `Display` wrote; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (version, names) = text.strip_prefix("state=")?.split_once(";names=")?;
        Some(Question {
            version: version.parse().ok()?,
            // Descriptor names have no colon (sd_listen_fds(3)).
            names: names
                .split(':')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state={};names={}", self.version, self.names.join(":"))
    }
}

/// Asks. What the child writes to its standard error goes where ours goes.
///
/// # Errors
///
/// Why not.
pub(crate) fn ask(program: &Program, question: &Question) -> Result<(), String> {
    let mut command = Command::new(program.path());
    command
        .args(program.arguments())
        .env(VARIABLE, question.to_string())
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| format!("{} cannot be started: {error}", program.path().display()))?;
    let answer = match child.stdout.take() {
        Some(output) => read_until_end(output, Instant::now() + PATIENCE),
        None => Ok(Vec::new()),
    };
    if answer.is_err() {
        let _ = child.kill();
    }
    let status = child
        .wait()
        .map_err(|error| format!("the child cannot be waited for: {error}"))?;
    match answer {
        Err(error) => Err(format!("the new program gave no answer: {error}")),
        Ok(answer) if status.success() && answer.ends_with(YES.as_bytes()) => Ok(()),
        Ok(answer) if answer.is_empty() => Err(format!(
            "the new program refuses ({status}); its messages say why"
        )),
        Ok(answer) => Err(format!(
            "the new program refuses ({status}): {}",
            String::from_utf8_lossy(&answer).trim_end()
        )),
    }
}

/// Reads everything, at most 64 KiB of it.
fn read_until_end(mut output: impl Read + AsFd, deadline: Instant) -> io::Result<Vec<u8>> {
    const ANSWER_BYTES_MAX: usize = 64 * 1024;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while answer.len() < ANSWER_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let readable = poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&timeout));
        match readable {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(_) => match output.read(&mut buffer)? {
                0 => return Ok(answer),
                count => answer.extend_from_slice(&buffer[..count]),
            },
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_the_environment() {
        for names in [
            vec![],
            vec!["rpc".to_owned()],
            vec!["a b".to_owned(), "x;names=y".to_owned()],
        ] {
            let question = Question::new(names);
            assert_eq!(Question::parse(&question.to_string()), Some(question));
        }
        assert_eq!(Question::parse("1"), None);
        assert_eq!(Question::parse("state=x;names="), None);
    }
}
