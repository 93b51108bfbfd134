//! What an exchange is made of.

use std::fmt;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::Exchange;
use super::wire::Identity;
use crate::belongings::{Belonging, DescriptorClaims, Wanted};
use crate::crew::{Crew, Name, NamedService};
use crate::desk::Desk;
use crate::handover::bequest::{self, Bequest, Legacy};
use crate::host::{Host, Hosted};
use crate::inherit::Inherited;
use crate::limits::Limits;
use crate::mailbox::{Mailbox, mailbox};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::peer::Link;
use crate::placement::Dealer;
use crate::service::Service;
use crate::shard::Shard;
use crate::worker::Worker;

type Make<'a> = Box<dyn FnOnce(&Worker) -> Box<dyn Host> + 'a>;

/// The services, sockets, limits and descriptors of an [`Exchange`], where those are more than [`Exchange::new`] and
/// [`Exchange::with_worker`] take: a daemon's services, that know each other, on one worker.
///
/// ```
/// # use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// # use ringhold_core::testing::Setup;
/// # use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Service};
/// /// Counts frames.
/// struct Ingest(Arc<AtomicU64>);
/// /// Answers with their number.
/// struct Control(Arc<AtomicU64>);
/// # impl Service for Ingest {
/// #     type Session = ();
/// #     fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
/// #         Ok(())
/// #     }
/// #     fn frame(&mut self, _: &mut (), _: Frame<'_>, _: &mut Reply<'_>) -> Flow {
/// #         self.0.fetch_add(1, Ordering::Relaxed);
/// #         Flow::Continue
/// #     }
/// # }
/// # impl Service for Control {
/// #     type Session = ();
/// #     fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
/// #         Ok(())
/// #     }
/// #     fn frame(&mut self, _: &mut (), _: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
/// #         reply.write(|out| out.push(self.0.load(Ordering::Relaxed) as u8));
/// #         Flow::Continue
/// #     }
/// # }
///
/// let count = Arc::new(AtomicU64::new(0));
/// let mut exchange = Setup::new(Default::default())
///     .service("ingest", &["tcp", "local"], |_| Ingest(count.clone()))
///     .service("control", &["control"], |_| Control(count.clone()))
///     .start();
/// let (instrument, operator) = (exchange.connect_to("tcp"), exchange.connect_to("control"));
/// exchange.receive(instrument, b"\xc0\xc0");
/// exchange.receive(operator, b"\xc0");
/// assert_eq!(exchange.take_sent(operator), [2]);
/// ```
#[must_use = "nothing serves before it is started"]
pub struct Setup<'a> {
    limits: Limits,
    services: Vec<(String, Make<'a>)>,
    sockets: Vec<Name>,
    descriptors: DescriptorClaims,
}

/// What it goes on from.
#[derive(Default)]
pub(super) struct Left<'a> {
    pub(super) bequests: Vec<Bequest>,
    pub(super) belongings: &'a [Belonging],
}

/// One worker, without what moves its bytes.
struct Made<L> {
    shard: Shard<L>,
    mailbox: Mailbox,
    legacies: Arc<[Legacy]>,
    belongings: Arc<[Belonging]>,
}

impl<'a> Setup<'a> {
    /// No services yet, and these limits.
    pub fn new(limits: Limits) -> Self {
        Setup {
            limits,
            services: Vec::new(),
            sockets: Vec::new(),
            descriptors: DescriptorClaims::default(),
        }
    }

    /// Adds a service, which is made as [`Server::service`](crate::Server::service) makes it, and answers on sockets of these names.
    ///
    /// # Panics
    ///
    /// If there is a service or a socket of such a name already.
    pub fn service<S: Service>(
        mut self,
        name: &str,
        sockets: &[&str],
        make: impl FnOnce(&Worker) -> S + 'a,
    ) -> Self {
        let is_taken = self.services.iter().any(|(known, _)| known == name);
        assert!(!is_taken, "there are two services named {name:?}");
        let make: Make<'a> = Box::new(|worker| Box::new(Hosted::new(make(worker))));
        self.services.push((name.to_owned(), make));
        let limits = self.limits.clone();
        let names = sockets
            .iter()
            .map(|name| Name::unanswered((*name).into(), limits.clone()));
        names.fold(self, Self::add_socket)
    }

    /// The service that was added last answers on this socket, too, whose connections have limits of their own. Those of the worker,
    /// which are `depth`, `connections` and `memory`, are not taken from there.
    ///
    /// # Panics
    ///
    /// If there is no service yet, or a socket of that name already.
    pub fn socket(self, name: &str, limits: Limits) -> Self {
        assert!(
            !self.services.is_empty(),
            "no service is there to answer on {name:?}"
        );
        self.add_socket(Name {
            own_frame_bytes: true,
            ..Name::unanswered(name.into(), limits)
        })
    }

    /// The last service answers on this one, too.
    fn add_socket(mut self, name: Name) -> Self {
        let is_taken = self.sockets.iter().any(|known| known.name == name.name);
        assert!(!is_taken, "there are two sockets named {:?}", name.name);
        let index = self.services.len() - 1;
        let service = NamedService {
            name: self.services[index].0.as_str().into(),
            index,
        };
        self.sockets.push(Name {
            service: Some(service),
            ..name
        });
        self
    }

    /// The last service answers on all of these, too.
    pub(super) fn sockets(self, names: &[Name]) -> Self {
        names.iter().cloned().fold(self, Self::add_socket)
    }

    /// Services that ask for this one get a duplicate of it ([`Worker::descriptor`]), those of [successors](Exchange::hand_over) too.
    ///
    /// # Panics
    ///
    /// If the name is none for a descriptor, as in [`Server::descriptor`](crate::Server::descriptor), or taken.
    pub fn descriptor(mut self, name: &str, descriptor: impl Into<OwnedFd>) -> Self {
        let descriptor = descriptor.into();
        let make = |passed_on: Option<OwnedFd>| Ok(passed_on.unwrap_or(descriptor));
        self.descriptors
            .add(name.to_owned(), Wanted::Made(Box::new(make)));
        self
    }

    /// Makes the services, in the order in which they were added, and begins to serve.
    pub fn start(self) -> Exchange {
        self.make(Left::default()).begun()
    }

    /// Makes the services, which go on from what a predecessor left.
    pub(super) fn make(self, left: Left<'_>) -> Exchange {
        let made = self.assemble(left);
        Exchange {
            shard: made.shard,
            mailbox: made.mailbox,
            now: 1,
            ids: Vec::new(),
            ended: Vec::new(),
            parted: Vec::new(),
            legacies: made.legacies,
            belongings: made.belongings,
            peer: Identity::default(),
        }
    }

    /// Makes the services, for an engine that runs on this thread.
    #[cfg(test)]
    pub(crate) fn shard<L: Link>(self) -> (Shard<L>, Mailbox) {
        let made = self.assemble(Left::default());
        (made.shard, made.mailbox)
    }

    fn assemble<L: Link>(self, left: Left<'_>) -> Made<L> {
        let belongings = belongings(self.descriptors, left.belongings);
        let (post, mailbox) =
            mailbox().unwrap_or_else(|error| panic!("a mailbox needs an eventfd: {error}"));
        mailbox.adopt();
        let known = self.sockets.iter().map(|socket| socket.name.clone());
        let memory = Memory::new(self.limits.memory as u64, 1);
        let metrics = Arc::new(Metrics::new(known.collect(), 1, memory.clone()));
        let services = self.services.iter().map(|(name, _)| name.as_str());
        let legacies = bequest::by_service(services, left.bequests);
        let worker = Worker::new(0, 1, metrics.clone(), legacies.clone(), belongings.clone());
        let services = self.services.into_iter().enumerate();
        let hosts = services.map(|(index, (_, make))| {
            worker.service.set(index);
            make(&worker)
        });
        let hosts = hosts.collect();
        legacies.iter().for_each(Legacy::say_unclaimed);
        let partitions = self.sockets.iter().map(|_| vec![0]);
        let dealer = Dealer::new(1, self.limits.connections, partitions);
        let names = self.sockets.into();
        let crew = Crew::new(vec![post], names, dealer, memory, metrics, vec![0]);
        let desk = Desk::new(crew, 0, self.limits);
        Made {
            shard: Shard::new(desk, hosts, worker.watches, Duration::ZERO),
            mailbox,
            legacies,
            belongings,
        }
    }
}

impl fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (services, sockets) = (self.services.len(), self.sockets.len());
        write!(f, "Setup({services} services on {sockets} sockets)")
    }
}

/// What the application has: what is claimed, and everything that the predecessor had.
fn belongings(mut claims: DescriptorClaims, left: &[Belonging]) -> Arc<[Belonging]> {
    let mut passed_on = Vec::new();
    for belonging in left {
        if !claims.has(belonging.name()) {
            let make = |passed_on: Option<OwnedFd>| passed_on.ok_or(ErrorKind::NotFound.into());
            claims.add(belonging.name().to_owned(), Wanted::Made(Box::new(make)));
        }
        let (name, descriptor) = belonging.passed_as();
        let duplicate = descriptor.try_clone_to_owned();
        let duplicate = duplicate.unwrap_or_else(|error| panic!("descriptor {name:?}: {error}"));
        passed_on.push((name, duplicate));
    }
    let made = claims.make(Inherited::from_descriptors(passed_on).descriptors, &[]);
    made.unwrap_or_else(|error| panic!("{error}")).into()
}
