//! Plain-text tables with aligned columns.

/// A table for the terminal: the first column is aligned left, the others right.
///
/// Widths count characters, so cells should hold no wide glyphs.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts a table with the given column heads.
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self {
            head: head.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells stay empty and surplus cells are dropped.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.resize(self.head.len(), String::new());
        self.rows.push(row);
    }

    /// Renders the table as text lines, each ended by a line feed.
    pub fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| &row[column]);
            cells
                .chain([&self.head[column]])
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut out = line(&self.head, &widths);
        let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
        out += &line(&rule, &widths);
        for row in &self.rows {
            out += &line(row, &widths);
        }
        out
    }

    /// Renders the table as comma-separated values with a head line.
    ///
    /// Cells that hold a comma, a quote or a line feed are quoted (RFC 4180).
    pub fn csv(&self) -> String {
        let quote = |cell: &String| {
            if cell.contains([',', '"', '\n']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        };
        let mut out = String::new();
        for row in [&self.head].into_iter().chain(&self.rows) {
            out += &row.iter().map(quote).collect::<Vec<_>>().join(",");
            out.push('\n');
        }
        out
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut out = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if column > 0 {
            out += "  ";
        }
        let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
        if column == 0 {
            out += cell;
            out += &pad;
        } else {
            out += &pad;
            out += cell;
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["map", "ms"]);
        table.row(["a long name", "1"]);
        table.row(["b", "12345"]);
        assert_eq!(
            table.text(),
            "map             ms\n-----------  -----\na long name      1\nb            12345\n"
        );
    }

    #[test]
    fn csv_quotes_what_would_break_a_line() {
        let mut table = Table::new(["a", "b"]);
        table.row(["x,y", "say \"hi\""]);
        assert_eq!(table.csv(), "a,b\n\"x,y\",\"say \"\"hi\"\"\"\n");
    }
}
