//! What is wrong with the configuration: where, and what to write instead.
use std::fmt;
use std::path::{Path, PathBuf};

use super::keys;

/// One mistake in one file. Displays as `FILE:LINE: message`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// The file, as it was opened.
    pub file: PathBuf,
    /// The line, counted from 1; absent where the mistake is the file itself or its name.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn new(file: &Path, line: Option<usize>, message: impl Into<String>) -> Self {
        ConfigError { file: file.to_path_buf(), line, message: message.into() }
    }

    /// The key that is meant, if one is: messages begin with it, or with `unknown key`.
    pub fn key(&self) -> Option<&str> {
        if let Some(rest) = self.message.strip_prefix("unknown key '") {
            return rest.split_once('\'').map(|(key, _)| key);
        }
        self.message.split([':', ' ']).next().filter(|word| keys::is_key(word))
    }

    /// What is wrong, and what to write instead, apart.
    pub fn parts(&self) -> (&str, Option<&str>) {
        match self.message.rsplit_once(": ") {
            Some((wrong, mend)) => (wrong, Some(mend)),
            None => (&self.message, None),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Every mistake found, sorted by file and line. Displays one per line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn sorted(mut errors: Vec<ConfigError>) -> Self {
        errors.sort();
        errors.dedup();
        ConfigErrors(errors)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
