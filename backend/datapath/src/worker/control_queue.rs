//! The control queue (virtio 1.3 §5.1.6.5), for VMMs that leave it to vonic. A command is answered in the round in which it
//! is seen: drivers wait for the answer, some of them spinning.
use crate::port::{Port, feature};
use crate::receive_filter::Mode;
use crate::spec::PortId;
use crate::stats::Way;
use crate::worker::Worker;
use vonic_frame::{DropReason, MacAddr};
use vonic_queue::{Burst, ControlChain};

/// Commands answered of one port in one round.
const COMMANDS_A_ROUND: usize = 16;
/// Class, command, and the data of every command but the MAC table.
const HEAD: usize = 8;

/// VLAN identifiers (IEEE 802.1Q §9.6).
const VLANS: u16 = 4096;

/// VIRTIO_NET_OK and VIRTIO_NET_ERR.
const OK: u8 = 0;
const ERR: u8 = 1;

/// Class and command.
const RX: u8 = 0;
const MAC_TABLE_SET: [u8; 2] = [1, 0];
const MAC_ADDR_SET: [u8; 2] = [1, 1];
const VLAN_ADD: [u8; 2] = [2, 0];
const VLAN_DEL: [u8; 2] = [2, 1];
const ANNOUNCE_ACK: [u8; 2] = [3, 0];
const MQ_VQ_PAIRS_SET: [u8; 2] = [4, 0];

impl Worker {
    /// Answers what waits in a port's control queue; true if anything did.
    pub(crate) fn answer_control(&mut self, id: PortId) -> bool {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return false };
        if port.queues.control().is_none_or(|ring| ring.available() == 0) {
            return false;
        }
        self.signs.at(port.spec.vm);
        let Some(mut bursts) = self.bursts.take() else { return false };
        let [burst, ..] = bursts.as_mut();
        for _ in 0..COMMANDS_A_ROUND {
            let Some(chain) = port.queues.control().and_then(|ring| ring.fetch_control(burst)) else { break };
            let written = match answer(port, &chain, burst) {
                Ok(status) => burst.write(0..1, chain.readable, &[status]) as u32,
                Err(reason) => {
                    port.spec.stats.dropped(Way::GuestToHost, reason);
                    0
                }
            };
            if let Some(ring) = port.queues.control() {
                ring.push_used(chain.head, written);
            }
        }
        burst.clear();
        self.bursts = Some(bursts);
        // Fewer pairs: whoever waited for the buffers of one takes another.
        self.feed(id);
        true
    }
}

/// Does what a command says, if it can be done.
///
/// # Errors
/// The chain's fault, or `Truncated` where there is no command or no place for an answer.
fn answer(port: &mut Port, chain: &ControlChain, burst: &Burst) -> Result<u8, DropReason> {
    if let Some(reason) = chain.fault {
        return Err(reason);
    }
    if chain.readable < 2 || chain.writable == 0 {
        return Err(DropReason::Truncated);
    }
    let mut head = [0u8; HEAD];
    let wanted = HEAD.min(chain.readable as usize);
    let got = burst.read(0, 0, &mut head[..wanted]);
    let [class, command, data @ ..] = &head[..got] else { return Err(DropReason::Truncated) };
    let has = |bit| port.negotiated.bits & bit != 0;
    let done = match ([*class, *command], data) {
        ([RX, command], [on @ (0 | 1), ..]) => match Mode::of(command) {
            Some(mode @ (Mode::Promiscuous | Mode::AllMulticast)) if has(feature::CTRL_RX) => {
                port.receive_filter.set_mode(mode, *on == 1);
                true
            }
            Some(mode) if has(feature::CTRL_RX_EXTRA) => {
                port.receive_filter.set_mode(mode, *on == 1);
                true
            }
            _ => false,
        },
        (MAC_TABLE_SET, _) => has(feature::CTRL_RX) && set_mac_table(port, chain, burst),
        // Tagged frames reach no guest, whatever it listens to: vonic's networks have no VLANs.
        (VLAN_ADD | VLAN_DEL, [low, high, ..]) => has(feature::CTRL_VLAN) && u16::from_le_bytes([*low, *high]) < VLANS,
        // The address is the operator's to give.
        (MAC_ADDR_SET, mac) => has(feature::CTRL_MAC_ADDR) && *mac == port.spec.mac.0,
        // Nothing waits for it: vonic itself never asks for an announcement, only VMMs do.
        (ANNOUNCE_ACK, _) => has(feature::GUEST_ANNOUNCE),
        (MQ_VQ_PAIRS_SET, [low, high, ..]) => {
            has(feature::MQ) && port.queues.use_pairs(u16::from_le_bytes([*low, *high]))
        }
        _ => false,
    };
    Ok(if done { OK } else { ERR })
}

/// Two tables, each a number of entries and so many MAC addresses: the guest's own others, and the groups that it listens to. False if
/// they are not whole.
fn set_mac_table(port: &mut Port, chain: &ControlChain, burst: &Burst) -> bool {
    let mut at = 2u32;
    let mut groups = 0..0;
    for _ in 0..2 {
        let mut entries = [0u8; 4];
        if at.checked_add(4).is_none_or(|end| end > chain.readable) || burst.read(0, at, &mut entries) != 4 {
            return false;
        }
        let start = at + 4;
        let end = u32::from_le_bytes(entries).checked_mul(6).and_then(|bytes| bytes.checked_add(start));
        match end {
            Some(end) if end <= chain.readable => (groups, at) = (start..end, end),
            _ => return false,
        }
    }
    let address = |at: u32| {
        let mut bytes = [0; 6];
        burst.read(0, at, &mut bytes);
        MacAddr(bytes)
    };
    port.receive_filter.set_groups(groups.step_by(6).map(address));
    true
}
