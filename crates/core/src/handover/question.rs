//! What a new program is asked before a reload, in a variable of its environment: whether it could take this over.

use std::fmt;
use std::str::Lines;

use super::vault::VERSION;
use crate::belongings::Belonging;
use crate::engine::Outfit;
use crate::listeners::{Held, Listener, Origin};

/// Where the question is.
pub(crate) const VARIABLE: &str = "RINGHOLD_PREFLIGHT";

/// What a successor is asked, whether it reads the state that it would be handed before anything else.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// What the workers of the asking process have.
    pub(crate) outfit: Outfit,
    /// How many connections it has. An older version does not say so.
    pub(crate) connections: usize,
    /// How many descriptors a start of the asking process takes besides those.
    pub(crate) takes: usize,
    /// How many listeners it has bound itself, with all copies.
    pub(crate) bound: usize,
    /// The descriptor names of the listeners that it would inherit from the service manager.
    pub(crate) inherited: Vec<String>,
    /// The names of the other descriptors that it would inherit from there, which belong to the application.
    pub(crate) descriptors: Vec<String>,
    /// Those of them that are no UDP sockets. An older version does not say which are.
    pub(crate) not_udp: Vec<String>,
    /// The names of those that belong to the application, and that it has opened, with the address where it is a UDP socket.
    pub(crate) own: Vec<(String, String)>,
    /// The listeners that the asking process has bound itself, copies on one address once: a variable of the environment has
    /// 128 KiB (execve(2)), and each worker may have a copy of each listener.
    pub(crate) held: Vec<Held>,
}

impl Question {
    pub(crate) fn new<'a>(
        listeners: impl Iterator<Item = &'a Listener>,
        belongings: &[Belonging],
        outfit: Outfit,
    ) -> Self {
        let mut question = Question {
            outfit,
            ..Question::default()
        };
        for belonging in belongings {
            let name = belonging.name().to_owned();
            match belonging.units() {
                // A section may go on with it.
                Some(true) => question.inherited.push(name),
                Some(false) => {
                    if belonging.udp_address().is_none() {
                        question.not_udp.push(name.clone());
                    }
                    question.descriptors.push(name);
                }
                None => {
                    let address = belonging.udp_address().map(|address| address.to_string());
                    question.own.push((name, address.unwrap_or_default()));
                }
            }
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
        let units = self.inherited.iter().chain(&self.descriptors);
        units
            .chain(self.own.iter().map(|(name, _)| name))
            .map(String::as_str)
    }

    /// Reads what [`Question`]'s `Display` wrote; `None` for anything else, such as what a program writes whose state has another
    /// version.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if value(&mut lines, "state")?.parse() != Ok(VERSION) {
            return None;
        }
        let mut numbers = value(&mut lines, "workers")?.split(' ');
        let outfit = Outfit {
            workers: numbers.next()?.parse().ok()?,
            entries: numbers.next()?.parse().ok()?,
            buffer_bytes: numbers.next()?.parse().ok()?,
        };
        let mut more = || numbers.next().map_or(Ok(0), str::parse).ok();
        let mut question = Question {
            outfit,
            connections: more()?,
            takes: more()?,
            bound: value(&mut lines, "listeners")?.parse().ok()?,
            ..Question::default()
        };
        while let Some(line) = lines.next() {
            let (key, name) = line.split_once('=')?;
            let name = name.to_owned();
            match key {
                "inherited" => question.inherited.push(name),
                "descriptor" => question.descriptors.push(name),
                "not_udp" => question.not_udp.push(name),
                "own" => question
                    .own
                    .push((name, value(&mut lines, "address")?.to_owned())),
                "bound" => question.held.push(Held {
                    name,
                    listen: value(&mut lines, "listen")?.to_owned(),
                    address: value(&mut lines, "address")?.to_owned(),
                    reuse_port: value(&mut lines, "reuse_port")?.parse().ok()?,
                    v6only: value(&mut lines, "v6only")?.parse().ok()?,
                    is_there: value(&mut lines, "is_there")?.parse().ok()?,
                }),
                _ => return None,
            }
        }
        Some(question)
    }
}

/// What the next line says, if it is about this key.
fn value<'a>(lines: &mut Lines<'a>, key: &str) -> Option<&'a str> {
    lines.next()?.strip_prefix(key)?.strip_prefix('=')
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "state={VERSION}")?;
        let Outfit {
            workers,
            entries,
            buffer_bytes,
        } = self.outfit;
        // An older version reads the first three.
        let (connections, takes) = (self.connections, self.takes);
        writeln!(
            f,
            "workers={workers} {entries} {buffer_bytes} {connections} {takes}"
        )?;
        writeln!(f, "listeners={}", self.bound)?;
        for name in &self.inherited {
            writeln!(f, "inherited={name}")?;
        }
        for name in &self.descriptors {
            writeln!(f, "descriptor={name}")?;
        }
        for name in &self.not_udp {
            writeln!(f, "not_udp={name}")?;
        }
        for (name, address) in &self.own {
            writeln!(f, "own={name}")?;
            writeln!(f, "address={address}")?;
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
        let question = Question::new(listeners.iter(), &[], OF_TWO);
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
                outfit: OF_TWO,
                connections: 7,
                takes: 41,
                bound: 2 * held.len(),
                inherited,
                descriptors: ["a=b", "f"].map(str::to_owned).into(),
                not_udp: vec!["a=b".to_owned()],
                own: [("c d", ""), ("e", "127.0.0.1:8125")]
                    .map(|(name, address)| (name.to_owned(), address.to_owned()))
                    .into(),
                held,
            };
            assert_eq!(Question::parse(&question.to_string()), Some(question));
        }
    }

    #[test]
    fn what_is_not_a_question_of_this_version_is_not_understood() {
        let text = Question::default().to_string();
        assert_eq!(Question::parse(&text), Some(Question::default()));
        let first = format!("state={VERSION}\n");
        for other in ["", "state=0\n", "state=2\n", "state=x\n", "1\n"] {
            assert_eq!(Question::parse(&text.replace(&first, other)), None);
        }
        let with = |workers: &str| {
            let workers = format!("workers={workers}\n");
            Question::parse(&text.replace("workers=0 0 0 0 0\n", &workers))
        };
        for workers in ["", "2", "2 4096", "2 4096 x", "0 0 0 x"] {
            assert_eq!(with(workers), None);
        }
        assert_eq!(with("0 0 0"), Some(Question::default()));
        for more in ["x", "x=y", "own=x", "bound=x\nlisten=y"] {
            assert_eq!(Question::parse(&format!("{text}{more}")), None);
        }
    }
}
