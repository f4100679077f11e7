//! Is every wrong forward and egress rule refused with its place and what to write instead?
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

#[path = "support/files.rs"]
mod files;
use files::refused;

const MAC: &str = "mac = '52:54:00:00:00:02'\n";

#[test]
fn bad_forwards() {
    for (text, line, words) in [
        ("listen='*:80'\nport=80", 3, "write proto = \"tcp\""),
        ("proto='tcp'\nport=80", 3, "write listen = \"127.0.0.1:8080\""),
        ("proto='tcp'\nlisten='*:80'", 3, "write port = 80"),
        ("proto='sctp'\nlisten='*:80'\nport=80", 4, "write \"tcp\" or \"udp\""),
        ("proto='tcp'\nlisten='[::1]:80'\nport=80", 5, "write address6 above it"),
        ("proto='tcp'\nlisten='80'\nport=80", 5, "write it as 127.0.0.1:8080"),
        ("proto='tcp'\nlisten='*:9-8'\nport=80", 5, "write 8-9"),
        ("proto='tcp'\nlisten='*:80'\nport=0", 6, "write a number from 1 to 65535"),
        ("proto='tcp'\nlisten='*:80-89'\nport=65530", 6, "write a port up to 65526"),
        ("proto='tcp'\nlisten='*:80'\nport=80\nfailover='no'", 7, "write failover = true"),
        ("proto='tcp'\nlisten='*:80'\nport=80\nmtu=1500", 7, "write it in the top of a VM's file"),
        ("proto='tcp'\nlisten='*:80'\nport=80\nto='x'", 7, "write it in an [[egress]] table"),
    ] {
        let text = format!("{MAC}address4 = '192.0.2.2'\n[[forward]]\n{text}\n");
        refused(&[("web1.toml", &text)], &format!("vms.d/web1.toml:{line}"), words);
    }
    let forward = "[[forward]]\nproto='tcp'\nlisten='*:80'\nport=80\n";
    refused(&[("web1.toml", &format!("{MAC}{forward}"))], "vms.d/web1.toml:4", "write address4 or address6 above it");
    let closed = "[network.default]\nsubnet4='192.0.2.0/24'\ngateway4='192.0.2.1'\nuplink='none'\n";
    let vm = format!("{MAC}address4='192.0.2.2'\n{forward}");
    refused(&[("vonic.toml", closed), ("web1.toml", &vm)], "vms.d/web1.toml:5", "needs uplink = \"sockets\"");
}

#[test]
fn bad_egress() {
    for (text, line, words) in [
        ("to='192.0.2.0/24'", 2, "write action = \"deny\""),
        ("action='deny'", 2, "write to = \"198.51.100.0/24\""),
        ("action='drop'\nto='0.0.0.0/0'", 3, "write \"allow\" or \"deny\""),
        ("action='deny'\nto='198.51.100.7/24'", 4, "write 198.51.100.0/24"),
        ("action='deny'\nto='2001:db8::1/32'", 4, "write 2001:db8::/32"),
        ("action='deny'\nto='::ffff:198.51.100.0/120'", 4, "write it as 198.51.100.0/24"),
        ("action='deny'\nto='0.0.0.0/0'\nproto='sctp'", 5, "write \"tcp\" or \"udp\" or \"icmp\""),
        ("action='deny'\nto='0.0.0.0/0'\nports=443", 5, "write ports = \"1-1023\""),
        ("action='deny'\nto='0.0.0.0/0'\nports='0'", 5, "write a number from 1 to 65535"),
        ("action='deny'\nto='0.0.0.0/0'\nproto='icmp'\nports='1'", 6, "leave ports out"),
        ("action='deny'\nto='0.0.0.0/0'\nport='1'", 5, "write ports"),
    ] {
        let text = format!("{MAC}[[egress]]\n{text}\n");
        refused(&[("web1.toml", &text)], &format!("vms.d/web1.toml:{line}"), words);
    }
}
