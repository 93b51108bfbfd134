//! What happens in one run: a server's settings, its clients, and what they do in which order.

use std::time::Duration;

use ringhold_core::limits::Limits;

use super::item::Item;

/// One run. Whatever is taken out of `events`, a script is left.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) settings: Settings,
    pub(crate) clients: Vec<Plan>,
    /// Each with the number of the client. A client connects when it is mentioned first.
    pub(crate) events: Vec<(usize, Event)>,
}

/// How the server is set up.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) buffers: usize,
    pub(crate) buffer_bytes: usize,
    pub(crate) entries: usize,
    pub(crate) spins: bool,
    pub(crate) frame_bytes: usize,
    pub(crate) depth: usize,
    pub(crate) outbox_bytes: usize,
    pub(crate) memory: usize,
    /// The service takes arrays only.
    pub(crate) arrays_only: bool,
    /// The time limit that takes effect at the end.
    pub(crate) timing: Option<Timing>,
    pub(crate) ending: Ending,
}

/// How a script ends. The server is told to stop in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At rest: everybody has got what is due. Tickets that nobody has decided on are dropped before.
    Dropping,
    /// At rest, and these tickets are abandoned because of it.
    Abandoning,
    /// In the middle of everything.
    Early,
}

/// A time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timing {
    Idle,
    Frame,
    Write,
}

/// The limit of which the effect is awaited.
const SHORT: Duration = Duration::from_millis(50);

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) unix: bool,
    /// Its kernel takes little that it does not read (TCP).
    pub(crate) narrow: bool,
    /// So many bytes come with the greeting, if there is one.
    pub(crate) greeting: Option<usize>,
    pub(crate) welcome: Welcome,
    /// It goes on when it has seen the server's end.
    pub(crate) keeps_open: bool,
}

/// What the service does when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    Accept,
    Refuse,
    Panic,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Adds items to the client's stream and sends it up to so many bytes before its end.
    Send {
        items: Vec<Item>,
        split: Split,
        /// Each piece is sent when the server has received those before.
        paced: bool,
        held: usize,
    },
    /// Waits until the client has got what it is due, if it reads.
    Sync,
    /// From now on the client does not read.
    Pause,
    /// It reads again.
    Resume,
    /// What becomes of the client's ticket of this number, now or as soon as it is there.
    Decide { ticket: usize, decision: Decision },
    /// The client sends nothing more.
    Leave(Leave),
}

/// How what is sent at once is cut into pieces.
#[derive(Clone, Debug)]
pub(crate) enum Split {
    Whole,
    /// Again and again into pieces of these lengths.
    Pieces(Vec<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// So many bytes come with the answer.
    Answer(usize),
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It ends its side, and reads on.
    HalfClose,
    /// It closes its socket, read or not.
    Close,
    /// It resets the connection; on a unix socket, which knows no such thing, it closes it.
    Reset,
}

impl Settings {
    pub(crate) fn limits(&self) -> Limits {
        let limit = |timing| match self.timing == Some(timing) {
            true => SHORT,
            false => Duration::ZERO,
        };
        Limits {
            frame_bytes: self.frame_bytes,
            depth: self.depth as u32,
            outbox_bytes: self.outbox_bytes,
            memory: self.memory,
            idle_timeout: limit(Timing::Idle),
            frame_timeout: limit(Timing::Frame),
            write_timeout: limit(Timing::Write),
            ..Limits::default()
        }
    }

    /// The configuration of a server with a socket name for each client, see [`socket_name`]. `@` stands for a directory.
    pub(crate) fn config(&self, clients: usize) -> String {
        let limits = self.limits();
        let ms = |time: Duration| time.as_millis();
        let mut config = format!(
            "workers = {}
            spin = \"{}us\"
            [handover]
            drain = \"{}s\"
            [ring]
            buffers = {}
            buffer_bytes = {}
            entries = {}
            [limits]
            frame_bytes = {}
            depth = {}
            outbox_bytes = {}
            memory = {}
            idle_timeout = \"{}ms\"
            frame_timeout = \"{}ms\"
            write_timeout = \"{}ms\"\n",
            self.workers,
            if self.spins { 50 } else { 0 },
            // With no tickets to wait for it is over at once.
            if self.ending == Ending::Abandoning {
                0
            } else {
                30
            },
            self.buffers,
            self.buffer_bytes,
            self.entries,
            limits.frame_bytes,
            limits.depth,
            limits.outbox_bytes,
            limits.memory,
            ms(limits.idle_timeout),
            ms(limits.frame_timeout),
            ms(limits.write_timeout),
        );
        for client in 0..clients {
            let name = socket_name(client);
            config.push_str(&format!(
                "[sockets.{name}]\nservice = \"actor\"\nlisten = [\"127.0.0.1:0\", \"unix:@/{name}\"]\n"
            ));
        }
        config
    }
}

/// The name of the socket that this client alone connects to, so that it has counters of its own.
pub(crate) fn socket_name(client: usize) -> String {
    format!("c{client}")
}

/// The client that the socket of this name is for.
pub(crate) fn client_of(socket_name: &str) -> usize {
    socket_name[1..].parse().unwrap()
}

/// An event, ready to be carried out.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send { pieces: Vec<Vec<u8>>, paced: bool },
    Sync,
    Pause,
    Resume,
    Decide { ticket: usize, decision: Decision },
    Leave(Leave),
}

impl Script {
    /// What is to be done, one step an event.
    pub(crate) fn steps(&self) -> Vec<(usize, Step)> {
        let mut held_back = vec![Vec::new(); self.clients.len()];
        let step = |(client, event): &(usize, Event)| {
            let step = match event {
                Event::Send {
                    items,
                    split,
                    paced,
                    held,
                } => {
                    let rest = &mut held_back[*client];
                    for item in items {
                        rest.extend(item.bytes(self.settings.arrays_only));
                    }
                    let length = rest.len().saturating_sub(*held);
                    let mut sent = std::mem::take(rest);
                    *rest = sent.split_off(length);
                    Step::Send {
                        pieces: split.pieces(&sent),
                        paced: *paced,
                    }
                }
                Event::Sync => Step::Sync,
                Event::Pause => Step::Pause,
                Event::Resume => Step::Resume,
                Event::Decide { ticket, decision } => Step::Decide {
                    ticket: *ticket,
                    decision: *decision,
                },
                Event::Leave(leave) => Step::Leave(*leave),
            };
            (*client, step)
        };
        self.events.iter().map(step).collect()
    }

    /// Whether this client does anything.
    pub(crate) fn mentions(&self, client: usize) -> bool {
        self.events
            .iter()
            .any(|(mentioned, _)| *mentioned == client)
    }
}

impl Split {
    /// How many pieces so many bytes are cut into.
    pub(crate) fn count(&self, length: usize) -> usize {
        match self {
            Split::Whole => 1,
            Split::Pieces(lengths) => {
                let round: usize = lengths.iter().sum();
                (length * lengths.len()).div_ceil(round)
            }
        }
    }

    fn pieces(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let lengths = match self {
            Split::Whole => &[usize::MAX][..],
            Split::Pieces(lengths) => lengths,
        };
        let mut pieces = Vec::new();
        let mut rest = bytes;
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(rest.len().min(*length));
            pieces.push(piece.to_vec());
            rest = behind;
        }
        pieces
    }
}
