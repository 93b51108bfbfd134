//! The command `status`.

mod prometheus;

use std::collections::BTreeMap;
use std::time::Duration;

use ringhold_client::{Client, Plain};
use rmpv::Value;

use crate::call::options;
use crate::cli::Status;
use crate::exit::{Failure, print};
use crate::json;

/// Asks the server for its counters and prints them.
pub(crate) fn status(arguments: &Status) -> Result<(), Failure> {
    let mut client = Client::connect(&arguments.address, options(arguments.timeout))?;
    let encoded = client.call_raw("status", &[0x90])?;
    let value = rmpv::decode::read_value(&mut &encoded[..])
        .map_err(|error| Failure::unreachable(format!("the answer is bad: {error}")))?;
    if arguments.json {
        return print(&json::print(&value));
    }
    let text = match arguments.prometheus {
        true => prometheus::render(&value),
        false => render(&value),
    };
    match text {
        Some(text) => print(text.trim_end()),
        None => Err(Failure::unreachable(format!(
            "{} answers `status`, but not with the counters of a ringhold daemon; --json shows what it says",
            arguments.address
        ))),
    }
}

/// The columns of a socket's line: heading, counter, and whether it counts bytes.
const COLUMNS: [(&str, &str, bool); 6] = [
    ("OPEN", "open", false),
    ("ACCEPTED", "accepted", false),
    ("SERVED", "opened", false),
    ("FRAMES", "frames_in", false),
    ("RECEIVED", "bytes_in", true),
    ("SENT", "bytes_out", true),
];

/// The answer as tables; `None` if it is something else.
fn render(status: &Value) -> Option<String> {
    let uptime = field(status, "uptime_seconds")?.as_f64()?;
    let names = field(status, "names")?.as_map()?;
    let workers = field(status, "workers")?.as_array()?;

    let mut sockets = Grid::new(
        ["SOCKET", "WORKER"].into_iter().chain(COLUMNS.map(|c| c.0)),
        1,
    );
    let mut remarks = Vec::new();
    for (name, total) in names {
        let name = name.as_str()?;
        let shown = Plain(name).to_string();
        sockets.line(socket_cells(&shown, "all", total)?);
        if workers.len() > 1 {
            for (index, worker) in workers.iter().enumerate() {
                let counters = field(field(worker, "names")?, name)?;
                sockets.line(socket_cells("", &index.to_string(), counters)?);
            }
        }
        remarks.extend(remark(&shown, total)?);
    }

    let headings = workers.first().map_or(Some(Vec::new()), |worker| {
        let engine = field(worker, "engine")?.as_map()?;
        let names = engine
            .iter()
            .map(|(name, _)| Some(words(name.as_str()?).to_uppercase()));
        names.collect()
    })?;
    let headings = std::iter::once("WORKER").chain(headings.iter().map(String::as_str));
    let mut engines = Grid::new(headings, 0);
    for (index, worker) in workers.iter().enumerate() {
        let counters = field(worker, "engine")?.as_map()?;
        let cells = counters
            .iter()
            .map(|(_, count)| count.as_u64().map(|count| count.to_string()));
        let mut line = vec![index.to_string()];
        line.extend(cells.collect::<Option<Vec<String>>>()?);
        engines.line(line);
    }

    let uptime = span(Duration::try_from_secs_f64(uptime).ok()?);
    let facts = [vec![format!("up for {uptime}")], holdings(status)].concat();
    let mut text = format!("{}\n\n", facts.join(", "));
    text.push_str(&sockets.render());
    for remark in remarks {
        text.push_str(&remark);
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&engines.render());
    let own = own(status)?;
    if own.lines.len() > 1 {
        text.push('\n');
        text.push_str(&own.render());
    }
    Some(text)
}

/// What services count, as far as it is anything: counters over all workers, gauges of each. Servers before this version count nothing for
/// them.
fn own(status: &Value) -> Option<Grid> {
    let mut grid = Grid::new(["SERVICE", "COUNTS", "VALUE"], 1);
    let metrics = field(status, "own").map_or(Some(&[][..]), |own| Some(own.as_array()?))?;
    for metric in metrics {
        let name = field(metric, "name")?.as_str()?;
        let is_counter = field(metric, "kind")?.as_str()? == "counter";
        let mut sums = BTreeMap::<_, i128>::new();
        for value in field(metric, "values")?.as_array()? {
            let service = Plain(field(value, "service")?.as_str()?).to_string();
            let mut what = Plain(name).to_string();
            for (label, of) in field(value, "labels")?.as_map()? {
                let (label, of) = (Plain(label.as_str()?), Plain(of.as_str()?));
                what.push_str(&format!(" {label}={of}"));
            }
            if !is_counter {
                let worker = field(value, "worker")?.as_u64()?;
                what.push_str(&format!(" worker={worker}"));
            }
            let value = field(value, "value")?.as_i64()?;
            *sums.entry((service, what)).or_default() += i128::from(value);
        }
        for ((service, what), sum) in sums.into_iter().filter(|(_, sum)| *sum != 0) {
            grid.line(vec![service, what, sum.to_string()]);
        }
    }
    Some(grid)
}

fn socket_cells(name: &str, worker: &str, counters: &Value) -> Option<Vec<String>> {
    let mut cells = vec![name.to_owned(), worker.to_owned()];
    for (_, counter, is_bytes) in COLUMNS {
        let count = field(counters, counter)?.as_u64()?;
        cells.push(if is_bytes {
            bytes(count)
        } else {
            count.to_string()
        });
    }
    Some(cells)
}

/// The name of a counter as words.
fn words(counter: &str) -> String {
    Plain(counter).to_string().replace('_', " ")
}

/// The counters that have no column, as far as they are not zero: what should not happen often.
fn remark(name: &str, counters: &Value) -> Option<Option<String>> {
    let mut parts = Vec::new();
    for (counter, count) in counters.as_map()? {
        let (counter, count) = (counter.as_str()?, count.as_u64()?);
        if count > 0 && COLUMNS.iter().all(|column| column.1 != counter) {
            parts.push(format!("{} {count}", words(counter)));
        }
    }
    Some((!parts.is_empty()).then(|| format!("{name}: {}", parts.join(", "))))
}

/// What the whole process holds, as far as it is anything; servers before this version do not say it.
fn holdings(status: &Value) -> Vec<String> {
    let count = |name| field(status, name).and_then(Value::as_u64).unwrap_or(0);
    let (memory, owed) = (count("memory_bytes"), count("owed"));
    let memory = (memory > 0).then(|| format!("connections hold {}", bytes(memory)));
    let owed = (owed > 0).then(|| format!("{owed} deferred replies are owed"));
    memory.into_iter().chain(owed).collect()
}

fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    let entries = map.as_map()?;
    let found = entries.iter().find(|(key, _)| key.as_str() == Some(name));
    found.map(|(_, value)| value)
}

/// Lines of cells, in columns.
struct Grid {
    lines: Vec<Vec<String>>,
    /// The columns up to this one are text and stand left; the others are numbers.
    text_up_to: usize,
}

impl Grid {
    fn new<'a>(headings: impl IntoIterator<Item = &'a str>, text_up_to: usize) -> Self {
        let headings = headings.into_iter().map(str::to_owned).collect();
        Grid {
            lines: vec![headings],
            text_up_to,
        }
    }

    fn line(&mut self, cells: Vec<String>) {
        self.lines.push(cells);
    }

    fn render(&self) -> String {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for line in &self.lines {
            let mut row = String::new();
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                row.push_str(gap);
                if column <= self.text_up_to {
                    row.push_str(&format!("{cell:<width$}"));
                } else {
                    row.push_str(&format!("{cell:>width$}"));
                }
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A number of bytes with three digits and a decimal unit.
fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", units[unit])
}

/// A time in its two largest units.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let first = units
        .iter()
        .position(|(size, _)| seconds >= *size)
        .unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in &units[first..units.len().min(first + 2)] {
        parts.push(format!("{} {unit}", rest / size));
        rest %= size;
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(scale: u64, bad: u64) -> Value {
        json::parse(&format!(
            r#"{{"accepted":{0},"turned_away":0,"opened":{0},"open":{scale},"frames_in":{0},
                "bytes_in":{0},"bytes_out":12345678,"bad_input":{bad}}}"#,
            scale * 1000
        ))
        .unwrap()
    }

    #[test]
    fn counters_become_tables() {
        let map = |pairs: &[(&str, Value)]| {
            Value::Map(
                pairs
                    .iter()
                    .map(|(k, v)| ((*k).into(), v.clone()))
                    .collect(),
            )
        };
        let engine = json::parse(r#"{"turns":7,"accept_backoffs":0}"#).unwrap();
        let worker = |counters: Value| {
            map(&[
                ("engine", engine.clone()),
                ("names", map(&[("rpc", counters)])),
            ])
        };
        let status = map(&[
            ("uptime_seconds", 3723.4.into()),
            ("names", map(&[("rpc", counters(3, 2))])),
            (
                "workers",
                Value::Array(vec![worker(counters(1, 2)), worker(counters(2, 0))]),
            ),
            (
                "own",
                json::parse(
                    r#"[{"name":"level","kind":"gauge","values":[
                            {"service":"rpc","worker":1,"labels":{},"value":-2}]},
                        {"name":"calls","kind":"counter","values":[
                            {"service":"rpc","labels":{"method":"a"},"value":3},
                            {"service":"rpc","labels":{"method":"b"},"value":0},
                            {"service":"rpc","labels":{"method":"a"},"value":4}]}]"#,
                )
                .unwrap(),
            ),
        ]);
        assert_eq!(
            render(&status).unwrap(),
            "\
up for 1 h 2 min

SOCKET  WORKER  OPEN  ACCEPTED  SERVED  FRAMES  RECEIVED     SENT
rpc     all        3      3000    3000    3000   3.00 kB  12.3 MB
        0          1      1000    1000    1000   1.00 kB  12.3 MB
        1          2      2000    2000    2000   2.00 kB  12.3 MB
rpc: bad input 2

WORKER  TURNS  ACCEPT BACKOFFS
0           7                0
1           7                0

SERVICE  COUNTS          VALUE
rpc      level worker=1     -2
rpc      calls method=a      7
"
        );
        assert_eq!(render(&Value::Nil), None);
        assert_eq!(render(&map(&[("uptime_seconds", 1.into())])), None);
    }

    #[test]
    fn names_can_do_nothing_to_a_terminal() {
        let status = json::parse(
            r#"{"uptime_seconds":1,"names":{"a\u001b[2J":{"open":1,"accepted":1,"opened":1,"frames_in":1,"bytes_in":1,
                "bytes_out":1,"b\u001bc":1}},"workers":[{"engine":{"d\u001be":1},"names":{}}]}"#,
        )
        .unwrap();
        let shown = render(&status).unwrap();
        assert!(!shown.contains('\u{1b}'), "{shown}");
        for part in [r"a\u{1b}[2J ", r"a\u{1b}[2J: b\u{1b}c 1", r"D\U{1B}E"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let status = json::parse(
            r#"{"uptime_seconds":1,"names":{"a\u001b[2J\r":{"open":1}},
                "workers":[{"engine":{},"names":{"a\u001b[2J\r":{"open":1}}}]}"#,
        );
        let shown = prometheus::render(&status.unwrap()).unwrap();
        assert!(!shown.contains(['\u{1b}', '\r']), "{shown}");
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9999, "10.0 kB"),
            (99_999, "100 kB"),
            (999_999, "1.00 MB"),
            (u64::MAX, "18447 PB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (90_061, "1 d 1 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
