//! Tables that fit the terminal.

use unicode_width::UnicodeWidthStr;

use super::{Style, visible};

/// Where the cells of a column stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    name: &'static str,
    align: Align,
    /// Whether cells may be cut to fit the terminal.
    shrinks: bool,
}

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// No column is cut below this width.
const LEAST: usize = 12;

impl Table {
    /// A table with these columns. A name that ends in `#` is a column of numbers, one that ends in `~` may be cut on a
    /// terminal that is too narrow.
    #[must_use]
    pub fn new(names: &[&'static str]) -> Self {
        let columns = names.iter().map(|name| Column {
            name: name.trim_end_matches(['#', '~']),
            align: if name.ends_with('#') {
                Align::Right
            } else {
                Align::Left
            },
            shrinks: name.ends_with('~'),
        });
        Self {
            columns: columns.collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; control characters in its cells are made visible.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| visible(&cell)).collect());
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text.
    #[must_use]
    pub fn render(&self, style: &Style) -> String {
        let widths = self.widths(style.width);
        let mut text = String::new();
        let header = self
            .columns
            .iter()
            .map(|column| column.name.to_uppercase())
            .collect::<Vec<_>>();
        let header = self.line(&header, &widths);
        text.push_str(&style.strong(&header));
        text.push('\n');
        for row in &self.rows {
            text.push_str(&self.line(row, &widths));
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, column), width) in cells.iter().zip(&self.columns).zip(widths) {
            let cell = cut(cell, *width);
            let filling = " ".repeat(width - cell.width().min(*width));
            match column.align {
                Align::Left => line.extend([cell.as_str(), &filling]),
                Align::Right => line.extend([&filling, cell.as_str()]),
            }
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    }

    fn widths(&self, terminal: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .map(|column| column.name.width())
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let Some(terminal) = terminal else {
            return widths;
        };
        let gaps = 2 * (widths.len().saturating_sub(1));
        while widths.iter().sum::<usize>() + gaps > terminal {
            let widest = widths
                .iter_mut()
                .zip(&self.columns)
                .filter(|(width, column)| column.shrinks && **width > LEAST);
            let Some((width, _)) = widest.max_by_key(|(width, _)| **width) else {
                break;
            };
            *width -= 1;
        }
        widths
    }
}

/// The end of a path tells more than its start, so the start is cut.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars().rev() {
        let more = kept.width() + unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
        if more >= width {
            break;
        }
        kept.insert(0, c);
    }
    format!("…{kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["fd#", "path~"]);
        table.row(["3".into(), "/a/very/long/path/to/a/file".into()]);
        table.row(["12".into(), "/\x1b[31m".into()]);
        table
    }

    #[test]
    fn a_table_fits_the_terminal_and_is_whole_elsewhere() {
        let style = Style {
            colour: false,
            width: Some(20),
        };
        assert_eq!(
            table().render(&style),
            "FD  PATH\n 3  …/path/to/a/file\n12  /\\u{1b}[31m\n"
        );
        let style = Style {
            colour: false,
            width: None,
        };
        assert!(
            table()
                .render(&style)
                .contains("/a/very/long/path/to/a/file")
        );
    }
}
