//! The predecessor's side: from listeners and parcels to the descriptors that the successor wakes up with.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;

use super::bequest::{Bequest, Contents};
use super::carton::{BATCH, Carton};
use super::parcel::{Parcel, State, shut};
use super::store::Barrier;
use super::vault::{self, ListenerRecord};
use crate::heap;
use crate::listeners::{Listener, Origin};
use crate::plain;
use crate::rlimit;

/// The names of the handover's own descriptors.
pub(crate) const STATE: &str = "ringhold.state";
pub(crate) const OUTLET: &str = "ringhold.outlet";
pub(crate) const INLET: &str = "ringhold.inlet";

/// Each time that so much has gone into the file, the memory that it took before is given back to the system.
const GIVE_BACK_BYTES: u64 = 64 * 1024 * 1024;

/// What carries the descriptors and the state.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) vault: OwnedFd,
    pub(crate) carton: Carton,
    /// What its storage is confirmed with, if the service manager is to store it.
    pub(crate) barrier: Barrier,
    pub(crate) contents: Contents,
}

impl Package {
    /// The descriptors with their names, in the order in which they are passed.
    pub(crate) fn descriptors(&self) -> [(&'static str, BorrowedFd<'_>); 3] {
        [
            (STATE, self.vault.as_fd()),
            (OUTLET, self.carton.outlet.as_fd()),
            (INLET, self.carton.inlet.as_fd()),
        ]
    }
}

/// A package that is begun while everybody is served. It has all the descriptors that it will have, so that the connections are not
/// lost should the kernel have none when they are let go.
#[derive(Debug)]
pub(crate) struct Packing {
    vault: vault::Writer,
    carton: Carton,
    barrier: Barrier,
}

impl Packing {
    /// Begins with the listeners that we bound ourselves; inherited ones are the service manager's, or are passed on under their own names.
    ///
    /// # Errors
    ///
    /// That there is no descriptor or no memory for the package itself, that not even the listeners fit, or that it could not be
    /// finished. Then a handover would lose every connection.
    pub(crate) fn begin(listeners: &[Arc<Listener>]) -> io::Result<Self> {
        let records = records(listeners)?;
        // One is finished for nobody, which can be done once.
        vault::Writer::new(&records)?.finish(false)?;
        let packing = Self::with(Carton::new()?, vault::Writer::new(&records)?)?;
        packing.carton.put(&bound(listeners))?;
        Ok(packing)
    }

    fn with(carton: Carton, vault: vault::Writer) -> io::Result<Self> {
        Ok(Packing {
            vault,
            carton,
            barrier: Barrier::new()?,
        })
    }

    /// Packs the connections and what services leave. `stored` says whether the service manager will keep the package.
    ///
    /// Connections that do not fit are shut down; the log says how many, and what to do. So it does of what services leave.
    ///
    /// # Errors
    ///
    /// That it cannot be finished. The connections are lost then.
    pub(crate) fn finish(
        self,
        parcels: Vec<Parcel>,
        bequests: Vec<Bequest>,
        stored: bool,
    ) -> io::Result<Package> {
        let Packing {
            mut vault,
            carton,
            barrier,
        } = self;
        let connections = fill(&carton, &mut vault, parcels)?;
        let mut contents = Contents::new(connections, &bequests);
        if let Err(error) = vault.leave(bequests) {
            let Contents { values, bytes, .. } = contents;
            tracing::error!(
                "what the services leave, {values} values ({bytes} bytes), does not fit into the handover and is lost: \
                 {error}{}",
                rlimit::advice(&error)
            );
            contents = Contents::new(connections, &[]);
        }
        Ok(Package {
            vault: vault.finish(stored)?,
            carton,
            barrier,
            contents,
        })
    }
}

/// Puts the connections in. Returns how many of them fit; the others are shut down.
fn fill(carton: &Carton, vault: &mut vault::Writer, parcels: Vec<Parcel>) -> io::Result<usize> {
    let (mut connections, mut lost) = (0, 0);
    let mut given_back = 0;
    let mut parcels = parcels.into_iter();
    let mut packed = Ok(());
    while packed.is_ok() && parcels.len() > 0 {
        let (sockets, records) = take_apart(parcels.by_ref().take(BATCH))?;
        packed = put(carton, vault, &sockets, records);
        if vault.bytes() - given_back > GIVE_BACK_BYTES {
            heap::give_back();
            given_back = vault.bytes();
        }
        if packed.is_ok() {
            connections += sockets.len();
        } else {
            lost += sockets.len();
            sockets.iter().for_each(shut);
        }
    }
    if let Err(error) = packed {
        lost += parcels.len();
        parcels.for_each(|parcel| shut(&parcel.socket));
        tracing::error!(
            "not everything fits into the handover ({error}), {} shut down: {}",
            plain::connections(lost as u64),
            advice(&error)
        );
    }
    Ok(connections)
}

/// The sockets of some parcels, and what is to be known of them.
fn take_apart(parcels: impl Iterator<Item = Parcel>) -> io::Result<(Vec<OwnedFd>, Vec<State>)> {
    let named = |Parcel { socket, mut state }| {
        state.cookie = socket_cookie(&socket)?;
        Ok((socket, state))
    };
    parcels.map(named).collect()
}

/// Puts one batch in: its sockets and what is to be known of them, or, on failure, nothing that the successor would take
/// for a connection.
fn put(
    carton: &Carton,
    vault: &mut vault::Writer,
    sockets: &[OwnedFd],
    records: Vec<State>,
) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    carton.put(&descriptors)?;
    vault.add(records)
}

/// What helps against an obstacle.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::AGAIN) => "the queues that carry them are full; raise net.core.wmem_max",
        Some(Errno::TOOMANYREFS) => {
            "this user has too many descriptors in flight; raise LimitNOFILE="
        }
        Some(Errno::FBIG) => "their state is larger than a file may be; raise LimitFSIZE=",
        _ => "the kernel has no memory for them; see MemoryMax= of the unit",
    }
}

fn records(listeners: &[Arc<Listener>]) -> io::Result<Vec<ListenerRecord>> {
    let records = listeners.iter().map(|listener| listener_record(listener));
    records.collect()
}

/// The sockets of those that we bound.
fn bound(listeners: &[Arc<Listener>]) -> Vec<BorrowedFd<'_>> {
    listeners
        .iter()
        .filter(|listener| matches!(listener.origin, Origin::Bound { .. }))
        .map(|listener| listener.socket.as_fd())
        .collect()
}

fn listener_record(listener: &Listener) -> io::Result<ListenerRecord> {
    Ok(ListenerRecord {
        cookie: socket_cookie(&listener.socket)?,
        name: listener.name.to_string(),
        bound: match &listener.origin {
            Origin::Bound { listen } => Some(listen.to_string()),
            Origin::Inherited { .. } => None,
        },
        path: listener.path.as_ref().map(|path| path.to_record()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

    use super::*;
    use crate::handover::taking::Inheritance;
    use crate::inherit::NamedDescriptor;
    use crate::patience::Patience;
    use crate::rlimit;
    use crate::seccomp::deny_where;

    /// The smallest queues that the kernel makes; some batches fit.
    const SMALL_QUEUE_BYTES: usize = 1;

    /// Connections that are told apart by what they have received, and their peers.
    fn connections(count: usize) -> (Vec<Parcel>, Vec<UnixStream>) {
        let connection = |number: usize| {
            let (ours, peer) = UnixStream::pair().unwrap();
            peer.set_nonblocking(true).unwrap();
            let parcel = Parcel {
                socket: ours.into(),
                state: State {
                    cookie: 0,
                    name: "rpc".into(),
                    service: "rpc".into(),
                    input: number.to_be_bytes().into(),
                    ended: false,
                    output: Vec::new(),
                    session: None,
                    client: None,
                },
            };
            (parcel, peer)
        };
        (0..count).map(connection).unzip()
    }

    fn vault() -> vault::Writer {
        vault::Writer::new(&[]).unwrap()
    }

    fn pack(
        carton: Carton,
        vault: vault::Writer,
        parcels: Vec<Parcel>,
        bequests: Vec<Bequest>,
    ) -> Package {
        let packing = Packing::with(carton, vault).unwrap();
        packing.finish(parcels, bequests, false).unwrap()
    }

    /// What a successor finds.
    fn look(package: &Package) -> Inheritance {
        let named =
            |(name, fd): (&str, BorrowedFd<'_>)| named(name, fd.try_clone_to_owned().unwrap());
        look_at(package.descriptors().map(named).into())
    }

    fn look_at(descriptors: Vec<NamedDescriptor>) -> Inheritance {
        Inheritance::look(descriptors, 0, 0, &Patience::default()).unwrap()
    }

    fn named(name: &str, fd: OwnedFd) -> NamedDescriptor {
        NamedDescriptor {
            name: name.into(),
            number: 3,
            fd,
        }
    }

    fn bequest(byte: u8) -> Bequest {
        Bequest {
            service: "rpc".into(),
            bytes: vec![byte; 1000],
        }
    }

    fn has_ended(mut peer: &UnixStream) -> bool {
        match peer.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_shut_down_and_the_rest_is_handed_over() {
        rlimit::raise().unwrap();
        let (parcels, peers) = connections(20 * BATCH + 7);
        let carton = Carton::with_queues(SMALL_QUEUE_BYTES).unwrap();
        let package = pack(carton, vault(), parcels, Vec::new());
        let fitting = package.contents.connections;
        assert!((BATCH..20 * BATCH).contains(&fitting), "{fitting}");
        assert_eq!(fitting % BATCH, 0);

        let found = look(&package);
        assert_eq!((found.parcels.len(), found.lost), (fitting, 0));
        for (number, parcel) in found.parcels.iter().enumerate() {
            assert_eq!(parcel.state.input, number.to_be_bytes()[..]);
        }
        let ended: Vec<bool> = peers.iter().map(has_ended).collect();
        let expected: Vec<bool> = (0..peers.len()).map(|number| number >= fitting).collect();
        assert_eq!(ended, expected);
        // Nobody else has them: where both are gone, all have ended.
        drop((package, found));
        assert!(peers.iter().all(has_ended));
    }

    #[test]
    fn a_carton_that_takes_nothing_is_handed_over_empty() {
        let (parcels, peers) = connections(10);
        let carton = Carton::with_queues(SMALL_QUEUE_BYTES).unwrap();
        let (plug, _) = UnixStream::pair().unwrap();
        while carton.put(&[plug.as_fd()]).is_ok() {}
        let package = pack(carton, vault(), parcels, Vec::new());
        assert_eq!(package.contents.connections, 0);
        assert!(peers.iter().all(has_ended));
        assert!(look(&package).parcels.is_empty());
    }

    #[test]
    fn what_services_leave_goes_along_with_and_without_connections() {
        for (count, plugged) in [(0, false), (3, false), (3, true)] {
            let (parcels, _peers) = connections(count);
            let carton = Carton::with_queues(SMALL_QUEUE_BYTES).unwrap();
            let (plug, _) = UnixStream::pair().unwrap();
            while plugged && carton.put(&[plug.as_fd()]).is_ok() {}
            let left = || [1, 2].map(bequest);
            let package = pack(carton, vault(), parcels, left().into());
            let connections = if plugged { 0 } else { count };
            let contents = Contents {
                connections,
                values: 2,
                bytes: 2000,
            };
            assert_eq!(package.contents, contents);
            let found = look(&package);
            assert_eq!(found.bequests, left());
            assert_eq!(found.parcels.len(), connections);
            assert!(found.is_of_use());
        }
    }

    /// The service manager may have dropped any of it. What services leave is in the state.
    #[test]
    fn what_came_without_one_end_of_the_carton_or_both_is_taken_over_and_the_rest_counted() {
        for (keeps_outlet, keeps_inlet) in [(true, false), (false, true), (false, false)] {
            let (parcels, _peers) = connections(100);
            let (carton, mut vault) = (Carton::with_queues(SMALL_QUEUE_BYTES).unwrap(), vault());
            // One by one, until both queues are full.
            let fits = |parcel| {
                let (sockets, records) = take_apart([parcel].into_iter()).unwrap();
                put(&carton, &mut vault, &sockets, records).is_ok()
            };
            let all = parcels
                .into_iter()
                .map(fits)
                .take_while(|fits| *fits)
                .count();
            assert!(all < 100);
            let left = || bequest(7);
            vault.leave(vec![left()]).unwrap();
            let Carton { outlet, inlet } = carton;
            let ends = [(OUTLET, outlet, keeps_outlet), (INLET, inlet, keeps_inlet)];
            let ends = ends.into_iter().filter(|(_, _, keeps)| *keeps);
            let mut descriptors = vec![named(STATE, vault.finish(false).unwrap())];
            // What is not kept is closed by then.
            descriptors.extend(ends.map(|(name, end, _)| named(name, end)));

            let found = look_at(descriptors);
            assert_eq!(found.parcels.len() + found.lost, all);
            let finds_some = keeps_outlet || keeps_inlet;
            assert_eq!(!found.parcels.is_empty(), finds_some);
            assert!(found.lost > 0);
            assert_eq!(found.bequests, [left()]);
        }
    }

    #[test]
    fn a_carton_that_cannot_be_looked_into_costs_what_is_in_it_and_no_attempt() {
        let (parcels, _peers) = connections(3);
        let left = || bequest(7);
        let package = pack(Carton::new().unwrap(), vault(), parcels, vec![left()]);
        for _ in 0..2 * vault::ATTEMPTS_MAX {
            let state = package.vault.try_clone().unwrap();
            let no_carton = File::open("/dev/null").unwrap();
            let descriptors = vec![named(STATE, state), named(OUTLET, no_carton.into())];
            let found = look_at(descriptors);
            assert_eq!((found.parcels.len(), found.lost), (0, 3));
            assert_eq!(found.bequests, [left()]);
            found.put_back();
        }
    }

    /// They are in the carton when it turns out that nothing can be written about them.
    #[test]
    fn what_cannot_be_described_has_ended_before_the_successor_looks() {
        let (parcels, peers) = connections(2 * BATCH);
        let vault = vault();
        vault.forbid_growth();
        let package = pack(Carton::new().unwrap(), vault, parcels, Vec::new());
        assert_eq!(package.contents.connections, 0);
        assert!(peers.iter().all(has_ended));
        let found = look(&package);
        assert_eq!((found.parcels.len(), found.lost), (0, BATCH));
    }

    /// From now on a read(2) of as much as a file in memory is read by fails on this thread.
    fn deny_large_reads(errno: i32) {
        let length = vault::PIECE_BYTES as u64;
        let is_large = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, length);
        let rule = SeccompRule::new(vec![is_large.unwrap()]).unwrap();
        deny_where(libc::SYS_read, vec![rule], errno);
    }

    #[test]
    fn state_that_cannot_be_read_for_want_of_memory_is_left_to_the_next_and_this_is_no_attempt() {
        let (parcels, peers) = connections(3);
        let package = pack(Carton::new().unwrap(), vault(), parcels, vec![bequest(7)]);
        std::thread::scope(|scope| {
            let without_memory = scope.spawn(|| {
                deny_large_reads(libc::ENOMEM);
                for _ in 0..2 * vault::ATTEMPTS_MAX {
                    let named = |(name, fd): (&str, BorrowedFd<'_>)| {
                        named(name, fd.try_clone_to_owned().unwrap())
                    };
                    let descriptors = package.descriptors().map(named).into();
                    let looked = Inheritance::look(descriptors, 0, 0, &Patience::default());
                    let error = looked.unwrap_err();
                    assert!(error.contains("Cannot allocate memory"), "{error}");
                }
            });
            without_memory.join().unwrap();
            // It does not pass by itself, so that the start is not to fail for it.
            let broken = scope.spawn(|| {
                deny_large_reads(libc::EIO);
                let found = look(&package);
                (found.is_some(), found.is_of_use())
            });
            assert_eq!(broken.join().unwrap(), (true, false));
        });
        assert!(peers.iter().all(has_ended));
        assert_eq!(look(&package).bequests, [bequest(7)]);
    }
}
