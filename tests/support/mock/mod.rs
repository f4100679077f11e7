//! A VMM and a virtio-net driver in one, inside the test: shared memory, two split rings, and a hand on every byte of them.
//!
//! Good behaviour is the default ([`MockFrontend::start`], [`MockFrontend::send_frame`], [`MockFrontend::receive_frame`]); bad behaviour is made with
//! [`DriverRing`]'s raw access, [`MockFrontend::memory`] and [`MockFrontend::raw`].

mod control;
mod handshake;
mod header;
mod log;
mod memory;
mod message;
mod ring;
mod state;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use vm_memory::GuestMemoryMmap;

pub use handshake::{Message, handshake};
pub use header::VnetHeader;
pub use log::{Copy, DirtyLog, PAGE};
pub use memory::{BUFFERS, RINGS, Region};
pub use message::{RawConnection, Reply, code};
pub use ring::{Chain, Descriptor, DriverRing, Used, flag};

use crate::sys;

/// Feature bits of virtio 1.3 §5.1.3 and §6, and VHOST_USER_F_PROTOCOL_FEATURES.
#[allow(missing_docs, reason = "named as in the specification")]
pub mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const CTRL_RX: u64 = 1 << 18;
    pub const CTRL_VLAN: u64 = 1 << 19;
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    pub const MQ: u64 = 1 << 22;
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
    pub const LOG_ALL: u64 = 1 << 26;
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const IN_ORDER: u64 = 1 << 35;
    /// What a driver without any offload acknowledges.
    pub const PLAIN: u64 = VERSION_1 | MAC | PROTOCOL_FEATURES;
    /// All that a driver of today acknowledges.
    pub const ALL: u64 = PLAIN
        | CSUM
        | GUEST_CSUM
        | MTU
        | GUEST_TSO4
        | GUEST_TSO6
        | HOST_TSO4
        | HOST_TSO6
        | MRG_RXBUF
        | STATUS
        | RING_INDIRECT_DESC
        | RING_EVENT_IDX;
}

/// The ring on which the device writes, of the first pair; that of pair N is behind it by 2·N.
pub const HOST_TO_GUEST: usize = 0;
/// The ring on which the device reads, of the first pair.
pub const GUEST_TO_HOST: usize = 1;

/// How the driver behaves.
#[derive(Debug, Clone)]
pub struct MockConfig {
    /// Features acknowledged, if offered.
    pub features: u64,
    /// Size of both rings, a power of two up to 256.
    pub ring_size: u16,
    /// Lengths of the descriptors of each posted receive buffer; at most 64 KiB and a header together.
    pub buffer: Vec<u32>,
    /// How many receive buffers are kept posted in each pair.
    pub posted: u16,
    /// Pairs of rings. Behind them is the control queue if the features have CTRL_VQ.
    pub queue_pairs: usize,
    /// Bytes of guest memory over which the first pair's receive buffers roam, as those of a guest with so much memory do; 0: each head
    /// has its place.
    pub roam: u64,
    /// Takes its backend's state along when it moves, as VMMs of today do.
    pub device_state: bool,
}

impl Default for MockConfig {
    /// All features, rings of 256, buffers of 64 KiB.
    fn default() -> MockConfig {
        MockConfig {
            features: feature::ALL,
            ring_size: 256,
            buffer: vec![65_562],
            posted: 64,
            queue_pairs: 1,
            roam: 0,
            device_state: true,
        }
    }
}

/// The two in one.
pub struct MockFrontend {
    frontend: Frontend,
    raw: RawConnection,
    config: MockConfig,
    memory: GuestMemoryMmap,
    regions: [Region; 2],
    rings: Vec<DriverRing>,
    features: u64,
}

impl MockFrontend {
    /// Connects, negotiates, shares memory, starts both rings and posts receive buffers.
    ///
    /// # Errors
    /// If the backend refuses a step; the step is in the error.
    pub fn start(socket: &Path, config: MockConfig) -> Result<MockFrontend> {
        let mut mock = MockFrontend::connect(socket, config)?;
        mock.negotiate()?;
        mock.share_memory()?;
        mock.start_rings()?;
        mock.post_buffers()?;
        Ok(mock)
    }

    /// Connects only; nothing has been said yet.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(socket: &Path, config: MockConfig) -> Result<MockFrontend> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        MockFrontend::over(stream, config)
    }

    /// As [`MockFrontend::connect`], for a backend that connects itself: over a connection that was accepted.
    ///
    /// # Errors
    /// Of the system.
    pub fn over(stream: UnixStream, config: MockConfig) -> Result<MockFrontend> {
        let limit = Some(Duration::from_secs(10));
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        let raw = RawConnection::new(stream.try_clone()?);
        let count = 2 * config.queue_pairs as u64 + u64::from(config.features & feature::CTRL_VQ != 0);
        let (memory, regions) = memory::create(count, config.roam)?;
        let rings = (0..count).map(|index| DriverRing::new(&memory, index, config.ring_size));
        let mut rings = rings.collect::<Result<Vec<_>>>()?;
        let end = regions[1].guest + regions[1].size;
        rings[HOST_TO_GUEST].roam(end - config.roam..end);
        Ok(MockFrontend {
            frontend: Frontend::from_stream(stream, count),
            raw,
            config,
            memory,
            regions,
            rings,
            features: 0,
        })
    }

    /// Owner, features, protocol features. From here on every message asks for its acknowledgement.
    ///
    /// # Errors
    /// If the backend refuses, or lacks REPLY_ACK.
    pub fn negotiate(&mut self) -> Result<()> {
        let mut wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::RARP
            | VhostUserProtocolFeatures::DEVICE_STATE;
        wanted.set(VhostUserProtocolFeatures::DEVICE_STATE, self.config.device_state);
        self.frontend.set_owner().context("SET_OWNER")?;
        let offered = self.frontend.get_features().context("GET_FEATURES")?;
        let protocol = self.frontend.get_protocol_features().context("GET_PROTOCOL_FEATURES")?;
        if !protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            bail!("the backend offers no REPLY_ACK: {protocol:?}");
        }
        self.frontend.set_protocol_features(protocol & wanted).context("SET_PROTOCOL_FEATURES")?;
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.features = offered & self.config.features;
        self.frontend.set_features(self.features).context("SET_FEATURES")
    }

    /// Shares the two memory regions.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn share_memory(&mut self) -> Result<()> {
        let table: Vec<_> = self.regions.iter().map(Region::info).collect();
        self.frontend.set_mem_table(&table).context("SET_MEM_TABLE").map(drop)
    }

    /// The driver goes and another comes: its rings begin anew, at the same place. Nothing is said about it.
    ///
    /// # Errors
    /// If guest memory cannot be written.
    pub fn clear_rings(&mut self) -> Result<()> {
        for (index, ring) in self.rings.iter_mut().enumerate() {
            *ring = DriverRing::new(&self.memory, index as u64, self.config.ring_size)?;
        }
        Ok(())
    }

    /// Sets all rings up and enables them.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn start_rings(&mut self) -> Result<()> {
        for index in 0..self.rings.len() {
            self.start_ring(index).with_context(|| format!("starting ring {index}"))?;
        }
        Ok(())
    }

    /// Sets one ring up, at the index where its driver stands, and enables it.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn start_ring(&mut self, index: usize) -> Result<()> {
        self.set_ring_up(index)?;
        self.frontend.set_vring_kick(index, &self.rings[index].kick).context("SET_VRING_KICK")?;
        self.enable_ring(index, true)
    }

    /// The same without a kick descriptor (bit 8 of SET_VRING_KICK): the device is to poll.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn start_ring_without_kick(&mut self, index: usize) -> Result<()> {
        self.set_ring_up(index)?;
        let none = (index as u64 | 1 << 8).to_le_bytes();
        let reply = self.raw.ask(code::SET_VRING_KICK, &none, &[])?;
        if reply.acknowledged() != Some(true) {
            bail!("SET_VRING_KICK without a descriptor: {reply:?}");
        }
        self.enable_ring(index, true)
    }

    /// Everything that comes before the kick.
    fn set_ring_up(&mut self, index: usize) -> Result<()> {
        let addresses = self.addresses(index);
        let ring = &mut self.rings[index];
        ring.event_idx = self.features & feature::RING_EVENT_IDX != 0;
        self.frontend.set_vring_num(index, ring.size).context("SET_VRING_NUM")?;
        self.frontend.set_vring_base(index, ring.last_used).context("SET_VRING_BASE")?;
        self.frontend.set_vring_addr(index, &addresses).context("SET_VRING_ADDR")?;
        self.frontend.set_vring_call(index, &ring.call).context("SET_VRING_CALL")
    }

    /// A ring's place, in the frontend's own addresses, as these messages want it.
    fn addresses(&self, index: usize) -> VringConfigData {
        let ring = &self.rings[index];
        let user = |address| self.regions[0].user_address(address);
        VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: user(ring.descriptors),
            used_ring_addr: user(ring.used),
            avail_ring_addr: user(ring.available),
            log_addr: None,
        }
    }

    /// Lays all rings out anew at their places, as a driver does that was loaded again; the device is told nothing.
    ///
    /// # Errors
    /// If guest memory cannot be written.
    pub fn forget_rings(&mut self) -> Result<()> {
        for (index, ring) in self.rings.iter_mut().enumerate() {
            let event_idx = ring.event_idx;
            let fresh = DriverRing::new(&self.memory, index as u64, self.config.ring_size)?;
            let old = std::mem::replace(ring, fresh);
            (ring.kick, ring.call, ring.event_idx) = (old.kick, old.call, event_idx);
        }
        Ok(())
    }

    /// GET_VRING_BASE: stops a ring and says where it stood.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn stop_ring(&mut self, index: usize) -> Result<u16> {
        Ok(self.frontend.get_vring_base(index).context("GET_VRING_BASE")? as u16)
    }

    /// SET_VRING_ENABLE.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn enable_ring(&mut self, index: usize, enable: bool) -> Result<()> {
        self.frontend.set_vring_enable(index, enable).context("SET_VRING_ENABLE")
    }

    /// The first `length` bytes of the device's configuration space (virtio 1.3 §5.1.4).
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn device_config(&mut self, length: u32) -> Result<Vec<u8>> {
        let blank = vec![0; length as usize];
        let (_, content) =
            self.frontend.get_config(0, length, VhostUserConfigFlags::WRITABLE, &blank).context("GET_CONFIG")?;
        Ok(content)
    }

    /// Features in force: wanted and offered.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Guest memory.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The shared regions.
    pub fn regions(&self) -> &[Region; 2] {
        &self.regions
    }

    /// One ring, for raw access.
    pub fn ring(&mut self, index: usize) -> &mut DriverRing {
        &mut self.rings[index]
    }

    /// The vhost crate's frontend, for what this type does not do by itself.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// The same connection without the vhost crate's manners: any message, any descriptor.
    pub fn raw(&mut self) -> &mut RawConnection {
        &mut self.raw
    }

    /// Posts receive buffers until as many as configured are outstanding.
    ///
    /// # Errors
    /// If guest memory cannot be written.
    pub fn post_buffers(&mut self) -> Result<()> {
        (0..self.config.queue_pairs).try_for_each(|pair| self.post_buffers_on(pair))
    }

    /// As [`MockFrontend::post_buffers`], in one pair.
    ///
    /// # Errors
    /// If guest memory cannot be written.
    pub fn post_buffers_on(&mut self, pair: usize) -> Result<()> {
        let ring = &mut self.rings[2 * pair + HOST_TO_GUEST];
        let chains = (self.config.ring_size / self.config.buffer.len() as u16).min(self.config.posted);
        let mut posted = false;
        while ring.outstanding() < chains {
            ring.add(
                &self.memory,
                &Chain { lengths: self.config.buffer.clone(), writable: true, indirect: false },
                &[],
            )?;
            posted = true;
        }
        if posted { ring.notify(&self.memory) } else { Ok(()) }
    }

    /// Sends a frame as one descriptor and waits until the device has returned it. The result is the used length, which must be 0.
    ///
    /// # Errors
    /// If it is not returned within five seconds.
    pub fn send_frame(&mut self, header: &VnetHeader, frame: &[u8]) -> Result<u32> {
        self.send_shaped(header, frame, &[], false)
    }

    /// As [`MockFrontend::send_frame`], with header and frame cut into descriptors of `lengths` and one for the rest, in the ring or in an
    /// indirect table.
    ///
    /// # Errors
    /// As [`MockFrontend::send_frame`].
    pub fn send_shaped(&mut self, header: &VnetHeader, frame: &[u8], lengths: &[u32], indirect: bool) -> Result<u32> {
        let content = [&header.encode()[..], frame].concat();
        let mut lengths = lengths.to_vec();
        let rest =
            (content.len() as u32).checked_sub(lengths.iter().sum()).context("descriptors longer than the frame")?;
        if rest > 0 {
            lengths.push(rest);
        }
        let ring = &mut self.rings[GUEST_TO_HOST];
        let head = ring.add(&self.memory, &Chain { lengths, writable: false, indirect }, &content)?;
        ring.notify(&self.memory)?;
        self.wait_sent(head)
    }

    /// Puts a frame into the transmit ring of a pair; the device is not told. Returns its head.
    ///
    /// # Errors
    /// If the ring is full.
    pub fn queue_frame_on(&mut self, pair: usize, header: &VnetHeader, frame: &[u8]) -> Result<u16> {
        let content = [&header.encode()[..], frame].concat();
        let chain = Chain { lengths: vec![content.len() as u32], writable: false, indirect: false };
        self.rings[2 * pair + GUEST_TO_HOST].add(&self.memory, &chain, &content)
    }

    /// Tells the device of what was put into a pair's transmit ring.
    ///
    /// # Errors
    /// As [`DriverRing::notify`].
    pub fn notify_on(&mut self, pair: usize) -> Result<()> {
        self.rings[2 * pair + GUEST_TO_HOST].notify(&self.memory)
    }

    /// Waits until the device returns the transmit chain `head`; the used length.
    ///
    /// # Errors
    /// If it does not within five seconds, or returns another.
    pub fn wait_sent(&mut self, head: u16) -> Result<u32> {
        let used =
            self.wait_used(GUEST_TO_HOST, Duration::from_secs(5))?.context("a transmitted chain was not returned")?;
        if used.head != head {
            bail!("chain {} was returned, {head} was sent", used.head);
        }
        Ok(used.length)
    }

    /// The next used entry of a ring with what lies in its buffer, without waiting. The device is asked for an interrupt if there is none.
    ///
    /// # Errors
    /// If guest memory cannot be read, or the device returned what it was never given.
    pub fn take_used(&mut self, index: usize) -> Result<Option<(Used, Vec<u8>)>> {
        let ring = &mut self.rings[index];
        let mut used = ring.take_used(&self.memory)?;
        if used.is_none() {
            ring.arm(&self.memory)?;
            used = ring.take_used(&self.memory)?;
        }
        used.map(|used| Ok((used, ring.content(&self.memory, &used)?))).transpose()
    }

    /// The next used entry of a ring, waiting for the call eventfd as a driver does: a forgotten interrupt shows as a timeout.
    ///
    /// # Errors
    /// If guest memory cannot be read, or the device returned what it was never given.
    pub fn wait_used(&mut self, index: usize, limit: Duration) -> Result<Option<Used>> {
        let end = Instant::now() + limit;
        let ring = &mut self.rings[index];
        loop {
            if let Some(used) = ring.take_used(&self.memory)? {
                return Ok(Some(used));
            }
            ring.arm(&self.memory)?;
            if let Some(used) = ring.take_used(&self.memory)? {
                return Ok(Some(used));
            }
            if !sys::wait_readable(ring.call.as_raw_fd(), end.saturating_duration_since(Instant::now()))? {
                return Ok(None);
            }
            drop(ring.call.read());
        }
    }

    /// The next frame from the device, put together if it was merged over several buffers; posts buffers in place of those used.
    ///
    /// # Errors
    /// If the frame breaks virtio 1.3 §5.1.6.4: shorter than its header, or buffers of a merged frame missing.
    pub fn receive_frame(&mut self, limit: Duration) -> Result<Option<(VnetHeader, Vec<u8>)>> {
        self.receive_frame_on(0, limit)
    }

    /// As [`MockFrontend::receive_frame`], from one pair.
    ///
    /// # Errors
    /// As [`MockFrontend::receive_frame`].
    pub fn receive_frame_on(&mut self, pair: usize, limit: Duration) -> Result<Option<(VnetHeader, Vec<u8>)>> {
        let index = 2 * pair + HOST_TO_GUEST;
        let Some(first) = self.wait_used(index, limit)? else { return Ok(None) };
        let mut content = self.rings[index].content(&self.memory, &first)?;
        let header = VnetHeader::decode(&content).with_context(|| format!("a frame of {} bytes", content.len()))?;
        let merge = self.features & feature::MRG_RXBUF != 0;
        let buffers = if merge { header.buffers } else { 1 };
        if merge && buffers == 0 {
            bail!("num_buffers is 0");
        }
        for _ in 1..buffers {
            // All of a frame's buffers are published by one index store: no waiting.
            let ring = &mut self.rings[index];
            let next = ring.take_used(&self.memory)?.context("a merged frame's buffers were not published together")?;
            content.extend(ring.content(&self.memory, &next)?);
        }
        self.post_buffers_on(pair)?;
        Ok(Some((header, content.split_off(VnetHeader::LENGTH))))
    }

    /// Receives until a frame satisfies `wanted`; others are discarded.
    ///
    /// # Errors
    /// If none does within `limit`.
    pub fn expect_frame(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<(VnetHeader, Vec<u8>)> {
        let end = Instant::now() + limit;
        while let Some((header, frame)) = self.receive_frame(end.saturating_duration_since(Instant::now()))? {
            if wanted(&frame) {
                return Ok((header, frame));
            }
        }
        bail!("no {what} within {limit:?}")
    }
}
