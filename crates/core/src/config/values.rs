//! What the value of a key may be, whichever section it is in.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::table::{Fault, described, each, nearest};
use super::units;
use super::{EngineChoice, Id, ListenAddress, Partition, Workers};
use crate::inherit::{RESERVED_PREFIX, is_reserved};

type Value<'t> = Spanned<DeValue<'t>>;

/// The longest descriptor name that systemd passes on (FileDescriptorName= in systemd.socket(5)).
const MAX_NAME: usize = 255;

pub(super) fn engine(value: &Value<'_>) -> Result<EngineChoice, Fault> {
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

pub(super) fn workers(value: &Value<'_>) -> Result<Workers, Fault> {
    match value.get_ref() {
        DeValue::String(text) if text == "auto" => Ok(Workers::Auto),
        DeValue::Integer(_) => {
            number(1..=Workers::MAX as u32)(value).map(|count| Workers::Count(count as usize))
        }
        other => Err(must_be("\"auto\" or a number of workers", other)),
    }
}

pub(super) fn spin(value: &Value<'_>) -> Result<Duration, Fault> {
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
pub(super) fn whole_seconds(least: u64) -> impl Fn(&Value<'_>) -> Result<Duration, Fault> {
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

pub(super) fn partition(value: &Value<'_>) -> Result<Partition, Fault> {
    let index = number(0..=u32::MAX);
    match value.get_ref() {
        DeValue::String(text) => Ok(text.parse()?),
        // `workers = 1` at the top of the file is how many there are.
        DeValue::Integer(_) => {
            let number = index(value)?;
            Partition::only(vec![number as usize])?;
            Err(format!(
                "{number} alone may mean how many workers or which one; write \"{number}\" or [{number}] for worker {number} (the \
                 first is 0), \"all\" or \"0-3\" for several"
            )
            .into())
        }
        DeValue::Array(list) => {
            let list = each(list, |item| index(item).map(|index| index as usize))?;
            Ok(Partition::only(list)?)
        }
        other => Err(must_be(
            "\"all\", \"0\", \"0-3\" or a list such as [0, 2]",
            other,
        )),
    }
}

pub(super) fn listen(value: &Value<'_>) -> Result<Vec<ListenAddress>, Fault> {
    let list = match value.get_ref() {
        DeValue::Array(list) => list,
        // One address needs no brackets.
        DeValue::String(text) => return Ok(vec![text.parse()?]),
        other => return Err(must_be("a string or a list of strings", other)),
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

pub(super) fn id(value: &Value<'_>) -> Result<Id, Fault> {
    match value.get_ref() {
        DeValue::String(text) if text.is_empty() => Err("it is empty".to_owned().into()),
        DeValue::String(text) => Ok(match text.parse() {
            Ok(number) => Id::Number(number),
            Err(_) => Id::Name(text.to_string()),
        }),
        // The largest number means "leave it" in chown(2).
        DeValue::Integer(_) => number(0..=u32::MAX - 1)(value).map(Id::Number),
        other => Err(must_be("a name or a number", other)),
    }
}

/// The name of an algorithm, which the kernel keeps in 16 bytes with a zero behind it (TCP_CA_NAME_MAX).
pub(super) fn congestion(value: &Value<'_>) -> Result<String, Fault> {
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

/// A size of the kernel's buffers. The least is what its own tuning begins with (tcp(7)), and the most what it can double in an
/// int.
pub(super) fn buffer(value: &Value<'_>) -> Result<usize, Fault> {
    size(4 << 10..=512 << 20)(value)
}

pub(super) fn mode(value: &Value<'_>) -> Result<u32, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok(units::mode(text)?),
        other => Err(must_be("a string of octal digits, such as \"0660\"", other)),
    }
}

pub(super) fn duration(value: &Value<'_>) -> Result<Duration, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok(units::parse_duration(text)?),
        other => Err(must_be("a duration with a unit, such as \"5s\"", other)),
    }
}

pub(super) fn size<'t>(
    range: RangeInclusive<usize>,
) -> impl Fn(&Value<'t>) -> Result<usize, Fault> {
    move |value| {
        let bytes = match value.get_ref() {
            DeValue::String(text) => units::parse_size(text)?,
            DeValue::Integer(_) => number(0..=u64::MAX)(value)?,
            other => {
                return Err(must_be("a size, such as \"16MiB\"", other));
            }
        };
        match usize::try_from(bytes) {
            Ok(bytes) if range.contains(&bytes) => Ok(bytes),
            _ => Err(outside(bytes, &range, " bytes")),
        }
    }
}

pub(super) fn number<'t, N>(range: RangeInclusive<N>) -> impl Fn(&Value<'t>) -> Result<N, Fault>
where
    N: Copy + PartialOrd + Display + TryFrom<i128>,
{
    move |value| {
        let DeValue::Integer(integer) = value.get_ref() else {
            return Err(must_be("a number", value.get_ref()));
        };
        let wide = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match wide.and_then(|wide| N::try_from(wide).ok()) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(outside(integer, &range, "")),
        }
    }
}

pub(super) fn power_of_two<'t, N>(
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

/// The value is of another kind than `what`.
fn must_be(what: &str, value: &DeValue<'_>) -> Fault {
    format!("it must be {what}, not {}", described(value)).into()
}

fn outside<N: Display>(given: impl Display, range: &RangeInclusive<N>, unit: &str) -> Fault {
    format!(
        "{given} is not within {} to {}{unit}",
        range.start(),
        range.end()
    )
    .into()
}

pub(super) fn boolean(value: &Value<'_>) -> Result<bool, Fault> {
    match value.get_ref() {
        DeValue::Boolean(truth) => Ok(*truth),
        other => Err(must_be("true or false", other)),
    }
}

pub(super) fn string<'v>(value: &'v Value<'_>) -> Result<&'v str, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        other => Err(must_be("a string", other)),
    }
}

/// Whether a service manager can pass `name` on (systemd.socket(5), FileDescriptorName=), and it is not ours.
pub(super) fn descriptor_name(name: &str) -> Result<(), String> {
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
    if is_reserved(name) {
        return Err(format!(
            "names that begin with {RESERVED_PREFIX:?} are kept for the handover"
        ));
    }
    Ok(())
}
