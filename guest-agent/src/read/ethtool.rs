//! What drivers say of their devices (the kernel's linux/ethtool.h).
use crate::sys::Ethtool;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use vonic_agent::message::{DEVICES_MAX, Device, NAME_MAX, NAMED_MAX, clean};

const GET_DRIVER_INFO: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_STATISTICS: u32 = 0x1d;
const GET_SET_INFO: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
/// Sets of strings (enum ethtool_stringset).
const SET_STATISTICS: u32 = 1;
const SET_FEATURES: u32 = 4;
/// More strings than any driver has are none.
const STRINGS_MAX: u32 = 1024;

/// The first interfaces that are devices, or belong to one, by name: bridges, tunnels and the like have no driver that counts.
pub fn devices() -> Vec<(String, Device)> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let devices = entries.filter(|entry| entry.path().join("device").exists());
    let mut names: Vec<String> = devices.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let Ok(mut ethtool) = Ethtool::open() else { return Vec::new() };
    let device = |name: String| {
        let device = device(&mut ethtool, &name);
        (name, device)
    };
    names.into_iter().take(DEVICES_MAX).map(device).collect()
}

fn device(ethtool: &mut Ethtool, name: &str) -> Device {
    let info = ethtool.ask(name, &words(&[GET_DRIVER_INFO])).map(<[u8]>::to_vec).unwrap_or_default();
    let [driver, version, _, bus] = [0, 1, 2, 3].map(|n| text(info.get(4 + n * NAME_MAX..4 + (n + 1) * NAME_MAX)?));
    // Without the ioctl, sysfs knows the driver's name.
    let driver = driver.or_else(|| link_name(&Path::new("/sys/class/net").join(name).join("device/driver")));
    Device { driver, version, bus, offloads: offloads(ethtool, name), statistics: statistics(ethtool, name) }
}

/// The features that are on, and those that could be.
fn offloads(ethtool: &mut Ethtool, name: &str) -> Option<BTreeMap<String, bool>> {
    let names = strings(ethtool, name, SET_FEATURES)?;
    let blocks = names.len().div_ceil(32);
    let answer = ethtool.ask(name, &words(&[GET_FEATURES, blocks as u32]))?;
    Some(features(&names, answer.get(8..8 + blocks * 16)?))
}

/// `blocks` has four words for 32 features each: available, requested, active, never changed (struct ethtool_get_features_block).
fn features(names: &[String], blocks: &[u8]) -> BTreeMap<String, bool> {
    let bit = |number: usize, part: usize| {
        word(blocks, number / 32 * 16 + part * 4).is_some_and(|word| word & 1 << (number % 32) != 0)
    };
    let named = names.iter().enumerate().filter(|(_, name)| !name.is_empty());
    let there = named.filter(|(number, _)| bit(*number, 2) || bit(*number, 0) && !bit(*number, 3));
    there.take(NAMED_MAX).map(|(number, name)| (name.clone(), bit(number, 2))).collect()
}

/// The driver's counters.
fn statistics(ethtool: &mut Ethtool, name: &str) -> Option<BTreeMap<String, u64>> {
    let names = strings(ethtool, name, SET_STATISTICS)?;
    let answer = ethtool.ask(name, &words(&[GET_STATISTICS, names.len() as u32]))?;
    let count = word(answer, 4)? as usize;
    let number = |at: usize| Some(u64::from_ne_bytes(*answer.get(8 + at * 8..)?.first_chunk()?));
    // Between two questions the driver may have got other counters.
    let same = count == names.len();
    let numbers = (0..NAMED_MAX.min(count)).map_while(number);
    same.then(|| names.into_iter().zip(numbers).filter(|(name, _)| !name.is_empty()).collect())
}

/// A set of strings; `None` if there is none, or it is empty.
fn strings(ethtool: &mut Ethtool, name: &str, set: u32) -> Option<Vec<String>> {
    // The mask of sets is 64 bits.
    let mut question = words(&[GET_SET_INFO, 0]);
    question.extend((1u64 << set).to_ne_bytes());
    let count = word(ethtool.ask(name, &question)?, 16).filter(|count| (1..=STRINGS_MAX).contains(count))?;
    let answer = ethtool.ask(name, &words(&[GET_STRINGS, set, count]))?;
    let count = word(answer, 8)?.min(STRINGS_MAX) as usize;
    let strings = answer.get(12..12 + count * NAME_MAX)?.chunks_exact(NAME_MAX);
    Some(strings.map(|string| text(string).unwrap_or_default()).collect())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A text that ends with a zero.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = clean(&String::from_utf8_lossy(&bytes[..end]), NAME_MAX);
    (!text.is_empty()).then_some(text)
}

fn link_name(path: &Path) -> Option<String> {
    Some(clean(fs::read_link(path).ok()?.file_name()?.to_str()?, NAME_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_are_on_or_could_be_are_told() {
        let names: Vec<String> = (0..34).map(|n| if n == 3 { String::new() } else { format!("f{n}") }).collect();
        // f0 on; f1 off, could be on; f2 off for ever; f3 has no name; f33 on and fixed.
        let blocks = words(&[0b0111, 0, 0b1001, 0b0100, 0, 0, 0b10, 0b10]);
        let told = features(&names, &blocks);
        let expected = [("f0", true), ("f1", false), ("f33", true)];
        assert_eq!(told, expected.map(|(name, on)| (name.to_string(), on)).into());
        assert!(features(&names, &blocks[..3]).is_empty());
    }

    #[test]
    fn texts_end_at_their_zero_and_are_clean() {
        assert_eq!(text(b"virtio_net\0junk").as_deref(), Some("virtio_net"));
        assert_eq!(text(b"\x1b[2J").as_deref(), Some("?[2J"));
        assert_eq!((text(b"\0\0"), text(b"")), (None, None));
    }

    #[test]
    fn the_loopback_has_features_and_no_statistics() {
        let mut ethtool = Ethtool::open().unwrap();
        let on = offloads(&mut ethtool, "lo").unwrap();
        assert_eq!(on.get("loopback"), Some(&true), "{on:?}");
        assert_eq!(statistics(&mut ethtool, "lo"), None);
        assert_eq!(device(&mut ethtool, "none such"), Device::default());
        assert_eq!(device(&mut ethtool, "a name too long for one"), Device::default());
    }
}
