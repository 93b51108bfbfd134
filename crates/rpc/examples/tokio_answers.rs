//! Answers from an asynchronous runtime: what waits, waits there, and the worker goes on. Try it with
//! `cargo run -p ringhold-rpc --example tokio_answers`, and from another terminal with `ringhold call 127.0.0.1:4674 wait 500`.

use std::time::Duration;

use ringhold_core::config::Config;
use ringhold_core::inherit::Inherited;
use ringhold_core::{Server, block_signals};
use ringhold_log::Filter;
use ringhold_rpc::{Fault, Router, ServeRpc};
use tokio::runtime::{Builder, Handle};

const CONFIG: &str = r#"
[sockets.slow]
service = "slow"
listen = ["127.0.0.1:4674"]
"#;

/// `wait` answers after so many milliseconds. The responder may travel anywhere; if its task is aborted or panics,
/// the client gets an error, and when the server stops it waits for the answers up to `handover.drain`.
pub(crate) fn router(runtime: Handle) -> Router {
    Router::new().deferred("wait", move |milliseconds: u64, responder| {
        runtime.spawn(responder.with(wait(milliseconds)));
    })
}

async fn wait(milliseconds: u64) -> Result<u64, Fault> {
    if milliseconds > 60_000 {
        return Err(Fault::new("a minute is the most"));
    }
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    Ok(milliseconds)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The runtime's threads are there before the server. Without the first, SIGTERM would end them, and the process;
    // the second can be done only while there is one thread.
    block_signals()?;
    let inherited = Inherited::take()?;
    let filter = Filter::from_env("TOKIO_ANSWERS_LOG")?.unwrap_or_default();
    ringhold_log::start("tokio_answers", filter);
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()?;
    let handle = runtime.handle().clone();
    let config = Config::parse(CONFIG, "built-in")?;
    Server::new(config)
        .rpc("slow", move || router(handle.clone()))
        .inherited(inherited)
        .run()?;
    Ok(())
}
