//! What the files say of names: resolvers, domains to search, a guest's own.
use std::net::IpAddr;

use toml::de::DeValue;
use vonic_frame::{encode_domains, is_domain, is_label};

use super::family::Family;
use super::reader::{Table, Wrong, strings, text};
use super::{Network, Uplink};

/// The most resolvers of one network: a guest whose questions nobody answers has waited for long enough.
pub(crate) const RESOLVERS: usize = 8;
/// The most bytes of encoded domains: one option of DHCP (RFC 3397 §2).
const SEARCH: usize = 255;

/// Reads the resolvers' addresses.
pub(super) fn resolvers(value: &DeValue<'_>) -> Result<Vec<IpAddr>, Wrong> {
    let texts = strings(value)?;
    if texts.len() > RESOLVERS {
        return Err(Wrong::Value(format!("{} are too many: write at most {RESOLVERS}", texts.len())));
    }
    let address = |s: &&str| {
        let good = s.parse().ok().filter(|a: &IpAddr| !a.is_unspecified() && !a.is_multicast());
        good.ok_or_else(|| {
            Wrong::Value(format!("'{s}' is no resolver's address: write it as \"198.51.100.53\", without a port"))
        })
    };
    texts.iter().map(address).collect()
}

/// Reads domains to look names up in.
pub(super) fn search(value: &DeValue<'_>) -> Result<Vec<String>, Wrong> {
    let texts = strings(value)?;
    if let Some(bad) = texts.iter().find(|s| !is_domain(s)) {
        return Err(Wrong::Value(format!("'{bad}' is no domain: write it as \"example.org\"")));
    }
    let length = encode_domains(texts.iter().copied()).len();
    if length > SEARCH {
        return Err(Wrong::Value(format!("these have {length} bytes together, an option {SEARCH}: write fewer")));
    }
    Ok(texts.into_iter().map(str::to_string).collect())
}

/// Reads a host's name; empty: the guest gets none.
pub(super) fn hostname(value: &DeValue<'_>) -> Result<String, Wrong> {
    let s = text(value)?;
    if s.is_empty() || is_label(s) {
        return Ok(s.to_string());
    }
    let form = "write 1 to 63 of the characters a-z, A-Z, 0-9 and '-', which stands at no end";
    Err(Wrong::Value(format!("'{s}' cannot be a host's name: {form}; domains belong into the network's search")))
}

/// Notes what contradicts itself in a network that vonic is the gateway of.
pub(super) fn check_network(network: &Network, table: &Table<'_, '_>) {
    let note = |key: &str, message: String| table.source.error(table.places.line(key), message);
    let resolvers = network.dns.as_deref().unwrap_or_default();
    if !resolvers.is_empty() && network.uplink != Uplink::Sockets && !table.places.is_bad("uplink") {
        note("dns", "dns needs uplink = \"sockets\": write that, or leave it out".into());
    }
    let own = |a: &&IpAddr| network.addresses(Family::of(**a)).subnet.is_some_and(|s| s.contains(**a));
    if let Some(address) = resolvers.iter().find(own) {
        note(
            "dns",
            format!("dns: {address} is in the guests' own subnet: write the address of one that the host asks"),
        );
    }
    if network.slaac && network.subnet6.is_none() && !table.places.is_bad("subnet6") {
        note("slaac", "slaac needs subnet6: write subnet6 and gateway6, or leave it out".into());
    }
}
