//! Do dashboard and alerts ask for metrics that there are?
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;
use vonic_packaging::metrics::{Family, families};
use vonic_packaging::project;
use yaml_rust2::{Yaml, YamlLoader};

fn folder() -> std::path::PathBuf {
    project().join("backend/docs/prometheus")
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join("dashboard.json")).unwrap()).unwrap()
}

fn alerts() -> Yaml {
    YamlLoader::load_from_str(&fs::read_to_string(folder().join("alerts.yml")).unwrap()).unwrap().remove(0)
}

/// The names that begin as vonic's do.
fn named(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("vonic_")).collect()
}

/// That every metric in an expression exists, and every label that it chooses or sums by is one of its own.
fn check(expression: &str, families: &[Family]) {
    let samples: BTreeSet<String> = families.iter().flat_map(Family::samples).collect();
    let names = named(expression);
    for name in &names {
        assert!(samples.contains(*name), "{expression}: there is no {name}");
    }
    let known: BTreeSet<&str> = families
        .iter()
        .filter(|family| family.samples().iter().any(|sample| names.contains(&sample.as_str())))
        .flat_map(|family| family.labels.iter().map(String::as_str))
        .chain(["job", "instance", "le"])
        .collect();
    for (_, rest) in expression.match_indices("by (").map(|(at, _)| expression.split_at(at + 4)) {
        for label in rest.split(')').next().unwrap().split(',').map(str::trim) {
            assert!(known.contains(label), "{expression}: {label} is no label of {names:?}");
        }
    }
    for pair in expression.split(['{', '}']).skip(1).step_by(2).flat_map(|list| list.split(',')) {
        let label = pair.split(['=', '!', '~']).next().unwrap().trim();
        assert!(known.contains(label), "{expression}: {label} is no label of {names:?}");
    }
}

/// Every value under `key`, however deep.
fn under<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key));
            map.values().for_each(|value| under(value, key, found));
        }
        Value::Array(values) => values.iter().for_each(|value| under(value, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let (dashboard, families) = (dashboard(), families());
    let mut expressions = Vec::new();
    under(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() >= 15, "{}", expressions.len());
    for expression in expressions {
        check(expression.as_str().unwrap(), &families);
    }
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
        assert!(places.insert((place["y"].as_u64(), place["x"].as_u64())), "{panel}");
        let row = panel["type"] == "row";
        assert!(row || !panel["description"].as_str().unwrap().is_empty(), "{panel}");
        assert!(row || panel["datasource"]["uid"] == "${datasource}", "{panel}");
    }
}

#[test]
fn the_alerts_ask_for_what_there_is() {
    let (alerts, families) = (alerts(), families());
    let mut names = BTreeSet::new();
    for group in alerts["groups"].as_vec().unwrap() {
        for rule in group["rules"].as_vec().unwrap() {
            let name = rule["alert"].as_str().unwrap();
            assert!(names.insert(name), "{name} twice");
            check(rule["expr"].as_str().unwrap(), &families);
            assert!(["info", "warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
            for text in ["summary", "description"] {
                assert!(rule["annotations"][text].as_str().is_some_and(|text| !text.is_empty()), "{name}: {text}");
            }
        }
    }
    assert!(names.len() >= 8, "{names:?}");
    // As Prometheus itself reads them, where it is.
    if Command::new("promtool").arg("--version").output().is_ok() {
        let output =
            Command::new("promtool").args(["check", "rules"]).arg(folder().join("alerts.yml")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn the_checks_themselves_see_what_is_wrong() {
    let families = families();
    check("sum by (vm) (rate(vonic_vm_drops_total{reason=\"no_room\", vm=~\"$vm\"}[5m]))", &families);
    for wrong in ["vonic_vm_drops", "vonic_vm_connected{path=\"x\"} == 1", "sum by (reason) (vonic_vm_connected)"] {
        let checked = std::panic::catch_unwind(|| check(wrong, &families));
        assert!(checked.is_err(), "{wrong}");
    }
}
