//! From the text of a configuration file to a [`Config`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::ConfigError;
use super::table::{Report, Section};
use super::values::{
    boolean, buffer, congestion, descriptor_name, duration, engine, id, listen, mode, number,
    partition, power_of_two, size, spin, string, whole_seconds, workers,
};
use super::{
    BUFFER_BYTES, BUFFERS, Config, ENTRIES, EngineChoice, Handover, RingConfig, SocketConfig,
    Workers, beyond,
};
use crate::limits::Limits;

pub(super) fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
    let none = |section: &mut Section<'_, '_>, _: &Report<'_>| {
        section.hint(
            "app",
            "it is the section of a program that has settings of its own and reads them (Config::from_file_with_app)",
        );
        Some(())
    };
    parse_with(text, origin, none).map(|(config, ())| config)
}

/// Reads the program's own section, too.
pub(super) fn parse_with_app<App: DeserializeOwned>(
    text: &str,
    origin: &str,
) -> Result<(Config, App), ConfigError> {
    parse_with(text, origin, |section, report| {
        // A section that is not there is one without keys.
        let empty = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
        let there = section.foreign("app").cloned();
        let is_there = there.is_some();
        let value = there.unwrap_or_else(empty);
        App::deserialize(ValueDeserializer::from(value.clone()))
            .map_err(|error| {
                let message = error.message().replace('\n', ", ");
                if !is_there {
                    report.problem(None, format!("there is no section [app]: {message}"));
                    return;
                }
                let offset = error.span().map(|span| span.start);
                let place = match offset.and_then(|offset| place_of(&value, "app", offset)) {
                    Some((section, key)) => format!("value for {key:?} in [{section}]"),
                    None => "section [app]".to_owned(),
                };
                report.problem(offset, format!("bad {place}: {message}"));
            })
            .ok()
    })
}

fn parse_with<App>(
    text: &str,
    origin: &str,
    app: impl FnOnce(&mut Section<'_, '_>, &Report<'_>) -> Option<App>,
) -> Result<(Config, App), ConfigError> {
    let report = Report::new(text);
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let mut message = error.message().replace('\n', ", ");
            let span = error.span();
            if message == "duplicate key"
                && let Some(key) = span.clone().and_then(|span| text.get(span))
            {
                message = format!("duplicate key {key:?}; remove one of the two");
            }
            report.problem(span.map(|span| span.start), message);
            return Err(ConfigError::new(origin, report.into_problems()));
        }
    };
    let mut section = Section::top(&report, table.get_ref());
    let app = app(&mut section, &report);
    let config = top(section);
    match (app, report.into_problems()) {
        (Some(app), problems) if problems.is_empty() => Ok((config, app)),
        (_, problems) => Err(ConfigError::new(origin, problems)),
    }
}

/// The section and the key of the value at `offset`, if that is in or below `table`, the section `path`.
fn place_of(table: &Spanned<DeValue<'_>>, path: &str, offset: usize) -> Option<(String, String)> {
    let DeValue::Table(table) = table.get_ref() else {
        return None;
    };
    table.iter().find_map(|(key, value)| {
        let (key, below) = (key.get_ref(), format!("{path}.{}", key.get_ref()));
        let deeper = match value.get_ref() {
            DeValue::Array(items) => items.iter().find_map(|item| place_of(item, &below, offset)),
            _ => place_of(value, &below, offset),
        };
        let is_here = !value.get_ref().is_table() && value.span().contains(&offset);
        deeper.or_else(|| is_here.then(|| (path.to_owned(), key.to_string())))
    })
}

fn top(mut section: Section<'_, '_>) -> Config {
    let engine = section.read("engine", EngineChoice::Auto, engine);
    let workers = section.read("workers", Workers::Auto, workers);
    let pin = section.optional("pin", boolean);
    let spin = section.read("spin", Duration::ZERO, spin);
    let limits = section.section("limits").map(limits).unwrap_or_default();
    let config = Config {
        engine,
        workers,
        pin,
        spin,
        handover: section
            .section("handover")
            .map(handover)
            .unwrap_or_default(),
        ring: section.section("ring").map(ring).unwrap_or_default(),
        sockets: sockets(&mut section, workers, &limits),
        limits,
    };
    section.finish();
    config
}

fn limits(mut section: Section<'_, '_>) -> Limits {
    let default = Limits::default();
    let largest = isize::MAX as usize;
    let limits = Limits {
        frame_bytes: section.read(
            "frame_bytes",
            default.frame_bytes,
            size(1..=Limits::MAX_FRAME_BYTES),
        ),
        depth: section.read("depth", default.depth, number(1..=Limits::MAX_DEPTH)),
        outbox_bytes: section.read("outbox_bytes", default.outbox_bytes, size(1..=largest)),
        promises: section.read(
            "promises",
            default.promises,
            number(1..=Limits::MAX_PROMISES),
        ),
        connections: section.read(
            "connections",
            default.connections,
            number(1..=Limits::MAX_CONNECTIONS),
        ),
        memory: section.read("memory", default.memory, size(1..=largest)),
        idle_timeout: section.read("idle_timeout", default.idle_timeout, duration),
        frame_timeout: section.read("frame_timeout", default.frame_timeout, duration),
        write_timeout: section.read("write_timeout", default.write_timeout, duration),
        reply_timeout: section.read("reply_timeout", default.reply_timeout, duration),
        promise_timeout: section.read("promise_timeout", default.promise_timeout, duration),
    };
    let is_known = !section.is_bad("memory") && !section.is_bad("frame_bytes");
    if is_known && limits.memory < limits.frame_bytes {
        section.problem_at(
            "memory",
            format!(
                "\"memory\" in [limits] is {} bytes, less than one frame of \"frame_bytes\" = {} bytes; raise the one or \
                 lower the other",
                limits.memory, limits.frame_bytes
            ),
        );
    }
    section.finish();
    limits
}

fn handover(mut section: Section<'_, '_>) -> Handover {
    let drain = section.read("drain", Handover::default().drain, duration);
    section.finish();
    Handover { drain }
}

fn ring(mut section: Section<'_, '_>) -> RingConfig {
    let default = RingConfig::default();
    let ring = RingConfig {
        entries: section.read("entries", default.entries, power_of_two(number(ENTRIES))),
        buffers: section.read("buffers", default.buffers, power_of_two(number(BUFFERS))),
        buffer_bytes: section.read(
            "buffer_bytes",
            default.buffer_bytes,
            power_of_two(size(BUFFER_BYTES)),
        ),
    };
    section.finish();
    ring
}

fn sockets(
    parent: &mut Section<'_, '_>,
    workers: Workers,
    limits: &Limits,
) -> BTreeMap<String, SocketConfig> {
    let mut sockets: BTreeMap<String, SocketConfig> = BTreeMap::new();
    for (name, mut section) in parent.named_sections("sockets") {
        if let Err(wrong) = descriptor_name(&name) {
            section.problem(format!("bad name of section [sockets.{name}]: {wrong}"));
        }
        let socket = socket(&name, &mut section, workers, limits);
        let own = socket.descriptor_name(&name);
        let mut others = sockets.iter();
        let same = others.find(|(other, socket)| {
            let is_bad = section.is_bad_in(&format!("sockets.{other}"), "fd_name");
            !is_bad && socket.descriptor_name(other) == own
        });
        if let Some((other, _)) = same
            && !section.is_bad("fd_name")
        {
            section.problem_at(
                "fd_name",
                format!("[sockets.{name}] and [sockets.{other}] both claim the descriptors named {own:?}"),
            );
        }
        section.finish();
        sockets.insert(name, socket);
    }
    sockets
}

fn socket(
    name: &str,
    section: &mut Section<'_, '_>,
    workers: Workers,
    limits: &Limits,
) -> SocketConfig {
    let default = SocketConfig::new(name);
    let socket = SocketConfig {
        service: section.read("service", default.service, |value| {
            Ok(string(value)?.to_owned())
        }),
        enable: section.read("enable", default.enable, boolean),
        listen: section.read("listen", default.listen, listen),
        workers: section.read("workers", default.workers, partition),
        connections: section.read(
            "connections",
            default.connections,
            number(0..=Limits::MAX_CONNECTIONS),
        ),
        connections_per_client: section.read(
            "connections_per_client",
            default.connections_per_client,
            number(0..=Limits::MAX_CONNECTIONS),
        ),
        frame_bytes: section.optional("frame_bytes", size(1..=Limits::MAX_FRAME_BYTES)),
        outbox_bytes: section.optional("outbox_bytes", size(1..=isize::MAX as usize)),
        promises: section.optional("promises", number(1..=Limits::MAX_PROMISES)),
        idle_timeout: section.optional("idle_timeout", duration),
        frame_timeout: section.optional("frame_timeout", duration),
        write_timeout: section.optional("write_timeout", duration),
        reply_timeout: section.optional("reply_timeout", duration),
        promise_timeout: section.optional("promise_timeout", duration),
        proxy_protocol: section.read("proxy_protocol", default.proxy_protocol, boolean),
        fd_name: section.optional("fd_name", |value| {
            let name = string(value)?;
            descriptor_name(name)?;
            Ok(name.to_owned())
        }),
        backlog: section.read("backlog", default.backlog, number(1..=i32::MAX as u32)),
        mode: section.read("mode", default.mode, mode),
        user: section.optional("user", id),
        group: section.optional("group", id),
        nodelay: section.read("nodelay", default.nodelay, boolean),
        keepalive: section.read("keepalive", default.keepalive, whole_seconds(0)),
        keepalive_interval: section.optional("keepalive_interval", whole_seconds(1)),
        // MAX_TCP_KEEPCNT of the kernel.
        keepalive_probes: section.optional("keepalive_probes", number(1..=127)),
        reuse_port: section.read("reuse_port", default.reuse_port, boolean),
        ipv6_only: section.optional("ipv6_only", boolean),
        congestion: section.optional("congestion", congestion),
        receive_buffer: section.optional("receive_buffer", buffer),
        send_buffer: section.optional("send_buffer", buffer),
    };
    check_socket(name, &socket, section, workers, limits);
    socket
}

/// Finds what one key of a socket section makes impossible or pointless in another one.
fn check_socket(
    name: &str,
    socket: &SocketConfig,
    section: &Section<'_, '_>,
    workers: Workers,
    limits: &Limits,
) {
    if let Workers::Count(count) = workers
        && let Err(index) = socket.workers.resolve(count)
    {
        section.problem_at("workers", beyond(name, index, count));
    }
    for (key, is_set) in [
        ("keepalive_interval", socket.keepalive_interval.is_some()),
        ("keepalive_probes", socket.keepalive_probes.is_some()),
    ] {
        if is_set && socket.keepalive.is_zero() {
            section.problem_at(
                key,
                format!(
                    "\"{key}\" in [sockets.{name}] has no effect with keepalive = \"0s\"; remove one of the two"
                ),
            );
        }
    }
    // Of a section without addresses it is not known.
    let is_all = |tcp: bool| {
        let mut addresses = socket.listen.iter();
        addresses.len() > 0 && addresses.all(|address| address.is_tcp() == tcp)
    };
    for key in ["mode", "user", "group"] {
        if section.has(key) && is_all(true) {
            section.problem_at(
                key,
                format!(
                    "\"{key}\" in [sockets.{name}] is for unix sockets, and \"listen\" has TCP addresses only; remove it"
                ),
            );
        }
    }
    for key in ["receive_buffer", "send_buffer"] {
        if section.has(key) && is_all(false) {
            section.problem_at(
                key,
                format!(
                    "\"{key}\" in [sockets.{name}] is for TCP, and \"listen\" has unix sockets only; remove it. How much the \
                     kernel keeps for those is up to net.core.wmem_default"
                ),
            );
        }
    }
    if let Some(own) = socket.frame_bytes
        && own > limits.memory
        && !section.is_bad_in("limits", "memory")
    {
        section.problem_at(
            "frame_bytes",
            format!(
                "\"frame_bytes\" in [sockets.{name}] is {own} bytes, more than all connections may take (\"memory\" in [limits] is \
                 {}); raise that or lower this",
                limits.memory
            ),
        );
    }
    if socket.connections > limits.connections && !section.is_bad_in("limits", "connections") {
        section.problem_at(
            "connections",
            format!(
                "\"connections\" in [sockets.{name}] is {}, more than a worker holds in all (\"connections\" in [limits] is \
                 {}); raise that or lower this",
                socket.connections, limits.connections
            ),
        );
    }
}
