//! Tables in Markdown.

use std::fmt::{self, Display};

/// Rows below a row of titles. Displayed it is a table, each row a line.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows yet.
    pub fn new(titles: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            rows: vec![titles.into_iter().map(Into::into).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table with columns that line up as text, too.
    pub fn aligned(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|text| text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let lines = self.rows.iter().map(|row| {
            let cells = row.iter().zip(&widths);
            let cells: String = cells.map(|(text, w)| format!("| {text:w$} ")).collect();
            cells + "|\n"
        });
        let mut lines: Vec<String> = lines.collect();
        let under: String = widths
            .iter()
            .map(|w| format!("|{}", "-".repeat(w + 2)))
            .collect();
        lines.insert(1, under + "|\n");
        lines.concat()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (number, row) in self.rows.iter().enumerate() {
            for text in row {
                match text.as_str() {
                    "" => f.write_str("| ")?,
                    text => write!(f, "| {text} ")?,
                }
            }
            f.write_str("|\n")?;
            if number == 0 {
                writeln!(f, "{}|", "|---".repeat(row.len()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_below_titles() {
        let mut table = Table::new(["", "b"]);
        table.row(["äöü", "1"]);
        table.row(["x".to_string(), String::new()]);
        assert_eq!(
            table.to_string(),
            "| | b |\n|---|---|\n| äöü | 1 |\n| x | |\n"
        );
        let aligned = "|     | b |\n|-----|---|\n| äöü | 1 |\n| x   |   |\n";
        assert_eq!(table.aligned(), aligned);
    }
}
