//! `vonic migrate`: a guest's state goes from host to host by the operator's hand, for VMMs that do not take it along.
use super::Arguments;
use super::command::{Failure, decode};
use super::connection::{self, Piped};
use super::view;
use crate::api::ApiError;
use crate::api::types::LoadReport;
use clap::Subcommand;
use hyper::Method;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Beyond the wait: what the service takes for the rest of it.
const SLACK: Duration = Duration::from_secs(180);

#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    /// On the host that a guest leaves: wait until its rings stop, and write what its NIC has at vonic
    Save {
        /// The VM's name
        vm: String,
        /// Where to write it; - is standard output
        file: PathBuf,
        /// Seconds to wait for the rings to stop
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
        timeout: u64,
    },
    /// On the host that it comes to, before it runs there: read that; its rings wait meanwhile
    Load {
        /// The VM's name
        vm: String,
        /// Where to read it; - is standard input
        file: PathBuf,
        /// Seconds for which the rings wait at most
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
        timeout: u64,
    },
}

/// Does it.
pub(super) fn execute(arguments: &Arguments, command: &MigrateCommand, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        MigrateCommand::Save { vm, file, timeout } => {
            let target = format!("/v1/migrate/save/{}?timeout={timeout}", super::command::checked(vm)?);
            let limit = Duration::from_secs(*timeout) + SLACK;
            // Opened first: once the state is given, the guest's connections stand still.
            let to = if is_standard(file) { None } else { Some(create(file)?) };
            let state = connection::ask_for(&arguments.socket, (Method::POST, &target), None, limit)
                .inspect_err(|_| drop(to.is_some().then(|| std::fs::remove_file(file))))?;
            match to {
                // Not the end of a reader who has seen enough: the state is lost.
                None => out.write_all(&state).and_then(|()| out.flush()).map_err(|e| failed(file, &e))?,
                Some(mut to) => to.write_all(&state).and_then(|()| to.sync_all()).map_err(|e| failed(file, &e))?,
            }
            Ok(())
        }
        MigrateCommand::Load { vm, file, timeout } => {
            let target = format!("/v1/migrate/load/{}?timeout={timeout}", super::command::checked(vm)?);
            let limit = Duration::from_secs(*timeout) + SLACK;
            let from: Box<dyn Read + Send> = match is_standard(file) {
                true => Box::new(io::stdin()),
                false => Box::new(File::open(file).map_err(|e| failed(file, &e))?),
            };
            let body = Piped::new(from).map_err(|e| failed(file, &e))?;
            let answer = connection::ask_for(&arguments.socket, (Method::POST, &target), Some(body), limit)?;
            if arguments.json {
                out.write_all(&answer)?;
                return Ok(writeln!(out)?);
            }
            Ok(view::loaded(&decode::<LoadReport>(&answer)?, out)?)
        }
    }
}

fn is_standard(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// A new file, for the owner alone: it holds what the guest has said and heard.
fn create(file: &Path) -> Result<File, Failure> {
    let created = File::options().write(true).create_new(true).mode(0o600).open(file);
    created.map_err(|e| failed(file, &e))
}

fn failed(file: &Path, error: &io::Error) -> Failure {
    let name = if is_standard(file) { "standard input or output".into() } else { file.display().to_string() };
    Failure::Api(ApiError::bad_request(format!("{name}: {error}")).field("file"))
}
