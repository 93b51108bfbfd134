//! Descriptors that belong to the application ([`Server::descriptor`], [`Server::datagram`]), from one process to the next.
//!
//! Who opened one is told by the name under which it travels, so that nothing need be recorded: what a socket unit passes on
//! keeps its name, also over execve(2), and comes from the unit at every other start. What the application has opened has
//! [`PREFIX`] before its name, over execve as in the service manager's store, where it lies from the start on.
//!
//! The order of calls: [`DescriptorClaims::check`] looks at names only, also in a program that is asked whether it could take
//! over, which is what [`DescriptorClaims::rehearse`] is for. [`DescriptorClaims::take_out`] comes before inherited descriptors are
//! matched with sections, [`DescriptorClaims::inspect`] before anything is opened, [`DescriptorClaims::make`] before anything that the
//! predecessor left is looked at, so that an error leaves all of it as it was. [`store_all`] comes before READY=1, and
//! [`Belonging::passed_as`] is its name for the successor of a reload.
//!
//! [`Server::descriptor`]: crate::Server::descriptor
//! [`Server::datagram`]: crate::Server::datagram

mod datagram;
mod kept;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::fstat;
use rustix::io::{FdFlags, fcntl_setfd};

use self::datagram::Rehearsal;
pub(crate) use self::kept::{Belonging, store_all};
use crate::config::Config;
use crate::handover::question::Question;
use crate::inherit::{Inherited, NamedDescriptor, RESERVED_PREFIX, is_reserved};
use crate::listeners::{self, Address, Row, Source};
use crate::server::ServerError;

/// What the names begin with under which the application's own descriptors are stored and passed on.
pub(crate) const PREFIX: &str = "ringhold.fd.";

/// FDNAME= may have so many bytes (sd_pid_notify_with_fds(3)).
const NAME_BYTES_MAX: usize = 255 - PREFIX.len();

/// What opens a descriptor, or goes on with the one that was passed on.
pub(crate) type Make = Box<dyn FnOnce(Option<OwnedFd>) -> io::Result<OwnedFd> + Send>;

/// The descriptors that the application wants to have.
#[derive(Default)]
pub(crate) struct DescriptorClaims {
    claims: Vec<Claim>,
    /// The names of all that is inherited, once that is known.
    inherited: Vec<String>,
}

struct Claim {
    name: String,
    wanted: Wanted,
}

/// What is to have a name.
pub(crate) enum Wanted {
    /// What the application makes of what was passed on.
    Made(Make),
    /// A UDP socket, at this address unless a socket unit passes it on.
    Datagram(SocketAddr),
}

impl DescriptorClaims {
    /// Adds one.
    ///
    /// # Panics
    ///
    /// If nothing can have this name, or something has it.
    pub(crate) fn add(&mut self, name: String, wanted: Wanted) {
        let is_possible = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|byte| matches!(byte, b' '..=b'~') && byte != b':');
        assert!(
            is_possible,
            "no descriptor can be named {name:?}: it takes 1 to {NAME_BYTES_MAX} printable ASCII characters without a colon"
        );
        assert!(
            !is_reserved(&name),
            "no descriptor can be named {name:?}: names that begin with {RESERVED_PREFIX:?} are kept for the handover"
        );
        assert!(!self.has(&name), "there are two descriptors named {name:?}");
        self.claims.push(Claim { name, wanted });
    }

    pub(crate) fn count(&self) -> usize {
        self.claims.len()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.claims.iter().any(|claim| claim.name == name)
    }

    /// Whether what is inherited under these names is nobody else's, and one a name.
    pub(crate) fn check(&self, config: &Config, inherited: &[String]) -> Result<(), ServerError> {
        for Claim { name, .. } in &self.claims {
            let mut sections = config.sockets.iter();
            if let Some((section, _)) =
                sections.find(|(section, socket)| socket.descriptor_name(section) == name)
            {
                return Err(refused(
                    name,
                    format!(
                        "[sockets.{section}] takes what has this name; call the section otherwise, or write another fd_name there"
                    ),
                ));
            }
            let count = inherited.iter().filter(|other| *other == name).count();
            if count > 1 {
                return Err(refused(
                    name,
                    format!(
                        "{count} of this name are inherited; each needs a name of its own (FileDescriptorName= of its socket unit)"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Whether what socket units pass on under these names would be gone on with.
    fn go_on_with(&self, names: &[String]) -> Result<(), ServerError> {
        match names.iter().find(|name| !self.has(name)) {
            None => Ok(()),
            Some(name) => Err(refused(
                name,
                "a socket unit passes it on, the running program uses it, and this one does not claim it".into(),
            )),
        }
    }

    /// Where what is inherited, of which some is `claimed`, is not what it is to be.
    pub(crate) fn inspect(
        &self,
        claimed: &[NamedDescriptor],
        inherited_only: bool,
    ) -> Vec<ServerError> {
        let inspect = |Claim { name, wanted }: &Claim| {
            if !matches!(wanted, Wanted::Datagram(_)) {
                return None;
            }
            match claimed.iter().find(|found| found.name == *name) {
                Some(NamedDescriptor { number, fd, .. }) => {
                    let found = listeners::udp_address(fd.as_fd()).err()?;
                    let found = format!("descriptor {number} is {found}");
                    Some(no_datagram(name, &found))
                }
                None => inherited_only.then(|| not_inherited(name, &self.inherited)),
            }
        };
        self.claims.iter().filter_map(inspect).collect()
    }

    /// Their lines of the table, some of which are `claimed`. Where that is not known, units are assumed to pass on the datagram sockets.
    pub(crate) fn rows(&self, claimed: Option<&[NamedDescriptor]>) -> Vec<Row> {
        let row = |Claim { name, wanted }: &Claim| {
            let mut inherited = claimed.unwrap_or_default().iter();
            let (address, source) = match (inherited.find(|it| it.name == *name), wanted) {
                (Some(it), _) => {
                    let address = Address::of(&it.fd).ok().flatten();
                    let address = address.map(|address| address.to_string());
                    (address, Source::Inherited(it.number))
                }
                (None, Wanted::Datagram(_)) if claimed.is_none() => (None, Source::Assumed),
                (None, Wanted::Datagram(address)) => (Some(address.to_string()), Source::WouldBind),
                (None, Wanted::Made(_)) => (None, Source::Application),
            };
            Row::of_application(name, address, source)
        };
        self.claims.iter().map(row).collect()
    }

    /// Whether a successor of the process that asks could have all of them.
    pub(crate) fn rehearse(
        &self,
        question: &Question,
        inherited_only: bool,
    ) -> Result<(), ServerError> {
        self.go_on_with(&question.descriptors)?;
        let own = question.own.iter();
        let own: Vec<(&str, SocketAddr)> = own
            .filter_map(|(name, at)| Some((name.as_str(), at.parse().ok()?)))
            .collect();
        let mut leaving = own.clone();
        leaving.retain(|(name, at)| self.leaves(name, |wanted| datagram::is_at(wanted, *at)));
        let mut rehearsal = Rehearsal::new(leaving);
        for Claim { name, wanted } in &self.claims {
            let &Wanted::Datagram(address) = wanted else {
                continue;
            };
            if question.inherited.contains(name) {
                return Err(no_datagram(name, "what its socket unit passes on listens"));
            }
            if question.not_udp.contains(name) {
                return Err(no_datagram(name, "what its socket unit passes on is none"));
            }
            if question.descriptors.contains(name) {
                continue;
            }
            if inherited_only {
                let inherited = question.inherited.iter().chain(&question.descriptors);
                let inherited: Vec<String> = inherited.cloned().collect();
                return Err(not_inherited(name, &inherited));
            }
            let mut has = own.iter().filter(|(left, _)| left == name);
            let rehearsed = match has.find(|(_, at)| datagram::is_at(address, *at)) {
                Some((_, at)) => rehearsal.stay(name, *at),
                None => rehearsal.bind(name, address, |error| {
                    self.with_holder(error, address, &own)
                }),
            };
            rehearsed.map_err(|error| ServerError::Descriptor {
                name: name.clone(),
                error,
            })?;
        }
        Ok(())
    }

    /// The error that an address cannot be had. If the running program has it, it says so, and whether it keeps it.
    fn with_holder(
        &self,
        error: io::Error,
        wanted: SocketAddr,
        own: &[(&str, SocketAddr)],
    ) -> io::Error {
        let goes = |(name, at): (&str, SocketAddr)| {
            self.leaves(name, |wanted| datagram::is_at(wanted, at))
        };
        let holders = own.iter().copied();
        let holders = holders.filter(|(_, at)| datagram::is_in_the_way(&error, wanted, *at));
        // One that goes is not why, where another one stays.
        let Some(holder) = holders.min_by_key(|holder| goes(*holder)) else {
            return error;
        };
        let (name, at) = holder;
        let mut claims = self.claims.iter();
        let is_made = claims.any(|it| it.name == name && matches!(it.wanted, Wanted::Made(_)));
        let fate = match (is_made, goes(holder)) {
            (true, _) => "and only a restart shows whether this one gives it up",
            (false, true) => {
                "which this one gives up, but only a restart shows whether others are in the way, too"
            }
            (false, false) => "which stays there",
        };
        io::Error::new(
            error.kind(),
            format!("{wanted}: the running program has {at} as descriptor {name:?}, {fate}"),
        )
    }

    /// Whether the predecessor's own socket of this name, which is `at` there, goes. What the application makes may go on with it.
    fn leaves(&self, name: &str, is_at: impl Fn(SocketAddr) -> bool) -> bool {
        match self.claims.iter().find(|claim| claim.name == name) {
            Some(Claim { wanted, .. }) => match wanted {
                Wanted::Datagram(address) => !is_at(*address),
                Wanted::Made(_) => false,
            },
            None => true,
        }
    }

    /// Takes out what is claimed.
    pub(crate) fn take_out(&mut self, inherited: &mut Inherited) -> Vec<NamedDescriptor> {
        let all = inherited.descriptors.iter();
        self.inherited = all.map(|found| found.name.clone()).collect();
        let is_claimed = |descriptor: &mut NamedDescriptor| self.has(claimed_as(&descriptor.name));
        inherited.descriptors.extract_if(.., is_claimed).collect()
    }

    /// Has all of them, of which some are `inherited`. What the predecessor had at another address, or is among the `strays`, which
    /// nobody claims, is in nobody's way.
    pub(crate) fn make(
        self,
        mut inherited: Vec<NamedDescriptor>,
        strays: &[NamedDescriptor],
    ) -> Result<Vec<Belonging>, ServerError> {
        let leaves = |found: &mut NamedDescriptor| {
            let name = found.name.strip_prefix(PREFIX);
            name.is_some_and(|name| {
                self.leaves(name, |wanted| datagram::is_there(&found.fd, wanted))
            })
        };
        let mut left = Left {
            leaving: inherited.extract_if(.., leaves).collect(),
            inherited,
            given_up: Vec::new(),
            wanted: self.claims.iter().filter_map(Claim::address).collect(),
            strays,
        };
        // What the application makes of its own comes first: it may give up an address that is wanted.
        let mut claims = self.claims;
        claims.sort_by_key(|claim| matches!(claim.wanted, Wanted::Datagram(_)));
        let claims = claims.into_iter();
        let made = claims.map(|claim| claim.make(&mut left, &self.inherited));
        let made = made.collect::<Result<Vec<Belonging>, _>>()?;
        // Every claim has taken the first that there was for it.
        for found in left.inherited {
            made.iter().for_each(|made| made.say_closed(&found, true));
        }
        for found in left.leaving {
            made.iter().for_each(|made| made.say_closed(&found, false));
        }
        Ok(made)
    }
}

/// What there is when descriptors are made.
struct Left<'a> {
    /// What is gone on with.
    inherited: Vec<NamedDescriptor>,
    /// What the predecessor had opened where a UDP socket is wanted, and is none at that address.
    leaving: Vec<NamedDescriptor>,
    /// Duplicates of UDP sockets that the application does not go on with. The service manager has others.
    given_up: Vec<NamedDescriptor>,
    /// Where UDP sockets are wanted.
    wanted: Vec<SocketAddr>,
    /// What nobody claims.
    strays: &'a [NamedDescriptor],
}

impl Claim {
    /// Where a UDP socket is wanted.
    fn address(&self) -> Option<SocketAddr> {
        match self.wanted {
            Wanted::Datagram(address) => Some(address),
            Wanted::Made(_) => None,
        }
    }

    /// `names` are those of all that was inherited.
    fn make(self, left: &mut Left<'_>, names: &[String]) -> Result<Belonging, ServerError> {
        let Claim { name, wanted } = self;
        let is_datagram = matches!(wanted, Wanted::Datagram(_));
        let mut take = |name: &str| {
            let index = left.inherited.iter().position(|found| found.name == name)?;
            Some(left.inherited.remove(index).fd)
        };
        let units = take(&name);
        let is_units = units.is_some();
        let passed_on = units.or_else(|| take(&own(&name)));
        let is_passed_on = passed_on.is_some();
        let made = match (wanted, passed_on) {
            (Wanted::Made(make), passed_on) => {
                let before = passed_on.as_ref().filter(|_| !is_units);
                // Not of others: the application itself may want that address.
                let before = before.and_then(|it| datagram::in_the_way(&name, it, &left.wanted));
                let passed_on_as = passed_on.as_ref().and_then(identity);
                make(passed_on).map(|made| {
                    let goes_on = is_passed_on && identity(&made) == passed_on_as;
                    left.given_up.extend(before.filter(|_| !goes_on));
                    (made, goes_on)
                })
            }
            // A unit's was inspected, and where it is bound is for the unit to say; another one is where it is wanted.
            (Wanted::Datagram(_), Some(there)) => Ok((there, true)),
            (Wanted::Datagram(address), None) => {
                let others: Vec<_> = left.given_up.iter().chain(left.strays).collect();
                datagram::open(&name, address, &mut left.leaving, &others)
            }
        };
        let made = made.and_then(|(descriptor, goes_on)| {
            // Only what is laid out for it goes to another program.
            fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
            if is_datagram {
                rustix::io::ioctl_fionbio(&descriptor, true)?;
            }
            Ok((descriptor, goes_on))
        });
        match made {
            Ok((descriptor, goes_on)) => {
                let origin = match goes_on {
                    true if is_units => "inherited",
                    true => "the predecessor's",
                    false => "new",
                };
                let at = listeners::udp_address(descriptor.as_fd()).map(|at| format!(", {at}"));
                let at = at.unwrap_or_default();
                tracing::info!("descriptor {name:?} of the application ({origin}{at})");
                Ok(Belonging {
                    name,
                    descriptor,
                    is_units,
                })
            }
            // What the application says itself, as Server::descriptor promises; a system call may mean something else by it.
            Err(error)
                if !is_datagram
                    && error.kind() == ErrorKind::InvalidInput
                    && error.raw_os_error().is_none() =>
            {
                Err(refused(
                    &name,
                    match is_passed_on {
                        true => error.to_string(),
                        false => format!("{error}; inherited were {}", listed(names)),
                    },
                ))
            }
            Err(error) => Err(ServerError::Descriptor { name, error }),
        }
    }
}

/// The name that the application has for what travels under this one.
fn claimed_as(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// By which it is the same file, whichever descriptor it has.
fn identity(descriptor: &OwnedFd) -> Option<(u64, u64)> {
    let stat = fstat(descriptor).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

fn own(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn refused(name: &str, reason: String) -> ServerError {
    ServerError::Claim {
        name: name.to_owned(),
        reason,
    }
}

fn no_datagram(name: &str, found: &str) -> ServerError {
    refused(
        name,
        format!("{found}; a UDP socket is needed, which is ListenDatagram= in its socket unit"),
    )
}

fn not_inherited(name: &str, inherited: &[String]) -> ServerError {
    refused(
        name,
        format!(
            "it was not inherited, and only inherited sockets are allowed; it needs FileDescriptorName={name} in its socket unit, inherited were {}",
            listed(inherited)
        ),
    )
}

/// The names of what socket units pass on.
fn listed(inherited: &[String]) -> String {
    let units = inherited.iter().filter(|name| !is_reserved(name));
    listeners::quoted(&units.cloned().collect::<Vec<_>>())
}
