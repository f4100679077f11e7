//! Flows of datagrams in a port's state, and their sockets on the host that they come to.
use super::reasons;
use crate::config::Vm;
use std::collections::BTreeMap;
use std::io;
use vonic_datapath::{ArrivingDatagrams, Traveller};
use vonic_migration::DatagramState;
use vonic_record::Bits;
use vonic_uplink::DatagramSocket;

/// Pings that one guest has at most.
const PINGS: usize = 64;

/// A flow as it stands in the stream.
pub(super) fn departing(flow: &Traveller) -> DatagramState {
    let Traveller { echo, is_stream, forwarded, guest, remote, host, local, opened, used } = *flow;
    let bits = Bits::STREAM.only_if(is_stream).0 | Bits::FORWARDED.only_if(forwarded).0;
    DatagramState { echo, bits, guest, remote, host, local, opened, used }
}

/// One that comes, while it has no socket here: a forward's needs none.
pub(super) struct Coming {
    state: DatagramState,
    socket: Option<io::Result<DatagramSocket>>,
}

/// Those that the VM may have, each with a socket if that can be had before its address is here; the ones used last come first.
pub(super) fn begin(mut states: Vec<DatagramState>, vm: &Vm) -> Vec<Coming> {
    states.sort_by_key(|state| std::cmp::Reverse(state.used));
    let mut room = [PINGS, vm.limits.udp_flows as usize];
    states.retain(|state| {
        let room = &mut room[usize::from(!state.echo)];
        let admitted = *room > 0;
        *room = room.saturating_sub(1);
        admitted
    });
    let socket = |state: &DatagramState| (!is_forwarded(state)).then(|| open(state));
    states.into_iter().map(|state| Coming { socket: socket(&state), state }).collect()
}

/// The address is here: the flows with their sockets. Those that can have none are left out, and named in the log.
pub(super) fn finish(coming: Vec<Coming>, vm: &Vm) -> Vec<(DatagramState, Option<DatagramSocket>)> {
    let (mut flows, mut lost) = (Vec::with_capacity(coming.len()), BTreeMap::<String, usize>::new());
    for Coming { state, socket } in coming {
        match socket.map(|socket| socket.or_else(|_| open(&state))).transpose() {
            Ok(socket) => flows.push((state, socket)),
            Err(error) => *lost.entry(error.to_string()).or_default() += 1,
        }
    }
    if !lost.is_empty() {
        let count: usize = lost.values().sum();
        log::warn!("{}: {count} flows of datagrams have not come along and begin anew: {}", vm.name, reasons(&lost));
    }
    flows
}

fn is_forwarded(state: &DatagramState) -> bool {
    Bits(state.bits).has(Bits::FORWARDED)
}

fn open(state: &DatagramState) -> io::Result<DatagramSocket> {
    DatagramSocket::again(state.echo, state.local, state.host)
}

/// A flow as the worker goes on with it: its age and its silence go on by this host's clock, which is at `now` and was at `then` on the
/// source.
pub(super) fn arriving(
    (state, socket): (DatagramState, Option<DatagramSocket>),
    (then, now): (u64, u64),
) -> ArrivingDatagrams {
    let DatagramState { echo, bits, guest, remote, host, local, opened, used } = state;
    let [opened, used] = [opened, used].map(|at| now.saturating_sub(then.saturating_sub(at)));
    let (is_stream, forwarded) = (Bits(bits).has(Bits::STREAM), is_forwarded(&state));
    ArrivingDatagrams {
        flow: Traveller { echo, is_stream, forwarded, guest, remote, host, local, opened, used },
        socket,
    }
}
