//! Prometheus's text format, version 0.0.4.

use std::fmt::Write;

/// A family: name, type, help.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    lines: String,
}

impl Family {
    /// One without samples yet.
    pub fn new(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind,
            help,
            lines: String::new(),
        }
    }

    /// Adds a sample.
    pub fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        // Writing to a string can't fail.
        let _ = writeln!(self.lines, "{}{labels} {value}", self.name);
    }
}

/// A label's value: the format has three escapes, and passes other characters.
pub fn escaped(text: &str) -> String {
    let plain = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    // A control character is legal there and harms whoever prints it.
    plain
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// All families that have samples, as a scraper reads them.
pub fn written(families: &[Family]) -> String {
    let mut text = String::new();
    for Family {
        name,
        kind,
        help,
        lines,
    } in families.iter().filter(|f| !f.lines.is_empty())
    {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
    }
    text
}
