//! What is wrong with a configuration file.

use std::fmt;
use std::io;

/// The problems of one configuration file. Displayed one a line, in the usual form `file:line: what is wrong`; the same with
/// `Debug`, which is what a `main` that returns it prints.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError {
    origin: String,
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line it is on, counted from 1; none if it concerns the file as a whole.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl ConfigError {
    /// The problems, in the order of their lines, and then those of the file as a whole: that a section is missing may be because of a
    /// line. There is at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn new(origin: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.line.is_none(), problem.line));
        Self {
            origin: origin.to_owned(),
            problems,
        }
    }

    pub(super) fn unreadable(origin: &str, error: &io::Error) -> Self {
        let message = match error.kind() {
            io::ErrorKind::InvalidData => "the file is not UTF-8 text".to_owned(),
            _ => format!("cannot read the configuration: {error}"),
        };
        Self::new(
            origin,
            vec![Problem {
                line: None,
                message,
            }],
        )
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match problem.line {
                Some(line) => write!(f, "{}:{line}: {}", self.origin, problem.message)?,
                None => write!(f, "{}: {}", self.origin, problem.message)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}
