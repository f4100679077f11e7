//! Connections that are over for their guests, while their peers have yet to acknowledge the last of what those sent.
//!
//! From a socket that is closed the kernel would deliver it by itself. But a guest that leaves for another host takes along what has
//! a socket here, and no more: to the peer's next segment the other host would answer by a reset, and what it has not got yet would be lost. So the
//! socket is closed when everything is acknowledged, or the kernel is left alone with it after a time. Its record says that it is
//! over ([`Bits::FINISHED`]): the next engine does the same, here or on another host.
use crate::flow::travel::Leaving;
use crate::keyed::KeyedMap;
use crate::spec::PortId;
use crate::worker::Worker;
use crate::worker::events::Token;
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::time::Duration;
use vmm_sys_util::epoll::EventSet;
use vonic_record::{Bits, RecordId};
use vonic_tcp::Instant;
use vonic_uplink::HostSocket;

/// How long a peer is waited for. The kernel gives up a closed socket's sooner than an open one's.
const LIMIT: Duration = Duration::from_secs(60);
/// One of so many of the worker's connections may be one of these; for more the oldest make room.
const SHARE: usize = 16;

struct Drain {
    port: PortId,
    socket: HostSocket,
    until: Instant,
}

/// All of them, by the numbers of their records.
#[derive(Default)]
pub struct Draining {
    sockets: KeyedMap<RecordId, Drain>,
    /// When each is given up, in order; of some that are done already, too.
    ends: VecDeque<(Instant, RecordId)>,
}

impl Draining {
    /// When the next may be due.
    pub fn next_due(&self) -> Option<Instant> {
        self.ends.front().map(|(at, _)| *at)
    }

    /// The next that is to be given up: its time has come, or there are more than `most`.
    fn overdue(&mut self, now: Instant, most: usize) -> Option<RecordId> {
        while let Some(&(at, id)) = self.ends.front() {
            let waits = self.sockets.get(&id).is_some_and(|drain| drain.until == at);
            if waits && at > now && self.sockets.len() <= most {
                return None;
            }
            self.ends.pop_front();
            if waits {
                return Some(id);
            }
        }
        None
    }
}

impl Worker {
    /// Closes the sockets of connections that are over, whose guests have what they were told of that; or goes on with them here.
    pub(crate) fn close_retired(&mut self) {
        while let Some(retired) = self.records.next_retired() {
            let waits = |socket: &HostSocket| socket.unacknowledged().is_ok_and(|bytes| bytes > 0);
            match retired.record {
                Some(id) if retired.in_order && waits(&retired.socket) => {
                    self.records.mark(id, Bits::FINISHED);
                    self.drain(retired.port, id, retired.socket);
                }
                _ => self.records.close(retired),
            }
        }
    }

    /// Waits until the peer has everything.
    pub(crate) fn drain(&mut self, port: PortId, id: RecordId, socket: HostSocket) {
        let (fd, until) = (socket.as_raw_fd(), self.now + LIMIT);
        self.draining.sockets.insert(id, Drain { port, socket, until });
        self.draining.ends.push_back((until, id));
        if self.poller.watch_socket(fd, Token::Draining { record: id }).is_err() {
            self.end_draining(id);
        }
    }

    /// The kernel has news of one: its end, if nothing is unacknowledged any more, or nothing will ever be acknowledged.
    pub(crate) fn draining_event(&mut self, id: RecordId, events: EventSet) {
        let Some(drain) = self.draining.sockets.get(&id) else { return };
        if events.contains(EventSet::ERROR) || !drain.socket.unacknowledged().is_ok_and(|bytes| bytes > 0) {
            self.end_draining(id);
        }
    }

    /// Closes those that have had their time, and the oldest if there are too many.
    pub(crate) fn expire_draining(&mut self) {
        let most = (self.connections_max / self.exchange.workers() / SHARE).max(1);
        while let Some(id) = self.draining.overdue(self.now, most) {
            self.end_draining(id);
        }
    }

    fn end_draining(&mut self, id: RecordId) {
        if let Some(drain) = self.draining.sockets.remove(&id) {
            drop(drain.socket);
            self.records.free(id);
        }
    }

    /// Those of a port are left to the kernel.
    pub(crate) fn close_draining(&mut self, port: PortId) {
        self.draining_of(port, usize::MAX).into_iter().for_each(|id| self.end_draining(id));
    }

    /// Takes up to so many of a port's out, to leave for another host. Those that cannot are left to the kernel, and count.
    pub(crate) fn depart_draining(&mut self, port: PortId, most: usize) -> (Vec<Leaving>, usize) {
        let ids = self.draining_of(port, most);
        let count = ids.len();
        (ids.into_iter().filter_map(|id| self.freeze_draining(id)).collect(), count)
    }

    fn freeze_draining(&mut self, id: RecordId) -> Option<Leaving> {
        let record = self.records.get(id).filter(|record| !self.host.is_own(record.host));
        let waits = |drain: &Drain| drain.socket.unacknowledged().is_ok_and(|bytes| bytes > 0);
        let Some(record) = record.filter(|_| self.draining.sockets.get(&id).is_some_and(waits)) else {
            self.end_draining(id);
            return None;
        };
        let Drain { socket, .. } = self.draining.sockets.remove(&id)?;
        let fd = socket.as_raw_fd();
        match socket.freeze() {
            Ok(frozen) => {
                self.poller.forget(fd);
                Some(Leaving::new(id, &record, frozen))
            }
            Err((socket, _)) => {
                drop(socket);
                self.records.free(id);
                None
            }
        }
    }

    fn draining_of(&self, port: PortId, most: usize) -> Vec<RecordId> {
        let own = self.draining.sockets.iter().filter(|(_, drain)| drain.port == port);
        own.map(|(id, _)| *id).take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use vonic_uplink::PeekMode;

    #[test]
    fn the_oldest_is_given_up_by_its_time_or_for_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mut draining = Draining::default();
        for id in 1..=4 {
            let (socket, _) = HostSocket::connect(to, PeekMode::Scratch).unwrap();
            let until = Instant(u64::from(id) * 10);
            draining.sockets.insert(id, Drain { port: 0, socket, until });
            draining.ends.push_back((until, id));
        }
        assert_eq!((draining.next_due(), draining.overdue(Instant(9), 4)), (Some(Instant(10)), None));
        // One is done, and its number is another one's by now.
        let mut again = draining.sockets.remove(&1).unwrap();
        again.until = Instant(50);
        draining.sockets.insert(1, again);
        draining.ends.push_back((Instant(50), 1));
        let mut given_up = Vec::new();
        for (now, most) in [(9, 3), (9, 3), (30, 3), (30, 3), (49, 3), (50, 3)] {
            let id = draining.overdue(Instant(now), most);
            id.into_iter().for_each(|id| drop(draining.sockets.remove(&id)));
            given_up.push(id);
        }
        assert_eq!(given_up, [Some(2), None, Some(3), None, Some(4), Some(1)]);
        assert_eq!(draining.next_due(), None);
    }
}
