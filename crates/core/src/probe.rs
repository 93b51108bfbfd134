//! What the kernel offers to the engines: the table that `ringhold probe` prints.

use std::fmt;

use crate::engine::ring;

/// The features that were looked for, and whether the ring engine can be used.
#[derive(Clone, Debug)]
pub struct Report {
    /// In the order in which they were tried. It ends where an essential one is missing.
    pub features: Vec<Feature>,
    /// Why the ring engine cannot be used, if it cannot.
    pub unavailable: Option<String>,
}

/// One feature of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, as in the man pages.
    pub name: &'static str,
    /// Whether it was there and worked.
    pub found: bool,
    /// What is used where it is not.
    pub instead: &'static str,
}

/// Tries every feature that the ring engine can use, on sockets and a ring of its own.
pub fn probe() -> Report {
    ring::probe()
}

impl Report {
    pub(crate) fn found(&mut self, name: &'static str) {
        self.features.push(Feature {
            name,
            found: true,
            instead: "the portable engine",
        });
    }

    pub(crate) fn missing(&mut self, name: &'static str) {
        self.features.push(Feature {
            name,
            found: false,
            instead: "the portable engine",
        });
    }

    pub(crate) fn optional(&mut self, name: &'static str, found: bool, instead: &'static str) {
        self.features.push(Feature {
            name,
            found,
            instead,
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28} {:<7} USED INSTEAD", "FEATURE", "FOUND")?;
        for feature in &self.features {
            let (found, instead) = if feature.found {
                ("yes", "-")
            } else {
                ("no", feature.instead)
            };
            writeln!(f, "{:<28} {found:<7} {instead}", feature.name)?;
        }
        match &self.unavailable {
            None => f.write_str("The ring engine can be used."),
            Some(reason) => f.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_finds_all_or_says_what_is_missing() {
        let report = probe();
        let text = report.to_string();
        match &report.unavailable {
            None => {
                assert!(
                    report
                        .features
                        .iter()
                        .any(|f| f.name == "multishot accept" && f.found)
                );
                assert!(text.ends_with("The ring engine can be used."));
            }
            Some(reason) => {
                assert!(report.features.iter().any(|f| !f.found), "{text}");
                assert!(reason.starts_with("the ring engine is not available: "));
            }
        }
    }
}
