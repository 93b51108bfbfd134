//! The configuration: one TOML file, read strictly.
//!
//! Every key has a default, so an empty file is a valid configuration, without sockets. A key that is not known, or a
//! value that cannot be used, is an error that names the line, the key and what would have been right; all errors that the
//! file itself shows are reported at once.
//!
//! Durations are strings of a whole number and a unit (`"50us"`, `"20ms"`, `"5s"`, `"2min"`, `"1h"`, `"7d"`); sizes are plain
//! integers (bytes) or strings with a unit (`"512B"`, `"8KiB"`, `"16MiB"`, `"1GiB"`).

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::limits::Limits;

mod address;
mod error;
mod parse;
mod partition;
mod settings;
mod table;
mod units;
mod values;

pub use address::ListenAddress;
pub use error::{ConfigError, Problem};
pub use partition::Partition;
pub(crate) use partition::{beyond, ranges};
pub use settings::{duration, size};
pub(crate) use table::nearest;
pub use units::{parse_duration, parse_size};

/// The configuration of a server. The default has no sockets; every other default is stated on its field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Which engine drives the sockets. Default [`EngineChoice::Auto`].
    pub engine: EngineChoice,
    /// How many workers there are. Default [`Workers::Auto`].
    pub workers: Workers,
    /// Whether each worker is pinned to a CPU of its own. Default none: if there are as many workers as CPUs in the affinity
    /// mask of the process. Fewer would be pinned to the first of them, and those of the next daemon on the machine as well; more
    /// never are pinned.
    pub pin: Option<bool>,
    /// How long an idle worker looks for work before it sleeps. Default zero, which is not at all; at most one second.
    pub spin: Duration,
    /// Section `[limits]`.
    pub limits: Limits,
    /// Section `[handover]`.
    pub handover: Handover,
    /// Section `[ring]`.
    pub ring: RingConfig,
    /// The sections `[sockets.NAME]`, by name.
    pub sockets: BTreeMap<String, SocketConfig>,
}

impl Config {
    /// Whether a server can be like this: a program may have written the values itself, which no parser has seen.
    ///
    /// # Errors
    ///
    /// The first value that cannot be.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.ring.check()?;
        self.limits.check("limits")?;
        let mut sockets = self.sockets.iter();
        sockets.try_for_each(|(name, socket)| {
            let limits = socket.limits(&self.limits);
            limits.check(&format!("sockets.{name}"))
        })
    }
}

/// Key `engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// `"auto"`: the ring engine where its self-test succeeds, else the portable one.
    #[default]
    Auto,
    /// `"ring"`: the ring engine, or an error at start.
    Ring,
    /// `"portable"`: the portable engine.
    Portable,
}

/// Key `workers`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// `"auto"`: one worker for each CPU that the process may use: those in its affinity mask, or fewer if its control group has a
    /// quota (`CPUQuota=` in systemd.resource-control(5)).
    #[default]
    Auto,
    /// A number from 1 to [`Workers::MAX`].
    Count(usize),
}

impl Workers {
    /// The largest number of workers: as many as an affinity mask has CPUs (cpu_set_t, CPU_SET(3)).
    pub const MAX: usize = 1024;
}

/// Section `[handover]`: what happens when the process stops, restarts or reloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// How long deferred replies may still take when stopping, and how long output is flushed when no successor takes
    /// it. What is promised meanwhile has as long from then on, so a stop takes up to twice that. Default 5 seconds.
    pub drain: Duration,
}

impl Default for Handover {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(5),
        }
    }
}

/// What `entries`, `buffers` and `buffer_bytes` of section `[ring]` can be, as powers of two.
pub(crate) const ENTRIES: RangeInclusive<u32> = 8..=32_768;
pub(crate) const BUFFERS: RangeInclusive<u32> = 2..=32_768;
pub(crate) const BUFFER_BYTES: RangeInclusive<usize> = 1 << 10..=1 << 20;

/// Section `[ring]`: the sizes of each worker's io_uring. Rings are smaller than `entries` where those of all workers would exceed the limit
/// of locked memory, and the portable engine makes its ring smaller where there is no memory for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Entries of the submission queue, a power of two from 8 to 32768 (`IORING_MAX_ENTRIES`). Default 4096.
    pub entries: u32,
    /// Receive buffers of a worker, a power of two from 2 to 32768 (io_uring_register_buf_ring(3)). As long as few suffice no others
    /// are used: the kernel takes them in turn, so many mean cold memory. Half as many more, at most 32, are set aside for receives that
    /// do not wait. Default 64.
    ///
    /// The portable engine has a single one, as large as all of these together, but not larger than 192 KiB.
    pub buffers: u32,
    /// Bytes of one receive buffer, a power of two from 1 KiB to 1 MiB; what is not received into is not
    /// touched. Default 64 KiB.
    pub buffer_bytes: usize,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            entries: 4096,
            buffers: 64,
            buffer_bytes: 64 << 10,
        }
    }
}

impl RingConfig {
    /// Whether there can be such rings and buffers.
    fn check(&self) -> Result<(), String> {
        let entries = self.entries;
        if !ENTRIES.contains(&entries) || !entries.is_power_of_two() {
            return Err(format!(
                "there cannot be a ring of {entries} entries: it has a power of two from {} to {}",
                ENTRIES.start(),
                ENTRIES.end()
            ));
        }
        let sizes = self.buffer_sizes();
        sizes.map(drop).map_err(|error| error.to_string())
    }

    /// How many receive buffers there are, and how large each is. Within these limits their number has 16 bits, the bytes of one
    /// have 32, and those of all have 64, as what engines compute from them relies on.
    ///
    /// # Errors
    ///
    /// That there cannot be such buffers: the value may be a program's own, which nobody has checked.
    pub(crate) fn buffer_sizes(&self) -> io::Result<(u16, usize)> {
        let &RingConfig {
            buffers,
            buffer_bytes,
            ..
        } = self;
        let can_be = BUFFERS.contains(&buffers)
            && buffers.is_power_of_two()
            && BUFFER_BYTES.contains(&buffer_bytes)
            && buffer_bytes.is_power_of_two();
        match u16::try_from(buffers) {
            Ok(entries) if can_be => Ok((entries, buffer_bytes)),
            _ => {
                let why = format!(
                    "there cannot be {buffers} receive buffers of {buffer_bytes} bytes: they are a power of two from {} to {}, \
                     each has one from {} to {}",
                    BUFFERS.start(),
                    BUFFERS.end(),
                    BUFFER_BYTES.start(),
                    BUFFER_BYTES.end()
                );
                Err(io::Error::new(io::ErrorKind::InvalidInput, why))
            }
        }
    }
}

/// Sections `[ring]` that no file could ask for. In 64 bits the buffers of the last two have 4 and 128 KiB altogether, but the first one
/// alone has more than 2 GiB in 32 bits.
#[cfg(test)]
pub(crate) fn impossible_rings() -> impl Iterator<Item = RingConfig> {
    let sizes = [
        (0, 4096),
        (3, 4096),
        (1 << 16, 4096),
        ((1 << 16) + 2, 4096),
        (2, 0),
        (2, 1 << 32),
        (2, 1 << 62),
        (2, 0xaaaa_aaaa_aaaa_b000),
        (64, 0xaaaa_aaaa_aaaa_b000),
    ];
    sizes.into_iter().map(|(buffers, buffer_bytes)| RingConfig {
        entries: 8,
        buffers,
        buffer_bytes,
    })
}

/// A section `[sockets.NAME]`.
///
/// What concerns creation (`backlog`, `mode`, `user`, `group`, `reuse_port`, `ipv6_only`, `congestion`, `receive_buffer`,
/// `send_buffer`) is used only for sockets that the process binds itself: inherited ones were made by the service manager, as its
/// unit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// The service that answers. Default: the one that is called like the socket.
    pub service: String,
    /// Whether it is served. Default true. An inherited listener of a disabled name is served by accepting and
    /// closing, so that its clients do not hang.
    pub enable: bool,
    /// What to bind if no descriptor of that name is inherited. Default: nothing, which demands an inherited one.
    pub listen: Vec<ListenAddress>,
    /// The workers that the name is placed on. Default [`Partition::All`].
    pub workers: Partition,
    /// Connections of this name that one worker holds. At the limit accepting pauses for this name, and the backlog of its
    /// listeners holds the rest. What it leaves of `limits.connections` is for the other names on these workers. Default 0,
    /// which is no other limit than that; at most that.
    pub connections: u32,
    /// Connections of this name that one client has, over all workers: an IPv4 address, an IPv6 network of 64 bits, or a user
    /// over unix sockets; with `proxy_protocol` the address that the header says. Above it they are closed at once, so that
    /// one client cannot take the room of the others. Default 0, which is no limit; at most [`Limits::MAX_CONNECTIONS`].
    pub connections_per_client: u32,
    /// Takes the place of `limits.frame_bytes` for connections of this name, as the seven behind it do of those that are called like
    /// them. Default none. At most `limits.memory`, and [`Limits::MAX_FRAME_BYTES`].
    pub frame_bytes: Option<usize>,
    /// Bytes that may wait for one peer. Default none.
    pub outbox_bytes: Option<usize>,
    /// Deferred replies that a connection may wait for, at least 1, at most [`Limits::MAX_PROMISES`]. Default none.
    pub promises: Option<u32>,
    /// How long nothing is received or sent; zero is never. Default none.
    pub idle_timeout: Option<Duration>,
    /// In which time a frame must be complete; zero is never. Default none.
    pub frame_timeout: Option<Duration>,
    /// How long a peer may take nothing; zero is never. Default none.
    pub write_timeout: Option<Duration>,
    /// How long whoever has ended its side waits for deferred replies; zero is never. Default none.
    pub reply_timeout: Option<Duration>,
    /// In which time a deferred reply must be given; zero is never. Default none.
    pub promise_timeout: Option<Duration>,
    /// Whether every connection begins with a header of the PROXY protocol, version 1 or 2, in which the proxy before this
    /// socket says where the client is. Anything else is bad input then. Whoever can connect here can claim any address. Default
    /// false, which looks for none.
    pub proxy_protocol: bool,
    /// Matches another descriptor name than NAME. Default none.
    pub fd_name: Option<String>,
    /// Connections that wait to be accepted, at least 1; the kernel caps it at `net.core.somaxconn`. Default 4096.
    pub backlog: u32,
    /// The mode of a unix socket, an octal string. Connecting takes write permission (unix(7)). Default `"0660"`: owner
    /// and group.
    pub mode: u32,
    /// The owner of a unix socket, a name or a number. Default none: the user of the process.
    pub user: Option<Id>,
    /// The group of a unix socket, a name or a number. Default none: the group of the process.
    pub group: Option<Id>,
    /// Whether TCP answers are sent without waiting for more (TCP_NODELAY, tcp(7)). Default true, which sets it on
    /// inherited listeners, too; false leaves those as their unit (`NoDelay=`) made them.
    pub nodelay: bool,
    /// How long nothing comes from a TCP peer until the kernel asks whether it is still there (SO_KEEPALIVE and TCP_KEEPIDLE,
    /// tcp(7)), whole seconds. Default 5 minutes, which is set on inherited listeners, too; zero leaves those as their
    /// unit (`KeepAlive=`) made them, and others without.
    pub keepalive: Duration,
    /// After how long without an answer it asks again (TCP_KEEPINTVL), whole seconds. Default none: as
    /// `net.ipv4.tcp_keepalive_intvl` says, or the unit (`KeepAliveIntervalSec=`) of an inherited listener.
    pub keepalive_interval: Option<Duration>,
    /// How often it asks in all before the connection fails (TCP_KEEPCNT), 1 to 127. Default none: as
    /// `net.ipv4.tcp_keepalive_probes` says, or the unit (`KeepAliveProbes=`) of an inherited listener.
    pub keepalive_probes: Option<u32>,
    /// Whether each worker of the partition gets a TCP listener of its own (SO_REUSEPORT, socket(7)), so that the
    /// kernel spreads connections by their addresses. Default false: one listener, and connections are dealt evenly.
    pub reuse_port: bool,
    /// Whether an IPv6 listener refuses IPv4 clients (IPV6_V6ONLY, ipv6(7)). Default none: as
    /// `net.ipv6.bindv6only` says, which is dual stack unless someone changed it.
    pub ipv6_only: Option<bool>,
    /// The congestion control of TCP connections (TCP_CONGESTION, tcp(7)), at most 15 bytes. Default none: as
    /// `net.ipv4.tcp_congestion_control` says.
    pub congestion: Option<String>,
    /// Bytes that the kernel keeps of what a TCP peer has sent and nobody has read (SO_RCVBUF, socket(7)), 4 KiB to 512 MiB; it takes
    /// up to twice that for it, and caps it at `net.core.rmem_max` where the process lacks CAP_NET_ADMIN. Default none: it begins and
    /// is tuned as `net.ipv4.tcp_rmem` says.
    pub receive_buffer: Option<usize>,
    /// The same of what a TCP peer has not acknowledged (SO_SNDBUF); the sysctls are `net.core.wmem_max` and `net.ipv4.tcp_wmem`.
    pub send_buffer: Option<usize>,
}

impl SocketConfig {
    /// A socket with every default, answered by `service`, that binds nothing.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            enable: true,
            listen: Vec::new(),
            workers: Partition::All,
            connections: 0,
            connections_per_client: 0,
            frame_bytes: None,
            outbox_bytes: None,
            promises: None,
            idle_timeout: None,
            frame_timeout: None,
            write_timeout: None,
            reply_timeout: None,
            promise_timeout: None,
            proxy_protocol: false,
            fd_name: None,
            backlog: 4096,
            mode: 0o660,
            user: None,
            group: None,
            nodelay: true,
            keepalive: Duration::from_secs(300),
            keepalive_interval: None,
            keepalive_probes: None,
            reuse_port: false,
            ipv6_only: None,
            congestion: None,
            receive_buffer: None,
            send_buffer: None,
        }
    }

    /// The descriptor name that belongs to this section, which is called `name`.
    pub fn descriptor_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.fd_name.as_deref().unwrap_or(name)
    }

    /// The limits that hold for connections of this name, with these of the server: its own where it has them. Of `connections` one worker
    /// holds so many of this name at most.
    pub fn limits(&self, server: &Limits) -> Limits {
        Limits {
            frame_bytes: self.frame_bytes.unwrap_or(server.frame_bytes),
            depth: server.depth,
            outbox_bytes: self.outbox_bytes.unwrap_or(server.outbox_bytes),
            promises: self.promises.unwrap_or(server.promises),
            connections: match self.connections {
                0 => server.connections,
                own => own.min(server.connections),
            },
            memory: server.memory,
            idle_timeout: self.idle_timeout.unwrap_or(server.idle_timeout),
            frame_timeout: self.frame_timeout.unwrap_or(server.frame_timeout),
            write_timeout: self.write_timeout.unwrap_or(server.write_timeout),
            reply_timeout: self.reply_timeout.unwrap_or(server.reply_timeout),
            promise_timeout: self.promise_timeout.unwrap_or(server.promise_timeout),
        }
    }
}

/// A user or group: its name or its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// A name, looked up when the socket is planned.
    Name(String),
    /// A number, taken as it is.
    Number(u32),
}

impl Config {
    /// Reads a configuration from `text`. `origin` is what errors call it, usually its path.
    ///
    /// # Errors
    /// Every problem that was found, in the order of their lines.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        parse::parse(text, origin)
    }

    /// Reads a configuration and the settings of the program itself, which it has in a section `[app]`.
    ///
    /// If there is no such section, `App` is made from one without keys. A key that it does not know is an error if it says
    /// so (serde's `deny_unknown_fields`).
    ///
    /// ```
    /// use ringhold_core::config::Config;
    ///
    /// #[derive(serde::Deserialize)]
    /// #[serde(deny_unknown_fields, default)]
    /// struct App {
    ///     archive: std::path::PathBuf,
    /// }
    ///
    /// impl Default for App {
    ///     fn default() -> Self {
    ///         App { archive: "/var/lib/ingest".into() }
    ///     }
    /// }
    ///
    /// let text = r#"
    /// workers = 2
    /// [app]
    /// archive = "/srv/ingest"
    /// "#;
    /// let (config, app) = Config::parse_with_app::<App>(text, "ingest.toml")?;
    /// assert_eq!(app.archive.to_str(), Some("/srv/ingest"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Every problem that was found, in the order of their lines; of `[app]` the first one.
    pub fn parse_with_app<App: DeserializeOwned>(
        text: &str,
        origin: &str,
    ) -> Result<(Self, App), ConfigError> {
        parse::parse_with_app(text, origin)
    }

    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    /// That the file cannot be read, or every problem that was found in it.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let (text, origin) = read(path)?;
        Self::parse(&text, &origin)
    }

    /// Reads the configuration file at `path`, with the program's own section: see [`Config::parse_with_app`].
    ///
    /// # Errors
    /// That the file cannot be read, or the problems that were found in it.
    pub fn from_file_with_app<App: DeserializeOwned>(
        path: &Path,
    ) -> Result<(Self, App), ConfigError> {
        let (text, origin) = read(path)?;
        Self::parse_with_app(&text, &origin)
    }
}

/// The text of a file, and what errors call it.
fn read(path: &Path) -> Result<(String, String), ConfigError> {
    let origin = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((text, origin)),
        Err(error) => Err(ConfigError::unreadable(&origin, &error)),
    }
}
