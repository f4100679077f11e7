//! Format 1. It is written in files for ever: fields are neither added here nor taken away, nor put in another order.
use crate::header::StreamError;
use crate::section::Body;
use crate::state::{DatagramState, FlowState, Identity, PortState};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr};
use vonic_record::Options;
use vonic_uplink::{Agreed, QUEUE_MAX, SocketState, Stage};

/// Tags of sections. The port comes first, once.
pub(crate) const PORT: u8 = 1;
pub(crate) const FLOW: u8 = 2;
pub(crate) const DATAGRAMS: u8 = 3;

/// Bytes of a section's data, at most: the port's has a name for each counter.
const PORT_MAX: u64 = 1 << 20;
const FLOW_MAX: u64 = 4096;
const DATAGRAMS_MAX: u64 = 512;

/// Everything of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    head: Head,
    flows: Vec<(Flow, [Vec<u8>; 2])>,
    datagrams: Vec<Datagrams>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    name: String,
    mac: [u8; 6],
    features: u64,
    mtu: u16,
    saved: u64,
    clock: u64,
    flows: u32,
    datagrams: u32,
    claims: Vec<Ipv6Addr>,
    counters: Vec<(String, u64)>,
}

/// The bytes received, and those to send, stand behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flow {
    guest_opens: bool,
    bits: u64,
    guest: SocketAddr,
    remote: SocketAddr,
    host: SocketAddr,
    iss: u32,
    irs: u32,
    mss: u16,
    send_scale: u8,
    scaled: bool,
    sack: bool,
    timestamps_on: bool,
    timestamps: u32,
    opened: u64,
    socket: Option<Socket>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    stage: u8,
    shut: bool,
    taken: u32,
    dropped: u32,
    send_from: u32,
    send: u32,
    unsent: u32,
    received_to: u32,
    received: u32,
    mss: u32,
    scales: Option<(u8, u8)>,
    sack: bool,
    timestamp: Option<u32>,
    window: [u32; 5],
    buffers: (u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Datagrams {
    echo: bool,
    bits: u64,
    guest: SocketAddr,
    remote: SocketAddr,
    host: SocketAddr,
    local: SocketAddr,
    opened: u64,
    used: u64,
}

/// In the order of their numbers here.
const STAGES: [Stage; 5] = [Stage::Connecting, Stage::Open, Stage::PeerFinished, Stage::Over, Stage::Reset];

/// Reads the body.
pub(crate) fn read(body: &mut Body<impl Read>) -> Result<Port, StreamError> {
    let damaged = |what| Err(StreamError::Damaged(what));
    if body.next()? != Some(PORT) {
        return damaged("it does not begin with a port");
    }
    let head: Head = body.data(PORT_MAX)?;
    let (mut flows, mut datagrams) = (Vec::new(), Vec::new());
    while let Some(tag) = body.next()? {
        match tag {
            FLOW if flows.len() < head.flows as usize => flows.push(read_flow(body)?),
            DATAGRAMS if datagrams.len() < head.datagrams as usize => datagrams.push(body.data(DATAGRAMS_MAX)?),
            FLOW | DATAGRAMS => return damaged("it has more flows than it says"),
            _ => return damaged("it has a section that its format does not know"),
        }
    }
    if (flows.len(), datagrams.len()) != (head.flows as usize, head.datagrams as usize) {
        return damaged("it has not as many flows as it says");
    }
    Ok(Port { head, flows, datagrams })
}

fn read_flow(body: &mut Body<impl Read>) -> Result<(Flow, [Vec<u8>; 2]), StreamError> {
    let flow: Flow = body.data(FLOW_MAX)?;
    let (received, send) = flow.socket.as_ref().map_or((0, 0), |socket| (socket.received, socket.send));
    if received.max(send) as usize > QUEUE_MAX {
        return Err(StreamError::Damaged("a queue is too long"));
    }
    let queues = [body.bytes(received.into())?, body.bytes(send.into())?];
    Ok((flow, queues))
}

impl Head {
    pub(crate) fn of(port: &PortState) -> Head {
        let PortState { identity, saved, clock, flows, datagrams, claims, counters } = port;
        let Identity { name, mac, features, mtu } = identity;
        Head {
            name: name.clone(),
            mac: *mac,
            features: *features,
            mtu: *mtu,
            saved: *saved,
            clock: *clock,
            flows: flows.len() as u32,
            datagrams: datagrams.len() as u32,
            claims: claims.clone(),
            counters: counters.clone(),
        }
    }
}

impl TryFrom<Port> for PortState {
    type Error = StreamError;

    fn try_from(port: Port) -> Result<PortState, StreamError> {
        let Port { head, flows, datagrams } = port;
        let Head { name, mac, features, mtu, saved, clock, claims, counters, flows: _, datagrams: _ } = head;
        Ok(PortState {
            identity: Identity { name, mac, features, mtu },
            saved,
            clock,
            flows: flows.into_iter().map(|(flow, queues)| flow.into_state(queues)).collect::<Result<_, _>>()?,
            datagrams: datagrams.into_iter().map(Datagrams::into_state).collect::<Result<_, _>>()?,
            claims,
            counters,
        })
    }
}

impl Flow {
    pub(crate) fn of(state: &FlowState) -> Flow {
        let FlowState { guest_opens, bits, guest, remote, host, iss, irs, options, timestamps, opened, socket } = state;
        let Options { mss, send_scale, scaled, sack, timestamps: timestamps_on } = *options;
        Flow {
            guest_opens: *guest_opens,
            bits: *bits,
            guest: *guest,
            remote: *remote,
            host: *host,
            iss: *iss,
            irs: *irs,
            mss,
            send_scale,
            scaled,
            sack,
            timestamps_on,
            timestamps: *timestamps,
            opened: *opened,
            socket: socket.as_ref().map(Socket::of),
        }
    }

    fn into_state(self, queues: [Vec<u8>; 2]) -> Result<FlowState, StreamError> {
        let Flow {
            guest_opens,
            bits,
            guest,
            remote,
            host,
            iss,
            irs,
            mss,
            send_scale,
            scaled,
            sack,
            timestamps_on,
            timestamps,
            opened,
            socket,
        } = self;
        let options = Options { mss, send_scale, scaled, sack, timestamps: timestamps_on };
        let socket = socket.map(|socket| socket.into_state(queues)).transpose()?;
        Ok(FlowState { guest_opens, bits, guest, remote, host, iss, irs, options, timestamps, opened, socket })
    }
}

impl Socket {
    fn of(state: &SocketState) -> Socket {
        let SocketState {
            local,
            remote,
            stage,
            shut,
            taken,
            dropped,
            send_from,
            send,
            unsent,
            received_to,
            received,
            agreed,
            window,
            buffers,
        } = state;
        let Agreed { mss, scales, sack, timestamp } = *agreed;
        Socket {
            local: *local,
            remote: *remote,
            stage: STAGES.iter().position(|known| known == stage).unwrap_or_default() as u8,
            shut: *shut,
            taken: *taken,
            dropped: *dropped,
            send_from: *send_from,
            send: send.len() as u32,
            unsent: *unsent,
            received_to: *received_to,
            received: received.len() as u32,
            mss,
            scales,
            sack,
            timestamp,
            window: *window,
            buffers: *buffers,
        }
    }

    fn into_state(self, [received, send]: [Vec<u8>; 2]) -> Result<SocketState, StreamError> {
        let Socket {
            local,
            remote,
            stage,
            shut,
            taken,
            dropped,
            send_from,
            send: _,
            unsent,
            received_to,
            received: _,
            mss,
            scales,
            sack,
            timestamp,
            window,
            buffers,
        } = self;
        let stage = STAGES.get(usize::from(stage)).copied();
        let stage = stage.ok_or(StreamError::Damaged("a socket is in a stage that its format does not know"))?;
        if unsent as usize > send.len() || local.is_ipv4() != remote.is_ipv4() {
            return Err(StreamError::Damaged("a socket's numbers contradict each other"));
        }
        let agreed = Agreed { mss, scales, sack, timestamp };
        Ok(SocketState {
            local,
            remote,
            stage,
            shut,
            taken,
            dropped,
            send_from,
            send,
            unsent,
            received_to,
            received,
            agreed,
            window,
            buffers,
        })
    }
}

impl Datagrams {
    pub(crate) fn of(state: &DatagramState) -> Datagrams {
        let DatagramState { echo, bits, guest, remote, host, local, opened, used } = *state;
        Datagrams { echo, bits, guest, remote, host, local, opened, used }
    }

    fn into_state(self) -> Result<DatagramState, StreamError> {
        let Datagrams { echo, bits, guest, remote, host, local, opened, used } = self;
        if host.is_ipv4() != local.is_ipv4() || guest.is_ipv4() != remote.is_ipv4() || used < opened {
            return Err(StreamError::Damaged("what a flow of datagrams says of itself is no such flow"));
        }
        Ok(DatagramState { echo, bits, guest, remote, host, local, opened, used })
    }
}
