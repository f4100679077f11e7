//! A handshake, message by message, for tests that interrupt it.

use std::os::fd::{AsRawFd, RawFd};

use super::{GUEST_TO_HOST, HOST_TO_GUEST, MockFrontend, code, feature};

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

/// Request, body, descriptors.
pub type Message = (u32, Vec<u8>, Vec<RawFd>);

/// Every message of a handshake, as QEMU orders them.
pub fn handshake(mock: &mut MockFrontend) -> Vec<Message> {
    let regions = mock.regions().clone();
    mock.features = feature::ALL;
    let mut table = words(&[2, 0]);
    regions.iter().for_each(|r| table.extend(longs(&[r.guest, r.size, r.user, r.offset])));
    let mut messages: Vec<Message> = vec![
        (code::GET_FEATURES, vec![], vec![]),
        (code::GET_PROTOCOL_FEATURES, vec![], vec![]),
        (code::SET_PROTOCOL_FEATURES, longs(&[1 | 1 << 3 | 1 << 9]), vec![]),
        (code::SET_OWNER, vec![], vec![]),
        (code::SET_FEATURES, longs(&[feature::ALL]), vec![]),
        (code::SET_MEM_TABLE, table, regions.iter().map(|r| r.file).collect()),
    ];
    for index in [HOST_TO_GUEST, GUEST_TO_HOST] {
        let ring = mock.ring(index);
        ring.event_idx = true;
        let user = |address: u64| regions[0].user + (address - regions[0].guest);
        let number = index as u32;
        let addresses = longs(&[user(ring.descriptors), user(ring.used), user(ring.available), 0]);
        let (call, kick) = (ring.call.as_raw_fd(), ring.kick.as_raw_fd());
        messages.push((code::SET_VRING_NUM, words(&[number, u32::from(ring.size)]), vec![]));
        messages.push((code::SET_VRING_BASE, words(&[number, 0]), vec![]));
        messages.push((code::SET_VRING_ADDR, [words(&[number, 0]), addresses].concat(), vec![]));
        messages.push((code::SET_VRING_CALL, longs(&[index as u64]), vec![call]));
        messages.push((code::SET_VRING_KICK, longs(&[index as u64]), vec![kick]));
        messages.push((code::SET_VRING_ENABLE, words(&[number, 1]), vec![]));
    }
    messages
}
