//! A configuration directory that lives as long as the test.
use std::path::Path;

use tempfile::TempDir;
use vonic_control::config::{Config, ConfigErrors, load};

/// A directory with configuration files.
pub struct Files(TempDir);

impl Files {
    /// Writes the files; a name without a directory that is not `vonic.toml` is a VM's.
    pub fn new(files: &[(&str, &str)]) -> Files {
        let dir = Files(TempDir::new().unwrap());
        std::fs::create_dir(dir.path().join("vms.d")).unwrap();
        for (name, text) in files {
            dir.write(name, text);
        }
        dir
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        let file = if name == "vonic.toml" { self.path().join(name) } else { self.path().join("vms.d").join(name) };
        std::fs::write(file, text).unwrap();
    }

    pub fn load(&self) -> Result<Config, Vec<String>> {
        load(self.path()).map_err(|errors| self.lines(&errors))
    }

    /// The errors as `FILE:LINE: message`, with the files relative to the directory.
    pub fn lines(&self, errors: &ConfigErrors) -> Vec<String> {
        let prefix = format!("{}/", self.path().display());
        errors.to_string().lines().map(|line| line.replace(&prefix, "")).collect()
    }
}

/// Expects exactly one mistake: at this place, with these words in it.
#[allow(dead_code, reason = "not every test refuses something")]
pub fn refused(files: &[(&str, &str)], place: &str, words: &str) {
    let mistakes = Files::new(files).load().err().unwrap_or_default();
    assert_eq!(mistakes.len(), 1, "{files:?}: {mistakes:#?}");
    let mistake = &mistakes[0];
    assert!(mistake.starts_with(&format!("{place}: ")), "{mistake}: not at {place}");
    assert!(mistake.contains(words), "{mistake}: does not say '{words}'");
}
