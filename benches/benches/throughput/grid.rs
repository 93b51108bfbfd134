//! The cells: what is measured, over what, with how much at once.

use std::fmt;

/// What is under way at once in a cell, at most.
const IN_FLIGHT_MAX: usize = 64 << 20;

/// What the messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Requests, each with its reply.
    Echo,
    /// Small requests, each with a reply of the payload.
    Fetch,
    /// Frames in, nothing out.
    Ingest,
    /// One publisher's frames to many readers.
    Fanout,
    /// Connections, each for one request and its reply.
    Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Unix,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) kind: Kind,
    pub(crate) transport: Transport,
    /// Those of the clients that there are at a time; of a fan-out, the readers.
    pub(crate) connections: usize,
    /// Requests that are under way on each connection; of a fan-out, publications. An ingest has no use for it, and short connections have one.
    pub(crate) depth: usize,
    pub(crate) payload: Payload,
    /// Of the server: one that has a CPU for itself, or several, of which one shares its CPU with the load generator where there
    /// are no others.
    pub(crate) workers: usize,
}

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Payload {
    /// So many bytes, in messages that are all written alike.
    Of(usize),
    /// No two messages in a row are written alike (`ringhold_benches::varied`).
    Varied,
}

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Unix];

/// In the cells of servers with several.
pub(crate) const WORKERS: usize = 2;

/// All cells.
pub(crate) fn full() -> Vec<Cell> {
    let mut cells = one_worker();
    cells.extend(several_workers());
    cells.extend(short_connections());
    cells
}

fn one_worker() -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut add = |kind, connections: &[usize], depths: &[usize], payloads: &[usize]| {
        for transport in TRANSPORTS {
            for &payload in payloads {
                for &connections in connections {
                    cells.extend(depths.iter().map(|&depth| Cell {
                        kind,
                        transport,
                        connections,
                        depth,
                        payload: Payload::Of(payload),
                        workers: 1,
                    }));
                }
            }
        }
    };
    let payloads = [16, 200, 16 << 10, 1 << 20];
    add(Kind::Echo, &[1, 64, 1024], &[1, 16, 64], &payloads);
    add(
        Kind::Fetch,
        &[1, 64, 1024],
        &[1, 16],
        &[16 << 10, 256 << 10],
    );
    add(Kind::Ingest, &[1, 64, 1024], &[1], &[16, 200, 16 << 10]);
    add(Kind::Fanout, &[1, 100, 1000], &[1, 8], &[200]);
    add(Kind::Fanout, &[1, 100], &[1, 8], &[16 << 10]);
    cells.retain(|cell| match cell.payload {
        Payload::Of(bytes) => cell.connections * cell.depth * bytes <= IN_FLIGHT_MAX,
        Payload::Varied => true,
    });
    for (kind, depth) in [(Kind::Echo, 16), (Kind::Ingest, 1)] {
        cells.extend(TRANSPORTS.map(|transport| Cell {
            kind,
            transport,
            connections: 64,
            depth,
            payload: Payload::Varied,
            workers: 1,
        }));
    }
    cells
}

fn several_workers() -> impl Iterator<Item = Cell> {
    let shapes = [
        (Kind::Echo, 64, 1, 16),
        (Kind::Echo, 64, 16, 200),
        (Kind::Echo, 1024, 1, 200),
        (Kind::Ingest, 64, 1, 200),
    ];
    TRANSPORTS.into_iter().flat_map(move |transport| {
        shapes.map(|(kind, connections, depth, payload)| Cell {
            kind,
            transport,
            connections,
            depth,
            payload: Payload::Of(payload),
            workers: WORKERS,
        })
    })
}

/// Over unix sockets first: what TCP remembers of connections, and forgets after a minute, is then nobody else's.
fn short_connections() -> impl Iterator<Item = Cell> {
    let shapes = [(1, 16), (64, 16), (1, 200), (64, 200)];
    TRANSPORTS.into_iter().rev().flat_map(move |transport| {
        shapes.map(|(connections, payload)| Cell {
            kind: Kind::Connect,
            transport,
            connections,
            depth: 1,
            payload: Payload::Of(payload),
            workers: 1,
        })
    })
}

/// Those that say most, for daily use.
pub(crate) fn quick() -> Vec<Cell> {
    let wanted = [
        "echo/tcp/1x1/200B",
        "echo/tcp/64x1/200B",
        "echo/tcp/64x16/200B",
        "echo/tcp/1024x1/200B",
        "echo/tcp/64x1/16KiB",
        "echo/unix/1x1/200B",
        "echo/unix/64x1/200B",
        "echo/unix/64x16/200B",
        "echo/unix/64x16/varied",
        "echo/unix/64x1/16KiB",
        "ingest/tcp/64/200B",
        "ingest/unix/64/200B",
        "fanout/tcp/1000x1/200B",
        "connect/tcp/64/200B",
    ];
    let mut cells = full();
    cells.retain(|cell| wanted.contains(&cell.to_string().as_str()));
    cells
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Unix => "unix",
        }
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Echo => "echo",
            Kind::Fetch => "fetch",
            Kind::Ingest => "ingest",
            Kind::Fanout => "fanout",
            Kind::Connect => "connect",
        }
    }

    /// What its figures are about.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Kind::Echo | Kind::Fetch | Kind::Ingest | Kind::Fanout => "message",
            Kind::Connect => "connection",
        }
    }
}

/// Its name, such as `echo/tcp/64x16/200B`, or `echo-2w/tcp/64x16/200B` with two workers.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, transport) = (self.kind.name(), self.transport.name());
        f.write_str(kind)?;
        if self.workers > 1 {
            write!(f, "-{}w", self.workers)?;
        }
        write!(f, "/{transport}/{}", self.connections)?;
        if ![Kind::Ingest, Kind::Connect].contains(&self.kind) {
            write!(f, "x{}", self.depth)?;
        }
        match self.payload {
            Payload::Of(bytes) => write!(f, "/{}", Bytes(bytes)),
            Payload::Varied => f.write_str("/varied"),
        }
    }
}

/// A size, in the largest unit that it is a multiple of.
pub(crate) struct Bytes(pub(crate) usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bytes(bytes) = *self;
        if bytes >= 1 << 20 && bytes % (1 << 20) == 0 {
            write!(f, "{}MiB", bytes >> 20)
        } else if bytes >= 1 << 10 && bytes % (1 << 10) == 0 {
            write!(f, "{}KiB", bytes >> 10)
        } else {
            write!(f, "{bytes}B")
        }
    }
}
