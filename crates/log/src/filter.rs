//! What is logged.

use std::env;
use std::fmt;
use std::str::FromStr;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// What is logged: a level, levels for modules, or both, as in `info,ringhold_core=debug`. Levels are `error`, `warn`, `info`,
/// `debug`, `trace` and `off`. Without a level for the rest, as in `ringhold_core=debug`, that is `info`, which is also what
/// [`Filter::default`] is; `off,ringhold_core=debug` is only that module.
#[derive(Clone, Debug)]
pub struct Filter(pub(crate) Targets);

/// What is logged of modules for which there is no level.
const REST: Level = Level::INFO;

impl Filter {
    /// What this environment variable says; `None` if it is not set, or empty.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and its name.
    pub fn from_env(variable: &str) -> Result<Option<Self>, FilterError> {
        let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let filter = value.to_string_lossy().parse();
        filter
            .map(Some)
            .map_err(|FilterError(why)| FilterError(format!("{variable}: {why}")))
    }
}

impl Default for Filter {
    fn default() -> Self {
        Filter(Targets::new().with_default(REST))
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        // A space would belong to the name of the module, which none has.
        let parts = text.split(',').map(|part| match part.split_once('=') {
            Some((module, level)) => format!("{}={}", module.trim(), level.trim()),
            None => part.trim().to_owned(),
        });
        let parts: Vec<String> = parts.collect();
        // A word that is no level would be taken as the name of a module, and the rest be silent.
        let wrong = parts
            .iter()
            .map(|part| {
                part.rsplit_once('=')
                    .map_or(part.as_str(), |(_, level)| level)
            })
            .find(|level| level.parse::<LevelFilter>().is_err() || level.is_empty());
        if let Some(level) = wrong {
            return Err(FilterError(format!(
                "{level:?} is not a level; levels are error, warn, info, debug, trace and off"
            )));
        }
        // Whoever wants to hear more of one module, or less, does not mean that errors of others are lost. A level that is said
        // behind takes the place of this.
        let all = format!("{REST},{}", parts.join(","));
        all.parse()
            .map(Filter)
            .map_err(|error| FilterError(format!("{error}")))
    }
}

/// A text is not a [`Filter`]: what is wrong, and what would be right. `Debug` shows it as `Display` does, since it is what a `main`
/// that returns it prints.
pub struct FilterError(String);

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for FilterError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_known_levels() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,ringhold_core=debug",
            "ringhold_core=trace",
        ] {
            assert!(good.parse::<Filter>().is_ok(), "{good}");
        }
        for spaced in [
            "info, ringhold_core=debug",
            " info ,\tringhold_core = debug ",
        ] {
            let Filter(filter) = spaced.parse().unwrap();
            assert!(filter.would_enable("ringhold_core", &Level::DEBUG));
            assert!(!filter.would_enable("ringhold_rpc", &Level::DEBUG));
            assert!(filter.would_enable("ringhold_rpc", &Level::INFO));
        }
        for bad in [
            "",
            " ",
            "info, ",
            "inof",
            "info,",
            "ringhold_core=",
            "ringhold_core=loud",
        ] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn modules_that_are_not_named_log_as_without_a_filter() {
        for (text, rest) in [
            ("app=debug", Level::INFO),
            ("app=off,ringhold_core::journal=error", Level::INFO),
            ("warn,app=debug", Level::WARN),
            ("app=debug,error", Level::ERROR),
        ] {
            let Filter(filter) = text.parse().unwrap();
            assert_eq!(filter.default_level(), Some(rest.into()), "{text}");
            assert!(filter.would_enable("ringhold_rpc", &rest), "{text}");
        }
        let Filter(only) = "off,app=debug".parse().unwrap();
        assert!(only.would_enable("app", &Level::DEBUG));
        assert!(!only.would_enable("ringhold_rpc", &Level::ERROR));
    }
}
