//! What a VM's file may say, as a JSON schema: for the API's documentation, which a test holds against the keys.
use serde_json::{Value, json};

use super::keys::{EGRESS, FEATURE_SWITCHES, FORWARD, LIMITS, Section, VM};

/// The keys of a VM's file, each with an example of what it may be.
pub(crate) fn vm_file() -> Value {
    let mut file = table(&VM);
    file["required"] = json!(["mac"]);
    file["description"] = "A VM's file, key by key (docs/config.md).".into();
    for (key, schema) in [
        ("labels", json!({ "type": "object", "additionalProperties": { "type": "string" } })),
        ("features", table(&FEATURE_SWITCHES)),
        ("limits", table(&LIMITS)),
        ("forward", json!({ "type": "array", "items": table(&FORWARD) })),
        ("egress", json!({ "type": "array", "items": table(&EGRESS) })),
    ] {
        file["properties"][key] = schema;
    }
    file
}

fn table(section: &Section) -> Value {
    let keys = (section.keys)().into_iter();
    let properties: serde_json::Map<String, Value> = keys.map(|key| (key.name.into(), of(key.example))).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// The type of an example.
fn of(example: &str) -> Value {
    let value: toml::Value = format!("key = {example}").parse::<toml::Table>().unwrap()["key"].clone();
    let kind = match value {
        toml::Value::String(_) => "string",
        toml::Value::Integer(_) => "integer",
        toml::Value::Boolean(_) => "boolean",
        toml::Value::Array(_) => "array",
        _ => "object",
    };
    json!({ "type": kind, "examples": [value] })
}
