//! Counters of one port. The worker is the only writer; everybody may read at any time. They can lie in the checkpoint, and go on with
//! the next engine: what they are called there must not change.
use crate::coalescing::CoalesceStats;
use crate::histogram::Histogram;
use crate::limit::Limit;
use std::sync::atomic::{AtomicU64, Ordering};
use vonic_frame::DropReason;
use vonic_record::{Counters, name};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A counter that one thread adds to.
#[derive(Debug, Default, FromBytes, IntoBytes)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        // One writer: a load and a store cost less than a locked addition.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Of what there is now: nothing is left.
    fn none(&self) {
        self.set(0);
    }

    /// The counter as the copying function takes it.
    pub fn atomic(&self) -> &AtomicU64 {
        &self.0
    }
}

/// Which way a frame goes, as its guest sees the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Sent by the guest.
    GuestToHost,
    /// Sent to the guest.
    HostToGuest,
}

impl Way {
    /// Both, in the order of the counter arrays.
    pub const ALL: [Way; 2] = [Way::GuestToHost, Way::HostToGuest];

    /// The name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Way::GuestToHost => "guest_to_host",
            Way::HostToGuest => "host_to_guest",
        }
    }
}

/// Where vonic itself may copy frame bytes; each path's promise is so many copies of each byte (the kernel's own copies are not
/// ours).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyPath {
    /// Guest to host socket: 0.
    GuestToHost,
    /// Host socket to guest: 0.
    HostToGuest,
    /// Guest to guest through the switch: 1.
    GuestToGuest,
    /// What a service echoes, such as ICMP echo data: 1.
    Service,
    /// Fragments of a guest's that wait for others of their datagram, and segments from an uplink that were taken for another's
    /// continuation: at most 1.
    Coalesce,
    /// Guest to a tap or packet socket: 0.
    GuestToUplink,
    /// Tap or packet socket to guest: 0.
    UplinkToGuest,
    /// What somebody captures of the port's frames, both ways: 1.
    Capture,
}

impl CopyPath {
    /// Every path, in the order of the counter array.
    pub const ALL: [CopyPath; 8] = [
        CopyPath::GuestToHost,
        CopyPath::HostToGuest,
        CopyPath::GuestToGuest,
        CopyPath::Service,
        CopyPath::Coalesce,
        CopyPath::GuestToUplink,
        CopyPath::UplinkToGuest,
        CopyPath::Capture,
    ];

    /// The name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            CopyPath::GuestToHost => "guest_to_host",
            CopyPath::HostToGuest => "host_to_guest",
            CopyPath::GuestToGuest => "guest_to_guest",
            CopyPath::Service => "service",
            CopyPath::Coalesce => "coalesce",
            CopyPath::GuestToUplink => "guest_to_uplink",
            CopyPath::UplinkToGuest => "uplink_to_guest",
            CopyPath::Capture => "capture",
        }
    }
}

macro_rules! counters {
    ($(#[$what:meta])* $name:ident: $($(#[$doc:meta])* $field:ident,)*) => {
        $(#[$what])*
        #[derive(Debug, Default, FromBytes, IntoBytes)]
        #[repr(C)]
        pub struct $name { $($(#[$doc])* pub $field: Counter,)* }

        impl $name {
            pub(crate) const NAMES: &[&str] = &[$(stringify!($field),)*];

            /// Every counter with its name.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($field), self.$field.get()),)*].into_iter()
            }

        }
    };
}
pub(crate) use counters;

macro_rules! gauges {
    ($($name:ident)*) => {
        $(impl $name {
            /// One less of those that are open now.
            pub(crate) fn one_closed(&self) {
                self.open.add(u64::MAX);
            }
        })*
    };
}

gauges! { TcpStats IcmpStats UdpStats }

counters! {
    /// Counters of the terminated TCP connections of one port.
    TcpStats:
    /// Connections that the guest opened and that were established on the host's side.
    guest_opened,
    /// Connections that the world opened and that the guest accepted.
    world_opened,
    /// Connects that failed: refused, unreachable, timed out.
    connect_failed,
    /// Connections that ended by a reset from either side, or by giving up.
    reset,
    /// Connections of the guest's that were reset both ways, since new rules, networks or addresses of the host forbid them.
    revoked,
    /// Connections closed by FIN both ways.
    closed,
    /// Bytes accepted by host sockets.
    bytes_guest_to_host,
    /// Bytes acknowledged by the guest.
    bytes_host_to_guest,
    /// Times the kernel took less than a segment: the rest was left to the guest to send again.
    short_writes,
    /// Data frames sent to the guest again.
    retransmitted,
    /// Times a connection waited for the guest to post buffers.
    starved,
    /// Challenge ACKs sent: answers to resets, SYNs and acknowledgments that are not what the connection's own end would send
    /// (RFC 5961).
    challenges,
    /// Challenge ACKs withheld, since there were too many of late: of one connection, or of all of the port's.
    challenges_withheld,
    /// Segments dropped for a timestamp from the past (PAWS, RFC 7323 §5).
    old_timestamps,
    /// Segments dropped for lack of the timestamp that was agreed upon (RFC 7323 §3.2).
    no_timestamps,
    /// Peeks over scratch memory, where the kernel has no SO_PEEK_OFF.
    scratch_peeks,
    /// Established and opening connections now (a gauge).
    open,
}

counters! {
    /// Counters of one port's ICMP echo to the world. A flow is one identifier of the guest's towards one address.
    IcmpStats:
    /// Echo requests that the host's sockets took.
    requests,
    /// Echo replies that the guest got.
    replies,
    /// ICMP errors that the guest got about its requests.
    errors,
    /// Flows opened.
    opened,
    /// Flows that made room for newer ones.
    evicted,
    /// Flows now (a gauge).
    open,
}

counters! {
    /// Counters of one port's UDP beyond its network. A flow is one address and port of the guest's towards one of the world's.
    UdpStats:
    /// Datagrams that the host's sockets took.
    datagrams_guest_to_host,
    /// Datagrams that the guest got.
    datagrams_host_to_guest,
    /// Their bytes, without headers.
    bytes_guest_to_host,
    /// Their bytes, without headers.
    bytes_host_to_guest,
    /// ICMP errors that the guest got about its datagrams.
    errors,
    /// Flows that the guest opened.
    guest_opened,
    /// Flows that the world opened, by forwards.
    world_opened,
    /// Flows that made room for newer ones.
    evicted,
    /// Flows now (a gauge).
    open,
}

/// What of a guest's was denied without a rule of its own that says so.
#[derive(Debug, Default, FromBytes, IntoBytes)]
#[repr(C)]
pub struct EgressStats {
    /// No rule matched, and there are some.
    pub no_rule: Counter,
    /// The destination is none in any case, whatever the rules say.
    pub never: Counter,
}

impl EgressStats {
    const NAMES: &[&str] = &["no_rule", "never"];

    /// Every counter with its name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        [("no_rule", self.no_rule.get()), ("never", self.never.get())].into_iter()
    }
}

/// All counters of one port.
#[derive(Debug, FromBytes, IntoBytes)]
#[repr(C)]
pub struct PortStats {
    frames: [Counter; 2],
    bytes: [Counter; 2],
    /// Of each way frames and bytes when the guest's last request to vonic's own service began.
    marks: [[Counter; 2]; 2],
    drops: [[Counter; DropReason::COUNT]; 2],
    copied: [Counter; CopyPath::ALL.len()],
    limits: [Counter; Limit::ALL.len()],
    /// What was denied without a rule that says so.
    pub egress: EgressStats,
    /// Terminated TCP.
    pub tcp: TcpStats,
    /// ICMP echo to the world.
    pub icmp: IcmpStats,
    /// UDP beyond the network.
    pub udp: UdpStats,
    /// Received segments that were put together.
    pub coalesce: CoalesceStats,
    /// Payload of the large frames that were made of them: bytes.
    pub aggregates: Histogram,
    /// How long the worker has had chains of the guest's: microseconds from when it saw a driver signal, or without a signal from the
    /// beginning of the round that found them, until they were in the used ring.
    pub latency: Histogram,
}

impl Default for PortStats {
    fn default() -> PortStats {
        PortStats::new_zeroed()
    }
}

impl PortStats {
    /// Counts a frame of `len` bytes, without its virtio-net header.
    pub fn frame(&self, way: Way, len: u32) {
        self.count(way, (1, u64::from(len)));
    }

    /// Counts several frames and their bytes: of a run, or what was counted of the same guest elsewhere.
    pub fn count(&self, way: Way, (frames, bytes): (u64, u64)) {
        self.frames[way as usize].add(frames);
        self.bytes[way as usize].add(bytes);
    }

    /// Counts a frame that went no further.
    pub fn dropped(&self, way: Way, reason: DropReason) {
        self.drops[way as usize][reason.index()].add(1);
    }

    /// Counts frames that somebody else has dropped. Of each reason and way there is one writer: the worker, or whoever calls this.
    pub fn add_drops(&self, way: Way, reason: DropReason, frames: u64) {
        self.drops[way as usize][reason.index()].add(frames);
    }

    /// Frames and bytes that went `way`.
    pub fn traffic(&self, way: Way) -> (u64, u64) {
        (self.frames[way as usize].get(), self.bytes[way as usize].get())
    }

    /// Marks what was counted before the last frame of the guest's, which had `len` bytes.
    pub fn mark(&self, len: u32) {
        for (way, last) in [(Way::GuestToHost, (1, u64::from(len))), (Way::HostToGuest, (0, 0))] {
            let (frames, bytes) = self.traffic(way);
            let [marked_frames, marked_bytes] = &self.marks[way as usize];
            marked_frames.set(frames.saturating_sub(last.0));
            marked_bytes.set(bytes.saturating_sub(last.1));
        }
    }

    /// Frames and bytes that had gone `way` when the guest's last request to vonic's own service began, its first frame not among them.
    pub fn marked(&self, way: Way) -> (u64, u64) {
        let [frames, bytes] = &self.marks[way as usize];
        (frames.get(), bytes.get())
    }

    /// How many frames were dropped for `reason`.
    pub fn drops(&self, way: Way, reason: DropReason) -> u64 {
        self.drops[way as usize][reason.index()].get()
    }

    /// Counts what a limit has refused or put off; the reason for the frame's end.
    pub(crate) fn limited(&self, limit: Limit) -> DropReason {
        self.limits[limit as usize].add(1);
        DropReason::Limit
    }

    /// How often a limit was reached.
    pub fn reached(&self, limit: Limit) -> u64 {
        self.limits[limit as usize].get()
    }

    /// The counter of bytes that vonic copied on `path`.
    pub fn copied(&self, path: CopyPath) -> &Counter {
        &self.copied[path as usize]
    }
}

/// Names of a group's counters as they stand in the checkpoint.
fn names(group: &str, of: impl IntoIterator<Item = &'static str>) -> Vec<u64> {
    of.into_iter().map(|counter| name(&format!("{group}.{counter}"))).collect()
}

impl Counters for PortStats {
    fn names() -> Vec<u64> {
        let ways = || Way::ALL.map(Way::name);
        let reasons = || DropReason::ALL.iter().map(|reason| reason.name());
        let drops = ways().map(|way| names(&format!("drops.{way}"), reasons()));
        let limits = Limit::ALL.iter().map(|limit| limit.name());
        [
            names("frames", ways()),
            names("bytes", ways()),
            ways().map(|way| names(&format!("marks.{way}"), ["frames", "bytes"])).concat(),
            drops.concat(),
            names("copied", CopyPath::ALL.map(CopyPath::name)),
            names("limits", limits),
            names("egress", EgressStats::NAMES.iter().copied()),
            names("tcp", TcpStats::NAMES.iter().copied()),
            names("icmp", IcmpStats::NAMES.iter().copied()),
            names("udp", UdpStats::NAMES.iter().copied()),
            names("coalesce", CoalesceStats::NAMES.iter().copied()),
            names("aggregates", Histogram::NAMES),
            names("latency", Histogram::NAMES),
        ]
        .concat()
    }

    /// What is open now is counted again as it is taken over.
    fn resume(&self) {
        [&self.tcp.open, &self.icmp.open, &self.udp.open].into_iter().for_each(Counter::none);
    }
}

impl Counters for Counter {
    fn names() -> Vec<u64> {
        vec![name("count")]
    }
}

/// Bytes copied, by path.
#[derive(Debug, Default, FromBytes, IntoBytes)]
#[repr(transparent)]
pub struct Copied([Counter; CopyPath::ALL.len()]);

impl Copied {
    /// The counter of a path.
    pub fn on(&self, path: CopyPath) -> &Counter {
        &self.0[path as usize]
    }
}

impl Counters for Copied {
    fn names() -> Vec<u64> {
        names("copied", CopyPath::ALL.map(CopyPath::name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::any::Any;
    use std::sync::{Arc, OnceLock};
    use vonic_record::{Checkpoint, Ledger};

    #[test]
    fn every_counter_has_a_name_of_its_own_in_its_place() {
        let names = PortStats::names();
        assert_eq!(names.len() * 8, size_of::<PortStats>());
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
        let stats = PortStats::default();
        let place = |counter: &Counter| (std::ptr::from_ref(counter).addr() - std::ptr::from_ref(&stats).addr()) / 8;
        let last = DropReason::ALL.len() - 1;
        for (counter, called) in [
            (&stats.frames[1], "frames.host_to_guest".to_string()),
            (&stats.bytes[0], "bytes.guest_to_host".into()),
            (&stats.marks[1][0], "marks.host_to_guest.frames".into()),
            (&stats.drops[0][last], format!("drops.guest_to_host.{}", DropReason::ALL[last].name())),
            (&stats.drops[1][DropReason::NoRoom.index()], format!("drops.host_to_guest.{}", DropReason::NoRoom.name())),
            (stats.copied(CopyPath::Coalesce), "copied.coalesce".into()),
            (&stats.limits[Limit::Host as usize], format!("limits.{}", Limit::Host.name())),
            (&stats.egress.never, "egress.never".into()),
            (&stats.tcp.guest_opened, "tcp.guest_opened".into()),
            (&stats.tcp.open, "tcp.open".into()),
            (&stats.icmp.replies, "icmp.replies".into()),
            (&stats.udp.open, "udp.open".into()),
            (&stats.coalesce.waited_us, "coalesce.waited_us".into()),
            (stats.aggregates.sum_counter(), "aggregates.sum".into()),
            (stats.latency.sum_counter(), "latency.sum".into()),
        ] {
            assert_eq!(names[place(counter)], name(&called), "{called}");
        }
    }

    #[test]
    fn counters_go_on_and_gauges_begin_anew() {
        let checkpoint = Arc::new(Checkpoint::create(1).unwrap());
        let ledger = || Ledger::new(Arc::clone(&checkpoint));
        let first = ledger().open::<PortStats>(7, 1);
        first.frame(Way::HostToGuest, 60);
        first.tcp.reset.add(3);
        first.tcp.open.add(2);
        // An engine that is killed gives nothing up.
        static KILLED: OnceLock<Box<dyn Any + Send + Sync>> = OnceLock::new();
        assert!(KILLED.set(Box::new(first)).is_ok());
        let second = ledger().open::<PortStats>(7, 1);
        assert_eq!((second.traffic(Way::HostToGuest), second.tcp.reset.get(), second.tcp.open.get()), ((1, 60), 3, 0));
        assert_eq!(ledger().open::<PortStats>(8, 1).traffic(Way::HostToGuest), (0, 0));
    }
}
