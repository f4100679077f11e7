//! What the contract has and this version has not yet. Each is refused by name, so that no file promises in silence
//! what vonic does not do; the values that mean "as now" are accepted.
use toml::de::DeValue;

use super::keys::{NETWORK, SERVICE, Section};

/// One thing to come.
pub(super) struct Later {
    pub section: &'static Section,
    pub key: &'static str,
    /// Which values of the key are meant.
    pub refuses: fn(&DeValue<'_>) -> bool,
    /// What is not there yet.
    pub what: &'static str,
    /// What to write instead.
    pub mend: &'static str,
}

/// All of it.
pub(super) static LATER: &[Later] = &[
    later(&SERVICE, "workers", above_one, "more than one worker", "write workers = 1"),
    later(&SERVICE, "metrics_listen", any, "the metrics listener", "leave metrics_listen out"),
    later(&NETWORK, "uplink", packet, "packet: uplinks", r#"write uplink = "sockets" or "tap:BRIDGE""#),
];

const fn later(
    section: &'static Section,
    key: &'static str,
    refuses: fn(&DeValue<'_>) -> bool,
    what: &'static str,
    mend: &'static str,
) -> Later {
    Later { section, key, refuses, what, mend }
}

/// Why a value is refused, if it is.
pub(super) fn refusal(section: &Section, key: &str, value: &DeValue<'_>) -> Option<String> {
    let later = LATER.iter().find(|l| std::ptr::eq(l.section, section) && l.key == key && (l.refuses)(value))?;
    Some(format!("{key}: this version of vonic has not yet {}: {}", later.what, later.mend))
}

fn any(_: &DeValue<'_>) -> bool {
    true
}

fn above_one(value: &DeValue<'_>) -> bool {
    super::reader::integer(value).is_ok_and(|n| n > 1)
}

fn packet(value: &DeValue<'_>) -> bool {
    value.as_str().is_some_and(|s| s.starts_with("packet:"))
}
