//! Is every key read as it is written, and every wrong value refused with its place and what to write instead?
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::json;
use vonic_control::config::{
    Acknowledge, Action, Config, EgressRule, Forward, Limits, Listen, ListenHost, Poll, Protocol, SocketMode, Uplink,
    feature_names,
};

#[path = "support/files.rs"]
mod files;
use files::{Files, refused};

const MAC: &str = "mac = '52:54:00:00:00:02'\n";

#[test]
fn the_contracts_sample_loads() {
    let files = Files::new(&[
        (
            "vonic.toml",
            r#"
            runtime_dir = "/run/vonic"
            workers = 1
            poll_us = 50
            [network.default]
            subnet4 = "192.0.2.0/24"
            gateway4 = "192.0.2.1"
            uplink = "sockets"
            host_loopback4 = "192.0.2.1"
            reach_host = false
            isolated = false
            "#,
        ),
        (
            "web1.toml",
            r#"
            mac = "52:54:00:00:00:02"
            network = "default"
            address4 = "192.0.2.2"
            queue_pairs = 2
            mtu = 1500
            socket_mode = "server"
            failover = true
            ack = "peer"
            labels = { tier = "web" }
            features = { tso = true }
            limits = { connections = 16384, pending = 512, pending_per_destination = 64, new_per_second = 2000 }
            [[forward]]
            proto = "tcp"
            listen = "127.0.0.1:8080"
            port = 80
            [[egress]]
            action = "deny"
            to = "198.51.100.0/24"
            proto = "tcp"
            ports = "1-1023"
            "#,
        ),
    ]);
    let config = files.load().unwrap();
    let network = &config.networks["default"];
    assert_eq!(network.subnet4.unwrap().to_string(), "192.0.2.0/24");
    assert_eq!(network.gateway4, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(network.host_loopback4, network.gateway4);
    let vm = &config.vms["web1"];
    assert_eq!((vm.mac.to_string().as_str(), vm.address4), ("52:54:00:00:00:02", Some(Ipv4Addr::new(192, 0, 2, 2))));
    assert_eq!(vm.ack, Acknowledge::Peer);
    assert_eq!(vm.labels["tier"], "web");
    let localhost = ListenHost::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let listen = Listen { host: localhost, ports: 8080..=8080 };
    assert_eq!(vm.forwards, [Forward { proto: Protocol::Tcp, listen, port: 80, failover: true }]);
    let to = "198.51.100.0/24".parse().unwrap();
    let deny = EgressRule { action: Action::Deny, to, proto: Some(Protocol::Tcp), ports: Some(1..=1023) };
    assert_eq!(vm.egress, [deny]);
    // As JSON, values stand as they are written in the files.
    let json = serde_json::to_value(&config).unwrap();
    let vm = &json["vms"]["web1"];
    assert_eq!(vm["mac"], "52:54:00:00:00:02");
    assert_eq!(vm["ack"], "peer");
    assert_eq!(vm["forwards"][0], json!({"proto": "tcp", "listen": "127.0.0.1:8080", "port": 80, "failover": true}));
    let deny = json!({"action": "deny", "to": "198.51.100.0/24", "proto": "tcp", "ports": "1-1023"});
    assert_eq!(vm["egress"][0], deny);
    assert_eq!(json["networks"]["default"]["uplink"], "sockets");
}

#[test]
fn the_documentations_examples_load() {
    let doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md"));
    let examples: Vec<&str> = doc.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 4);
    let mut files = vec![("vonic.toml", examples[0]), ("web1.toml", examples[1])];
    let rest: Vec<String> = examples[2..]
        .iter()
        .enumerate()
        .map(|(i, example)| format!("mac = '52:54:00:00:01:0{i}'\naddress4 = '192.0.2.1{i}'\n{example}"))
        .collect();
    let names = ["a.toml", "b.toml"];
    files.extend(names.iter().zip(&rest).map(|(name, text)| (*name, text.as_str())));
    assert_eq!(Files::new(&files).load().unwrap().vms.len(), 3);
}

#[test]
fn defaults_without_vonic_toml_and_with_only_a_mac() {
    let config = Files::new(&[("web1.toml", MAC)]).load().unwrap();
    let documented = "[network.default]\nsubnet4 = '192.0.2.0/24'\ngateway4 = '192.0.2.1'\nuplink = 'sockets'\n";
    for text in [documented, "workers = 1\n"] {
        let written = Files::new(&[("web1.toml", MAC), ("vonic.toml", text)]).load().unwrap();
        assert_eq!(written.sources.service.as_deref(), Some(text));
        assert_eq!(config, Config { sources: config.sources.clone(), ..written });
    }
    let service = &config.service;
    assert_eq!(service.vm_socket("web1").to_str(), Some("/run/vonic/web1.sock"));
    assert_eq!(service.api_socket().to_str(), Some("/run/vonic/api.sock"));
    assert_eq!(service.engine_pid().to_str(), Some("/run/vonic/engine.pid"));
    assert_eq!((service.workers, service.poll), (1, Poll::For(Duration::from_micros(50))));
    let vm = &config.vms["web1"];
    assert_eq!((vm.network.as_str(), vm.address4, vm.queue_pairs, vm.mtu), ("default", None, 1, 1500));
    let limits = Limits {
        connections: 16384,
        pending: 512,
        pending_per_destination: 64,
        udp_flows: 4096,
        new_per_second: 2000,
        groups_per_second: 1000,
    };
    assert_eq!(vm.limits, limits);
    assert_eq!(feature_names(vm.features.virtio_bits()).len(), 17 + 3);
    assert!(vm.labels.is_empty() && vm.forwards.is_empty() && vm.egress.is_empty());
}

#[test]
fn who_listens_on_a_vms_socket() {
    let read = |line: &str| {
        let config = Files::new(&[("web1.toml", &format!("{MAC}\n{line}\n"))]).load().unwrap();
        config.vms["web1"].clone()
    };
    assert_eq!(read("").socket_mode, SocketMode::Server);
    let (server, client) = (read("socket_mode = 'server'"), read("socket_mode = 'client'"));
    assert_eq!((server.socket_mode, client.socket_mode), (SocketMode::Server, SocketMode::Client));
    assert_ne!(server, client, "a reload sees the difference");
    assert_eq!(serde_json::to_value(&client).unwrap()["socket_mode"], "client");
}

#[test]
fn good_values_of_the_service_and_the_networks() {
    let text = "
        runtime_dir = '/srv/v'\npoll_us = 'always'\n
        [network.lan]\nuplink = 'none'\nisolated = true\nreach_host = true\n
        [network.wan]\nsubnet4 = '10.0.0.0/8'\ngateway4 = '10.255.255.254'\nhost_loopback4 = '10.0.0.9'\n";
    let config = Files::new(&[("vonic.toml", text)]).load().unwrap();
    assert_eq!(config.service.poll, Poll::Always);
    assert_eq!(config.service.api_socket().to_str(), Some("/srv/v/api.sock"));
    let lan = &config.networks["lan"];
    assert_eq!((&lan.uplink, lan.isolated, lan.reach_host, lan.subnet4), (&Uplink::None, true, true, None));
    let wan = &config.networks["wan"];
    assert_eq!((&wan.uplink, wan.host_loopback4), (&Uplink::Sockets, Some(Ipv4Addr::new(10, 0, 0, 9))));
    assert_eq!(config.networks.len(), 2);
    for (text, poll) in [
        ("poll_us = 0", Poll::Never),
        ("poll_us = 1_000", Poll::For(Duration::from_millis(1))),
        ("poll_us = 0x10", Poll::For(Duration::from_micros(16))),
    ] {
        assert_eq!(Files::new(&[("vonic.toml", text)]).load().unwrap().service.poll, poll, "{text}");
    }
}

#[test]
fn good_values_of_a_vm() {
    let text = format!(
        "{MAC}address4 = '192.0.2.7'\nmtu = 65520\nlabels = {{ a = '1', 'b c' = '' }}
        limits = {{ connections = 1, pending = 1, pending_per_destination = 1, new_per_second = 1000000 }}
        [features]\ncsum = false\ntso = false\nevent_idx = false
        [[forward]]\nproto = 'tcp'\nlisten = '*:8000-8010'\nport = 65525\nfailover = true
        [[forward]]\nproto = 'tcp'\nlisten = 'eth0:80'\nport = 1
        [[egress]]\naction = 'allow'\nto = '198.51.100.7'
        [[egress]]\naction = 'deny'\nto = '0.0.0.0/0'\nproto = 'icmp'
        [[egress]]\naction = 'allow'\nto = '198.51.100.0/24'\nports = '53'\n"
    );
    let config = Files::new(&[("web1.toml", &text)]).load().unwrap();
    let vm = &config.vms["web1"];
    assert_eq!((vm.mtu, vm.limits.connections, vm.limits.new_per_second), (65520, 1, 1_000_000));
    assert_eq!(vm.labels["b c"], "");
    assert!(!vm.features.csum && !vm.features.tso && !vm.features.event_idx && vm.features.guest_tso);
    let forwards: Vec<String> = vm.forwards.iter().map(Forward::to_string).collect();
    assert_eq!(forwards, ["tcp *:8000-8010 -> 65525", "tcp eth0:80 -> 1"]);
    let egress: Vec<String> = vm.egress.iter().map(EgressRule::to_string).collect();
    assert_eq!(egress, ["allow 198.51.100.7/32", "deny 0.0.0.0/0 icmp", "allow 198.51.100.0/24 ports 53"]);
}

#[test]
fn bad_values_of_the_service() {
    for (text, line, words) in [
        ("runtime_dir = 'run'", 1, "write it as /run/vonic"),
        ("runtime_dir = 5", 1, "write runtime_dir = \"/run/vonic\""),
        ("user = 0", 1, "write user = \"vonic\""),
        ("\nworkers = 0", 2, "write a number from 1 to 16"),
        ("workers = 17", 1, "write a number from 1 to 16"),
        ("workers = '1'", 1, "write workers = 1"),
        ("poll_us = -1", 1, "write 0 to sleep at once"),
        ("poll_us = 1000001", 1, "write \"always\""),
        ("poll_us = 99999999999999999999", 1, "write \"always\""),
        ("poll_us = 'never'", 1, "write \"always\" or a number"),
        ("poll_us = 1.5", 1, "write poll_us = 50"),
        ("metrics_listen = '127.0.0.1'", 1, "write it as 127.0.0.1:9477"),
        ("metrics_listen = '127.0.0.1:0'", 1, "write it as 127.0.0.1:9477"),
        ("metrics_listen = 'localhost:9477'", 1, "write it as 127.0.0.1:9477"),
        ("metrics_listen = '224.0.0.1:9477'", 1, "write an address of this host"),
        ("metrics_listen = 9477", 1, "write metrics_listen = \"127.0.0.1:9477\""),
        ("network = 1", 1, "write network = {"),
        ("[network]\na = 1", 2, "write [network.a]"),
        ("[network.'a b']\nuplink = 'none'", 1, "write 1 to 63 of"),
        ("worker = 1", 1, "write workers"),
        ("mtu = 1500", 1, "write it in the top of a VM's file"),
        ("zzz = 1", 1, "the keys of the top of vonic.toml are runtime_dir, user, workers"),
        ("workers = 1\nworkers = 1", 2, "this is not TOML"),
        ("workers = ", 1, "this is not TOML"),
    ] {
        refused(&[("vonic.toml", text)], &format!("vonic.toml:{line}"), words);
    }
    let long = format!("runtime_dir = '/{}'", "x".repeat(98));
    refused(&[("vonic.toml", &long)], "vonic.toml:1", "a socket's path at most 107: write a shorter one");
}

#[test]
fn bad_values_of_a_network() {
    for (text, line, words) in [
        ("subnet4 = '192.0.2.0'\ngateway4 = '192.0.2.1'", 2, "write a prefix from /1 to /30"),
        ("subnet4 = '192.0.2.1/24'\ngateway4 = '192.0.2.1'", 2, "write 192.0.2.0/24"),
        ("subnet4 = 'x'\ngateway4 = '192.0.2.1'", 2, "write it as 192.0.2.0/24"),
        ("subnet4 = '127.0.0.0/16'\ngateway4 = '127.0.0.1'", 2, "holds loopback addresses"),
        ("subnet4 = '128.0.0.0/1'\ngateway4 = '128.0.0.1'", 2, "holds link-local addresses"),
        ("subnet4 = '192.0.2.0/24'", 2, "write gateway4 = \"192.0.2.1\""),
        ("subnet4 = '192.0.2.0/24'\ngateway4 = '192.0.3.1'", 3, "write gateway4 = \"192.0.2.1\""),
        ("subnet4 = '192.0.2.0/24'\ngateway4 = '192.0.2.255'", 3, "write gateway4 = \"192.0.2.1\""),
        ("subnet4 = '192.0.2.0/24'\ngateway4 = '192.0.2'", 3, "write it as 192.0.2.2"),
        ("gateway4 = '192.0.2.1'", 2, "write both"),
        ("isolated = true", 1, "write both, or uplink = \"none\""),
        ("uplink = 'sockets'", 2, "write both, or uplink = \"none\""),
        ("uplink = 'bridge'", 2, "write \"none\", \"sockets\", \"tap:BRIDGE\" or \"packet:INTERFACE\""),
        ("uplink = 'tap:'", 2, "'' is no interface's name: write it as \"tap:br0\""),
        ("uplink = 'tap:a/b'", 2, "write it as \"tap:br0\""),
        ("uplink = 'tap:sixteen-letters-'", 2, "write it as \"tap:br0\""),
        ("uplink = 'tap:br0'\ngateway4 = '192.0.2.1'", 3, "the bridge's own router is the gateway: leave gateway4 out"),
        ("uplink = 'tap:br0'\nhost_loopback4 = '192.0.2.1'", 3, "leave host_loopback4 out"),
        ("uplink = 'tap:br0'\nreach_host = true", 3, "reach the host's addresses by the bridge: leave it out"),
        ("uplink = 'packet:'", 2, "'' is no interface's name: write it as \"packet:eth0\""),
        ("uplink = 'packet:eth0:1'", 2, "'eth0:1' is no interface's name: write it as \"packet:eth0\""),
        ("uplink = 'packet:eth0'\ngateway4 = '192.0.2.1'", 3, "router, which is the gateway: leave gateway4 out"),
        ("uplink = 'packet:eth0'\nreach_host = true", 3, "reach what is on the interface's network: leave it out"),
        ("uplink = 'none'\nhost_loopback4 = '192.0.2.9'", 3, "needs uplink = \"sockets\""),
        ("uplink = 'none'\nreach_host = 1", 3, "write reach_host = false"),
        ("uplink = 'none'\nisolated = 'yes'", 3, "write isolated = false"),
        ("uplink = 'none'\nisolate = true", 3, "write isolated"),
    ] {
        let text = format!("[network.a]\n{text}\n");
        refused(&[("vonic.toml", &text)], &format!("vonic.toml:{line}"), words);
    }
    for (loopback, words) in [
        ("127.0.0.1", "write an address that guests can use"),
        ("192.0.2.0", "write another one"),
        ("224.0.0.1", "write an address that guests can use"),
        ("localhost", "write it as 192.0.2.2"),
    ] {
        let text = format!("[network.a]\nsubnet4='192.0.2.0/24'\ngateway4='192.0.2.1'\nhost_loopback4='{loopback}'\n");
        refused(&[("vonic.toml", &text)], "vonic.toml:4", words);
    }
    let overlap = "[network.b]\nsubnet4='10.0.0.0/8'\ngateway4='10.0.0.1'\n\
                   [network.a]\nsubnet4='10.1.0.0/16'\ngateway4='10.1.0.1'\n";
    let files = Files::new(&[("vonic.toml", overlap)]);
    let mistakes = files.load().unwrap_err();
    assert_eq!(
        mistakes,
        ["vonic.toml:5: subnet4 overlaps the one of network 'b' (vonic.toml:2): write another subnet"]
    );
}

#[test]
fn a_bridged_network_is_a_cable() {
    let lan = "[network.lan]\nuplink = 'tap:br0'\n";
    let at_interface = Files::new(&[("vonic.toml", &lan.replace("tap:br0", "packet:eth0.5"))]).load().unwrap();
    assert_eq!(at_interface.networks["lan"].uplink, Uplink::Packet("eth0.5".into()));
    assert_eq!(json!(at_interface.networks["lan"])["uplink"], json!("packet:eth0.5"));
    // With a subnet for its guests' addresses, or without one.
    for subnet in ["", "subnet4 = '192.0.2.0/24'\n"] {
        let vm = format!("{MAC}network = 'lan'\naddress4 = '192.0.2.1'\n");
        let config =
            Files::new(&[("vonic.toml", &format!("{lan}{subnet}isolated = true\n")), ("a.toml", &vm)]).load().unwrap();
        assert_eq!(config.networks["lan"].uplink, Uplink::Tap("br0".into()));
        assert_eq!(json!(config.networks["lan"])["uplink"], json!("tap:br0"));
        assert_eq!(config.vms["a"].address4, Some(Ipv4Addr::new(192, 0, 2, 1)), "no gateway has it");
    }
    for (text, line, words) in [
        ("address4 = '224.0.0.1'", 3, "write an address that a guest can have"),
        ("address4 = '127.0.0.1'", 3, "write an address that a guest can have"),
        ("[[egress]]\naction = 'deny'\nto = '0.0.0.0/0'", 3, "egress needs uplink = \"sockets\" on network 'lan'"),
        (
            "address4 = '10.0.0.2'\n[[forward]]\nproto = 'tcp'\nlisten = '*:80'\nport = 80",
            6,
            "a forward needs uplink = \"sockets\"",
        ),
    ] {
        let vm = format!("{MAC}network = 'lan'\n{text}\n");
        refused(&[("vonic.toml", lan), ("a.toml", &vm)], &format!("vms.d/a.toml:{line}"), words);
    }
    let outside = format!("{MAC}network = 'lan'\naddress4 = '10.0.0.2'\n");
    let subnet = format!("{lan}subnet4 = '192.0.2.0/24'\n");
    refused(&[("vonic.toml", &subnet), ("a.toml", &outside)], "vms.d/a.toml:3", "write one as 192.0.2.1");
    let twice = "[network.b]\nuplink = 'tap:br0'\n[network.a]\nuplink = 'tap:br0'\n[network.c]\nuplink = 'tap:br1'\n";
    refused(&[("vonic.toml", twice)], "vonic.toml:4", "bridge 'br0' is network 'b''s already (");
    let twice = "[network.b]\nuplink = 'packet:eth0'\n[network.a]\nuplink = 'packet:eth0'\n";
    refused(&[("vonic.toml", twice)], "vonic.toml:4", "or name another interface");
}

#[test]
fn bad_values_of_a_vm() {
    for (text, line, words) in [
        ("network = 'lan'", 2, "write one of default"),
        ("network = 1", 2, "write network = \"default\""),
        ("address4 = '192.0.3.2'", 2, "write one as 192.0.2.2"),
        ("address4 = '192.0.2.0'", 2, "write one as 192.0.2.2"),
        ("address4 = '192.0.2.255'", 2, "write one as 192.0.2.2"),
        ("address4 = '192.0.2.1'", 2, "is the gateway's: write another address in 192.0.2.0/24"),
        ("address4 = '192.0.2.02'", 2, "write it as 192.0.2.2"),
        ("address4 = 2", 2, "write address4 = \"192.0.2.2\""),
        ("address6 = '2001:db8::2'", 2, "has no subnet6: leave 2001:db8::2 out"),
        ("address6 = '192.0.2.2'", 2, "is not an IPv6 address: write it as 2001:db8::2"),
        ("queue_pairs = 0", 2, "write a number from 1 to 2"),
        ("queue_pairs = 3", 2, "write a number from 1 to 2"),
        ("queue_pairs = 2\nfeatures = { ctrl_vq = false }", 2, "write queue_pairs = 1, or ctrl_vq = true"),
        ("mtu = 575", 2, "write a number from 576 to 65520"),
        ("mtu = 65521", 2, "write a number from 576 to 65520"),
        ("mtu = 70000", 2, "write a number from 576 to 65520"),
        ("mtu = '1500'", 2, "write mtu = 1500"),
        ("socket_mode = 'x'", 2, "write \"server\" or \"client\""),
        ("socket_mode = true", 2, "write socket_mode = \"server\""),
        ("failover = 'no'", 2, "write failover = true"),
        ("ack = 'x'", 2, "write \"kernel\" or \"peer\""),
        ("ack = true", 2, "write ack = \"kernel\""),
        ("labels = 'web'", 2, "write labels = { tier = \"web\" }"),
        ("labels = { tier = 1 }", 2, "labels.tier is no string: write it as tier ="),
        ("\n[labels]\na = 'x'\n\"b\\nc\" = 'x'", 5, "labels.b\\nc has a control character in its name"),
        ("labels = { \"\\u001b[2J\" = 'x' }", 2, "labels.\\u{1b}[2J has a control character in its name"),
        ("labels = { tier = \"a\\nb\" }", 2, "labels.tier has a control character (\\n) in its value: write one line"),
        ("labels = { tier = \"\\u0085\" }", 2, "labels.tier has a control character (\\u{85}) in its value"),
        ("labels = { '' = 'x' }", 2, "a label has no name: write it as tier ="),
        ("labels = { '..' = 'x' }", 2, "can be no part of /v1/labels/KEY: write another name"),
        ("features = true", 2, "write features = { tso = true }"),
        ("features = { tso = 1 }", 2, "write tso = true"),
        ("features = { tos = true }", 2, "write tso"),
        ("features = { gro = true }", 2, "the keys of a VM's features are csum, guest_csum, tso"),
        ("features = { csum = false, tso = true }", 2, "tso needs csum (virtio 1.3 §5.1.3.1): leave tso = true out"),
        ("features = { guest_tso = false, guest_ecn = true }", 2, "guest_ecn needs guest_tso"),
        ("limits = { connections = 0 }", 2, "write a number from 1 to 1000000"),
        ("limits = { pending = 1000001 }", 2, "write a number from 1 to 1000000"),
        ("limits = { pending_per_destination = -1 }", 2, "write a number from 1 to 1000000"),
        ("limits = { new_per_second = 'x' }", 2, "write new_per_second = 2000"),
        ("limits = { udp_flows = 0 }", 2, "1 to 1000000"),
        ("limits = { pendig = 1 }", 2, "write pending"),
        ("limits = 1", 2, "write limits = {"),
        ("tso = true", 2, "write it in a VM's features"),
        ("forwards = 1", 2, "write forward"),
        ("forward = 1", 2, "write forward = [{"),
        ("forward = [1]", 2, "write forward = [{"),
        ("egress = 'deny'", 2, "write egress = [{"),
    ] {
        refused(&[("web1.toml", &format!("{MAC}{text}\n"))], &format!("vms.d/web1.toml:{line}"), words);
    }
    for (name, value, words) in [
        (65, 1, "has a name of 65 bytes: write at most 64"),
        (64, 1025, "has a value of 1025 bytes: write at most 1024"),
    ] {
        let text = format!("{MAC}labels = {{ {} = '{}' }}\n", "n".repeat(name), "v".repeat(value));
        refused(&[("web1.toml", &text)], "vms.d/web1.toml:2", words);
    }
    let many: String = (0..65).map(|n| format!("l{n} = ''\n")).collect();
    refused(&[("web1.toml", &format!("{MAC}[labels]\n{many}"))], "vms.d/web1.toml:3", "labels: 65 are too many");
    for (mac, words) in [
        ("52:54:00:00:00", "write it as 52:54:00:00:00:02"),
        ("53:54:00:00:00:02", "write a unicast one, as 52:54:00:00:00:02"),
        ("00:00:00:00:00:00", "write one as 52:54:00:00:00:02"),
        ("a6:16:86:20:c5:fe", "is the gateway's on network 'default': write another"),
    ] {
        refused(&[("web1.toml", &format!("mac = '{mac}'\n"))], "vms.d/web1.toml:1", words);
    }
    refused(&[("web1.toml", "mtu = 1500\n")], "vms.d/web1.toml", "write mac = \"52:54:00:00:00:02\"");
    refused(&[("web1.toml", "mac = 1\n")], "vms.d/web1.toml:1", "write mac = \"52:54:00:00:00:02\"");
}
