//! What a guest can do.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use vonic_tests::corpus::{Malformed, corpus};
use vonic_tests::crash::Random;
use vonic_tests::frames::{self, BROADCAST, Mac, Tcp, ip4, mac};
use vonic_tests::mock::{
    BUFFERS, Descriptor, GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader, feature, flag,
};
use vonic_tests::{Result, datagram::Datagram};

use super::stage::{Attack, Field, NUMBER};

const fn attack(name: &'static str, drops: &'static str, act: fn(&Field<'_>) -> Result<()>) -> Attack {
    Attack { name, act, drops }
}

pub const ATTACKS: &[Attack] = &[
    attack("descriptors are rewritten while they are read", "", rewrite),
    attack("chains that loop", "chain_too_long", |field| {
        let next = flag::NEXT;
        offer(field, &[Descriptor { address: BUFFERS, length: 12, flags: next, next: 1 }, looping(0)])
    }),
    attack("a table within a table", "bad_indirect", |field| {
        let table = Descriptor { address: BUFFERS, length: 16, flags: flag::INDIRECT, next: 0 };
        offer(field, &[table])
    }),
    attack("addresses in a hole", "bad_address", |field| {
        offer(field, &[Descriptor { address: 0x4000_0000, length: 1000, flags: 0, next: 0 }])
    }),
    attack("an available index far ahead", "", |field| lie(field, 300)),
    attack("an available index that goes back", "", |field| lie(field, -3)),
    attack("no buffers for what is asked for", "no_room", |field| {
        let (mock, gateway) = greet(field)?;
        drop(mock);
        let mock = field.session(&MockConfig { posted: 0, ..MockConfig::default() })?;
        let question = frames::ping((mac(NUMBER), gateway), ip4(NUMBER), ip4(1), 1, &[0; 22]);
        flood(field, mock, |_| question.clone())
    }),
    attack("kicks without end", "", kick),
    attack("frames at line rate for nobody", "unknown_destination", |field| {
        let frame = to(mac(200), 60);
        flood(field, field.session(&MockConfig::default())?, |_| frame.clone())
    }),
    attack("large frames at line rate for nobody", "unknown_destination", |field| {
        let frame = to(mac(200), 9000);
        flood(field, field.session(&MockConfig::default())?, |_| frame.clone())
    }),
    attack("pings at line rate for the gateway", "", |field| {
        let (mock, gateway) = greet(field)?;
        let frame = frames::ping((mac(NUMBER), gateway), ip4(NUMBER), ip4(1), 1, &[0; 22]);
        flood(field, mock, |_| frame.clone())
    }),
    attack("frames at line rate for everybody", "limit", |field| {
        let frame = to(BROADCAST, 60);
        flood(field, field.session(&MockConfig::default())?, |_| frame.clone())
    }),
    attack("ARP questions at line rate", "limit", |field| {
        let question = frames::arp_request(NUMBER, ip4(1));
        flood(field, field.session(&MockConfig::default())?, |_| question.clone())
    }),
    attack("connections opened and dropped", "", |field| {
        let (mock, gateway) = greet(field)?;
        let segment = |count: u64| {
            let flags = if count.is_multiple_of(2) { Tcp::SYN } else { Tcp::RST };
            let port = 1024 + (count / 2 % 60_000) as u16;
            let sequence = if flags == Tcp::SYN { 7 } else { 8 };
            Tcp { ports: (port, field.world), sequence, flags, window: 9000, ..Tcp::default() }
        };
        flood(field, mock, |count| segment(count).frame((mac(NUMBER), gateway), ip4(NUMBER), ip4(1)))
    }),
    attack("datagrams from every port", "", |field| {
        let (mock, gateway) = greet(field)?;
        let from = |count: u64| (std::net::IpAddr::from(ip4(NUMBER)), 1024 + (count % 60_000) as u16).into();
        let world = (std::net::IpAddr::from(ip4(1)), field.world).into();
        flood(field, mock, |count| Datagram::new(from(count), world, b"flood").frame((mac(NUMBER), gateway)))
    }),
    attack("the corpus of malformed packets", "bad_header", malformed),
    attack("garbage on the control queue", "", command),
];

fn looping(next: u16) -> Descriptor {
    Descriptor { address: BUFFERS + 12, length: 60, flags: flag::NEXT, next }
}

fn to(destination: Mac, size: usize) -> Vec<u8> {
    frames::ping((mac(NUMBER), destination), ip4(NUMBER), ip4(200), 1, &vec![0; size - 42])
}

/// A session that knows the gateway.
pub fn greet(field: &Field<'_>) -> Result<(MockFrontend, Mac)> {
    let mut mock = field.session(&MockConfig { posted: 256, ..MockConfig::default() })?;
    let gateway = mock.gateway_answers(NUMBER)?;
    Ok((mock, gateway))
}

/// Frames as fast as the ring takes them; the number of each makes it. What comes is thrown away.
fn flood(field: &Field<'_>, mut mock: MockFrontend, frame: impl Fn(u64) -> Vec<u8>) -> Result<()> {
    let mut count = 0;
    while field.goes_on() {
        while mock.take_used(GUEST_TO_HOST)?.is_some() {}
        while mock.take_used(HOST_TO_GUEST)?.is_some() {}
        mock.post_buffers()?;
        let ring = mock.ring(GUEST_TO_HOST);
        for _ in ring.outstanding()..ring.size {
            mock.queue_frame_on(0, &VnetHeader::default(), &frame(count))?;
            count += 1;
        }
        mock.notify_on(0)?;
    }
    Ok(())
}

/// A ring without a driver: descriptors as they are written, heads as they are offered.
struct Bare {
    mock: MockFrontend,
    next: u16,
}

impl Bare {
    fn start(field: &Field<'_>) -> Result<Bare> {
        Ok(Bare { mock: field.session(&MockConfig::default())?, next: 0 })
    }

    /// Offers a head so many times, and kicks.
    fn offer(&mut self, head: impl Fn(u16) -> u16, times: u16) -> Result<()> {
        let memory = self.mock.memory().clone();
        let ring = self.mock.ring(GUEST_TO_HOST);
        for _ in 0..times {
            let slot = ring.available + 4 + 2 * u64::from(self.next % ring.size);
            memory.write_slice(&head(self.next).to_le_bytes(), GuestAddress(slot))?;
            self.next = self.next.wrapping_add(1);
        }
        ring.set_available_index(&memory, self.next)?;
        Ok(ring.kick.write(1)?)
    }

    /// Whether the device has returned everything within so long.
    fn is_taken(&mut self, limit: Duration) -> Result<bool> {
        let (memory, used) = (self.mock.memory().clone(), self.mock.ring(GUEST_TO_HOST).used);
        let began = Instant::now();
        while u16::from_le(memory.load(GuestAddress(used + 2), Ordering::Acquire)?) != self.next {
            if began.elapsed() > limit {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
        Ok(true)
    }
}

/// These descriptors, from head 0 on, again and again; at [`BUFFERS`] lies a descriptor of an indirect table.
fn offer(field: &Field<'_>, descriptors: &[Descriptor]) -> Result<()> {
    let mut bare = Bare::start(field)?;
    let memory = bare.mock.memory().clone();
    let nested = [&BUFFERS.to_le_bytes()[..], &32u32.to_le_bytes(), &flag::INDIRECT.to_le_bytes(), &[0, 0]].concat();
    memory.write_slice(&nested, GuestAddress(BUFFERS))?;
    for (place, descriptor) in (0..).zip(descriptors) {
        bare.mock.ring(GUEST_TO_HOST).write_descriptor(&memory, place, *descriptor)?;
    }
    while field.goes_on() {
        bare.offer(|_| 0, 256)?;
        vonic_tests::ensure!(bare.is_taken(Duration::from_secs(5))?, "the ring stands still");
    }
    Ok(())
}

/// Any descriptor.
fn any(random: &mut Random) -> Descriptor {
    let address = match random.below(6) {
        0 => 0x4000_0000,
        1 => u64::MAX - random.below(100),
        2 => BUFFERS + random.below(1 << 25),
        _ => BUFFERS + random.below(1 << 16),
    };
    let length = [0, 12, 60, 72, 1526, 65_562, u32::MAX][random.below(7) as usize];
    let next = if random.below(20) == 0 { 60_000 } else { random.below(256) as u16 };
    Descriptor { address, length, flags: random.below(8) as u16, next }
}

/// What the device reads changes under its hands, on both rings. A head outside the table, once in a while, ends a session.
fn rewrite(field: &Field<'_>) -> Result<()> {
    let mut random = Random(20_261_122);
    let mut bare = Bare::start(field)?;
    let question = [&VnetHeader::default().encode()[..], &frames::arp_request(NUMBER, ip4(1))].concat();
    while field.goes_on() {
        let memory = bare.mock.memory().clone();
        memory.write_slice(&question, GuestAddress(BUFFERS + 72 * random.below(100)))?;
        let start = random.below(256) as u16;
        bare.offer(|at| at.wrapping_add(start) % 256, 32)?;
        for _ in 0..100 {
            let ring = if random.below(4) == 0 { HOST_TO_GUEST } else { GUEST_TO_HOST };
            let place = random.below(256) as u16;
            bare.mock.ring(ring).write_descriptor(&memory, place, any(&mut random))?;
            if random.below(200) == 0 {
                let slot = bare.mock.ring(ring).available + 4 + 2 * random.below(256);
                memory.write_obj(random.below(1 << 16) as u16, GuestAddress(slot))?;
            }
        }
        if !bare.is_taken(Duration::from_millis(5))? {
            drop(bare);
            bare = Bare::start(field)?;
        }
    }
    Ok(())
}

/// The available index is elsewhere than the driver can be, which stops the ring; then the next session.
fn lie(field: &Field<'_>, by: i16) -> Result<()> {
    while field.goes_on() {
        let mut bare = Bare::start(field)?;
        bare.offer(|_| 0, 8)?;
        bare.is_taken(Duration::from_millis(20))?;
        bare.next = bare.next.wrapping_add_signed(by);
        bare.offer(|_| 0, 0)?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn kick(field: &Field<'_>) -> Result<()> {
    let mut mock = field.session(&MockConfig::default())?;
    while field.goes_on() {
        for ring in [HOST_TO_GUEST, GUEST_TO_HOST] {
            mock.ring(ring).kick.write(1)?;
        }
    }
    Ok(())
}

/// The corpus, which takes a while to make.
pub fn prepare(gateway: Mac) -> &'static [Malformed] {
    static CORPUS: OnceLock<Vec<Malformed>> = OnceLock::new();
    CORPUS.get_or_init(|| corpus(NUMBER, gateway))
}

fn malformed(field: &Field<'_>) -> Result<()> {
    let (mut mock, gateway) = greet(field)?;
    let mut next = prepare(gateway).iter().cycle();
    while field.goes_on() {
        while mock.take_used(GUEST_TO_HOST)?.is_some() {}
        while mock.take_used(HOST_TO_GUEST)?.is_some() {}
        mock.post_buffers()?;
        let ring = mock.ring(GUEST_TO_HOST);
        for bad in next.by_ref().take(usize::from(ring.size - ring.outstanding())) {
            mock.queue_frame_on(0, &bad.vnet, &bad.frame)?;
        }
        mock.notify_on(0)?;
    }
    Ok(())
}

fn command(field: &Field<'_>) -> Result<()> {
    let control = feature::CTRL_VQ | feature::CTRL_RX | feature::CTRL_RX_EXTRA | feature::CTRL_VLAN;
    let features = feature::ALL | control | feature::CTRL_MAC_ADDR | feature::GUEST_ANNOUNCE;
    let mut mock = field.session(&MockConfig { features, ..MockConfig::default() })?;
    let mut random = Random(7);
    while field.goes_on() {
        let bytes: Vec<u8> = (0..random.below(300)).map(|_| random.below(256) as u8).collect();
        let split = random.below(bytes.len() as u64 + 1);
        let parts = [
            (0, split as u32, 0),
            (split, bytes.len() as u32 - split as u32, if random.below(4) == 0 { flag::WRITE } else { 0 }),
            (0x1000, [0, 1, 70_000][random.below(3) as usize], if random.below(4) == 0 { 0 } else { flag::WRITE }),
        ];
        mock.control_chain(&bytes, &parts[random.below(3) as usize..])?;
    }
    Ok(())
}
