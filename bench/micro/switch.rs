//! From one guest to another through a whole worker: rings, header checks, filter, switch, the copy, completion.
//!
//! All frames and all buffers are posted before the worker starts, and the receiving driver wants one call: behind the last frame. A second
//! thread waits for it and then stops the worker. So the worker, on the main thread, goes through the same rounds each time.

use std::hint::black_box;
use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use vonic_datapath::{
    AckPolicy, CallPolicy, Coalesce, Command, Family, Limits, Names, NetworkSpec, Poll, PortId, PortSpec, PortStats,
    RingCommand, Uplink, Way, Worker, WorkerConfig, WorkerHandle, feature,
};
use vonic_frame::{MacAddr, VNET_HEADER_LEN};
use vonic_queue::handover;
use vonic_record::{Checkpoint, Shared};

use crate::memory::{Guest, RECEIVE, TRANSMIT, setup};

/// What Linux guests negotiate, without segmentation: a trace's frames are as long as they are.
const FEATURES: u64 = feature::VERSION_1 | feature::MRG_RXBUF | feature::CSUM | feature::GUEST_CSUM;
const SENDER: PortId = 0;
const RECEIVER: PortId = 1;

/// Bytes of the Ethernet, IPv4 and UDP headers.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;

fn mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port as u8])
}

fn address(port: PortId) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + port as u8)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// A UDP datagram without a checksum in an Ethernet frame of `len` bytes, behind a virtio-net header that asks for nothing.
pub fn frame(len: usize, from: PortId, to: PortId) -> Vec<u8> {
    let mut bytes = vec![0; VNET_HEADER_LEN];
    bytes.extend([mac(to).0, mac(from).0].concat());
    bytes.extend([8, 0]);
    let mut header = vec![0x45, 0];
    header.extend(((len - ETHERNET) as u16).to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    header.extend([address(from).octets(), address(to).octets()].concat());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(header);
    let datagram = (len - ETHERNET - IPV4) as u16;
    bytes.extend([1000, 2000, datagram, 0].map(u16::to_be_bytes).concat());
    bytes.extend((0..len - ETHERNET - IPV4 - UDP).map(|i| i as u8));
    bytes
}

/// The network that all are in.
pub fn network() -> Result<NetworkSpec> {
    let v4 = Family {
        subnet: Some("192.0.2.0/24".parse().map_err(|error| anyhow!("the subnet: {error}"))?),
        gateway: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
        host_loopback: None,
    };
    Ok(NetworkSpec {
        network: 0,
        gateway_mac: MacAddr([2, 0, 0, 0, 1, 0]),
        v4,
        v6: Family::default(),
        reach_host: false,
        isolated: false,
        uplink: Uplink::Sockets,
        names: Names::default(),
        slaac: false,
        coalesce: Coalesce::default(),
    })
}

/// A port.
pub fn port(port: PortId, stats: &Shared<PortStats>) -> PortSpec {
    PortSpec {
        port,
        vm: port.into(),
        failover: true,
        quarantined: false,
        mac: mac(port),
        network: 0,
        address4: Some(address(port)),
        address6: None,
        hostname: None,
        queue_pairs: 1,
        mtu: 1500,
        ack: AckPolicy::Kernel,
        coalesce: None,
        calls: CallPolicy::default(),
        limits: Limits {
            connections: 1024,
            pending: 64,
            pending_per_destination: 16,
            udp_flows: 64,
            new_per_second: 100,
            groups_per_second: 1_000_000,
        },
        egress: Vec::new(),
        forwards: Vec::new(),
        tap: None,
        stats: stats.clone(),
    }
}

/// A worker's control side, with the other ends of the rings' descriptors.
pub struct Control {
    handle: WorkerHandle,
    kicks: Vec<PipeWriter>,
}

impl Control {
    /// Of a worker without ports.
    pub fn new(handle: WorkerHandle) -> Control {
        Control { handle, kicks: Vec::new() }
    }

    /// Gives an order.
    pub fn send(&mut self, command: Command) -> Result<()> {
        self.handle.send(command).map_err(|_| anyhow!("the worker's orders do not fit"))
    }

    /// Attaches a port and starts its rings; where the calls of its receive queue go.
    pub fn attach(&mut self, id: PortId, guest: &Guest, stats: &Shared<PortStats>) -> Result<PipeReader> {
        self.send(Command::Attach(Box::new(port(id, stats))))?;
        self.send(Command::Features { port: id, bits: FEATURES })?;
        self.send(Command::Memory { port: id, map: guest.map(), done: handover().0 })?;
        let (calls, call) = pipe()?;
        let mut call = Some(call);
        for index in [RECEIVE, TRANSMIT] {
            let (kick, kicks) = pipe()?;
            self.kicks.push(kicks);
            self.send(Command::Ring(Box::new(RingCommand {
                port: id,
                index,
                setup: setup(index),
                kick: Some(kick.into()),
                call: call.take().map(PipeWriter::into),
                enabled: true,
                done: None,
            })))?;
        }
        Ok(calls)
    }
}

/// What is counted.
#[inline(never)]
fn measured_worker(worker: Worker) {
    worker.run();
    // Not the last call: a jump would not come back here.
    black_box(());
}

/// Sends `count` frames of `len` bytes through a worker, and looks whether they arrived.
pub fn run(len: usize, count: u16) -> Result<()> {
    let frame = frame(len, SENDER, RECEIVER);
    let (sender, receiver) = (Guest::new()?, Guest::new()?);
    sender.post(TRANSMIT, count, Some(&frame))?;
    receiver.post(RECEIVE, count, None)?;
    let stats = [SENDER, RECEIVER].map(|_| Shared::<PortStats>::default());

    let config = WorkerConfig {
        checkpoint: Arc::new(Checkpoint::create(16)?),
        takes_over: false,
        poll: Poll::For(0),
        peek_mode: None,
        turn_us: u64::MAX,
    };
    let (worker, handle) = Worker::new(config, Box::new(|_| {}))?;
    let mut control = Control::new(handle);
    control.send(Command::Network(Box::new(network()?)))?;
    // The receiver first: when the sender's ring starts there is somebody to send to.
    let mut calls = control.attach(RECEIVER, &receiver, &stats[1])?;
    let _calls = control.attach(SENDER, &sender, &stats[0])?;
    let stopper = thread::spawn(move || {
        // A ring's start is signalled, too.
        calls.read_exact(&mut [0; 16])?;
        control.send(Command::Stop { done: handover().0 })?;
        anyhow::Ok(control)
    });
    measured_worker(worker);
    let _control = stopper.join().map_err(|_| anyhow!("the stopping thread"))??;

    let used = (sender.used(TRANSMIT)?, receiver.used(RECEIVE)?);
    ensure!(used == (count, count), "{count} frames were posted, the rings have used {used:?}");
    let delivered = stats[1].traffic(Way::HostToGuest);
    ensure!(delivered == (count.into(), u64::from(count) * len as u64), "delivered: {delivered:?}");
    let last = receiver.read(RECEIVE, count - 1, frame.len())?;
    ensure!(last[VNET_HEADER_LEN..] == frame[VNET_HEADER_LEN..], "the last frame is not what was sent");
    Ok(())
}
