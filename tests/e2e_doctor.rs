//! Does `vonic doctor` find what is wrong with a host, a service and its VMs, say what to do, and change nothing?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::process::Output;

use serde_json::Value;
use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::mock::{VnetHeader, feature};
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

/// Runs it; exit code and findings.
fn doctor(bed: &Bed, more: &[&str]) -> (i32, Vec<Value>) {
    let Output { status, stdout, .. } = bed.vonicd.vonic_output(&[&["doctor", "--json"], more].concat()).unwrap();
    let report: Value = serde_json::from_slice(&stdout).unwrap();
    (status.code().unwrap(), report["findings"].as_array().unwrap().clone())
}

/// The findings of a subject with these words.
fn found<'a>(findings: &'a [Value], subject: &str, words: &str) -> Vec<&'a str> {
    let has = |finding: &&Value| finding["subject"] == subject && finding["message"].as_str().unwrap().contains(words);
    findings.iter().filter(has).map(|finding| finding["level"].as_str().unwrap()).collect()
}

fn problems(findings: &[Value]) -> Vec<&Value> {
    findings.iter().filter(|finding| finding["level"] == "problem").collect()
}

#[test]
fn a_vm_that_drops_one_that_waits_and_files_that_nobody_has_read() {
    let resolver = "resolv_conf = \"/dev/null/none\"\n";
    let config = TestConfig { service: resolver.to_string(), ..TestConfig::default() };
    let mut bed = Bed::start(&config.clone().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let slow = feature::ALL & !feature::RING_EVENT_IDX;
    let mut guest = HandGuest::start(&bed, "a", 2, slow).unwrap();
    let before = bed.vonicd.vm("b").unwrap();

    // Frames with somebody else's address, all the while that it looks.
    let (code, findings) = std::thread::scope(|scope| {
        let look = scope.spawn(|| doctor(&bed, &[]));
        while !look.is_finished() {
            let spoofed = frames::ping((mac(2), mac(3)), ip4(9), ip4(3), 1, b"not mine");
            guest.mock.send_frame(&VnetHeader::default(), &spoofed).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        look.join().unwrap()
    });
    assert_eq!(code, i32::from(!problems(&findings).is_empty()), "{findings:#?}");
    assert_eq!(found(&findings, "vonicd", " runs, 1 of 2 VMs are connected"), ["ok"], "{findings:#?}");
    assert_eq!(found(&findings, "vonicd", "is good: 1 networks, 2 VMs"), ["ok"], "{findings:#?}");
    assert_eq!(found(&findings, "host", "names no resolver"), ["warning"], "{findings:#?}");
    assert_eq!(found(&findings, "host", "vonicd runs as root"), ["warning"], "{findings:#?}");
    assert_eq!(found(&findings, "vm a", "as spoofed address"), ["warning"], "{findings:#?}");
    assert_eq!(found(&findings, "vm a", "event_idx was not taken"), ["note"], "{findings:#?}");
    assert_eq!(found(&findings, "vm a", "no agent has spoken"), ["note"]);
    assert_eq!(found(&findings, "vm b", "no VMM is connected for"), ["note"], "{findings:#?}");
    assert!(problems(&findings).iter().all(|finding| finding["subject"] == "host"), "{findings:#?}");
    let unwell = findings.iter().filter(|finding| finding["level"] != "ok");
    assert!(unwell.clone().count() > 0 && unwell.clone().all(|finding| finding["mend"].is_string()), "{findings:#?}");
    assert_eq!(before["drops_by_reason"], bed.vonicd.vm("b").unwrap()["drops_by_reason"]);

    // A file that is not read yet, and one that cannot be.
    bed.directory.write("etc/vms.d/c.toml", "mac = \"52:54:00:00:00:04\"\n").unwrap();
    bed.directory.write("etc/vms.d/d.toml", "mtu = 1\n").unwrap();
    let (code, findings) = doctor(&bed, &["a"]);
    assert_eq!(code, 1);
    assert_eq!(found(&findings, "vonicd", "d.toml:1: mtu"), ["problem"], "{findings:#?}");
    assert!(findings.iter().all(|finding| finding["subject"] != "vm b"), "{findings:#?}");
    let (_, findings) = doctor(&bed, &[]);
    assert_eq!(found(&findings, "vonicd", "does not serve: c"), ["warning"], "{findings:#?}");
    let text = bed.vonicd.vonic_output(&["doctor", "nobody"]).unwrap();
    assert!(String::from_utf8(text.stderr).unwrap().contains("there is no VM 'nobody'"));

    // Without vonicd the host is looked at still.
    bed.vonicd.kill();
    drop(guest);
    let dir = bed.vonicd.config_dir();
    let findings = wait_for("that it is not there", seconds(10), || {
        let (code, findings) = doctor(&bed, &["--config-dir", dir.to_str().unwrap()]);
        let absent = found(&findings, "vonicd", "vonicd is not running") == ["problem"];
        Ok((code == 1 && absent).then_some(findings))
    });
    let findings = findings.unwrap();
    assert!(!found(&findings, "host", "files may be open").is_empty(), "{findings:#?}");
    let text = bed.vonicd.vonic_output(&["doctor", "--config-dir", dir.to_str().unwrap()]).unwrap();
    let (out, err) = (String::from_utf8(text.stdout).unwrap(), String::from_utf8(text.stderr).unwrap());
    assert!(out.contains("-> systemctl start vonicd") && err.contains("found"), "{out}{err}");
}
