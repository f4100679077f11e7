//! The far end of one terminated connection: a socket of the host's kernel, used without ever holding payload.
use crate::sys::listener::Accepted;
use crate::sys::{local, tcp};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use vonic_queue::{Burst, IoVecs, Undumped};

/// How bytes behind the head of the receive queue are peeked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeekMode {
    /// By SO_PEEK_OFF, which TCP has from Linux 6.9 on (IPv6: 6.11).
    Offset,
    /// Over scratch memory, which takes the bytes in front: slower, counted.
    Scratch,
}

impl PeekMode {
    /// What this kernel can do for the family of `address`.
    pub fn probe(address: SocketAddr) -> PeekMode {
        let works = tcp::stream_socket(&address).and_then(|fd| tcp::set_peek_offset(fd.as_fd(), 0));
        if works.is_ok() { PeekMode::Offset } else { PeekMode::Scratch }
    }
}

/// Memory that peeked bytes are thrown away into, where SO_PEEK_OFF is missing.
#[derive(Debug)]
pub struct Scratch(Option<Undumped>);

impl Scratch {
    /// Memory as these ways to peek need it.
    pub fn new(modes: &[PeekMode]) -> Scratch {
        Scratch(modes.contains(&PeekMode::Scratch).then(|| Undumped::new(1 << 20)))
    }
}

/// What a new connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connecting {
    /// Nothing: it is established.
    Done,
    /// The peer's answer; the socket becomes writable then.
    InProgress,
}

/// How full a socket's send buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that it can take now, the kernel's overhead included.
    pub free: u32,
    /// Whether the kernel calls it writable. While it does not, its EPOLLOUT is still to come.
    pub writable: bool,
}

/// What there is at a place of the peer's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Bytes.
    Bytes,
    /// Nothing yet.
    Nothing,
    /// Its end.
    End,
    /// A reset, or whatever else the connection has failed of. The error is still to be taken.
    Failure,
}

/// What a peek has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// So many bytes; 0 is the end of the stream.
    pub bytes: u32,
    /// There was room for more: the queue has none, unless the peek has stopped at an urgent byte or at the stream's end.
    pub drained: bool,
}

/// Where a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Far {
    /// To the world, by TCP.
    World,
    /// To vonic's own service, by a Unix stream.
    Service,
}

/// A stream socket of the host. Closing it lets the kernel deliver what it has accepted; [`HostSocket::abort`] resets.
#[derive(Debug)]
pub struct HostSocket {
    fd: OwnedFd,
    far: Far,
    mode: PeekMode,
    /// Where the kernel's peek cursor stands, from the head of the receive queue.
    cursor: u32,
    /// The coming close is to be a reset, as it is if nobody comes to close it.
    aborted: bool,
}

impl HostSocket {
    /// Starts to connect.
    ///
    /// # Errors
    /// The system's; see [`classify`] for what the guest is told.
    pub fn connect(to: SocketAddr, mode: PeekMode) -> io::Result<(HostSocket, Connecting)> {
        let socket = HostSocket::open(to, mode)?;
        let state = socket.begin(to)?;
        Ok((socket, state))
    }

    /// A socket for a connection to there, which has not begun: nobody else knows of it yet.
    ///
    /// # Errors
    /// The system's.
    pub fn open(to: SocketAddr, mode: PeekMode) -> io::Result<HostSocket> {
        let fd = tcp::stream_socket(&to)?;
        tcp::prepare(&fd)?;
        HostSocket::new(fd, Far::World, mode)
    }

    /// Starts to connect an open one.
    ///
    /// # Errors
    /// The system's; see [`classify`] for what the guest is told.
    pub fn begin(&self, to: SocketAddr) -> io::Result<Connecting> {
        match tcp::connect(self.fd.as_fd(), &to) {
            Ok(()) => Ok(Connecting::Done),
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(Connecting::InProgress),
            Err(e) => Err(e),
        }
    }

    /// Takes over a connection that the world opened. Options are inherited from its listener.
    ///
    /// # Errors
    /// The system's.
    pub fn accepted(accepted: Accepted, mode: PeekMode) -> io::Result<HostSocket> {
        HostSocket::new(accepted.fd, Far::World, mode)
    }

    /// A connection to vonic's own service, which gets the other end: no network lies between. Unix streams peek by offset on
    /// every kernel that vonic runs on, but `mode` is the worker's for all its connections.
    ///
    /// # Errors
    /// The system's.
    pub fn service(mode: PeekMode) -> io::Result<(HostSocket, OwnedFd)> {
        let (near, far) = local::pair()?;
        Ok((HostSocket::new(near, Far::Service, mode)?, far))
    }

    /// Whether its peeks take the bytes in front of their place, too.
    pub fn peeks_over_scratch(&self) -> bool {
        self.mode == PeekMode::Scratch
    }

    /// A TCP socket that is open already.
    pub(crate) fn of_world(fd: OwnedFd, mode: PeekMode) -> io::Result<HostSocket> {
        HostSocket::new(fd, Far::World, mode)
    }

    fn new(fd: OwnedFd, far: Far, mode: PeekMode) -> io::Result<HostSocket> {
        let mut socket = HostSocket { fd, far, mode, cursor: 0, aborted: false };
        socket.rewind()?;
        Ok(socket)
    }

    /// Puts the kernel's peek cursor at the head of the receive queue.
    pub(crate) fn rewind(&mut self) -> io::Result<()> {
        self.cursor = 0;
        if self.mode == PeekMode::Offset { tcp::set_peek_offset(self.fd.as_fd(), 0) } else { Ok(()) }
    }

    pub(crate) fn peek_mode(&self) -> PeekMode {
        self.mode
    }

    /// Takes the socket's pending error: of the connect that was in progress, or why the connection has failed.
    ///
    /// # Errors
    /// That one.
    pub fn take_error(&self) -> io::Result<()> {
        tcp::take_error(self.fd.as_fd())
    }

    /// Gives bytes from guest memory to the kernel; answers how many it took.
    ///
    /// # Errors
    /// The system's; `WouldBlock` if its buffer is full.
    pub fn send(&self, vecs: &IoVecs<'_>) -> io::Result<u32> {
        tcp::send(self.fd.as_fd(), vecs).map(|n| n as u32)
    }

    /// Copies up to `len` bytes that lie `offset` behind the head of the receive queue into guest memory: `at` bytes into
    /// the joined chains. They stay queued.
    ///
    /// # Errors
    /// The system's; `WouldBlock` if there are none.
    pub fn peek(
        &mut self,
        offset: u32,
        (burst, chains, at, len): (&mut Burst, Range<usize>, u32, u32),
        scratch: &mut Scratch,
    ) -> io::Result<Peeked> {
        match self.mode {
            PeekMode::Offset => {
                if self.cursor != offset {
                    tcp::set_peek_offset(self.fd.as_fd(), offset as i32)?;
                    self.cursor = offset;
                }
                let vecs = burst.iovecs(chains, at, len);
                let got = tcp::peek(self.fd.as_fd(), &vecs)? as u32;
                self.cursor += got;
                Ok(Peeked { bytes: got, drained: self.far == Far::World && (got as usize) < vecs.len_bytes() })
            }
            PeekMode::Scratch => {
                let vecs =
                    burst.iovecs_behind(scratch.0.as_deref_mut().unwrap_or_default(), offset as usize, chains, at, len);
                let got = tcp::peek(self.fd.as_fd(), &vecs)? as u32;
                match got.checked_sub(offset) {
                    Some(0) | None if got > 0 => Err(io::ErrorKind::WouldBlock.into()),
                    rest => Ok(Peeked { bytes: rest.unwrap_or(0), drained: false }),
                }
            }
        }
    }

    /// What a peek `offset` behind the head of the receive queue would find. A peek that finds no byte takes the socket's error
    /// (tcp_recvmsg_locked, net/ipv4/tcp.c); this does not.
    ///
    /// # Errors
    /// The system's.
    pub fn ahead(&self, offset: u32) -> io::Result<Ahead> {
        let is_there = || tcp::queued(self.fd.as_fd()).map(|queued| queued > offset);
        if is_there()? {
            return Ok(Ahead::Bytes);
        }
        let (over, failed) = tcp::is_over(self.fd.as_fd())?;
        Ok(match (over, failed) {
            // What had come before it is in the queue by now.
            (true, _) if is_there()? => Ahead::Bytes,
            (_, true) => Ahead::Failure,
            (true, false) => Ahead::End,
            (false, false) => Ahead::Nothing,
        })
    }

    /// Drops up to `len` bytes from the head of the receive queue, which the guest has acknowledged.
    ///
    /// # Errors
    /// The system's.
    pub fn discard(&mut self, len: u32) -> io::Result<u32> {
        let mut left = len;
        while left > 0 {
            // A short count is normal: reads stop at an urgent mark (tcp(7)).
            let dropped = match self.far {
                Far::World => tcp::discard(self.fd.as_fd(), left as usize),
                Far::Service => local::discard(self.fd.as_fd(), left as usize),
            };
            match dropped? {
                0 => break,
                n => left -= n as u32,
            }
        }
        // The kernel moves its peek cursor back by what leaves the queue.
        self.cursor = self.cursor.saturating_sub(len - left);
        Ok(len - left)
    }

    /// The room in the kernel's send buffer.
    ///
    /// # Errors
    /// The system's.
    pub fn send_room(&self) -> io::Result<Room> {
        match self.far {
            Far::World => {
                let (free, queued) = tcp::send_room(self.fd.as_fd())?;
                // sk_stream_is_writeable (include/net/sock.h).
                Ok(Room { free, writable: free >= queued / 2 })
            }
            Far::Service => {
                let (free, queued) = local::send_room(self.fd.as_fd())?;
                // Each segment has a buffer of its own here, none is joined to the last: half is kept for their overhead.
                // A socket is writable while a quarter is in use (unix_writable, net/unix/af_unix.c).
                Ok(Room { free: free / 2, writable: free / 3 >= queued })
            }
        }
    }

    /// Bytes that the peer has not acknowledged yet, sent or not; an end of our own that it has not acknowledged counts as one. Of a
    /// connection that was reset it stays what it was.
    ///
    /// # Errors
    /// The system's.
    pub fn unacknowledged(&self) -> io::Result<u32> {
        match self.far {
            Far::World => tcp::unacknowledged(self.fd.as_fd()),
            Far::Service => Ok(0),
        }
    }

    /// Whether both directions being over without an end of our own means that the peer has reset. A TCP socket comes to that in
    /// no other way; a Unix socket whose peer was closed has still to be read to its end.
    pub fn hang_up_is_reset(&self) -> bool {
        self.far == Far::World
    }

    /// Passes the guest's FIN on.
    ///
    /// # Errors
    /// The system's; ENOTCONN if the peer has reset meanwhile.
    pub fn shutdown_write(&self) -> io::Result<()> {
        tcp::shutdown_write(self.fd.as_fd())
    }

    /// Closes by reset: the peer learns that the guest is gone, or reset. The service reads an end in the middle of a request,
    /// which is all that it needs to know.
    pub fn abort(mut self) {
        self.abort_on_close();
    }

    /// Has the close that is to come be what [`HostSocket::abort`] is.
    pub fn abort_on_close(&mut self) {
        self.aborted = true;
    }
}

impl Drop for HostSocket {
    fn drop(&mut self) {
        if !self.aborted && self.far == Far::World {
            // Fails on no open TCP socket (socket(7)).
            let _ = tcp::set_abort_on_close(self.fd.as_fd(), false);
        }
    }
}

impl AsRawFd for HostSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for HostSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the guest is told about an error of the host's socket.
pub mod classify {
    use std::io;

    /// The ways in which a connect can fail, as a guest sees them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ConnectError {
        /// RST: the peer refused, or the host did (RFC 9293 §3.10.7.3).
        Refused,
        /// ICMP destination unreachable, with this code (RFC 792): 0 net, 1 host, 13 prohibited.
        Unreachable(u8),
        /// The peer did not answer: RST, if the guest still waits.
        TimedOut,
        /// The host is short of descriptors, ports or memory: the guest's SYN comes again.
        Exhausted,
    }

    /// The ways in which sending a datagram can fail, as a guest sees them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum SendError {
        /// The host is short of room or descriptors: the datagram is lost, as on any busy link.
        Busy,
        /// ICMP destination unreachable, with this code (RFC 792): 3 is the port.
        Unreachable(u8),
        /// It does not fit an MTU on its way and may not be fragmented.
        TooBig,
    }

    /// Maps an error of opening a datagram socket, or of sending by it.
    pub fn send_error(error: &io::Error) -> SendError {
        match (error.raw_os_error(), connect_error(error)) {
            (Some(libc::EMSGSIZE), _) => SendError::TooBig,
            // A port unreachable, of an earlier datagram (udp(7)).
            (Some(libc::ECONNREFUSED), _) => SendError::Unreachable(3),
            (_, ConnectError::Unreachable(code)) => SendError::Unreachable(code),
            (_, ConnectError::Exhausted) | (None, _) => SendError::Busy,
            _ => SendError::Unreachable(1),
        }
    }

    /// Maps an error of connect(2) or SO_ERROR.
    pub fn connect_error(error: &io::Error) -> ConnectError {
        match error.raw_os_error() {
            Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => ConnectError::Unreachable(1),
            Some(libc::ENETUNREACH | libc::ENETDOWN) => ConnectError::Unreachable(0),
            Some(libc::EACCES | libc::EPERM) => ConnectError::Unreachable(13),
            Some(libc::ETIMEDOUT) => ConnectError::TimedOut,
            // EADDRNOTAVAIL and EAGAIN: no port is left (connect(2)).
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN | libc::EADDRNOTAVAIL) => {
                ConnectError::Exhausted
            }
            _ => ConnectError::Refused,
        }
    }
}
