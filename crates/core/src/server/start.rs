//! The start: from what was passed on to workers that serve.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::{Cpus, Server, ServerError};
use crate::belongings::{Belonging, PREFIX};
use crate::config::Config;
use crate::engine::{Chosen, EngineKind, choose, fit_rings};
use crate::handover::bequest;
use crate::handover::exec;
use crate::handover::parcel::Parcel;
use crate::handover::spare::Spare;
use crate::handover::store;
use crate::handover::taking::Inheritance;
use crate::inherit::{Inherited, NamedDescriptor};
use crate::listeners::{self, Listener, Plan};
use crate::patience::Patience;
use crate::running::{Running, TakenOver};

/// Descriptors that a server takes before it serves, besides those of its workers and listeners: an event, one that is kept for its
/// stop, what is open for a moment.
const NEEDED_DESCRIPTORS: usize = 13;

impl Server {
    /// As [`Server::start`], but nobody is accepted and no byte moves until [`Running::resume`]. `reserve` descriptors must
    /// be there besides those that it takes to serve.
    pub(crate) fn start_held(mut self, reserve: usize) -> Result<Running, ServerError> {
        match crate::rlimit::raise() {
            Ok(raised) if raised.before < raised.after => {
                tracing::debug!(
                    "raised the limit of open files from {} to {}",
                    raised.before,
                    raised.after
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("cannot raise the limit of open files: {error}"),
        }
        // Before the engine is chosen, which takes a thread: descriptors are inherited by a process that has one.
        let (mut plan, cpus, claimed) = self.plan()?;
        let reserved = plan.take_reserved();
        // Whoever it starts itself has its environment as well, but is left nothing.
        let was_asked = exec::is_replacement() && !reserved.is_empty();
        if was_asked {
            store::discard(&exec::owed());
        } else {
            self.look()?;
        }
        if !reserved.is_empty() {
            self.patience = Patience::of_successor();
        }
        let chosen = choose(self.config.engine, &self.patience).map_err(ServerError::Engine)?;
        if let Some(why) = self.fit_rings(chosen.engine) {
            tracing::warn!("{why}");
        }
        let needed = self.needed_descriptors(chosen.engine, cpus.len(), claimed.len());
        let (strays, bound) = (plan.take_strays(), plan.to_be_bound());
        let takes = plan.inherited() + claimed.len() + needed + bound;
        // As long as nothing was looked at, a successor of this process finds the same.
        if reserve > 0 {
            let passed_on = plan.inherited() + claimed.len() + strays.len();
            let (engine, claimed) = (chosen.engine, claimed.len());
            let more = self.to_serve_and_reload(engine, passed_on, claimed, bound);
            let carriers = store::NEEDED.saturating_sub(reserved.len());
            must_be_free(carriers + more + reserve)?;
        } else if !reserved.is_empty() {
            must_be_free(needed)?;
        }
        // What is reserved is open, and is not for long.
        let own = (needed + bound + reserve).saturating_sub(reserved.len());
        crate::rlimit::say_if_too_few(&self.config, cpus.len(), own);
        let belongings = std::mem::take(&mut self.claims);
        let belongings = belongings.make(claimed, &strays)?.into();
        let looked = Inheritance::look(reserved, needed, bound, &self.patience);
        let mut inheritance = looked.map_err(ServerError::Handover)?;
        let taken_over = inheritance.is_some().then(|| TakenOver::of(&inheritance));
        if inheritance.is_some() && !inheritance.is_of_use() {
            // It goes before anything is bound: an abstract name is in use for as long as any duplicate of its socket is
            // open, and some are in there, whether or not anybody can tell what they are.
            inheritance.commit().map_err(ServerError::Handover)?;
        }
        let mut running = self.start_from(plan, chosen, cpus, inheritance, belongings)?;
        running.takes = takes;
        running.taken_over = taken_over;
        // Whoever comes after a start that fails may know them.
        drop_strays(strays);
        Ok(running)
    }

    /// Starts with what the predecessor left. On failure that is as it was: a successor of this process finds the same.
    fn start_from(
        self,
        plan: Plan,
        chosen: Chosen,
        cpus: Cpus,
        mut inheritance: Inheritance,
        belongings: Arc<[Belonging]>,
    ) -> Result<Running, ServerError> {
        let contents = inheritance.contents();
        let heirlooms = std::mem::take(&mut inheritance.listeners);
        let listeners: Vec<Arc<Listener>> = match plan.open_with(heirlooms) {
            Ok(listeners) => listeners.into_iter().map(Arc::new).collect(),
            Err(error) => {
                inheritance.put_back();
                inheritance.say_what_waits(contents, false);
                return Err(error.into());
            }
        };
        if chosen.is_second_best() {
            tracing::warn!("{chosen}");
        } else {
            tracing::info!("{chosen}");
        }
        crate::cgroup::say_if_too_small(&self.config);
        say_silent(self.service_names(), &self.config);
        let orphans = orphans(&listeners, &inheritance.parcels);
        let engine = chosen.engine;
        let bequests = std::mem::take(&mut inheritance.bequests);
        let is_given = !bequests.is_empty();
        let legacies = bequest::by_service(self.service_names(), bequests);
        let held = listeners.clone();
        let launched = Running::launch(self, engine, cpus, held, &orphans, &legacies, belongings);
        // What services were given may be what made a worker fail.
        let is_blamed = is_given && matches!(launched, Err(ServerError::Worker { .. }));
        if launched.is_err() {
            if !is_blamed {
                inheritance.put_back();
            }
            inheritance.say_what_waits(contents, is_blamed);
        }
        let started = launched.and_then(|mut running| {
            // It may be the state that fails this, so the attempt counts.
            running.take_over(&mut inheritance, &legacies)?;
            Ok(running)
        });
        if started.is_err() {
            for listener in &listeners {
                // The error that stopped us is the one to report.
                let _ = listener.unlink_new();
            }
        }
        started
    }

    /// Makes the rings as small as they must be. Returns what is to be said about it.
    pub(crate) fn fit_rings(&mut self, engine: EngineKind) -> Option<String> {
        let workers = self.worker_count();
        fit_rings(engine, &mut self.config.ring, workers)
    }

    /// The plan, the CPU of each worker, and what the application has claimed of what is inherited.
    pub(super) fn plan(&mut self) -> Result<(Plan, Cpus, Vec<NamedDescriptor>), ServerError> {
        let mut inherited = match self.inherited.take() {
            Some(inherited) => inherited,
            None => Inherited::take()?,
        };
        let names = inherited.descriptors.iter();
        let names: Vec<String> = names.map(|found| found.name.clone()).collect();
        self.check_program(&names)?;
        let claimed = self.claims.take_out(&mut inherited);
        let mut problems = self.claims.inspect(&claimed, self.inherited_only);
        let cpus = self.cpus();
        let services: Vec<&str> = self.service_names().collect();
        let plan = listeners::plan(
            &self.config,
            inherited,
            self.inherited_only,
            &services,
            cpus.len(),
        );
        match plan {
            Ok(plan) if problems.is_empty() => Ok((plan, cpus, claimed)),
            plan => {
                problems.extend(plan.err().map(ServerError::Listeners));
                Err(ServerError::all(problems))
            }
        }
    }

    /// How many descriptors it takes to serve, besides those of inherited listeners and of connections, and the `claimed` ones that are
    /// passed on to the application.
    pub(crate) fn needed_descriptors(
        &self,
        engine: EngineKind,
        workers: usize,
        claimed: usize,
    ) -> usize {
        // The application has a duplicate of each of its own.
        let own = (2 * self.claims.count()).saturating_sub(claimed);
        NEEDED_DESCRIPTORS + engine.descriptors_per_worker() * workers + own
    }

    /// How many descriptors must be free for this program to serve, and to be asked and executed again as it is, once so many are
    /// `passed_on` besides those that carry the state of a predecessor. Some of them are `claimed`; so many listeners are, or will be,
    /// `bound`. A start demands them, and so does who is asked before a reload: what has started can reload, and who was asked
    /// can start.
    pub(crate) fn to_serve_and_reload(
        &self,
        engine: EngineKind,
        passed_on: usize,
        claimed: usize,
        bound: usize,
    ) -> usize {
        let needed = self.needed_descriptors(engine, self.worker_count(), claimed);
        // It opens those of the application that it is not passed on.
        let own = self.claims.count().saturating_sub(claimed);
        // A process lays out what it passes on beside what is open.
        let to_pass_on = passed_on + own + store::NEEDED;
        bound + needed.max(own + to_pass_on)
    }
}

/// Fails unless there are so many descriptors.
pub(crate) fn must_be_free(needed: usize) -> Result<(), ServerError> {
    let free = Spare::keep(needed).count();
    if free < needed {
        return Err(ServerError::Descriptors { needed, free });
    }
    Ok(())
}

/// Names the services that answer on no socket, as they may be meant to.
fn say_silent<'a>(services: impl Iterator<Item = &'a str>, config: &Config) {
    for service in services {
        let mut sections = config.sockets.values();
        if !sections.any(|socket| socket.service == service) {
            tracing::info!(
                "service {service} answers on no socket: no section says service = {service:?}"
            );
        }
    }
}

/// Names of connections to be taken over that have no listener any more.
fn orphans(listeners: &[Arc<Listener>], parcels: &[Parcel]) -> Vec<Arc<str>> {
    let known: HashSet<&str> = listeners.iter().map(|listener| &*listener.name).collect();
    let names: BTreeSet<&str> = parcels
        .iter()
        .map(|parcel| parcel.state.name.as_str())
        .collect();
    names
        .into_iter()
        .filter(|name| !known.contains(name))
        .map(Arc::from)
        .collect()
}

/// Descriptors that nobody here knows. Another version may have left them in the store, and those of socket units do not look
/// different.
fn drop_strays(strays: Vec<NamedDescriptor>) {
    for stray in strays {
        match stray.name.strip_prefix(PREFIX) {
            Some(name) => tracing::warn!(
                "closing the descriptor {name:?} that the predecessor had opened: this program does not claim it"
            ),
            None => tracing::warn!(
                name = %stray.name,
                fd = stray.number,
                "closing a descriptor that nothing here uses: a socket unit passes it on, or another version has stored it"
            ),
        }
        store::discard(&[&stray.name]);
    }
}
