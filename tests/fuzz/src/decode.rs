//! Texts that vonic gives itself: from one master to the next, and between master and engine. And resolv.conf, which the host gives it.

/// An input is such a text: as it is, and as the body of one whose header agrees with it.
pub fn run(data: &[u8]) {
    vonic_front::fuzzing::decode(data);
    let mut sealed = b"vonichnd\x01\0\0\0".to_vec();
    sealed.extend(crc32fast::hash(data).to_le_bytes());
    sealed.extend((data.len() as u64).to_le_bytes());
    sealed.extend(data);
    vonic_front::fuzzing::decode(&sealed);
}

/// An input is a resolv.conf(5).
pub fn resolvers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (list, complaints) = vonic_control::fuzzing::resolvers(&text);
    assert!(list.len() <= 8 && complaints.len() <= text.lines().count());
    assert!(list.iter().all(|to| to.port() == 53 && !to.ip().is_unspecified() && !to.ip().is_multicast()), "{list:?}");
}
