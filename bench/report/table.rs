//! A table that reads well in a terminal, and is one in Markdown, too.

/// The first column is words, the others are figures.
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table(vec![head.iter().map(ToString::to_string).collect()])
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    pub fn text(&self) -> String {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| self.0.iter().map(|row| length(&row[column])).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| {
                let blanks = " ".repeat(width - length(cell));
                format!("{cell}{blanks}")
            });
            format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
        };
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let mut lines = self.0.iter().map(|row| line(row));
        lines.next().unwrap_or_default() + &line(&rule) + &lines.collect::<String>()
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["a", "ratio"]);
        table.row(vec!["µs and more".into(), "2".into()]);
        assert_eq!(table.text(), "| a           | ratio |\n| ----------- | ----- |\n| µs and more | 2     |\n");
    }
}
