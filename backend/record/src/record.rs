//! One connection's record.
use crate::layout::record as word;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A connection that the guest opened.
    GuestOpens = 1,
    /// A connection that the world opened, by a forward.
    WorldOpens = 2,
    /// A guest's flow of datagrams.
    Datagrams = 3,
}

/// What has happened to a connection since its record was written: what its socket cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bits(pub u64);

impl Bits {
    /// The guest's SYN is known: IRS and options stand in the record.
    pub const SYNCHRONIZED: Bits = Bits(1);
    /// The handshake with the guest is complete.
    pub const ESTABLISHED: Bits = Bits(1 << 1);
    /// The guest's FIN is passed on, or about to be: set before shutdown(2).
    pub const GUEST_FIN: Bits = Bits(1 << 2);
    /// If the socket is closed, then by a reset. Set before a call that may take the socket's error, which would be the only sign of
    /// it; removed if the call took none.
    pub const ABORTED: Bits = Bits(1 << 3);

    /// Whether all of `other` are set.
    pub fn has(self, other: Bits) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What the two SYNs agreed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The effective send MSS, options taken off.
    pub mss: u16,
    /// Snd.Wind.Shift.
    pub send_scale: u8,
    /// Windows are scaled.
    pub scaled: bool,
    /// Selective acknowledgments.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
}

impl Options {
    fn pack(self) -> u32 {
        let flags =
            [self.scaled, self.sack, self.timestamps].iter().rev().fold(0, |all, &flag| all << 1 | u32::from(flag));
        u32::from(self.mss) | u32::from(self.send_scale) << 16 | flags << 24
    }

    fn unpack(word: u32) -> Options {
        let flag = |at: u32| word >> (24 + at) & 1 == 1;
        Options {
            mss: word as u16,
            send_scale: (word >> 16) as u8,
            scaled: flag(0),
            sack: flag(1),
            timestamps: flag(2),
        }
    }
}

/// A record as plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// What happened since it was written.
    pub bits: Bits,
    /// The socket's number in the descriptor table that engines share.
    pub descriptor: i32,
    /// SO_COOKIE: whether the number still is this socket's.
    pub cookie: u64,
    /// Of which of the VMM connections, which the master numbers.
    pub session: u64,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
    /// Where the host's socket leads.
    pub host: SocketAddr,
    /// ISS of the leg.
    pub iss: u32,
    /// Our TSval at the checkpoint's instant 0.
    pub timestamps: u32,
    /// IRS, if [`Bits::SYNCHRONIZED`].
    pub irs: u32,
    /// What was agreed to, if [`Bits::SYNCHRONIZED`].
    pub options: Options,
    /// When the connection began, in microseconds of the checkpoint's clock.
    pub opened: u64,
}

/// The words of one record.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(pub(crate) &'a [AtomicU64]);

impl Words<'_> {
    /// Writes all of it; the last store makes it visible.
    pub(crate) fn write(&self, record: &Record) {
        self.set(word::BITS, record.bits.0);
        self.set(word::DESCRIPTOR, u64::from(record.descriptor as u32));
        self.set(word::COOKIE, record.cookie);
        self.set(word::SESSION, record.session);
        for (at, end) in [(word::GUEST, record.guest), (word::REMOTE, record.remote), (word::HOST, record.host)] {
            let [high, low] = address_words(end.ip());
            self.set(at, high);
            self.set(at + 1, low);
        }
        let family = if record.guest.is_ipv4() { 4 } else { 6 };
        let host_family = if record.host.is_ipv4() { 0 } else { 1 << 8 };
        let ports = [record.guest.port(), record.remote.port(), record.host.port(), family | host_family];
        self.set(word::PORTS, ports.iter().rev().fold(0, |all, &port| all << 16 | u64::from(port)));
        self.set(word::OURS, u64::from(record.iss) | u64::from(record.timestamps) << 32);
        self.set(word::PEER, u64::from(record.irs) | u64::from(record.options.pack()) << 32);
        self.set(word::OPENED, record.opened);
        self.0[word::STATE].store(record.kind as u64, Ordering::Release);
    }

    /// What stands there; `None` if it is free, or of a kind that this version does not know.
    pub(crate) fn read(&self) -> Option<Record> {
        let kind = match self.0[word::STATE].load(Ordering::Acquire) {
            1 => Kind::GuestOpens,
            2 => Kind::WorldOpens,
            3 => Kind::Datagrams,
            _ => return None,
        };
        let bits = Bits(self.0[word::BITS].load(Ordering::Acquire));
        let ports = self.get(word::PORTS);
        let end = |at: usize, place: u32, is_v4: bool| {
            SocketAddr::new(address([self.get(at), self.get(at + 1)], is_v4), (ports >> (16 * place)) as u16)
        };
        let (v4, host_v4) = (ports >> 48 & 0xff == 4, ports >> 56 & 1 == 0);
        let (ours, peer) = (self.get(word::OURS), self.get(word::PEER));
        Some(Record {
            kind,
            bits,
            descriptor: self.get(word::DESCRIPTOR) as u32 as i32,
            cookie: self.get(word::COOKIE),
            session: self.get(word::SESSION),
            guest: end(word::GUEST, 0, v4),
            remote: end(word::REMOTE, 1, v4),
            host: end(word::HOST, 2, host_v4),
            iss: ours as u32,
            timestamps: (ours >> 32) as u32,
            irs: peer as u32,
            options: Options::unpack((peer >> 32) as u32),
            opened: self.get(word::OPENED),
        })
    }

    pub(crate) fn is_free(&self) -> bool {
        self.0[word::STATE].load(Ordering::Acquire) == 0
    }

    /// IRS and options, then the bit that says that they are there.
    pub(crate) fn synchronize(&self, irs: u32, options: Options) {
        self.set(word::PEER, u64::from(irs) | u64::from(options.pack()) << 32);
        self.add(Bits::SYNCHRONIZED);
    }

    pub(crate) fn add(&self, bits: Bits) {
        self.0[word::BITS].fetch_or(bits.0, Ordering::Release);
    }

    pub(crate) fn remove(&self, bits: Bits) {
        self.0[word::BITS].fetch_and(!bits.0, Ordering::Release);
    }

    pub(crate) fn free(&self) {
        self.0[word::STATE].store(0, Ordering::Release);
    }

    fn get(&self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    fn set(&self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }
}

/// IPv4 in the low half of the second word.
fn address_words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(v4) => [0, u64::from(u32::from(v4))],
        IpAddr::V6(v6) => {
            let whole = u128::from(v6);
            [(whole >> 64) as u64, whole as u64]
        }
    }
}

fn address([high, low]: [u64; 2], is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::from(low as u32).into()
    } else {
        Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into()
    }
}
