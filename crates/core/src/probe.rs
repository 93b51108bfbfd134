//! What the kernel offers to the engines: the table that `ringhold probe` prints.

use std::fmt;

use crate::engine::{EngineKind, portable, ring};

/// The features that were looked for, and which engines can be used.
#[derive(Clone, Debug)]
pub struct Report {
    /// In the order in which they were tried. It ends where an essential one is missing, or cannot be tried because there
    /// are no descriptors left.
    pub features: Vec<Feature>,
    /// Why the ring engine cannot be used, if it cannot.
    pub unavailable: Option<String>,
    /// Why the portable engine cannot be used, if it cannot.
    pub portable_unavailable: Option<String>,
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

/// Tries every feature that the ring engine can use, on sockets and a ring of its own, and the portable engine as a whole.
pub fn probe() -> Report {
    let mut report = ring::probe();
    report.portable_unavailable = portable::probe().err().map(|why| why.to_string());
    report
}

impl Report {
    /// Nothing was tried yet.
    pub(crate) fn empty() -> Self {
        Report {
            features: Vec::new(),
            unavailable: None,
            portable_unavailable: None,
        }
    }

    /// The engine that `engine = "auto"` means here; `None` if none works.
    pub fn engine(&self) -> Option<EngineKind> {
        match (&self.unavailable, &self.portable_unavailable) {
            (None, _) => Some(EngineKind::Ring),
            (_, None) => Some(EngineKind::Portable),
            _ => None,
        }
    }

    /// Notes an essential feature, and whether it was there and worked.
    pub(crate) fn essential(&mut self, name: &'static str, found: bool) {
        self.optional(name, found, "the portable engine");
    }

    /// Notes a feature that can be done without.
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
            None => f.write_str("The ring engine can be used.\n")?,
            Some(reason) => writeln!(f, "{reason}")?,
        }
        match &self.portable_unavailable {
            None => f.write_str("The portable engine can be used."),
            Some(reason) => f.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_engine_is_preferred() {
        let engine = |ring: Option<&str>, portable: Option<&str>| {
            let report = Report {
                features: Vec::new(),
                unavailable: ring.map(str::to_owned),
                portable_unavailable: portable.map(str::to_owned),
            };
            report.engine()
        };
        assert_eq!(engine(None, Some("no")), Some(EngineKind::Ring));
        assert_eq!(engine(Some("no"), None), Some(EngineKind::Portable));
        assert_eq!(engine(Some("no"), Some("no")), None);
    }

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
                        .any(|f| f.name == "multishot receive" && f.found)
                );
                assert!(text.contains("The ring engine can be used.\n"));
                assert_eq!(report.engine(), Some(EngineKind::Ring));
            }
            Some(reason) => {
                assert!(report.features.iter().any(|f| !f.found), "{text}");
                assert!(reason.starts_with("the ring engine is not available: "));
                assert!(text.contains(reason));
            }
        }
        match &report.portable_unavailable {
            None => assert!(text.ends_with("The portable engine can be used.")),
            Some(reason) => assert!(text.ends_with(reason)),
        }
    }
}
