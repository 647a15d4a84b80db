//! Tables for a terminal: columns as wide as what is in them.

use super::failure::Failure;
use super::output;

/// Prints rows under a title, with aligned columns two spaces apart. The cells must be safe for a
/// terminal.
pub fn print<const N: usize>(title: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
    let title = title.map(String::from);
    let mut widths = [0; N];
    for row in std::iter::once(&title).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    std::iter::once(&title)
        .chain(rows)
        .try_for_each(|row| output::line(&aligned(row, &widths)))
}

fn aligned(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths);
    let line = cells.fold(String::new(), |line, (cell, width)| line + &format!("{cell:<width$}  "));
    line.trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_their_end() {
        let row = ["a", "b\u{fc}c", ""].map(String::from);
        assert_eq!(aligned(&row, &[3, 4, 2]), "a    b\u{fc}c");
    }
}
