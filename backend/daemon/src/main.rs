//! vonicd: the master, and by it the engine. Composition only.
mod user;

use clap::Parser;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use vonic_control::config::{self, Config, Service};
use vonic_control::engine::{self, EngineConfig};
use vonic_daemon::arguments::Arguments;
use vonic_front::{Capabilities, EngineLink, Limited, MasterConfig, MasterError, Permitted, Start, Upgrade};

/// The argument by which a newer vonicd is started.
const TAKE_OVER: &str = "--take-over";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_limited();
    let engine_config =
        EngineConfig { config_dir: arguments.config_dir.clone(), peek_mode: engine::peek_mode(&arguments.peek) };
    let body = move |link: EngineLink, start: Start| engine::run(engine_config.clone(), link, &start);
    if arguments.take_over {
        let inspect = |left: &[u8]| {
            engine::left_config(&arguments.config_dir, left).map(|config| master(&config, &arguments.config_dir))
        };
        return end(vonic_front::take_over(inspect, body));
    }
    let config = match config::load_for_host(&arguments.config_dir) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(1);
        }
    };
    if arguments.check {
        return summary(&config);
    }
    // Before anything is made that the user is to have, and while there is one thread.
    if let Err(why) = user::change(&config, &arguments.config_dir.join("vonic.toml")) {
        complain(&why);
        return ExitCode::from(1);
    }
    if let Err(error) = prepare(&config.service.runtime_dir) {
        complain(&unusable(&config.service.runtime_dir, &arguments.config_dir, &error));
        return ExitCode::from(1);
    }
    let master = master(&config, &arguments.config_dir);
    end(if arguments.standalone { vonic_front::run_standalone(master, body) } else { vonic_front::run(master, body) })
}

/// Writes the log to stderr, but for what somebody fills it with.
fn log_limited() {
    let logger = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_target(false)
        .format_timestamp_micros()
        .build();
    log::set_max_level(logger.filter());
    // Fails only where there is one already.
    let _ = log::set_logger(Box::leak(Box::new(Limited::new(logger))));
}

fn master(config: &Config, config_dir: &Path) -> MasterConfig {
    // A newer vonicd is started as this one was.
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).filter(|argument| argument != TAKE_OVER).collect();
    arguments.push(TAKE_OVER.into());
    let upgrade = Upgrade { arguments, essential: engine::CONFIGURATION.into() };
    let Service { heartbeat, quarantine, .. } = config.service;
    MasterConfig {
        engine_pid_file: Some(config.service.engine_pid()),
        heartbeat,
        quarantine,
        upgrade,
        hooks: permitted(config, config_dir),
        capabilities: capabilities(config),
    }
}

/// What an engine of any configuration may need, and what it takes to reach sockets of other users. Hooks run with what vonicd has, and nobody knows what
/// they need: with hooks it keeps all.
fn capabilities(config: &Config) -> Option<Capabilities> {
    let network = Capabilities::NET_ADMIN | Capabilities::NET_RAW | Capabilities::NET_BIND_SERVICE;
    config.service.migration.is_empty().then_some(network | Capabilities::DAC_OVERRIDE)
}

/// Hooks are what the configuration that runs says, or the file as it is when one is run: whatever else an engine may ask for is not run.
fn permitted(config: &Config, config_dir: &Path) -> Permitted {
    let (hooks, config_dir) = (config.service.migration.clone(), config_dir.to_path_buf());
    Permitted(Arc::new(move |command| {
        [&hooks.depart, &hooks.arrive].into_iter().any(|hook| hook == command) || config::is_hook(&config_dir, command)
    }))
}

fn end(outcome: Result<i32, MasterError>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            log::error!("{error}");
            ExitCode::from(1)
        }
    }
}

/// Makes sure that sockets can be created in the directory.
fn prepare(runtime_dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(runtime_dir)?;
    let probe = runtime_dir.join(format!("probe-{}", std::process::id()));
    std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe))
}

/// Why the directory is of no use, and what to write instead: an ordinary user has one of its own for such things (file
/// hierarchy of systemd, pam_systemd(8)).
fn unusable(runtime_dir: &Path, config_dir: &Path, error: &io::Error) -> String {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("vonic"));
    let instead = match own.filter(|own| own.is_absolute() && own != runtime_dir) {
        Some(own) => format!("runtime_dir = \"{}\"", own.display()),
        None => "runtime_dir = \"/a/folder/that/you/can/write\"".to_string(),
    };
    let (dir, file) = (runtime_dir.display(), config_dir.join("vonic.toml"));
    format!("the runtime_dir {dir} cannot be written: {error}; write at the top of {}: {instead}", file.display())
}

#[expect(clippy::print_stderr, reason = "a command's errors go to stderr")]
fn complain(message: &str) {
    eprintln!("{message}");
}

#[expect(clippy::print_stdout, reason = "--check answers on stdout")]
fn summary(config: &Config) -> ExitCode {
    println!("the configuration is good: {} networks, {} VMs", config.networks.len(), config.vms.len());
    ExitCode::SUCCESS
}
