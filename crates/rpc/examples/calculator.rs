//! A service of one's own. Try it with `cargo run -p ringhold-rpc --example calculator`, and from another terminal
//! with `ringhold call 127.0.0.1:4670 add 1 2`.

use ringhold_core::Server;
use ringhold_core::config::Config;
use ringhold_log::Filter;
use ringhold_rpc::{Fault, Router, ServeRpc};

pub(crate) const CONFIG: &str = r#"
[sockets.calculator]
service = "calculator"
listen = ["127.0.0.1:4670"]
"#;

pub(crate) fn router() -> Router {
    Router::new()
        .method("add", |(a, b): (i64, i64)| Ok(a + b))
        .method("mean", |numbers: Vec<f64>| {
            if numbers.is_empty() {
                return Err(Fault::new("nothing has no mean"));
            }
            Ok(numbers.iter().sum::<f64>() / numbers.len() as f64)
        })
        .describe("mean", "the arithmetic mean of any number of numbers")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = Filter::from_env("CALCULATOR_LOG")?.unwrap_or_default();
    ringhold_log::start("calculator", filter);
    Server::new(Config::parse(CONFIG, "built-in")?)
        .rpc("calculator", router)
        .run()?;
    Ok(())
}
