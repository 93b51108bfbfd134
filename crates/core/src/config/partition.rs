//! Which workers a socket name is placed on.

use std::fmt;
use std::str::FromStr;

use super::Workers;

/// Key `workers` of a socket: `"all"`, `"0"`, `"0-3"`, `"0-1,4"` or `[0, 2]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Partition {
    /// Every worker.
    #[default]
    All,
    /// These workers, in this order, without repetition.
    Only(Vec<usize>),
}

impl Partition {
    /// The workers, given how many there are. Repetitions are left out.
    ///
    /// # Errors
    /// The first index that is not below `workers`.
    pub fn resolve(&self, workers: usize) -> Result<Vec<usize>, usize> {
        match self {
            Self::All => Ok((0..workers).collect()),
            Self::Only(list) => {
                let mut resolved = Vec::with_capacity(list.len());
                for &index in list {
                    if index >= workers {
                        return Err(index);
                    }
                    if !resolved.contains(&index) {
                        resolved.push(index);
                    }
                }
                Ok(resolved)
            }
        }
    }

    pub(super) fn only(list: Vec<usize>) -> Result<Self, String> {
        if list.is_empty() {
            return Err(
                "the list of workers is empty; to serve nothing, write enable = false".to_owned(),
            );
        }
        let mut seen = vec![false; Workers::MAX];
        for &index in &list {
            match seen.get_mut(index) {
                None => {
                    return Err(format!(
                        "worker {index} is beyond {}, the last there can be",
                        Workers::MAX - 1
                    ));
                }
                Some(true) => return Err(format!("worker {index} is named twice")),
                Some(unseen) => *unseen = true,
            }
        }
        Ok(Self::Only(list))
    }
}

/// What an error about worker `index` of socket `name` says; shared by the parser and the plan.
pub(crate) fn beyond(name: &str, index: usize, workers: usize) -> String {
    match workers {
        1 => format!("socket {name:?} is placed on worker {index}, but there is only worker 0"),
        _ => format!(
            "socket {name:?} is placed on worker {index}, but there are only workers 0 to {}",
            workers - 1
        ),
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Only(list) => f.write_str(&ranges(list)),
        }
    }
}

/// A list of workers as people write it: `0-3,6`.
pub(crate) fn ranges(list: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &index in list {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => parts.push((index, index)),
        }
    }
    let texts: Vec<String> = parts
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    texts.join(",")
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let wrong =
            || format!("{text:?} names no workers; write \"all\", \"0\", \"0-3\" or [0, 2]");
        let number = |digits: &str| {
            let digits = digits.trim();
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if plain {
                digits.parse::<usize>().map_err(|_| wrong())
            } else {
                Err(wrong())
            }
        };
        let mut list = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                None => list.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(format!("{text:?} counts downwards"));
                    }
                    // Bounded here, before `only` checks it, so that a huge range cannot take all memory.
                    list.extend((first..=last).take(Workers::MAX + 1));
                }
            }
        }
        Self::only(list)
    }
}
