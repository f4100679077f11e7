//! `vonic conns`: which connections are asked for.
use clap::Args;
use vonic_frame::Subnet;

use super::command::{Failure, checked};

/// Those that all of it is true of.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// Of this VM only
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Of this protocol only
    #[arg(long, value_parser = ["tcp", "udp", "icmp"])]
    protocol: Option<String>,
    /// In this state only, as ESTABLISHED, or for datagrams unanswered, query, one-shot, stream, echo
    #[arg(long)]
    state: Option<String>,
    /// With an end at this address, or within this subnet
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Subnet>,
    /// With an end at this port; of --address, if that is given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// At least so many seconds old
    #[arg(long, value_name = "SECONDS")]
    min_age: Option<u32>,
    /// At most so many seconds old
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u32>,
}

/// What to ask for.
pub(super) fn target(wanted: &Wanted) -> Result<String, Failure> {
    let Wanted { vm, protocol, state, address, port, min_age, max_age } = wanted;
    let vm = vm.as_deref().map(checked).transpose()?.map(str::to_string);
    let text = |value: &Option<u32>| value.map(|value| value.to_string());
    let pairs = [
        ("vm", vm),
        ("protocol", protocol.clone()),
        ("state", state.as_deref().map(super::escaped)),
        ("address", address.map(|address| address.to_string())),
        ("port", port.map(|port| port.to_string())),
        ("min_age", text(min_age)),
        ("max_age", text(max_age)),
    ];
    let given: Vec<String> = pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect();
    let query = if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) };
    Ok(format!("/v1/connections{query}"))
}
