//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringhold_client::Address;
use ringhold_core::config::{parse_duration, parse_size};
use ringhold_log::Filter;

use crate::json::{self, NOTATION};

/// Where the built-in configuration listens.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:4660";

const EXIT_STATUS: &str = "\
Exit status:
  0  all is well
  1  it failed: a listener, a worker, or the call itself, which the server answered with an error;
     of load: a reply was lost, repeated, wrong or an error, or a connection was cut or could not be finished
  2  the arguments or the configuration are wrong
  3  the server cannot be reached, cut the connection, did not answer in time, broke the protocol or sent too much";

/// A MessagePack-RPC daemon on named sockets, and the tools to try it.
///
/// Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "ringhold", version, args_conflicts_with_subcommands = true, after_help = top_help())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
}

fn top_help() -> String {
    format!(
        "\
Examples:
  ringhold                                       serve MessagePack-RPC on {DEFAULT_ADDRESS}
  ringhold call {DEFAULT_ADDRESS} echo '{{\"a\":1}}'    call a method; prints {{\"a\":1}}
  ringhold load -c 8 -d 64 -t 5s                 put a load on it and check every reply
  ringhold status                                what it has done so far

Addresses are written 127.0.0.1:4660, [::1]:4660, host:4660, unix:/path or unix:@abstract-name.

{EXIT_STATUS}"
    )
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Box<Serve>),
    Check(Check),
    Probe(Probe),
    Call(Call),
    Load(Load),
    Status(Status),
}

/// Which configuration is used.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Configuration {
    /// The configuration, a TOML file. [default: /etc/ringhold/ringhold.toml if it exists, else service "rpc" on
    /// 127.0.0.1:4660]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Do not bind anything: a socket that the service manager does not pass on is an error
    #[arg(long)]
    pub(crate) inherited_only: bool,
}

/// Serve (the default command)
///
/// Takes the sockets that the service manager passes on, by name, and binds the others of the configuration. Ends at
/// SIGTERM or SIGINT, after everything received whole has been answered; or, where the service manager stores
/// descriptors, leaves its connections there for its successor. At SIGHUP it replaces itself in place, with new code
/// and configuration, and keeps its connections. The log goes to the journal if stderr leads there, else to stderr.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ringhold serve
  ringhold serve --config ringhold.toml --log info,ringhold_core=debug
  systemd-socket-activate -l 4660 --fdname=rpc ringhold serve --inherited-only")]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) configuration: Configuration,
    /// What is logged: error, warn, info, debug, trace or off, also by module, the rest as of info [default: what RINGHOLD_LOG says, else info]
    // Not an `env` of clap: these arguments are there, and the variable would be read, with every other command, too.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<Filter>,
}

/// Show what serve would listen on, and bind nothing
///
/// Prints each socket's name, address, source, service and workers. If the configuration cannot be used, prints every
/// problem and ends with exit status 2.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ringhold check
  ringhold check --config ringhold.toml --inherited-only
  ringhold check --quiet && systemctl restart ringhold.service")]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) configuration: Configuration,
    /// Assume that the service manager passes on a listener for every name, as it would to serve. For ExecReload= of a
    /// unit, which is not given the descriptors
    #[arg(long)]
    pub(crate) assume_inherited: bool,
    /// Print nothing unless something is wrong
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Show what the kernel offers, found out by trying
///
/// Prints each feature that the engine can use, whether it works here, and what is used instead. Ends with exit status
/// 1 if no engine can be used.
#[derive(Debug, Args)]
pub(crate) struct Probe {}

/// Call a method and print the result as JSON
#[derive(Debug, Args)]
#[command(after_help = call_help())]
pub(crate) struct Call {
    /// The server
    pub(crate) address: Address,
    /// The method
    pub(crate) method: String,
    /// The parameters, each one JSON value; - reads one from standard input
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    pub(crate) params: Vec<String>,
    /// Call this before, on the same connection, as to log in; - reads the array of parameters from standard input
    #[arg(long, num_args = 2, value_names = ["METHOD", "JSON"])]
    pub(crate) first: Vec<String>,
    /// Send a notification, which is not answered, and wait for the end of the connection
    #[arg(long)]
    pub(crate) notify: bool,
    /// After the result print the notifications that come, one line each, until the connection ends
    #[arg(long, conflicts_with = "notify")]
    pub(crate) follow: bool,
    /// How long connecting may take, and then each call; 0s is for ever
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// The largest message that is taken from the server
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = parse_frame_bytes)]
    pub(crate) frame_bytes: u32,
}

fn call_help() -> String {
    format!(
        "\
Examples:
  ringhold call {DEFAULT_ADDRESS} echo '{{\"a\":1}}'
  ringhold call {DEFAULT_ADDRESS} methods
  ringhold call {DEFAULT_ADDRESS} echo '\"text in quotes\"' 5 '[1, null]'
  ringhold call --notify --timeout 2s unix:/run/ringhold/rpc.sock echo '{{\"$bin\": \"AAEC\"}}'
  ringhold call {DEFAULT_ADDRESS} echo - < value.json
  ringhold call --follow 127.0.0.1:4671 subscribe '\"weather\"'
  ringhold call --first log_in - 127.0.0.1:4672 methods < token.json

{NOTATION}

An error of the server is printed to stderr, and the exit status is 1; it is 3 if no answer came.

With --first, which may be repeated, nothing is printed of its result, and after an error nothing else is called. Other users
of the machine can see arguments, but not what - reads.

With --follow, a notification is shown as an object: its method, and its parameters. The exit status is 0 if the server
ended the connection in order, and 3 if it was cut.

With --notify, 0 means that the server took the message and then ended the connection in order. It does not mean that
the server agreed: nothing answers a notification, and who refuses one may end the connection in order, too. The exit
status is 3 if the connection was cut, or not ended in time."
    )
}

/// Put a load on a server and check every reply
///
/// Each request must be answered exactly once, with just its payload: from 8 bytes on, each has one of its own. Ctrl-C ends
/// the load early; the report is made all the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ringhold load -c 8 -d 64                          as fast as replies come, for 10 seconds
  ringhold load -c 100 -r 50000 -t 1min -s 1KiB     50000 requests a second on schedule, for a minute
  ringhold load -c 0 --short-lived 16 -n 100000     a connection for each request
  ringhold load --mode notify -c 4 -s 200           one-way, only the end of the connection comes back
  ringhold load --json unix:/run/ringhold/rpc.sock

With --rate, messages that were due and found no connection with room are reported as overdue, and are in the latency
with the time that they had waited. That alone is no failure: the server was too slow for the rate, or --depth too small.

The exit status is 1 if a reply was lost, repeated, wrong or an error, a connection was cut or could not be finished
(bytes that the server did not take, a frame that it did not end; with notify, no end of stream from the server),
something of the planned count is missing, nothing was sent, received or measured, the load ended early because nothing
moved for a second (or for --drain, if longer), or this machine could not make it; 2 if the load is not possible as it
stands, 3 if the server cannot be reached.

With --mode notify, 0 means that the server took all messages and then ended its side. It does not mean that it has the
method, or that no call of it failed: nothing answers a notification. The server's log and `ringhold status` tell.")]
pub(crate) struct Load {
    /// The server
    #[arg(default_value = DEFAULT_ADDRESS)]
    pub(crate) address: Address,
    /// Connections that stay
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub(crate) connections: usize,
    /// Connections at a time that come and go, besides those that stay
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) short_lived: usize,
    // The options with defaults that clap is not told of are refused where they mean nothing, so it matters whether they
    // were given.
    /// Requests of a short-lived connection [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_connection: Option<u64>,
    /// Requests of one connection that may be unanswered at a time [default: 1]
    #[arg(short, long, value_name = "N")]
    pub(crate) depth: Option<u32>,
    /// Messages a second over all connections, sent on schedule; as fast as replies come if not given
    #[arg(short, long, value_name = "N")]
    pub(crate) rate: Option<f64>,
    /// The payload of each message [default: 64]
    #[arg(short, long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) size: Option<usize>,
    /// How long messages are sent; with --count at most so long [default: 10s, with --count 1h]
    #[arg(short = 't', long, value_name = "TIME", value_parser = parse_duration)]
    #[arg(
        hide_default_value = true,
        default_value = "10s",
        default_value_if("count", clap::builder::ArgPredicate::IsPresent, "1h")
    )]
    pub(crate) duration: Duration,
    /// End after so many messages in all
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// How long the load runs before it is measured
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    /// How long replies, or with notify the server's end of stream, are waited for at the end before they count as lost
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) drain: Duration,
    /// Threads that make the load
    #[arg(short = 'j', long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// What is sent
    #[arg(long, value_enum, default_value_t = Mode::Call)]
    pub(crate) mode: Mode,
    /// The method
    #[arg(short, long, value_name = "NAME", default_value = "echo")]
    pub(crate) method: String,
    /// The right result of a call: the first parameter, or the array of all [default: first]
    #[arg(long, value_enum)]
    pub(crate) echo: Option<Echo>,
    /// The parameters of the request that subscribes, one JSON array [default: []]
    #[arg(long, value_name = "JSON", value_parser = parse_array)]
    pub(crate) params: Option<Params>,
    /// A subscriber's notifications are numbered: their first parameter goes up by one
    #[arg(long)]
    pub(crate) sequence: bool,
    /// The largest message that is taken from the server; --size may be half of it
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = parse_frame_bytes)]
    pub(crate) frame_bytes: u32,
    /// Leave a connection alone after the server cut it
    #[arg(long)]
    pub(crate) no_reconnect: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// What a load sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Requests, each of which is answered
    Call,
    /// Notifications, which are not answered; at the end the server must end its side, too
    Notify,
    /// One request on each connection, which is answered; what the server pushes then is counted
    Subscribe,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Call => "call",
            Mode::Notify => "notify",
            Mode::Subscribe => "subscribe",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Echo {
    First,
    All,
}

/// One encoded msgpack array.
#[derive(Clone, Debug)]
pub(crate) struct Params(pub(crate) Vec<u8>);

/// Show what a server has done, by socket and by worker
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ringhold status
  ringhold status unix:/run/ringhold/rpc.sock --json")]
pub(crate) struct Status {
    /// The server
    #[arg(default_value = DEFAULT_ADDRESS)]
    pub(crate) address: Address,
    /// Print the answer as JSON, as it came
    #[arg(long, conflicts_with = "prometheus")]
    pub(crate) json: bool,
    /// Print the answer as metrics in the text format of Prometheus
    #[arg(long)]
    pub(crate) prometheus: bool,
    /// How long connecting may take, and then the answer; 0s is for ever
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

fn parse_bytes(text: &str) -> Result<usize, String> {
    usize::try_from(parse_size(text)?).map_err(|_| format!("{text:?} is too large a size"))
}

fn parse_frame_bytes(text: &str) -> Result<u32, String> {
    u32::try_from(parse_size(text)?).map_err(|_| {
        format!(
            "{text:?} is too large a message; at most {} bytes",
            u32::MAX
        )
    })
}

fn parse_array(text: &str) -> Result<Params, String> {
    let value = json::parse(text)?;
    if !value.is_array() {
        return Err("an array is needed, as in '[1, 2]'".to_owned());
    }
    Ok(Params(json::encode(&value)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Cli {
        Cli::try_parse_from(line.split_whitespace()).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_needs_no_command() {
        for line in ["ringhold --config a.toml", "ringhold serve -c a.toml"] {
            let cli = parsed(line);
            let serve = match cli.command {
                Some(Command::Serve(serve)) => *serve,
                None => cli.serve,
                other => panic!("{other:?}"),
            };
            assert_eq!(serve.configuration.config, Some("a.toml".into()));
        }
        assert!(parsed("ringhold").command.is_none());
        assert!(Cli::try_parse_from(["ringhold", "--config", "a", "check"]).is_err());
    }

    #[test]
    fn parameters_may_be_negative() {
        for line in [
            "ringhold call --timeout 2s 127.0.0.1:1 add -5 - -1.5e3",
            "ringhold call 127.0.0.1:1 add -5 - -1.5e3 --timeout 2s",
        ] {
            let Some(Command::Call(call)) = parsed(line).command else {
                panic!("not a call");
            };
            assert_eq!(call.params, ["-5", "-", "-1.5e3"]);
            assert_eq!(call.timeout, Duration::from_secs(2));
        }
    }

    #[test]
    fn the_largest_frame_is_that_of_the_library_unless_given() {
        let frame_bytes = |line: &str| match parsed(line).command {
            Some(Command::Load(load)) => load.frame_bytes,
            Some(Command::Call(call)) => call.frame_bytes,
            other => panic!("{other:?}"),
        };
        let usual = ringhold_client::Limits::default().frame_bytes;
        assert_eq!(frame_bytes("ringhold load"), usual);
        assert_eq!(frame_bytes("ringhold call 127.0.0.1:1 echo"), usual);
        assert_eq!(frame_bytes("ringhold load --frame-bytes 1GiB"), 1 << 30);
        assert!(Cli::try_parse_from(["ringhold", "load", "--frame-bytes", "4GiB"]).is_err());
    }

    #[test]
    fn a_count_is_not_cut_by_the_usual_duration() {
        let duration = |line: &str| match parsed(line).command {
            Some(Command::Load(load)) => load.duration,
            other => panic!("{other:?}"),
        };
        assert_eq!(duration("ringhold load"), Duration::from_secs(10));
        assert_eq!(duration("ringhold load -n 5"), Duration::from_secs(3600));
        assert_eq!(duration("ringhold load -n 5 -t 1s"), Duration::from_secs(1));
    }
}
