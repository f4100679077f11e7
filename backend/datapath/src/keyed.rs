//! Tables that are looked into for each frame.
use std::collections::HashMap;

/// A hash table whose hash is several times as fast as the standard library's. It is keyed as that one is, anew for each table: guests
/// choose addresses and ports, but see no hash of theirs, and cannot learn which fall together. Sequence numbers, which they do see,
/// come from the standard library's SipHash (RFC 6528 §3).
pub type KeyedMap<K, V> = HashMap<K, V, foldhash::quality::RandomState>;
