//! Tables in Markdown, aligned for a terminal.

use std::fmt;

/// Columns and rows of text; all columns but the first are aligned to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(columns: [&str; N]) -> Self {
        Self { rows: vec![columns.map(str::to_owned).into()] }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| self.rows.iter().filter_map(|row| Some(row.get(i)?.chars().count())).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(|i| width(i).max(4)).collect();
        for (number, row) in self.rows.iter().enumerate() {
            for (i, width) in widths.iter().copied().enumerate() {
                let cell = row.get(i).map_or("", String::as_str);
                if i == 0 { write!(out, "| {cell:width$} |")? } else { write!(out, " {cell:>width$} |")? }
            }
            writeln!(out)?;
            if number == 0 {
                for (i, width) in widths.iter().copied().enumerate() {
                    let line = "-".repeat(width - usize::from(i > 0));
                    if i == 0 { write!(out, "| {line} |")? } else { write!(out, " {line}: |")? }
                }
                writeln!(out)?;
            }
        }
        Ok(())
    }
}

/// One figure against its aim, as a row of the table of aims.
pub fn aim(table: &mut Table, what: &str, aim: String, measured: String, met: bool) {
    table.row([what.to_owned(), aim, measured, if met { "met" } else { "missed" }.to_owned()]);
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn figures_stand_below_one_another() {
        let mut table = Table::new(["what", "figure"]);
        table.row(["a long name".into(), "1".into()]);
        let text = "| what        | figure |\n| ----------- | -----: |\n| a long name |      1 |\n";
        assert_eq!(table.to_string(), text);
    }
}
