//! Lines for the screen: what they have in common.
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

pub(super) use crate::client::layout::plain;

/// Where values begin behind their names.
pub(super) const LABEL: usize = 20;

/// A text in exactly so many columns; one that is cut ends in `…`.
pub(super) fn cell(text: &str, width: usize, right: bool) -> String {
    let text = plain(text);
    let count = text.chars().count();
    if count > width {
        let kept: String = text.chars().take(width.saturating_sub(1)).collect();
        return if width == 0 { String::new() } else { format!("{kept}…") };
    }
    if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

/// A name and its value, over as many lines as it takes.
pub(super) fn named(name: &str, value: &str, style: Style, width: usize) -> Vec<Line<'static>> {
    let room = width.saturating_sub(LABEL).max(10);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in plain(value).split(' ') {
        let mut word = word.to_string();
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            lines.push(std::mem::take(&mut line));
        }
        while word.chars().count() > room {
            lines.push(word.chars().take(room).collect());
            word = word.chars().skip(room).collect();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines.push(line);
    let labelled = |(i, text): (usize, String)| {
        let label = if i == 0 { cell(name, LABEL - 1, false) } else { " ".repeat(LABEL - 1) };
        Line::from(vec![Span::styled(format!("{label} "), Style::new().bold()), Span::styled(text, style)])
    };
    lines.into_iter().enumerate().map(labelled).collect()
}

/// For what is wrong.
pub(super) fn alarm() -> Style {
    Style::new().fg(Color::Red).bold()
}

/// For what is worth a look.
pub(super) fn notice() -> Style {
    Style::new().fg(Color::Yellow)
}

/// A name of the API as words.
pub(super) fn words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(|line| line.to_string().trim_end().to_string()).collect()
    }

    #[test]
    fn nothing_reaches_the_terminal_but_letters() {
        assert_eq!(plain("a\x1b[2J\r\nb\u{9b}c\u{202e}d ü"), "a?[2J??b?c?d ü");
        assert_eq!([cell("abc", 5, true), cell("abc", 5, false)], ["  abc", "abc  "]);
        assert_eq!([cell("abcdef", 4, false), cell("\x1b]0;x", 4, false), cell("a", 0, false)], ["abc…", "?]0…", ""]);
    }

    #[test]
    fn long_values_go_on_below() {
        let lines = named("features", "csum tso guest_csum", Style::new(), 30);
        assert_eq!(text(&lines), ["features            csum tso", "                    guest_csum"]);
        let lines = named("x", &"y".repeat(25), Style::new(), 30);
        assert_eq!(text(&lines)[2], format!("{}{}", " ".repeat(20), "y".repeat(5)));
        assert_eq!(text(&named("x", "", Style::new(), 0)), ["x"]);
    }
}
