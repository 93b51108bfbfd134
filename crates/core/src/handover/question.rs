//! What a new program is asked before a reload, in variables of its environment: whether it could take this over.

use std::ffi::OsStr;
use std::fmt;

use crate::belongings::Belonging;
use crate::engine::Outfit;
use crate::listeners::{Held, Listener, Origin};

/// Where the question is.
pub(crate) const VARIABLE: &str = "RINGHOLD_PREFLIGHT";

/// How many listeners the asking process has bound itself. Its question describes those once that are alike. One that does not say
/// so describes each.
const BOUND: &str = "RINGHOLD_PREFLIGHT_BOUND";

/// The names of the descriptors that the asking process passes on and has opened itself, with colons between them, which no name
/// has. Of one that does not say so nothing is known of them.
const OWN: &str = "RINGHOLD_PREFLIGHT_OWN";

/// What the workers of the asking process have: how many they are, the entries of a ring and the bytes of its buffers. Of one that does
/// not say so nothing is known of that.
const OUTFIT: &str = "RINGHOLD_PREFLIGHT_WORKERS";

/// What a successor is asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// The version of the state that it would be handed.
    pub(crate) version: u32,
    /// The descriptor names of the listeners that it would inherit from the service manager.
    pub(crate) inherited: Vec<String>,
    /// The names of the other descriptors that it would inherit from there, which belong to the application.
    pub(crate) descriptors: Vec<String>,
    /// The names of those that belong to the application, and that it has opened.
    pub(crate) own: Vec<String>,
    /// The listeners that the asking process has bound itself, copies on one address once: a variable of the environment has
    /// 128 KiB (execve(2)), and each worker may have a copy of each listener.
    pub(crate) held: Vec<Held>,
    /// How many they are, with all copies.
    pub(crate) bound: usize,
    /// What its workers have.
    pub(crate) outfit: Option<Outfit>,
}

impl Question {
    /// For this program's state, which it would write in this version.
    pub(crate) fn new<'a>(
        version: u32,
        listeners: impl Iterator<Item = &'a Listener>,
        belongings: &[Belonging],
        outfit: Outfit,
    ) -> Self {
        let mut question = Question {
            version,
            outfit: Some(outfit),
            ..Question::default()
        };
        for belonging in belongings {
            let names = match belonging.units() {
                // A section may go on with it.
                Some(true) => &mut question.inherited,
                Some(false) => &mut question.descriptors,
                None => &mut question.own,
            };
            names.push(belonging.name().to_owned());
        }
        for listener in listeners {
            match &listener.origin {
                Origin::Inherited { name, .. } => question.inherited.push(name.clone()),
                Origin::Bound { listen } => {
                    let held = Held::describe(
                        &listener.name,
                        &listen.to_string(),
                        &listener.socket,
                        listener.path.as_ref(),
                    );
                    if !question.held.contains(&held) {
                        question.held.push(held);
                    }
                    question.bound += 1;
                }
            }
        }
        question
    }

    /// The names of all descriptors that the successor would be passed on, but for those that carry the state.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let names = [&self.inherited, &self.descriptors, &self.own];
        names.into_iter().flatten().map(String::as_str)
    }

    /// The variables of the environment that ask it.
    pub(super) fn variables(&self) -> [(&'static str, String); 4] {
        let outfit = self.outfit.map(|outfit| {
            format!(
                "{} {} {}",
                outfit.workers, outfit.entries, outfit.buffer_bytes
            )
        });
        [
            (OUTFIT, outfit.unwrap_or_default()),
            (VARIABLE, self.to_string()),
            (BOUND, self.bound.to_string()),
            (OWN, self.own.join(":")),
        ]
    }

    /// Reads what the environment of this process asks; `None` if it cannot be understood.
    pub(crate) fn read(text: &OsStr) -> Option<Self> {
        let mut question = Self::parse(text.to_str()?)?;
        if let Ok(bound) = std::env::var(BOUND) {
            question.bound = bound.parse().ok()?;
        }
        if let Ok(own) = std::env::var(OWN) {
            let names = own.split(':').filter(|name| !name.is_empty());
            question.own = names.map(str::to_owned).collect();
        }
        question.outfit = std::env::var(OUTFIT).ok().and_then(|text| outfit(&text));
        Some(question)
    }

    /// Reads what [`Question`]'s `Display` wrote; `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let version = lines.next()?.strip_prefix("state=")?.parse().ok()?;
        let mut question = Question {
            version,
            ..Question::default()
        };
        while let Some(line) = lines.next() {
            if let Some(name) = line.strip_prefix("inherited=") {
                question.inherited.push(name.to_owned());
            } else if let Some(name) = line.strip_prefix("descriptor=") {
                question.descriptors.push(name.to_owned());
            } else {
                let name = line.strip_prefix("bound=")?.to_owned();
                let mut value = |key| lines.next()?.strip_prefix(key)?.strip_prefix('=');
                question.held.push(Held {
                    name,
                    listen: value("listen")?.to_owned(),
                    address: value("address")?.to_owned(),
                    reuse_port: value("reuse_port")?.parse().ok()?,
                    v6only: value("v6only")?.parse().ok()?,
                    // Version 1 does not look at it.
                    is_there: version == 1 || value("is_there")?.parse().ok()?,
                });
            }
        }
        question.bound = question.held.len();
        Some(question)
    }
}

/// Reads what a variable says of workers; `None` if that cannot be understood.
fn outfit(text: &str) -> Option<Outfit> {
    let mut numbers = text.split(' ');
    Some(Outfit {
        workers: numbers.next()?.parse().ok()?,
        entries: numbers.next()?.parse().ok()?,
        buffer_bytes: numbers.next()?.parse().ok()?,
    })
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "state={}", self.version)?;
        for name in &self.inherited {
            writeln!(f, "inherited={name}")?;
        }
        for name in &self.descriptors {
            writeln!(f, "descriptor={name}")?;
        }
        for held in &self.held {
            writeln!(f, "bound={}", held.name)?;
            writeln!(f, "listen={}", held.listen)?;
            writeln!(f, "address={}", held.address)?;
            writeln!(f, "reuse_port={}", held.reuse_port)?;
            writeln!(f, "v6only={}", held.v6only)?;
            writeln!(f, "is_there={}", held.is_there)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::inherit::Inherited;
    use crate::listeners;

    const OF_TWO: Outfit = Outfit {
        workers: 2,
        entries: 4096,
        buffer_bytes: 4 << 20,
    };

    #[test]
    fn what_workers_have_survives_the_environment() {
        let question = Question::new(3, std::iter::empty(), &[], OF_TWO);
        let variables = question.variables();
        let said = |text: &str| variables.iter().find(|(name, _)| *name == text).unwrap();
        assert_eq!(outfit(&said(OUTFIT).1), Some(OF_TWO));
        for unknown in ["", "2", "2 4096", "2 4096 x"] {
            assert_eq!(outfit(unknown), None);
        }
    }

    /// Each worker has one of them, and one variable is all that there is for the question.
    #[test]
    fn copies_of_a_listener_are_described_once() {
        let section = |name| {
            let listen = "[\"127.0.0.1:0\", \"127.0.0.1:0\"]";
            format!("[sockets.{name}]\nservice = \"x\"\nlisten = {listen}\nreuse_port = true\n")
        };
        let text = format!("workers = 8\n{}{}", section("a"), section("b"));
        let config = Config::parse(&text, "test.toml").unwrap();
        let none = Inherited::none();
        let plan = listeners::plan(&config, none, false, &["x"], 8).unwrap();
        let listeners = plan.open_with(Vec::new()).unwrap();
        let question = Question::new(3, listeners.iter(), &[], OF_TWO);
        let names = question.held.iter().map(|held| held.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["a", "a", "b", "b"]);
        assert_eq!((listeners.len(), question.bound), (32, 32));
        listeners::rehearse_binding(&config, &[], &question.held).unwrap();
    }

    #[test]
    fn a_question_survives_the_environment() {
        let held = |name: &str, listen: &str| Held {
            name: name.to_owned(),
            listen: listen.to_owned(),
            address: "127.0.0.1:4660".to_owned(),
            reuse_port: listen.ends_with('0'),
            v6only: listen.ends_with('1'),
            is_there: !listen.starts_with("unix:"),
        };
        for (inherited, held) in [
            (vec![], vec![]),
            (
                vec!["rpc".to_owned()],
                vec![held("a b", "unix:/run/a b=c.sock")],
            ),
            (
                vec!["a b".to_owned(), "x;names=y".to_owned()],
                vec![held("x", "127.0.0.1:0"), held("x", "[::]:1")],
            ),
        ] {
            let question = Question {
                version: 3,
                inherited,
                descriptors: vec!["a=b".to_owned()],
                own: vec![],
                bound: held.len(),
                held,
                outfit: None,
            };
            assert_eq!(Question::parse(&question.to_string()), Some(question));
        }
        let old = "bound=x\nlisten=y\naddress=z\nreuse_port=true\nv6only=false";
        let question = Question::parse(&format!("state=1\n{old}")).unwrap();
        assert!(question.held.iter().all(|held| held.is_there));
        assert_eq!(Question::parse(&format!("state=2\n{old}")), None);
        assert_eq!(Question::parse("1"), None);
        assert_eq!(Question::parse("state=x"), None);
        assert_eq!(Question::parse("state=1\nbound=x\nlisten=y"), None);
    }
}
