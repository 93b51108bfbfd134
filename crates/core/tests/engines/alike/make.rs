//! Making scripts from seeds.

use super::item::{Ask, Family, Item};
use super::script::{
    Decision, Ending, Event, Leave, Plan, Script, Settings, Split, Timing, Welcome,
};
use crate::common::random::Random;

const MIB: usize = 1 << 20;

/// From this size on a frame is received into a buffer of its own.
const LARGE: usize = 64 * 1024;

/// More memory than a server may use that is given little.
const HOARD: u32 = 2 << 20;

/// What no kernel takes for a unix socket that is not read.
pub(crate) const CLOG: u32 = 3 << 20;

impl Script {
    /// The script of this seed.
    pub(crate) fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        match random.below(24) {
            0 => timed(random, Timing::Idle),
            1 => timed(random, Timing::Frame),
            2 => timed(random, Timing::Write),
            3 => hoarding(random),
            _ => any(random),
        }
    }
}

impl Settings {
    fn random(random: &mut Random) -> Self {
        Settings {
            workers: 1 + random.below(2),
            buffers: random.pick(&[2, 4, 64, 64]),
            buffer_bytes: random.pick(&[1024, 4096, 16_384, 16_384]),
            entries: random.pick(&[8, 64, 4096]),
            spins: random.once_in(5),
            frame_bytes: random.pick(&[4000, 70_000, 100_000, 400_000]),
            depth: random.pick(&[4, 16, 128]),
            outbox_bytes: random.pick(&[2048, 64 * 1024, 8 * MIB, 8 * MIB]),
            memory: 1 << 30,
            arrays_only: random.once_in(4),
            timing: None,
            ending: random.pick(&[Ending::Dropping, Ending::Dropping, Ending::Abandoning]),
        }
    }
}

impl Plan {
    fn random(random: &mut Random) -> Self {
        let unix = random.once_in(2);
        Plan {
            unix,
            narrow: !unix && random.once_in(3),
            greeting: random.once_in(3).then(|| random.below(50)),
            welcome: match random.below(30) {
                0 => Welcome::Refuse,
                1 => Welcome::Panic,
                _ => Welcome::Accept,
            },
            keeps_open: random.once_in(4),
        }
    }
}

/// A script that is being made.
struct Maker {
    random: Random,
    script: Script,
    tempers: Vec<Temper>,
}

/// What a client is like, and how far it is.
struct Temper {
    /// One in so many of its items is bad.
    bad_one_in: usize,
    /// It asks for pushes, and never pauses.
    pushes: bool,
    is_paused: bool,
    half_closed: bool,
    is_done: bool,
    tickets: usize,
    /// Bytes of its items that it has not sent.
    held: usize,
}

impl Maker {
    fn new(mut random: Random, settings: Settings, clients: usize) -> Self {
        let temper = |random: &mut Random| Temper {
            bad_one_in: random.pick(&[6, 30, usize::MAX, usize::MAX]),
            pushes: settings.outbox_bytes == 8 * MIB && random.once_in(5),
            is_paused: false,
            half_closed: false,
            is_done: false,
            tickets: 0,
            held: 0,
        };
        Maker {
            tempers: (0..clients).map(|_| temper(&mut random)).collect(),
            script: Script {
                settings,
                clients: (0..clients).map(|_| Plan::random(&mut random)).collect(),
                events: Vec::new(),
            },
            random,
        }
    }

    fn add(&mut self, client: usize, event: Event) {
        self.script.events.push((client, event));
    }

    /// An item of a well-behaved client.
    fn item(&mut self, client: usize) -> Item {
        let settings = &self.script.settings;
        let random = &mut self.random;
        let family = random.pick(&Family::ALL);
        let size = match random.below(24) {
            0..=9 => return Item::Any(random.next()),
            10..=11 => 8 + random.below(300),
            12..=14 => {
                let buffers = 1 + random.below(3);
                random.around(buffers * settings.buffer_bytes, 3)
            }
            15 => random.around(LARGE, 12),
            16 => settings.frame_bytes - random.below(2),
            17 => 8 + random.below(300_000),
            18 => return Item::Nested(1 + random.below(settings.depth)),
            19 => {
                let count = random.pick(&[10, 100, 100, 5000]);
                return Item::Many(1 + random.below(count));
            }
            20 | 21 => {
                self.tempers[client].tickets += 1;
                return Item::Ask(Ask::Defer);
            }
            22 if self.tempers[client].pushes => {
                return Item::Ask(Ask::Push(random.below(1000) as u32));
            }
            _ => {
                let length = random.pick(&[10, 2000, 100_000]);
                let length = random.below(length) as u32;
                return Item::Ask(random.pick(&[Ask::Fill(length), Ask::Share(length)]));
            }
        };
        Item::Sized(family, size.clamp(8, settings.frame_bytes), random.next())
    }

    /// An item that ends the connection, or whatever follows from garbage.
    fn bad_item(&mut self) -> Item {
        let settings = &self.script.settings;
        let random = &mut self.random;
        let family = random.pick(&Family::ALL);
        let over = settings.frame_bytes as u32;
        if settings.arrays_only && random.once_in(3) {
            return Item::Bare(random.next() as u8);
        }
        match random.below(8) {
            0 => Item::Reserved,
            1 => Item::Nested(settings.depth + 1),
            2 => Item::Announced(family, over + random.below(3) as u32),
            3 => Item::Announced(family, u32::MAX),
            4 => Item::Sized(family, settings.frame_bytes + 1, random.next()),
            5 => Item::Garbage(random.next(), 1 + random.below(200)),
            6 => Item::Ask(Ask::Close),
            _ => Item::Ask(Ask::Panic),
        }
    }

    fn send(&mut self, client: usize) {
        let count = match self.random.below(4) {
            0 => 1,
            _ => 1 + self.random.below(12),
        };
        let bad_one_in = self.tempers[client].bad_one_in;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(match self.random.once_in(bad_one_in) {
                true => self.bad_item(),
                false => self.item(client),
            });
        }
        self.send_items(client, items);
    }

    fn send_items(&mut self, client: usize, items: Vec<Item>) {
        if self.random.once_in(4) {
            self.send_beginning(client, items);
        } else {
            self.send_all_but(client, items, 0);
        }
    }

    /// Holds back some of the bytes.
    fn send_beginning(&mut self, client: usize, items: Vec<Item>) {
        let held = 1 + self.random.below(self.length(&items));
        self.send_all_but(client, items, held);
    }

    fn length(&self, items: &[Item]) -> usize {
        let in_array = self.script.settings.arrays_only;
        items.iter().map(|item| item.bytes(in_array).len()).sum()
    }

    fn send_all_but(&mut self, client: usize, items: Vec<Item>, held: usize) {
        let unsent = self.tempers[client].held + self.length(&items);
        self.tempers[client].held = held;
        let split = self.split(unsent - held);
        let paced = split.count(unsent - held) <= 60 && self.random.once_in(2);
        let event = Event::Send {
            items,
            split,
            paced,
            held,
        };
        self.add(client, event);
    }

    /// A way to cut so many bytes into pieces that are not too many.
    fn split(&mut self, length: usize) -> Split {
        const PIECES_MAX: usize = 300;
        let random = &mut self.random;
        let mut lengths = match random.below(5) {
            0 | 1 => return Split::Whole,
            2 => vec![1],
            _ => {
                let count = 1 + random.below(5);
                let mut length = || {
                    let max = random.pick(&[3, 20, 3000, 80_000]);
                    1 + random.below(max)
                };
                (0..count).map(|_| length()).collect()
            }
        };
        if Split::Pieces(lengths.clone()).count(length) > PIECES_MAX {
            let rest = lengths.len() * length / PIECES_MAX;
            lengths.push(rest + 1);
        }
        Split::Pieces(lengths)
    }

    /// Lets a client do something.
    fn go_on(&mut self, client: usize) {
        let temper = &mut self.tempers[client];
        match self.random.below(24) {
            0..=2 => self.add(client, Event::Sync),
            3 | 4 if !temper.pushes && !temper.half_closed => {
                temper.is_paused = !temper.is_paused;
                if temper.is_paused {
                    self.add(client, Event::Pause);
                    self.clog(client);
                } else {
                    self.add(client, Event::Resume);
                }
            }
            5..=7 => {
                let ticket = self.random.below(temper.tickets + 2);
                let decision = match self.random.below(3) {
                    0 => Decision::Drop,
                    _ => Decision::Answer(self.random.below(2000)),
                };
                self.add(client, Event::Decide { ticket, decision });
            }
            8 | 9 => self.leave(client),
            10 => self.rush(client),
            11 if self.random.once_in(6) => {
                // What came behind would race with the end.
                temper.is_done = true;
                self.send_items(client, vec![Item::Any(7), Item::Ask(Ask::Flood)]);
            }
            _ if !temper.half_closed => self.send(client),
            _ => {}
        }
    }

    /// Asks for more than the kernel may take.
    fn clog(&mut self, client: usize) {
        let length = self.random.pick(&[1000, 30_000, 300_000]);
        let count = 1 + self.random.below(12);
        let ask = self.random.pick(&[Ask::Fill(length), Ask::Share(length)]);
        self.send_items(client, vec![Item::Ask(ask); count]);
    }

    /// Others have come, sent something and left before the server looks.
    fn rush(&mut self, client: usize) {
        if self.tempers[client].half_closed {
            return;
        }
        let milliseconds = self.random.below(4) as u32;
        self.send_all_but(client, vec![Item::Ask(Ask::Nap(milliseconds))], 0);
        for _ in 0..1 + self.random.below(2) {
            let other = self.random.below(self.tempers.len());
            if self.tempers[other].half_closed || self.tempers[other].is_done {
                continue;
            }
            if self.random.once_in(3) {
                self.tempers[other].tickets += 1;
                let seed = self.random.next();
                let items = vec![Item::Ask(Ask::Defer), Item::Any(seed)];
                self.send_all_but(other, items, 0);
            } else {
                self.send(other);
            }
            self.leave_at_once(other);
        }
    }

    fn leave(&mut self, client: usize) {
        match self.random.below(4) {
            0 | 1 => self.add(client, Event::Sync),
            2 if !self.tempers[client].half_closed => {
                let size = self.random.pick(&[300, 20_000, 400_000]);
                let size = self.script.settings.frame_bytes.min(size);
                let item = Item::Sized(Family::Bin, size, self.random.next());
                self.send_beginning(client, vec![item]);
            }
            _ => {}
        }
        self.leave_at_once(client);
    }

    fn leave_at_once(&mut self, client: usize) {
        let temper = &mut self.tempers[client];
        let leave = match self.random.below(6) {
            0 => Leave::Close,
            1 => Leave::Reset,
            _ if temper.half_closed => return,
            _ => Leave::HalfClose,
        };
        temper.half_closed = true;
        temper.is_done = leave != Leave::HalfClose;
        self.add(client, Event::Leave(leave));
    }
}

/// Anything but what takes a server of its own.
fn any(mut random: Random) -> Script {
    let mut settings = Settings::random(&mut random);
    if random.once_in(4) {
        settings.ending = Ending::Early;
    }
    let clients = random.pick(&[1, 2, 3, 3, 4, 5, 5, 12]);
    let mut maker = Maker::new(random, settings, clients);
    for _ in 0..clients * (1 + maker.random.below(8)) {
        let client = maker.random.below(clients);
        if !maker.tempers[client].is_done {
            maker.go_on(client);
        }
    }
    maker.script
}

/// Frames so small that they arrive in one piece.
fn small_items(random: &mut Random) -> Vec<Item> {
    let count = 1 + random.below(4);
    let mut item = || Item::Sized(Family::Bin, 8 + random.below(60), random.next());
    (0..count).map(|_| item()).collect()
}

/// Sends items in one piece, but for the last bytes.
fn send_whole(maker: &mut Maker, client: usize, items: Vec<Item>, held: usize) {
    let event = Event::Send {
        items,
        split: Split::Whole,
        paced: false,
        held,
    };
    maker.add(client, event);
}

/// Some of the clients exceed a time limit. It is short, but however slow things are, it cannot take effect on others:
/// they are never in the middle of what it limits.
fn timed(mut random: Random, timing: Timing) -> Script {
    let settings = Settings {
        buffer_bytes: 16_384,
        outbox_bytes: 8 * MIB,
        frame_bytes: 400_000,
        timing: Some(timing),
        ..Settings::random(&mut random)
    };
    let clients = 1 + random.below(4);
    let mut maker = Maker::new(random, settings, clients);
    for client in 0..clients {
        match timing {
            Timing::Idle => maker.add(client, Event::Sync),
            Timing::Frame => exceed_frame_timeout(&mut maker, client),
            Timing::Write => exceed_write_timeout(&mut maker, client),
        }
    }
    maker.script
}

/// All frames but perhaps the last are whole as soon as they begin.
fn exceed_frame_timeout(maker: &mut Maker, client: usize) {
    let items = small_items(&mut maker.random);
    send_whole(maker, client, items, 0);
    maker.add(client, Event::Sync);
    let held = maker.random.pick(&[0, 1, 2, 7]);
    let items = small_items(&mut maker.random);
    send_whole(maker, client, items, held);
    if held == 0 && maker.random.once_in(2) {
        maker.add(client, Event::Leave(Leave::HalfClose));
    }
}

/// Nothing is written to clients other than those that do not read.
fn exceed_write_timeout(maker: &mut Maker, client: usize) {
    let plan = &mut maker.script.clients[client];
    (plan.unix, plan.greeting, plan.welcome) = (true, None, Welcome::Accept);
    if maker.random.once_in(3) {
        let item = Item::Sized(Family::Str, 100, client as u64);
        send_whole(maker, client, vec![item], 1);
    } else {
        maker.add(client, Event::Pause);
        let items = vec![Item::Ask(Ask::Fill(CLOG))];
        send_whole(maker, client, items, 0);
    }
}

/// One of the clients makes the server hold more memory than it may.
fn hoarding(mut random: Random) -> Script {
    let settings = Settings {
        workers: 1,
        outbox_bytes: 64 * 1024,
        memory: MIB,
        ..Settings::random(&mut random)
    };
    let clients = 1 + random.below(4);
    let mut maker = Maker::new(random, settings, clients);
    for client in 0..clients {
        let items = small_items(&mut maker.random);
        send_whole(&mut maker, client, items, 0);
        if maker.random.once_in(2) {
            maker.add(client, Event::Sync);
        }
    }
    let mut items = small_items(&mut maker.random);
    items.push(Item::Ask(Ask::Fill(HOARD)));
    // An exchange sends before it looks at the memory.
    maker.add(0, Event::Pause);
    maker.send_items(0, items);
    maker.script.clients[0].welcome = Welcome::Accept;
    for client in 1..clients {
        let items = small_items(&mut maker.random);
        send_whole(&mut maker, client, items, 0);
    }
    maker.script
}
