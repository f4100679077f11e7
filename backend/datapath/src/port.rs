//! One VM's NIC inside the worker: its rings, its negotiated features, and the way a frame gets into its guest.
use crate::bridged::TapState;
use crate::calls::is_bulk;
use crate::capture::Captures;
use crate::coalescing::Landing;
use crate::custody::Custody;
use crate::datagram::fragments::Kept;
use crate::exchange::Sent;
use crate::flow::challenge::Challenges;
use crate::flow::travel::Leaving;
use crate::flow::usage::Usage;
use crate::notification::Notifier;
use crate::queues::Queues;
use crate::receive_filter::ReceiveFilter;
use crate::ring::Ring;
use crate::service::resolver::Resolver;
use crate::shares::Share;
use crate::spec::PortSpec;
use crate::stats::{Counter, Way};
use std::ops::Range;
use std::sync::Arc;
use vonic_frame::{DropReason, HEADER_MAX, Offloads, VNET_HEADER_LEN, VnetHeader};
use vonic_queue::{Burst, DirtyLog, MemoryMap, copy_payload};
use vonic_tcp::Instant;

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
    /// Large TCP frames to the guest, whose first segment says CWR.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// Large TCP frames from the guest, IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// Large TCP frames from the guest, IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// Large TCP frames from the guest, whose first segment says CWR.
    pub const HOST_ECN: u64 = 1 << 13;
    /// A frame may span several chains of the receive queue.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// The driver may set receive modes over it.
    pub const CTRL_RX: u64 = 1 << 18;
    /// And which VLANs it listens to.
    pub const CTRL_VLAN: u64 = 1 << 19;
    /// And further receive modes.
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    /// The driver announces its guest when it is asked to.
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    /// There may be several pairs of queues.
    pub const MQ: u64 = 1 << 22;
    /// The driver may set the MAC address over it.
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
    /// The standard's device, not the legacy one.
    pub const VERSION_1: u64 = 1 << 32;
}

/// The largest frame, without its virtio-net header: 64 KiB of IP behind an Ethernet header.
pub const FRAME_MAX: u32 = 65535 + 14;
/// Chains of one frame to a guest: 64 KiB in buffers of 256 bytes.
const RX_CHAINS: usize = 256;

/// Bytes of the smallest frame with payload and virtio-net header: less room than this is of no use to anybody.
pub const SMALLEST_FRAME: u32 = 12 + 14 + 20 + 20 + 1;
/// Faulty chains that are returned on the way to one frame's buffers; a driver that posts more waits for the next.
const FAULTS_A_FRAME: u32 = 64;

/// What the driver acknowledged, as the data path uses it.
#[derive(Clone, Copy, Debug)]
pub struct Negotiated {
    /// The acknowledged feature bits.
    pub bits: u64,
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
        let offloads = |csum, tso4, tso6, ecn| Offloads {
            csum: has(csum),
            tso4: has(tso4),
            tso6: has(tso6),
            // Without large frames it means nothing (virtio 1.3 §5.1.3.1).
            ecn: has(ecn) && (has(tso4) || has(tso6)),
        };
        let long = has(feature::VERSION_1) || has(feature::MRG_RXBUF);
        Negotiated {
            bits,
            from_guest: offloads(feature::CSUM, feature::HOST_TSO4, feature::HOST_TSO6, feature::HOST_ECN),
            to_guest: offloads(feature::GUEST_CSUM, feature::GUEST_TSO4, feature::GUEST_TSO6, feature::GUEST_ECN),
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
    /// Which VMM connection it is, by the master's number; of the last one if there is none.
    pub session: u64,
    /// Connections that were taken out for another host, until it is known whether the guest leaves or stays.
    pub leaving: Vec<Leaving>,
    /// That an engine before this one had taken something out has been told.
    pub told_left: bool,
    /// Until when its rings are expected to come, after an engine's death.
    pub awaited: Option<Instant>,
    /// Its guest is about to leave: its forwards let nobody in.
    pub paused: bool,
    /// What the driver said.
    pub negotiated: Negotiated,
    /// Guest memory, while there is a session.
    pub map: Option<Arc<MemoryMap>>,
    /// Where its VMM wants logged what is written there.
    pub log: Option<Arc<DirtyLog>>,
    /// Its rings.
    pub queues: Queues,
    /// The chains reserved for the frame under construction.
    pub rx_burst: Burst,
    /// How much of its limits the guest uses.
    pub usage: Usage,
    /// Who answers the guest when it asks for names.
    pub resolver: Resolver,
    /// How many challenge ACKs its connections have sent of late.
    pub challenges: Challenges,
    /// How far its tap has been read, if it has one.
    pub tap: TapState,
    /// What its guest listens to.
    pub(crate) receive_filter: ReceiveFilter,
    /// Where the tap's next frame is read to.
    pub(crate) landing: Landing,
    /// When the guest is next told of its router.
    pub advertise_at: Option<Instant>,
    /// How often that has been tried.
    pub advertise_tries: u32,
    /// Datagrams that were sent to the guest in fragments.
    pub fragmented: u32,
    /// Fragments of the guest's that wait for others.
    pub(crate) kept: Kept,
    /// Who is told of its connections, while somebody listens.
    pub(crate) notifier: Option<Notifier>,
    /// What of it has records.
    pub(crate) custody: Custody,
    /// The burst that other workers have, for whose ports there are frames in it.
    pub(crate) sent: Option<Sent>,
    /// Whoever watches its frames.
    pub(crate) captures: Captures,
    /// Whether each frame to the guest is looked at once more: calls for bulk are held back, or somebody watches.
    pub(crate) inspects: bool,
    /// Since when the worker has the burst at hand, and how many chains that has.
    pub(crate) begun: Instant,
    pub(crate) under_way: u32,
    /// Its share of the worker's time.
    pub(crate) share: Share,
}

impl Port {
    /// A port without a session.
    pub fn new(spec: PortSpec) -> Port {
        Port {
            queues: Queues::new(feature::VERSION_1, spec.queue_pairs),
            inspects: spec.calls.us > 0,
            spec,
            session: 0,
            leaving: Vec::new(),
            told_left: false,
            awaited: None,
            paused: false,
            negotiated: Negotiated::new(feature::VERSION_1),
            map: None,
            log: None,
            rx_burst: Burst::with_capacity(RX_CHAINS, 2048),
            usage: Usage::default(),
            resolver: Resolver::default(),
            challenges: Challenges::default(),
            tap: TapState::default(),
            receive_filter: ReceiveFilter::default(),
            landing: Landing::default(),
            advertise_at: None,
            advertise_tries: 0,
            fragmented: 0,
            kept: Kept::default(),
            notifier: None,
            custody: Custody::default(),
            sent: None,
            captures: Captures::default(),
            begun: Instant(0),
            under_way: 0,
            share: Share::default(),
        }
    }

    /// Takes in that its calls, or who watches it, have changed.
    pub(crate) fn settle_inspection(&mut self) {
        self.inspects = self.spec.calls.us > 0 || self.is_captured();
    }

    /// The driver acknowledged features.
    pub fn set_features(&mut self, bits: u64) {
        self.receive_filter = ReceiveFilter::default();
        self.landing.begin_anew();
        self.negotiated = Negotiated::new(bits);
        self.queues.set_features(bits);
    }

    /// The receive queue that the next frame goes to; [`Queues::aim`] chooses it.
    pub fn rx(&mut self) -> &mut Ring {
        self.queues.rx()
    }

    /// Drops the session: rings and memory.
    pub fn disconnect(&mut self) {
        self.queues.disconnect();
        self.kept = Kept::default();
        self.rx_burst.clear();
        self.forget_landing();
        self.receive_filter = ReceiveFilter::default();
        self.queues.set_log(None);
        self.log = None;
        self.map = None;
    }

    /// Counts a frame to the guest that was dropped.
    pub fn dropped_to_guest(&self, reason: DropReason) {
        self.spec.stats.dropped(Way::HostToGuest, reason);
    }

    /// Fetches chains for up to `most` bytes with the virtio-net header; returns the bytes that they hold, or 0 if there are
    /// not `least`. They are of the receive queue aimed at. Chains that can hold no frame at all are completed empty, so that they are not looked at again.
    pub fn reserve(&mut self, least: u32, most: u32) -> u32 {
        if self.landing.is_busy() {
            // In order: what waits for more segments came first.
            self.settle(Instant(0));
        }
        self.rx_burst.clear();
        let room = self.fetch_room(most);
        if room >= least && !self.rx_burst.is_empty() {
            return room;
        }
        let full = if self.negotiated.mergeable { RX_CHAINS } else { 1 };
        if self.rx_burst.len() >= full && room < SMALLEST_FRAME {
            self.discard();
        }
        0
    }

    /// Reserves chains for one more frame, of `bytes` with the virtio-net header, behind those reserved already; `None` if there
    /// are not enough.
    pub fn reserve_next(&mut self, bytes: u32) -> Option<Range<usize>> {
        let first = self.rx_burst.len();
        (self.fetch_room(bytes) >= bytes).then(|| first..self.rx_burst.len())
    }

    /// Fetches chains of one frame, behind those fetched already, until they hold `most` bytes; returns how many they hold.
    fn fetch_room(&mut self, most: u32) -> u32 {
        let first = self.rx_burst.len();
        let (mut room, mut faults) = (0, 0);
        while room < most && (self.negotiated.mergeable || self.rx_burst.len() == first) && faults < FAULTS_A_FRAME {
            if self.queues.rx().fetch(&mut self.rx_burst, 1) == 0 {
                break;
            }
            let Some(last) = self.rx_burst.len().checked_sub(1) else { break };
            let chain = *self.rx_burst.chain(last);
            match chain.fault {
                None => room += chain.len,
                // Used-ring order is fetch order: a bad chain goes back alone, or waits for the frame before it.
                Some(reason) if last == 0 => {
                    faults += 1;
                    self.queues.rx().push_used(chain.head, 0);
                    self.dropped_to_guest(reason);
                    self.rx_burst.clear();
                }
                Some(_) => {
                    self.queues.rx().unfetch(1);
                    self.rx_burst.truncate(last);
                    break;
                }
            }
        }
        room
    }

    /// Completes reserved chains that are too small, with nothing in them.
    fn discard(&mut self) {
        for chain in self.rx_burst.chains() {
            self.queues.rx().push_used(chain.head, 0);
            self.spec.stats.dropped(Way::HostToGuest, DropReason::SmallBuffer);
        }
        self.rx_burst.clear();
    }

    /// Gives reserved chains back.
    pub fn release(&mut self) {
        self.release_behind(0);
    }

    /// Gives reserved chains back, but for the first `used`, which are completed.
    pub fn release_behind(&mut self, used: usize) {
        self.queues.rx().unfetch((self.rx_burst.len() - used) as u16);
        self.rx_burst.clear();
    }

    /// Completes a frame: writes its headers into the reserved chains, `payload_len` bytes stand behind them already.
    pub fn complete(&mut self, vnet: &VnetHeader, headers: &[u8], payload_len: u32) {
        self.complete_segmented(vnet, headers.len() as u16, headers, payload_len);
    }

    /// As [`Port::complete`], where a frame's headers end `headers_len` bytes behind its start, and not with `headers`.
    pub fn complete_segmented(&mut self, vnet: &VnetHeader, headers_len: u16, headers: &[u8], payload_len: u32) {
        let used = self.write_frame(0..self.rx_burst.len(), (vnet, headers_len), headers, payload_len);
        self.release_behind(used);
    }

    /// As [`Port::complete`], for one of several frames, in `chains`; returns the end of those that it took. Others stay
    /// reserved: frames are completed in the order of their chains, and [`Port::release_behind`] comes last.
    pub fn complete_in(&mut self, chains: Range<usize>, vnet: &VnetHeader, headers: &[u8], payload_len: u32) -> usize {
        self.write_frame(chains, (vnet, headers.len() as u16), headers, payload_len)
    }

    /// As [`Port::complete_in`], where a frame's headers end `headers_len` bytes behind its start.
    pub(crate) fn write_frame(
        &mut self,
        chains: Range<usize>,
        (vnet, headers_len): (&VnetHeader, u16),
        headers: &[u8],
        payload_len: u32,
    ) -> usize {
        let header_len = self.negotiated.header_len;
        let total = header_len + headers.len() as u32 + payload_len;
        let mut end = chains.start;
        let mut left = total;
        for chain in &self.rx_burst.chains()[chains.clone()] {
            let used = left.min(chain.len);
            self.queues.rx().push_used(chain.head, used);
            left -= used;
            end += 1;
            if left == 0 {
                break;
            }
        }
        let vnet = vnet.emit(headers_len, (end - chains.start) as u16);
        self.rx_burst.write(chains.start..end, 0, &vnet[..header_len as usize]);
        self.rx_burst.write(chains.start..end, header_len, headers);
        self.spec.stats.frame(Way::HostToGuest, total - header_len);
        if self.inspects {
            self.inspect(chains.start..end, total - header_len, vnet);
        }
        end
    }

    /// Looks at a completed frame.
    fn inspect(&mut self, chains: Range<usize>, len: u32, vnet: [u8; VNET_HEADER_LEN]) {
        if self.spec.calls.us > 0 {
            self.note_bulk(chains.clone(), len);
        }
        if self.is_captured() {
            self.capture_given(chains, len, vnet);
        }
    }

    /// Notes a completed frame whose call may wait.
    fn note_bulk(&mut self, chains: Range<usize>, len: u32) {
        let mut head = [0; HEADER_MAX];
        let wanted = HEADER_MAX.min(len as usize);
        let got = self.rx_burst.read(chains.start, self.negotiated.header_len, &mut head[..wanted]);
        if is_bulk(&head[..got], len, u32::from(self.spec.mtu / 2)) {
            self.queues.rx().calls().bulk(chains.len() as u16);
        }
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
        self.queues.aim_at_frame(headers);
        if !self.rx().is_live() {
            return Err(DropReason::PortDown);
        }
        let payload_len = payload.map_or(0, |p| p.len);
        let before = self.negotiated.header_len + headers.len() as u32;
        let total = before + payload_len;
        if self.reserve(total, total) == 0 {
            self.release();
            // A ring that has just shown itself broken is not the frame's last chance.
            let another = !self.rx().is_live() && self.queues.is_live();
            return if another { self.deliver(vnet, headers, payload) } else { Err(DropReason::NoRoom) };
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
