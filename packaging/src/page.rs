//! A page of the manual as a man page: Markdown to the macros of man(7).
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// What stands behind the page's own title.
pub fn body(markdown: &str) -> String {
    let mut page = Page::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        page.take(event);
    }
    page.out
}

#[derive(Default)]
struct Page {
    out: String,
    /// The paragraph, heading or cell that is being read, as roff.
    text: String,
    /// For each list that is open, the number of its next item, if it has numbers.
    lists: Vec<Option<u64>>,
    table: Table,
    in_code: bool,
    /// Where the link that is being read leads, if that is of use on paper.
    link: Option<String>,
}

/// The table that is being read.
#[derive(Default)]
struct Table {
    head: Vec<String>,
    row: Vec<String>,
}

impl Page {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.open(tag),
            Event::End(tag) => self.close(tag),
            Event::Text(text) if self.in_code => self.out.push_str(&lines(&text)),
            Event::Text(text) => self.text.push_str(&escaped(&text)),
            Event::Code(code) => self.text.push_str(&format!("\\fB{}\\fR", escaped(&code))),
            Event::SoftBreak | Event::HardBreak => self.text.push(' '),
            _ => {}
        }
    }

    fn open(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::CodeBlock(_) => {
                self.flush();
                self.out.push_str(".PP\n.RS 4\n.nf\n");
                self.in_code = true;
            }
            Tag::List(first) => {
                self.flush();
                if !self.lists.is_empty() {
                    self.out.push_str(".RS\n");
                }
                self.lists.push(first);
            }
            Tag::Item => {
                self.flush();
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}.", *number - 1)
                    }
                    _ => "\\(bu".to_string(),
                };
                self.out.push_str(&format!(".IP {mark} 3\n"));
            }
            Tag::Paragraph if self.lists.is_empty() => self.out.push_str(".PP\n"),
            // One more of the same item.
            Tag::Paragraph if !self.out.ends_with(" 3\n") => self.out.push_str(".IP \"\" 3\n"),
            Tag::Emphasis => self.text.push_str("\\fI"),
            Tag::Strong => self.text.push_str("\\fB"),
            Tag::Link { dest_url, .. } => self.link = Some(dest_url.to_string()).filter(|to| to.starts_with("http")),
            _ => {}
        }
    }

    fn close(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::Paragraph | TagEnd::Item => self.flush(),
            TagEnd::CodeBlock => {
                self.out.push_str(".fi\n.RE\n");
                self.in_code = false;
            }
            TagEnd::List(_) => {
                self.lists.pop();
                if !self.lists.is_empty() {
                    self.out.push_str(".RE\n");
                }
            }
            TagEnd::TableCell => self.table.row.push(std::mem::take(&mut self.text)),
            TagEnd::TableHead => self.table.head = std::mem::take(&mut self.table.row),
            TagEnd::TableRow => self.row(),
            TagEnd::Emphasis | TagEnd::Strong => self.text.push_str("\\fR"),
            TagEnd::Link => {
                if let Some(to) = self.link.take() {
                    self.text.push_str(&format!(" <{}>", escaped(&to)));
                }
            }
            _ => {}
        }
    }

    fn heading(&mut self, level: HeadingLevel) {
        let text = std::mem::take(&mut self.text);
        match level {
            // The page's own title.
            HeadingLevel::H1 => {}
            HeadingLevel::H2 => self.out.push_str(&format!(".SH \"{}\"\n", text.to_uppercase().replace('"', "\\(dq"))),
            _ => self.out.push_str(&format!(".SS \"{}\"\n", text.replace('"', "\\(dq"))),
        }
    }

    /// A row is a paragraph with its first cell as a tag; what the other columns are called is said unless it is plain.
    fn row(&mut self) {
        let row = std::mem::take(&mut self.table.row);
        let [first, middle @ .., last] = row.as_slice() else { return };
        let plain = self.table.head.last().is_some_and(|head| head == "meaning") || middle.is_empty();
        self.out.push_str(&format!(".TP\n{first}"));
        if plain {
            let about: Vec<&str> = middle.iter().map(String::as_str).filter(|cell| !cell.is_empty()).collect();
            let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join("; ")) };
            self.out.push_str(&format!("{about}\n{}", begun(last)));
        } else {
            let cells = self.table.head.iter().zip(&row).skip(1).filter(|(_, cell)| !cell.is_empty());
            let cells: Vec<String> = cells.map(|(head, cell)| format!("{head}: {cell}")).collect();
            self.out.push_str(&format!("\n{}", begun(&cells.join("; "))));
        }
        self.out.push('\n');
    }

    /// The text that has been read is a paragraph.
    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !text.trim().is_empty() {
            self.out.push_str(&begun(text.trim()));
            self.out.push('\n');
        }
    }
}

/// Text as roff takes it for itself.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// A line that could be taken for a request is none.
fn begun(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_string() }
}

/// Lines of code.
fn lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", begun(&escaped(line)))).collect()
}

#[cfg(test)]
mod tests {
    use super::body;

    #[test]
    fn markdown_becomes_macros() {
        let text = body(
            "# Title\nA `key` and *more*, see [here](other.md) and [there](https://example.org/a-b).\n\n## Keys of it\n\n\
             | key | type | meaning |\n|---|---|---|\n| `a` | string | What it \"is\". |\n| `b` | | .So |\n\n\
             | key | then | else |\n|---|---|---|\n| `c` | this | that |\n\n* one\n* two\n\n      .code \\ 'x'\n      - y\n\n  more\n",
        );
        let expected = ".PP\nA \\fBkey\\fR and \\fImore\\fR, see here and there <https://example.org/a\\-b>.\n.SH \"KEYS OF IT\"\n\
             .TP\n\\fBa\\fR (string)\nWhat it \"is\".\n.TP\n\\fBb\\fR\n\\&.So\n.TP\n\\fBc\\fR\nthen: this; else: that\n\
             .IP \\(bu 3\none\n.IP \\(bu 3\ntwo\n.PP\n.RS 4\n.nf\n\\&.code \\e 'x'\n\\- y\n.fi\n.RE\n.IP \"\" 3\nmore\n";
        assert_eq!(text, expected);
    }
}
