//! The smallest daemon: every frame comes back. `cargo run -p ringhold-core --example echo -- CONFIG.toml`

use std::path::Path;

use ringhold_core::config::Config;
use ringhold_core::{Flow, Frame, Peer, Refusal, Reply, Saved, Server, Service};

struct Echo;

impl Service for Echo {
    type Session = ();

    fn connected(&mut self, _: &Peer<'_>, _: &mut Reply<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn frame(&mut self, _: &mut (), frame: Frame<'_>, reply: &mut Reply<'_>) -> Flow {
        reply.write(|out| out.extend_from_slice(&frame));
        Flow::Continue
    }

    fn save(&self, _: &()) -> Saved {
        Saved::Stateless
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("usage: echo CONFIG.toml")?;
    let config = Config::from_file(Path::new(&path))?;
    Server::new(config).service("echo", |_| Echo).run()?;
    Ok(())
}
