//! Requests that the crate's daemon does not know what to do with. The front, which answers every SET_CONFIG of a VMM itself, carries
//! them in SET_CONFIG behind the end of every configuration space: the request's code, a descriptor's number or -1 (master and
//! engine share one descriptor table), and the request's body (`backend/front/src/carrier.rs`, ADR 0014).
use crate::sys::duplicate;
use std::fs::File;

/// Where in the configuration space they stand; as in the front.
const OFFSET: u32 = 0xe00;
/// SET_LOG_BASE, SET_VRING_ADDR, SEND_RARP (vhost-user specification, "Front-end message types").
const LOG_BASE: u32 = 6;
const VRING_ADDR: u32 = 9;
const RARP: u32 = 19;
/// VHOST_VRING_F_LOG.
const LOG_USED: u32 = 1;

/// What was carried.
#[derive(Debug)]
pub enum Carried {
    /// SET_LOG_BASE: the log's file, its bytes there, and where they begin.
    LogBase { file: File, len: u64, offset: u64 },
    /// SET_VRING_ADDR, which the daemon is told as well: whether and where its used ring is to be logged.
    UsedLog { ring: u32, address: Option<u64> },
    /// SEND_RARP.
    Announce,
}

impl Carried {
    /// Reads it; none if it is no such request.
    pub fn read(offset: u32, bytes: &[u8]) -> Option<Carried> {
        let word = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
        let long = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes);
        if offset != OFFSET {
            return None;
        }
        match word(0)? {
            LOG_BASE => {
                let file = duplicate(word(4)?.cast_signed()).ok()?;
                Some(Carried::LogBase { file: file.into(), len: long(8)?, offset: long(16)? })
            }
            VRING_ADDR => {
                let address = long(40)?;
                Some(Carried::UsedLog { ring: word(8)?, address: (word(12)? & LOG_USED != 0).then_some(address) })
            }
            RARP => Some(Carried::Announce),
            _ => None,
        }
    }
}
