//! When the driver of a receive queue is called: at once for whatever somebody may wait for, later for bulk if its VM's file says so.
use std::time::Duration;
use vonic_frame::{Content, Frame, Transport};
use vonic_tcp::Instant;

/// FIN, SYN, RST, PSH and URG (RFC 9293 §3.1): whoever sends one wants it to be seen.
const EXPEDITED: u8 = 1 | 2 | 4 | 8 | 0x20;

/// How calls for bulk are held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallPolicy {
    /// Microseconds from the first frame that is not called for; 0: nothing is held back.
    pub us: u64,
    /// Frames after which the driver is called however early.
    pub frames: u32,
}

impl CallPolicy {
    /// How long a call may wait.
    pub fn wait(self) -> Duration {
        Duration::from_micros(self.us)
    }
}

/// What a queue's driver has not been called for.
#[derive(Debug, Default)]
pub struct Calls {
    /// Chains of bulk frames since the last flush.
    bulk: u16,
    /// Bulk frames published and not called for.
    frames: u32,
    /// Since when.
    since: Option<Instant>,
}

impl Calls {
    /// A frame of bulk was completed, which took so many chains.
    pub fn bulk(&mut self, chains: u16) {
        self.bulk = self.bulk.wrapping_add(chains);
        self.frames += 1;
    }

    /// Whether the driver has to be called, now that `published` chains more were shown to it.
    pub fn due(&mut self, published: u16, policy: CallPolicy, now: Instant) -> bool {
        if policy.us == 0 {
            *self = Calls::default();
            return true;
        }
        let urgent = std::mem::take(&mut self.bulk) != published;
        let since = *self.since.get_or_insert(now);
        let due = urgent || self.frames >= policy.frames || now.0 >= since.0.saturating_add(policy.us);
        if due {
            *self = Calls::default();
        }
        due
    }

    /// Since when a call is owed, if one is.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }
}

/// Whether nobody waits for a frame with these leading bytes by itself: TCP payload that its sender has not pushed and that fills a
/// segment of at least `full` bytes, more of the same being on the way.
pub fn is_bulk(headers: &[u8], len: u32, full: u32) -> bool {
    let Ok(frame) = Frame::parse(headers, len) else { return false };
    let Content::Ip(ip) = frame.content else { return false };
    matches!(ip.transport, Transport::Tcp(tcp) if tcp.flags & EXPEDITED == 0 && tcp.payload_len >= full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use vonic_frame::{Checksum, Envelope, TcpFields, tcp_headers};

    const POLICY: CallPolicy = CallPolicy { us: 100, frames: 3 };

    fn completed(calls: &mut Calls, bulk: u16, others: u16, now: u64) -> bool {
        (0..bulk).for_each(|_| calls.bulk(1));
        calls.due(bulk + others, POLICY, Instant(now))
    }

    #[test]
    fn bulk_waits_for_its_time_or_its_number_and_for_nothing_else() {
        let mut calls = Calls::default();
        assert!(!completed(&mut calls, 1, 0, 1000));
        assert_eq!(calls.since(), Some(Instant(1000)));
        assert!(!completed(&mut calls, 0, 0, 1099));
        assert!(completed(&mut calls, 0, 0, 1100), "its time has come");
        assert_eq!(calls.since(), None);
        assert!(!completed(&mut calls, 2, 0, 2000));
        assert!(completed(&mut calls, 1, 0, 2001), "three are enough");
        assert!(!completed(&mut calls, 1, 0, 3000));
        assert!(completed(&mut calls, 1, 1, 3001), "something that does not wait takes all along");
        assert!(completed(&mut calls, 0, 1, 3002), "and never waits");
        calls.bulk(1);
        assert!(calls.due(1, CallPolicy::default(), Instant(3003)), "nothing is held back by default");
    }

    #[test]
    fn whoever_may_be_waited_for_is_no_bulk() {
        let ends = [[192, 0, 2, 1], [192, 0, 2, 2]].map(|address| IpAddr::V4(Ipv4Addr::from(address)));
        let envelope =
            Envelope { src_mac: Default::default(), dst_mac: Default::default(), src: ends[0], dst: ends[1] };
        let bulk = |flags: u8, payload_len: u32| {
            let fields =
                TcpFields { src_port: 1, dst_port: 2, seq: 3, ack: 4, flags, window: 5, options: &[], payload_len };
            let (headers, _) = tcp_headers(&envelope, &fields, Checksum::Partial);
            is_bulk(headers.as_slice(), headers.as_slice().len() as u32 + payload_len, 750)
        };
        assert!(bulk(0x10, 1460) && bulk(0x10, 60_000) && bulk(0x50, 1460));
        for flags in [0x11, 0x12, 0x14, 0x18, 0x30, 2] {
            assert!(!bulk(flags, 1460), "{flags:#x}");
        }
        assert!(!bulk(0x10, 749) && !bulk(0x10, 0));
        assert!(!is_bulk(&[0; 60], 60, 0) && !is_bulk(&[], 0, 0));
    }
}
