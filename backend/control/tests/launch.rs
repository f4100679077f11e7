//! Does `vonic vm command` say what the VM's file says, whatever characters stand in it, and why it cannot where it cannot?
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use std::process::Command;

use serde_json::Value;
use vonic_control::{client, launch};

#[path = "support/files.rs"]
mod files;
use files::Files;

const MAC: &str = "mac = \"52:54:00:00:00:02\"\n";

/// Runs `vonic vm command web1`; exit code, standard output, standard error.
fn run(files: &Files, arguments: &str) -> (u8, String, String) {
    let folder = files.path().display().to_string();
    let words = ["vonic", "vm", "command", "web1", "--config-dir", &folder];
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = client::run(words.into_iter().chain(arguments.split(' ')), &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn good(files: &Files, arguments: &str) -> String {
    let (code, out, err) = run(files, arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{arguments}");
    out
}

fn words(files: &Files, arguments: &str) -> Vec<String> {
    let answer: Value = serde_json::from_str(&good(files, &format!("{arguments} --json"))).unwrap();
    answer["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_string()).collect()
}

/// What a shell makes of a command line.
fn as_a_shell_reads(line: &str) -> Vec<String> {
    let script = format!("set -- {line}\nprintf '%s\\n' \"$@\"");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
}

fn odd(folder: &str) -> Files {
    Files::new(&[("vonic.toml", &format!("runtime_dir = '''{folder}'''\n")), ("web1.toml", MAC)])
}

#[test]
fn a_shell_reads_the_words_that_were_meant() {
    let files = odd("/run/a b/it's $HOME, `x` & \"y\"");
    for arguments in ["--vmm qemu", "--vmm qemu --tcg --memory 512M --queues 1"] {
        let words = words(&files, arguments);
        assert_eq!(as_a_shell_reads(&good(&files, arguments)), words, "{arguments}");
        let socket = words.iter().find(|word| word.starts_with("socket,")).unwrap();
        assert!(socket.contains("path=/run/a b/it's $HOME,, `x` & \"y\"/web1.sock,"), "QEMU's commas: {socket}");
    }
    let comma = words(&odd("/run/a,b"), "--vmm cloud-hypervisor");
    assert!(comma.iter().any(|word| word.contains("socket=\"/run/a,b/web1.sock\",")), "{comma:?}");
    assert_eq!(launch::command_line(&["a".into(), String::new(), "-b".into(), "c=d".into()]), "a '' \\\n    -b c=d");
}

#[test]
fn documents_say_every_character_or_refuse() {
    let files = odd("/run/<a> & 'b' \"c\"");
    let xml = good(&files, "--vmm libvirt --kvm");
    assert!(xml.contains("path='/run/&lt;a&gt; &amp; &apos;b&apos; &quot;c&quot;/web1.sock'"), "{xml}");
    let api: Value = serde_json::from_str(&good(&files, "--vmm cloud-hypervisor --api")).unwrap();
    assert_eq!(api["net"][0]["vhost_socket"], "/run/<a> & 'b' \"c\"/web1.sock");
    let wrapped: Value = serde_json::from_str(&good(&files, "--vmm libvirt --kvm --json")).unwrap();
    assert_eq!(wrapped["document"].as_str().unwrap(), xml);
    for (arguments, why) in [
        ("--vmm qemu --readconfig", "use the command line"),
        ("--vmm cloud-hypervisor", "takes no quotation marks"),
        ("--vmm uml", "with a colon or a blank"),
    ] {
        let (code, out, err) = run(&files, arguments);
        assert_eq!((code, out.as_str()), (1, ""), "{arguments}");
        assert!(err.contains(why), "{arguments}: {err}");
    }
}

#[test]
fn the_file_decides_and_options_choose_within_it() {
    let file = format!("{MAC}queue_pairs = 2\nmtu = 9000\n");
    let files = Files::new(&[("web1.toml", &file)]);
    let all = good(&files, "--vmm qemu");
    for part in ["queues=2", "mq=on,vectors=6", "-smp 2", "host_mtu=9000", "mac=52:54:00:00:00:02", "accel=kvm:tcg"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    let one = good(&files, "--vmm qemu --queues 1 --kvm --memory 3G");
    for part in ["queues=1", "-smp 1", "size=3072M,share=on", "-cpu host", "accel=kvm,"] {
        assert!(one.contains(part) && !one.contains("mq=on"), "{part}: {one}");
    }
    let small = Files::new(&[("web1.toml", &format!("{MAC}mtu = 576\n"))]);
    assert!(good(&small, "--vmm qemu").contains("host_mtu=576"));
    assert!(!good(&small, "--vmm cloud-hypervisor").contains("mtu"), "it takes none below 1280");
}

#[test]
fn what_cannot_be_is_said_with_what_to_do() {
    let client = format!("{MAC}socket_mode = \"client\"\n");
    let files = Files::new(&[("web1.toml", &client), ("web2.toml", "mac = 7\n")]);
    assert!(good(&files, "--vmm qemu").contains("server=on,wait=on"), "another VM's bad file is its own matter");
    for (arguments, why) in [
        ("--vmm uml", "write socket_mode = \"server\" in web1.toml"),
        ("--vmm qemu --queues 2", "ask for 1 to 1"),
        ("--vmm qemu --queues 0", "ask for 1 to 1"),
        ("--vmm qemu --api", "write --vmm cloud-hypervisor"),
        ("--vmm libvirt --readconfig", "write --vmm qemu"),
        ("--vmm cloud-hypervisor --tcg", "needs KVM"),
        ("--vmm qemu --json --queues 9", "ask for 1 to 1"),
    ] {
        let (code, out, err) = run(&files, arguments);
        assert_eq!((code, out.as_str()), (1, ""), "{arguments}");
        assert!(err.contains(why) || err.contains(&why.replace('"', "\\\"")), "{arguments}: {err}");
    }
    for wrong in ["--vmm qemu --memory 1K", "--vmm bhyve", "--vmm qemu --kvm --tcg", "--vmm qemu --memory 0"] {
        assert_eq!(run(&files, wrong).0, 2, "{wrong}");
    }
    let (code, _, err) = run(&Files::new(&[("web1.toml", "mac = 7\n"), ("web2.toml", "mac = 8\n")]), "--vmm qemu");
    assert_eq!(code, 1);
    assert!(err.contains("web1.toml:1: mac") && !err.contains("web2"), "its own mistakes: {err}");
    let (code, _, err) = run(&Files::new(&[]), "--vmm qemu");
    assert_eq!(code, 1);
    assert!(err.contains("there is no VM 'web1'") && err.contains("--config-dir"), "{err}");
    let (_, _, err) = run(&Files::new(&[("vonic.toml", "workers = 0\n"), ("web1.toml", MAC)]), "--vmm qemu");
    assert!(err.contains("vonic.toml:1: workers"), "{err}");
}

/// The schemas of cloud-hypervisor's OpenAPI document that these bodies use, with every property's type.
const API: &[(&str, &[(&str, &str)])] = &[
    ("", &[("cpus", "object"), ("memory", "object"), ("payload", "object"), ("net", "array"), ("disks", "array")]),
    ("cpus", &[("boot_vcpus", "integer"), ("max_vcpus", "integer"), ("nested", "boolean")]),
    ("memory", &[("size", "integer"), ("shared", "boolean"), ("hugepages", "boolean"), ("thp", "boolean")]),
    ("payload", &[("kernel", "string"), ("firmware", "string"), ("initramfs", "string"), ("cmdline", "string")]),
    (
        "net",
        &[
            ("mac", "string"),
            ("mtu", "integer"),
            ("num_queues", "integer"),
            ("queue_size", "integer"),
            ("vhost_user", "boolean"),
            ("vhost_socket", "string"),
            ("vhost_mode", "string"),
        ],
    ),
];

fn fits(schema: &str, value: &Value) {
    let (_, properties) = API.iter().find(|(name, _)| *name == schema).unwrap();
    for (key, value) in value.as_object().unwrap() {
        let kind = properties.iter().find(|(name, _)| name == key).map(|(_, kind)| *kind);
        assert!(kind.is_some(), "{schema} has no {key}");
        let right = match kind.unwrap_or_default() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "integer" => value.is_u64(),
            "boolean" => value.is_boolean(),
            _ => value.is_string(),
        };
        assert!(right, "{schema}.{key} is {value}");
        match value {
            Value::Object(_) => fits(key, value),
            Value::Array(items) => items.iter().for_each(|item| fits(key, item)),
            _ => {}
        }
    }
}

#[test]
fn bodies_fit_the_api_of_cloud_hypervisor() {
    for file in ["", "queue_pairs = 2\nmtu = 9000\n", "socket_mode = \"client\"\n"] {
        let files = Files::new(&[("web1.toml", &format!("{MAC}{file}"))]);
        let body: Value = serde_json::from_str(&good(&files, "--vmm cloud-hypervisor --api")).unwrap();
        fits("", &body);
        // VmConfig requires a payload, CpusConfig both numbers, MemoryConfig the size.
        assert!(body["payload"].is_object() && body["cpus"]["max_vcpus"].is_u64() && body["memory"]["size"].is_u64());
        assert_eq!(body["memory"]["shared"], true);
        assert_eq!(body["net"][0]["vhost_user"], true);
        assert_eq!(body["net"][0]["num_queues"], if file.contains("pairs") { 4 } else { 2 });
        assert_eq!(body["net"][0]["vhost_mode"], if file.contains("client") { "Server" } else { "Client" });
    }
}
