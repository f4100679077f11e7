//! The command `vonic`: asks the API and prints what it says, as tables for people or as JSON for programs.
//!
//! Exit codes: 0, done; 1, not done or done in part, said on standard error; 2, wrong usage.
mod command;
mod connection;
mod guest;
mod launch;
mod layout;
mod migrate;
mod upgrade;
mod view;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use command::Failure;

/// Asks the running vonicd, and tells it what to do.
#[derive(Debug, Parser)]
#[command(name = "vonic", version, max_term_width = 100)]
struct Arguments {
    /// The API's socket
    #[arg(long, global = true, env = "VONIC_SOCKET", default_value = "/run/vonic/api.sock", value_name = "PATH")]
    socket: PathBuf,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// VMs
    #[command(subcommand)]
    Vm(VmCommand),
    /// Open TCP connections
    Conns {
        /// Of this VM only
        #[arg(long, value_name = "NAME")]
        vm: Option<String>,
    },
    /// Counters
    Stats {
        /// Of this VM only, with every drop reason
        name: Option<String>,
    },
    /// Read the configuration again; a bad file changes nothing that runs
    Reload,
    /// Have a newer vonicd take over everything: VMs and connections go on; if it cannot, nothing changes
    Upgrade {
        /// Its program
        binary: PathBuf,
    },
    /// Move a guest's connections by hand, where its VMM does not take them along: save VM - | ssh HOST vonic migrate load VM -
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// The engine: the process that moves frames
    #[command(subcommand)]
    Engine(EngineCommand),
}

#[derive(Debug, Subcommand)]
enum EngineCommand {
    /// How it is, and what became of those before it
    Status,
    /// Put another one in its place; VMs and their connections go on
    Restart,
}

#[derive(Debug, Subcommand)]
enum VmCommand {
    /// List all
    List,
    /// Everything about one
    Show {
        /// The VM's name
        name: String,
    },
    /// Print what starts one: a command line, or a file for its VMM; from the configuration, whether or not vonicd runs
    Command(launch::Arguments),
}

/// Runs `vonic` with this process's arguments.
pub fn main() -> ExitCode {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    ExitCode::from(run(std::env::args_os(), &mut out, &mut err))
}

/// Runs `vonic` with arguments (the first is the program's name) and returns its exit code.
pub fn run<'a, I>(arguments: I, out: &'a mut dyn Write, err: &'a mut dyn Write) -> u8
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(e) => {
            let wrong = e.use_stderr();
            let sink = if wrong { err } else { out };
            drop(write!(sink, "{e}"));
            return if wrong { 2 } else { 0 };
        }
    };
    let done = command::execute(&arguments, out).and_then(|()| Ok(out.flush()?));
    match done {
        Ok(()) => 0,
        // Whoever reads has seen enough, as `head` does.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(failure) => {
            drop(if arguments.json { writeln!(err, "{}", failure.json()) } else { writeln!(err, "vonic: {failure}") });
            1
        }
    }
}
