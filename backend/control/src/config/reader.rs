//! Reading typed values out of TOML, keeping every mistake with its line instead of stopping at the first.
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::keys::{SECTIONS, Section};

/// One file, and what was found wrong with it so far.
pub(super) struct Source {
    pub file: PathBuf,
    /// Where each line but the first begins, in bytes.
    line_starts: Vec<usize>,
    errors: RefCell<Vec<ConfigError>>,
}

impl Source {
    /// A file and its text; no text for a file that could not be read.
    pub fn new(file: &Path, text: &str) -> Self {
        let line_starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1).collect();
        Source { file: file.to_path_buf(), line_starts, errors: RefCell::default() }
    }

    /// The line of a byte offset, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        1 + self.line_starts.partition_point(|start| *start <= offset)
    }

    pub fn error(&self, line: Option<usize>, message: impl Into<String>) {
        self.errors.borrow_mut().push(ConfigError::new(&self.file, line, message));
    }

    pub fn error_count(&self) -> usize {
        self.errors.borrow().len()
    }

    pub fn into_errors(self) -> Vec<ConfigError> {
        self.errors.into_inner()
    }

    /// Parses the text as TOML; a mistake in the syntax is noted with its line.
    pub fn parse<'i>(&self, text: &'i str) -> Option<DeTable<'i>> {
        match DeTable::parse(text) {
            Ok(table) => Some(table.into_inner()),
            Err(e) => {
                let line = e.span().map(|span| self.line(span.start));
                self.error(line, format!("this is not TOML: {}: see https://toml.io for the syntax", e.message()));
                None
            }
        }
    }
}

/// Which keys of a table were there: the line of each good one, and the names of the bad ones.
#[derive(Clone, Default)]
pub(super) struct Places {
    good: BTreeMap<&'static str, usize>,
    bad: BTreeSet<&'static str>,
}

impl Places {
    pub fn line(&self, key: &str) -> Option<usize> {
        self.good.get(key).copied()
    }

    /// Whether the key was there with a value that could not be read: what depends on it is not judged.
    pub fn is_bad(&self, key: &str) -> bool {
        self.bad.contains(key)
    }
}

/// Why a value cannot be read.
pub(super) enum Wrong {
    /// Of another type than the key's.
    Type,
    /// Of the right type; says what is wrong with it and what to write.
    Value(String),
}

/// One table of a file while it is read.
pub(super) struct Table<'a, 'i> {
    pub source: &'a Source,
    section: &'static Section,
    entries: &'a DeTable<'i>,
    /// The line of the table's header; a file's top level has none.
    pub line: Option<usize>,
    pub places: Places,
}

impl<'a, 'i> Table<'a, 'i> {
    /// Begins to read a table, and notes each key that does not belong into it.
    pub fn new(source: &'a Source, section: &'static Section, entries: &'a DeTable<'i>, line: Option<usize>) -> Self {
        for name in entries.keys() {
            if section.key(name.get_ref()).is_none() {
                let message = unknown_key(section, name.get_ref());
                source.error(Some(source.line(name.span().start)), message);
            }
        }
        Table { source, section, entries, line, places: Places::default() }
    }

    /// Reads a key's value. Absent: `None`. Wrong: noted, and `None`.
    pub fn read<T>(&mut self, key: &'static str, read: impl FnOnce(&'a DeValue<'i>) -> Result<T, Wrong>) -> Option<T> {
        let entries = self.entries;
        let (name, value) = entries.get_key_value(key).filter(|_| !self.places.is_bad(key))?;
        let line = self.source.line(name.span().start);
        let message = match read(value.get_ref()) {
            Ok(value) => {
                self.places.good.insert(key, line);
                return Some(value);
            }
            Err(Wrong::Value(message)) => format!("{key}: {message}"),
            Err(Wrong::Type) => self.wrong_type(key, value.get_ref()),
        };
        self.places.bad.insert(key);
        self.source.error(Some(line), message);
        None
    }

    /// Reads a key that must be there.
    pub fn require<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a DeValue<'i>) -> Result<T, Wrong>,
    ) -> Option<T> {
        if !self.entries.contains_key(key) {
            self.places.bad.insert(key);
            self.source.error(self.line, format!("{key} is missing: write {}", self.example(key)));
        }
        self.read(key, read)
    }

    /// Reads a key whose value is a table.
    pub fn table(&mut self, key: &'static str, section: &'static Section) -> Option<Table<'a, 'i>> {
        let entries = self.read(key, |value| value.as_table().ok_or(Wrong::Type))?;
        Some(Table::new(self.source, section, entries, self.places.line(key)))
    }

    /// Reads a key whose value is an array of tables, as `[[key]]` makes one. An element that is not a table is noted.
    pub fn tables(&mut self, key: &'static str, section: &'static Section) -> Vec<Table<'a, 'i>> {
        let Some(elements) = self.read(key, |value| value.as_array().ok_or(Wrong::Type)) else { return Vec::new() };
        let mut tables = Vec::new();
        for element in elements.iter() {
            let line = self.source.line(element.span().start);
            match element.get_ref().as_table() {
                Some(entries) => tables.push(Table::new(self.source, section, entries, Some(line))),
                None => {
                    self.places.bad.insert(key);
                    self.source.error(Some(line), self.wrong_type(key, element.get_ref()));
                }
            }
        }
        tables
    }

    /// The entries of a table whose keys are names given by the operator: name, line and value.
    pub fn named(&mut self, key: &'static str) -> Vec<(&'a str, usize, &'a DeValue<'i>)> {
        let source = self.source;
        let Some(entries) = self.read(key, |value| value.as_table().ok_or(Wrong::Type)) else { return Vec::new() };
        let place = |name: &Spanned<_>| source.line(name.span().start);
        entries.iter().map(|(name, value)| (name.get_ref().as_ref(), place(name), value.get_ref())).collect()
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    fn example(&self, key: &str) -> String {
        let example = self.section.key(key).map_or("…", |known| known.example);
        format!("{key} = {example}")
    }

    fn wrong_type(&self, key: &str, value: &DeValue<'_>) -> String {
        format!("{key}: this type of value ({}) does not fit: write {}", value.type_str(), self.example(key))
    }
}

/// What to say of a key that does not belong into a section.
fn unknown_key(section: &Section, key: &str) -> String {
    let known = (section.keys)();
    let nearest = known.iter().map(|k| (strsim::damerau_levenshtein(k.name, key), k.name)).min();
    if let Some((distance, name)) = nearest
        && distance <= 1 + key.len() / 4
    {
        return format!("unknown key '{key}': write {name}");
    }
    if let Some(home) = SECTIONS.iter().find(|s| s.key(key).is_some()) {
        return format!("'{key}' does not belong here: write it in {}", home.title);
    }
    let names: Vec<&str> = known.iter().map(|k| k.name).collect();
    format!("unknown key '{key}': the keys of {} are {}", section.title, names.join(", "))
}

/// A string.
pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, Wrong> {
    value.as_str().ok_or(Wrong::Type)
}

/// An array of strings.
pub(super) fn strings<'a>(value: &'a DeValue<'_>) -> Result<Vec<&'a str>, Wrong> {
    value.as_array().ok_or(Wrong::Type)?.iter().map(|element| text(element.get_ref())).collect()
}

/// A string that `T` reads; `T`'s error says what to write.
pub(super) fn parsed<T: FromStr<Err: Display>>(value: &DeValue<'_>) -> Result<T, Wrong> {
    text(value)?.parse().map_err(|e: T::Err| Wrong::Value(e.to_string()))
}

/// `true` or `false`.
pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or(Wrong::Type)
}

/// An integer; one that fits no `i64` becomes the nearest that does.
pub(super) fn integer(value: &DeValue<'_>) -> Result<i64, Wrong> {
    let digits = value.as_integer().ok_or(Wrong::Type)?;
    let nearest = if digits.as_str().starts_with('-') { i64::MIN } else { i64::MAX };
    Ok(i64::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(nearest))
}

/// An integer within bounds.
pub(super) fn number<T>(bounds: RangeInclusive<T>) -> impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    move |value| {
        let n = integer(value)?;
        T::try_from(n).ok().filter(|n| bounds.contains(n)).ok_or_else(|| {
            Wrong::Value(format!("{n} is out of range: write a number from {} to {}", bounds.start(), bounds.end()))
        })
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(words: &'static [(&'static str, T)]) -> impl FnOnce(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let word = text(value)?;
        words.iter().find(|(known, _)| *known == word).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<String> = words.iter().map(|(known, _)| format!("\"{known}\"")).collect();
            Wrong::Value(format!("'{word}' is not known here: write {}", known.join(" or ")))
        })
    }
}
