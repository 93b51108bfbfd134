//! That the command lines in the documentation, the units and the help are such as the command takes.

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::cli::Cli;

/// The words of a command line as the shell splits it, up to a comment, a redirection or the next command.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '|' | '<' | '>' | '&' | ';') => break,
            (None, '#') if word.is_none() => break,
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// The command that a line of a code block or a unit is.
fn command(line: &str) -> Option<&str> {
    let line = line.trim();
    let line = ["$ ", "ExecStart=", "ExecReload="]
        .iter()
        .find_map(|before| line.strip_prefix(before))
        .unwrap_or(line);
    let line = line.strip_prefix("/usr/local/bin/").unwrap_or(line);
    (line == "ringhold" || line.starts_with("ringhold ")).then_some(line)
}

/// What stands between backticks and is a command.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    let spans = line.split('`').skip(1).step_by(2);
    spans.filter(|span| span.starts_with("ringhold "))
}

/// Why a command would be refused, if it would be. In the middle of a sentence it may be without the arguments that it needs.
fn refusal(command: &str, is_whole: bool) -> Option<String> {
    let error = Cli::try_parse_from(words(command)).err()?;
    let is_short = error.kind() == ErrorKind::MissingRequiredArgument;
    (is_whole || !is_short).then(|| format!("{command}\n{error}"))
}

/// How many commands a file has; each that would be refused is added to `refused`.
fn look_at(file: &Path, refused: &mut Vec<String>) -> usize {
    let text = fs::read_to_string(file).unwrap();
    let is_prose = file.extension().is_some_and(|extension| extension == "md");
    let mut is_code = !is_prose;
    let mut count = 0;
    for line in text.lines() {
        if is_prose && line.trim_start().starts_with("```") {
            is_code = !is_code;
            continue;
        }
        let whole = command(line).filter(|_| is_code);
        let found: Vec<_> = quoted(line)
            .map(|span| refusal(span, false))
            .chain(whole.map(|command| refusal(command, true)))
            .collect();
        count += found.len();
        let found = found.into_iter().flatten();
        refused.extend(found.map(|why| format!("{}: {why}", file.display())));
    }
    count
}

/// The files of a directory of the repository.
fn files(directory: &str) -> Vec<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    let entries = fs::read_dir(Path::new(root).join(directory)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).collect()
}

#[test]
fn documented_commands_are_taken() {
    let prose = ["", "docs"].map(files).into_iter().flatten();
    let prose = prose.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    // What changed once is not rewritten.
    let prose = prose.filter(|path| !path.ends_with("CHANGELOG.md"));
    let units = ["systemd", "systemd/examples"]
        .map(files)
        .into_iter()
        .flatten();
    let mut refused = Vec::new();
    let mut sources = Vec::new();
    for file in prose.chain(units) {
        if look_at(&file, &mut refused) > 0 {
            sources.push(file);
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    for known in [
        "README.md",
        "docs/deployment.md",
        "docs/monitoring.md",
        "systemd/ringhold.service",
        "systemd/examples/ringhold-admin.socket",
    ] {
        let is_there = sources.iter().any(|file| file.ends_with(known));
        assert!(is_there, "nothing was found in {known}: {sources:?}");
    }
}

#[test]
fn the_examples_of_the_help_are_taken() {
    let top = Cli::command();
    let mut count = 0;
    for help in top.get_subcommands().chain([&top]) {
        let text = help
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        // Behind some spaces there may be what it does.
        let commands = text.lines().filter_map(command);
        let commands = commands.map(|line| line.split_once("  ").map_or(line, |(line, _)| line));
        for line in commands {
            assert_eq!(refusal(line, true), None);
            count += 1;
        }
    }
    assert!(count > 10, "only {count} were found");
}

#[test]
fn lines_are_split_as_by_the_shell() {
    for (line, expected) in [
        ("ringhold  status # all", &["ringhold", "status"][..]),
        (
            "ringhold call a:1 echo '{\"a\": 1}' \"\" - < in.json",
            &["ringhold", "call", "a:1", "echo", "{\"a\": 1}", "", "-"],
        ),
        (
            "ringhold load a#b > $new && mv $new x",
            &["ringhold", "load", "a#b"],
        ),
    ] {
        assert_eq!(words(line), expected, "{line}");
    }
    assert_eq!(command("  $ ringhold status x"), Some("ringhold status x"));
    assert_eq!(command("ringhold-0"), None);
    assert!(refusal("ringhold call", true).is_some() && refusal("ringhold call", false).is_none());
    assert!(refusal("ringhold status /run/x", false).is_some());
}
