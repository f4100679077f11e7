//! Tables that are looked into for each frame.
use siphasher::sip::SipHasher13;
use std::collections::HashMap;
use std::hash::BuildHasher;

/// A hash table whose hash is several times as fast as the standard library's. It is keyed as that one is, anew for each table: guests
/// choose addresses and ports, but see no hash of theirs, and cannot learn which fall together. Sequence numbers, which they do see,
/// come from [`Secret`].
pub type KeyedMap<K, V> = HashMap<K, V, foldhash::quality::RandomState>;

/// The key of whatever guests see of a hash, sequence numbers above all (RFC 6528 §3). All engines have the same: to a guest they are one
/// host, whose numbers never go back.
pub struct Secret(pub [u64; 2]);

impl BuildHasher for Secret {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}
