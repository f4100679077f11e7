//! Every key with the value that it has, and where that is written: what `vonic config show` prints.
//!
//! Values come from the checked configuration, so that they are what vonicd goes by; the files' texts only say which keys stand there, and
//! in which line. Read again, what is printed makes the same configuration.
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::de::{DeTable, DeValue};
use toml_writer::{ToTomlKey, ToTomlValue, TomlKeyBuilder, TomlStringBuilder};

use super::model::ports_text;
use super::reader::Source;
use super::{Action, Config, EgressRule, FEATURES, Forward, Hooks, Limits, Network, Poll, Service, Vm};

/// One file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// Where it lies, or would lie: without `vonic.toml` there are defaults.
    pub file: PathBuf,
    /// The VM that it is of; absent of `vonic.toml`.
    pub vm: Option<String>,
    /// Its tables in their order.
    pub tables: Vec<ShownTable>,
}

/// One table of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownTable {
    /// Its header as it is written, `[network.default]`; absent of what stands above the first.
    pub header: Option<String>,
    /// The line where it begins, if it stands in the file.
    pub line: Option<usize>,
    /// Its keys in the order of the documentation.
    pub settings: Vec<Setting>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// Its value; absent where there is none.
    pub value: Option<Value>,
    /// The line in which it is given; absent of a default.
    pub line: Option<usize>,
    /// Why the key must not be written for it to have this value.
    pub unwritten: Option<&'static str>,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer.
    Number(u64),
    /// `true` or `false`.
    Flag(bool),
    /// An array of strings.
    List(Vec<String>),
}

impl Value {
    /// As it is written in a file.
    pub fn toml(&self) -> String {
        let string = |text: &str| TomlStringBuilder::new(text).as_basic().to_toml_value();
        match self {
            Value::Text(text) => string(text),
            Value::Number(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::List(list) => format!("[{}]", list.iter().map(|text| string(text)).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Setting {
    /// The key as it is written in a file.
    pub fn toml_key(&self) -> String {
        TomlKeyBuilder::new(&self.key).as_default().to_toml_key()
    }
}

/// Where keys stand in a file.
#[derive(Clone, Copy)]
struct Place<'a, 'i> {
    source: &'a Source,
    entries: Option<&'a DeTable<'i>>,
    line: Option<usize>,
}

impl<'a, 'i> Place<'a, 'i> {
    fn entry(&self, key: &str) -> Option<(usize, &'a DeValue<'i>)> {
        let (name, value) = self.entries?.get_key_value(key)?;
        Some((self.source.line(name.span().start), value.get_ref()))
    }

    fn line_of(&self, key: &str) -> Option<usize> {
        self.entry(key).map(|(line, _)| line)
    }

    fn table(&self, key: &str) -> Place<'a, 'i> {
        let entry = self.entry(key);
        let entries = entry.and_then(|(_, value)| value.as_table());
        Place { source: self.source, entries, line: entry.map(|(line, _)| line) }
    }

    /// One of an array of tables.
    fn element(&self, key: &str, index: usize) -> Place<'a, 'i> {
        let element = self.entry(key).and_then(|(_, value)| value.as_array()?.get(index));
        let entries = element.and_then(|element| element.get_ref().as_table());
        Place { source: self.source, entries, line: element.map(|element| self.source.line(element.span().start)) }
    }

    fn finish(self, header: Option<String>, settings: Settings<'_, '_>) -> ShownTable {
        ShownTable { header, line: self.line, settings: settings.all }
    }
}

/// The keys of one table while they are listed.
struct Settings<'a, 'i> {
    place: Place<'a, 'i>,
    all: Vec<Setting>,
}

impl<'a, 'i> Settings<'a, 'i> {
    fn new(place: Place<'a, 'i>) -> Self {
        Settings { place, all: Vec::new() }
    }

    fn value(&mut self, key: &str, value: Value) {
        self.push(key, Some(value), None);
    }

    fn text(&mut self, key: &str, text: impl ToString) {
        self.value(key, Value::Text(text.to_string()));
    }

    fn number(&mut self, key: &str, number: impl Into<u64>) {
        self.value(key, Value::Number(number.into()));
    }

    fn flag(&mut self, key: &str, flag: bool) {
        self.value(key, Value::Flag(flag));
    }

    fn list<T: ToString>(&mut self, key: &str, list: &[T]) {
        self.value(key, Value::List(list.iter().map(ToString::to_string).collect()));
    }

    /// A text, or what its absence means.
    fn text_or(&mut self, key: &str, text: Option<impl ToString>, absent: &'static str) {
        match text {
            Some(text) => self.text(key, text),
            None => self.push(key, None, Some(absent)),
        }
    }

    fn push(&mut self, key: &str, value: Option<Value>, unwritten: Option<&'static str>) {
        self.all.push(Setting { key: key.to_string(), value, line: self.place.line_of(key), unwritten });
    }
}

/// Every file of a configuration: `vonic.toml`, and each VM's.
pub fn documents(dir: &Path, config: &Config) -> Vec<Document> {
    let file = dir.join("vonic.toml");
    let text = config.sources.service.as_deref().unwrap_or_default();
    let tables = with_place(&file, text, |root| service_tables(config, root));
    let mut documents = vec![Document { file, vm: None, tables }];
    for (name, vm) in &config.vms {
        let file = dir.join("vms.d").join(format!("{name}.toml"));
        let text = config.sources.vms.get(name).map(String::as_str).unwrap_or_default();
        let tables = with_place(&file, text, |root| vm_tables(config, vm, root));
        documents.push(Document { file, vm: Some(name.clone()), tables });
    }
    documents
}

fn with_place<T>(file: &Path, text: &str, show: impl FnOnce(Place<'_, '_>) -> T) -> T {
    let source = Source::new(file, text);
    // It was good when the configuration was made from it.
    let entries = source.parse(text);
    show(Place { source: &source, entries: entries.as_ref(), line: None })
}

fn service_tables(config: &Config, root: Place<'_, '_>) -> Vec<ShownTable> {
    let Service {
        runtime_dir,
        user,
        workers,
        poll,
        metrics_listen,
        reload_on_change,
        resolv_conf,
        heartbeat,
        quarantine,
        seccomp,
        landlock,
        migration,
    } = &config.service;
    let mut top = Settings::new(root);
    top.text("runtime_dir", runtime_dir.display());
    top.text_or("user", user.as_ref(), "who starts vonicd");
    top.number("workers", *workers);
    top.value(
        "poll_us",
        match poll {
            Poll::Never => Value::Number(0),
            Poll::For(time) => Value::Number(time.as_micros() as u64),
            Poll::Always => Value::Text("always".to_string()),
        },
    );
    top.text_or("metrics_listen", *metrics_listen, "by the API's socket only");
    top.flag("reload_on_change", *reload_on_change);
    top.text("resolv_conf", resolv_conf.display());
    top.number("heartbeat_ms", heartbeat.map_or(0, |time| time.as_millis() as u64));
    top.flag("quarantine", *quarantine);
    top.text("seccomp", seccomp.name());
    top.flag("landlock", *landlock);
    let mut tables = vec![root.finish(None, top), hooks(migration, root.table("migration"))];
    let networks = root.table("network");
    tables.extend(config.networks.values().map(|one| network(one, networks.table(&one.name))));
    tables
}

fn hooks(hooks: &Hooks, place: Place<'_, '_>) -> ShownTable {
    let Hooks { depart, arrive, limit } = hooks;
    let mut keys = Settings::new(place);
    keys.list("depart", depart);
    keys.list("arrive", arrive);
    keys.number("limit_ms", limit.as_millis() as u64);
    place.finish(Some("[migration]".to_string()), keys)
}

fn network(network: &Network, place: Place<'_, '_>) -> ShownTable {
    const NONE: &str = "none";
    const THEIRS: &str = "the router of that network decides";
    let Network {
        name,
        subnet4,
        gateway4,
        subnet6,
        gateway6,
        uplink,
        host_loopback4,
        host_loopback6,
        reach_host,
        isolated,
        dns,
        search,
        slaac,
        coalesce,
        coalesce_us,
    } = network;
    let mut keys = Settings::new(place);
    keys.text_or("subnet4", subnet4.as_ref(), NONE);
    keys.text_or("gateway4", *gateway4, NONE);
    keys.text_or("subnet6", subnet6.as_ref(), NONE);
    keys.text_or("gateway6", *gateway6, NONE);
    keys.text("uplink", uplink);
    keys.text_or("host_loopback4", *host_loopback4, NONE);
    keys.text_or("host_loopback6", *host_loopback6, NONE);
    keys.flag("reach_host", *reach_host);
    keys.flag("isolated", *isolated);
    match dns {
        Some(dns) => keys.list::<IpAddr>("dns", dns),
        None => keys.push("dns", None, Some("those of resolv_conf")),
    }
    // Not even their defaults have a place at a bridge.
    if network.uplink.is_bridged() {
        keys.push("search", None, Some(THEIRS));
        keys.push("slaac", None, Some(THEIRS));
    } else {
        keys.list("search", search);
        keys.flag("slaac", *slaac);
    }
    keys.flag("coalesce", *coalesce);
    keys.number("coalesce_us", *coalesce_us);
    let name = TomlKeyBuilder::new(name).as_default().to_toml_key();
    place.finish(Some(format!("[network.{name}]")), keys)
}

fn vm_tables(config: &Config, vm: &Vm, root: Place<'_, '_>) -> Vec<ShownTable> {
    let Vm {
        name: _,
        mac,
        network,
        address4,
        address6,
        hostname,
        worker,
        queue_pairs,
        mtu,
        socket_mode,
        failover,
        ack,
        coalesce,
        call_us,
        call_frames,
        labels,
        features,
        limits,
        forwards,
        egress,
    } = vm;
    let mut top = Settings::new(root);
    top.text("mac", mac);
    top.text("network", network);
    top.text_or("address4", *address4, "filtered by its MAC alone, no lease");
    top.text_or("address6", *address6, "those that the guest claims");
    top.text("hostname", hostname.as_deref().unwrap_or_default());
    match worker {
        Some(worker) => top.number("worker", *worker),
        None => top.push("worker", None, Some("the one with the fewest ports")),
    }
    top.number("queue_pairs", *queue_pairs);
    top.number("mtu", *mtu);
    top.text("socket_mode", socket_mode);
    top.flag("failover", *failover);
    top.text("ack", ack.name());
    match (coalesce, config.networks.get(network)) {
        (Some(coalesce), _) => top.flag("coalesce", *coalesce),
        (None, network) => {
            let theirs = network.map(|network| Value::Flag(network.coalesce));
            top.push("coalesce", theirs, Some("the network's"));
        }
    }
    top.number("call_us", *call_us);
    top.number("call_frames", *call_frames);
    let mut tables = vec![root.finish(None, top)];
    let place = root.table("labels");
    let mut keys = Settings::new(place);
    labels.iter().for_each(|(name, value)| keys.text(name, value));
    tables.push(place.finish(Some("[labels]".to_string()), keys));
    let place = root.table("features");
    let mut keys = Settings::new(place);
    FEATURES.iter().for_each(|feature| keys.flag(feature.name, features.get(feature)));
    tables.push(place.finish(Some("[features]".to_string()), keys));
    tables.push(limit_table(limits, root.table("limits")));
    tables.extend(forwards.iter().enumerate().map(|(i, one)| forward(one, root.element("forward", i))));
    tables.extend(egress.iter().enumerate().map(|(i, one)| rule(one, root.element("egress", i))));
    tables
}

fn limit_table(limits: &Limits, place: Place<'_, '_>) -> ShownTable {
    let Limits { connections, pending, pending_per_destination, udp_flows, new_per_second, groups_per_second } =
        *limits;
    let mut keys = Settings::new(place);
    keys.number("connections", connections);
    keys.number("pending", pending);
    keys.number("pending_per_destination", pending_per_destination);
    keys.number("udp_flows", udp_flows);
    keys.number("new_per_second", new_per_second);
    keys.number("groups_per_second", groups_per_second);
    place.finish(Some("[limits]".to_string()), keys)
}

fn forward(forward: &Forward, place: Place<'_, '_>) -> ShownTable {
    let Forward { proto, listen, port, failover } = forward;
    let mut keys = Settings::new(place);
    keys.text("proto", proto);
    keys.text("listen", listen);
    keys.number("port", *port);
    keys.flag("failover", *failover);
    place.finish(Some("[[forward]]".to_string()), keys)
}

fn rule(rule: &EgressRule, place: Place<'_, '_>) -> ShownTable {
    const ANY: &str = "any";
    let EgressRule { action, to, proto, ports } = rule;
    let mut keys = Settings::new(place);
    keys.text(
        "action",
        match action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        },
    );
    keys.text("to", to);
    keys.text_or("proto", *proto, ANY);
    keys.text_or("ports", ports.as_ref().map(ports_text), ANY);
    place.finish(Some("[[egress]]".to_string()), keys)
}

#[cfg(test)]
mod tests {
    use super::super::keys::{EGRESS, FEATURE_SWITCHES, FORWARD, LIMITS, MIGRATION, NETWORK, SERVICE, Section, VM};
    use super::super::{Sources, load_sources};
    use super::*;

    #[test]
    fn every_key_of_every_table_is_shown_in_its_order() {
        let vm = "mac = '52:54:00:00:00:02'\naddress4 = '192.0.2.2'\nlabels = { a = 'b' }\n\
                  [[forward]]\nproto = 'tcp'\nlisten = '*:80'\nport = 80\n[[egress]]\naction = 'deny'\nto = '192.0.2.0/24'\n";
        let sources = Sources { service: None, vms: [("a".to_string(), vm.to_string())].into() };
        let config = load_sources(Path::new("/etc/vonic"), &sources).unwrap();
        let documents = documents(Path::new("/etc/vonic"), &config);
        let keys = |document: &Document, header: Option<&str>| -> Vec<String> {
            let table = document.tables.iter().find(|table| table.header.as_deref() == header).unwrap();
            table.settings.iter().map(|setting| setting.key.clone()).collect()
        };
        // Tables below a table are shown by themselves.
        let known = |section: &Section, without: &[&str]| -> Vec<String> {
            let names = (section.keys)().into_iter().map(|key| key.name);
            names.filter(|name| !without.contains(name)).map(String::from).collect()
        };
        let [service, vm] = &documents[..] else { panic!("{documents:?}") };
        assert_eq!(keys(service, None), known(&SERVICE, &["migration", "network"]));
        assert_eq!(keys(service, Some("[migration]")), known(&MIGRATION, &[]));
        assert_eq!(keys(service, Some("[network.default]")), known(&NETWORK, &[]));
        assert_eq!(keys(vm, None), known(&VM, &["labels", "features", "limits", "forward", "egress"]));
        assert_eq!(keys(vm, Some("[labels]")), ["a"]);
        assert_eq!(keys(vm, Some("[features]")), known(&FEATURE_SWITCHES, &[]));
        assert_eq!(keys(vm, Some("[limits]")), known(&LIMITS, &[]));
        assert_eq!(keys(vm, Some("[[forward]]")), known(&FORWARD, &[]));
        assert_eq!(keys(vm, Some("[[egress]]")), known(&EGRESS, &[]));
    }
}
