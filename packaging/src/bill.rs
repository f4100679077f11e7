//! What the programs are made of: a software bill of materials, CycloneDX 1.6 as JSON (ECMA-424).
//!
//! Cargo says which packages are built for them, with which features and on this kind of machine; the lock file has their checksums. What is
//! only run while they are built (macros, build scripts and what those need) is there, too, with the scope `excluded`.
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::{env, fs, io};

use serde_json::{Value, json};

use crate::project;

/// A package that is built for the programs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    license: String,
    repository: String,
}

impl Package {
    /// Its package URL, which also names it within the bill.
    fn url(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version.replace('+', "%2B"))
    }
}

/// Packages, each with the URLs of those that it needs.
type Graph = BTreeMap<Package, BTreeSet<String>>;

/// The bill of `vonicd` and `vonic`. The same source, compiler and kind of machine have the same.
///
/// # Errors
/// What keeps cargo from saying what it would build, and the file system's.
pub fn json() -> io::Result<Value> {
    let linked = graph("normal,no-proc-macro")?;
    let built = graph("normal,build")?;
    let checksums = checksums()?;
    let (own, others): (Vec<_>, Vec<_>) = built.iter().partition(|(package, _)| package.name == "vonic-daemon");
    let [(program, needs)] = own[..] else { return Err(io::Error::other("cargo tree names no vonic-daemon")) };
    let mut components: Vec<Value> = others
        .iter()
        .map(|(package, _)| component(package, linked.contains_key(package), checksums.get(&package.url())))
        .collect();
    components.push(json!({ "type": "framework", "bom-ref": "rust", "name": "rust", "version": compiler()?, "scope": "required",
        "description": "The compiler, and the standard library, which is a part of the programs.", "licenses": [{ "expression": "MIT OR Apache-2.0" }] }));
    let depends = |url: String, needs: &BTreeSet<String>| json!({ "ref": url, "dependsOn": needs });
    let mut needs = (*needs).clone();
    needs.insert("rust".into());
    let mut edges = vec![depends(program.url(), &needs)];
    edges.extend(others.iter().map(|(package, needs)| depends(package.url(), needs)));
    let mut bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": { "type": "application", "bom-ref": program.url(), "name": "vonic", "version": program.version,
            "licenses": licenses(program), "purl": program.url() } },
        "components": components,
        "dependencies": edges,
    });
    if let Some(time) = time() {
        bill["metadata"]["timestamp"] = time.into();
    }
    Ok(bill)
}

fn component(package: &Package, linked: bool, checksum: Option<&String>) -> Value {
    let mut entry = json!({ "type": "library", "bom-ref": package.url(), "name": package.name, "version": package.version,
        "scope": if linked { "required" } else { "excluded" }, "licenses": licenses(package), "purl": package.url() });
    if let Some(checksum) = checksum {
        entry["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    if package.repository.starts_with("https://") {
        entry["externalReferences"] = json!([{ "type": "vcs", "url": package.repository }]);
    }
    entry
}

/// Older manifests write `A/B` for `A OR B`.
fn licenses(package: &Package) -> Value {
    json!([{ "expression": package.license.replace('/', " OR ") }])
}

/// What cargo would build for the programs, following such edges.
fn graph(edges: &str) -> io::Result<Graph> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments =
        ["tree", "--locked", "-p", "vonic-daemon", "--prefix", "depth", "--format", "|{p}|{l}|{r}|", "-e", edges];
    let text = said(Command::new(cargo).args(arguments).current_dir(project()))?;
    let mut graph = Graph::new();
    let mut above: Vec<Package> = Vec::new();
    for line in text.lines() {
        let (depth, package) =
            entry(line).ok_or_else(|| io::Error::other(format!("cargo tree says, not understood: {line}")))?;
        graph.entry(package.clone()).or_default();
        above.truncate(depth);
        if let Some(parent) = above.last() {
            graph.entry(parent.clone()).or_default().insert(package.url());
        }
        above.push(package);
    }
    Ok(graph)
}

/// A line of the tree: how deep it stands, and whose it is.
fn entry(line: &str) -> Option<(usize, Package)> {
    let [depth, named, license, repository, _repeated] = line.split('|').collect::<Vec<_>>().try_into().ok()?;
    let mut words = named.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let [name, version, license, repository] = [name, version, license, repository].map(String::from);
    Some((depth.parse().ok()?, Package { name, version, license, repository }))
}

/// The lock file's checksums, by the packages' URLs.
fn checksums() -> io::Result<BTreeMap<String, String>> {
    let lock: toml::Table = fs::read_to_string(project().join("Cargo.lock"))?
        .parse()
        .map_err(|error| io::Error::other(format!("Cargo.lock: {error}")))?;
    let packages = lock.get("package").and_then(toml::Value::as_array).into_iter().flatten();
    let known = packages.filter_map(|entry| {
        let [name, version, checksum] =
            ["name", "version", "checksum"].map(|key| entry.get(key).and_then(toml::Value::as_str));
        let package =
            Package { name: name?.into(), version: version?.into(), license: String::new(), repository: String::new() };
        Some((package.url(), checksum?.to_string()))
    });
    Ok(known.collect())
}

/// The version of the compiler, as `1.95.0`.
fn compiler() -> io::Result<String> {
    let text =
        said(Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-V").current_dir(project()))?;
    text.split(' ').nth(1).map(String::from).ok_or_else(|| io::Error::other(format!("rustc -V says {text}")))
}

/// The commit's time, if the source is a checkout of git.
fn time() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"])
        .env("TZ", "UTC")
        .current_dir(project());
    said(&mut git).ok().map(|text| text.trim().to_string()).filter(|text| !text.is_empty())
}

fn said(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(io::Error::other(format!("{command:?}: {}", text(&output.stderr))));
    }
    Ok(text(&output.stdout))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::entry;

    #[test]
    fn lines_of_the_tree_are_read() {
        let (depth, package) =
            entry("12|serde v1.0.229|MIT OR Apache-2.0|https://github.com/serde-rs/serde| (*)").unwrap();
        assert_eq!((depth, package.url().as_str()), (12, "pkg:cargo/serde@1.0.229"));
        let (_, package) = entry("1|toml v1.2.1+spec-1.1.0|MIT||").unwrap();
        assert_eq!(package.url(), "pkg:cargo/toml@1.2.1%2Bspec-1.1.0");
        let (_, package) = entry("3|indoc v2.0.8 (proc-macro)|MIT||").unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("indoc", "2.0.8"));
        assert_eq!(entry("[build-dependencies]"), None);
    }
}
