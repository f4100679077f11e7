//! What differs between two configurations, key by key, for whoever wants to see it.
use crate::api::types::Difference;
use crate::config::Config;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that differs. Of what is new or gone nothing but that: its name stands elsewhere.
pub(super) fn differences(before: &Config, after: &Config) -> Vec<Difference> {
    let mut all = of("service".into(), &before.service, &after.service);
    all.extend(each("network", &before.networks, &after.networks));
    all.extend(each("vm", &before.vms, &after.vms));
    all
}

fn each<T: Serialize>(kind: &str, before: &BTreeMap<String, T>, after: &BTreeMap<String, T>) -> Vec<Difference> {
    let both = before.iter().filter_map(|(name, before)| Some((name, before, after.get(name)?)));
    both.flat_map(|(name, before, after)| of(format!("{kind} {name}"), before, after)).collect()
}

/// Of one thing: the keys that are others now.
fn of<T: Serialize>(what: String, before: &T, after: &T) -> Vec<Difference> {
    // What is plain data can be written.
    let keys = |thing: &T| match serde_json::to_value(thing) {
        Ok(Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (keys(before), keys(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let text = |value: Option<&Value>| value.filter(|value| !value.is_null()).map(Value::to_string);
    let differs = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    differs
        .map(|key| Difference {
            of: what.clone(),
            key: key.clone(),
            before: text(before.get(key)),
            after: text(after.get(key)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load_sources};
    use std::path::Path;

    #[test]
    fn each_key_that_is_another_is_told_with_both_values() {
        let config = |service: &str, a: &str, b: &str| {
            let vms = [("a", a), ("b", b)].into_iter().filter(|(_, text)| !text.is_empty());
            let vms = vms.map(|(name, text)| (name.to_string(), text.to_string())).collect();
            load_sources(Path::new("/etc"), &Sources { service: Some(service.into()), vms }).unwrap()
        };
        let mac = |number: u8| format!("mac = \"52:54:00:00:00:{number:02x}\"\n");
        let before = config("", &mac(2), &mac(3));
        let after = config("workers = 2\n", &(mac(2) + "mtu = 1400\naddress4 = \"192.0.2.2\"\n"), "");
        let told: Vec<String> = differences(&before, &after)
            .into_iter()
            .map(|d| format!("{} {} {:?} {:?}", d.of, d.key, d.before, d.after))
            .collect();
        assert_eq!(
            told,
            [
                "service workers Some(\"1\") Some(\"2\")",
                "vm a address4 None Some(\"\\\"192.0.2.2\\\"\")",
                "vm a mtu Some(\"1500\") Some(\"1400\")",
            ]
        );
        assert_eq!(differences(&before, &before), []);
    }
}
