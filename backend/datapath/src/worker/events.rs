//! What the worker sleeps on: one epoll, whose tokens say what happened to whom.
use std::io;
use std::os::fd::RawFd;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// What an event is about. Packed into epoll's 64 bits: kind, 24 bits, 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// Commands are waiting.
    Wake,
    /// A driver's kick: queue `index` of `port`.
    Kick {
        /// Which port.
        port: u32,
        /// Queue index.
        index: u16,
    },
    /// A connection's socket. An event that was fetched before the number changed hands has another generation.
    Flow {
        /// The connection's number.
        id: u32,
        /// Its generation, 24 bits.
        generation: u32,
    },
    /// A datagram flow's socket.
    Datagrams {
        /// The flow's number.
        id: u32,
        /// Its generation, 24 bits.
        generation: u32,
    },
    /// Forward `index` of `port` has connections to accept.
    Listener {
        /// Which port.
        port: u32,
        /// Which of its forwards.
        index: u16,
    },
    /// The socket of a connection that is over for its guest.
    Draining {
        /// Its record's number.
        record: u32,
    },
    /// Frames have arrived in the tap of `port`.
    Tap {
        /// Which port.
        port: u32,
    },
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, middle, low) = match self {
            Token::Wake => (0, 0, 0),
            Token::Kick { port, index } => (1, u32::from(index), port),
            Token::Flow { id, generation } => (2, generation, id),
            Token::Listener { port, index } => (3, u32::from(index), port),
            Token::Tap { port } => (4, 0, port),
            Token::Datagrams { id, generation } => (5, generation, id),
            Token::Draining { record } => (6, 0, record),
        };
        (kind << 56) | (u64::from(middle) << 32) | u64::from(low)
    }

    fn unpack(data: u64) -> Option<Token> {
        let low = data as u32;
        let middle = (data >> 32) as u32 & crate::flow::table::GENERATION_MASK;
        match data >> 56 {
            0 => Some(Token::Wake),
            1 => Some(Token::Kick { port: low, index: middle as u16 }),
            2 => Some(Token::Flow { id: low, generation: middle }),
            3 => Some(Token::Listener { port: low, index: middle as u16 }),
            4 => Some(Token::Tap { port: low }),
            5 => Some(Token::Datagrams { id: low, generation: middle }),
            6 => Some(Token::Draining { record: low }),
            _ => None,
        }
    }
}

/// The worker's epoll instance. Everything in it is edge-triggered: news is told once.
pub struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

const SOCKET_EVENTS: EventSet = EventSet::IN
    .union(EventSet::OUT)
    .union(EventSet::PRIORITY)
    .union(EventSet::READ_HANG_UP)
    .union(EventSet::EDGE_TRIGGERED);

impl Poller {
    /// An empty one.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller { epoll: Epoll::new()?, events: vec![EpollEvent::default(); 256] })
    }

    /// Adds a descriptor, or gives one that is watched already its new token.
    fn add(&self, fd: RawFd, events: EventSet, token: Token) -> io::Result<()> {
        let event = EpollEvent::new(events, token.pack());
        match self.epoll.ctl(ControlOperation::Add, fd, event) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.epoll.ctl(ControlOperation::Modify, fd, event)
            }
            result => result,
        }
    }

    /// Watches a descriptor for input.
    ///
    /// # Errors
    /// The system's.
    pub fn watch_input(&self, fd: RawFd, token: Token) -> io::Result<()> {
        self.add(fd, EventSet::IN | EventSet::EDGE_TRIGGERED, token)
    }

    /// Watches a connection's socket.
    ///
    /// # Errors
    /// The system's.
    pub fn watch_socket(&self, fd: RawFd, token: Token) -> io::Result<()> {
        self.add(fd, SOCKET_EVENTS, token)
    }

    /// Asks for the EPOLLOUT of a socket that is nearly full: looking at it makes the kernel tell when there is room again
    /// (tcp_poll sets SOCK_NOSPACE).
    pub fn watch_room(&self, fd: RawFd, token: Token) {
        // Fails only for a descriptor that was never added.
        let _ = self.epoll.ctl(ControlOperation::Modify, fd, EpollEvent::new(SOCKET_EVENTS, token.pack()));
    }

    /// Forgets a descriptor whose file others hold open too.
    pub fn forget(&self, fd: RawFd) {
        // Fails only for a descriptor that was never added.
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// Waits for at most `timeout` milliseconds (−1: for ever); returns how many events there are.
    pub fn wait(&mut self, timeout: i32) -> usize {
        // EINTR is no event.
        self.epoll.wait(timeout, &mut self.events).unwrap_or(0)
    }

    /// The event at `i` of the last wait.
    pub fn event(&self, i: usize) -> Option<(Token, EventSet)> {
        let event = self.events.get(i)?;
        Some((Token::unpack(event.data())?, EventSet::from_bits_truncate(event.events())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for token in [
            Token::Wake,
            Token::Kick { port: u32::MAX, index: u16::MAX },
            Token::Flow { id: u32::MAX, generation: 0xff_ffff },
            Token::Listener { port: 7, index: 65535 },
            Token::Tap { port: u32::MAX },
            Token::Datagrams { id: 9, generation: 0xff_ffff },
            Token::Draining { record: u32::MAX },
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
    }
}
