//! Walks a TOML table key by key, remembers what was asked for, and reports what was not.
//!
//! The keys that a section knows are the ones that the parser asks it for, so the list of known keys (and the
//! suggestion for a misspelt one) cannot differ from what is read.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::Problem;

/// In place of a key: what should have been the section is none.
const EVERY: &str = "";

/// Where the parser collects what is wrong.
pub(super) struct Report<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
    /// The keys whose values cannot be used, each with the path of its section. What is read of them is their default.
    bad: RefCell<Vec<(String, &'static str)>>,
}

/// A value that cannot be used: each reason, and where it is if that is not the whole value.
pub(super) struct Fault(Vec<(String, Option<Range<usize>>)>);

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self(vec![(text, None)])
    }
}

/// Reads each item of a list, and reports all that cannot be used.
pub(super) fn each<'t, T>(
    list: &[Spanned<DeValue<'t>>],
    mut convert: impl FnMut(&Spanned<DeValue<'t>>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut items = Vec::with_capacity(list.len());
    let mut faults = Vec::new();
    for item in list {
        match convert(item) {
            Ok(item) => items.push(item),
            Err(Fault(wrong)) => faults.extend(
                wrong
                    .into_iter()
                    .map(|(text, span)| (text, span.or_else(|| Some(item.span())))),
            ),
        }
    }
    if faults.is_empty() {
        Ok(items)
    } else {
        Err(Fault(faults))
    }
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            problems: RefCell::default(),
            bad: RefCell::default(),
        }
    }

    pub(super) fn problem(&self, offset: Option<usize>, message: String) {
        let line = offset.map(|offset| {
            let before = self.text.as_bytes().iter().take(offset);
            before.filter(|&&byte| byte == b'\n').count() + 1
        });
        self.problems.borrow_mut().push(Problem { line, message });
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// One table of the file.
pub(super) struct Section<'a, 't> {
    report: &'a Report<'t>,
    table: &'a DeTable<'t>,
    /// `limits` or `sockets.rpc`; empty for the top level.
    path: String,
    /// Where its name stands in the text.
    offset: usize,
    asked: Vec<&'static str>,
    /// A key that is not known here, and what to say of it.
    hint: Option<(&'static str, &'static str)>,
}

impl<'a, 't> Section<'a, 't> {
    pub(super) fn top(report: &'a Report<'t>, table: &'a DeTable<'t>) -> Self {
        Self {
            report,
            table,
            path: String::new(),
            offset: 0,
            asked: Vec::new(),
            hint: None,
        }
    }

    /// Should this key be there and not be asked for, that is said of it.
    pub(super) fn hint(&mut self, key: &'static str, text: &'static str) {
        self.hint = Some((key, text));
    }

    /// Reads `key` with `convert`, or takes `default` if it is absent. A value that cannot be used is reported.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        convert: impl FnOnce(&Spanned<DeValue<'t>>) -> Result<T, Fault>,
    ) -> T {
        self.asked.push(key);
        let Some(value) = self.table.get(key) else {
            return default;
        };
        match convert(value) {
            Ok(value) => value,
            Err(Fault(wrong)) => {
                let place = self.place();
                for (text, span) in wrong {
                    let span = span.unwrap_or_else(|| value.span());
                    let text = format!("bad value for {key:?}{place}: {text}");
                    self.report.problem(Some(span.start), text);
                }
                let bad = (self.path.clone(), key);
                self.report.bad.borrow_mut().push(bad);
                default
            }
        }
    }

    /// Reads `key` with `convert` if it is there. A value that cannot be used is reported.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&Spanned<DeValue<'t>>) -> Result<T, Fault>,
    ) -> Option<T> {
        self.read(key, None, |value| convert(value).map(Some))
    }

    /// Whether the value of `key` cannot be used: what would follow from the default in its place is no problem of the file's.
    pub(super) fn is_bad(&self, key: &str) -> bool {
        self.is_bad_in(&self.path, key)
    }

    /// The same of a key of the section `path`, which was read before.
    pub(super) fn is_bad_in(&self, path: &str, key: &str) -> bool {
        let bad = self.report.bad.borrow();
        bad.iter()
            .any(|(there, bad)| there == path && [key, EVERY].contains(bad))
    }

    /// Whether `key` is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// What stands under `key`, which somebody else reads.
    pub(super) fn foreign(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'t>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    /// The table under `key`, if there is one.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'a, 't>> {
        self.asked.push(key);
        let (name, value) = self.table.get_key_value(key)?;
        self.child(name, value)
    }

    /// The tables under `key`, whose names are the user's to choose, in the order of the file.
    pub(super) fn named_sections(&mut self, key: &'static str) -> Vec<(String, Section<'a, 't>)> {
        let Some(parent) = self.section(key) else {
            return Vec::new();
        };
        let children = parent.table.iter();
        let children = children.filter_map(|(name, value)| {
            Some((name.get_ref().to_string(), parent.child(name, value)?))
        });
        let mut children: Vec<(String, Section<'a, 't>)> = children.collect();
        children.sort_by_key(|(_, section)| section.offset);
        children
    }

    /// Reports a problem at `key`, or at the name of the section if the key is not there.
    pub(super) fn problem_at(&self, key: &str, message: String) {
        let offset = self
            .table
            .get_key_value(key)
            .map_or(self.offset, |(name, _)| name.span().start);
        self.report.problem(Some(offset), message);
    }

    /// Reports a problem with the name of the section.
    pub(super) fn problem(&self, message: String) {
        self.report.problem(Some(self.offset), message);
    }

    /// Reports every key that was never asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let hint = self.hint.filter(|(key, _)| *key == name);
            let advice = match (hint, nearest(name, self.asked.iter().copied())) {
                (Some((_, text)), _) => text.to_owned(),
                (None, Some(near)) => format!("did you mean {near:?}?"),
                (None, None) => format!("known are {}", self.asked.join(", ")),
            };
            self.report.problem(
                Some(key.span().start),
                format!("unknown key {name:?}{}; {advice}", self.place()),
            );
        }
    }

    fn child(
        &self,
        name: &Spanned<DeString<'t>>,
        value: &'a Spanned<DeValue<'t>>,
    ) -> Option<Section<'a, 't>> {
        let (key, offset) = (name.get_ref(), name.span().start);
        let path = if self.path.is_empty() {
            key.to_string()
        } else {
            format!("{}.{key}", self.path)
        };
        match value.get_ref() {
            DeValue::Table(table) => Some(Section {
                report: self.report,
                table,
                path,
                offset,
                asked: Vec::new(),
                hint: None,
            }),
            other => {
                let message = format!(
                    "{key:?} must be a section, [{path}], not {}",
                    described(other)
                );
                self.report.problem(Some(value.span().start), message);
                self.report.bad.borrow_mut().push((path, EVERY));
                None
            }
        }
    }

    fn place(&self) -> String {
        if self.path.is_empty() {
            String::new()
        } else {
            format!(" in [{}]", self.path)
        }
    }
}

/// The known word that `word` was probably meant to be.
pub(crate) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let rated = known.filter_map(|candidate| {
        let slips = strsim::damerau_levenshtein(word, candidate);
        // One slip in three letters, or the likeness from which clap makes a suggestion too.
        let likely = slips * 3 <= candidate.chars().count() || strsim::jaro(word, candidate) > 0.7;
        // Of those with as few slips the one that begins like it.
        let likeness = strsim::jaro_winkler(word, candidate);
        likely.then_some((slips, likeness, candidate))
    });
    let best = rated.min_by(|one, other| one.0.cmp(&other.0).then(other.1.total_cmp(&one.1)));
    best.map(|(_, _, candidate)| candidate)
}

/// A value as an error names it.
pub(super) fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
