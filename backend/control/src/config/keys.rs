//! Every key that a configuration file may have: one table for the reader and the documentation's test.
use super::features::FEATURES;

/// One key.
pub(super) struct Key {
    pub name: &'static str,
    /// A value as it is written in the file, for messages that say what to write.
    pub example: &'static str,
}

/// One kind of table in the files, and its keys.
pub(super) struct Section {
    /// Where the table stands, for messages.
    pub title: &'static str,
    /// The keys in the order of the documentation.
    pub keys: fn() -> Vec<Key>,
}

impl Section {
    pub fn key(&self, name: &str) -> Option<Key> {
        (self.keys)().into_iter().find(|key| key.name == name)
    }
}

fn keys(pairs: &'static [(&'static str, &'static str)]) -> Vec<Key> {
    pairs.iter().map(|&(name, example)| Key { name, example }).collect()
}

pub(super) static SERVICE: Section = Section {
    title: "the top of vonic.toml",
    keys: || {
        keys(&[
            ("runtime_dir", "\"/run/vonic\""),
            ("user", "\"vonic\""),
            ("workers", "1"),
            ("poll_us", "50"),
            ("metrics_listen", "\"127.0.0.1:9477\""),
            ("reload_on_change", "true"),
            ("resolv_conf", "\"/etc/resolv.conf\""),
            ("heartbeat_ms", "2000"),
            ("quarantine", "true"),
            ("seccomp", "\"refuse\""),
            ("landlock", "true"),
            ("migration", "{ depart = [\"/usr/local/sbin/leave\"] }"),
            ("network", "{ default = { subnet4 = \"192.0.2.0/24\", gateway4 = \"192.0.2.1\" } }"),
        ])
    },
};

pub(super) static MIGRATION: Section = Section {
    title: "the [migration] table of vonic.toml",
    keys: || {
        keys(&[
            ("depart", "[\"/usr/local/sbin/leave\", \"eth0\"]"),
            ("arrive", "[\"/usr/local/sbin/come\", \"eth0\"]"),
            ("limit_ms", "3000"),
        ])
    },
};

pub(super) static NETWORK: Section = Section {
    title: "a [network.NAME] table of vonic.toml",
    keys: || {
        keys(&[
            ("subnet4", "\"192.0.2.0/24\""),
            ("gateway4", "\"192.0.2.1\""),
            ("subnet6", "\"2001:db8::/64\""),
            ("gateway6", "\"2001:db8::1\""),
            ("uplink", "\"sockets\""),
            ("host_loopback4", "\"192.0.2.1\""),
            ("host_loopback6", "\"2001:db8::1\""),
            ("reach_host", "false"),
            ("isolated", "false"),
            ("dns", "[\"198.51.100.53\"]"),
            ("search", "[\"example.org\"]"),
            ("slaac", "false"),
            ("coalesce", "true"),
            ("coalesce_us", "0"),
        ])
    },
};

pub(super) static VM: Section = Section {
    title: "the top of a VM's file",
    keys: || {
        keys(&[
            ("mac", "\"52:54:00:00:00:02\""),
            ("network", "\"default\""),
            ("address4", "\"192.0.2.2\""),
            ("address6", "\"2001:db8::2\""),
            ("hostname", "\"web1\""),
            ("worker", "0"),
            ("queue_pairs", "1"),
            ("mtu", "1500"),
            ("socket_mode", "\"server\""),
            ("failover", "true"),
            ("ack", "\"kernel\""),
            ("coalesce", "true"),
            ("call_us", "0"),
            ("call_frames", "64"),
            ("labels", "{ tier = \"web\" }"),
            ("features", "{ tso = true }"),
            ("limits", "{ connections = 16384 }"),
            ("forward", "[{ proto = \"tcp\", listen = \"127.0.0.1:8080\", port = 80 }]"),
            ("egress", "[{ action = \"deny\", to = \"198.51.100.0/24\" }]"),
        ])
    },
};

pub(super) static FEATURE_SWITCHES: Section = Section {
    title: "a VM's features",
    keys: || FEATURES.iter().map(|feature| Key { name: feature.name, example: "true" }).collect(),
};

pub(super) static LIMITS: Section = Section {
    title: "a VM's limits",
    keys: || {
        keys(&[
            ("connections", "16384"),
            ("pending", "512"),
            ("pending_per_destination", "64"),
            ("udp_flows", "4096"),
            ("new_per_second", "2000"),
            ("groups_per_second", "1000"),
        ])
    },
};

pub(super) static FORWARD: Section = Section {
    title: "a [[forward]] table of a VM's file",
    keys: || keys(&[("proto", "\"tcp\""), ("listen", "\"127.0.0.1:8080\""), ("port", "80"), ("failover", "true")]),
};

pub(super) static EGRESS: Section = Section {
    title: "an [[egress]] table of a VM's file",
    keys: || {
        keys(&[("action", "\"deny\""), ("to", "\"198.51.100.0/24\""), ("proto", "\"tcp\""), ("ports", "\"1-1023\"")])
    },
};

/// Every kind of table. A VM's labels are not among them: their keys are the operator's.
pub(super) static SECTIONS: &[&Section] =
    &[&SERVICE, &MIGRATION, &NETWORK, &VM, &FEATURE_SWITCHES, &LIMITS, &FORWARD, &EGRESS];

/// Whether a word is a key of any file.
pub(super) fn is_key(word: &str) -> bool {
    SECTIONS.iter().any(|section| section.key(word).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOC: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md"));

    /// The lines of the table under the heading of a section.
    fn documented(section: &Section) -> Vec<&'static str> {
        let headings: [(&Section, &str); 8] = [
            (&SERVICE, "## vonic.toml"),
            (&MIGRATION, "### [migration]"),
            (&NETWORK, "### [network.NAME]"),
            (&VM, "## vms.d/NAME.toml"),
            (&FEATURE_SWITCHES, "### features"),
            (&LIMITS, "### limits"),
            (&FORWARD, "### [[forward]]"),
            (&EGRESS, "### [[egress]]"),
        ];
        let (_, heading) = headings.iter().find(|(s, _)| std::ptr::eq(*s, section)).unwrap();
        let lines = DOC.lines().skip_while(|line| line != heading).skip(1);
        lines.take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `")).collect()
    }

    #[test]
    fn every_key_has_a_row_of_the_documentation_and_every_row_a_key() {
        for section in SECTIONS {
            let rows = documented(section);
            let names: Vec<&str> = rows.iter().map(|row| row.split('`').nth(1).unwrap()).collect();
            let known: Vec<&str> = (section.keys)().iter().map(|key| key.name).collect();
            assert_eq!(names, known, "{}", section.title);
        }
    }

    #[test]
    fn every_feature_is_documented_with_its_help_and_what_it_needs() {
        for (feature, row) in FEATURES.iter().zip(documented(&FEATURE_SWITCHES)) {
            assert!(row.contains(feature.help), "{row}");
            assert!(feature.needs.is_none_or(|needs| row.ends_with(&format!("; needs `{needs}` |"))), "{row}");
        }
    }
}
