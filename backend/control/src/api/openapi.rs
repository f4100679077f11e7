//! `docs/openapi.json` is what the routes, their parameters and the types of answers say.
use std::collections::BTreeMap;

use hyper::Method;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::parameters::{Form, PARAMETERS};
use super::routes::{ROUTES, Route};
use super::types::{
    CaptureTerms, ConnectionRow, EngineStatus, Event, Health, LoadReport, Rates, ReloadReport, Stats, UpgradeReport,
    VmDetail, VmRow,
};
use super::{ErrorBody, OPENAPI, body, capture, feed, upload};
use crate::{config, metrics};

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// Renews the file with this in the environment.
const RENEW: &str = "VONIC_RENEW";

/// The media type and the schema of a good answer.
fn answer(route: &Route, generator: &mut SchemaGenerator) -> (&'static str, Value) {
    let list = |item: schemars::Schema| json!({ "type": "array", "items": item });
    let schema = match (route.method.as_str(), route.path) {
        ("GET", "/v1/vms") => list(generator.subschema_for::<VmRow>()),
        ("GET", "/v1/vms/{name}") => generator.subschema_for::<VmDetail>().into(),
        ("PUT" | "DELETE", "/v1/vms/{name}") | ("POST", "/v1/reload") => {
            generator.subschema_for::<ReloadReport>().into()
        }
        ("GET", "/v1/connections") => list(generator.subschema_for::<ConnectionRow>()),
        ("GET", "/v1/events") => return (feed::LINES, generator.subschema_for::<Event>().into()),
        ("GET", "/v1/stats") => generator.subschema_for::<Stats>().into(),
        ("GET", "/v1/rates") => generator.subschema_for::<Rates>().into(),
        ("GET", "/v1/metrics") => return (metrics::MEDIA_TYPE, json!({ "type": "string" })),
        (_, "/v1/upgrade") => generator.subschema_for::<UpgradeReport>().into(),
        ("GET", "/v1/health") => generator.subschema_for::<Health>().into(),
        (_, "/v1/engine" | "/v1/engine/restart") => generator.subschema_for::<EngineStatus>().into(),
        ("POST", "/v1/migrate/save/{name}") => return (BYTES, json!({ "type": "string", "format": "binary" })),
        ("POST", "/v1/migrate/load/{name}") => generator.subschema_for::<LoadReport>().into(),
        ("POST", "/v1/capture/{name}") => {
            return (capture::PCAPNG, json!({ "type": "string", "format": "binary" }));
        }
        ("GET", "/v1/openapi.json") => json!({ "type": "object" }),
        (method, path) => panic!("{method} {path}: say here what it answers with"),
    };
    (JSON, schema)
}

/// The media types and schemas of a request's body.
fn content(route: &Route, generator: &mut SchemaGenerator) -> Option<Value> {
    match (route.method.as_str(), route.path) {
        ("POST", "/v1/capture/{name}") => {
            Some(json!({ (JSON): { "schema": generator.subschema_for::<CaptureTerms>() } }))
        }
        ("PUT", "/v1/vms/{name}") => Some(json!({
            (upload::TOML): { "schema": { "type": "string", "maxLength": body::BODY_LIMIT } },
            (upload::JSON): { "schema": config::schema::vm_file() },
        })),
        ("POST", "/v1/migrate/load/{name}") => {
            Some(json!({ (BYTES): { "schema": { "type": "string", "format": "binary" } } }))
        }
        _ => None,
    }
}

/// What can go wrong.
fn refusals(route: &Route) -> BTreeMap<u16, &'static str> {
    let mut all = BTreeMap::from([
        (400, "the request is wrong; nothing was changed"),
        (500, "vonic failed"),
        (503, "not now, or not in time"),
    ]);
    if route.path.contains("{name}") || route.query.contains(&"vm") {
        all.insert(404, "there is no such VM");
    }
    if route.method != Method::GET {
        all.extend([
            (403, "this client may look, and change nothing"),
            (408, "the body did not come in time"),
            (409, "not as things are; nothing was changed"),
            (413, "the body is too long"),
        ]);
    }
    if route.method == Method::PUT {
        all.insert(415, "the body is of another type");
    }
    all
}

fn parameters(route: &Route) -> Vec<Value> {
    let known = |name: &str| PARAMETERS.iter().find(|parameter| parameter.name == name);
    let query = route.query.iter().map(|name| {
        let parameter = known(name).unwrap_or_else(|| panic!("{name}: say in PARAMETERS what it is"));
        // What there is no default for.
        let required = parameter.name == "binary";
        json!({ "name": name, "in": "query", "required": required, "description": parameter.help, "schema": schema(parameter.form) })
    });
    let path = json!({ "name": "name", "in": "path", "required": true, "description": "the VM's name", "schema": schema(Form::Vm) });
    Some(path).filter(|_| route.path.contains("{name}")).into_iter().chain(query).collect()
}

fn schema(form: Form) -> Value {
    match form {
        Form::Vm => json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,63}$" }),
        Form::Text(most) => json!({ "type": "string", "minLength": 1, "maxLength": most }),
        Form::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Form::Subnet => json!({ "type": "string", "examples": ["192.0.2.2", "192.0.2.0/24", "2001:db8::/64"] }),
        Form::Choice(words) => json!({ "type": "string", "enum": words }),
        Form::Flag => json!({ "type": "boolean" }),
    }
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let (media_type, schema) = answer(route, generator);
    let mut responses = Map::new();
    responses
        .insert("200".into(), json!({ "description": route.help, "content": { (media_type): { "schema": schema } } }));
    let error = generator.subschema_for::<ErrorBody>();
    for (status, why) in refusals(route) {
        let refusal = json!({ "description": why, "content": { (JSON): { "schema": error } } });
        responses.insert(status.to_string(), refusal);
    }
    let words = route.path.trim_start_matches("/v1/").replace(['{', '}', '.'], "").replace('/', "_");
    let mut operation = json!({
        "operationId": format!("{}_{words}", route.method.as_str().to_lowercase()),
        "summary": route.help,
        "parameters": parameters(route),
        "responses": responses,
    });
    if let Some(content) = content(route, generator) {
        // A capture without terms is one of everything.
        let required = route.path != "/v1/capture/{name}";
        operation["requestBody"] = json!({ "required": required, "content": content });
    }
    operation
}

/// Everything.
fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in ROUTES {
        let operation = operation(route, &mut generator);
        let before = paths.entry(route.path).or_default().insert(route.method.as_str().to_lowercase(), operation);
        assert!(before.is_none(), "{} {} stands there twice", route.method, route.path);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vonic",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP/1.1 over the Unix socket api.sock in vonic's runtime directory. One request per connection. \
                Fields are added, never renamed or removed.",
            "license": { "name": "Apache-2.0 OR BSD-3-Clause" },
        },
        "servers": [{ "url": "http://vonic", "description": "the socket, whatever the host's name" }],
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}

#[test]
fn the_file_says_what_the_code_does() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os(RENEW).is_some() {
        std::fs::write(file, &text).unwrap();
    } else {
        assert!(text == OPENAPI, "docs/openapi.json is stale; renew it: {RENEW}=1 cargo test -p vonic-control openapi");
    }
}

/// Nothing is there that is not explained.
#[test]
fn every_field_is_described() {
    let document = document();
    let mut bare = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let variants = schema["oneOf"].as_array().into_iter().flatten();
        for part in [schema].into_iter().chain(variants) {
            for (key, field) in part["properties"].as_object().into_iter().flatten() {
                // A variant's tag is its name.
                if field.get("description").is_none() && field.get("const").is_none() {
                    bare.push(format!("{name}.{key}"));
                }
            }
        }
    }
    assert!(bare.is_empty(), "without a description: {bare:?}");
}
