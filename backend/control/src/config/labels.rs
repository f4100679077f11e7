//! A VM's labels: the operator's own names and values, which guests read as lines of text and tables show as they are.
use std::collections::BTreeMap;

use toml::de::DeValue;

use super::reader::Source;

/// The most bytes of a name.
const NAME: usize = 64;
/// The most bytes of a value.
const VALUE: usize = 1024;
/// The most labels of one VM.
const LABELS: usize = 64;

/// Reads one; what is wrong with it is noted.
pub(super) fn read(source: &Source, (name, line, value): (&str, usize, &DeValue<'_>)) -> Option<(String, String)> {
    // As it can be written in an error: a name may be anything.
    let shown: String = format!("labels.{}", name.escape_debug()).chars().take(2 * NAME).collect();
    let outcome = match value.as_str() {
        None => Err(format!("{shown} is no string: write it as tier = \"web\"")),
        Some(value) => check_name(name, &shown).and_then(|()| check_value(value, &shown)).map(|()| value),
    };
    match outcome {
        Ok(value) => Some((name.to_string(), value.to_string())),
        Err(message) => {
            source.error(Some(line), message);
            None
        }
    }
}

fn check_name(name: &str, shown: &str) -> Result<(), String> {
    match name {
        "" => Err("labels: a label has no name: write it as tier = \"web\"".into()),
        // What a path means by these is not a name (RFC 3986 §5.2.4).
        "." | ".." => Err(format!("{shown} can be no part of /v1/labels/KEY: write another name")),
        _ if name.len() > NAME => Err(format!("{shown} has a name of {} bytes: write at most {NAME}", name.len())),
        _ if name.chars().any(char::is_control) => {
            Err(format!("{shown} has a control character in its name: write letters, digits and signs"))
        }
        _ => Ok(()),
    }
}

fn check_value(value: &str, shown: &str) -> Result<(), String> {
    if value.len() > VALUE {
        return Err(format!("{shown} has a value of {} bytes: write at most {VALUE}", value.len()));
    }
    match value.chars().find(|c| c.is_control()) {
        None => Ok(()),
        Some(control) => Err(format!(
            "{shown} has a control character ({}) in its value: write one line without",
            control.escape_debug()
        )),
    }
}

/// Notes it if there are too many; `line`: where the first stands.
pub(super) fn check(source: &Source, line: Option<usize>, labels: &BTreeMap<String, String>) {
    if labels.len() > LABELS {
        source.error(line, format!("labels: {} are too many: write at most {LABELS}", labels.len()));
    }
}
