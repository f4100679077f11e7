//! `vonic vm add` and `vonic vm rm`: a VM's file on the host where vonicd runs.
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::Method;

use super::command::{Failure, checked};
use super::connection::{self, Piped};
use super::{Arguments, reload};
use crate::api::ApiError;

/// How long the service may take, with its disk.
const LIMIT: Duration = Duration::from_secs(15);

/// What is to be added.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// The VM's file, in TOML or JSON; - is standard input
    file: PathBuf,
    /// The VM's name [default: the file's, without its ending]
    #[arg(long)]
    name: Option<String>,
}

/// Adds a VM, or changes it.
pub(super) fn add(arguments: &Arguments, wanted: &Wanted, out: &mut dyn Write) -> Result<(), Failure> {
    let is_standard = wanted.file.as_os_str() == "-";
    let stem = wanted.file.file_stem().and_then(|stem| stem.to_str()).filter(|_| !is_standard);
    let name = wanted
        .name
        .as_deref()
        .or(stem)
        .ok_or_else(|| Failure::Api(ApiError::bad_request("which VM is it?").field("name").mend("give --name")))?;
    crate::config::name::check(name).map_err(|why| {
        Failure::Api(ApiError::bad_request(format!("a VM's name: {why}")).field("name").mend("give --name"))
    })?;
    let unreadable = |error: io::Error| {
        let message = format!("{}: {error}", wanted.file.display());
        Failure::Api(ApiError::bad_request(message).field("file").mend("give a file that can be read"))
    };
    let from: Box<dyn Read + Send> = match is_standard {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(&wanted.file).map_err(unreadable)?),
    };
    let text = Piped::new(from).map_err(unreadable)?;
    let answer = connection::ask_for(&arguments.socket, (Method::PUT, &target(name)), Some(text), LIMIT)?;
    reload::show(arguments, &answer, out)
}

/// Removes one.
pub(super) fn remove(arguments: &Arguments, name: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let body = connection::ask(&arguments.socket, Method::DELETE, &target(checked(name)?))?;
    reload::show(arguments, &body, out)
}

fn target(name: &str) -> String {
    format!("/v1/vms/{name}")
}
