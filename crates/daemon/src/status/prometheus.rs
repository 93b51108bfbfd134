//! Counters in the text format of Prometheus (its documentation, "Exposition formats", version 0.0.4), for the node exporter's
//! textfile collector and whatever else reads that.

use std::fmt::Write;

use ringhold_client::Plain;
use ringhold_core::metrics::{EngineTotals, NameTotals};
use rmpv::Value;

use super::field;

/// Those that go down as well.
const GAUGES: [&str; 2] = ["open", "leased"];

/// What the whole process has: name, and what it is.
const PROCESS: [(&str, &str); 3] = [
    (
        "uptime_seconds",
        "Seconds since the server started, or was reloaded.",
    ),
    (
        "memory_bytes",
        "Bytes that connections make the process hold, of those that limits.memory bounds.",
    ),
    ("owed", "Deferred replies that are owed."),
];

/// The answer as metrics; `None` if it is something else.
pub(super) fn render(status: &Value) -> Option<String> {
    let mut text = String::new();
    for (name, help) in PROCESS {
        if let Some(value) = field(status, name) {
            let value = value.as_f64()?;
            head(&mut text, &format!("ringhold_{name}"), "gauge", help);
            let _ = writeln!(text, "ringhold_{name} {value}");
        }
    }
    let workers = field(status, "workers")?.as_array()?;
    let names = field(status, "names")?.as_map()?;
    let mut sockets = Vec::new();
    let mut engines = Vec::new();
    for (index, worker) in workers.iter().enumerate() {
        engines.push((format!("worker=\"{index}\""), field(worker, "engine")?));
        for (name, _) in names {
            let name = name.as_str()?;
            let labels = format!("socket=\"{}\",worker=\"{index}\"", escaped(name));
            sockets.push((labels, field(field(worker, "names")?, name)?));
        }
    }
    family(
        &mut text,
        "ringhold_socket",
        NameTotals::DESCRIPTIONS,
        &sockets,
    )?;
    family(
        &mut text,
        "ringhold_engine",
        EngineTotals::DESCRIPTIONS,
        &engines,
    )?;
    // Servers before this version count nothing for services.
    for metric in field(status, "own").map_or(Some(&[][..]), |own| Some(own.as_array()?))? {
        own(&mut text, metric)?;
    }
    Some(text)
}

/// What services count under one name.
fn own(text: &mut String, metric: &Value) -> Option<()> {
    let string = |name| field(metric, name)?.as_str();
    let (name, kind) = (string("name")?, string("kind")?);
    if !is_name(name) || !["counter", "gauge"].contains(&kind) {
        return None;
    }
    let is_counter = kind == "counter" && !name.ends_with("_total");
    let name = format!("{name}{}", if is_counter { "_total" } else { "" });
    head(text, &name, kind, &explained(string("help")?));
    for value in field(metric, "values")?.as_array()? {
        let service = escaped(field(value, "service")?.as_str()?);
        let worker = field(value, "worker")?.as_u64()?;
        let mut labels = format!("service=\"{service}\",worker=\"{worker}\"");
        for (label, of) in field(value, "labels")?.as_map()? {
            let label = label.as_str().filter(|label| is_name(label))?;
            let _ = write!(labels, ",{label}=\"{}\"", escaped(of.as_str()?));
        }
        let value = field(value, "value")?.as_i64()?;
        let _ = writeln!(text, "{name}{{{labels}}} {value}");
    }
    Some(())
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.starts_with(|first: char| first.is_ascii_alphabetic()) && name.bytes().all(is_part)
}

/// Every counter of a kind: a metric each, with a line for each of `owners`.
fn family(
    text: &mut String,
    prefix: &str,
    descriptions: &[(&str, &str)],
    owners: &[(String, &Value)],
) -> Option<()> {
    let Some((_, first)) = owners.first() else {
        return Some(());
    };
    for (counter, _) in first.as_map()? {
        let counter = counter.as_str()?;
        if !is_name(counter) {
            return None;
        }
        let (kind, suffix) = match GAUGES.contains(&counter) {
            true => ("gauge", ""),
            false => ("counter", "_total"),
        };
        // Another version of the server may have more.
        let known = descriptions.iter().find(|(name, _)| *name == counter);
        let metric = format!("{prefix}_{counter}{suffix}");
        head(text, &metric, kind, known.map_or(counter, |(_, help)| help));
        for (labels, counters) in owners {
            let value = field(counters, counter)?.as_u64()?;
            let _ = writeln!(text, "{metric}{{{labels}}} {value}");
        }
    }
    Some(())
}

fn head(text: &mut String, metric: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {metric} {help}\n# TYPE {metric} {kind}");
}

/// The value of a label. A line feed is none any more: nothing in it does anything to a terminal.
fn escaped(value: &str) -> String {
    explained(value).replace('"', "\\\"")
}

/// What stands behind HELP.
fn explained(help: &str) -> String {
    Plain(help).to_string().replace('\\', "\\\\")
}

#[cfg(test)]
mod tests {
    use ringhold_core::Worker;
    use ringhold_core::limits::Limits;
    use ringhold_core::testing::Exchange;
    use ringhold_rpc::{Router, Rpc};

    use super::*;
    use crate::json;

    #[test]
    fn counters_become_metrics() {
        let status = json::parse(
            r#"{"uptime_seconds":1.5,"memory_bytes":7,"names":{"a\"b":{"open":3}},"workers":[
                {"engine":{"turns":4,"leased":1},"names":{"a\"b":{"open":1,"accepted":9}}},
                {"engine":{"turns":5,"leased":0},"names":{"a\"b":{"open":2,"accepted":8}}}]}"#,
        );
        assert_eq!(
            render(&status.unwrap()).unwrap(),
            r#"# HELP ringhold_uptime_seconds Seconds since the server started, or was reloaded.
# TYPE ringhold_uptime_seconds gauge
ringhold_uptime_seconds 1.5
# HELP ringhold_memory_bytes Bytes that connections make the process hold, of those that limits.memory bounds.
# TYPE ringhold_memory_bytes gauge
ringhold_memory_bytes 7
# HELP ringhold_socket_open Connections that this worker serves now.
# TYPE ringhold_socket_open gauge
ringhold_socket_open{socket="a\"b",worker="0"} 1
ringhold_socket_open{socket="a\"b",worker="1"} 2
# HELP ringhold_socket_accepted_total Connections accepted by this worker, whoever serves them.
# TYPE ringhold_socket_accepted_total counter
ringhold_socket_accepted_total{socket="a\"b",worker="0"} 9
ringhold_socket_accepted_total{socket="a\"b",worker="1"} 8
# HELP ringhold_engine_turns_total Turns of the worker's loop.
# TYPE ringhold_engine_turns_total counter
ringhold_engine_turns_total{worker="0"} 4
ringhold_engine_turns_total{worker="1"} 5
# HELP ringhold_engine_leased Receive buffers that are lent to services now.
# TYPE ringhold_engine_leased gauge
ringhold_engine_leased{worker="0"} 1
ringhold_engine_leased{worker="1"} 0
"#
        );
        assert_eq!(render(&Value::Nil), None);
    }

    #[test]
    fn the_gauges_are_there() {
        let all = [NameTotals::DESCRIPTIONS, EngineTotals::DESCRIPTIONS].concat();
        for gauge in GAUGES {
            assert!(all.iter().any(|(name, _)| *name == gauge), "{gauge}");
        }
    }

    #[test]
    fn every_counter_is_on_the_page_about_monitoring() {
        let page = include_str!("../../../../docs/monitoring.md");
        let all = [NameTotals::DESCRIPTIONS, EngineTotals::DESCRIPTIONS].concat();
        for (name, _) in all {
            assert!(page.contains(&format!("\n| `{name}` |")), "{name}");
        }
        for (name, _) in PROCESS {
            assert!(page.contains(&format!("`ringhold_{name}`")), "{name}");
        }
    }

    /// Alerts that name a metric which is not there never come.
    #[test]
    fn the_page_about_monitoring_names_no_others() {
        let page = include_str!("../../../../docs/monitoring.md");
        let is_word = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
        let kinds = [
            ("ringhold_socket_", NameTotals::DESCRIPTIONS),
            ("ringhold_engine_", EngineTotals::DESCRIPTIONS),
        ];
        for (prefix, known) in kinds {
            let named = page.split(|byte| !is_word(byte));
            let named: Vec<_> = named.filter_map(|word| word.strip_prefix(prefix)).collect();
            assert!(named.len() > 1, "{prefix}");
            for name in named.into_iter().filter(|name| *name != "COUNTER_total") {
                let counter = name.strip_suffix("_total").unwrap_or(name);
                assert!(known.iter().any(|(known, _)| *known == counter), "{name}");
                assert_eq!(name == counter, GAUGES.contains(&counter), "{name}");
            }
        }
    }

    #[test]
    fn services_count_nothing_under_names_of_the_server() {
        let socket = NameTotals::DESCRIPTIONS.iter().map(|it| ("socket_", it.0));
        let engine = EngineTotals::DESCRIPTIONS
            .iter()
            .map(|it| ("engine_", it.0));
        let process = PROCESS.iter().map(|it| ("", it.0));
        let all = socket.chain(engine).chain(process);
        let names: Vec<_> = all
            .map(|(kind, name)| format!("ringhold_{kind}{name}"))
            .collect();
        let make = |worker: &Worker| {
            for name in &names {
                worker.counter(name, "", &[]);
                worker.gauge(name, "", &[]);
            }
            Rpc::new(worker, Router::bare())
        };
        let own = Exchange::with_worker(make, Limits::default())
            .snapshot()
            .own;
        let own: Vec<_> = own.iter().map(|metric| &*metric.name).collect();
        assert_eq!(own, ["ringhold_unknown_method_calls"]);
    }

    #[test]
    fn what_services_count_becomes_metrics() {
        let status = |own: &str| {
            let text = format!(r#"{{"names":{{}},"workers":[],"own":[{own}]}}"#);
            render(&json::parse(&text).unwrap())
        };
        let own = r#"{"name":"level","help":"Of \"a\\b\".\nAll.","kind":"gauge","values":[
                {"service":"s","worker":0,"labels":{},"value":-3}]},
            {"name":"stored","help":"","kind":"counter","values":[
                {"service":"s\"","worker":0,"labels":{"disk":"a\\b","room":"1"},"value":4},
                {"service":"s\"","worker":1,"labels":{"disk":"a\\b","room":"1"},"value":5}]},
            {"name":"lost_total","help":"","kind":"counter","values":[]}"#;
        assert_eq!(
            status(own).unwrap(),
            r#"# HELP level Of "a\\b".\\nAll.
# TYPE level gauge
level{service="s",worker="0"} -3
# HELP stored_total 
# TYPE stored_total counter
stored_total{service="s\"",worker="0",disk="a\\b",room="1"} 4
stored_total{service="s\"",worker="1",disk="a\\b",room="1"} 5
# HELP lost_total 
# TYPE lost_total counter
"#
        );
        for bad in [
            "1",
            r#"{"name":"a b","help":"","kind":"gauge","values":[]}"#,
            r#"{"name":"a","help":"","kind":"gauge\nb 1","values":[]}"#,
            r#"{"name":"a","help":"","kind":"gauge","values":[{"service":"s","worker":0,"labels":{"a=":""},"value":1}]}"#,
        ] {
            assert_eq!(status(bad), None, "{bad}");
        }
    }
}
