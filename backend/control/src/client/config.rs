//! `vonic config`: the files as vonicd reads them, by the same reader, whether or not it runs.
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::command::Failure;
use super::layout::plain;
use crate::api::types::FileError;
use crate::config::{self, Config, ConfigErrors, Document, Setting, ShownTable, documents};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the configuration as vonicd reads it, as TOML
    Show(Show),
    /// Say everything that is wrong with the files, as a start of vonicd would
    Check {
        /// Where vonic.toml and vms.d are
        #[arg(value_name = "DIR", default_value = "/etc/vonic")]
        config_dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Of this VM only
    name: Option<String>,
    /// Every key, those that are not given too, each with where it comes from
    #[arg(long)]
    effective: bool,
    /// Where vonic.toml and vms.d are
    #[arg(long, value_name = "DIR", default_value = "/etc/vonic")]
    config_dir: PathBuf,
}

/// Does it.
pub(super) fn execute(command: &ConfigCommand, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show(show) => print(show, json, out),
        ConfigCommand::Check { config_dir } => check(config_dir, json, out),
    }
}

fn check(dir: &Path, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let loaded = config::load_for_host(dir);
    if json {
        let errors: Vec<FileError> = loaded.as_ref().err().map(file_errors).unwrap_or_default();
        serde_json::to_writer(&mut *out, &json!({ "good": errors.is_empty(), "errors": errors }))
            .map_err(io::Error::from)?;
        writeln!(out)?;
    }
    match loaded {
        Ok(_) if json => Ok(()),
        Ok(Config { networks, vms, .. }) => {
            Ok(writeln!(out, "the configuration is good: {} networks, {} VMs", networks.len(), vms.len())?)
        }
        Err(errors) if json => Err(Failure::Problems(errors.0.len())),
        Err(errors) => Err(wrong(&errors)),
    }
}

fn file_errors(errors: &ConfigErrors) -> Vec<FileError> {
    errors.0.iter().map(FileError::from).collect()
}

fn wrong(errors: &ConfigErrors) -> Failure {
    Failure::Refused(format!("{} found wrong:\n{errors}", errors.0.len()))
}

/// What is good is printed, and said what is not.
fn print(show: &Show, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let (dir, mut shown, errors) = match &show.name {
        Some(name) => {
            let config = super::launch::configured(&show.config_dir, name)?;
            (&show.config_dir, documents(&show.config_dir, &config), ConfigErrors::default())
        }
        None => {
            let (config, errors, _) = config::load_lenient(&show.config_dir);
            let Some(config) = config else { return Err(wrong(&errors)) };
            (&show.config_dir, documents(&show.config_dir, &config), errors)
        }
    };
    shown.retain(|document| show.name.is_none() || document.vm == show.name);
    if !show.effective {
        shown.iter_mut().for_each(keep_given);
        // Without the file there is nothing of it.
        shown.retain(|document| document.vm.is_some() || dir.join("vonic.toml").exists());
    }
    if json {
        serde_json::to_writer(&mut *out, &shown).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let texts: Vec<String> = shown.iter().map(|document| text(document, show.effective)).collect();
        write!(out, "{}", texts.join("\n"))?;
    }
    if errors.is_empty() { Ok(()) } else { Err(wrong(&errors)) }
}

/// Takes out what the file does not say.
fn keep_given(document: &mut Document) {
    for table in &mut document.tables {
        table.settings.retain(|setting| setting.line.is_some());
    }
    document.tables.retain(|table| table.header.is_none() || table.line.is_some());
}

/// A file's text, below a line that names it. With `origins` each line says where it comes from.
fn text(document: &Document, origins: bool) -> String {
    let Document { file, vm: _, tables } = document;
    let mut lines = vec![(format!("#### {}", plain(&file.display().to_string())), String::new())];
    for table in tables {
        let ShownTable { header, line, settings } = table;
        // What has no keys stands nowhere, but for what is in the file.
        if let Some(header) = header.as_ref().filter(|_| line.is_some() || !settings.is_empty()) {
            lines.push((String::new(), String::new()));
            lines.push((header.clone(), String::new()));
        }
        lines.extend(settings.iter().map(|setting| (written(setting), origin(file, setting))));
    }
    let width = lines.iter().filter(|(_, origin)| !origin.is_empty()).map(|(text, _)| text.chars().count());
    // Long values are not what the others are aligned to.
    let width = width.filter(|width| *width <= 60).max().unwrap_or(0);
    let line = |(text, origin): &(String, String)| match origins && !origin.is_empty() {
        true => format!("{text:<width$}  # {origin}\n"),
        false => format!("{text}\n"),
    };
    lines.iter().map(line).collect()
}

/// A key as a line of the file: one that must not be written, as a comment.
fn written(setting: &Setting) -> String {
    let Setting { value, unwritten, .. } = setting;
    let key = setting.toml_key();
    let comment = if unwritten.is_some() { "# " } else { "" };
    match value {
        Some(value) => format!("{comment}{key} = {}", value.toml()),
        None => format!("{comment}{key}"),
    }
}

fn origin(file: &Path, setting: &Setting) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    match (setting.line, setting.unwritten) {
        (Some(line), _) => format!("{name}:{line}"),
        (None, Some(why)) => format!("absent: {why}"),
        (None, None) => "default".to_string(),
    }
}
