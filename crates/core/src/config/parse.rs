//! From the text of a configuration file to a [`Config`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::ConfigError;
use super::table::{Fault, Report, Section, described, each, nearest};
use super::{
    Config, EngineChoice, Handover, Id, ListenAddress, Partition, RingConfig, SocketConfig, Workers,
};
use super::{partition, units};
use crate::inherit::RESERVED_PREFIX;
use crate::limits::Limits;

type Value<'t> = Spanned<DeValue<'t>>;

/// The longest descriptor name that systemd passes on (FileDescriptorName= in systemd.socket(5)).
const MAX_NAME: usize = 255;

pub(super) fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
    parse_with(text, origin, |_, _| Some(())).map(|(config, ())| config)
}

/// Reads the program's own section, too.
pub(super) fn parse_with_app<App: DeserializeOwned>(
    text: &str,
    origin: &str,
) -> Result<(Config, App), ConfigError> {
    parse_with(text, origin, |section, report| {
        // A section that is not there is one without keys.
        let empty = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
        let value = section.foreign("app").cloned().unwrap_or_else(empty);
        App::deserialize(ValueDeserializer::from(value))
            .map_err(|error| {
                let message = error.message().replace('\n', ", ");
                let offset = error.span().map(|span| span.start);
                report.problem(offset, format!("bad section [app]: {message}"));
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
            let message = error.message().replace('\n', ", ");
            report.problem(error.span().map(|span| span.start), message);
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

fn top(mut section: Section<'_, '_>) -> Config {
    let engine = section.read("engine", EngineChoice::Auto, engine);
    let workers = section.read("workers", Workers::Auto, workers);
    let pin = section.read("pin", None, |value| boolean(value).map(Some));
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
    };
    if limits.memory < limits.frame_bytes {
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
        entries: section.read("entries", default.entries, power_of_two(number(8..=32_768))),
        buffers: section.read("buffers", default.buffers, power_of_two(number(2..=32_768))),
        buffer_bytes: section.read(
            "buffer_bytes",
            default.buffer_bytes,
            power_of_two(size(1 << 10..=1 << 20)),
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
        if let Some((other, _)) = sockets
            .iter()
            .find(|(other, socket)| socket.descriptor_name(other) == own)
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
        idle_timeout: section.read("idle_timeout", default.idle_timeout, |value| {
            duration(value).map(Some)
        }),
        fd_name: section.read("fd_name", default.fd_name, |value| {
            let name = string(value)?;
            descriptor_name(name)?;
            Ok(Some(name.to_owned()))
        }),
        backlog: section.read("backlog", default.backlog, number(1..=i32::MAX as u32)),
        mode: section.read("mode", default.mode, mode),
        user: section.read("user", default.user, id),
        group: section.read("group", default.group, id),
        nodelay: section.read("nodelay", default.nodelay, boolean),
        keepalive: section.read("keepalive", default.keepalive, whole_seconds(0)),
        keepalive_interval: section.read(
            "keepalive_interval",
            default.keepalive_interval,
            |value| whole_seconds(1)(value).map(Some),
        ),
        // MAX_TCP_KEEPCNT of the kernel.
        keepalive_probes: section.read("keepalive_probes", default.keepalive_probes, |value| {
            number(1..=127)(value).map(Some)
        }),
        reuse_port: section.read("reuse_port", default.reuse_port, boolean),
        ipv6_only: section.read("ipv6_only", default.ipv6_only, |value| {
            boolean(value).map(Some)
        }),
        congestion: section.read("congestion", default.congestion, |value| {
            congestion(value).map(Some)
        }),
    };
    if let Workers::Count(count) = workers
        && let Err(index) = socket.workers.resolve(count)
    {
        section.problem_at("workers", partition::beyond(name, index, count));
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
    if socket.connections > limits.connections {
        section.problem_at(
            "connections",
            format!(
                "\"connections\" in [sockets.{name}] is {}, more than a worker holds in all (\"connections\" in [limits] is \
                 {}); raise that or lower this",
                socket.connections, limits.connections
            ),
        );
    }
    socket
}

fn engine(value: &Value<'_>) -> Result<EngineChoice, Fault> {
    match string(value)? {
        "auto" => Ok(EngineChoice::Auto),
        "ring" => Ok(EngineChoice::Ring),
        "portable" => Ok(EngineChoice::Portable),
        other => {
            let known = ["auto", "ring", "portable"];
            let near =
                nearest(other, known.into_iter()).map(|near| format!("; did you mean {near:?}?"));
            let near = near.unwrap_or_default();
            Err(
                format!("{other:?} is not an engine (\"auto\", \"ring\" or \"portable\"){near}")
                    .into(),
            )
        }
    }
}

fn workers(value: &Value<'_>) -> Result<Workers, Fault> {
    match value.get_ref() {
        DeValue::String(text) if text == "auto" => Ok(Workers::Auto),
        DeValue::Integer(_) => {
            number(1..=Workers::MAX as u32)(value).map(|count| Workers::Count(count as usize))
        }
        other => Err(format!(
            "it must be \"auto\" or a number of workers, not {}",
            described(other)
        )
        .into()),
    }
}

fn spin(value: &Value<'_>) -> Result<Duration, Fault> {
    let spin = duration(value)?;
    let most = Duration::from_secs(1);
    if spin > most {
        Err("a worker can spin for one second at most, \"1s\""
            .to_owned()
            .into())
    } else {
        Ok(spin)
    }
}

/// A time of keepalive.
fn whole_seconds(least: u64) -> impl Fn(&Value<'_>) -> Result<Duration, Fault> {
    // MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL of the kernel.
    const MOST: u64 = 32_767;
    move |value| {
        let time = duration(value)?;
        if time.subsec_nanos() > 0 || !(least..=MOST).contains(&time.as_secs()) {
            return Err(format!(
                "it must be whole seconds, from \"{least}s\" to \"{MOST}s\" (9 hours)"
            )
            .into());
        }
        Ok(time)
    }
}

fn partition(value: &Value<'_>) -> Result<Partition, Fault> {
    let index = number(0..=u32::MAX);
    match value.get_ref() {
        DeValue::String(text) => Ok(text.parse()?),
        DeValue::Integer(_) => Ok(Partition::only(vec![index(value)? as usize])?),
        DeValue::Array(list) => {
            let list = each(list, |item| index(item).map(|index| index as usize))?;
            Ok(Partition::only(list)?)
        }
        other => Err(format!(
            "it must be \"all\", \"0\", \"0-3\" or a list such as [0, 2], not {}",
            described(other)
        )
        .into()),
    }
}

fn listen(value: &Value<'_>) -> Result<Vec<ListenAddress>, Fault> {
    let DeValue::Array(list) = value.get_ref() else {
        // One address needs no brackets.
        return Ok(vec![string(value)?.parse()?]);
    };
    let mut known: Vec<ListenAddress> = Vec::new();
    each(list, |item| {
        let text = string(item)?;
        let address: ListenAddress = text.parse()?;
        // Port 0 is another port each time.
        let any_port = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
        if !any_port && known.contains(&address) {
            let wrong = format!(
                "{text:?} is listed twice; to listen once on each worker, write reuse_port = true"
            );
            return Err(wrong.into());
        }
        known.push(address.clone());
        Ok(address)
    })
}

fn id(value: &Value<'_>) -> Result<Option<Id>, Fault> {
    match value.get_ref() {
        DeValue::String(text) if text.is_empty() => Err("it is empty".to_owned().into()),
        DeValue::String(text) => Ok(Some(match text.parse() {
            Ok(number) => Id::Number(number),
            Err(_) => Id::Name(text.to_string()),
        })),
        // The largest number means "leave it" in chown(2).
        DeValue::Integer(_) => {
            number(0..=u32::MAX - 1)(value).map(|number| Some(Id::Number(number)))
        }
        other => Err(format!("it must be a name or a number, not {}", described(other)).into()),
    }
}

/// The name of an algorithm, which the kernel keeps in 16 bytes with a zero behind it (TCP_CA_NAME_MAX).
fn congestion(value: &Value<'_>) -> Result<String, Fault> {
    let name = string(value)?;
    let is_name = (1..16).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name {
        Ok(name.to_owned())
    } else {
        let wrong =
            format!("{name:?} is no congestion control; one is called \"cubic\", for example");
        Err(wrong.into())
    }
}

fn mode(value: &Value<'_>) -> Result<u32, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok(units::mode(text)?),
        other => Err(format!(
            "it must be a string of octal digits, such as \"0660\", not {}",
            described(other)
        )
        .into()),
    }
}

fn duration(value: &Value<'_>) -> Result<Duration, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok(units::parse_duration(text)?),
        other => Err(format!(
            "it must be a duration with a unit, such as \"5s\", not {}",
            described(other)
        )
        .into()),
    }
}

fn size<'t>(range: RangeInclusive<usize>) -> impl Fn(&Value<'t>) -> Result<usize, Fault> {
    move |value| {
        let bytes = match value.get_ref() {
            DeValue::String(text) => units::parse_size(text)?,
            DeValue::Integer(_) => number(0..=u64::MAX)(value)?,
            other => {
                return Err(format!(
                    "it must be a size, such as \"16MiB\", not {}",
                    described(other)
                )
                .into());
            }
        };
        match usize::try_from(bytes) {
            Ok(bytes) if range.contains(&bytes) => Ok(bytes),
            _ => Err(outside(bytes, &range, " bytes")),
        }
    }
}

fn number<'t, N>(range: RangeInclusive<N>) -> impl Fn(&Value<'t>) -> Result<N, Fault>
where
    N: Copy + PartialOrd + Display + TryFrom<i128>,
{
    move |value| {
        let DeValue::Integer(integer) = value.get_ref() else {
            return Err(format!("it must be a number, not {}", described(value.get_ref())).into());
        };
        let wide = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match wide.and_then(|wide| N::try_from(wide).ok()) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(outside(integer, &range, "")),
        }
    }
}

fn power_of_two<'t, N>(
    read: impl Fn(&Value<'t>) -> Result<N, Fault>,
) -> impl Fn(&Value<'t>) -> Result<N, Fault>
where
    N: Copy + Display + TryInto<u64>,
{
    move |value| {
        let number = read(value)?;
        match number.try_into() {
            Ok(wide) if wide.is_power_of_two() => Ok(number),
            _ => Err(format!("{number} is not a power of two").into()),
        }
    }
}

fn outside<N: Display>(given: impl Display, range: &RangeInclusive<N>, unit: &str) -> Fault {
    format!(
        "{given} is not within {} to {}{unit}",
        range.start(),
        range.end()
    )
    .into()
}

fn boolean(value: &Value<'_>) -> Result<bool, Fault> {
    match value.get_ref() {
        DeValue::Boolean(truth) => Ok(*truth),
        other => Err(format!("it must be true or false, not {}", described(other)).into()),
    }
}

fn string<'v>(value: &'v Value<'_>) -> Result<&'v str, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        other => Err(format!("it must be a string, not {}", described(other)).into()),
    }
}

/// Whether a service manager can pass `name` on (systemd.socket(5), FileDescriptorName=), and it is not ours.
fn descriptor_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a socket name cannot be empty".to_owned());
    }
    if name.len() > MAX_NAME {
        return Err(format!(
            "a socket name has at most {MAX_NAME} bytes, this one {}",
            name.len()
        ));
    }
    if let Some(wrong) = name
        .chars()
        .find(|&character| !matches!(character, ' '..='~') || character == ':')
    {
        return Err(format!(
            "a socket name is printable ASCII without \":\", but {name:?} contains {wrong:?}"
        ));
    }
    if name.starts_with(RESERVED_PREFIX) {
        return Err(format!(
            "names that begin with {RESERVED_PREFIX:?} are kept for the handover"
        ));
    }
    Ok(())
}
