//! Figures as dots on a logarithmic axis, a row for each thing that is measured, as SVG.

use std::fmt::{self, Write};

pub(crate) struct Chart {
    pub(crate) title: String,
    /// What the figures are.
    pub(crate) caption: String,
    /// Each has a colour.
    pub(crate) series: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// Values with a line through all rows.
    pub(crate) guides: Vec<f64>,
}

pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) marks: Vec<Mark>,
}

/// A figure, and how far it can be trusted.
pub(crate) struct Mark {
    pub(crate) series: usize,
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Colours that everybody can tell apart (Okabe and Ito).
const COLOURS: [&str; 8] = [
    "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
];

const WIDTH: f64 = 880.0;
/// Where the axis begins and ends.
const LEFT: f64 = 210.0;
const RIGHT: f64 = 860.0;
/// Above the first row, and between rows.
const TOP: f64 = 64.0;
const STEP: f64 = 18.0;

/// Where values are.
struct Axis {
    low: f64,
    high: f64,
    /// Below the last row.
    bottom: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (value / self.low).ln() / (self.high / self.low).ln()
    }
}

impl Chart {
    /// From the least to the greatest figure, with a margin.
    fn axis(&self) -> Axis {
        let marks = self.rows.iter().flat_map(|row| &row.marks);
        let values = marks.flat_map(|mark| [mark.low, mark.high]);
        let values = values
            .chain(self.guides.iter().copied())
            .filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        Axis {
            low: low / 1.1,
            high: high * 1.1,
            bottom: TOP + STEP * self.rows.len() as f64,
        }
    }

    fn write_legend(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, name) in self.series.iter().enumerate() {
            let (x, colour) = (
                LEFT + 105.0 * number as f64,
                COLOURS[number % COLOURS.len()],
            );
            let (text, name) = (x + 8.0, escaped(name));
            writeln!(
                f,
                r#"<circle cx="{x}" cy="38" r="4" fill="{colour}"/><text x="{text}" y="42">{name}</text>"#
            )?;
        }
        Ok(())
    }

    fn write_axis(&self, f: &mut fmt::Formatter<'_>, axis: &Axis) -> fmt::Result {
        let (top, bottom) = (TOP - 10.0, axis.bottom);
        for tick in ticks(axis.low, axis.high) {
            let (x, label) = (axis.place(tick), bottom + 16.0);
            writeln!(
                f,
                r##"<line x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{bottom}" stroke="#ddd"/><text x="{x:.1}" y="{label}" text-anchor="middle">{tick}</text>"##
            )?;
        }
        for guide in &self.guides {
            let x = axis.place(*guide);
            writeln!(
                f,
                r##"<line x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{bottom}" stroke="#444" stroke-dasharray="4 3"/>"##
            )?;
        }
        Ok(())
    }
}

impl Row {
    fn write(&self, f: &mut fmt::Formatter<'_>, y: f64, axis: &Axis) -> fmt::Result {
        let (x, label) = (LEFT - 8.0, escaped(&self.label));
        let below = y + 4.0;
        writeln!(
            f,
            r#"<text x="{x}" y="{below}" text-anchor="end">{label}</text>"#
        )?;
        // The first series lies on top.
        for mark in self.marks.iter().rev() {
            let colour = COLOURS[mark.series % COLOURS.len()];
            let [low, value, high] =
                [mark.low, mark.value, mark.high].map(|value| axis.place(value));
            writeln!(
                f,
                r#"<line x1="{low:.1}" y1="{y}" x2="{high:.1}" y2="{y}" stroke="{colour}" stroke-width="2"/><circle cx="{value:.1}" cy="{y}" r="4" fill="{colour}"/>"#
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Chart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axis = self.axis();
        let height = axis.bottom + 44.0;
        let (middle, below) = ((LEFT + RIGHT) / 2.0, axis.bottom + 36.0);
        let (title, caption) = (escaped(&self.title), escaped(&self.caption));
        writeln!(
            f,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{height}" fill="white"/>
<text x="10" y="20" font-size="15">{title}</text>
<text x="{middle}" y="{below}" text-anchor="middle">{caption}</text>"#
        )?;
        self.write_legend(f)?;
        self.write_axis(f, &axis)?;
        for (number, row) in self.rows.iter().enumerate() {
            row.write(f, TOP + STEP * number as f64, &axis)?;
        }
        writeln!(f, "</svg>")
    }
}

/// 1, 2 and 5 times the powers of ten, within a range; more of them if there would be hardly any.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = if high / low < 12.0 {
        &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0]
    } else if high / low < 1000.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let ticks = powers.flat_map(|power| {
        steps
            .iter()
            .map(move |step| rounded(step * 10_f64.powi(power)))
    });
    ticks.filter(|tick| (low..=high).contains(tick)).collect()
}

/// Without what multiplication leaves behind the significant digits.
fn rounded(value: f64) -> f64 {
    let mut text = String::new();
    let _ = write!(text, "{value:.3e}");
    text.parse().unwrap_or(value)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
