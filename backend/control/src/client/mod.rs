//! The command `vonic`: asks the API and prints what it says, as tables for people or as JSON for programs.
//!
//! Exit codes: 0, done; 1, not done or done in part, said on standard error; 2, wrong usage.
mod capture;
mod command;
mod completion;
mod config;
mod connection;
mod conns;
mod doctor;
mod events;
mod guest;
mod launch;
mod layout;
mod migrate;
mod reload;
mod top;
mod upgrade;
mod view;
mod vm_file;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use command::Failure;
pub use doctor::{MEANINGS as DROP_MEANINGS, Meaning as DropMeaning};

/// What cannot stand in a query (RFC 3986 §3.4), and what parts its pairs.
const QUERY: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'%').add(b'&').add(b'+').add(b'=');

/// A value for a query.
fn escaped(value: &str) -> String {
    utf8_percent_encode(value, QUERY).to_string()
}

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
    /// Open TCP connections, and flows of datagrams
    Conns(conns::Wanted),
    /// Counters
    Stats {
        /// Of this VM only, with every drop reason
        name: Option<String>,
        /// How they move within so many seconds, from now on
        #[arg(long, value_name = "SECONDS", conflicts_with = "name", value_parser = clap::value_parser!(u64).range(1..=10))]
        over: Option<u64>,
    },
    /// VMs with their rates, as it happens
    Top(top::Arguments),
    /// Look at this host, at vonicd and at each VM, and say what to do
    Doctor(doctor::Arguments),
    /// The configuration's files
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// What happens from now on to VMs, engines and the configuration, a line each
    Events(events::Wanted),
    /// Whether everything works as it is configured; exit code 1 if not
    Health,
    /// Write a VM's frames to a file for Wireshark and tcpdump (pcapng), until Ctrl-C, a limit, or the end of the VM
    Capture(capture::Arguments),
    /// Read the configuration again; a bad file changes nothing that runs
    Reload {
        /// Only show what that would change
        #[arg(long)]
        dry_run: bool,
    },
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
    /// Print what has a shell complete this command: vonic completions bash >/etc/bash_completion.d/vonic
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
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
    /// Write one's file where vonicd reads it, and apply it; a bad one changes nothing
    Add(vm_file::Wanted),
    /// Remove one, and its file
    Rm {
        /// The VM's name
        name: String,
    },
    /// Print what starts one: a command line, or a file for its VMM; from the configuration, whether or not vonicd runs
    Command(launch::Arguments),
}

/// Runs `vonic` with this process's arguments; `version` is what `--version` says.
pub fn main(version: &'static str) -> ExitCode {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    ExitCode::from(run_as(version, std::env::args_os(), &mut out, &mut err))
}

/// The command line's definition, of which its help, its man pages and its completions are made.
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Runs `vonic` with arguments (the first is the program's name) and returns its exit code.
pub fn run<'a, I>(arguments: I, out: &'a mut dyn Write, err: &'a mut dyn Write) -> u8
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    run_as(env!("CARGO_PKG_VERSION"), arguments, out, err)
}

fn run_as<'a, I>(version: &'static str, arguments: I, out: &'a mut dyn Write, err: &'a mut dyn Write) -> u8
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let mut definition = definition().version(version);
    let parsed = definition.try_get_matches_from_mut(arguments).and_then(|found| Arguments::from_arg_matches(&found));
    let arguments = match parsed.map_err(|e| e.format(&mut definition)) {
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
