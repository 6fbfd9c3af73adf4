//! Tables in the layout of kubectl.

/// Returns rows under headers, in columns as wide as needed. An empty column is left out, and an empty cell
/// in another column is `-`.
pub fn table<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> String {
    let shown: Vec<usize> = (0..N).filter(|&at| rows.iter().any(|row| !row[at].is_empty())).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = shown.iter().map(|&at| width(at).max(headers[at].len())).collect();
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells = shown.iter().zip(&widths).map(|(&at, &width)| format!("{:<width$}", cell(at)));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&|at| headers[at].to_owned());
    for row in rows {
        text += &line(&|at| if row[at].is_empty() { "-".to_owned() } else { row[at].clone() });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn empty_columns_are_left_out_and_empty_cells_are_dashes() {
        let rows = [["demo-0", "", "yes"], ["demo-10", "", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["MEMBER", "NODE", "READY"], &rows),
            "MEMBER    READY\ndemo-0    yes\ndemo-10   -\n"
        );
    }
}
