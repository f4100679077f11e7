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
use vonic_queue::{Burst, FRONT, Front, Passed, Pattern, Terms};

/// EtherType, and version and length of a header without options (RFC 791 §3.1), as the low bytes of a word.
const IPV4: u64 = 0x45_0008;
const IPV4_LEN: u32 = 20;
const UDP_LEN: u32 = 8;
const TCP_LEN: u32 = 20;
/// Bytes in front of the IPv4 header.
const BEFORE: u32 = (VNET_HEADER_LEN + ETHERNET_LEN) as u32;
/// Where fields of 16 bits are: the IPv4 packet's length, both ports, UDP's length.
const TOTAL_LENGTH: usize = 14;
const PORTS: usize = 23;
const UDP_LENGTH: usize = 25;
/// A chain with less has not all headers, or not all of what is copied first.
const SHORTEST: u32 =
    if BEFORE + IPV4_LEN + TCP_LEN > FRONT as u32 { BEFORE + IPV4_LEN + TCP_LEN } else { FRONT as u32 };
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
struct Simple<'a>(&'a Front);

impl Simple<'_> {
    #[inline(always)]
    fn word(&self, i: usize) -> u64 {
        u64::from_le(self.0.word(i))
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

    /// Whether the header's sum is right. A one's-complement sum is a remainder by 0xffff (RFC 1071 §1), in any byte order and with carries
    /// added at the other end; it is not 0, since not all of the header is.
    #[inline(always)]
    fn sums_up(&self) -> bool {
        let add = |a: u64, b: u64| {
            let (sum, carry) = a.overflowing_add(b);
            sum + u64::from(carry)
        };
        let sum = add(add(self.word(3) & !0xffff, self.word(4)), self.word(5) << 16);
        sum.wrapping_mul(INVERSE) <= QUOTIENT
    }

    /// Whether the packet is within a chain of `len` bytes, at least [`SHORTEST`], and within the packet the transport header and what it says of
    /// lengths.
    #[inline(always)]
    fn fits<const TCP: bool>(&self, len: u32) -> bool {
        let (stated, least) = if TCP {
            ((self.word(7) >> 20) as u32 % 16 * 4, TCP_LEN)
        } else {
            (self.0.half(UDP_LENGTH).into(), UDP_LEN)
        };
        // Both below 0 are above everything else.
        let total = u32::from(self.0.half(TOTAL_LENGTH)).wrapping_sub(IPV4_LEN + least);
        total <= len.wrapping_sub(BEFORE + IPV4_LEN + least) && stated.wrapping_sub(least) <= total
    }

    #[inline(always)]
    fn serves_dhcp(&self) -> bool {
        filter::is_dhcp_service(self.0.half(PORTS), self.0.half(PORTS + 1))
    }

    fn flow(&self) -> u32 {
        let mut bytes = [0; FRONT];
        bytes.as_chunks_mut().0.iter_mut().zip(self.0.0).for_each(|(place, word)| *place = word.to_ne_bytes());
        steering::hash_of_frame(&bytes[VNET_HEADER_LEN..])
    }
}

/// What the frames of one run have in common, and their limits.
struct Common {
    /// In these bits all are the same, and so.
    pattern: Pattern,
    /// The shortest and the longest chain, and what the receiver gets for the first words: a virtio-net header that says nothing but what was
    /// checked (virtio 1.3 §5.1.6.4).
    terms: Terms,
    tcp: bool,
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
        let (mut mask, mut least) = (SAME, SHORTEST);
        match front.wish() {
            0 => {}
            NEEDS_CSUM if from.negotiated.from_guest.csum && to.negotiated.to_guest.csum => {
                mask.iter_mut().zip(SAME_CHECKSUM).for_each(|(mask, more)| *mask |= more);
                least = least.max(front.checksum_at() + 2 + VNET_HEADER_LEN as u32);
            }
            _ => return None,
        }
        let pattern = Pattern::new(mask, front.0);
        let [first, second, ..] = *pattern.words();
        let flow = (to.queues.pairs() > 1).then(|| front.flow());
        to.queues.aim(|| flow.unwrap_or(0));
        let most = BEFORE + u32::from(to.spec.mtu).min(FRAME_MAX - ETHERNET_LEN as u32);
        let terms = Terms { lens: least..=most, header: [first, second | ONE_BUFFER.to_le()] };
        Some(Common { pattern, terms, tcp, flow })
    }

    /// Whether a frame with this front, in a chain of `len` bytes, is one of these.
    #[inline(always)]
    fn takes<const TCP: bool>(&self, front: &Front, len: u32) -> bool {
        let same = self.pattern.is_in(front);
        let front = Simple(front);
        same && front.sums_up()
            && front.fits::<TCP>(len)
            && (TCP || !front.serves_dhcp())
            && self.flow.is_none_or(|flow| flow == front.flow())
    }
}

/// Where the frames of a run come from: a burst, from a chain of it on; or what is posted in a queue, at most so many.
enum Origin<'a> {
    Burst(&'a Burst, usize),
    Posted { pair: usize, max: u16 },
}

impl Worker {
    /// Takes the frames from chain `i` of a burst on that go the short way to one guest; returns how many there are.
    pub(crate) fn take_run(&mut self, id: PortId, burst: &Burst, i: usize) -> usize {
        let mut front = Front::default();
        if burst.front(i, &mut front) { self.pass_run(id, &front, &Origin::Burst(burst, i)).chains } else { 0 }
    }

    /// Takes what is posted in a port's queue, at most `max` frames, as far as the frames go the short way; how many there were, and whether
    /// those were all.
    pub(crate) fn take_posted(&mut self, id: PortId, pair: usize, max: usize) -> (usize, bool) {
        let (mut done, mut front) = (0, Front::default());
        while done < max {
            let Some(port) = Worker::port_mut(&mut self.ports, id) else { return (done, true) };
            if !port.queues.tx(pair).front(&mut front) {
                return (done, false);
            }
            let passed = self.pass_run(id, &front, &Origin::Posted { pair, max: (max - done) as u16 });
            done += passed.chains;
            if passed.all || passed.chains == 0 {
                return (done, passed.all);
            }
        }
        (done, true)
    }

    /// Takes the frames of a run, of which the first one begins so.
    fn pass_run(&mut self, id: PortId, front: &Front, origin: &Origin<'_>) -> Passed {
        #[cfg(test)]
        if self.short_way.is_none() {
            return Passed::default();
        }
        let Some((common, from, to)) = self.lead(id, &Simple(front)) else { return Passed::default() };
        let passed =
            if common.tcp { run::<true>(&common, from, to, origin) } else { run::<false>(&common, from, to, origin) };
        #[cfg(test)]
        self.short_way.iter_mut().for_each(|count| *count += passed.chains);
        passed
    }

    /// What a frame with this front and those behind it have in common, and the ports between which they go; `None`: not the short way.
    fn lead(&mut self, id: PortId, front: &Simple<'_>) -> Option<(Common, &mut Port, &mut Port)> {
        let network = if front.is_ipv4() { self.ports.get(id as usize)?.as_ref()?.spec.network } else { return None };
        let network = self.networks.get(network as usize)?.as_deref()?;
        let Ok(Destination::Port(to)) = network.destination(id, front.dst()) else { return None };
        let Ok([Some(from), Some(to)]) = self.ports.get_disjoint_mut([id as usize, to as usize]) else { return None };
        Some((Common::of(front, network, from, to)?, from, to))
    }
}

fn may_speak(network: &Network, port: &PortSpec, source: Ipv4Addr) -> bool {
    port.address4.map_or_else(|| filter::owns(network, port, source.into()), |own| own == source)
}

/// Moves frames as long as they have this in common. What they come to is counted once.
#[inline(never)]
fn run<const TCP: bool>(common: &Common, from: &mut Port, to: &mut Port, origin: &Origin<'_>) -> Passed {
    let takes = |front: &Front, len| common.takes::<TCP>(front, len);
    let passed = match *origin {
        Origin::Burst(burst, first) => to.queues.rx().pass((burst, first), &common.terms, takes),
        Origin::Posted { pair, max } => to.queues.rx().pass_posted((from.queues.tx(pair), max), &common.terms, takes),
    };
    let (frames, bytes) = (passed.chains as u64, passed.bytes - passed.chains as u64 * VNET_HEADER_LEN as u64);
    from.spec.stats.copied(CopyPath::GuestToGuest).add(bytes);
    from.spec.stats.count(Way::GuestToHost, (frames, bytes));
    to.spec.stats.count(Way::HostToGuest, (frames, bytes));
    passed
}
