//! Charts as SVG, drawn in the page's own colours. Sizes are in CSS pixels.

use maud::{Markup, html};

use crate::stats::Estimate;

/// Width of every chart.
const WIDTH: f64 = 860.0;
/// Room for figures at the right; for a label's letter at the left, and at least.
const RIGHT: f64 = 170.0;
const LETTER: f64 = 7.2;
const LEFT: f64 = 90.0;
/// Height of a row, and of its bar.
const ROW: f64 = 26.0;
const BAR: f64 = 14.0;

/// A row of a chart.
pub struct Row {
    /// What it is of.
    pub label: String,
    /// Which of the page's eight colours it has.
    pub colour: usize,
    /// The bar, with its interval.
    pub estimate: Estimate,
    /// The samples, as dots.
    pub samples: Vec<f64>,
    /// The figure in words.
    pub words: String,
}

/// Where values are on the x axis, which begins after the labels.
struct Scale {
    left: f64,
    low: f64,
    high: f64,
}

impl Scale {
    /// From 0 over all values; intervals wider than half of that are cut.
    fn of(rows: &[Row]) -> Self {
        let values = rows
            .iter()
            .flat_map(|r| r.samples.iter().copied().chain([r.estimate.mean]));
        let (low, high) = values.fold((0.0_f64, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
        let room = 0.5 * (high - low).max(f64::MIN_POSITIVE);
        let ends = rows.iter().filter_map(|r| r.estimate.interval);
        let (first, last) = ends.fold((low, high), |(l, h), (a, b)| (l.min(a), h.max(b)));
        Self {
            left: left(rows.iter().map(|r| r.label.as_str())),
            low: if low < 0.0 || first < 0.0 {
                first.max(low - room)
            } else {
                0.0
            },
            high: last.min(high + room),
        }
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low).max(f64::MIN_POSITIVE);
        self.left + share.clamp(0.0, 1.0) * (WIDTH - self.left - RIGHT)
    }
}

fn left<'a>(labels: impl Iterator<Item = &'a str>) -> f64 {
    let letters = labels.map(|l| l.chars().count()).max().unwrap_or(0);
    LEFT.max(LETTER * letters as f64 + 16.0)
}

/// Horizontal bars with 95 % intervals; dots are samples. `title` is told to those
/// who don't see.
pub fn bars(title: &str, rows: &[Row]) -> Markup {
    let scale = Scale::of(rows);
    let height = ROW * rows.len() as f64 + 6.0;
    let zero = scale.x(0.0);
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) {
            title { (title) }
            line.axis x1=(px(zero)) x2=(px(zero)) y1="0" y2=(px(height)) {}
            @for (number, row) in rows.iter().enumerate() {
                (bar(row, number, &scale))
            }
        }
    }
}

fn bar(row: &Row, number: usize, scale: &Scale) -> Markup {
    let middle = ROW * (number as f64 + 0.5) + 3.0;
    let (zero, mean) = (scale.x(0.0), scale.x(row.estimate.mean));
    html! {
        text.label x=(px(scale.left - 8.0)) y=(px(middle + 4.0)) text-anchor="end" { (row.label) }
        rect class=(format!("bar c{}", row.colour % 8)) x=(px(zero.min(mean)))
            width=(px((mean - zero).abs())) y=(px(middle - BAR / 2.0)) height=(px(BAR)) {}
        @if let Some((low, high)) = row.estimate.interval {
            (whisker(low, high, middle, scale))
        }
        @for sample in &row.samples {
            circle.sample cx=(px(scale.x(*sample))) cy=(px(middle)) r="2.5" {}
        }
        text.figure x=(px(WIDTH - RIGHT + 8.0)) y=(px(middle + 4.0)) { (row.words) }
    }
}

/// An interval; an end that is cut off has no cap.
fn whisker(low: f64, high: f64, middle: f64, scale: &Scale) -> Markup {
    let (from, to) = (scale.x(low), scale.x(high));
    html! {
        line.whisker x1=(px(from)) x2=(px(to)) y1=(px(middle)) y2=(px(middle)) {}
        @for (value, x) in [(low, from), (high, to)] {
            @if (scale.low..=scale.high).contains(&value) {
                line.whisker x1=(px(x)) x2=(px(x)) y1=(px(middle - 4.0)) y2=(px(middle + 4.0)) {}
            }
        }
    }
}

/// A row of dots.
pub struct Dots {
    /// What they are of.
    pub label: String,
    /// Which of the page's eight colours they have.
    pub colour: usize,
    /// Where they are.
    pub values: Vec<f64>,
}

/// Rows of dots around 1: each guest's work against the mean guest of its cell.
pub fn spread(title: &str, rows: &[Dots]) -> Markup {
    let all = rows.iter().flat_map(|row| &row.values);
    let most = all.fold(0.05_f64, |most, dot| most.max((dot - 1.0).abs()));
    let scale = Scale {
        left: left(rows.iter().map(|r| r.label.as_str())),
        low: 1.0 - most,
        high: 1.0 + most,
    };
    let height = ROW * rows.len() as f64 + 6.0;
    let middle = |number: usize| ROW * (number as f64 + 0.5) + 3.0;
    let one = scale.x(1.0);
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) {
            title { (title) }
            line.axis x1=(px(one)) x2=(px(one)) y1="0" y2=(px(height)) {}
            @for (number, row) in rows.iter().enumerate() {
                text.label x=(px(scale.left - 8.0)) y=(px(middle(number) + 4.0)) text-anchor="end" {
                    (row.label)
                }
                @for dot in &row.values {
                    circle class=(format!("guest c{}", row.colour % 8)) cx=(px(scale.x(*dot)))
                        cy=(px(middle(number))) r="4" {}
                }
                text.figure x=(px(WIDTH - RIGHT + 8.0)) y=(px(middle(number) + 4.0)) {
                    (extremes(&row.values))
                }
            }
        }
    }
}

fn extremes(dots: &[f64]) -> String {
    let low = dots.iter().copied().fold(f64::INFINITY, f64::min);
    let high = dots.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{low:.3} to {high:.3}")
}

/// A length with a tenth of a pixel: more would only make the page long.
pub fn px(length: f64) -> String {
    format!("{length:.1}")
}
