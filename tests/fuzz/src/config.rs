//! The operator's files: errors are told with their lines, and what `vonic config show` prints is the same configuration.
use std::collections::BTreeMap;
use std::path::Path;

use vonic_control::config::{Config, Document, Sources, diff, diff_networks, documents, load_sources, with_vm};

const DIR: &str = "/nonexistent/vonic";

/// Texts out of an input: a line of `%%%` ends each. The first is `vonic.toml`, the others are VMs'.
fn sources(data: &[u8]) -> Option<Sources> {
    let text = str::from_utf8(data).ok()?;
    let mut texts = text.split("%%%\n").map(String::from);
    let service = texts.next();
    let vms = texts.zip(["a", "b.c", "d-e"]).map(|(text, name)| (name.to_string(), text)).collect();
    Some(Sources { service, vms })
}

fn load(sources: &Sources) -> Option<Config> {
    match load_sources(Path::new(DIR), sources) {
        Ok(config) => Some(config),
        Err(errors) => {
            assert!(!errors.0.is_empty() && !errors.to_string().is_empty());
            None
        }
    }
}

/// An input is the files of a configuration.
pub fn run(data: &[u8]) {
    let Some(sources) = sources(data) else { return };
    let Some(config) = load(&sources) else { return };
    let shown = documents(Path::new(DIR), &config);
    let service = shown.iter().find(|document| document.vm.is_none()).map(text);
    let vms = shown.iter().filter_map(|document| Some((document.vm.clone()?, text(document))));
    let again = Sources { service, vms: vms.collect() };
    let read = load_sources(Path::new(DIR), &again);
    let same = read.as_ref().is_ok_and(|read| same(read, &config));
    assert!(same, "{sources:#?}\nis shown as\n{again:#?}\nwhich is\n{read:#?}");
}

/// As it is printed.
fn text(document: &Document) -> String {
    let mut text = String::new();
    for table in &document.tables {
        text.extend(table.header.iter().map(|header| format!("{header}\n")));
        for setting in table.settings.iter().filter(|setting| setting.unwritten.is_none()) {
            text.extend(setting.value.iter().map(|value| format!("{} = {}\n", setting.toml_key(), value.toml())));
        }
    }
    text
}

/// All but the texts.
fn same(one: &Config, other: &Config) -> bool {
    (&one.service, &one.networks, &one.vms) == (&other.service, &other.networks, &other.vms)
}

/// An input is two configurations, a line of `###` between them: what differs, applied to the first, makes the second; and each VM of
/// the second is given to the first by itself, as the API does.
pub fn reload(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Some((old, new)) = text.split_once("###\n") else { return };
    let (Some(old), Some(new)) = (sources(old.as_bytes()), sources(new.as_bytes())) else { return };
    let Some(old) = load(&old) else { return };
    for (name, text) in &new.vms {
        if let Ok(config) = with_vm(Path::new(DIR), &old, name, Some(text)) {
            assert!(config.vms.contains_key(name));
            let others =
                |config: &Config| config.vms.values().filter(|vm| vm.name != *name).cloned().collect::<Vec<_>>();
            assert_eq!(others(&config), others(&old));
        }
    }
    let Some(new) = load(&new) else { return };
    let mut vms: BTreeMap<_, _> = old.vms.clone();
    for change in diff(&old, &new) {
        use vonic_control::config::Change::{Added, Changed, Removed};
        match change {
            Added(vm) => assert!(vms.insert(vm.name.clone(), *vm).is_none(), "added, and was there"),
            Changed(vm) => assert!(vms.insert(vm.name.clone(), *vm).is_some(), "changed, and was not there"),
            Removed(name) => assert!(vms.remove(&name).is_some(), "removed, and was not there"),
        }
    }
    assert_eq!(vms, new.vms);
    let mut networks = old.networks.clone();
    for change in diff_networks(&old, &new) {
        use vonic_control::config::NetworkChange::{Added, Changed, Removed};
        match change {
            Added(network) | Changed(network) => drop(networks.insert(network.name.clone(), network)),
            Removed(name) => assert!(networks.remove(&name).is_some()),
        }
    }
    assert_eq!(networks, new.networks);
}
