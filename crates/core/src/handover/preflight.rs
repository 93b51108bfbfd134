//! Asking the new program whether it could take over, before the old one lets go.
//!
//! The program is run as a child, with `RINGHOLD_PREFLIGHT` describing what it would inherit. [`Server::run`] answers
//! before it opens anything: so does every daemon that is built on this crate.
//!
//! [`Server::run`]: crate::Server::run

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::exec::Program;
use super::spare::Spare;
use crate::belongings::Belonging;
use crate::listeners::{Held, Listener, Origin};

/// Where the question is.
pub(crate) const VARIABLE: &str = "RINGHOLD_PREFLIGHT";

/// How many listeners the asking process has bound itself. Its question describes those once that are alike. One that does not say
/// so describes each.
const BOUND: &str = "RINGHOLD_PREFLIGHT_BOUND";

/// The names of the descriptors that the asking process passes on and has opened itself, with colons between them, which no name
/// has. Of one that does not say so nothing is known of them.
const OWN: &str = "RINGHOLD_PREFLIGHT_OWN";

/// Tells the child that the asking process has a `NOTIFY_SOCKET`, which it has not: ringhold-log writes as that one does.
const NOTIFIES: &str = "RINGHOLD_PREFLIGHT_NOTIFIES";

/// What the child writes if it could take over. If that is nowhere in what it writes, it could not.
pub(crate) const YES: &str = "ringhold: ready to take over\n";

/// How long the child may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether the child has ended, where nothing tells.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long a child may take to end when it was killed, which as a rule is no time at all.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Descriptors that connections cannot use up: starting a child takes three or four for a moment. There are more, since those
/// who wait for descriptors may take some as soon as they are free.
pub(crate) const SPARE_FOR_CHILD: usize = 8;

/// An answer is not longer than this.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a successor is asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// The version of the state that it would be handed.
    pub(crate) version: u32,
    /// The descriptor names of the listeners that it would inherit from the service manager.
    pub(crate) inherited: Vec<String>,
    /// The names of the other descriptors that it would inherit from there, which belong to the application.
    pub(crate) descriptors: Vec<String>,
    /// The names of those that belong to the application, and that it has opened.
    pub(crate) own: Vec<String>,
    /// The listeners that the asking process has bound itself, copies on one address once: a variable of the environment has
    /// 128 KiB (execve(2)), and each worker may have a copy of each listener.
    pub(crate) held: Vec<Held>,
    /// How many they are, with all copies.
    pub(crate) bound: usize,
}

impl Question {
    /// For this program's state, which it would write in this version.
    pub(crate) fn new<'a>(
        version: u32,
        listeners: impl Iterator<Item = &'a Listener>,
        belongings: &[Belonging],
    ) -> Self {
        let mut question = Question {
            version,
            ..Question::default()
        };
        for belonging in belongings {
            let names = match belonging.units() {
                // A section may go on with it.
                Some(true) => &mut question.inherited,
                Some(false) => &mut question.descriptors,
                None => &mut question.own,
            };
            names.push(belonging.name().to_owned());
        }
        for listener in listeners {
            match &listener.origin {
                Origin::Inherited { name, .. } => question.inherited.push(name.clone()),
                Origin::Bound { listen } => {
                    let held = Held::describe(
                        &listener.name,
                        &listen.to_string(),
                        &listener.socket,
                        listener.path.as_ref(),
                    );
                    if !question.held.contains(&held) {
                        question.held.push(held);
                    }
                    question.bound += 1;
                }
            }
        }
        question
    }

    /// The names of all descriptors that the successor would be passed on, but for those that carry the state.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let names = [&self.inherited, &self.descriptors, &self.own];
        names.into_iter().flatten().map(String::as_str)
    }

    /// Reads what the environment of this process asks; `None` if it cannot be understood.
    pub(crate) fn read(text: &OsStr) -> Option<Self> {
        let mut question = Self::parse(text.to_str()?)?;
        if let Ok(bound) = std::env::var(BOUND) {
            question.bound = bound.parse().ok()?;
        }
        if let Ok(own) = std::env::var(OWN) {
            let names = own.split(':').filter(|name| !name.is_empty());
            question.own = names.map(str::to_owned).collect();
        }
        Some(question)
    }

    /// Reads what [`Question`]'s `Display` wrote; `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let version = lines.next()?.strip_prefix("state=")?.parse().ok()?;
        let mut question = Question {
            version,
            ..Question::default()
        };
        while let Some(line) = lines.next() {
            if let Some(name) = line.strip_prefix("inherited=") {
                question.inherited.push(name.to_owned());
            } else if let Some(name) = line.strip_prefix("descriptor=") {
                question.descriptors.push(name.to_owned());
            } else {
                let name = line.strip_prefix("bound=")?.to_owned();
                let mut value = |key| lines.next()?.strip_prefix(key)?.strip_prefix('=');
                question.held.push(Held {
                    name,
                    listen: value("listen")?.to_owned(),
                    address: value("address")?.to_owned(),
                    reuse_port: value("reuse_port")?.parse().ok()?,
                    v6only: value("v6only")?.parse().ok()?,
                    // Version 1 does not look at it.
                    is_there: version == 1 || value("is_there")?.parse().ok()?,
                });
            }
        }
        question.bound = question.held.len();
        Some(question)
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "state={}", self.version)?;
        for name in &self.inherited {
            writeln!(f, "inherited={name}")?;
        }
        for name in &self.descriptors {
            writeln!(f, "descriptor={name}")?;
        }
        for held in &self.held {
            writeln!(f, "bound={}", held.name)?;
            writeln!(f, "listen={}", held.listen)?;
            writeln!(f, "address={}", held.address)?;
            writeln!(f, "reuse_port={}", held.reuse_port)?;
            writeln!(f, "v6only={}", held.v6only)?;
            writeln!(f, "is_there={}", held.is_there)?;
        }
        Ok(())
    }
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
    answer: Vec<u8>,
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
            let advice = match is_out_of_descriptors(&error) {
                true => {
                    "; try again when connections have ended, or raise LimitNOFILE= and restart"
                }
                false => "",
            };
            format!(
                "{} cannot be started: {error}{advice}",
                program.path().display()
            )
        })
    }

    fn spawn(program: &Program, question: &Question) -> io::Result<Self> {
        let mut command = program.command();
        command
            .env(VARIABLE, question.to_string())
            .env(BOUND, question.bound.to_string())
            .env(OWN, question.own.join(":"))
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
            Ok(Some(status)) => Some(self.conclude(status)),
            Ok(None) => self.too_late().map(Err),
            Err(error) => Some(Err(format!("the child cannot be waited for: {error}"))),
        }
    }

    /// Reads what there is of the output.
    fn receive(&mut self) -> Result<(), String> {
        let mut buffer = [0; 4096];
        while !self.is_said {
            match self.output.read(&mut buffer) {
                Ok(0) => self.is_said = true,
                Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the answer cannot be read: {error}")),
            }
            if self.answer.len() > ANSWER_BYTES_MAX {
                return Err("the new program writes more than an answer".into());
            }
        }
        Ok(())
    }

    fn says_yes(&self) -> bool {
        // Its `main` may have said something before, and goes on afterwards.
        let mut places = self.answer.windows(YES.len());
        places.any(|place| place == YES.as_bytes())
    }

    /// What to say if the deadline has passed.
    fn too_late(&self) -> Option<String> {
        let what = match self.says_yes() {
            false => "gave no answer",
            true => "answered, but did not end",
        };
        (Instant::now() >= self.deadline)
            .then(|| format!("the new program {what} within {PATIENCE:?}"))
    }

    /// The answer of a child that has ended.
    fn conclude(&self, status: ExitStatus) -> Result<(), String> {
        if status.success() && self.says_yes() {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&self.answer);
        Err(match answer.trim_end() {
            "" if status.success() => "the new program ended without an answer and without an error: its main has to come to \
                 Server::run, and to return the error of that"
                .to_owned(),
            "" => format!("the new program refuses ({status}); its messages say why"),
            answer => format!("the new program refuses ({status}): {answer}"),
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
                killed().push(child);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Children that were killed and did not end: one that waits for a disk or for another machine does not until that has
/// answered, and the main thread has more to do than to wait for it.
static KILLED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

fn killed() -> MutexGuard<'static, Vec<Child>> {
    KILLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks which of the killed children have ended. Until then they stay in the table of processes.
pub(crate) fn reap() {
    killed().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MFILE.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::inherit::Inherited;
    use crate::listeners;

    /// Asks a shell that is called so and runs this.
    fn ask(name: &str, script: &str) -> Asked {
        let program = Program::other("/bin/sh", &[name, "-c", script]);
        let question = Question::parse("state=1").unwrap();
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

    /// Some programs do one thing or another by the name that they are called by.
    #[test]
    fn the_program_is_asked_by_its_name() {
        for (name, is_right) in [("counterd", true), ("sh", false)] {
            let script = format!("test \"$0\" = counterd && echo '{}'", YES.trim_end());
            let answer = until(&mut ask(name, &script), |_, answer| answer);
            assert_eq!(answer.is_ok(), is_right, "{name}: {answer:?}");
        }
    }

    /// Each worker has one of them, and one variable is all that there is for the question.
    #[test]
    fn copies_of_a_listener_are_described_once() {
        let section = |name| {
            let listen = "[\"127.0.0.1:0\", \"127.0.0.1:0\"]";
            format!("[sockets.{name}]\nservice = \"x\"\nlisten = {listen}\nreuse_port = true\n")
        };
        let text = format!("workers = 8\n{}{}", section("a"), section("b"));
        let config = Config::parse(&text, "test.toml").unwrap();
        let none = Inherited::none();
        let plan = listeners::plan(&config, none, false, &["x"], 8).unwrap();
        let listeners = plan.open_with(Vec::new()).unwrap();
        let question = Question::new(3, listeners.iter(), &[]);
        let names = question.held.iter().map(|held| held.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["a", "a", "b", "b"]);
        assert_eq!((listeners.len(), question.bound), (32, 32));
        listeners::rehearse_binding(&config, &[], &question.held).unwrap();
    }

    #[test]
    fn a_question_survives_the_environment() {
        let held = |name: &str, listen: &str| Held {
            name: name.to_owned(),
            listen: listen.to_owned(),
            address: "127.0.0.1:4660".to_owned(),
            reuse_port: listen.ends_with('0'),
            v6only: listen.ends_with('1'),
            is_there: !listen.starts_with("unix:"),
        };
        for (inherited, held) in [
            (vec![], vec![]),
            (
                vec!["rpc".to_owned()],
                vec![held("a b", "unix:/run/a b=c.sock")],
            ),
            (
                vec!["a b".to_owned(), "x;names=y".to_owned()],
                vec![held("x", "127.0.0.1:0"), held("x", "[::]:1")],
            ),
        ] {
            let question = Question {
                version: 3,
                inherited,
                descriptors: vec!["a=b".to_owned()],
                own: vec![],
                bound: held.len(),
                held,
            };
            assert_eq!(Question::parse(&question.to_string()), Some(question));
        }
        let old = "bound=x\nlisten=y\naddress=z\nreuse_port=true\nv6only=false";
        let question = Question::parse(&format!("state=1\n{old}")).unwrap();
        assert!(question.held.iter().all(|held| held.is_there));
        assert_eq!(Question::parse(&format!("state=2\n{old}")), None);
        assert_eq!(Question::parse("1"), None);
        assert_eq!(Question::parse("state=x"), None);
        assert_eq!(Question::parse("state=1\nbound=x\nlisten=y"), None);
    }
}
