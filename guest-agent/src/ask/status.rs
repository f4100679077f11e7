//! `vonic-agent status`.
use super::service::Service;
use super::{Question, say, say_json, table};
use crate::link::Failure;
use serde::Serialize;
use std::fs;
use std::path::Path;
use vonic_agent::metadata::{Addresses, Metadata};

/// What is printed as JSON.
#[derive(Serialize)]
struct Status<'a> {
    answers: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<Interface>,
}

/// The interface that is the NIC, as this kernel has it (sysfs-class-net).
#[derive(Serialize)]
struct Interface {
    name: String,
    state: String,
    mtu: String,
}

/// Asks for the metadata, and prints it.
pub(super) fn run(question: &Question) -> Result<(), Failure> {
    let asked = Service::open(question.address.as_ref()).and_then(|mut service| service.get::<Metadata>("/v1/"));
    let metadata = match asked {
        Ok(metadata) => metadata,
        Err(failure) => {
            if question.json {
                let error = Some(failure.to_string());
                say_json(&Status { answers: false, error, metadata: None, interface: None })?;
            }
            return Err(failure);
        }
    };
    let interface = interface(Path::new("/sys/class/net"), &metadata.mac);
    if question.json {
        return say_json(&Status { answers: true, error: None, metadata: Some(&metadata), interface });
    }
    Ok(say(&text(&metadata, interface.as_ref()))?)
}

/// Finds the interface of this MAC.
fn interface(dir: &Path, mac: &str) -> Option<Interface> {
    let entries = fs::read_dir(dir).ok()?;
    entries.flatten().find_map(|entry| {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default().trim().to_string();
        let name = entry.file_name().to_string_lossy().into_owned();
        read("address").eq_ignore_ascii_case(mac).then(|| Interface {
            name,
            state: read("operstate"),
            mtu: read("mtu"),
        })
    })
}

fn text(metadata: &Metadata, interface: Option<&Interface>) -> String {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut line = |name: &str, value: String| pairs.push((name.into(), value));
    line("vonic", "answers".into());
    line("name", metadata.name.clone());
    line(
        "interface",
        match interface {
            Some(Interface { name, state, mtu }) => format!("{name}, {state}, MTU {mtu}"),
            None => "no interface has this MAC".into(),
        },
    );
    line("MAC", metadata.mac.clone());
    line("MTU", metadata.mtu.to_string());
    line("network", metadata.network.clone());
    line("hostname", metadata.hostname.clone().unwrap_or_else(|| "none".into()));
    line("IPv4", addresses(&metadata.ipv4));
    line("IPv6", addresses(&metadata.ipv6));
    line("resolvers", list(&metadata.resolvers));
    line("search", list(&metadata.search));
    let labels: Vec<String> = metadata.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    line("labels", list(&labels));
    table::pairs(&pairs)
}

fn addresses(of: &Addresses) -> String {
    let address = match (&of.address, of.prefix_len) {
        (Some(address), Some(bits)) => format!("{address}/{bits}"),
        (Some(address), None) => address.clone(),
        (None, _) => "none".into(),
    };
    match &of.gateway {
        Some(gateway) => format!("{address}, gateway {gateway}"),
        None => address,
    }
}

fn list(texts: &[String]) -> String {
    if texts.is_empty() { "none".into() } else { texts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_shown_line_by_line() {
        let metadata = Metadata {
            name: "web1".into(),
            mac: "52:54:00:00:00:02".into(),
            mtu: 1500,
            ipv4: Addresses {
                address: Some("192.0.2.2".into()),
                prefix_len: Some(24),
                gateway: Some("192.0.2.1".into()),
            },
            labels: [("tier".to_string(), "web\n\x1b[2J".to_string())].into(),
            ..Metadata::default()
        };
        let interface = Interface { name: "eth0".into(), state: "up".into(), mtu: "1500".into() };
        let text = text(&metadata, Some(&interface));
        assert!(text.starts_with("vonic      answers\nname       web1\ninterface  eth0, up, MTU 1500\n"), "{text}");
        assert!(text.contains("IPv4       192.0.2.2/24, gateway 192.0.2.1\nIPv6       none\n"), "{text}");
        assert!(text.ends_with("labels     tier=web??[2J\n"), "{text}");
    }

    #[test]
    fn the_interface_is_found_by_its_mac() {
        let lo = interface(Path::new("/sys/class/net"), "00:00:00:00:00:00").unwrap();
        assert_eq!(lo.name, "lo");
        assert!(interface(Path::new("/sys/class/net"), "02:ff:ff:ff:ff:fe").is_none());
    }
}
