//! Do an agent and a host of different versions understand each other? Messages as each version wrote them must be read for ever.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use serde_json::Value;
use vonic_agent::message::{Message, VERSION};

const FIRST: &str = include_str!("messages/1.json");
const SECOND: &str = include_str!("messages/2.json");
/// As a version to come may write it: with fields, and values of fields, that nobody knows yet.
const NEWER: &str = include_str!("messages/newer.json");

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_first_versions_message_is_read_and_what_it_lacks_is_absent() {
    let read = Message::read(FIRST.as_bytes()).unwrap();
    assert_eq!((read.version, read.uptime_seconds, read.interfaces[0].sent.bytes), (1, 12, 120));
    assert_eq!(
        (read.tcp, read.cpu, read.memory, read.conntrack, read.listening.as_ref()),
        (None, None, None, None, None)
    );
    assert_eq!((read.interfaces[0].mtu, read.interfaces[0].device.as_ref()), (None, None));
    // Nothing is made up on the way to whoever asks; what the message claims beside the format is gone.
    let mut expected = value(FIRST);
    expected.as_object_mut().unwrap().remove("vm").unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), expected);
}

#[test]
fn the_second_versions_message_is_read_whole() {
    let read = Message::read(SECOND.as_bytes()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), value(SECOND));
    assert!(read.version <= VERSION);
}

#[test]
fn of_a_newer_versions_message_the_known_part_is_read() {
    let read = Message::read(NEWER.as_bytes()).unwrap();
    assert_eq!((read.version, read.tcp.unwrap().established), (9, Some(4)));
    let device = read.interfaces[0].device.as_ref().unwrap();
    assert_eq!((device.driver.as_deref(), device.statistics.as_ref()), (Some("virtio_net"), None));
    let listening = read.listening.unwrap();
    assert_eq!((listening.tcp.len(), listening.udp.len(), listening.more), (1, 0, false));
}

/// Hosts of the first version took no other number, and ignored the fields that they did not know.
#[test]
fn under_the_first_number_a_message_of_today_has_all_that_the_first_version_asked_for() {
    let mut today = value(SECOND);
    today["version"] = 1.into();
    for (field, in_interface) in [
        ("agent", false),
        ("hostname", false),
        ("kernel", false),
        ("uptime_seconds", false),
        ("name", true),
        ("received", true),
        ("sent", true),
    ] {
        let place = if in_interface { &today["interfaces"][0] } else { &today };
        assert!(!place[field].is_null(), "{field}");
    }
    assert_eq!(Message::read(today.to_string().as_bytes()).unwrap().version, 1);
}
