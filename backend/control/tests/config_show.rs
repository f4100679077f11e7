//! Does `vonic config` show what vonicd goes by, as files that say the same again?
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use vonic_control::client;
use vonic_control::config::{self, Config, Sources, documents, load_sources};

#[path = "support/files.rs"]
mod files;
use files::Files;

/// Runs `vonic config`; exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = client::run(["vonic", "config"].iter().chain(arguments), &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn good(arguments: &[&str]) -> String {
    let (code, out, err) = run(arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
    out
}

/// What was printed, as the files that it is of.
fn sources(printed: &str) -> Sources {
    let mut sources = Sources::default();
    for part in printed.split("#### ").skip(1) {
        let (file, text) = part.split_once('\n').unwrap();
        let name = Path::new(file).file_stem().unwrap().to_str().unwrap();
        if !file.contains("/vms.d/") {
            sources.service = Some(text.to_string());
        } else {
            sources.vms.insert(name.to_string(), text.to_string());
        }
    }
    sources
}

/// That both forms that are printed make the configuration again.
fn says_the_same_again(files: &Files, dir: &str, what: &str) -> Config {
    let config = files.load().unwrap_or_else(|errors| panic!("{what}: {errors:?}"));
    for form in [&["show", "--config-dir", dir][..], &["show", "--effective", "--config-dir", dir]] {
        let printed = good(form);
        let again = load_sources(Path::new(dir), &sources(&printed));
        let again = again.unwrap_or_else(|errors| panic!("{what}: {errors}\n{printed}"));
        let again = Config { sources: config.sources.clone(), ..again };
        assert_eq!(again, config, "{what}: {form:?}\n{printed}");
    }
    config
}

/// Keys with values that are no defaults, and where they stand.
const SERVICE: &[(&str, &str)] = &[
    ("runtime_dir", "'/run/a \"b\"\\c'"),
    ("user", "'some one'"),
    ("workers", "3"),
    ("poll_us", "0"),
    ("poll_us", "'always'"),
    ("poll_us", "1_000"),
    ("metrics_listen", "'[::1]:9477'"),
    ("resolv_conf", "'/tmp/ü'"),
    ("heartbeat_ms", "0"),
    ("heartbeat_ms", "500"),
    ("reload_on_change", "true"),
    ("quarantine", "false"),
    ("seccomp", "'kill'"),
    ("seccomp", "'off'"),
    ("landlock", "false"),
    ("migration.depart", "['/bin/a', 'b c', \"d\\te\"]"),
    ("migration.arrive", "[]"),
    ("migration.limit_ms", "4000"),
];
const NETWORK: &[(&str, &str)] = &[
    ("subnet6", "'2001:db8::/64'\ngateway6 = '2001:db8::1'\nhost_loopback6 = '2001:db8::9'\nslaac = true"),
    ("host_loopback4", "'192.0.2.9'"),
    ("reach_host", "true"),
    ("isolated", "true"),
    ("dns", "[]"),
    ("dns", "['198.51.100.53', '2001:db8:5::1']"),
    ("search", "['example.org', 'b.example']"),
    ("coalesce", "false"),
    ("coalesce_us", "1000"),
];
const VM: &[(&str, &str)] = &[
    ("address6", "'2001:db8::2'"),
    ("hostname", "'other'"),
    ("hostname", "''"),
    ("worker", "2"),
    ("queue_pairs", "2"),
    ("mtu", "1280"),
    ("socket_mode", "'client'"),
    ("failover", "false"),
    ("ack", "'peer'"),
    ("coalesce", "true"),
    ("coalesce", "false"),
    ("call_us", "10"),
    ("call_frames", "1"),
    ("labels", "{ tier = 'web', \"a b\" = 'c \"d\" \\e ü' }"),
    ("labels", "{}"),
    ("features", "{ csum = false }"),
    ("features", "{ ctrl_vq = false, tso = false, in_order = false }"),
    ("limits", "{ connections = 1, udp_flows = 2 }"),
    ("limits", "{ pending = 3, pending_per_destination = 4, new_per_second = 5, groups_per_second = 6 }"),
    (
        "forward",
        "[{ proto = 'tcp', listen = '*:8000-8010', port = 80 }, { proto = 'udp', listen = '127.0.0.1:53', port = 53, failover = false }]",
    ),
    (
        "egress",
        "[{ action = 'allow', to = '198.51.100.7', proto = 'tcp', ports = '443' }, { action = 'deny', to = '2001:db8:7::/48' }]",
    ),
];

/// A configuration in which these are written. The network has both families where something needs it.
fn files(service: &[(&str, &str)], network: &[(&str, &str)], vm: &[(&str, &str)]) -> Files {
    let lines = |keys: &[(&str, &str)]| -> String {
        keys.iter().filter(|(key, _)| !key.contains('.')).map(|(key, value)| format!("{key} = {value}\n")).collect()
    };
    let nested: String = service
        .iter()
        .filter_map(|(key, value)| Some(format!("{} = {value}\n", key.strip_prefix("migration.")?)))
        .collect();
    let v6 = vm.iter().any(|(key, _)| *key == "address6") && !network.iter().any(|(key, _)| *key == "subnet6");
    let v6 = if v6 { "subnet6 = '2001:db8::/64'\ngateway6 = '2001:db8::1'\n" } else { "" };
    let workers = vm.iter().any(|(key, _)| *key == "worker") && !service.iter().any(|(key, _)| *key == "workers");
    let workers = if workers { "workers = 3\n" } else { "" };
    let service = format!(
        "{workers}{}[migration]\n{nested}[network.default]\nsubnet4 = '192.0.2.0/24'\ngateway4 = '192.0.2.1'\n{v6}{}",
        lines(service),
        lines(network)
    );
    let vm = format!("mac = '52:54:00:00:00:02'\naddress4 = '192.0.2.2'\n{}", lines(vm));
    Files::new(&[("vonic.toml", &service), ("a.toml", &vm)])
}

#[test]
fn every_key_alone_comes_back_as_it_was() {
    let mut shown: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    let mut check = |service: &[(&str, &str)], network: &[(&str, &str)], vm: &[(&str, &str)]| {
        let files = files(service, network, vm);
        let what = format!("{service:?} {network:?} {vm:?}");
        let config = says_the_same_again(&files, files.path().to_str().unwrap(), &what);
        for table in documents(files.path(), &config).into_iter().flat_map(|document| document.tables) {
            let header = table.header.unwrap_or_default();
            for setting in table.settings {
                shown.entry(format!("{header} {}", setting.key)).or_default().insert(setting.line.is_some());
            }
        }
    };
    check(&[], &[], &[]);
    SERVICE.iter().for_each(|key| check(&[*key], &[], &[]));
    NETWORK.iter().for_each(|key| check(&[], &[*key], &[]));
    VM.iter().for_each(|key| check(&[], &[], &[*key]));
    // Each was given in one of them, but for the features that nobody switched.
    let never: Vec<&String> = shown.iter().filter(|(_, given)| !given.contains(&true)).map(|(key, _)| key).collect();
    let but = ["[features]", "[network.default] uplink", " network"];
    assert!(never.iter().all(|key| but.iter().any(|known| key.starts_with(known))), "{never:?}");
}

#[test]
fn any_of_them_together_come_back_as_they_were() {
    // xorshift (Marsaglia 2003): the same choices each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chosen = |keys: &'static [(&'static str, &'static str)]| -> Vec<(&'static str, &'static str)> {
        let mut names = BTreeSet::new();
        let mut coin = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 32 & 1 == 1
        };
        keys.iter().filter(|_| coin()).filter(|(name, _)| names.insert(*name)).copied().collect()
    };
    for round in 0..100 {
        let (service, network, mut vm) = (chosen(SERVICE), chosen(NETWORK), chosen(VM));
        // Two pairs need the control queue.
        if vm.iter().any(|(_, value)| value.contains("ctrl_vq")) {
            vm.retain(|(key, _)| *key != "queue_pairs");
        }
        let files = files(&service, &network, &vm);
        says_the_same_again(&files, files.path().to_str().unwrap(), &format!("round {round}"));
    }
}

#[test]
fn bridges_and_other_networks_come_back_too() {
    for service in [
        "",
        "[network.default]\nuplink = 'none'\n",
        "[network.default]\nuplink = 'tap:br0'\nsubnet4 = '192.0.2.0/24'\n[network.'a.b']\nuplink = 'packet:eth0'\nisolated = true\n",
    ] {
        let files = Files::new(&[("vonic.toml", service), ("a.b.toml", "mac = '52:54:00:00:00:02'\n")]);
        says_the_same_again(&files, files.path().to_str().unwrap(), service);
    }
    let none = Files::new(&[("a.toml", "mac = '52:54:00:00:00:02'\n")]);
    let dir = none.path().to_str().unwrap();
    says_the_same_again(&none, dir, "no vonic.toml");
    assert!(!good(&["show", "--config-dir", dir]).contains("vonic.toml"));
}

#[test]
fn each_value_says_where_it_comes_from() {
    let service = "# a comment\nworkers = 2\n\n[network.default]\nsubnet4 = '192.0.2.0/24'\ngateway4 = '192.0.2.1'\ncoalesce = false\n";
    let vm = "mac = '52:54:00:00:00:02'\n\nfeatures = { tso = false }\n[labels]\ntier = 'web'\n";
    let files = Files::new(&[("vonic.toml", service), ("a.toml", vm), ("b.toml", "mac = '52:54:00:00:00:03'\n")]);
    let dir = files.path().to_str().unwrap();
    let printed = good(&["show", "--effective", "--config-dir", dir]);
    let line = |begin: &str| {
        let line = printed.lines().find(|line| line.starts_with(begin));
        let line = line.unwrap_or_else(|| panic!("no '{begin}' in\n{printed}"));
        line.split_once("  # ").map(|(text, origin)| (text.trim_end().to_string(), origin.to_string())).unwrap()
    };
    let is = |begin: &str, text: &str, origin: &str| assert_eq!(line(begin), (text.into(), origin.into()));
    is("workers", "workers = 2", "vonic.toml:2");
    is("runtime_dir", "runtime_dir = \"/run/vonic\"", "default");
    is("# metrics_listen", "# metrics_listen", "absent: by the API's socket only");
    is("subnet4", "subnet4 = \"192.0.2.0/24\"", "vonic.toml:5");
    is("mac", "mac = \"52:54:00:00:00:02\"", "a.toml:1");
    is("# coalesce", "# coalesce = false", "absent: the network's");
    is("tso", "tso = false", "a.toml:3");
    is("ecn", "ecn = false", "default");
    is("tier", "tier = \"web\"", "a.toml:5");

    assert_eq!(
        good(&["show", "a", "--config-dir", dir]),
        format!(
            "#### {dir}/vms.d/a.toml\nmac = \"52:54:00:00:00:02\"\n\n[labels]\ntier = \"web\"\n\n[features]\ntso = false\n"
        )
    );
    let json: Value =
        serde_json::from_str(&good(&["show", "b", "--effective", "--json", "--config-dir", dir])).unwrap();
    assert_eq!((&json[0]["vm"], &json[1]), (&json!("b"), &Value::Null));
    let mtu = json[0]["tables"][0]["settings"].as_array().unwrap().iter().find(|one| one["key"] == "mtu").unwrap();
    assert_eq!(mtu, &json!({ "key": "mtu", "value": 1500, "line": null, "unwritten": null }));
}

#[test]
fn what_is_wrong_is_said_as_a_start_would() {
    let files =
        Files::new(&[("a.toml", "mac = '52:54:00:00:00:02'\nmtu = 1\n"), ("b.toml", "mac = '52:54:00:00:00:03'\n")]);
    let dir = files.path().to_str().unwrap();
    let errors = config::load(files.path()).unwrap_err().to_string();
    let (code, out, err) = run(&["check", dir]);
    assert_eq!((code, out.as_str(), err), (1, "", format!("vonic: 1 found wrong:\n{errors}\n")));
    let (code, out, _) = run(&["check", dir, "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["good"], &json["errors"][0]["line"]), (1, &json!(false), &json!(2)));
    // The rest is shown.
    let (code, out, err) = run(&["show", "--config-dir", dir]);
    assert!(
        code == 1 && out.contains("b.toml") && !out.contains("a.toml") && err.contains("a.toml:2: mtu"),
        "{out}{err}"
    );
    assert!(good(&["show", "b", "--config-dir", dir]).contains("52:54:00:00:00:03"));
    let (code, _, err) = run(&["show", "a", "--config-dir", dir]);
    assert!(code == 1 && err.contains("a.toml:2: mtu"), "{err}");
    let (code, _, err) = run(&["show", "c", "--config-dir", dir]);
    assert!(code == 1 && err.contains("there is no VM 'c'"), "{err}");

    let files = Files::new(&[("b.toml", "mac = '52:54:00:00:00:03'\n")]);
    let dir = files.path().to_str().unwrap();
    assert_eq!(good(&["check", dir]), "the configuration is good: 1 networks, 1 VMs\n");
    assert_eq!(good(&["check", dir, "--json"]), "{\"errors\":[],\"good\":true}\n");
    let (code, _, err) = run(&["check", "/nowhere/at/all"]);
    assert!(code == 1 && err.contains("there is no such directory"), "{err}");
}
