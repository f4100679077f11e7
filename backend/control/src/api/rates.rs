//! How counters move, from two looks at them.
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::types::{Stats, Traffic, VmStats};

/// How counters move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rates {
    /// Over how many seconds that was seen.
    pub seconds: f64,
    /// By VM; those that were there all the time.
    pub vms: BTreeMap<String, VmRates>,
}

/// How one VM's counters move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmRates {
    /// What the guest sends.
    pub guest_to_host: Rate,
    /// What the guest is sent.
    pub host_to_guest: Rate,
    /// Dropped frames in a second, both directions together.
    pub drops_per_second: f64,
    /// Open TCP connections.
    pub connections: u64,
}

/// What goes one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rate {
    /// Frames in a second.
    pub frames_per_second: f64,
    /// Bytes in a second.
    pub bytes_per_second: f64,
}

impl Rates {
    /// What two looks tell, with this time between them.
    pub fn between(before: &Stats, after: &Stats, time: Duration) -> Rates {
        let seconds = time.as_secs_f64();
        let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds.max(f64::MIN_POSITIVE);
        let rate = |before: Traffic, after: Traffic| Rate {
            frames_per_second: per_second(before.frames, after.frames),
            bytes_per_second: per_second(before.bytes, after.bytes),
        };
        let drops = |vm: &VmStats| vm.drops_by_reason.values().flat_map(BTreeMap::values).sum();
        let both = after.vms.iter().filter_map(|(name, after)| Some((name, before.vms.get(name)?, after)));
        let vm = |before: &VmStats, after: &VmStats| VmRates {
            guest_to_host: rate(before.guest_to_host, after.guest_to_host),
            host_to_guest: rate(before.host_to_guest, after.host_to_guest),
            drops_per_second: per_second(drops(before), drops(after)),
            connections: after.connections,
        };
        Rates { seconds, vms: both.map(|(name, before, after)| (name.clone(), vm(before, after))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_tell_what_moves_in_a_second() {
        let stats = |frames, drops| {
            let drops_by_reason =
                BTreeMap::from([("spoofed_mac".into(), BTreeMap::from([("guest_to_host".into(), drops)]))]);
            let traffic = Traffic { frames, bytes: frames * 100 };
            let vm = VmStats { guest_to_host: traffic, drops_by_reason, connections: 3, ..VmStats::default() };
            Stats { vms: BTreeMap::from([("a".into(), vm)]), ..Stats::default() }
        };
        let mut before = stats(10, 1);
        before.vms.insert("gone".into(), VmStats::default());
        let rates = Rates::between(&before, &stats(30, 6), Duration::from_millis(500));
        let guest_to_host = Rate { frames_per_second: 40.0, bytes_per_second: 4000.0 };
        let a = VmRates { guest_to_host, drops_per_second: 10.0, connections: 3, ..VmRates::default() };
        assert_eq!(rates, Rates { seconds: 0.5, vms: BTreeMap::from([("a".to_string(), a)]) });
    }
}
