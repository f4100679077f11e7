//! One connection: the host's socket as vonic has it, and the peer's end; both send a ramp, and check the other's.
use crate::hosts::{Hosts, peer, service};
use anyhow::Result;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use vonic_migration::{FlowState, Identity, PortState, Stream, write};
use vonic_record::Options;
use vonic_uplink::{
    Accepted, Frozen, HostSocket, Known, Listener, Origin, Parked, PeekMode, Peer, Progress, SocketState,
};

/// A prime: a block that is lost or comes twice shows.
const RAMP: usize = 251;
const BLOCK: usize = RAMP * 261;

/// One end of a connection.
pub struct End {
    pub stream: TcpStream,
    pub wrote: u64,
    pub read: u64,
    /// The other side's end was read.
    pub ended: bool,
}

impl End {
    pub fn new(stream: TcpStream) -> End {
        stream.set_nonblocking(true).unwrap();
        End { stream, wrote: 0, read: 0, ended: false }
    }

    /// Writes up to `limit` bytes, as long as they are taken. Answers whether any was.
    pub fn write(&mut self, limit: usize) -> bool {
        let ramp: Vec<u8> = (0..BLOCK + RAMP).map(|at| (at % RAMP) as u8).collect();
        let until = self.wrote + limit as u64;
        let from = self.wrote;
        while self.wrote < until {
            let at = (self.wrote % RAMP as u64) as usize;
            let length = BLOCK.min((until - self.wrote) as usize);
            match self.stream.write(&ramp[at..at + length]) {
                Ok(taken) => self.wrote += taken as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("written {}: {error}", self.wrote),
            }
        }
        self.wrote > from
    }

    /// Reads and checks up to `limit` bytes of what is there. Answers whether anything was.
    pub fn read(&mut self, limit: usize) -> bool {
        let mut block = vec![0; BLOCK];
        let (from, until) = (self.read, self.read + limit as u64);
        while self.read < until && !self.ended {
            let length = BLOCK.min((until - self.read) as usize);
            match self.stream.read(&mut block[..length]) {
                Ok(0) => self.ended = true,
                Ok(got) => {
                    let wrong = (0..got).find(|at| block[*at] != ((self.read + *at as u64) % RAMP as u64) as u8);
                    assert_eq!(wrong, None, "behind byte {}", self.read);
                    self.read += got as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("read {}: {error}", self.read),
            }
        }
        self.read > from || self.ended
    }

    /// Reads to the end, which comes behind `total` bytes.
    pub fn read_all(&mut self, total: u64) {
        // A peer that met silence again and again tries more and more rarely.
        let end = Instant::now() + Duration::from_secs(30);
        while !self.ended {
            assert!(Instant::now() < end, "{} of {total} bytes, and no end", self.read);
            if !self.read(usize::MAX >> 1) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(self.read, total);
    }

    /// Writes until nothing is taken for some time.
    pub fn fill(&mut self) {
        while self.write(1 << 20) || (std::thread::sleep(Duration::from_millis(20)), self.write(1 << 20)).1 {}
    }
}

/// The host's end.
pub struct Host {
    pub socket: HostSocket,
    pub end: End,
    known: Known,
    remote: SocketAddr,
}

/// Waits until `done`.
pub fn wait(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connection between the host that has the address and the peer.
pub fn open(hosts: &Hosts, v6: bool, world_opens: bool) -> Result<(Host, End)> {
    let (socket, stream, remote) = if world_opens {
        let listener = hosts.here().run(|| Ok(Listener::bind(service(v6), None)?))?;
        let stream = TcpStream::connect(listener.local()?)?;
        let accepted = accept(&listener);
        let remote = accepted.peer;
        (HostSocket::accepted(accepted, PeekMode::Offset)?, stream, remote)
    } else {
        let listener = TcpListener::bind(peer(v6))?;
        let to = listener.local_addr()?;
        let socket = hosts.here().run(|| Ok(HostSocket::connect(to, PeekMode::Offset)?.0))?;
        (socket, listener.accept()?.0, to)
    };
    let host = Host::new(socket, Known { origin: Origin::fresh(!world_opens), shut: false, aborted: false }, remote);
    wait("no connection", || host.progress().peer == Peer::Open);
    Ok((host, End::new(stream)))
}

fn accept(listener: &Listener) -> Accepted {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(accepted) = listener.accept().unwrap() {
            return accepted;
        }
        assert!(Instant::now() < end, "no connection to accept");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Host {
    pub fn new(socket: HostSocket, known: Known, remote: SocketAddr) -> Host {
        let end = End::new(TcpStream::from(socket.as_fd().try_clone_to_owned().unwrap()));
        Host { socket, end, known, remote }
    }

    /// Passes a guest's FIN on.
    pub fn shut(&mut self) {
        self.known.shut = true;
        self.socket.shutdown_write().unwrap();
    }

    pub fn progress(&self) -> Progress {
        self.socket.progress(&self.known).unwrap()
    }

    /// By the kernel's counters and where they began, both streams are where they are.
    pub fn check(&self) {
        let progress = self.progress();
        assert_eq!(progress.taken as u32, (self.end.wrote + u64::from(self.known.shut)) as u32, "{progress:?}");
        assert_eq!(progress.dropped as u32, self.end.read as u32, "{progress:?}");
    }

    fn freeze(self) -> (Frozen, Rest) {
        let Host { socket, end, known, remote } = self;
        let End { wrote, read, ended, .. } = end;
        (socket.freeze().unwrap(), Rest { wrote, read, ended, known, remote })
    }
}

/// What a host's end is besides its socket.
struct Rest {
    wrote: u64,
    read: u64,
    ended: bool,
    known: Known,
    remote: SocketAddr,
}

impl Rest {
    fn go_on(&self, socket: HostSocket, known: Known) -> Host {
        let mut host = Host::new(socket, known, self.remote);
        (host.end.wrote, host.end.read, host.end.ended) = (self.wrote, self.read, self.ended);
        host
    }
}

/// All of them move to the other host, together with the address.
pub fn cross(hosts: &mut Hosts, lines: Vec<Host>) -> Result<Vec<Host>> {
    let (frozen, rest): (Vec<Frozen>, Vec<Rest>) = lines.into_iter().map(Host::freeze).unzip();
    let save = |(frozen, rest): (&Frozen, &Rest)| frozen.save(&rest.known, rest.remote).unwrap();
    let states: Vec<SocketState> = frozen.iter().zip(&rest).map(save).collect();
    let states = carry(states);
    let restore = |states: Vec<SocketState>| states.into_iter().map(|mut state| Ok(state.restore()?)).collect();
    // Before the address is there: the kernel would answer the peer's next segment by a reset.
    let parked: Vec<Parked> = hosts.there().run(|| restore(states))?;
    hosts.swap()?;
    let release = || parked.into_iter().map(|parked| Ok(parked.release(PeekMode::Offset)?)).collect();
    let sockets: Vec<(HostSocket, Known)> = hosts.here().run(release)?;
    drop(frozen);
    Ok(sockets.into_iter().zip(rest).map(|((socket, known), rest)| rest.go_on(socket, known)).collect())
}

/// As they come out of the stream between two hosts.
fn carry(states: Vec<SocketState>) -> Vec<SocketState> {
    let identity = Identity { name: "vm".to_string(), mac: [2; 6], features: 0, mtu: 1500 };
    let flow = |socket: SocketState| FlowState {
        guest_opens: true,
        bits: 0,
        guest: socket.local,
        remote: socket.remote,
        host: socket.remote,
        iss: 1,
        irs: 2,
        options: Options::default(),
        timestamps: 0,
        opened: 0,
        socket: Some(socket),
    };
    let flows = states.into_iter().map(flow).collect();
    let port = PortState { identity, clock: 0, saved: 0, flows, datagrams: vec![], claims: vec![], counters: vec![] };
    let mut bytes = Vec::new();
    write(&port, &mut bytes).unwrap();
    let port = PortState::try_from(Stream::read(&bytes[..]).unwrap()).unwrap();
    port.flows.into_iter().filter_map(|flow| flow.socket).collect()
}

/// They are frozen and saved, and then stay.
pub fn stay(lines: Vec<Host>) -> Vec<Host> {
    let stay = |host: Host| {
        let (frozen, rest) = host.freeze();
        frozen.save(&rest.known, rest.remote).unwrap();
        rest.go_on(frozen.thaw().unwrap(), rest.known)
    };
    lines.into_iter().map(stay).collect()
}

/// Ends the peer's own stream.
pub fn finish(end: &End) {
    end.stream.shutdown(Shutdown::Write).unwrap();
}
