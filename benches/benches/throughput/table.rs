//! Tables that are Markdown, and can be read as they are.

use std::fmt;

pub(crate) struct Table {
    /// The first column is text, the others are figures.
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// What has to be said about the figures, below them.
    note: &'static str,
}

impl Table {
    pub(crate) fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Table {
            head: head.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
            note: "",
        }
    }

    pub(crate) fn with_note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.head.len());
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// What stands in a table where there may be nothing.
pub(crate) fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| width(column).unwrap_or(0).max(3))
            .collect();
        for (number, line) in lines().enumerate() {
            for (column, (text, width)) in line.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "| {text:<width$} ")?,
                    _ => write!(f, "| {text:>width$} ")?,
                }
            }
            writeln!(f, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width + 1);
                    write!(f, "|{dashes}{}", if column == 0 { "-" } else { ":" })?;
                }
                writeln!(f, "|")?;
            }
        }
        if !self.note.is_empty() {
            writeln!(f, "\n{}", self.note)?;
        }
        Ok(())
    }
}
