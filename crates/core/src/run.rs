//! A whole daemon, until it is told to stop or to make room for its successor.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::belongings::{self, Belonging};
use crate::control::{Control, Signals, Why, longest_end};
use crate::engine::{self, choose};
use crate::handover::bequest::{Bequest, Contents};
use crate::handover::capacity::Capacity;
use crate::handover::exec::Program;
use crate::handover::giving::{Package, Packing};
use crate::handover::killed;
use crate::handover::parcel::Parcel;
use crate::handover::preflight::{self, Asked, SPARE_FOR_CHILD};
use crate::handover::question::{self, Question};
use crate::handover::spare::Spare;
use crate::handover::store::{self, PROBE_PATIENCE};
use crate::handover::vault;
use crate::inherit;
use crate::listeners::{Listener, Origin};
use crate::metrics::Metrics;
use crate::notify::{self, Term};
use crate::plain::{self, Plain};
use crate::rlimit;
use crate::running::{Released, Running};
use crate::server::{Server, ServerError, must_be_free};

mod room;
mod story;

/// Descriptors that connections cannot use up, for the handover.
const SPARE_FOR_HANDOVER: usize = 16;

/// What the daemon keeps free for that, and for asking its successor.
const RESERVE: usize = SPARE_FOR_HANDOVER + SPARE_FOR_CHILD;

/// The descriptors of [`Signals`].
const FOR_SIGNALS: usize = 2;

impl Server {
    /// Runs the server until SIGTERM or SIGINT, talking to the service manager if there is one.
    ///
    /// Call it first in `main`, before there is any other thread: it blocks those signals (SIGHUP and SIGXFSZ, too) for the whole
    /// process and takes the descriptors that the environment announces. A program that must start threads before,
    /// such as a runtime's, calls [`block_signals`] and [`Inherited::take`](crate::inherit::Inherited::take) before those, and gives what it took to
    /// [`Server::inherited`]. Otherwise it does not start: a signal would end it, and it could never take over from its
    /// predecessor.
    ///
    /// # Reload
    ///
    /// On SIGHUP the program is started once more as a child, to be asked whether it could take over, while this process
    /// serves. Its `main` runs up to here, then `run` answers on standard output and returns `Ok`, or the error that it has answered
    /// with, which is in the log of the asking process then. So what `main` does before must not need anything that only one process
    /// can have (a device, a lock), and what it does afterwards must not undo anything of the serving process. It has 10 seconds for
    /// all of it.
    ///
    /// The functions given to [`Server::service`], [`Server::try_service`] and [`Server::descriptor`] are not called in that child, since
    /// they open things: should one fail in the program that has taken over, nobody can go back. What can be looked at before belongs into
    /// [`Server::preflight`], which is called there.
    ///
    /// Then the process replaces itself by execve: `run` does not return, and `main` begins anew in the same process. The
    /// services have been dropped before, each when its worker has ended, which others may not have yet, except those of a worker that was
    /// stuck and left behind; other threads of the application end wherever they are. What they must bring to an end belongs into the
    /// `Drop` of a service.
    ///
    /// # Errors
    ///
    /// Whatever stood in the way of starting, or made a worker fail.
    pub fn run(self) -> Result<(), ServerError> {
        if let Some(question) = std::env::var_os(question::VARIABLE) {
            let answer = self.answer(&question);
            if let Err(error) = &answer {
                // What `main` makes of the error need not be in the log of who asks, so it gets the reason from here. Of several,
                // each has a line, and an answer is one line.
                let reasons = error.to_string().replace('\n', "; ");
                let _ = writeln!(io::stdout(), "{}{}", preflight::NO, Plain(reasons));
            }
            return answer;
        }
        if self.inherited.is_none() {
            inherit::must_be_first()?;
        }
        let signals = Signals::read()?;
        let daemon = Daemon {
            program: Program::current()?,
            longest_end: longest_end(self.config.handover.drain),
        };
        daemon.program.say_missed();
        killed::take_over();
        let running = self.start_held(RESERVE)?;
        // Before it is asked what else there is room for. Whoever was handed over waits for it.
        let reads = belongings::store_all(&running.belongings, running.taken_over.is_some());
        // What takes descriptors comes before the connections do.
        let own = running.belongings.iter().filter(|own| own.is_stored());
        let (own, leaves) = (own.count(), running.may_leave());
        let at_start = match reads {
            true => Capacity::ask(own, leaves),
            false => Capacity::unknown(own, leaves),
        };
        // A handover takes less, and the successor needs what this one has, for a moment with a package on top.
        let spare = [SPARE_FOR_HANDOVER, SPARE_FOR_CHILD].map(Spare::keep);
        // Before anybody is answered: systemd takes a reload of a service that is still starting for a part of the start,
        // which ends well, and sends no signal.
        notify::ready();
        running.resume();
        let resumed = Instant::now();
        story::announce(&running);
        running.say_taken_over(resumed);
        let metrics = running.metrics().clone();

        let mut control = Control::new(&signals, &running);
        let [mut for_handover, mut for_child] = spare;
        let end = daemon.serve(&mut control, &running, &mut for_handover, &mut for_child)?;
        let term = Term::of(PROBE_PATIENCE);
        if matches!(end, End::Stop) {
            // As at start, before it is asked what else there is room for: the unit may have a store only since then.
            let mut stored = running.belongings.iter();
            stored.all(|own| own.store_again(term));
        }
        let store = with_spare(&running, &mut for_child, SPARE_FOR_CHILD, || {
            at_start.ask_again(term)
        });
        let (replaces, packing, kept) = match end {
            End::Replace(packing, kept) => (true, Some(packing), Some(kept)),
            // If the service manager does not answer, what was known before is as good as anything.
            End::Stop => (
                false,
                can_leave(&running, store.or(at_start), &mut for_handover),
                None,
            ),
        };
        // Until every worker has ended, one may accept more connections than there are descriptors to hand over, or than the successor
        // has room for.
        let spare = (for_handover, for_child, kept);
        match packing {
            Some(_) => running.stop_to_hand_over(),
            None => running.stop(),
        }
        story::say_awaited(&running);
        control.wait_for_end(&running, packing.is_some())?;
        drop(spare);
        tracing::debug!("every worker has let go");
        story::say_given_up(&running);
        story::say_unsaved(&metrics);
        let Some(packing) = packing else {
            story::say_stopped(&metrics);
            return running.join();
        };
        if replaces {
            let has_store = store.suffices();
            return Err(daemon.replace(running.release(), packing, has_store, &metrics));
        }
        let left = daemon.leave(running.release(), packing);
        story::say_stopped(&metrics);
        left?.map_or(Ok(()), Err)
    }

    /// Says whether this program could take over from one that holds these listeners. It takes nothing and leaves nothing.
    fn answer(mut self, question: &OsStr) -> Result<(), ServerError> {
        let question = question.to_str().and_then(Question::parse);
        let question = question.ok_or_else(|| {
            ServerError::Handover(
                "the running version hands over state that this one cannot read".into(),
            )
        })?;
        if self.inherited.is_none() {
            inherit::must_be_first()?;
        }
        // As the start that is to come demands it.
        Signals::claim()?;
        self.rehearse(&question.inherited, &question.held)?;
        self.claims.rehearse(&question, self.inherited_only)?;
        let chosen = choose(self.config.engine, &self.patience).map_err(ServerError::Engine)?;
        let claimed = question.names().filter(|name| self.claims.has(name));
        let (passed_on, claimed) = (question.names().count(), claimed.count());
        // Those that it has no use for are closed before others are bound.
        let bound = question.bound.max(self.to_be_bound(&question.inherited));
        let more = self.to_serve_and_reload(chosen.engine, passed_on, claimed, bound);
        must_be_free(passed_on + store::NEEDED + FOR_SIGNALS + more + RESERVE)?;
        let needed = self.needed_descriptors(chosen.engine, self.worker_count(), claimed);
        let takes = passed_on + needed + bound;
        room::is_there_for(takes, &question)?;
        // The asking process has said so of its own.
        let _ = self.fit_rings(chosen.engine);
        let had = &question.outfit;
        engine::rehearse(chosen.engine, &self.config.ring, self.worker_count(), had)?;
        io::stdout().write_all(preflight::yes(takes).as_bytes())?;
        Ok(())
    }
}

/// What this process knows of itself, for its successor.
struct Daemon {
    program: Program,
    /// How long the workers may take to end.
    longest_end: Duration,
}

impl Daemon {
    /// Waits for the end, and says which it is to be. What is spared is there for a handover, and for a child.
    fn serve(
        &self,
        control: &mut Control<'_>,
        running: &Running,
        for_handover: &mut Spare,
        for_child: &mut Spare,
    ) -> Result<End, ServerError> {
        loop {
            let refusal = match control.wait(running)? {
                Why::Reload => {
                    tracing::info!("SIGHUP: reloading");
                    notify::reloading(preflight::PATIENCE + self.longest_end);
                    let question = Question {
                        connections: running.connections(),
                        takes: running.takes,
                        ..Question::new(running.listeners(), &running.belongings, running.outfit)
                    };
                    let asked =
                        running.with_kept(|| Asked::start(&self.program, &question, for_child));
                    match asked {
                        Ok(asked) => {
                            control.wait_for_answer(asked);
                            continue;
                        }
                        Err(reason) => reason,
                    }
                }
                Why::Answer(answer, asked) => {
                    let takes = asked.takes();
                    asked.leave(for_child);
                    // What it takes itself it takes while everybody is served, too.
                    let begun =
                        answer.and_then(|()| begin_to_replace(running, takes, for_handover));
                    match begun {
                        Ok(end) => {
                            tracing::debug!("the new program is ready to take over");
                            return Ok(end);
                        }
                        Err(reason) => reason,
                    }
                }
                Why::Stop(signal) => {
                    tracing::info!("{signal}: stopping");
                    notify::stopping(self.longest_end);
                    return Ok(End::Stop);
                }
                Why::Ended => {
                    notify::stopping(self.longest_end);
                    return Ok(End::Stop);
                }
            };
            tracing::error!("the reload is refused, nothing has changed: {refusal}");
            notify::ready();
            control.reload_refused(running);
        }
    }

    /// Leaves everything with the service manager. Returns why a worker had failed, if one had.
    fn leave(
        &self,
        released: Released,
        packing: Packing,
    ) -> Result<Option<ServerError>, ServerError> {
        let Released {
            parcels,
            bequests,
            failed,
            parted,
            ..
        } = released;
        let left = pack(packing, parcels, bequests, true, parted).and_then(|mut package| {
            let contents = package.contents;
            let given = store::give(&mut package);
            given.map_err(|error| ServerError::Handover(ungiven(contents, &error)))?;
            Ok(contents)
        });
        match left {
            Ok(contents) => {
                // After `systemctl stop` it drops them, unless the unit says otherwise (FileDescriptorStorePreserve=).
                tracing::info!(
                    "left {contents} with the service manager, which closes them unless a start follows"
                );
                Ok(failed)
            }
            Err(error) => {
                story::say_failed(failed);
                Err(error)
            }
        }
    }

    /// Replaces the process. Returns only if that failed, with the reason.
    fn replace(
        &self,
        released: Released,
        packing: Packing,
        has_store: bool,
        metrics: &Metrics,
    ) -> ServerError {
        let Released {
            listeners,
            belongings,
            parcels,
            bequests,
            failed,
            parted,
        } = released;
        story::say_failed(failed);
        let mut package = match pack(packing, parcels, bequests, has_store, parted) {
            Ok(package) => package,
            Err(error) => {
                story::say_stopped(metrics);
                return error;
            }
        };
        let given = if has_store {
            store::give(&mut package)
        } else {
            Ok(())
        };
        if let Err(error) = &given {
            tracing::warn!(
                "the service manager cannot keep the connections, should the new program fail: {error}"
            );
        }
        let (contents, path) = (package.contents, self.program.path());
        story::say_handed(contents, path, metrics);
        let error = self
            .program
            .replace(&descriptors(&listeners, &belongings, &package));
        let fate = match given {
            Ok(()) if has_store => {
                format!(
                    "{contents} are with the service manager, and the next start takes them over"
                )
            }
            Ok(()) => format!("{contents} are lost"),
            Err(error) => ungiven(contents, &error),
        };
        ServerError::Handover(format!(
            "{} cannot take this process's place: {error}{}; {fate}",
            path.display(),
            rlimit::advice(&error)
        ))
    }
}

/// What the successor gets, as the service manager would pass it on.
fn descriptors<'a>(
    listeners: &'a [Arc<Listener>],
    belongings: &'a [Belonging],
    package: &'a Package,
) -> Vec<(String, BorrowedFd<'a>)> {
    let inherited = listeners
        .iter()
        .filter_map(|listener| match &listener.origin {
            Origin::Inherited { name, .. } => Some((name.clone(), listener.socket.as_fd())),
            Origin::Bound { .. } => None,
        });
    let own = package.descriptors().into_iter();
    inherited
        .chain(belongings.iter().map(Belonging::passed_as))
        .chain(own.map(|(name, descriptor)| (name.to_owned(), descriptor)))
        .collect()
}

/// Packs what is left of the connections, which nobody serves since they `parted`, and what services leave.
fn pack(
    packing: Packing,
    parcels: Vec<Parcel>,
    bequests: Vec<Bequest>,
    stored: bool,
    parted: Option<Instant>,
) -> Result<Package, ServerError> {
    let contents = Contents::new(parcels.len(), &bequests);
    let packed = packing.finish(parcels, bequests, stored);
    let package = packed.map_err(|error| {
        ServerError::Handover(format!(
            "{contents} are lost, since they cannot be packed for a successor: {error}{}",
            rlimit::advice(&error)
        ))
    })?;
    if let Some(since) = parted {
        // Without it the successor's log does not say how long everybody has waited.
        let _ = vault::note_pause(&package.vault, since);
    }
    Ok(package)
}

/// What becomes of what could not be given to the service manager.
fn ungiven(contents: Contents, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => format!(
            "the service manager was given {contents}, and has not confirmed that it keeps them: {error}; \
             the next start takes over what it has kept"
        ),
        _ => format!("lost {contents}, since {error}"),
    }
}

/// How the process ends.
enum End {
    /// Connections wait in the service manager's store for the next process, or are finished and closed if it has none.
    Stop,
    /// The process replaces itself. What its successor takes more than it does is kept until nobody is accepted any more.
    Replace(Packing, Spare),
}

/// Does what takes descriptors with those that are kept, `count` of them, which are kept again as far as they come back.
fn with_spare<R>(running: &Running, spare: &mut Spare, count: usize, act: impl FnOnce() -> R) -> R {
    running.with_kept(|| {
        spare.release(count);
        let done = act();
        spare.fill(count);
        done
    })
}

/// Has a package begun, so that nothing is in its way any more when the connections have been let go.
fn begin_packing(running: &Running, spare: &mut Spare) -> Result<Packing, String> {
    with_spare(running, spare, SPARE_FOR_HANDOVER, || {
        running.begin_packing()
    })
}

/// As a new program that `takes` so many descriptors is to have what there is.
fn begin_to_replace(
    running: &Running,
    takes: Option<usize>,
    spare: &mut Spare,
) -> Result<End, String> {
    let kept = room::keep(takes, running.takes)?;
    let packing = begin_packing(running, spare)
        .map_err(|error| format!("connections cannot be packed for a successor: {error}"))?;
    Ok(End::Replace(packing, kept))
}

/// The package that is left with the service manager, if everything can be. If not, says whose connections end, and what is lost.
fn can_leave(running: &Running, store: Capacity, spare: &mut Spare) -> Option<Packing> {
    if !store.suffices() {
        let why = "for want of a descriptor store (FileDescriptorStoreMax=)";
        if notify::is_wanted()
            && let Some(closing) = closing(running, why)
        {
            tracing::info!("{closing}");
        }
        return None;
    }
    let packing = begin_packing(running, spare);
    if let Err(error) = &packing
        && let Some(closing) = closing(
            running,
            &format!("since they cannot be packed for a successor ({error})"),
        )
    {
        tracing::error!("{closing}");
    }
    packing.ok()
}

/// What a stop does that leaves nothing, if it makes a difference to anybody.
fn closing(running: &Running, why: &str) -> Option<String> {
    let open = running.metrics().snapshot().total().open;
    let lost = match running.may_leave() {
        true => ", and without what services would leave to the next process",
        false => "",
    };
    let makes_a_difference = open > 0 || running.may_leave();
    makes_a_difference.then(|| format!("closing {} {why}{lost}", plain::connections(open)))
}

/// Blocks the signals that [`Server::run`] reads (SIGTERM, SIGINT and SIGHUP) for this thread and all that it will
/// start: a thread that does not block them would be ended by them, and the process with it. SIGXFSZ is blocked as well, so that a
/// file that would become too large (`LimitFSIZE=`) is an error.
///
/// Who starts threads before [`Server::run`] has to take what is inherited before, too: see [`Server::inherited`].
///
/// # Errors
///
/// Those of pthread_sigmask(3).
pub fn block_signals() -> io::Result<()> {
    Signals::block()
}
