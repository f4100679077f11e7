//! The command line of `vonicd`.
use std::path::PathBuf;

use clap::Parser;

/// A virtual offload NIC for many VMs: serves each VM of the configuration as its network card.
#[derive(Debug, Parser)]
#[command(name = "vonicd", version = crate::VERSION)]
pub struct Arguments {
    /// Where vonic.toml and vms.d are.
    #[arg(long, value_name = "DIR", default_value = "/etc/vonic")]
    pub config_dir: PathBuf,
    /// Only check the configuration: every error is printed, with file, line and what to write instead.
    #[arg(long)]
    pub check: bool,
    /// Run master and engine in one process, for debugging.
    #[arg(long)]
    pub standalone: bool,
    /// How to look behind the head of a socket's queue: by SO_PEEK_OFF, or over scratch memory as on kernels before 6.9.
    #[arg(long, value_name = "MODE", value_parser = ["auto", "offset", "scratch"], default_value = "auto", hide = true)]
    pub peek: String,
    /// Take over from an older vonicd, which started this one and speaks to it by standard input: what `vonic upgrade` does.
    #[arg(long, hide = true, conflicts_with_all = ["check", "standalone"])]
    pub take_over: bool,
}
