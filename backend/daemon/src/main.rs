//! vonicd: the master, and by it the engine. Composition only.
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use vonic_control::config::{self, Config};
use vonic_control::engine::{self, EngineConfig};
use vonic_front::{EngineLink, MasterConfig};

/// A virtual offload NIC for many VMs: serves each VM of the configuration as its network card.
#[derive(Parser)]
#[command(name = "vonicd", version)]
struct Arguments {
    /// Where vonic.toml and vms.d are.
    #[arg(long, value_name = "DIR", default_value = "/etc/vonic")]
    config_dir: PathBuf,
    /// Only check the configuration: every error is printed, with file, line and what to write instead.
    #[arg(long)]
    check: bool,
    /// Run master and engine in one process, for debugging.
    #[arg(long)]
    standalone: bool,
    /// How to look behind the head of a socket's queue: by SO_PEEK_OFF, or over scratch memory as on kernels before 6.9.
    #[arg(long, value_name = "MODE", value_parser = ["auto", "offset", "scratch"], default_value = "auto", hide = true)]
    peek: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).format_target(false).init();
    let config = match config::load(&arguments.config_dir) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(1);
        }
    };
    if arguments.check {
        return summary(&config);
    }
    let runtime_dir = &config.service.runtime_dir;
    if let Err(error) = std::fs::create_dir_all(runtime_dir) {
        complain(&format!("{}: {error}; create it, or set runtime_dir in vonic.toml", runtime_dir.display()));
        return ExitCode::from(1);
    }
    let master = MasterConfig { engine_pid_file: Some(config.service.engine_pid()) };
    let peek_mode = engine::peek_mode(&arguments.peek);
    let engine_config = EngineConfig { config_dir: arguments.config_dir, peek_mode };
    let body = move |link: EngineLink| engine::run(engine_config, link);
    let run =
        if arguments.standalone { vonic_front::run_standalone(master, body) } else { vonic_front::run(master, body) };
    match run {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            log::error!("{error}");
            ExitCode::from(1)
        }
    }
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
