//! One connection's record.
use crate::layout::record as word;
use crate::sync::{AtomicU64, Ordering};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
    /// The listening socket of a forward, TCP's or UDP's: where it listens, the kernel knows.
    Listener = 4,
    /// A VM's tap; in place of a cookie the interface's index.
    Tap = 5,
    /// An IPv6 address that a guest has claimed by duplicate address detection: it will not do so again. No descriptor.
    Claim = 6,
    /// A VM's packet socket.
    Packet = 7,
}

impl Kind {
    /// Whether it is about a connection.
    pub fn is_connection(self) -> bool {
        matches!(self, Kind::GuestOpens | Kind::WorldOpens)
    }
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
    /// The socket was made again on this host: its counters begin at the record's base, and at no SYN.
    pub const RESTORED: Bits = Bits(1 << 8);
    /// The peer's end had come before that, and does not come again.
    pub const PEER_FIN: Bits = Bits(1 << 9);
    /// The socket leads nowhere: everything had come before that, in order if [`Bits::PEER_FIN`], else up to a reset.
    pub const PEER_GONE: Bits = Bits(1 << 10);
    /// The operator wants it to end with the engine: the next one resets both of its sides.
    pub const MORTAL: Bits = Bits(1 << 11);
    /// It is over for the guest, which is told nothing of it any more: the peer has yet to acknowledge the last of what that sent.
    pub const FINISHED: Bits = Bits(1 << 12);
    /// Of datagrams: they are pings, whose guest's end has the identifier in place of a port.
    pub const ECHO: Bits = Bits(1 << 16);
    /// Of datagrams: the world began, or goes on, by the socket of a forward, which the descriptor is.
    pub const FORWARDED: Bits = Bits(1 << 17);
    /// Of datagrams: both sides speak.
    pub const STREAM: Bits = Bits(1 << 18);
    /// Of a tap or packet socket: a guest runs, so what waits in it is for that guest.
    pub const LIVE: Bits = Bits(1 << 19);

    /// Whether all of `other` are set.
    pub fn has(self, other: Bits) -> bool {
        self.0 & other.0 == other.0
    }

    /// `self`, if it is to be.
    pub fn only_if(self, wanted: bool) -> Bits {
        if wanted { self } else { Bits::default() }
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
    /// Of which of the VMM connections, which the master numbers. A tap or packet socket has [`name`](crate::name) of its VM's name here.
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
    /// Of a socket that was made again on this host, where its counters begin: bytes taken from the guest, and dropped for it, modulo 2³².
    pub base: (u32, u32),
}

impl Record {
    /// One without ends.
    pub fn endless(kind: Kind, session: u64, (descriptor, cookie): (i32, u64), bits: Bits) -> Record {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Record {
            kind,
            bits,
            descriptor,
            cookie,
            session,
            guest: nobody,
            remote: nobody,
            host: nobody,
            iss: 0,
            timestamps: 0,
            irs: 0,
            options: Options::default(),
            opened: 0,
            base: (0, 0),
        }
    }
}

/// Of a flow of datagrams by a forward: the host's own address that the peer has sent to, of the guest's family, and the interface
/// of a peer that is known on its link only; else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address.
    pub address: IpAddr,
    /// The interface's index.
    pub interface: u32,
}

/// The words of one record.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(pub(crate) &'a [AtomicU64]);

impl Words<'_> {
    /// Writes all of it; the last store makes it visible.
    pub(crate) fn write(&self, record: &Record) {
        self.fill(record);
        self.publish(record.kind);
    }

    /// As `write`, of a flow that leads through a forward: an address stands where a connection has its sequence numbers.
    pub(crate) fn write_forwarded(&self, record: &Record, local: Local) {
        self.fill(record);
        let [high, low] = address_words(local.address);
        self.set(word::OURS, high);
        self.set(word::PEER, low);
        self.set(word::BASE, u64::from(local.interface));
        self.publish(record.kind);
    }

    /// What [`Words::write_forwarded`] wrote beside the record.
    pub(crate) fn local(&self) -> Local {
        let is_v4 = self.get(word::PORTS) >> 48 & 0xff == 4;
        let address = address([self.get(word::OURS), self.get(word::PEER)], is_v4);
        Local { address, interface: self.get(word::BASE) as u32 }
    }

    fn publish(&self, kind: Kind) {
        self.0[word::STATE].store(kind as u64, Ordering::Release);
    }

    fn fill(&self, record: &Record) {
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
        self.set(word::BASE, u64::from(record.base.0) | u64::from(record.base.1) << 32);
    }

    /// What stands there; `None` if it is free, or of a kind that this version does not know.
    pub(crate) fn read(&self) -> Option<Record> {
        let kind = match self.0[word::STATE].load(Ordering::Acquire) {
            1 => Kind::GuestOpens,
            2 => Kind::WorldOpens,
            3 => Kind::Datagrams,
            4 => Kind::Listener,
            5 => Kind::Tap,
            6 => Kind::Claim,
            7 => Kind::Packet,
            _ => return None,
        };
        let bits = Bits(self.0[word::BITS].load(Ordering::Acquire));
        let ports = self.get(word::PORTS);
        let end = |at: usize, place: u32, is_v4: bool| {
            SocketAddr::new(address([self.get(at), self.get(at + 1)], is_v4), (ports >> (16 * place)) as u16)
        };
        let (v4, host_v4) = (ports >> 48 & 0xff == 4, ports >> 56 & 1 == 0);
        let (ours, peer, base) = (self.get(word::OURS), self.get(word::PEER), self.get(word::BASE));
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
            base: (base as u32, (base >> 32) as u32),
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
