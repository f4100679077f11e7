//! Flows of an engine that has died: they go on with this one, by the same sockets, so that the world's answers still find their guests.
use super::class::Class;
use super::table::DatagramId;
use super::{Datagram, Far, HEADER_LEN, Key, Kind, Quote};
use crate::flow::records::{Records, opened};
use crate::spec::{ForwardSocket, PortId, PortSpec};
use crate::worker::Worker;
use crate::worker::events::Token;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vonic_record::{Bits, Record, RecordId};
use vonic_uplink::{DatagramSocket, Local, UdpListener};

impl Records {
    /// Notes that both sides speak, once: how long a flow may be silent is known no other way.
    pub(super) fn speaks(&self, flow: &mut Datagram) {
        if !flow.was_stream && flow.class() == Class::Stream {
            flow.was_stream = true;
            flow.record.into_iter().for_each(|id| self.mark(id, Bits::STREAM));
        }
    }
}

impl Worker {
    /// Writes a flow's record, in place of the one that it has.
    pub(super) fn record_datagrams(&mut self, id: DatagramId) {
        let Some(flow) = self.datagrams.get_mut(id) else { return };
        let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return };
        if let Some(old) = flow.record.take() {
            self.records.free(old);
        }
        // A socket that the next engine could not know again has no record, and ends with this engine.
        let Ok((record, local)) = record(flow, port.session) else { return };
        flow.record = self.records.keep(&record, local);
    }

    /// Takes over a flow of a port that has just been attached; false: its socket is gone, or it leads nowhere any more.
    pub(crate) fn resume_datagrams(&mut self, port_id: PortId, id: RecordId, record: &Record) -> bool {
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return false };
        let far = if record.bits.has(Bits::FORWARDED) {
            let local = self.records.local(id).map(|l| Local { address: l.address, interface: l.interface });
            let listener = listener(&port.spec, record.cookie);
            listener.zip(local).map(|(listener, local)| Far::Forward { listener, local })
        } else {
            DatagramSocket::resume(record.descriptor, record.cookie, record.host.ip()).map(Far::Own)
        };
        let Some(far) = far else { return false };
        let kind = if record.bits.has(Bits::ECHO) { Kind::Echo } else { Kind::Udp };
        let key = Key { kind, port: port_id, guest: record.guest, remote: record.remote };
        kind.resumed(&port.spec.stats);
        let mut flow = Datagram::new(key, far, record.host, opened(record));
        flow.was_stream = record.bits.has(Bits::STREAM);
        flow.record = Some(id);
        flow.last = last(&key);
        // What became of what the dead engine sent may be told there.
        flow.failed = !flow.is_forwarded();
        let (class, fd) = (flow.class(), flow.far.own().map(AsRawFd::as_raw_fd));
        let flow = self.datagrams.insert(key, class, flow, self.now);
        self.datagrams.make_ready(flow);
        let token = Token::Datagrams { id: flow, generation: self.datagrams.generation(flow) };
        if fd.is_some_and(|fd| self.poller.watch_input(fd, token).is_err()) {
            self.close_datagrams(flow);
        }
        true
    }
}

/// What is still known of a guest's last datagram, for errors about it: of UDP its ports; of a ping the host's kernel knows all.
pub(super) fn last(key: &Key) -> Quote {
    let mut header = [0; HEADER_LEN];
    header[..2].copy_from_slice(&key.guest.port().to_be_bytes());
    header[2..4].copy_from_slice(&key.remote.port().to_be_bytes());
    header[5] = HEADER_LEN as u8;
    Quote { header, len: HEADER_LEN as u32 }
}

/// The socket of a forward of the port's with this cookie.
fn listener(spec: &PortSpec, cookie: u64) -> Option<Arc<UdpListener>> {
    spec.forwards.iter().find_map(|forward| match &forward.socket {
        ForwardSocket::Udp(listener) if listener.cookie().is_ok_and(|own| own == cookie) => Some(Arc::clone(listener)),
        _ => None,
    })
}

fn record(flow: &Datagram, session: u64) -> io::Result<(Record, Option<vonic_record::Local>)> {
    let (descriptor, cookie, local) = match &flow.far {
        Far::Own(socket) => (socket.as_raw_fd(), socket.cookie()?, None),
        Far::Forward { listener, local } => (listener.as_raw_fd(), listener.cookie()?, Some(*local)),
    };
    let bits = [
        Bits::ECHO.only_if(flow.key.kind == Kind::Echo),
        Bits::FORWARDED.only_if(local.is_some()),
        Bits::STREAM.only_if(flow.was_stream),
    ];
    let bits = Bits(bits.iter().fold(0, |all, bit| all | bit.0));
    let local = local.map(|l| vonic_record::Local { address: l.address, interface: l.interface });
    let Datagram { key, host, opened, .. } = flow;
    let blank = Record::endless(vonic_record::Kind::Datagrams, session, (descriptor, cookie), bits);
    Ok((Record { guest: key.guest, remote: key.remote, host: *host, opened: opened.0, ..blank }, local))
}
