//! The table of sockets that people read.

use std::fmt;
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use crate::config::{Config, SocketConfig, ranges};
use crate::limits::Limits;

/// One line of the table: one listener that is planned, a name that has none, or a descriptor of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name of the section, or of the descriptor.
    pub name: String,
    /// Where it listens, or would, or is bound; `-` if nowhere.
    pub address: String,
    /// Where the socket comes from.
    pub source: Source,
    /// The service that answers. `None` for a descriptor of the application ([`Server::descriptor`](crate::Server::descriptor)): what follows
    /// says nothing then.
    pub service: Option<String>,
    /// The workers that serve its connections.
    pub workers: Vec<usize>,
    /// Whether it is served.
    pub enabled: bool,
    /// How many connections of the name each of these workers holds at most.
    pub connections: u32,
    /// How many connections of the name a client may have, over all workers; 0 is any number.
    pub connections_per_client: u32,
    /// How long a connection may say nothing; zero is for ever.
    pub idle_timeout: Duration,
    /// Whether a connection begins with the header of a proxy.
    pub proxy_protocol: bool,
}

/// Where the socket of a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Passed on as this descriptor.
    Inherited(RawFd),
    /// Planned to be bound.
    WouldBind,
    /// Not passed on, but it was said to assume that it would be.
    Assumed,
    /// Not passed on, and opened by the application if it likes.
    Application,
    /// Disabled, and not inherited: there is none.
    Nothing,
}

/// Rows, displayed as a table with a heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(pub Vec<Row>);

impl Row {
    /// That of section `name`, as long as it has no listener.
    pub(super) fn new(name: &str, socket: &SocketConfig, limits: &Limits) -> Self {
        let limits = socket.limits(limits);
        Row {
            name: name.to_owned(),
            address: "-".to_owned(),
            source: Source::Nothing,
            service: Some(socket.service.clone()),
            workers: Vec::new(),
            enabled: socket.enable,
            connections: limits.connections,
            connections_per_client: socket.connections_per_client,
            idle_timeout: limits.idle_timeout,
            proxy_protocol: socket.proxy_protocol,
        }
    }

    /// That of a descriptor of the application.
    pub(crate) fn of_application(name: &str, address: Option<String>, source: Source) -> Self {
        Row {
            name: name.to_owned(),
            address: address.unwrap_or_else(|| "-".to_owned()),
            source,
            service: None,
            workers: Vec::new(),
            enabled: true,
            connections: 0,
            connections_per_client: 0,
            idle_timeout: Duration::ZERO,
            proxy_protocol: false,
        }
    }
}

impl Table {
    /// The table of a configuration whose names are all inherited, one listener each.
    pub(crate) fn assumed(config: &Config, workers: usize) -> Self {
        let row = |(name, socket): (&String, &SocketConfig)| Row {
            source: Source::Assumed,
            workers: socket.workers.resolve(workers).unwrap_or_default(),
            ..Row::new(name, socket, &config.limits)
        };
        Self(config.sockets.iter().map(row).collect())
    }

    /// What would keep a start from binding, and is no error as long as nothing starts: unix sockets whose directory does not exist. The
    /// service manager may be about to make it (`RuntimeDirectory=`). One sentence each, with the name of the socket.
    pub fn warnings(&self) -> Vec<String> {
        let missing = |row: &Row| {
            let path = Path::new(row.address.strip_prefix("unix:")?);
            let directory = path.parent().filter(|_| row.source == Source::WouldBind)?;
            // An abstract name has none. What cannot be looked at may be there.
            let is_missing = path.is_absolute() && matches!(directory.try_exists(), Ok(false));
            is_missing.then(|| {
                format!(
                    "socket {:?} cannot listen on {} before the directory {} exists, which RuntimeDirectory= in the service unit makes",
                    row.name,
                    row.address,
                    directory.display()
                )
            })
        };
        self.0.iter().filter_map(missing).collect()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherited(number) => write!(f, "inherited (fd {number})"),
            Self::WouldBind => f.write_str("would bind"),
            Self::Assumed => f.write_str("assumed"),
            Self::Application => f.write_str("application"),
            Self::Nothing => f.write_str("-"),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = HEADING.map(str::to_owned);
        let lines: Vec<[String; COLUMNS]> = std::iter::once(heading)
            .chain(self.0.iter().map(cells))
            .collect();
        let mut widths = [0; COLUMNS];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        for line in &lines {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(widths) {
                text.push_str(&format!("{cell:<width$}  "));
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

const COLUMNS: usize = 10;

const HEADING: [&str; COLUMNS] = [
    "NAME",
    "ADDRESS",
    "SOURCE",
    "SERVICE",
    "WORKERS",
    "ENABLED",
    "CONNECTIONS",
    "PER CLIENT",
    "IDLE",
    "PROXY",
];

fn cells(row: &Row) -> [String; COLUMNS] {
    let word = |is_so| if is_so { "yes" } else { "no" }.to_owned();
    let Some(service) = &row.service else {
        let mut cells = [(); COLUMNS].map(|()| "-".to_owned());
        cells[0].clone_from(&row.name);
        cells[1].clone_from(&row.address);
        cells[2] = row.source.to_string();
        return cells;
    };
    // None of them matters to who is turned away.
    let [connections, per_client, idle, proxy] = match row.enabled {
        false => [(); 4].map(|()| "-".to_owned()),
        true => [
            row.connections.to_string(),
            match row.connections_per_client {
                0 => "any".to_owned(),
                limit => limit.to_string(),
            },
            match row.idle_timeout.is_zero() {
                true => "never".to_owned(),
                false => format!("{:?}", row.idle_timeout),
            },
            word(row.proxy_protocol),
        ],
    };
    let workers = if row.workers.is_empty() {
        "-".to_owned()
    } else {
        ranges(&row.workers)
    };
    [
        row.name.clone(),
        row.address.clone(),
        row.source.to_string(),
        service.clone(),
        workers,
        word(row.enabled),
        connections,
        per_client,
        idle,
        proxy,
    ]
}
