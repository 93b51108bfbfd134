//! How long a request takes: at a rate that all servers can keep, and one after the other.

use std::fmt;
use std::time::{Duration, Instant};

use ringhold_benches::server::{RINGHOLD, Server};

use crate::accounting::CpuClock;
use crate::grid::{Bytes, Cell, Kind, Payload, Transport};
use crate::load::paced::Paced;
use crate::measure::{self, Effort};
use crate::results::is_peer;
use ringhold_benches::statistics::{Spread, median, spread};
use ringhold_benches::times::{Times, pooled, pooled_ratio, times};
use ringhold_benches::turns::Turns;

/// Ringhold as it is configured for latency, in latency cells only.
pub(crate) const SPINNING: &str = "ringhold-spin";

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// At half the rate that the slowest of the servers reaches with one request under way on each connection.
    Paced,
    /// Each when the one before is answered.
    RoundTrips,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LatencyCell {
    pub(crate) manner: Manner,
    pub(crate) transport: Transport,
    pub(crate) connections: usize,
    pub(crate) payload: usize,
}

impl fmt::Display for LatencyCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manner = match self.manner {
            Manner::Paced => "latency",
            Manner::RoundTrips => "roundtrip",
        };
        let (transport, payload) = (self.transport.name(), Bytes(self.payload));
        write!(f, "{manner}/{transport}/{}/{payload}", self.connections)
    }
}

/// All of them.
pub(crate) fn cells() -> Vec<LatencyCell> {
    let cell = |manner, connections| {
        [Transport::Tcp, Transport::Unix].map(|transport| LatencyCell {
            manner,
            transport,
            connections,
            payload: 200,
        })
    };
    [cell(Manner::Paced, 64), cell(Manner::RoundTrips, 1)].concat()
}

/// A server in a cell.
pub(crate) struct Timed {
    pub(crate) server: String,
    /// One a round.
    rounds: Vec<Times>,
    /// Likewise, how late requests were sent.
    late: Vec<Times>,
    /// Likewise, how much of its CPU the server used, 1 being all of it.
    busy: Vec<f64>,
}

impl Timed {
    /// A quantile in each round, in nanoseconds.
    fn quantiles(&self, quantile: f64) -> Vec<f64> {
        let rounds = self.rounds.iter();
        rounds
            .map(|round| round.value_at_quantile(quantile) as f64)
            .collect()
    }

    /// A quantile's median over the rounds, in microseconds: of a window as it usually is. What happens in fewer than half
    /// of them is not in it.
    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        median(&self.quantiles(quantile)) / 1e3
    }

    /// All requests of all rounds.
    pub(crate) fn pooled(&self) -> Times {
        pooled(&self.rounds)
    }

    /// How much of its CPU the server used, 1 being all of it: the median over the rounds.
    pub(crate) fn busy(&self) -> f64 {
        median(&self.busy)
    }

    /// How late all requests of all rounds were sent, which is the load generator's doing, or the machine's.
    pub(crate) fn pooled_late(&self) -> Times {
        pooled(&self.late)
    }
}

/// A figure of a server's requests that others are compared by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Figure {
    /// A quantile's median over the windows.
    Usual(f64),
    /// A quantile of all requests.
    Pooled(f64),
}

impl Figure {
    /// In microseconds.
    pub(crate) fn micros(self, of: &Timed) -> f64 {
        match self {
            Figure::Usual(quantile) => of.micros(quantile),
            Figure::Pooled(quantile) => of.pooled().value_at_quantile(quantile) as f64 / 1e3,
        }
    }
}

/// All servers in a cell.
pub(crate) struct LatencyResult {
    pub(crate) cell: LatencyCell,
    /// Requests a second.
    pub(crate) rate: Option<f64>,
    pub(crate) timed: Vec<Timed>,
}

impl LatencyResult {
    pub(crate) fn of(&self, server: &str) -> Option<&Timed> {
        self.timed.iter().find(|one| one.server == server)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Timed> {
        self.timed.iter().filter(|one| is_peer(&one.server))
    }

    /// One server's figure divided by another's, by the ratios of the rounds or by all requests.
    pub(crate) fn ratio(&self, own: &str, other: &str, figure: Figure) -> Option<Spread> {
        let (own, other) = (self.of(own)?, self.of(other)?);
        Some(match figure {
            Figure::Usual(quantile) => {
                let (own, other) = (own.quantiles(quantile), other.quantiles(quantile));
                let pairs = own.iter().zip(other);
                spread(&pairs.map(|(own, other)| own / other).collect::<Vec<_>>())
            }
            Figure::Pooled(quantile) => pooled_ratio(&own.rounds, &other.rounds, quantile),
        })
    }

    /// A server's figure divided by that of the best peer.
    pub(crate) fn ratio_to_best(&self, own: &str, figure: Figure) -> Option<Spread> {
        self.ratio(own, &self.best_peer(figure)?.server, figure)
    }

    /// The peer with the lowest of this figure in all rounds. That it was lucky counts against the others; but to choose it by
    /// some rounds and compare it by the rest, as with CPU time, would choose nearly at random: high quantiles differ less
    /// from peer to peer than from round to round.
    pub(crate) fn best_peer(&self, figure: Figure) -> Option<&Timed> {
        let level = |one: &Timed| figure.micros(one);
        self.peers().min_by(|a, b| level(a).total_cmp(&level(b)))
    }
}

/// Measures a cell, the servers in turn and on new connections in each round, as in [`measure::cell`].
pub(crate) fn measure(cell: &LatencyCell, servers: &[&Server], effort: Effort) -> LatencyResult {
    let rate = (cell.manner == Manner::Paced).then(|| common_rate(cell, servers));
    let mut timed: Vec<Timed> = servers
        .iter()
        .map(|server| Timed {
            server: server.name.clone(),
            rounds: Vec::new(),
            late: Vec::new(),
            busy: Vec::new(),
        })
        .collect();
    let mut turns = Turns::new(&cell.to_string(), servers.len());
    for _ in 0..effort.rounds {
        for &server in turns.next_round() {
            let (process, clock) = (servers[server], CpuClock::of(servers[server].pid()));
            let mut load = Paced::new(process, cell.transport, cell.connections, cell.payload);
            let (begin, cpu) = (Instant::now(), clock.now());
            let (latency, late) = match rate {
                Some(rate) => load.run(rate, effort.window),
                None => (load.round_trips(effort.window), times()),
            };
            let cpu = clock.now() - cpu;
            let busy = cpu.as_secs_f64() / begin.elapsed().as_secs_f64();
            timed[server].busy.push(busy);
            timed[server].rounds.push(latency);
            timed[server].late.push(late);
        }
    }
    LatencyResult {
        cell: *cell,
        rate,
        timed,
    }
}

/// Half of what the slowest server does, requests a second.
fn common_rate(cell: &LatencyCell, servers: &[&Server]) -> f64 {
    let saturated = Cell {
        kind: Kind::Echo,
        transport: cell.transport,
        connections: cell.connections,
        depth: 1,
        payload: Payload::Of(cell.payload),
        workers: 1,
    };
    let effort = Effort {
        window: Duration::from_millis(100),
        rounds: 5,
        counter: None,
        profiles: false,
    };
    let result = measure::cell(&saturated, servers, effort);
    let rates = result.measured.iter().map(|one| one.rate());
    rates.fold(f64::INFINITY, f64::min) / 2.0
}

/// A cell on the terminal, in microseconds.
pub(crate) fn print(result: &LatencyResult) {
    match result.rate {
        Some(rate) => println!("{} at {rate:.0} requests/s", result.cell),
        None => println!("{}", result.cell),
    }
    let (own, quantile) = match result.cell.manner {
        Manner::Paced => (RINGHOLD, 0.999),
        Manner::RoundTrips => (SPINNING, 0.5),
    };
    for one in &result.timed {
        let beside = match result.ratio(own, &one.server, Figure::Usual(quantile)) {
            Some(ratio) if one.server != own => {
                format!("  {own}'s usual p{} is {ratio} of it", quantile * 100.0)
            }
            _ => String::new(),
        };
        let all = one.pooled();
        println!(
            "  {:<13} p50 {:>7.1} µs  p99 {:>7.1} µs  p99.9 {:>7.1} µs, of all {:>6} requests {:>8.1} µs  max {:>8.1} µs  {:>3.0} % busy{beside}",
            one.server,
            one.micros(0.5),
            one.micros(0.99),
            one.micros(0.999),
            all.len(),
            all.value_at_quantile(0.999) as f64 / 1e3,
            all.max() as f64 / 1e3,
            100.0 * one.busy(),
        );
    }
}
