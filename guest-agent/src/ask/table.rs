//! Texts for a terminal: in columns, with numbers that can be read, and without anything that a terminal would obey.

/// A column's side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// Only what is printable ASCII is shown; whatever else stood there is a question mark.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect()
}

/// Lines of columns as wide as their longest text.
pub fn columns(sides: &[Side], rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..sides.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(sides).zip(&widths).map(|((cell, side), width)| match side {
            Side::Left => format!("{:width$}", plain(cell)),
            Side::Right => format!("{:>width$}", plain(cell)),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and what they stand for.
pub fn pairs(pairs: &[(String, String)]) -> String {
    let rows: Vec<Vec<String>> = pairs.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
    columns(&[Side::Left, Side::Left], &rows)
}

/// A number of something in three digits or four: `12.3 M`.
pub fn short(number: u64, unit: &str) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let mut scaled = number as f64;
    let mut place = 0;
    // Rounding would make 1000.0 of what is just below.
    while scaled >= 999.95 && place + 1 < PREFIXES.len() {
        scaled /= 1000.0;
        place += 1;
    }
    match place {
        0 => format!("{number} {unit}").trim_end().to_string(),
        _ => format!("{scaled:.1} {}{unit}", PREFIXES[place]),
    }
}

/// Seconds as `2h03m`, `4m05s` or `6s`.
pub fn age(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_obeyed_by_no_terminal() {
        let rows = [vec!["name".to_string(), "n".into()], vec!["\x1b[2J\u{7}ä".into(), "1234".into()]];
        assert_eq!(columns(&[Side::Left, Side::Right], &rows), "name       n\n?[2J??  1234\n");
        assert_eq!(pairs(&[("a".into(), "x ".into()), ("bcd".into(), String::new())]), "a    x\nbcd\n");
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB")]
        {
            assert_eq!(short(number, "B"), text);
        }
        assert_eq!((short(u64::MAX, "B").as_str(), short(12, "").as_str()), ("18.4 EB", "12"));
        assert_eq!([6, 65, 7380].map(age), ["6s", "1m05s", "2h03m"]);
    }
}
