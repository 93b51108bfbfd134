//! What is used where nothing is said.

use std::path::Path;

use ringhold_core::config::{Config, ConfigError};

/// Read if it exists and no other file is named.
const PATH: &str = "/etc/ringhold/ringhold.toml";

/// The configuration where there is no file: enough to try it, and reachable from this machine only.
const BUILT_IN: &str = r#"
[sockets.rpc]
service = "rpc"
listen = ["127.0.0.1:4660"]
"#;

/// The configuration in `file`, else the one of the machine, else the built-in one.
///
/// # Errors
/// The file cannot be read, or every problem that was found in it.
pub(crate) fn configuration(file: Option<&Path>) -> Result<Config, ConfigError> {
    match file {
        Some(file) => Config::from_file(file),
        // A file that may not be read is an error, never a reason to serve something else.
        None if !matches!(Path::new(PATH).try_exists(), Ok(false)) => {
            Config::from_file(Path::new(PATH))
        }
        None => built_in(),
    }
}

fn built_in() -> Result<Config, ConfigError> {
    Config::parse(BUILT_IN, "the built-in configuration")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_configuration_serves_rpc_on_loopback() {
        let config = built_in().unwrap();
        let rpc = &config.sockets["rpc"];
        assert_eq!(config.sockets.len(), 1);
        assert_eq!(rpc.service, "rpc");
        assert_eq!(rpc.listen[0].to_string(), crate::cli::DEFAULT_ADDRESS);
    }
}
