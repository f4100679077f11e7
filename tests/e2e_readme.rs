//! Does README.md lead whoever follows it to a VM with a network? Its five minutes, typed as they stand there.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use vonic_tests::*;

/// The examples of the section, in their order: the lines of each block that is indented.
fn examples() -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Five minutes")).unwrap();
    let mut blocks = vec![String::new()];
    for line in section.lines() {
        match line.strip_prefix("    ") {
            Some(line) => blocks.last_mut().unwrap().push_str(&format!("{line}\n")),
            None if blocks.last().is_some_and(|block| !block.is_empty()) => blocks.push(String::new()),
            None => {}
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// Runs lines of it on the host: `sudo` and the package are there already, and /etc/vonic is the test's.
fn type_in(bed: &Bed, lines: &str) -> String {
    let etc = bed.directory.path().join("etc");
    let script = format!("sudo() {{ \"$@\"; }}\nset -e\n{}", lines.replace("/etc/vonic", etc.to_str().unwrap()));
    let programs = Vonicd::client().unwrap().parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    let output =
        command.args(["-c", &script]).env("PATH", path).env("VONIC_SOCKET", bed.socket("api")).output().unwrap();
    assert!(output.status.success(), "{script}\n{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn five_minutes_lead_to_a_vm_with_a_network() {
    isolate().unwrap();
    let [host, guest_side, outcome] = examples().try_into().unwrap();
    let bed = Bed::start_here(&TestConfig::default()).unwrap();
    let (installs, starts) = (host.lines().next().unwrap(), host.lines().last().unwrap());
    assert!(installs.starts_with("sudo dpkg -i vonic_"), "{installs}");
    let config: Vec<&str> = host.lines().skip(1).filter(|line| *line != starts).collect();
    type_in(&bed, &config.join("\n"));
    // The line that starts the VM, up to the disk: what it prints starts the test's own guest as well.
    let (words, disk) = starts.strip_prefix("sudo sh -c \"$(").unwrap().split_once(") -drive ").unwrap();
    assert!(disk.starts_with("file=web1.qcow2"), "{starts}");
    let etc = bed.directory.path().join("etc").display().to_string();
    let command = type_in(&bed, &format!("{words} --config-dir {etc}"));
    assert!(command.starts_with("qemu-system-x86_64 ") && command.contains("/run/web1.sock"), "{command}");

    let guest = GuestConfig { ip4: Ip4::Dhcp, ..GuestConfig::new("web1", 2, &bed.socket("web1")) };
    let mut guest = bed.start_configured(&guest).unwrap();
    guest.wait_ready().unwrap();
    // The world is a web server on this host's loopback.
    let world = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = world.local_addr().unwrap().port();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = world.accept().unwrap();
        let read = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        read
    });
    for line in guest_side.replace("https://example.org", &format!("http://192.0.2.1:{port}")).lines() {
        let said = guest.must(line, seconds(30)).unwrap();
        assert!(!line.starts_with("curl") || said.starts_with("HTTP/1.1 200 OK"), "{line}: {said}");
    }
    assert!(answers.join().unwrap() > 0);

    let _served = guest
        .spawn("mkdir -p /run/www && echo hello >/run/www/index.html && busybox httpd -f -p 80 -h /run/www")
        .unwrap();
    wait_until("the guest's web server", seconds(20), || {
        guest.must("busybox wget -q -O - http://127.0.0.1/ || true", seconds(10)).unwrap().contains("hello")
    })
    .unwrap();
    let said = type_in(&bed, &outcome);
    assert!(said.starts_with("HTTP/1.1 200 OK") || said.starts_with("HTTP/1.0 200 OK"), "{said}");
    assert!(said.lines().any(|line| line.starts_with("web1 ") && line.contains(" running ")), "{said}");
}
