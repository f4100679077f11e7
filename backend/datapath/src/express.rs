//! The short way of frames from guest to guest. One that is what most are (one buffer on either side; IPv4 without options or fragments,
//! with a whole TCP or UDP header; nothing to be segmented or summed) needs no more than these checks, and goes with those behind it to
//! the same guest in one run. Whatever is not so takes the general way, which alone knows reasons to drop a frame.
use crate::port::{FRAME_MAX, Port};
use crate::spec::{PortId, PortSpec};
use crate::stats::{CopyPath, Way};
use crate::steering;
use crate::switch::{Destination, Network, filter};
use crate::worker::Worker;
use std::net::Ipv4Addr;
use vonic_frame::{ETHERNET_LEN, MacAddr, PROTOCOL_TCP, PROTOCOL_UDP, VNET_HEADER_LEN};
use vonic_queue::{Burst, FRONT, Front};

/// EtherType, and version and length of a header without options (RFC 791 §3.1), as the low bytes of a word.
const IPV4: u64 = 0x45_0008;
const IPV4_LEN: u32 = 20;
const UDP_LEN: u32 = 8;
const TCP_LEN: u32 = 20;
/// Bytes in front of the IPv4 header.
const BEFORE: u32 = (VNET_HEADER_LEN + ETHERNET_LEN) as u32;
/// Flags and kind of segmentation of a virtio-net header (virtio 1.3 §5.1.6): a checksum is to be completed, and nothing else.
const NEEDS_CSUM: u64 = 1;
/// A frame in one buffer: the field behind the place of the checksum.
const ONE_BUFFER: u64 = 1 << 16;
/// A multiple of 0xffff times this is no larger than the quotient, anything else is: 0xffff is odd.
const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
const QUOTIENT: u64 = u64::MAX / 0xffff;

/// The bits in which all frames of a run are the same, by words: flags and segmentation; MAC addresses; EtherType, version and length of
/// the header; fragmentation (there is none), protocol, source address.
const SAME: [u64; 6] =
    [0xffff, 0xffff_ffff_0000_0000, u64::MAX, 0xff_ffff, 0xffff_0000_ff00_ff3f, 0x0000_0000_0000_ffff];
/// And with a checksum to be completed: where it begins, and from there its place.
const SAME_CHECKSUM: [u64; 2] = [0xffff << 48, 0xffff];

/// The first bytes of a chain, by words in memory order: a virtio-net header of 12 bytes, Ethernet, IPv4, and of TCP as far as its flags.
/// They were copied once, and decide alone.
struct Simple<'a>(&'a [u64; FRONT / 8]);

impl Simple<'_> {
    #[inline(always)]
    fn word(&self, i: usize) -> u64 {
        u64::from_le(self.0[i])
    }

    /// The 16 bits from byte `at` of a word on, in network byte order.
    #[inline(always)]
    fn field(&self, word: usize, at: u32) -> u32 {
        u32::from(((self.word(word) >> (8 * at)) as u16).swap_bytes())
    }

    fn wish(&self) -> u64 {
        self.word(0) & 0xffff
    }

    /// The end of a checksum's place in the frame, without its two bytes.
    fn checksum_at(&self) -> u32 {
        (self.word(0) >> 48) as u32 + u32::from(self.word(1) as u16)
    }

    fn dst(&self) -> MacAddr {
        let ([.., a, b, c, d], [e, f, ..]) = (self.word(1).to_le_bytes(), self.word(2).to_le_bytes());
        MacAddr([a, b, c, d, e, f])
    }

    fn src(&self) -> MacAddr {
        let [_, _, mac @ ..] = self.word(2).to_le_bytes();
        MacAddr(mac)
    }

    fn is_ipv4(&self) -> bool {
        self.word(3) & SAME[3] == IPV4
    }

    fn is_fragment(&self) -> bool {
        self.word(4) & 0xff3f != 0
    }

    fn protocol(&self) -> u8 {
        (self.word(4) >> 24) as u8
    }

    fn source(&self) -> Ipv4Addr {
        let ([.., a, b], [c, d, ..]) = (self.word(4).to_le_bytes(), self.word(5).to_le_bytes());
        Ipv4Addr::new(a, b, c, d)
    }

    /// Whether the header's sum is right. A one's-complement sum is a remainder by 0xffff (RFC 1071 §1), in any byte order; it is not 0,
    /// since not all of the header is.
    #[inline(always)]
    fn sums_up(&self) -> bool {
        let (first, last) = (self.word(3) >> 16, self.word(5) & 0xffff_ffff_ffff);
        let sum = first + (self.word(4) >> 32) + (self.word(4) & 0xffff_ffff) + last;
        sum.wrapping_mul(INVERSE) <= QUOTIENT
    }

    /// Whether the packet is within a chain of `len` bytes, and within the packet the transport header and what it says of lengths.
    #[inline(always)]
    fn fits(&self, len: u32, tcp: bool) -> bool {
        let (stated, least) =
            if tcp { ((self.word(7) >> 20) as u32 % 16 * 4, TCP_LEN) } else { (self.field(6, 2), UDP_LEN) };
        let total = self.field(3, 4);
        total + BEFORE <= len && stated >= least && stated + IPV4_LEN <= total
    }

    #[inline(always)]
    fn serves_dhcp(&self) -> bool {
        filter::is_dhcp_service(self.field(5, 6) as u16, self.field(6, 0) as u16)
    }

    fn flow(&self) -> u32 {
        let mut bytes = [0; FRONT];
        bytes.as_chunks_mut().0.iter_mut().zip(self.0).for_each(|(place, word)| *place = word.to_ne_bytes());
        steering::hash_of_frame(&bytes[VNET_HEADER_LEN..])
    }
}

/// What the frames of one run have in common, and their limits.
struct Common {
    /// In these bits all are the same.
    mask: [u64; 6],
    /// And so.
    same: [u64; 6],
    /// The first words as the receiver gets them: a virtio-net header that says nothing but what was checked (virtio 1.3 §5.1.6.4).
    header: [u64; 2],
    tcp: bool,
    /// The shortest and the longest chain.
    least: u32,
    most: u32,
    /// The hash of their flow, if that decides about the queue.
    flow: Option<u32>,
}

impl Common {
    /// What frames like this one have in common on their way from one guest to another; `None`: there is no short one.
    fn of(front: &Simple<'_>, network: &Network, from: &Port, to: &mut Port) -> Option<Common> {
        let long = |port: &Port| port.negotiated.header_len == VNET_HEADER_LEN as u32;
        let tcp = front.protocol() == PROTOCOL_TCP;
        let honest = front.src() == from.spec.mac && may_speak(network, &from.spec, front.source());
        if !honest || !long(from) || !long(to) || front.is_fragment() || !(tcp || front.protocol() == PROTOCOL_UDP) {
            return None;
        }
        // Where calls for bulk are held back, or somebody watches, each frame is looked at as it is delivered; what waits for more segments
        // came first.
        if to.inspects || to.landing.is_busy() {
            return None;
        }
        let (mut mask, mut least) = (SAME, 0);
        match front.wish() {
            0 => {}
            NEEDS_CSUM if from.negotiated.from_guest.csum && to.negotiated.to_guest.csum => {
                mask.iter_mut().zip(SAME_CHECKSUM).for_each(|(mask, more)| *mask |= more);
                least = front.checksum_at() + 2 + VNET_HEADER_LEN as u32;
            }
            _ => return None,
        }
        let same = std::array::from_fn(|i| front.word(i) & mask[i]);
        let flow = (to.queues.pairs() > 1).then(|| front.flow());
        to.queues.aim(|| flow.unwrap_or(0));
        let most = BEFORE + u32::from(to.spec.mtu).min(FRAME_MAX - ETHERNET_LEN as u32);
        Some(Common { mask, same, header: [same[0], same[1] | ONE_BUFFER].map(u64::to_le), tcp, least, most, flow })
    }

    /// Whether a frame with this front, in a chain of `len` bytes, is one of these.
    #[inline(always)]
    fn takes(&self, front: &Front, len: u32) -> bool {
        let front = Simple(&front.0);
        let other = (0..6).fold(0, |other, i| other | (front.word(i) ^ self.same[i]) & self.mask[i]);
        other == 0
            && front.sums_up()
            && (self.least..=self.most).contains(&len)
            && front.fits(len, self.tcp)
            && (self.tcp || !front.serves_dhcp())
            && self.flow.is_none_or(|flow| flow == front.flow())
    }
}

impl Worker {
    /// Takes the frames from chain `i` of a burst on that go the short way to one guest; returns how many there are.
    pub(crate) fn take_run(&mut self, id: PortId, burst: &Burst, i: usize) -> usize {
        #[cfg(test)]
        if self.short_way.is_none() {
            return 0;
        }
        let mut front = Front::default();
        let simple = burst.front(i, &mut front) && Simple(&front.0).is_ipv4();
        if !simple {
            return 0;
        }
        let front = Simple(&front.0);
        let Some(port) = self.ports.get(id as usize).and_then(Option::as_deref) else { return 0 };
        let Some(network) = self.networks.get(port.spec.network as usize).and_then(Option::as_deref) else { return 0 };
        let Ok(Destination::Port(to)) = network.destination(id, front.dst()) else { return 0 };
        let Ok([Some(from), Some(to)]) = self.ports.get_disjoint_mut([id as usize, to as usize]) else { return 0 };
        let Some(common) = Common::of(&front, network, from, to) else { return 0 };
        let done = run(&common, from, to, burst, i);
        #[cfg(test)]
        self.short_way.iter_mut().for_each(|count| *count += done);
        done
    }
}

fn may_speak(network: &Network, port: &PortSpec, source: Ipv4Addr) -> bool {
    port.address4.map_or_else(|| filter::owns(network, port, source.into()), |own| own == source)
}

/// Moves frames as long as they have this in common. What they come to is counted once.
#[inline(never)]
fn run(common: &Common, from: &Port, to: &mut Port, burst: &Burst, first: usize) -> usize {
    let (frames, bytes) = to.queues.rx().pass(burst, first, common.header, |front, len| common.takes(front, len));
    let bytes = bytes - frames as u64 * VNET_HEADER_LEN as u64;
    from.spec.stats.copied(CopyPath::GuestToGuest).add(bytes);
    from.spec.stats.count(Way::GuestToHost, (frames as u64, bytes));
    to.spec.stats.count(Way::HostToGuest, (frames as u64, bytes));
    frames
}
