//! What are the programs and their tests built of, and may it be? `deny.toml` has the lists; cargo-deny reads them, too (`make deny`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;
use vonic_packaging::{bill, project};

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap()
}

fn rules() -> toml::Table {
    read("deny.toml").parse().unwrap()
}

/// The texts of a list in `deny.toml`; of a list of tables, what stands at `key`.
fn list(path: &[&str], key: &str) -> BTreeSet<String> {
    let rules = toml::Value::Table(rules());
    let found = path.iter().fold(&rules, |value, name| &value[*name]);
    found
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry.get(key).unwrap_or(entry).as_str().unwrap().to_string())
        .collect()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env::var_os("CARGO").unwrap()).args(arguments).current_dir(project()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The packages of others that are built for anything in the project on Linux, as `cargo metadata` has them.
fn packages() -> Vec<Value> {
    let tree = cargo(&["tree", "--locked", "--workspace", "-e", "all", "--prefix", "none", "--format", "{p}"]);
    let built: BTreeSet<&str> = tree.lines().filter(|line| line.contains(" v")).collect();
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--locked", "--format-version", "1"])).unwrap();
    let is_built = |package: &&Value| {
        let named = format!("{} v{}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        built.iter().any(|line| line.strip_prefix(&named).is_some_and(|rest| rest.is_empty() || rest.starts_with(" (")))
    };
    let own = |package: &&Value| package["source"].is_null() && package["name"].as_str().unwrap().starts_with("vonic-");
    let found: Vec<Value> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| !own(package))
        .filter(is_built)
        .cloned()
        .collect();
    assert!(found.len() > 150, "{} packages: the tree is not understood", found.len());
    found
}

fn name(package: &Value) -> String {
    package["name"].as_str().unwrap().to_string()
}

/// The sources of those targets of a package that are of such a kind.
fn sources(package: &Value, kind: &str) -> Vec<String> {
    let targets = package["targets"].as_array().unwrap().iter();
    let of_kind = targets.filter(|target| target["kind"].as_array().unwrap().iter().any(|found| found == kind));
    of_kind.map(|target| target["src_path"].as_str().unwrap().to_string()).collect()
}

#[test]
fn everything_comes_from_the_registry_with_a_checksum() {
    let elsewhere: Vec<String> = packages()
        .iter()
        .filter(|package| package["source"] != "registry+https://github.com/rust-lang/crates.io-index")
        .map(|package| format!("{} from {}", name(package), package["source"]))
        .collect();
    assert!(elsewhere.is_empty(), "not from crates.io: {elsewhere:?}");
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    for package in lock["package"].as_array().unwrap() {
        assert_eq!(package.get("source").is_some(), package.get("checksum").is_some(), "{package}");
    }
}

#[test]
fn every_licence_is_one_that_was_agreed_to() {
    let allowed = list(&["licenses", "allow"], "name");
    let mut needed = BTreeSet::new();
    for package in packages() {
        let text = package["license"].as_str().unwrap_or_default();
        let expression = spdx::Expression::parse_mode(text, spdx::ParseMode::LAX)
            .unwrap_or_else(|error| panic!("{}: licence {text:?}: {error}", name(&package)));
        let is_allowed = |license: &spdx::LicenseReq| {
            let named = license.to_string();
            needed.insert(named.clone());
            allowed.contains(&named)
        };
        assert!(
            expression.evaluate(is_allowed),
            "{} has the licence {text}: choose another package, or agree to it in deny.toml and backend/docs/supply-chain.md",
            name(&package)
        );
    }
    let unused: Vec<_> = allowed.difference(&needed).collect();
    assert!(unused.is_empty(), "agreed to in deny.toml, and nobody has it: {unused:?}");
}

/// Code that runs where vonic is built: build scripts and macros.
#[test]
fn who_runs_code_while_vonic_is_built_is_known() {
    let packages = packages();
    let of_kind = |kind: &str| -> BTreeSet<String> {
        packages.iter().filter(|package| !sources(package, kind).is_empty()).map(name).collect()
    };
    let page = read("backend/docs/supply-chain.md");
    let (_, macros) = page.split_once("Macros: ").unwrap();
    let macros: BTreeSet<String> =
        macros.split_once("\n\n").unwrap().0.split('`').skip(1).step_by(2).map(String::from).collect();
    for (found, known, place) in [
        (
            of_kind("custom-build"),
            list(&["bans", "build", "allow-build-scripts"], "name"),
            "allow-build-scripts in deny.toml",
        ),
        (of_kind("proc-macro"), macros, "Macros in backend/docs/supply-chain.md"),
    ] {
        let (new, gone): (Vec<_>, Vec<_>) = (found.difference(&known).collect(), known.difference(&found).collect());
        assert!(
            new.is_empty() && gone.is_empty(),
            "{place}: new {new:?}, gone {gone:?}. Read what a new one runs (build.rs, and what it needs): it must fetch nothing, \
             write only into OUT_DIR, and run nothing but the compiler; then name it there"
        );
    }
}

#[test]
fn no_build_script_fetches_or_runs_anything_but_a_compiler() {
    // What libc's own asks on other systems than Linux.
    const ELSEWHERE: &[&str] = &["\"freebsd-version\"", "emcc"];
    const NETWORK: &[&str] = &["std::net", "TcpStream", "UdpSocket", "reqwest", "ureq", "curl", "wget", "git2"];
    let mut programs = 0;
    for package in packages() {
        for path in sources(&package, "custom-build") {
            let text = fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                let place = format!("{path}:{}: {line}", number + 1);
                assert!(!NETWORK.iter().any(|word| line.contains(word)), "it may fetch: {place}");
                let Some((_, run)) = line.split_once("Command::new(") else { continue };
                programs += 1;
                let run = run.to_lowercase();
                let compiler = ["rustc", "wrapper"].iter().any(|word| run.contains(word));
                assert!(compiler || ELSEWHERE.iter().any(|word| run.starts_with(word)), "it runs a program: {place}");
            }
        }
    }
    assert!(programs > 5, "{programs} calls of a compiler are seen: the search does not work");
}

#[test]
fn what_is_there_in_two_versions_is_known() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(name(&package)).or_default().insert(package["version"].as_str().unwrap().into());
    }
    let skipped = list(&["bans", "skip"], "crate");
    let (mut used, mut unknown) = (BTreeSet::new(), Vec::new());
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let of = |version: &String| {
            skipped.iter().find(|entry| {
                let (of, prefix) = entry.split_once('@').unwrap();
                of == name && version.starts_with(&format!("{prefix}."))
            })
        };
        used.extend(versions.iter().filter_map(of).cloned());
        if versions.iter().filter(|version| of(version).is_none()).count() > 1 {
            unknown.push(format!("{name} {versions:?}"));
        }
    }
    assert!(unknown.is_empty(), "in two versions: {unknown:?}: take one, or say in deny.toml why not");
    assert_eq!(used, skipped, "what deny.toml skips and what is there twice");
}

/// One number for the oldest compiler, wherever it stands; no package asks for a newer one.
#[test]
fn the_oldest_compiler_is_the_same_everywhere() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["workspace"]["package"]["rust-version"].as_str().unwrap().to_string();
    for (path, text) in [
        ("README.md", format!("Rust {version} or later")),
        ("README.md", format!("with Rust ({version} or later)")),
        ("packaging/Containerfile", format!("library/rust:{version}-slim")),
        ("backend/docs/install.md", format!("Rust {version} or later")),
    ] {
        assert!(read(path).contains(&text), "{path} does not say {text:?}");
    }
    let number = |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    for package in packages() {
        let asked = package["rust_version"].as_str().unwrap_or("1.0");
        assert!(number(asked) <= number(&version), "{} asks for Rust {asked}", name(&package));
    }
}

#[test]
fn the_bill_of_materials_is_whole() {
    let bill = bill::json().unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    let components = bill["components"].as_array().unwrap();
    let of = |name: &str| components.iter().find(|component| component["name"] == name).unwrap_or(&Value::Null);
    for (name, scope) in
        [("libc", "required"), ("tokio", "required"), ("serde_derive", "excluded"), ("rust", "required")]
    {
        assert_eq!(of(name)["scope"], scope, "{name}: {}", of(name));
    }
    assert_eq!(*of("proptest"), Value::Null, "tests are no part of the programs");
    let lock = read("Cargo.lock");
    let mut references: BTreeSet<&str> = BTreeSet::from([bill["metadata"]["component"]["bom-ref"].as_str().unwrap()]);
    for component in components {
        assert!(references.insert(component["bom-ref"].as_str().unwrap()), "twice: {component}");
        let expression = component["licenses"][0]["expression"].as_str().unwrap();
        assert!(spdx::Expression::parse(expression).is_ok(), "{component}");
        let name = component["name"].as_str().unwrap();
        if !name.starts_with("vonic-") && name != "rust" {
            let checksum = component["hashes"][0]["content"].as_str().unwrap_or_else(|| panic!("{component}"));
            assert!(lock.contains(checksum), "{component}");
        }
    }
    let edges = bill["dependencies"].as_array().unwrap();
    assert_eq!(edges.len(), components.len(), "one for each but the compiler, and the program's own");
    for edge in edges {
        for end in edge["dependsOn"].as_array().unwrap().iter().chain([&edge["ref"]]) {
            assert!(references.contains(end.as_str().unwrap()), "{end}");
        }
    }
}
