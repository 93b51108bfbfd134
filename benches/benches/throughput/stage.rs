//! The servers, all of them running, and the two CPUs.

use std::ffi::OsString;
use std::fs::File;

use ringhold_benches::server::{BARE, PEERS, Program, RINGHOLD, Server};
use ringhold_core::cpus;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::grid::{Cell, Kind, WORKERS};
use crate::latency::SPINNING;
use crate::options::Wanted;
use crate::several::UNPINNED;

/// What [`SPINNING`] is started with.
const SPIN: [&str; 2] = ["--spin", "50us"];

/// What [`UNPINNED`] is started with.
const UNPIN: [&str; 2] = ["--pin", "false"];

pub(crate) struct Stage {
    servers: Vec<Server>,
    /// The same with several workers, if they are wanted.
    several: Vec<Server>,
    /// The CPU of the load generator, and that of the servers with one worker.
    pub(crate) cpus: [usize; 2],
    _dir: TempDir,
    _turn: Option<File>,
}

impl Stage {
    /// Builds and starts the servers, and pins this thread.
    pub(crate) fn set(wanted: &[Wanted], spinning: bool, several: bool, congestion: &str) -> Self {
        let programs = programs(wanted, spinning);
        let turn = take_turn();
        let all = cpus::available().unwrap();
        let cpus = [all[0], all[all.len().min(2) - 1]];
        if all.len() == 1 {
            println!("there is but one CPU: the servers share it with the load generator");
        }
        let dir = tempfile::tempdir().unwrap();
        let start = |program, name, cpus: &[usize]| {
            let dir = dir.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            Server::start(program, &dir, cpus, Some(congestion)).unwrap()
        };
        let servers = programs.iter().map(|one| start(one, "one", &cpus[1..]));
        let servers = servers.collect();
        let several = if several {
            // With but two CPUs, one of them is that of the load generator.
            let last = all.iter().rev().cycle().copied();
            let last: Vec<usize> = last.take(WORKERS).collect();
            let scalable = scalable(&programs);
            scalable
                .iter()
                .map(|one| start(one, "several", &last))
                .collect()
        } else {
            Vec::new()
        };
        cpus::pin(cpus[0]).unwrap();
        Stage {
            servers,
            several,
            cpus,
            _dir: dir,
            _turn: turn,
        }
    }

    /// Those that can do what the cell asks for: what does not parse can only send back.
    pub(crate) fn servers_for(&self, cell: &Cell) -> Vec<&Server> {
        if cell.workers > 1 {
            return self.several.iter().collect();
        }
        let servers = self.servers.iter().filter(|server| {
            server.name != SPINNING && (server.name != BARE || bare_can(cell.kind))
        });
        servers.collect()
    }

    pub(crate) fn servers_for_latency(&self) -> Vec<&Server> {
        self.servers.iter().collect()
    }
}

fn bare_can(kind: Kind) -> bool {
    matches!(kind, Kind::Echo | Kind::Connect)
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
        programs.push(like(&programs[0], SPINNING, SPIN));
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

/// The same program under another name, with these arguments.
fn like(program: &Program, name: &str, arguments: [&str; 2]) -> Program {
    Program {
        name: name.into(),
        arguments: arguments.map(OsString::from).into(),
        ..program.clone()
    }
}

/// Those that can have several workers.
fn scalable(programs: &[Program]) -> Vec<Program> {
    let wanted = programs
        .iter()
        .filter(|one| ![SPINNING, BARE].contains(&one.name.as_str()));
    let mut scalable: Vec<Program> = wanted.cloned().collect();
    let own = programs.iter().find(|one| one.name == RINGHOLD);
    scalable.extend(own.map(|own| like(own, UNPINNED, UNPIN)));
    scalable
}
