//! Does the data path allocate once it is warm? Master, engine and three mock guests run in this process, whose allocator counts what the
//! worker's thread asks for.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use vonic_control::client;
use vonic_control::engine::{self, EngineConfig};
use vonic_tests::frames::{self, Mac, Tcp, ip4, mac};
use vonic_tests::mock::{GUEST_TO_HOST, MockConfig, MockFrontend, VnetHeader, feature};
use vonic_tests::{CountingAllocator, TempDir, TestConfig, ip, isolate, seconds, wait_until};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::of_thread(c"worker-0");

/// The host's address as the guests see it.
const HOST: u8 = 1;
/// An address beyond the gateway: the host has it, and lets guests reach it.
const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// A guest's TCP connection to an echo server on the host, by hand: one segment at a time.
struct Connection {
    link: (Mac, Mac),
    remote: Ipv4Addr,
    ports: (u16, u16),
    sequence: u32,
    acknowledgment: u32,
}

impl Connection {
    fn send(&self, mock: &mut MockFrontend, flags: u8, text: &[u8]) {
        let segment = Tcp {
            ports: self.ports,
            sequence: self.sequence,
            acknowledgment: self.acknowledgment,
            flags,
            window: 60_000,
            text: text.to_vec(),
            ..Tcp::default()
        };
        mock.send_frame(&VnetHeader::default(), &segment.frame(self.link, ip4(2), self.remote)).unwrap();
    }

    fn receive(&self, mock: &mut MockFrontend, wanted: impl Fn(&Tcp) -> bool) -> Tcp {
        let ours = |frame: &[u8]| {
            Tcp::parse(frame).is_some_and(|tcp| tcp.ports == (self.ports.1, self.ports.0) && wanted(&tcp))
        };
        let (_, frame) = mock.expect_frame("a segment", seconds(5), ours).unwrap();
        Tcp::parse(&frame).unwrap()
    }

    fn open(mock: &mut MockFrontend, server: SocketAddr) -> Connection {
        let gateway = mock.gateway_answers(2).unwrap();
        Connection::to(mock, gateway, (ip4(HOST), (4000, server.port())))
    }

    fn to(mock: &mut MockFrontend, gateway: Mac, (remote, ports): (Ipv4Addr, (u16, u16))) -> Connection {
        let link = (mac(2), gateway);
        let mut connection = Connection { link, remote, ports, sequence: 1000, acknowledgment: 0 };
        connection.send(mock, Tcp::SYN, &[]);
        let answer = connection.receive(mock, |tcp| tcp.flags & Tcp::SYN != 0);
        connection.sequence += 1;
        connection.acknowledgment = answer.sequence.wrapping_add(1);
        connection.send(mock, Tcp::ACK, &[]);
        connection
    }

    /// Text goes to the host and comes back.
    fn echo(&mut self, mock: &mut MockFrontend, text: &[u8]) {
        self.send(mock, Tcp::ACK, text);
        self.sequence = self.sequence.wrapping_add(text.len() as u32);
        let answer = self.receive(mock, |tcp| !tcp.text.is_empty() && tcp.sequence == self.acknowledgment);
        assert_eq!(answer.text, text);
        self.acknowledgment = self.acknowledgment.wrapping_add(text.len() as u32);
        self.send(mock, Tcp::ACK, &[]);
    }
}

/// Has vonic tell of the guest's connections from now on.
fn listen(mock: &mut MockFrontend, gateway: Mac) {
    let connection = Connection::to(mock, gateway, (Ipv4Addr::new(169, 254, 169, 254), (3999, 80)));
    connection.send(mock, Tcp::ACK, b"GET /v1/events?stream=1&batch=64&delay_ms=50 HTTP/1.1\r\nhost: x\r\n\r\n");
    connection.receive(mock, |tcp| tcp.text.windows(9).any(|part| part == b"restarted"));
}

/// Connections of the guest's one after the other, each of which it resets.
fn open_and_reset(mock: &mut MockFrontend, gateway: Mac, server: u16, ports: std::ops::Range<u16>) {
    for port in ports {
        let connection = Connection::to(mock, gateway, (ip4(HOST), (port, server)));
        connection.send(mock, Tcp::RST, &[]);
    }
}

fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..n]).unwrap();
        }
    });
    address
}

/// A UDP server of the host's, and a peer of the guest's server, which the world reaches by a forward.
struct Datagrams {
    link: (Mac, Mac),
    server: UdpSocket,
    peer: UdpSocket,
}

/// Where the world speaks to guest a, and the guest's port.
const FORWARD: (&str, u16) = ("127.0.0.1:7000", 53);

impl Datagrams {
    fn new(link: (Mac, Mac)) -> Datagrams {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(seconds(5))).unwrap();
            socket
        };
        let (server, peer) = (socket(), socket());
        peer.connect(FORWARD.0).unwrap();
        Datagrams { link, server, peer }
    }

    fn hear(mock: &mut MockFrontend, ports: (u16, u16), text: &[u8]) {
        let ours = |frame: &[u8]| {
            frame[12..14] == [8, 0]
                && frame[23] == 17
                && frame[34..38] == [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat()
        };
        let (_, frame) = mock.expect_frame("a datagram", seconds(5), ours).unwrap();
        assert_eq!(frame[42..42 + text.len()], *text);
    }

    /// A question of the guest's and its answer, on a flow that ends with the round's port; then one of the world's.
    fn exchange(&self, mock: &mut MockFrontend, round: u16, text: &[u8]) {
        let mut got = [0; 2000];
        let to = self.server.local_addr().unwrap().port();
        let question = (2000 + round % 16, to);
        mock.send_frame(&VnetHeader::default(), &frames::udp(self.link, ip4(2), ip4(HOST), question, text)).unwrap();
        let (length, from) = self.server.recv_from(&mut got).unwrap();
        assert_eq!(got[..length], *text);
        self.server.send_to(text, from).unwrap();
        Datagrams::hear(mock, (to, question.0), text);
        let peer = self.peer.local_addr().unwrap().port();
        self.peer.send(text).unwrap();
        Datagrams::hear(mock, (peer, FORWARD.1), text);
        let answer = frames::udp(self.link, ip4(2), ip4(HOST), (FORWARD.1, peer), text);
        mock.send_frame(&VnetHeader::default(), &answer).unwrap();
        assert_eq!(self.peer.recv(&mut got).unwrap(), text.len());
    }
}

/// Master and engine as threads of this process; they end with it.
fn vonicd(directory: &Path) {
    let config = EngineConfig { config_dir: directory.join("etc"), peek_mode: None };
    std::thread::spawn(move || {
        vonic_front::run_standalone(vonic_front::MasterConfig::default(), |link, start| {
            engine::run(config, link, &start)
        })
    });
}

/// Frames to both pairs of a guest that has two, frames of one connection on both at once, and commands in between.
fn pairs(b: &mut MockFrontend, two: &mut MockFrontend, gateway: Mac, rounds: u16) {
    for round in 0..rounds {
        let frame = frames::udp((mac(3), mac(4)), ip4(3), ip4(4), (1000 + round, 7), b"to one pair or the other");
        b.send_frame(&VnetHeader::default(), &frame).unwrap();
        let stray = Tcp { ports: (4000, 9), sequence: round.into(), flags: Tcp::ACK, ..Tcp::default() };
        for pair in [1, 0] {
            let frame = stray.frame((mac(4), gateway), ip4(4), ip4(HOST));
            two.queue_frame_on(pair, &VnetHeader::default(), &frame).unwrap();
        }
        for pair in [0, 1] {
            two.notify_on(pair).unwrap();
            assert!(two.wait_used(2 * pair + GUEST_TO_HOST, seconds(5)).unwrap().is_some());
        }
        assert_eq!(two.command(4, 0, &[2 - round as u8 % 2, 0]).unwrap(), 0);
        for pair in [0, 1] {
            while two.receive_frame_on(pair, seconds(0)).unwrap().is_some() {}
        }
    }
}

fn traffic(
    a: &mut MockFrontend,
    b: &mut MockFrontend,
    connection: &mut Connection,
    datagrams: &Datagrams,
    rounds: u16,
) {
    for round in 0..rounds {
        let text = vec![round as u8; 1 + usize::from(round) * 7 % 1400];
        connection.echo(a, &text);
        datagrams.exchange(a, round, &text);
        let frame = frames::ping((mac(2), mac(3)), ip4(2), ip4(3), round, &text);
        a.send_frame(&VnetHeader::default(), &frame).unwrap();
        b.expect_frame("the ping", seconds(5), |got| got == frame).unwrap();
        // Answered by the gateway, and by the world behind a ping socket.
        for to in [ip4(HOST), WORLD] {
            let ping = frames::ping(connection.link, ip4(2), to, round, &text);
            a.send_frame(&VnetHeader::default(), &ping).unwrap();
            a.expect_frame("the answer", seconds(5), |got| {
                got[12..14] == [8, 0] && got[26..30] == to.octets() && got[34] == 0 && got[38..42] == ping[38..42]
            })
            .unwrap();
        }
        // Nobody's: dropped and counted.
        a.send_frame(&VnetHeader::default(), &frames::ethernet([2; 6], mac(2), 0x88b5, &text)).unwrap();
    }
}

/// Runs `traffic`, of more than a thousand frames of guest a's, while a capture sees it, without an allocation of the worker's.
fn captured(directory: &Path, traffic: impl FnOnce()) {
    let (socket, file) = (directory.join("run/api.sock").display().to_string(), directory.join("a.pcapng"));
    let vonic = |arguments: &[&str]| {
        let mut words = vec!["vonic".to_string(), "--socket".to_string(), socket.clone()];
        words.extend(arguments.iter().map(ToString::to_string));
        move || client::run(words, &mut Vec::new(), &mut Vec::new())
    };
    let name = file.display().to_string();
    let capture = std::thread::spawn(vonic(&["capture", "a", "-w", &name, "--frames", "1000", "--seconds", "60"]));
    wait_until("the capture", seconds(10), || std::fs::metadata(&file).is_ok_and(|file| file.len() > 0)).unwrap();
    // Its answer comes behind the worker's beginning.
    assert_eq!(vonic(&["conns"])(), 0);
    let warm = ALLOCATOR.count();
    traffic();
    assert_eq!(ALLOCATOR.count() - warm, 0, "allocations of the worker while it captures");
    assert_eq!(capture.join().unwrap(), 0);
    assert_eq!(vonic_tests::capture::parse(&std::fs::read(&file).unwrap(), true).unwrap().frames.len(), 1000);
}

#[test]
fn nothing_is_allocated_per_frame_once_warm() {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    ip(&format!("addr add {WORLD}/32 dev lo")).unwrap();
    let mut config = TestConfig::default();
    config.network.push_str("reach_host = true\n");
    let forward = format!("[[forward]]\nproto = \"udp\"\nlisten = \"{}\"\nport = {}\n", FORWARD.0, FORWARD.1);
    config.vm("a", 2, &forward).vm("b", 3, "").vm("c", 4, "queue_pairs = 2").write(&directory).unwrap();
    vonicd(directory.path());
    let socket = |name: &str| directory.path().join(format!("run/{name}.sock"));
    wait_until("the sockets", seconds(10), || socket("a").exists() && socket("b").exists()).unwrap();
    let mut a = MockFrontend::start(&socket("a"), MockConfig::default()).unwrap();
    let mut b = MockFrontend::start(&socket("b"), MockConfig::default()).unwrap();
    let mut connection = Connection::open(&mut a, echo_server());
    let features = feature::ALL | feature::MQ | feature::CTRL_VQ;
    let config = MockConfig { features, queue_pairs: 2, ..MockConfig::default() };
    let mut c = MockFrontend::start(&socket("c"), config).unwrap();
    let gateway = c.gateway_answers(4).unwrap();
    let datagrams = Datagrams::new(connection.link);
    traffic(&mut a, &mut b, &mut connection, &datagrams, 200);
    pairs(&mut b, &mut c, gateway, 200);

    let warm = ALLOCATOR.count();
    assert!(warm > 0, "the worker's thread was not counted at all");
    traffic(&mut a, &mut b, &mut connection, &datagrams, 1000);
    pairs(&mut b, &mut c, gateway, 500);
    assert_eq!(
        ALLOCATOR.count() - warm,
        0,
        "allocations of the worker in 10,500 frames, 500 commands and their answers"
    );

    // Nor for a connection, whether somebody listens to them or not, once timers of so many that have ended are kept.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || while server.accept().is_ok() {});
    open_and_reset(&mut a, gateway, port, 20_000..20_500);
    listen(&mut a, gateway);
    open_and_reset(&mut a, gateway, port, 20_500..20_550);
    let warm = ALLOCATOR.count();
    open_and_reset(&mut a, gateway, port, 20_550..20_650);
    assert_eq!(ALLOCATOR.count() - warm, 0, "allocations of the worker for 100 connections, each told twice");

    // Nor while somebody captures every frame.
    captured(directory.path(), || traffic(&mut a, &mut b, &mut connection, &datagrams, 200));

    // What is not per frame may allocate, and is then seen: a list of connections.
    let socket = socket("api").display().to_string();
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    client::run(["vonic", "--socket", &socket, "conns"], &mut out, &mut errors);
    assert!(ALLOCATOR.count() > warm, "{}", String::from_utf8_lossy(&errors));
}
