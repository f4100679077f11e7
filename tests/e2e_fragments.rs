//! Do datagrams that are longer than the guest's MTU get out to the world and back, whatever the order of their fragments, and does
//! nothing get out that was never sent?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vonic_tests::fragments::{self, ICMP, ICMP6, Message, UDP, hear};
use vonic_tests::frames::{Mac, mac};
use vonic_tests::mock::{MockConfig, VnetHeader, feature};
use vonic_tests::wire::{HandGuest, ramp};
use vonic_tests::*;

const GUEST: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const FAR: [&str; 2] = ["198.51.100.2", "2001:db8:51::2"];
const PORT: u16 = 7;
/// Sends back what comes.
struct EchoServer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl EchoServer {
    fn start(sockets: Vec<UdpSocket>) -> EchoServer {
        let stop = Arc::new(AtomicBool::new(false));
        let serve = |socket: UdpSocket, stop: Arc<AtomicBool>| {
            let mut count = 0;
            let mut bytes = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                match socket.recv_from(&mut bytes) {
                    Ok((len, from)) => {
                        count += 1;
                        socket.send_to(&bytes[..len], from).unwrap();
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            count
        };
        let threads = sockets.into_iter().map(|socket| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || serve(socket, stop))
        });
        EchoServer { threads: threads.collect(), stop }
    }

    /// Ends it; how many datagrams it had.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

struct World {
    bed: Bed,
    far: Netns,
    guest: HandGuest,
    echo: EchoServer,
}

impl World {
    fn start(more: &str, mock: MockConfig) -> World {
        let bed = Bed::start(&TestConfig::both_families().vm("a", 2, more).vm("b", 3, "")).unwrap();
        let far = Netns::new().unwrap();
        far.cable("far", "198.51.100.1/24", "198.51.100.2/24").unwrap();
        ip("addr add 2001:db8:51::1/64 dev far nodad").unwrap();
        far.ip("addr add 2001:db8:51::2/64 dev far nodad").unwrap();
        let bind = |address: &&str| {
            let socket = UdpSocket::bind(SocketAddr::new(address.parse()?, PORT))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket)
        };
        let sockets = far.run(|| FAR.iter().map(bind).collect::<Result<Vec<_>>>()).unwrap();
        let guest = HandGuest::start_configured(&bed, "a", 2, mock).unwrap();
        World { bed, far, guest, echo: EchoServer::start(sockets) }
    }

    fn link(&self) -> (Mac, Mac) {
        (mac(2), self.guest.gateway)
    }

    /// The device finds all of them in one round.
    fn send_at_once(&mut self, frames: &[Vec<u8>]) {
        let mock = &mut self.guest.mock;
        let send = || {
            let header = VnetHeader::default();
            let heads = frames.iter().map(|frame| mock.queue_frame_on(0, &header, frame)).collect::<Result<Vec<u16>>>();
            mock.notify_on(0).and(heads)
        };
        let heads = self.bed.vonicd.in_one_round(send).unwrap();
        heads.into_iter().for_each(|head| assert_eq!(self.guest.mock.wait_sent(head).unwrap(), 0));
    }

    /// Each frame is returned before the next one is sent.
    fn send_singly(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.guest.mock.send_frame(&VnetHeader::default(), frame).unwrap();
        }
    }

    fn drops(&self, reason: &str) -> u64 {
        self.bed.vonicd.drops("a", reason).unwrap()
    }

    /// Whether `sent` comes back: how many frames that took.
    fn expect_echo(&mut self, sent: &Message, mtu: usize) -> usize {
        let (got, frames) = hear(&mut self.guest.mock, sent.protocol, mtu, seconds(5))
            .with_context(|| {
                format!("{} bytes to {}: {}", sent.bytes.len(), sent.destination, self.bed.vonicd.vm("a").unwrap())
            })
            .unwrap();
        assert_eq!((got.source, got.destination), (sent.destination, sent.source));
        assert_eq!(got.bytes.len(), sent.bytes.len());
        assert!(got.bytes[8..] == sent.bytes[8..], "{} bytes are not what was sent", sent.bytes.len());
        frames
    }

    fn stop(self) -> u64 {
        self.bed.vonicd.stop().unwrap();
        self.echo.stop()
    }
}

fn ends(family: usize) -> (IpAddr, IpAddr) {
    (GUEST[family].parse().unwrap(), FAR[family].parse().unwrap())
}

/// A datagram of `size` bytes of payload: UDP, or an echo.
fn message(family: usize, udp: bool, size: usize, sequence: u16) -> Message {
    match udp {
        true => Message::udp(ends(family), (4000, PORT), &ramp(size)),
        false => Message::ping(ends(family), (77, sequence), &ramp(size)),
    }
}

fn expected_frames(message: &Message, mtu: usize) -> usize {
    let header = if message.source.is_ipv4() { 20 } else { 40 };
    if message.bytes.len() + header <= mtu { 1 } else { message.cuts(mtu).len() }
}

/// Sizes in the neighbourhood of every number of fragments' edges.
fn edges(family: usize, mtu: usize) -> Vec<usize> {
    let each = (mtu - [20, 48][family]) / 8 * 8;
    let around = |fragments: usize| (each * fragments - 9..=each * fragments).map(|bytes| bytes - 8);
    let whole = mtu - [20, 40][family] - 8;
    let long = std::env::var_os("VONIC_LONG").is_some();
    let most = if long { 43 } else { 2 };
    let mut sizes: Vec<usize> = (1..=most).flat_map(around).chain(whole - 1..=whole + 8).collect();
    sizes.extend([0, 1, 7, 8000, 32_768, 65_000, 65_506, 65_507].iter().filter(|size| **size < 65_508));
    sizes
}

fn sizes_come_back(mtu: usize, mock: MockConfig) {
    let mut world = World::start(&format!("mtu = {mtu}"), mock);
    let mut sent = 0;
    for family in [0, 1] {
        for (sequence, size) in edges(family, mtu).into_iter().enumerate() {
            for udp in [true, false] {
                let message = message(family, udp, size, sequence as u16);
                let frames = message.fragments(world.link(), sent, mtu);
                world.send_at_once(&frames);
                assert_eq!(world.expect_echo(&message, mtu), expected_frames(&message, mtu), "{size} bytes");
                sent += 1;
            }
        }
    }
    let copied = |path: &str| world.bed.vonicd.copied(path).unwrap();
    assert_eq!((copied("guest_to_host"), copied("host_to_guest")), (0, 0));
    assert_eq!(world.drops("fragment"), 0);
    assert_eq!(world.stop(), u64::from(sent) / 2);
}

#[test]
fn every_size_goes_out_and_comes_back() {
    sizes_come_back(1500, MockConfig::default());
}

#[test]
fn a_driver_without_offloads_gets_fragments_too() {
    let buffer = vec![12 + 14 + 1280];
    sizes_come_back(1280, MockConfig { features: feature::PLAIN, buffer, posted: 128, ..MockConfig::default() });
}

#[test]
fn fragments_lie_in_merged_buffers() {
    let buffer = vec![300, 700];
    sizes_come_back(1501, MockConfig { buffer, posted: 128, ..MockConfig::default() });
}

/// All fragments of a datagram that come in one round go without a copy, and others with one.
#[test]
fn the_order_does_not_matter() {
    let mut world = World::start("", MockConfig::default());
    let link = world.link();
    let coalesced = |world: &World| world.bed.vonicd.copied("coalesce").unwrap();
    for family in [0, 1] {
        for (id, order) in ["forward", "backward", "outward"].into_iter().enumerate() {
            let message = message(family, true, 8001, 0);
            let mut frames = message.fragments(link, id as u32, 1500);
            match order {
                "backward" => frames.reverse(),
                "outward" => frames.rotate_left(3),
                _ => {}
            }
            let before = coalesced(&world);
            world.send_at_once(&frames);
            world.expect_echo(&message, 1500);
            assert_eq!(coalesced(&world), before, "{order}");
            world.send_singly(&frames);
            world.expect_echo(&message, 1500);
            let copied = coalesced(&world) - before;
            assert!((1..8009).contains(&copied), "{order}: {copied} bytes");
        }
    }
    // Two datagrams in each other's midst, and a ping of each family between them.
    let two = [message(0, true, 5000, 0), message(1, false, 9000, 3)];
    let [first, second] = two.each_ref().map(|message| message.fragments(link, 9, 1500));
    let mut mixed: Vec<Vec<u8>> = first.iter().zip(&second).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    mixed.extend(second[first.len()..].iter().cloned());
    world.send_singly(&mixed);
    world.expect_echo(&two[0], 1500);
    world.send_at_once(&mixed);
    // Each of them came twice. UDP's and ping's answers need not be in the order in which they went: the first ping's may have gone by
    // while UDP's was waited for, so both are counted, and one is looked at.
    while hear(&mut world.guest.mock, ICMP6, 1500, seconds(5)).unwrap().0.bytes.len() != 9008 {}
    let answered = || world.bed.vonicd.vm("a").unwrap()["icmp"]["replies"].as_u64() == Some(2);
    wait_until("both pings' answers", seconds(5), answered).unwrap();
    assert_eq!(world.drops("fragment"), 0);
    world.stop();
}

/// What lacks a part is given up after a second, and what contradicts itself at once; the world sees nothing of either.
#[test]
fn nothing_comes_of_lies() {
    let mut world = World::start("", MockConfig::default());
    let link = world.link();
    for family in [0, 1] {
        let good = message(family, true, 4000, 0);
        let way = (good.source, good.destination, UDP);
        let part = |id: u32, offset: usize, len: usize, more: bool| {
            fragments::frame(link, way, (id, offset, more), &good.bytes[offset..offset + len])
        };
        let before = |world: &World| ["fragment", "bad_header", "oversized"].map(|reason| world.drops(reason));
        let [fragment, bad_header, oversized] = before(&world);
        // Overlaps (teardrop; RFC 5722), duplicates, two ends.
        world.send_at_once(&[part(1, 0, 1000, true), part(1, 992, 1000, true), part(1, 1992, 2016, false)]);
        world.send_at_once(&[part(2, 0, 1000, true), part(2, 0, 1000, true), part(2, 1000, 3008, false)]);
        world.send_at_once(&[part(3, 0, 1000, true), part(3, 1000, 8, false), part(3, 1000, 3008, false)]);
        world.send_at_once(&[part(4, 0, 4000, true), part(4, 16, 8, false)]);
        wait_until("eleven drops", seconds(5), || before(&world)[0] == fragment + 11).unwrap();
        // No whole units in the midst, nothing at all, and a packet longer than packets are.
        let beyond = |id, offset: usize, bytes: &[u8]| fragments::frame(link, way, (id, offset, false), bytes);
        world.send_at_once(&[part(5, 0, 1001, true), part(6, 8, 0, true)]);
        world.send_at_once(&[beyond(7, 65_528, &[0; 9]), beyond(7, 65_528, &[0; 100])]);
        wait_until("drops", seconds(5), || before(&world) == [fragment + 11, bad_header + 2, oversized + 2]).unwrap();
        // More and smaller fragments than anybody has a reason for.
        let many: Vec<Vec<u8>> = (0..200).map(|i| part(8, 8 * i, 8, true)).collect();
        many.chunks(50).for_each(|many| world.send_at_once(many));
        // One is missing, of more datagrams than are kept.
        for id in 100..120 {
            world.send_at_once(&good.fragments(link, id, 1500)[1..]);
        }
        wait_until("all to be given up", seconds(5), || before(&world)[0] == fragment + 11 + 200 + 40)
            .with_context(|| format!("{} fragments", before(&world)[0] - fragment))
            .unwrap();
        // The rest comes too late, and is a part without a whole itself.
        world.send_singly(&good.fragments(link, 119, 1500)[..1]);
        wait_until("the rest", seconds(5), || before(&world)[0] == fragment + 11 + 200 + 41).unwrap();
        // A datagram whose sum is wrong, in one piece or three.
        let mut wrong = good.clone();
        wrong.bytes[2000] ^= 1;
        let sums = world.drops("bad_checksum");
        world.send_at_once(&wrong.fragments(link, 200, 1500));
        wait_until("wrong sums", seconds(5), || world.drops("bad_checksum") == sums + 3).unwrap();
        // A guest cannot leave the sum of a fragment to the device.
        let vnet =
            VnetHeader { flags: VnetHeader::NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..VnetHeader::default() };
        world.guest.mock.send_frame(&vnet, &part(201, 0, 1000, true)).unwrap();
        wait_until("a bad header", seconds(5), || world.drops("bad_vnet_header") == family as u64 + 1).unwrap();
        world.send_at_once(&good.fragments(link, 300, 1500));
        world.expect_echo(&good, 1500);
    }
    assert_eq!(world.stop(), 2, "the good ones");
}

/// RFC 6946: a whole datagram with a fragment header has nothing to do with others of its name. RFC 7112: headers do not hide in later fragments.
#[test]
fn atomic_fragments_are_whole_and_headers_come_first() {
    let mut world = World::start("", MockConfig::default());
    let link = world.link();
    let (good, small) = (message(1, true, 4000, 0), message(1, true, 100, 0));
    let fragments = good.fragments(link, 5, 1500);
    world.send_at_once(&fragments[..1]);
    world.send_at_once(&small.fragments(link, 5, 1500));
    assert_eq!(world.expect_echo(&small, 1500), 1);
    world.send_at_once(&fragments[1..]);
    world.expect_echo(&good, 1500);
    let options = [[17, 0, 1, 4, 0, 0, 0, 0].to_vec(), good.bytes.clone()].concat();
    let hidden = Message { protocol: 60, bytes: options, ..good };
    let dropped = world.drops("bad_header");
    world.send_at_once(&hidden.fragments(link, 6, 1500)[..1]);
    wait_until("a drop", seconds(5), || world.drops("bad_header") == dropped + 1).unwrap();
    assert_eq!(world.stop(), 2);
}

/// A reply in more fragments than there are buffers waits, and goes if the guest never posts as many; what comes behind it is not lost.
#[test]
fn long_replies_wait_for_buffers() {
    let mut world = World::start("", MockConfig { posted: 4, ..MockConfig::default() });
    let link = world.link();
    let (long, fits, short) = (message(0, true, 60_000, 0), message(0, true, 5000, 0), message(0, true, 11, 0));
    for (id, message) in [(1, &long), (2, &fits), (3, &short)] {
        world.send_at_once(&message.fragments(link, id, 1500));
    }
    assert_eq!(world.expect_echo(&fits, 1500), 4);
    assert_eq!(world.expect_echo(&short, 1500), 1);
    assert_eq!(world.drops("no_room"), 1);
    assert_eq!(world.stop(), 3);
}

/// A forward's datagrams come in fragments too; and between guests fragments are switched as they are.
#[test]
fn forwards_and_neighbours_have_fragments() {
    let forward = "[[forward]]\nproto = \"udp\"\nlisten = \"*:9000\"\nport = 9\n";
    let mut world = World::start(forward, MockConfig::default());
    let here = [ends(0).1, ends(1).1];
    for (family, from) in here.into_iter().enumerate() {
        let socket = world.far.run(|| Ok(UdpSocket::bind(SocketAddr::new(from, 0))?)).unwrap();
        let host: IpAddr = ["198.51.100.1", "2001:db8:51::1"][family].parse().unwrap();
        socket.send_to(&ramp(20_000), SocketAddr::new(host, 9000)).unwrap();
        let (got, frames) = hear(&mut world.guest.mock, UDP, 1500, seconds(5)).unwrap();
        assert_eq!((got.source, got.bytes.len(), frames), (from, 20_008, 14));
        assert!(got.bytes[8..] == ramp(20_000));
        let ports = (9, socket.local_addr().unwrap().port());
        let answer = Message::udp((got.destination, from), ports, &ramp(30_001));
        world.send_singly(&answer.fragments(world.link(), 1, 1500));
        socket.set_read_timeout(Some(seconds(5))).unwrap();
        let mut bytes = vec![0; 65_536];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 30_001);
        assert!(bytes[..30_001] == ramp(30_001));
    }
    let mut other = HandGuest::start(&world.bed, "b", 3, feature::PLAIN).unwrap();
    let message = Message::ping((GUEST[0].parse().unwrap(), "192.0.2.3".parse().unwrap()), (1, 1), &ramp(8000));
    for frame in message.fragments((mac(2), mac(3)), 7, 1500) {
        world.guest.mock.send_frame(&VnetHeader::default(), &frame).unwrap();
        let (_, got) = other.mock.expect_frame("the fragment", seconds(5), |got| got[23] == ICMP).unwrap();
        assert_eq!(got, frame);
    }
    world.stop();
}

/// What a kernel makes of it: pings, and checked UDP, both ways and in both families.
#[test]
fn a_guests_kernel_sends_and_gets_them() {
    let world = World::start("", MockConfig::default());
    let config = GuestConfig::new("b", 3, &world.bed.socket("b")).on(Vmm::Uml);
    let mut guest = world.bed.start_configured(&GuestConfig { ip6: true, ..config }).unwrap();
    guest.wait_ready().unwrap();
    let settle = "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::3/64 dev eth0 && \
                  ip -6 route add default via 2001:db8::1 dev eth0 metric 100";
    guest.must(settle, seconds(10)).unwrap();
    for far in FAR {
        for size in [1473, 8000, 65_000] {
            let said = guest.must(&format!("ping -c 3 -i 0.2 -W 5 -s {size} {far}"), seconds(20)).unwrap();
            assert!(said.contains(" 0% packet loss"), "{size} bytes: {said}");
        }
        let family = if far.contains(':') { "AF_INET6" } else { "AF_INET" };
        let script = format!(
            "import socket; s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.settimeout(5); s.connect((\"{far}\", {PORT})); \
             sent = (bytes(i % 251 for i in range(n)) for n in (1473, 8000, 65000, 65507)); \
             exit(not all(s.send(d) and s.recv(65536) == d for d in sent))"
        );
        guest.must(&format!("python3 -c '{script}'"), seconds(30)).unwrap();
    }
    assert_eq!(world.bed.vonicd.drops("b", "fragment").unwrap(), 0);
    world.stop();
}
