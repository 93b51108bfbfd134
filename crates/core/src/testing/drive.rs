//! What takes the place of an engine: everything happens at once.

use std::convert::Infallible;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Exchange;
use super::wire::Wire;
use crate::connection::{Finish, Receive};
use crate::mailbox::Mail;
use crate::shard::Shard;

impl Exchange {
    /// Waits for mail, until then or for ever.
    pub(super) fn await_mail(&self, until: Option<Instant>) -> Option<Mail> {
        loop {
            if let Some(mail) = self.mailbox.prepare_sleep() {
                return Some(mail);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // One that is too long for the kernel is as good as for ever.
            let left_or_ever = left.and_then(|left| Timespec::try_from(left).ok());
            let event = self.mailbox.event();
            let woken = poll(
                &mut [PollFd::new(&event, PollFlags::IN)],
                left_or_ever.as_ref(),
            );
            self.mailbox.awake();
            if woken == Ok(1) {
                let _ = rustix::io::read(event, &mut [0; 8]);
            } else if left.is_some_and(|left| left.is_zero()) {
                return self.mailbox.next();
            }
        }
    }

    /// Turns until nothing more happens by itself.
    pub(super) fn settle(&mut self) {
        self.shard.woken(self.now);
        self.shard.tick();
        // Whatever a client does is told at once.
        self.shard.caught_up();
        let _ = self.shard.sources();
        self.shard.read_sources();
        loop {
            self.deliver_mail();
            self.shard.work();
            let mut idle = true;
            while let Some(slot) = self.shard.next_touched() {
                idle &= !self.update(slot);
                // As with an engine, it comes before anything is sent of what the services have said meanwhile.
                idle &= !self.deliver_mail();
            }
            self.shard.desk.meter.begin_growth();
            if idle && !self.shard.is_busy() && !self.shard.settle_memory() && !self.deliver_mail()
            {
                if self.shard.has_nothing_left() {
                    self.shard.becomes_idle();
                }
                return;
            }
        }
    }

    /// Returns whether there was any.
    pub(super) fn deliver_mail(&mut self) -> bool {
        let mut any = false;
        while let Some(mail) = self.mailbox.next() {
            let _ = self.shard.deliver(mail);
            any = true;
        }
        any
    }

    /// Does what a connection desires, at once. Returns whether anything was to be done.
    pub(super) fn update(&mut self, slot: u32) -> bool {
        let Some(desire) = self.shard.desire(slot) else {
            return false;
        };
        match desire.finish {
            Finish::No => {
                let sent = self.send(slot, desire.send);
                // As with an engine, both may happen in one turn.
                let receive = self.shard.desire(slot).map(|desire| desire.receive);
                self.read(slot, receive.unwrap_or(Receive::Stop)) || sent
            }
            Finish::Shutdown => {
                self.shard.shut(slot);
                if let Some(wire) = self.shard.link(slot) {
                    wire.shut = true;
                    wire.ended |= !wire.keeps_open;
                }
                true
            }
            Finish::Close => {
                self.close(slot, false);
                true
            }
            Finish::Reset => {
                self.close(slot, true);
                true
            }
            Finish::Release => {
                if !self.send(slot, desire.send) {
                    self.release(slot);
                }
                true
            }
        }
    }

    /// Moves the send that is under way on, or else begins one if there is something to send.
    fn send(&mut self, slot: u32, begin: bool) -> bool {
        let Some((outbox, wire, pools)) = self.shard.sending(slot) else {
            return false;
        };
        let flight = match wire.flight.take() {
            Some(flight) => flight,
            None if begin => outbox.begin(pools).collect::<Vec<_>>().concat(),
            None => return false,
        };
        let count = wire.read(&flight);
        if count == 0 {
            wire.flight = Some(flight);
            return false;
        }
        self.shard.sent(slot, count);
        true
    }

    /// Does what the connection wants to be read.
    fn read(&mut self, slot: u32, receive: Receive) -> bool {
        match receive {
            Receive::Pause => false,
            Receive::Stop => self.read_last(slot),
            Receive::Large => {
                read_large(&mut self.shard, slot) || read_piece(&mut self.shard, slot)
            }
            Receive::Stream => read_piece(&mut self.shard, slot),
        }
    }

    /// Nothing more is received. While stopping, what has arrived by now is taken, as an engine does.
    fn read_last(&mut self, slot: u32) -> bool {
        let mut has_read = false;
        let there = |wire: &Wire| wire.unread() as u64;
        self.shard.read_last(slot, there, |shard| {
            let before = shard.link(slot)?.unread();
            let any = read_piece(shard, slot);
            has_read |= any;
            let left = shard.link(slot).map_or(0, |wire| wire.unread());
            any.then_some((before - left) as u64)
        });
        has_read
    }

    fn close(&mut self, slot: u32, resets: bool) {
        if let Some((outbox, wire, _)) = self.shard.sending(slot) {
            wire.is_cut = resets;
            // Closing is how the server ends its side if the client has ended before, unless that resets the connection.
            wire.shut |= outbox.is_empty() && wire.end_seen && !wire.reset && !resets;
            if wire.flight.take().is_some() {
                self.shard.sent(slot, 0);
            }
        }
        let client = self.client(slot);
        let wire = self.shard.closed(slot);
        self.ended.extend(client.map(|client| (client, wire)));
    }
}

/// Gives the connection one piece of what the client has sent, or its end.
fn read_piece(shard: &mut Shard<Wire>, slot: u32) -> bool {
    let Some(wire) = shard.link(slot) else {
        return false;
    };
    if let Some(piece) = wire.incoming.pop_front() {
        shard.received(slot, &piece, Some(&piece));
    } else if wire.ended && !wire.end_seen {
        wire.end_seen = true;
        shard.ended(slot);
    } else {
        return false;
    }
    true
}

/// Receives a part of what the client has sent into the buffer of a large frame. Returns whether there was any.
fn read_large(shard: &mut Shard<Wire>, slot: u32) -> bool {
    let Some(wire) = shard.link(slot) else {
        return false;
    };
    let Some(mut rest) = wire.incoming.pop_front() else {
        return false;
    };
    let _ = shard.receive_large(slot, |_, bytes, room| {
        let part = rest.split_to(rest.len().min(room));
        bytes.extend_from_slice(&part);
        Ok::<_, Infallible>(part.len())
    });
    if let Some(wire) = shard.link(slot)
        && !rest.is_empty()
    {
        wire.incoming.push_front(rest);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::answering::answering;
    use crate::crew::Name;
    use crate::limits::Limits;
    use crate::service::{Flow, Service};
    use crate::testing::tests::talkative;
    use crate::testing::{Client, Setup};

    /// Answers nothing.
    fn silent() -> impl Service {
        answering(|_, _| Flow::Continue)
    }

    fn idle_for_at_most(limit: u64) -> Limits {
        Limits {
            idle_timeout: Duration::from_millis(limit),
            ..Limits::default()
        }
    }

    #[test]
    fn limits_take_effect_behind_what_had_happened_by_then() {
        let mut exchange = Exchange::with_limits(silent(), idle_for_at_most(1000));
        let [heard, silent] = [exchange.connect(), exchange.connect()];
        let then = exchange.now + 2000;
        exchange.shard.woken(then);
        exchange.shard.tick();
        assert!(exchange.shard.is_catching_up());
        // A turn later the engine comes to what had arrived meanwhile, and then to what arrives late for good.
        exchange.shard.woken(then + 1);
        exchange.shard.tick();
        exchange.shard.received(heard.0 as u32, &[0x01], None);
        assert_eq!(exchange.counters().timed_out, 0);
        exchange.now = then + 5000;
        exchange.shard.woken(exchange.now);
        exchange.shard.caught_up();
        assert_eq!(exchange.counters().timed_out, 1);
        assert!(!exchange.shard.is_catching_up());
        // That one's next limit is over by now, too, and there is something to catch up with again.
        exchange.shard.tick();
        assert!(exchange.shard.is_catching_up());
        exchange.shard.received(heard.0 as u32, &[0x01], None);
        exchange.shard.caught_up();
        exchange.settle();
        assert_eq!(exchange.counters().timed_out, 1);
        assert!(exchange.is_open(heard) && !exchange.is_open(silent));
    }

    #[test]
    fn each_name_has_its_idle_time() {
        let ms = Duration::from_millis;
        let names = [("short", 1000), ("long", 5000), ("never", 0)]
            .map(|(name, limit)| (name, idle_for_at_most(limit)));
        let mut exchange = Setup::new(idle_for_at_most(2000))
            .service("silent", &[], |_| silent())
            .sockets(&names.map(|(name, limits)| Name::unanswered(name.into(), limits)))
            .start();
        let clients = ["short", "long", "never"].map(|name| exchange.connect_to(name));
        let open = |exchange: &mut Exchange| clients.map(|client| exchange.is_open(client));
        exchange.advance(ms(999));
        assert_eq!(open(&mut exchange), [true; 3]);
        exchange.advance(ms(41));
        assert_eq!(open(&mut exchange), [false, true, true]);
        exchange.advance(ms(3959));
        assert_eq!(open(&mut exchange), [false, true, true]);
        exchange.advance(ms(41));
        assert_eq!(open(&mut exchange), [false, false, true]);
        exchange.advance(Duration::from_secs(1_000_000));
        assert_eq!(open(&mut exchange), [false, false, true]);
        assert_eq!(exchange.counters().timed_out, 2);
    }

    #[test]
    fn an_idle_time_that_begins_late_is_noted_however_short_it_is() {
        let ms = Duration::from_millis;
        let names =
            [("short", 1000), ("never", 0)].map(|(name, limit)| (name, idle_for_at_most(limit)));
        let mut exchange = Setup::new(Limits::default())
            .service("talkative", &[], |_| talkative())
            .sockets(&names.map(|(name, limits)| Name::unanswered(name.into(), limits)))
            .start();
        let clients = ["short", "never"].map(|name| exchange.connect_to(name));
        for client in clients {
            exchange.set_window(client, Some(0));
            exchange.receive(client, &[0x01]);
        }
        // What is noted now is that the peers must take something within 30 seconds. Then they take everything.
        exchange.advance(ms(2000));
        for client in clients {
            exchange.set_window(client, None);
        }
        exchange.advance(ms(999));
        assert!(clients.map(|client| exchange.is_open(client)) == [true, true]);
        exchange.advance(ms(41));
        assert!(clients.map(|client| exchange.is_open(client)) == [false, true]);
    }

    #[test]
    fn an_engine_that_never_catches_up_puts_limits_off_for_a_while_only() {
        // As many connections as make it ten turns.
        for (limit, holdup) in [(200, 200), (5000, 1000)] {
            let mut exchange = Exchange::with_limits(silent(), idle_for_at_most(limit));
            let clients: Vec<Client> = (0..32).map(|_| exchange.connect()).collect();
            let then = exchange.now + limit + 50;
            let mut turn_at = |time: u64| {
                exchange.shard.woken(time);
                exchange.shard.tick();
                exchange.counters().timed_out
            };
            assert_eq!(turn_at(then), 0);
            for _ in 0..9 {
                assert_eq!(turn_at(then + holdup), 0, "there were few turns");
            }
            for _ in 0..50 {
                assert_eq!(turn_at(then + holdup - 1), 0, "it was a short time");
            }
            assert_eq!(turn_at(then + holdup), clients.len() as u64);
        }
    }

    #[test]
    fn a_peer_that_pauses_again_and_again_leaves_nothing_in_the_timer_wheel() {
        let mut exchange = Exchange::new(talkative());
        let client = exchange.connect();
        exchange.set_window(client, Some(0));
        let mut most = 0;
        for _ in 0..600 {
            // It is served as far ahead as those are who read, which it does when it was looked at again.
            for _ in 0..10 {
                exchange.receive(client, &[0x01]);
            }
            assert!(!exchange.reads(client));
            exchange.advance(Duration::from_millis(40));
            assert!(exchange.reads(client));
            exchange.set_window(client, None);
            exchange.set_window(client, Some(0));
            most = most.max(exchange.shard.timers());
        }
        assert!(most <= 2, "{most}");
        // The time in which it must take something is noted all the same.
        exchange.receive(client, &[0x01]);
        exchange.advance(Duration::from_secs(29));
        assert_eq!(exchange.counters().timed_out, 0);
        exchange.advance(Duration::from_secs(2));
        assert_eq!(exchange.counters().timed_out, 1);
    }

    #[test]
    fn no_limit_is_lost_whichever_of_two_entries_comes_up_first() {
        // What is due in 30 seconds is looked at in 16, the wheel's horizon, and a peer that reads a byte in 10 milliseconds.
        for reads_after in (16_200..16_500).step_by(5) {
            let mut exchange = Exchange::new(talkative());
            let client = exchange.connect();
            exchange.set_window(client, Some(0));
            for _ in 0..10 {
                exchange.receive(client, &[0x01]);
            }
            exchange.advance(Duration::from_millis(reads_after));
            exchange.set_window(client, Some(1));
            assert!(!exchange.reads(client));
            for _ in 0..20 {
                exchange.advance(Duration::from_millis(5));
            }
            assert!(exchange.reads(client));
            exchange.advance(Duration::from_secs(29));
            assert_eq!(exchange.counters().timed_out, 0, "after {reads_after} ms");
            exchange.advance(Duration::from_secs(2));
            assert_eq!(exchange.counters().timed_out, 1, "after {reads_after} ms");
        }
    }

    #[test]
    fn a_worker_wakes_up_to_say_what_it_held_back() {
        let mut exchange = Exchange::new(silent());
        let misbehave = |exchange: &mut Exchange| {
            let client = exchange.connect();
            exchange.receive(client, b"\xc1");
        };
        // All are one client.
        (0..2).for_each(|_| misbehave(&mut exchange));
        assert!(exchange.shard.next_due().is_none_or(|due| due > 1000));
        misbehave(&mut exchange);
        assert_eq!(exchange.shard.next_due(), Some(1000));
        exchange.advance(Duration::from_secs(1));
        assert!(exchange.shard.next_due().is_none_or(|due| due > 1001));
    }

    #[test]
    fn no_step_of_a_stop_is_missed_whose_time_comes_in_the_middle_of_a_turn() {
        let mut exchange = Exchange::new(silent());
        let client = exchange.connect();
        exchange.keep_open(client);
        exchange.stop_within(Duration::from_millis(100));
        let until = exchange.now + 100;
        exchange.shard.woken(until - 1);
        exchange.shard.work();
        exchange.shard.woken(until + 5000);
        assert_eq!(exchange.shard.next_due(), Some(until));
    }
}
