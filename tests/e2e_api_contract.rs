//! Does the service do what its OpenAPI file says, of every operation in it, and nothing else? Requests are made from the file: good
//! ones, and bad ones of every kind. Each answer has a status that the file names and a body of its schema, and nothing dies of any.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value, json};
use vonic_tests::http::{self, Answer};
use vonic_tests::line::Line;
use vonic_tests::mock::feature;
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

/// Longer than anything that may be.
const LONG: usize = 5000;
/// More than a body may have.
const LONG_BODY: usize = 70_000;
/// The same bodies in every run.
const SEED: u64 = 0x00ab_5eed;
const JSON: &str = "application/json";

/// The service with a guest that has a connection, and what the file says of it.
struct Contract {
    bed: Bed,
    document: Value,
    /// Requests so far.
    asked: u32,
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// Any JSON of so many levels.
    fn json(&mut self, depth: u64) -> Value {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!(self.below(u64::MAX) as i64),
            3 => json!(self.below(1000) as f64 / 7.0),
            4 => json!("x\u{0}\"'\\\n\u{7f}é".repeat(self.below(9) as usize)),
            5 => (0..self.below(4)).map(|_| self.json(depth - 1)).collect(),
            _ => (0..self.below(4)).map(|n| (format!("k{n}"), self.json(depth - 1))).collect::<Map<_, _>>().into(),
        }
    }
}

impl Contract {
    fn socket(&self) -> std::path::PathBuf {
        self.bed.directory.path().join("run/api.sock")
    }

    /// Asks, and holds the answer against the file. `bad`: the request is wrong, and has to be refused.
    fn ask(&mut self, (method, path): (&str, &str), target: &str, content: Option<(&str, &[u8])>, bad: bool) -> Answer {
        self.asked += 1;
        let answer = http::ask(&self.socket(), method, target, content).unwrap();
        let what = format!("{method} {}", &target[..target.len().min(200)]);
        let operation = &self.document["paths"][path][method.to_lowercase()];
        let documented = &operation["responses"][answer.status.to_string()];
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(500)]).into_owned();
        assert!(documented.is_object(), "{what}: status {} is not documented: {body}", answer.status);
        assert!(!bad || (400..500).contains(&answer.status), "{what}: {} to what is wrong: {body}", answer.status);
        assert!(answer.status != 500, "{what}: {body}");
        let content = documented["content"].as_object().unwrap();
        let (_, media) = content
            .iter()
            .find(|(media_type, _)| media_type.split(';').next() == Some(&answer.media_type))
            .with_context(|| format!("{what}: {} is not documented", answer.media_type))
            .unwrap();
        if answer.media_type == JSON {
            self.is_valid(&media["schema"], &answer.json().unwrap(), &what);
        }
        if answer.status >= 400 {
            let error = answer.json().unwrap()["error"].clone();
            assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {error}");
            // Of what the client has sent the field, and always what to do.
            assert!(error["field"].is_string() || answer.status >= 500 || answer.status == 409, "{what}: {error}");
            assert!(error["mend"].is_string(), "{what}: {error}");
        }
        answer
    }

    fn is_valid(&self, schema: &Value, instance: &Value, what: &str) {
        // The schemas refer to each other by their place in the document.
        let mut whole = schema.as_object().unwrap().clone();
        whole.insert("components".into(), self.document["components"].clone());
        let validator = jsonschema::validator_for(&whole.into()).unwrap();
        let wrong: Vec<String> =
            validator.iter_errors(instance).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(wrong.is_empty(), "{what}: {wrong:#?} in {instance}");
    }

    fn operations(&self) -> Vec<(String, String, Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        let each = |(path, operations): (&String, &Value)| {
            let operations = operations.as_object().unwrap().clone();
            let path = path.clone();
            operations.into_iter().map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
        };
        paths.iter().flat_map(each).collect()
    }
}

/// Values of a parameter: good ones, and wrong ones.
fn values(parameter: &Value) -> (Vec<String>, Vec<String>) {
    let schema = &parameter["schema"];
    let (mut good, mut bad) = (Vec::new(), vec!["x".repeat(LONG), "%ff".into(), String::new()]);
    match schema["type"].as_str().unwrap() {
        "integer" => {
            let [least, most] = ["minimum", "maximum"].map(|key| schema[key].as_u64().unwrap());
            good.push(least.to_string());
            // What takes time is not tried at its longest.
            if !["seconds", "timeout"].contains(&parameter["name"].as_str().unwrap()) {
                good.push(most.to_string());
            }
            bad.extend(["x", "-1", "1.5", "0x10", "%2b1", "99999999999999999999"].map(String::from));
            bad.push((most + 1).to_string());
            bad.extend(least.checked_sub(1).map(|under| under.to_string()));
        }
        "boolean" => {
            good.extend(["true", "false"].map(String::from));
            bad.extend(["1", "yes", "TRUE"].map(String::from));
        }
        _ if schema["enum"].is_array() => {
            good.extend(schema["enum"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_string()));
            bad.extend(["nonsense", "1"].map(String::from));
        }
        _ if schema["examples"].is_array() => {
            let examples = schema["examples"].as_array().unwrap();
            good.extend(examples.iter().map(|word| word.as_str().unwrap().to_string()));
            bad.extend(["nonsense", "300.0.0.1", "192.0.2.0/33"].map(String::from));
        }
        _ => {
            let name = parameter["name"].as_str().unwrap();
            good.push(match name {
                "vm" | "name" => "a".into(),
                // There is none such, so nothing happens.
                "binary" => "/nowhere/vonicd".into(),
                _ => "0123abcd-7".into(),
            });
            if schema["pattern"].is_string() {
                bad.extend(["a%20b", "%2e%2e%2f", "a%00"].map(String::from));
            }
        }
    }
    (good, bad)
}

/// Bodies with their media types.
type Bodies = Vec<(String, Vec<u8>)>;

/// Configurations that are none.
fn wrong_vms(valid: &Value, keys: &Map<String, Value>, random: &mut Random) -> impl Iterator<Item = String> {
    let with = |key: &str, value: Value| {
        let mut body = valid.clone();
        body[key] = value;
        body.to_string()
    };
    // None of them is a good value of any key.
    let values = [json!(1.5), json!([[]]), json!("\u{0}"), json!("x".repeat(LONG)), json!({ "x": {} })];
    let each: Vec<String> = keys.keys().flat_map(|key| values.iter().map(|value| with(key, value.clone()))).collect();
    let more = [with("colour", "red".into()), valid.to_string()[..9].to_string()];
    let random: Vec<String> = (0..20).map(|_| random.json(4).to_string()).collect();
    each.into_iter().chain(more).chain(random)
}

/// Bodies for an operation: good ones, and wrong ones.
fn bodies(operation: &Value, random: &mut Random) -> (Bodies, Bodies) {
    let Some(content) = operation["requestBody"]["content"].as_object() else {
        return (Vec::new(), vec![(JSON.into(), b"{}".to_vec()), ("text/plain".into(), vec![b'x'; LONG_BODY])]);
    };
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (media_type, media) in content {
        let add = |to: &mut Bodies, body: Vec<u8>| to.push((media_type.clone(), body));
        if operation["requestBody"]["required"] == true {
            add(&mut bad, Vec::new());
        }
        add(&mut bad, vec![0xff; 100]);
        match media_type.as_str() {
            JSON => {
                add(&mut bad, vec![b' '; LONG_BODY]);
                add(&mut bad, "[".repeat(LONG).into_bytes());
                ["{\"", "[1]", "7", "\"x\""].iter().for_each(|text| add(&mut bad, (*text).into()));
                let keys = media["schema"]["properties"].as_object();
                if let Some(keys) = keys.filter(|keys| keys.contains_key("mac")) {
                    let valid = json!({ "mac": "52:54:00:00:00:20", "address4": "192.0.2.32" });
                    add(&mut good, valid.to_string().into_bytes());
                    wrong_vms(&valid, keys, random).for_each(|body| add(&mut bad, body.into_bytes()));
                }
            }
            "application/toml" => {
                add(&mut good, b"mac = \"52:54:00:00:00:21\"\naddress4 = \"192.0.2.33\"\n".to_vec());
                for text in
                    ["mac", "mac = 1", "mac = \"52:54:00:00:00:22\"\nmtu = 1", "mtu = 1500", "\u{0}", "a = {{", "[x]"]
                {
                    add(&mut bad, text.into());
                }
                add(&mut bad, "a = [".repeat(LONG / 5).into_bytes());
                add(&mut bad, format!("mac = \"{}\"", "x".repeat(LONG_BODY)).into_bytes());
            }
            _ => add(&mut bad, b"no state".to_vec()),
        }
    }
    bad.push(("image/png".into(), b"x".to_vec()));
    (good, bad)
}

/// Whether a good answer ends only when its reader has enough of it.
fn is_stream(operation: &Value) -> bool {
    let media_types = operation["responses"]["200"]["content"].as_object().unwrap().keys();
    media_types.into_iter().any(|media_type| media_type.starts_with("application/x-"))
}

/// What an operation is asked, and what of it is wrong.
fn walk(contract: &mut Contract, (method, path, operation): &(String, String, Value), random: &mut Random) {
    let of = (method.as_str(), path.as_str());
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    // What there has to be for anything good to come of it.
    let least: Vec<String> = parameters
        .iter()
        .filter(|parameter| parameter["in"] == "query" && parameter["required"] == true)
        .map(|parameter| format!("{}={}", parameter["name"].as_str().unwrap(), values(parameter).0[0]))
        .collect();
    let quick = if path.contains("migrate") { vec!["timeout=1".to_string()] } else { Vec::new() };
    let least = [least, quick].concat();
    let target = |name: &str, more: &[String]| {
        let query: Vec<String> = least
            .iter()
            .filter(|pair| !more.iter().any(|m| m.split('=').next() == pair.split('=').next()))
            .chain(more)
            .cloned()
            .collect();
        format!("{}?{}", path.replace("{name}", name), query.join("&"))
    };
    let (good_bodies, bad_bodies) = bodies(operation, random);
    let first = good_bodies.first().map(|(media_type, body)| (media_type.as_str(), body.as_slice()));
    // A VM of its own for what changes it.
    let name = if method == "GET" || path.contains("migrate") { "a" } else { "made" };

    for (media_type, body) in &bad_bodies {
        // Of an operation that takes none nothing that comes behind the head is read by GET.
        if method != "GET" {
            contract.ask(of, &target(name, &[]), Some((media_type, body)), true);
        }
    }
    for (media_type, body) in &good_bodies {
        let answer = contract.ask(of, &target(name, &[]), Some((media_type, body)), false);
        assert_eq!(answer.status, 200, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
    }
    for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
        let key = parameter["name"].as_str().unwrap();
        let (good, bad) = values(parameter);
        for value in &bad {
            contract.ask(of, &target(name, &[format!("{key}={value}")]), first, true);
        }
        contract.ask(of, &target(name, &[format!("{key}={}", good[0]), format!("{key}={}", good[0])]), first, true);
        if !is_stream(operation) {
            for value in &good {
                contract.ask(of, &target(name, &[format!("{key}={value}")]), first, false);
            }
        }
    }
    contract.ask(of, &target(name, &["nonsense=1".to_string()]), first, true);
    if path.contains("{name}") {
        // There is no such VM, or nothing that it could be made of.
        contract.ask(of, &target("nobody", &[]), None, true);
        for wrong in ["a%20b", "%2e%2e", "api", &"x".repeat(LONG)] {
            contract.ask(of, &target(wrong, &[]), first, true);
        }
    }
    let plain =
        good_bodies.is_empty() && !is_stream(operation) && parameters.iter().all(|parameter| parameter["in"] == "path");
    if plain && path != "/v1/engine/restart" {
        assert_eq!(contract.ask(of, &target(name, &[]), None, false).status, 200, "{method} {path}");
    }
}

/// The first line of a stream is of its schema.
fn events_begin(contract: &Contract) {
    let stream = http::open(&contract.socket(), "GET", "/v1/events?vm=a", None).unwrap();
    let line = BufReader::new(stream).lines().map(|line| line.unwrap()).find(|line| line.starts_with('{')).unwrap();
    let media = &contract.document["paths"]["/v1/events"]["get"]["responses"]["200"]["content"]["application/x-ndjson"];
    contract.is_valid(&media["schema"], &serde_json::from_str(&line).unwrap(), "an event");
}

/// What the file does not have is not there.
fn nothing_else(contract: &Contract) {
    let socket = contract.socket();
    let status = |method: &str, target: &str| http::ask(&socket, method, target, None).unwrap();
    for (path, operations) in contract.document["paths"].as_object().unwrap() {
        let target = path.replace("{name}", "a");
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"] {
            if operations.get(method.to_lowercase()).is_none() {
                let answer = status(method, &target);
                assert_eq!(answer.status, 405, "{method} {target}");
                assert!(!answer.allow.is_empty(), "{method} {target}");
            }
        }
    }
    let folders =
        ["/", "/v1", "/v1/", "/v2/vms", "/v1/vms/", "/v1/vms/a/", "/v1/vms/a/b", "/v1/VMS", "//v1/vms", "/metrics"];
    for target in
        folders.into_iter().chain(["/v1/vms%2fa", "/v1/migrate/save/", "/v1/../v1/vms", "*", "/v1/engine/status"])
    {
        for method in ["GET", "POST"] {
            let answer = status(method, target);
            assert!([404, 400].contains(&answer.status), "{method} {target}: {}", answer.status);
        }
    }
}

fn document(socket: &Path) -> Value {
    http::ask(socket, "GET", "/v1/openapi.json", None).unwrap().json().unwrap()
}

#[test]
fn every_operation_keeps_to_the_file() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let mut line = Line::guest_opens(&mut a, 4000).unwrap();
    line.exchange(&mut a).unwrap();
    let document = document(&bed.directory.path().join("run/api.sock"));
    let mut contract = Contract { bed, document, asked: 0 };
    let engine = contract.bed.vonicd.engine().unwrap();
    let mut random = Random(SEED);
    let operations = contract.operations();
    assert!(operations.len() >= 18, "{}", operations.len());
    // What is deleted is made first.
    let order = |(method, _, _): &&(String, String, Value)| method == "DELETE";
    for operation in operations.iter().filter(|o| !order(o)).chain(operations.iter().filter(order)) {
        walk(&mut contract, operation, &mut random);
    }
    events_begin(&contract);
    nothing_else(&contract);
    assert!(contract.asked > 300, "{} requests", contract.asked);

    // It is the engine that there was, and the guest has noticed nothing.
    assert_eq!(contract.bed.vonicd.engine().unwrap(), engine, "{}", contract.bed.vonicd.log());
    line.exchange(&mut a).unwrap();
    let names = |contract: &Contract| {
        let rows = contract.bed.vonicd.vonic(&["vm", "list", "--json"]).unwrap();
        rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&contract), ["a", "b"], "what was made is deleted, and nothing else was made");
    let restarted = contract.ask(("POST", "/v1/engine/restart"), "/v1/engine/restart", None, false);
    assert_eq!(restarted.status, 200);
    wait_until("another engine", seconds(10), || contract.bed.vonicd.engine().is_ok_and(|now| now != engine)).unwrap();
    line.exchange(&mut a).unwrap();
    let log = contract.bed.vonicd.log();
    assert!(!log.contains("panicked"), "{log}");
}
