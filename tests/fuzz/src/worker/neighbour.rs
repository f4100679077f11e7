//! Somebody whom all that is no business of.
use std::thread;
use std::time::Instant;

use vonic_datapath::Command;
use vonic_frame::{Arp, Content, Frame, MacAddr, VNET_HEADER_LEN, arp_frame};
use vonic_queue::RingSetup;

use super::{NEIGHBOUR, PATIENCE, Running};
use crate::memory::{BUFFERS, Memory, SIZE, WRITE, setup};
use crate::template::{GATEWAY, GATEWAY_MAC, address, mac};

/// Descriptors of the neighbour's rings, and bytes of each of its buffers.
const NEIGHBOURS: u16 = 16;
const BUFFER: u64 = 0x800;
/// A guest whose driver is sound and sends nothing.
pub(super) struct Neighbour {
    pub(super) memory: Memory,
    pub(super) rings: [RingSetup; 2],
}

impl Neighbour {
    /// With all but the last buffers of its receive ring posted, and descriptors that nothing may change.
    pub(super) fn new(memory: Memory) -> Neighbour {
        let rings = [0, 1].map(|queue| setup(queue, NEIGHBOURS, false));
        for head in 0..NEIGHBOURS {
            let at = BUFFERS + BUFFER * u64::from(head);
            memory.descriptor(rings[0].descriptors, head, (at, BUFFER as u32), WRITE, 0);
        }
        for head in 0..NEIGHBOURS {
            memory.post(&rings[0], head, head);
        }
        Neighbour { memory, rings }
    }

    /// It asks who the gateway is, and is told within its time, whatever else it gets; then looks whether all is as it was.
    pub(super) fn is_served(&self, running: &mut Running) {
        let at = BUFFERS + BUFFER * u64::from(NEIGHBOURS);
        let own = mac(NEIGHBOUR as u8);
        let target_mac = MacAddr([0; 6]);
        let arp = Arp { operation: 1, sender_mac: own, sender: address(NEIGHBOUR as u8), target_mac, target: GATEWAY };
        let frame = arp_frame(own, MacAddr::BROADCAST, &arp);
        let whole = [&[0; VNET_HEADER_LEN], frame.as_slice()].concat();
        self.memory.write(at, &whole);
        self.memory.descriptor(self.rings[1].descriptors, 0, (at, whole.len() as u32), 0, 0);
        let (end, mut asked, mut seen) = (Instant::now() + PATIENCE, 0, 0);
        let ring = self.rings[0];
        let mut index = NEIGHBOURS;
        loop {
            // What has come makes room for what may come.
            let used = self.memory.get(ring.used + 2);
            assert!(used.wrapping_sub(seen) <= NEIGHBOURS, "more was used than was posted");
            while seen != used {
                let entry: [u8; 8] = self.memory.read(ring.used + 4 + 8 * u64::from(seen % NEIGHBOURS));
                let [head, len] =
                    [0, 4].map(|i| u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]]));
                assert!(head < u32::from(NEIGHBOURS) && u64::from(len) <= BUFFER, "a used entry of {head}, {len}");
                let at = BUFFERS + BUFFER * u64::from(head) + VNET_HEADER_LEN as u64;
                let frame: [u8; 42] = self.memory.read(at);
                if let Ok(Frame { content: Content::Arp(arp), .. }) = Frame::parse(&frame, 42)
                    && (arp.operation, arp.sender) == (2, GATEWAY)
                    && arp.sender_mac == GATEWAY_MAC
                {
                    return self.is_whole(running);
                }
                index = self.memory.post(&ring, index, head as u16);
                seen = seen.wrapping_add(1);
            }
            // What the hostile guest sends may have taken the buffers: it is asked again.
            if asked == self.memory.get(self.rings[1].used + 2) {
                asked = self.memory.post(&self.rings[1], asked, 0);
                running.kick(NEIGHBOUR, 1);
            }
            assert!(Instant::now() < end, "the neighbour is not served");
            running.kick(NEIGHBOUR, 0);
            thread::yield_now();
        }
    }

    /// What only the driver writes is as it wrote it.
    fn is_whole(&self, running: &mut Running) {
        running.done(|done| Command::Barrier { done });
        for head in 0..NEIGHBOURS {
            let words: [u8; 16] = self.memory.read(self.rings[0].descriptors + 16 * u64::from(head));
            let at = BUFFERS + BUFFER * u64::from(head);
            let flags = BUFFER | u64::from(WRITE) << 32;
            assert_eq!(words, [at.to_le_bytes(), flags.to_le_bytes()].concat()[..], "a descriptor of the neighbour's");
        }
        let beyond: [u8; 256] = self.memory.read(SIZE - 256);
        assert_eq!(beyond, [0; 256], "memory of the neighbour's that nobody was given");
    }
}
