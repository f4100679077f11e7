//! One VM's NIC inside the worker: its rings, its negotiated features, and the way a frame gets into its guest.
use crate::datagram::table::DatagramId;
use crate::flow::policy::Usage;
use crate::ring::Ring;
use crate::spec::PortSpec;
use crate::stats::{Counter, Way};
use std::sync::Arc;
use vonic_frame::{DropReason, Offloads, VNET_HEADER_LEN, VnetHeader};
use vonic_queue::{Burst, MemoryMap, copy_payload};

/// Feature bits of virtio 1.3 §5.1.3 and §6.
pub mod feature {
    /// Partial checksums from the guest.
    pub const CSUM: u64 = 1 << 0;
    /// Partial checksums to the guest.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// Large TCP frames to the guest, IPv4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// Large TCP frames to the guest, IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// Large TCP frames from the guest, IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// Large TCP frames from the guest, IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// A frame may span several chains of the receive queue.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The standard's device, not the legacy one.
    pub const VERSION_1: u64 = 1 << 32;
}

/// The largest frame, without its virtio-net header: 64 KiB of IP behind an Ethernet header.
pub const FRAME_MAX: u32 = 65535 + 14;
/// Chains of one frame to a guest: 64 KiB in buffers of 256 bytes.
const RX_CHAINS: usize = 256;

/// Bytes of the smallest frame with payload and virtio-net header: less room than this is of no use to anybody.
const SMALLEST_FRAME: u32 = 12 + 14 + 20 + 20 + 1;
/// Faulty chains that are returned on the way to one frame's buffers; a driver that posts more waits for the next.
const FAULTS_A_FRAME: u32 = 64;

/// What the driver acknowledged, as the data path uses it.
#[derive(Clone, Copy, Debug)]
pub struct Negotiated {
    /// What the guest may ask for.
    pub from_guest: Offloads,
    /// What the guest can take.
    pub to_guest: Offloads,
    /// Whether a frame may span several chains.
    pub mergeable: bool,
    /// Bytes of the virtio-net header: 10 for a legacy driver without MRG_RXBUF (virtio 1.3 §5.1.6.1).
    pub header_len: u32,
}

impl Negotiated {
    /// Reads acknowledged feature bits.
    pub fn new(bits: u64) -> Negotiated {
        let has = |bit| bits & bit != 0;
        let offloads = |csum, tso4, tso6| Offloads { csum: has(csum), tso4: has(tso4), tso6: has(tso6) };
        let long = has(feature::VERSION_1) || has(feature::MRG_RXBUF);
        Negotiated {
            from_guest: offloads(feature::CSUM, feature::HOST_TSO4, feature::HOST_TSO6),
            to_guest: offloads(feature::GUEST_CSUM, feature::GUEST_TSO4, feature::GUEST_TSO6),
            mergeable: has(feature::MRG_RXBUF),
            header_len: VNET_HEADER_LEN as u32 - if long { 0 } else { 2 },
        }
    }
}

/// Payload of a frame that lies in another chain: copied once.
pub struct Source<'a> {
    /// Where the chain was fetched.
    pub burst: &'a Burst,
    /// Which chain.
    pub chain: usize,
    /// First byte in the chain.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// The counter of copied bytes.
    pub copied: &'a Counter,
}

/// One port.
pub struct Port {
    /// What the control side said.
    pub spec: PortSpec,
    /// What the driver said.
    pub negotiated: Negotiated,
    /// Guest memory, while there is a session.
    pub map: Option<Arc<MemoryMap>>,
    /// Guest to host.
    pub tx: Ring,
    /// Host to guest.
    pub rx: Ring,
    /// The chains reserved for the frame under construction.
    pub rx_burst: Burst,
    /// Connections that wait for the guest to post buffers.
    pub starved: Vec<u32>,
    /// Flows of datagrams that wait for the same.
    pub starved_datagrams: Vec<DatagramId>,
    /// How much of its limits the guest uses.
    pub usage: Usage,
}

impl Port {
    /// A port without a session.
    pub fn new(spec: PortSpec) -> Port {
        Port {
            spec,
            negotiated: Negotiated::new(feature::VERSION_1),
            map: None,
            tx: Ring::default(),
            rx: Ring::default(),
            rx_burst: Burst::with_capacity(RX_CHAINS, 2048),
            starved: Vec::with_capacity(64),
            starved_datagrams: Vec::with_capacity(64),
            usage: Usage::default(),
        }
    }

    /// Ring by queue index (virtio 1.3 §5.1.2).
    pub fn ring(&mut self, index: u16) -> &mut Ring {
        if index.is_multiple_of(2) { &mut self.rx } else { &mut self.tx }
    }

    /// Whether somebody waits for the guest to post buffers.
    pub fn is_starved(&self) -> bool {
        !self.starved.is_empty() || !self.starved_datagrams.is_empty()
    }

    /// Drops the session: rings and memory.
    pub fn disconnect(&mut self) {
        self.tx.stop();
        self.rx.stop();
        self.rx_burst.clear();
        self.map = None;
        self.starved.clear();
        self.starved_datagrams.clear();
    }

    /// Counts a frame to the guest that was dropped.
    pub fn dropped_to_guest(&self, reason: DropReason) {
        self.spec.stats.dropped(Way::HostToGuest, reason);
    }

    /// Fetches chains for up to `most` bytes with the virtio-net header; returns the bytes that they hold, or 0 if there are
    /// not `least`. Chains that can hold no frame at all are completed empty, so that they are not looked at again.
    pub fn reserve(&mut self, least: u32, most: u32) -> u32 {
        self.rx_burst.clear();
        let (mut room, mut faults) = (0, 0);
        while room < most && (self.negotiated.mergeable || self.rx_burst.is_empty()) && faults < FAULTS_A_FRAME {
            if self.rx.fetch(&mut self.rx_burst, 1) == 0 {
                break;
            }
            let Some(last) = self.rx_burst.len().checked_sub(1) else { break };
            let chain = *self.rx_burst.chain(last);
            match chain.fault {
                None => room += chain.len,
                // Used-ring order is fetch order: a bad chain goes back alone, or waits for the frame before it.
                Some(reason) if last == 0 => {
                    faults += 1;
                    self.rx.push_used(chain.head, 0);
                    self.dropped_to_guest(reason);
                    self.rx_burst.clear();
                }
                Some(_) => {
                    self.rx.unfetch(1);
                    self.rx_burst.truncate(last);
                    break;
                }
            }
        }
        if room >= least && !self.rx_burst.is_empty() {
            return room;
        }
        let full = if self.negotiated.mergeable { RX_CHAINS } else { 1 };
        if self.rx_burst.len() >= full && room < SMALLEST_FRAME {
            self.discard();
        }
        0
    }

    /// Completes reserved chains that are too small, with nothing in them.
    fn discard(&mut self) {
        for chain in self.rx_burst.chains() {
            self.rx.push_used(chain.head, 0);
            self.spec.stats.dropped(Way::HostToGuest, DropReason::SmallBuffer);
        }
        self.rx_burst.clear();
    }

    /// Gives reserved chains back.
    pub fn release(&mut self) {
        self.rx.unfetch(self.rx_burst.len() as u16);
        self.rx_burst.clear();
    }

    /// Completes a frame: writes its headers into the reserved chains, `payload_len` bytes stand behind them already.
    pub fn complete(&mut self, vnet: &VnetHeader, headers: &[u8], payload_len: u32) {
        let header_len = self.negotiated.header_len;
        let total = header_len + headers.len() as u32 + payload_len;
        let mut chains = 0;
        let mut left = total;
        for chain in self.rx_burst.chains() {
            let used = left.min(chain.len);
            self.rx.push_used(chain.head, used);
            left -= used;
            chains += 1;
            if left == 0 {
                break;
            }
        }
        let vnet = vnet.emit(headers.len() as u16, chains as u16);
        self.rx_burst.write(0..chains, 0, &vnet[..header_len as usize]);
        self.rx_burst.write(0..chains, header_len, headers);
        self.rx.unfetch((self.rx_burst.len() - chains) as u16);
        self.rx_burst.clear();
        self.spec.stats.frame(Way::HostToGuest, total - header_len);
    }

    /// Puts one frame into the guest's ring; the guest sees it at the next flush.
    ///
    /// # Errors
    /// `PortDown`, `NoRoom`; counted by the caller.
    pub fn deliver(
        &mut self,
        vnet: &VnetHeader,
        headers: &[u8],
        payload: Option<&Source<'_>>,
    ) -> Result<(), DropReason> {
        if !self.rx.is_live() {
            return Err(DropReason::PortDown);
        }
        let payload_len = payload.map_or(0, |p| p.len);
        let before = self.negotiated.header_len + headers.len() as u32;
        let total = before + payload_len;
        if self.reserve(total, total) == 0 {
            self.release();
            return Err(DropReason::NoRoom);
        }
        if let Some(p) = payload {
            let chains = 0..self.rx_burst.len();
            let copied = p.copied.atomic();
            copy_payload(p.burst, p.chain, p.offset, &self.rx_burst, chains, before, p.len, copied);
        }
        self.complete(vnet, headers, payload_len);
        Ok(())
    }
}
