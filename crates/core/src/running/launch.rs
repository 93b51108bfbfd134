//! Starting the workers' threads.

use std::io;
use std::sync::{Arc, Mutex, mpsc};

use rustix::event::{EventfdFlags, eventfd};

use super::deputies::of_others;
use super::{Ends, Released, Running};
use crate::belongings::Belonging;
use crate::config::Config;
use crate::crew::{Crew, Name, NamedService};
use crate::engine::{Acceptor, EngineKind, Outfit, Served};
use crate::handover::bequest::Legacy;
use crate::handover::spare::Spare;
use crate::limits::Limits;
use crate::listeners::Listener;
use crate::mailbox::{Post, mailbox};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::patience::Step;
use crate::placement::{Dealer, Placement};
use crate::server::{Server, ServerError};
use crate::worker::{self, Factory};

/// Reports the end of a worker's thread, a panic included.
struct EndGuard {
    ends: Arc<Ends>,
    crew: Arc<Crew>,
    index: usize,
    served: Served,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.crew.worker_ended(self.index);
        let served = std::mem::replace(&mut self.served, Served::nothing(Ok(())));
        self.ends.lock()[self.index] = Some(served);
        let _ = rustix::io::write(&self.ends.event, &1u64.to_ne_bytes());
    }
}

impl Running {
    pub(crate) fn launch(
        server: Server,
        engine: EngineKind,
        cpus: Vec<Option<usize>>,
        listeners: Vec<Arc<Listener>>,
        orphans: &[Arc<str>],
        legacies: &Arc<[Legacy]>,
        belongings: Arc<[Belonging]>,
    ) -> Result<Self, ServerError> {
        let config = Arc::new(server.config);
        let patience = server.patience;
        let count = cpus.len();
        let names = names(&listeners, &server.services, orphans, &config);
        let (posts, mailboxes): (Vec<Post>, Vec<_>) = (0..count)
            .map(|_| mailbox())
            .collect::<io::Result<Vec<_>>>()
            .map_err(ServerError::at("making the eventfd of a worker"))?
            .into_iter()
            .unzip();
        let crew = crew(&config.limits, &names, &listeners, posts);
        let ends = Arc::new(Ends {
            results: Mutex::new((0..count).map(|_| None).collect()),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|error| ServerError::at("making an eventfd")(error.into()))?,
        });
        let mut running = Running {
            listeners: listeners.clone(),
            belongings,
            engine,
            outfit: Outfit::new(engine, &config.ring, count),
            takes: 0,
            crew,
            workers: Vec::new(),
            ends,
            services: Vec::new(),
            room: Mutex::new(Spare::keep(1)),
            taken_over: None,
        };
        let (report, reports) = mpsc::channel();
        for (index, (cpu, mailbox)) in cpus.into_iter().zip(mailboxes).enumerate() {
            let others = of_others(index, &listeners);
            let acceptors = owned_by(index, &listeners).chain(others);
            let acceptors = acceptors.map(|listener| Acceptor {
                worker: index,
                listener: listener.clone(),
                name: listener.group as u16,
            });
            let factories = server.services.iter().map(|(_, factory)| factory.clone());
            let assignment = worker::Assignment {
                index,
                cpu,
                config: config.clone(),
                engine,
                factories: factories.collect(),
                legacies: legacies.clone(),
                belongings: running.belongings.clone(),
                crew: running.crew.clone(),
                mailbox,
                acceptors: acceptors.collect(),
                patience: patience.clone(),
            };
            if let Err(error) = running.spawn(assignment, report.clone()) {
                for missing in index..count {
                    running.crew.worker_ended(missing);
                }
                running.end_workers();
                running.collect();
                return Err(error);
            }
        }
        drop(report);
        running.wait_until_set_up(&reports)?;
        Ok(running)
    }

    fn spawn(
        &mut self,
        assignment: worker::Assignment,
        report: mpsc::Sender<Result<(), ServerError>>,
    ) -> Result<(), ServerError> {
        let worker = assignment.index;
        // What the thread is to do is given to it when it is there: it may take several attempts.
        let attempt = || {
            let (give, given) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
            let thread = std::thread::Builder::new()
                .name(format!("ringhold-{worker}"))
                .stack_size(worker::STACK_BYTES)
                .spawn(move || {
                    if let Ok(work) = given.recv() {
                        work();
                    }
                });
            thread
                .map(|thread| (thread, give))
                .map_err(|error| ServerError::Thread { worker, error })
        };
        let (thread, give) = assignment.patience.insist(Step::Thread, attempt)?;
        self.workers.push(thread);
        let guard = EndGuard {
            ends: self.ends.clone(),
            crew: self.crew.clone(),
            index: worker,
            served: Served::nothing(Err(io::Error::other("the worker panicked"))),
        };
        let work = move || {
            let mut guard = guard;
            guard.served = worker::run(assignment, move |made| {
                // Nobody listens any more if another worker could not start; this one is told to stop.
                let _ = report.send(made);
            });
        };
        // It waits for that.
        let _ = give.send(Box::new(work));
        Ok(())
    }

    /// Waits until every worker has reported. If one cannot serve, none is left when this returns.
    fn wait_until_set_up(
        &mut self,
        reports: &mpsc::Receiver<Result<(), ServerError>>,
    ) -> Result<(), ServerError> {
        let failed = (0..self.workers.len()).find_map(|_| match reports.recv() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Some(error)),
            // All others have reported, and one has ended without.
            Err(_) => Some(None),
        });
        let Some(said) = failed else {
            return Ok(());
        };
        self.end_workers();
        let Released { failed, .. } = self.collect();
        Err(said
            .or(failed)
            .unwrap_or_else(|| ServerError::Engine("a worker ended before it was ready".into())))
    }
}

/// What the workers share, one for each of `posts`.
fn crew(
    limits: &Limits,
    names: &Arc<[Name]>,
    listeners: &[Arc<Listener>],
    posts: Vec<Post>,
) -> Arc<Crew> {
    let count = posts.len();
    let placements = names.iter().enumerate().map(|(number, name)| {
        let mut listeners = listeners.iter();
        let listener = listeners.find(|listener| listener.group == number);
        Placement {
            // Orphans, which have no listener, are on all workers.
            partition: listener.map_or_else(|| (0..count).collect(), |it| it.partition.clone()),
            connections: name.limits.connections,
        }
    });
    let known = names.iter().map(|name| name.name.clone()).collect();
    let memory = Memory::new(limits.memory as u64, count);
    Crew::new(
        posts,
        names.clone(),
        Dealer::new(count, limits.connections, placements),
        memory.clone(),
        Arc::new(Metrics::new(known, count, memory)),
        (0..count)
            .map(|worker| owned_by(worker, listeners).count())
            .collect(),
    )
}

/// The listeners that a worker accepts from.
fn owned_by(worker: usize, listeners: &[Arc<Listener>]) -> impl Iterator<Item = &Arc<Listener>> {
    let owns = move |listener: &&Arc<Listener>| listener.owner == worker;
    listeners.iter().filter(owns)
}

/// The socket names by number, with the services that answer them and what their sections say. Orphans come last and have neither.
fn names(
    listeners: &[Arc<Listener>],
    services: &[(String, Factory)],
    orphans: &[Arc<str>],
    config: &Config,
) -> Arc<[Name]> {
    let mut names: Vec<Name> = Vec::new();
    for listener in listeners {
        if listener.group == names.len() {
            let mut services = services.iter();
            let answers =
                |(name, _): &(String, Factory)| listener.enabled && *name == listener.service;
            let index = services.position(answers);
            // The listeners are those of this configuration.
            let section = &config.sockets[&*listener.name];
            names.push(Name {
                name: listener.name.clone(),
                service: index.map(|index| NamedService {
                    name: listener.service.as_str().into(),
                    index,
                }),
                limits: section.limits(&config.limits),
                own_frame_bytes: section.frame_bytes.is_some(),
                connections_per_client: section.connections_per_client,
                proxy_protocol: section.proxy_protocol,
            });
        }
    }
    let orphans = orphans.iter();
    names.extend(orphans.map(|name| Name::unanswered(name.clone(), config.limits.clone())));
    names.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answering::answering;
    use crate::handover::bequest::{self, Bequest};
    use crate::inherit::Inherited;
    use crate::service::Flow;

    #[test]
    fn services_are_made_in_their_order() {
        let made = Arc::new(Mutex::new(Vec::new()));
        let server = Server::new(Config::parse("workers = 2", "test").unwrap());
        let mut server = server.inherited(Inherited::none());
        for name in ["second", "third", "first"] {
            let made = made.clone();
            server = server.service(name, move |worker| {
                made.lock().unwrap().push((worker.index(), name));
                answering(|_, _| Flow::Continue)
            });
        }
        let running = server.start().unwrap();
        for worker in 0..2 {
            let made = made.lock().unwrap();
            let its = made.iter().filter(|(index, _)| *index == worker);
            let its: Vec<&str> = its.map(|(_, name)| *name).collect();
            assert_eq!(its, ["second", "third", "first"]);
        }
        running.stop();
        running.join().unwrap();
    }

    #[test]
    fn what_was_left_is_let_go_of_when_the_services_are_made() {
        let left = Bequest {
            service: "heir".to_owned(),
            bytes: vec![7; 1000],
        };
        let legacies = bequest::by_service(["heir"].into_iter(), vec![left]);
        let server = Server::new(Config::parse("workers = 2", "test").unwrap())
            .inherited(Inherited::none())
            .service("heir", |worker| {
                assert_eq!(worker.taken_over(), [vec![7; 1000]]);
                answering(|_, _| Flow::Continue)
            });
        let engine = EngineKind::Portable;
        let cpus = vec![None; 2];
        let running =
            Running::launch(server, engine, cpus, vec![], &[], &legacies, [].into()).unwrap();
        // The workers serve, and this thread has the only ones.
        assert_eq!(Arc::strong_count(&legacies), 1);
        running.stop();
        running.join().unwrap();
    }
}
