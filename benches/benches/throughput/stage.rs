//! The servers, all of them running, and the two CPUs.

use std::ffi::OsString;
use std::fs::File;

use ringhold_benches::server::{BARE, PEERS, Program, RINGHOLD, Server};
use ringhold_core::cpus;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::grid::{Cell, Kind};
use crate::latency::SPINNING;
use crate::options::Wanted;

/// What [`SPINNING`] is started with.
const SPIN: [&str; 2] = ["--spin", "50us"];

pub(crate) struct Stage {
    servers: Vec<Server>,
    /// The CPU of the load generator, and that of the servers.
    pub(crate) cpus: [usize; 2],
    _dir: TempDir,
    _turn: Option<File>,
}

impl Stage {
    /// Builds and starts the servers, and pins this thread.
    pub(crate) fn set(wanted: &[Wanted], spinning: bool, congestion: &str) -> Self {
        let programs = programs(wanted, spinning);
        let turn = take_turn();
        let all = cpus::available().unwrap();
        let cpus = [all[0], all[all.len().min(2) - 1]];
        if all.len() == 1 {
            println!("there is but one CPU: the servers share it with the load generator");
        }
        let dir = tempfile::tempdir().unwrap();
        let start =
            |program| Server::start(program, dir.path(), cpus[1], Some(congestion)).unwrap();
        let servers = programs.iter().map(start).collect();
        cpus::pin(cpus[0]).unwrap();
        Stage {
            servers,
            cpus,
            _dir: dir,
            _turn: turn,
        }
    }

    /// Those that can do what the cell asks for: what does not parse can only echo.
    pub(crate) fn servers_for(&self, cell: &Cell) -> Vec<&Server> {
        let servers = self.servers.iter().filter(|server| {
            server.name != SPINNING && (server.name != BARE || cell.kind == Kind::Echo)
        });
        servers.collect()
    }

    pub(crate) fn servers_for_latency(&self) -> Vec<&Server> {
        self.servers.iter().collect()
    }
}

/// Waits until no other such bench runs on this machine, as they would share the CPUs. Nobody is kept from anything by a
/// file that is not there or not theirs.
fn take_turn() -> Option<File> {
    let path = std::env::temp_dir().join("ringhold-throughput.lock");
    let file = File::options().create(true).append(true).open(path).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        println!("waiting for the end of another run");
        flock(&file, FlockOperation::LockExclusive).ok()?;
    }
    Some(file)
}

/// The programs in the order in which they are wanted, those that are known freshly built.
fn programs(wanted: &[Wanted], spinning: bool) -> Vec<Program> {
    let known = |name: &str| wanted.contains(&Wanted::Known(name.into()));
    let mut programs = Vec::new();
    if known(RINGHOLD) {
        programs.push(Program::ringhold().unwrap());
    }
    if spinning && known(RINGHOLD) {
        programs.push(Program {
            name: SPINNING.into(),
            arguments: SPIN.map(OsString::from).into(),
            ..programs[0].clone()
        });
    }
    let peers: Vec<&str> = PEERS.into_iter().filter(|name| known(name)).collect();
    programs.extend(Program::peers(&peers).unwrap());
    programs.extend(wanted.iter().filter_map(|wanted| match wanted {
        Wanted::Known(_) => None,
        Wanted::Program(program) => Some(program.clone()),
    }));
    let place = |program: &Program| {
        wanted
            .iter()
            .position(|wanted| wanted.name() == program.name)
    };
    programs.sort_by_key(|program| place(program).unwrap_or(usize::MAX));
    programs
}
