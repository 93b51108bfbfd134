//! Makes the listeners that were not inherited.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, FileType, Gid, MemfdFlags, Mode, Stat, Uid};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_congestion;
use socket2::{Domain, SockAddr, Socket, Type};

use super::bound_path::stat;
use super::buffers::Buffers;
use super::keepalive::Keepalive;
use super::names::Owners;
use super::{Address, BoundPath, StartProblem};
use crate::config::{ListenAddress, SocketConfig};

/// How the sockets of a section are made.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) backlog: i32,
    pub(super) mode: u32,
    pub(super) owners: Owners,
    pub(super) nodelay: bool,
    pub(super) keepalive: Keepalive,
    pub(super) reuse_port: bool,
    pub(super) ipv6_only: Option<bool>,
    pub(super) congestion: Option<String>,
    pub(super) buffers: Buffers,
}

impl Options {
    pub(super) fn new(config: &SocketConfig, owners: Owners) -> Self {
        Self {
            backlog: i32::try_from(config.backlog).unwrap_or(i32::MAX),
            mode: config.mode,
            owners,
            nodelay: config.nodelay,
            keepalive: Keepalive::new(config),
            reuse_port: config.reuse_port,
            ipv6_only: config.ipv6_only,
            congestion: config.congestion.clone(),
            buffers: Buffers::new(config),
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: OwnedFd,
    pub(super) address: Address,
    pub(super) path: Option<BoundPath>,
}

/// How long a start tries addresses again that are in use. The kernel takes down the rings of a killed process after the
/// process itself has ended, in the background, and until then its listeners still listen: 4 to 12 ms on Linux 6.18, more
/// than 250 ms when every CPU is busy.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// How often it looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The name of the path that is made for a moment to see whether one can be. It is always the same, so that no more than one is left
/// where a process is killed in that moment.
const TRIED_PATH: &str = ".ringhold-tried";

/// Why one does not: what happened and what can be done, and what the kernel said.
pub(super) struct Failure {
    reason: String,
    error: Option<io::Error>,
    occupant: Option<Occupant>,
}

impl Failure {
    pub(super) fn new(reason: impl Into<String>, error: Option<io::Error>) -> Self {
        Self {
            reason: reason.into(),
            error,
            occupant: None,
        }
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.is(io::ErrorKind::AddrInUse)
    }

    fn is_forbidden(&self) -> bool {
        self.is(io::ErrorKind::PermissionDenied)
    }

    fn is(&self, kind: io::ErrorKind) -> bool {
        let error = self.error.as_ref();
        error.is_some_and(|error| error.kind() == kind)
    }

    /// The failure to bind `listen` for section `name`.
    pub(super) fn at(self, name: &str, listen: &ListenAddress) -> StartProblem {
        StartProblem::Bind {
            socket: name.to_owned(),
            address: listen.clone(),
            reason: self.reason,
            error: self.error,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new("the kernel refuses", Some(error))
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// Who listens on a path that is to be bound.
struct Occupant {
    /// It ends when they do. They see it, so there are to be few.
    connection: Socket,
    path: BoundPath,
}

impl Occupant {
    /// Whether they still listen there in a moment, or as soon as they do not.
    fn stays(&self) -> bool {
        // The end of a connection is told, whatever is asked for.
        let mut ends = [PollFd::new(&self.connection, PollFlags::empty())];
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK_INTERVAL.as_nanos() as _,
        };
        let has_ended = matches!(poll(&mut ends, Some(&moment)), Ok(1..));
        !has_ended && self.path.is_there()
    }
}

/// Binds `listen` for section `name` and listens. `first` says whether it is the first of several with this address. While it
/// is in use it is tried again, until `deadline`.
pub(super) fn bind(
    name: &str,
    listen: &ListenAddress,
    options: &Options,
    first: bool,
    deadline: Instant,
) -> Result<Bound, StartProblem> {
    let attempt = || match listen {
        ListenAddress::Tcp(address) => tcp(*address, options, first),
        ListenAddress::UnixPath(path) => unix_path(path, options),
        ListenAddress::UnixAbstract(name) => unix_abstract(name, options),
    };
    let mut bound = attempt();
    let mut pause = Duration::ZERO;
    while let Err(failure) = &bound
        && failure.is_in_use()
        && let left = deadline.saturating_duration_since(Instant::now())
        && !left.is_zero()
    {
        match &failure.occupant {
            Some(occupant) if occupant.stays() => continue,
            Some(_) => {
                // They may be there and turn everybody away.
                std::thread::sleep(pause.min(left));
                pause = (2 * pause).max(LOOK_INTERVAL);
            }
            None => std::thread::sleep(LOOK_INTERVAL),
        }
        bound = attempt();
    }
    bound.map_err(|failure| failure.at(name, listen))
}

/// Whether [`bind`] would succeed, as far as one can know without listening. Nothing stays behind.
pub(super) fn rehearse(listen: &ListenAddress, options: &Options) -> Result<(), Failure> {
    match listen {
        ListenAddress::Tcp(address) => tcp_socket(*address, options, false).map(drop),
        ListenAddress::UnixPath(path) => {
            let stale = find_stale(path)?;
            let directory = path.parent().unwrap_or(path);
            rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)
                .map_err(|error| path_failure(path, error.into()))?;
            match stale {
                // It would be replaced, and so leaves room for what is to be made.
                Some(_) => rehearse_options(listen, options),
                None => rehearse_path(path, directory, listen, options),
            }
        }
        ListenAddress::UnixAbstract(name) => abstract_socket(name).map(drop),
    }
}

/// Whether `path` can be made in `directory`, which `listen` names: by making one of another name, on which nobody listens.
fn rehearse_path(
    path: &Path,
    directory: &Path,
    listen: &ListenAddress,
    options: &Options,
) -> Result<(), Failure> {
    let tried = directory.join(TRIED_PATH);
    // It may be too long for a socket though the one that is meant is not (unix(7)).
    if SockAddr::unix(&tried).is_err() {
        return rehearse_options(listen, options);
    }
    match make_path(&tried, options) {
        Ok((_socket, bound)) => {
            // That it could be made is what was to be found out. It stays where nothing can be removed (chattr +a).
            let _ = bound.remove();
            Ok(())
        }
        // Another process tries it, or one was killed when it did.
        Err(failure) if failure.is_in_use() => rehearse_options(listen, options),
        // Nothing may be made there, as where a file system has no sockets, or only some names, as AppArmor can say.
        Err(failure) if failure.is_forbidden() => {
            let (_socket, bound) = make_path(path, options)?;
            bound.remove().map(drop).map_err(Failure::from)
        }
        Err(failure) => Err(failure),
    }
}

/// Whether a socket that listens on `listen` could be given these options.
pub(super) fn rehearse_options(listen: &ListenAddress, options: &Options) -> Result<(), Failure> {
    match listen {
        ListenAddress::Tcp(address) => new_tcp_socket(*address, options).map(drop),
        ListenAddress::UnixPath(_) => {
            // A file that belongs to this process as a path that it makes would (chown(2)).
            let file = rustix::fs::memfd_create("ringhold-owners", MemfdFlags::CLOEXEC)?;
            give(&file, options.owners)
        }
        ListenAddress::UnixAbstract(_) => Ok(()),
    }
}

fn tcp(address: SocketAddr, options: &Options, first: bool) -> Result<Bound, Failure> {
    if options.reuse_port && first && address.port() != 0 {
        // With SO_REUSEPORT the kernel lets a second instance take a share of the connections silently. Without it,
        // it tells whether anybody else listens there.
        tcp_socket(address, options, false)?;
    }
    let socket = tcp_socket(address, options, options.reuse_port)?;
    // Another process may begin to listen between bind and listen.
    socket
        .listen(options.backlog)
        .map_err(|error| tcp_failure(address, error))?;
    finish(socket.into(), None)
}

/// A TCP socket bound to `address`, not yet listening.
fn tcp_socket(address: SocketAddr, options: &Options, reuse_port: bool) -> Result<Socket, Failure> {
    let socket = new_tcp_socket(address, options)?;
    socket.set_reuse_port(reuse_port)?;
    socket
        .bind(&SockAddr::from(address))
        .map_err(|error| tcp_failure(address, error))?;
    Ok(socket)
}

/// A TCP socket that is yet to be bound to `address`.
fn new_tcp_socket(address: SocketAddr, options: &Options) -> Result<Socket, Failure> {
    // Close-on-exec from the start; socket2 sees to it.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)
        .map_err(|error| tcp_failure(address, error))?;
    // So that connections of a former process that are still closing do not keep the port (socket(7)).
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit all of these.
    socket.set_tcp_nodelay(options.nodelay)?;
    options.keepalive.set(&socket)?;
    options.buffers.set(&socket)?;
    if let Some(name) = &options.congestion {
        set_tcp_congestion(&socket, name).map_err(|error| congestion_failure(name, error))?;
    }
    if let (SocketAddr::V6(_), Some(only)) = (address, options.ipv6_only) {
        socket.set_only_v6(only)?;
    }
    Ok(socket)
}

fn tcp_failure(address: SocketAddr, error: io::Error) -> Failure {
    let port = address.port();
    let reason = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) if address.ip() == Ipv4Addr::UNSPECIFIED => format!(
            "port {port} is in use, by another process or by a listener on [::]:{port}, which takes IPv4 too unless \
             ipv6_only = true; \"ss -tanp sport = :{port}\" shows which"
        ),
        Some(Errno::ADDRINUSE) => format!(
            "the port is in use; is another instance running, or a socket unit active that this process was not \
             started by? \"ss -tanp sport = :{port}\" shows it"
        ),
        Some(Errno::ADDRNOTAVAIL) => format!(
            "no interface of this machine has the address {}",
            address.ip()
        ),
        Some(Errno::ACCESS) => format!(
            "port {port} needs a privilege; take it from a socket unit, or give the service CAP_NET_BIND_SERVICE"
        ),
        Some(Errno::AFNOSUPPORT) => {
            "this machine or RestrictAddressFamilies= of the unit rules the family out".to_owned()
        }
        _ => "the kernel refuses".to_owned(),
    };
    Failure::new(reason, Some(error))
}

fn congestion_failure(name: &str, error: Errno) -> Failure {
    let reason = match error {
        Errno::NOENT => format!(
            "the kernel has no congestion control {name:?}; \"sysctl net.ipv4.tcp_available_congestion_control\" lists those \
             that it has"
        ),
        Errno::PERM => format!(
            "congestion control {name:?} is not for everyone; add it to net.ipv4.tcp_allowed_congestion_control, or give the \
             service CAP_NET_ADMIN"
        ),
        _ => "the kernel refuses".to_owned(),
    };
    Failure::new(reason, Some(error.into()))
}

fn unix_abstract(name: &str, options: &Options) -> Result<Bound, Failure> {
    let socket = abstract_socket(name)?;
    socket.listen(options.backlog)?;
    finish(socket.into(), None)
}

/// A unix socket bound to the abstract name `name`, not yet listening.
fn abstract_socket(name: &str) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket
        .bind(&SockAddr::unix(format!("\0{name}"))?)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Failure::new("another process listens there", Some(error)),
            _ => error.into(),
        })?;
    Ok(socket)
}

fn unix_path(path: &Path, options: &Options) -> Result<Bound, Failure> {
    remove_stale(path)?;
    let (socket, bound) = make_path(path, options)?;
    if let Err(error) = socket.listen(options.backlog) {
        // Whatever went wrong is worse than a path that stays.
        let _ = bound.remove();
        return Err(error.into());
    }
    finish(socket.into(), Some(bound))
}

/// A unix socket bound to `path`, which has its owners and its mode. It does not listen yet.
fn make_path(path: &Path, options: &Options) -> Result<(Socket, BoundPath), Failure> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux makes the path with the mode that the unbound socket has, less the umask (unix_bind in the kernel), so it
    // is never wider than it is to be.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(options.mode))?;
    socket
        .bind(&SockAddr::unix(path)?)
        .map_err(|error| path_failure(path, error))?;
    let bound = BoundPath::at(path)?;
    // Until it listens every connect is refused, so nobody gets in before the owners and the mode are right.
    if let Err(failure) = bound.adjust(options) {
        // Whatever went wrong is worse than a path that stays.
        let _ = bound.remove();
        return Err(failure);
    }
    Ok((socket, bound))
}

fn finish(socket: OwnedFd, path: Option<BoundPath>) -> Result<Bound, Failure> {
    match Address::of(&socket)? {
        Some(address) => Ok(Bound {
            socket,
            address,
            path,
        }),
        None => Err(Failure::new(
            "the kernel gave it an address of another family",
            None,
        )),
    }
}

fn path_failure(path: &Path, error: io::Error) -> Failure {
    let directory = path.parent().unwrap_or(path).display();
    let reason = match error.kind() {
        io::ErrorKind::NotFound => format!(
            "the directory {directory} does not exist; create it, e.g. with RuntimeDirectory= in the service unit"
        ),
        io::ErrorKind::PermissionDenied => {
            format!(
                "this process may not create files in {directory}; give it the directory, e.g. with RuntimeDirectory="
            )
        }
        io::ErrorKind::AddrInUse => {
            "another process took the path in this moment; are two instances starting?".to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("the directory {directory} is read-only; see ReadWritePaths=")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("there is no room for another file in {directory} (df -i)")
        }
        _ => "the kernel refuses".to_owned(),
    };
    Failure::new(reason, Some(error))
}

/// Removes a socket that a dead process left at `path`. Anything else stays, and is an error.
fn remove_stale(path: &Path) -> Result<(), Failure> {
    let Some(before) = find_stale(path)? else {
        return Ok(());
    };
    // Unless somebody replaced it while we asked.
    match stat(path)? {
        Some(now) if (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino) => {
            rustix::fs::unlink(path).map_err(|error| path_failure(path, error.into()))
        }
        Some(_) => Err(path_in_use()),
        None => Ok(()),
    }
}

fn path_in_use() -> Failure {
    Failure::new(
        "another process listens there; stop it first, or choose another path",
        Some(Errno::ADDRINUSE.into()),
    )
}

/// A socket that a dead process left at `path`, if there is one. Anything else that is there is an error.
fn find_stale(path: &Path) -> Result<Option<Stat>, Failure> {
    let Some(found) = stat(path)? else {
        return Ok(None);
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        let reason = "something that is not a socket is in the way; it is not removed, choose another path or move it";
        return Err(Failure::new(reason, None));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog would make a blocking connect wait.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Err(Failure {
            occupant: Some(Occupant {
                connection: probe,
                path: BoundPath::new(path, &found),
            }),
            ..path_in_use()
        }),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            // Nobody has it open (unix(7)).
            Some(Errno::CONNREFUSED) => Ok(Some(found)),
            Some(Errno::NOENT) => Ok(None),
            // EAGAIN is a full backlog, EPROTOTYPE a socket of another type: both have an owner.
            Some(Errno::AGAIN | Errno::PROTOTYPE) => Err(path_in_use()),
            _ => {
                let reason = "a socket is there already, and whether anybody listens on it cannot be found out";
                Err(Failure::new(reason, Some(error)))
            }
        },
    }
}

/// Gives an open file these owners.
pub(super) fn give(file: impl AsFd, Owners { user, group }: Owners) -> Result<(), Failure> {
    if user.is_none() && group.is_none() {
        return Ok(());
    }
    let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
    rustix::fs::chownat(file, "", user, group, AtFlags::EMPTY_PATH).map_err(|error| {
        let reason = "this process may not give it that user or group; run it as root, or as a member of the group";
        Failure::new(reason, Some(error.into()))
    })
}
