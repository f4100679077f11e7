//! The file format pcapng (draft-ietf-opsawg-pcapng), as far as a capture of one NIC needs it: a section, its interface, frames,
//! statistics. All numbers are little-endian, times are microseconds since 1970.
use vonic_datapath::{Captured, Way};
use vonic_frame::{MacAddr, VNET_HEADER_LEN};

/// Block types.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

/// Options of all blocks.
const END: u16 = 0;
const COMMENT: u16 = 1;
/// Of a section.
const USER_APPLICATION: u16 = 4;
/// Of an interface.
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_MAC: u16 = 6;
const IF_TSRESOL: u16 = 9;
const IF_FILTER: u16 = 11;
/// Of a packet.
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const EPB_QUEUE: u16 = 6;
/// Of statistics.
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
const ISB_FILTERACCEPT: u16 = 6;
const ISB_USRDELIV: u16 = 8;

/// In epb_flags: the direction as the NIC has it, how the frame was addressed, and what of it is left to a device.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
const UNICAST: u32 = 1 << 2;
const MULTICAST: u32 = 2 << 2;
const BROADCAST: u32 = 3 << 2;
const CHECKSUM_NOT_READY: u32 = 1 << 9;
const CHECKSUM_VALID: u32 = 1 << 10;
const SEGMENTATION: u32 = 1 << 11;

/// In a virtio-net header (virtio 1.3 §5.1.6).
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_ECN: u8 = 0x80;

/// Bytes of a block's type and length in front, and of its length behind.
pub const FRAME_LEN: usize = 12;
/// The most bytes of a block: a frame of 64 KiB with all its options is less.
const BLOCK_MAX: usize = 1 << 18;

/// Appends a block: `body` and options.
fn block(out: &mut Vec<u8>, kind: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    write(out);
    let length = ((out.len() - start + 4) as u32).to_le_bytes();
    out.extend(length);
    out[start + 4..start + 8].copy_from_slice(&length);
}

/// Appends an option, padded to 32 bits; of a longer value as much as an option holds.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    pad(out, value.len());
}

fn end(out: &mut Vec<u8>) {
    option(out, END, &[]);
}

fn pad(out: &mut Vec<u8>, len: usize) {
    out.extend(&[0; 3][..len.next_multiple_of(4) - len]);
}

/// A time in two halves, the high one first.
fn time(microseconds: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&((microseconds >> 32) as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&(microseconds as u32).to_le_bytes());
    bytes
}

/// The NIC whose frames are captured, and how.
#[derive(Clone, Debug)]
pub struct Interface<'a> {
    /// The VM's name.
    pub vm: &'a str,
    /// The NIC's address.
    pub mac: MacAddr,
    /// The most bytes of each frame.
    pub snaplen: u32,
    /// The expression by which frames were chosen.
    pub filter: Option<&'a str>,
}

/// Appends the beginning of a file: its section, and the one interface.
pub fn begin(out: &mut Vec<u8>, interface: &Interface<'_>) {
    let Interface { vm, mac, snaplen, filter } = interface;
    block(out, SECTION, |out| {
        out.extend(BYTE_ORDER.to_le_bytes());
        out.extend([1u16, 0].map(u16::to_le_bytes).concat());
        // Its length is not known before its end.
        out.extend(u64::MAX.to_le_bytes());
        option(out, USER_APPLICATION, concat!("vonic ", env!("CARGO_PKG_VERSION")).as_bytes());
        end(out);
    });
    block(out, INTERFACE, |out| {
        out.extend([ETHERNET, 0].map(u16::to_le_bytes).concat());
        out.extend(snaplen.to_le_bytes());
        option(out, IF_NAME, vm.as_bytes());
        option(out, IF_DESCRIPTION, format!("the NIC of {vm}: outbound is from guest to host").as_bytes());
        option(out, IF_MAC, &mac.0);
        // 10^-6 seconds.
        option(out, IF_TSRESOL, &[6]);
        if let Some(filter) = filter {
            // 0: an expression as text.
            option(out, IF_FILTER, &[&[0], filter.as_bytes()].concat());
        }
        end(out);
    });
}

/// Appends a frame, of which `bytes` were captured, at a time since 1970.
pub fn frame(out: &mut Vec<u8>, frame: &Captured, bytes: &[u8], microseconds: u64) {
    block(out, PACKET, |out| {
        out.extend([0; 4]);
        out.extend(time(microseconds));
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(frame.len.to_le_bytes());
        out.extend(bytes);
        pad(out, bytes.len());
        option(out, EPB_FLAGS, &flags(frame, bytes).to_le_bytes());
        if frame.lost > 0 {
            option(out, EPB_DROPCOUNT, &frame.lost.to_le_bytes());
        }
        option(out, EPB_QUEUE, &u32::from(frame.pair).to_le_bytes());
        if let Some(text) = segmentation(&frame.vnet) {
            option(out, COMMENT, text.as_bytes());
        }
        if let Some(reason) = frame.dropped {
            option(out, COMMENT, format!("dropped: {}", reason.name()).as_bytes());
        }
        end(out);
    });
}

fn flags(frame: &Captured, bytes: &[u8]) -> u32 {
    let direction = match frame.way {
        Way::GuestToHost => OUTBOUND,
        Way::HostToGuest => INBOUND,
    };
    let addressed = match bytes.first_chunk().map(|mac| MacAddr(*mac)) {
        None => 0,
        Some(MacAddr::BROADCAST) => BROADCAST,
        Some(mac) if mac.is_group() => MULTICAST,
        Some(_) => UNICAST,
    };
    let checksum = match frame.vnet[0] {
        flags if flags & NEEDS_CSUM != 0 => CHECKSUM_NOT_READY,
        flags if flags & DATA_VALID != 0 => CHECKSUM_VALID,
        _ => 0,
    };
    direction | addressed | checksum | if frame.vnet[1] == 0 { 0 } else { SEGMENTATION }
}

/// What a virtio-net header says of segmentation, in words.
fn segmentation(vnet: &[u8; VNET_HEADER_LEN]) -> Option<String> {
    let kind = match vnet[1] & !GSO_ECN {
        0 => return None,
        1 => "TCP over IPv4".to_string(),
        3 => "UDP fragmentation".to_string(),
        4 => "TCP over IPv6".to_string(),
        5 => "UDP".to_string(),
        other => format!("of unknown kind {other}"),
    };
    let size = u16::from_le_bytes([vnet[4], vnet[5]]);
    let ecn = if vnet[1] & GSO_ECN == 0 { "" } else { ", CWR in the first segment" };
    let checksum = if vnet[0] & NEEDS_CSUM == 0 { "" } else { ", checksum partial" };
    Some(format!("GSO {kind}, segment size {size}{checksum}{ecn}"))
}

/// What a capture came to until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// When it began and when this is, in microseconds since 1970.
    pub times: [u64; 2],
    /// Frames that went one of the wanted ways.
    pub seen: u64,
    /// Frames that the filter let pass.
    pub accepted: u64,
    /// Frames that were lost to the capture: the reader was too slow.
    pub lost: u64,
    /// Frames in the file.
    pub written: u64,
}

/// Appends statistics; of several the last counts. `why` it ended, if it has.
pub fn statistics(out: &mut Vec<u8>, statistics: &Statistics, why: Option<&str>) {
    let Statistics { times: [began, now], seen, accepted, lost, written } = *statistics;
    block(out, STATISTICS, |out| {
        out.extend([0; 4]);
        out.extend(time(now));
        option(out, ISB_STARTTIME, &time(began));
        option(out, ISB_ENDTIME, &time(now));
        for (code, count) in
            [(ISB_IFRECV, seen), (ISB_IFDROP, lost), (ISB_FILTERACCEPT, accepted), (ISB_USRDELIV, written)]
        {
            option(out, code, &count.to_le_bytes());
        }
        if let Some(why) = why {
            option(out, COMMENT, why.as_bytes());
        }
        end(out);
    });
}

/// One block of a file, as its reader needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// A frame.
    Frame,
    /// Statistics: frames lost, and why the capture ended, if it has.
    Statistics {
        /// Frames that were lost.
        lost: u64,
        /// Why it ended.
        why: Option<String>,
    },
    /// Something else.
    Other,
}

/// The first block of these bytes, and how long it is; `None`: it is not whole.
///
/// # Errors
/// What this is instead of a block.
pub fn next(bytes: &[u8]) -> Result<Option<(Block, usize)>, String> {
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
    let (Some(kind), Some(length)) = (word(0), word(4)) else { return Ok(None) };
    let length = length as usize;
    if !(FRAME_LEN..=BLOCK_MAX).contains(&length) || !length.is_multiple_of(4) {
        return Err(format!("a block of {length} bytes"));
    }
    let Some(behind) = word(length - 4) else { return Ok(None) };
    if behind as usize != length {
        return Err(format!("a block of {length} bytes that says {behind} at its end"));
    }
    let block = match kind {
        PACKET => Block::Frame,
        STATISTICS => counted(&bytes[..length - 4]),
        _ => Block::Other,
    };
    Ok(Some((block, length)))
}

/// What statistics say.
fn counted(block: &[u8]) -> Block {
    let (mut lost, mut why) = (0, None);
    // Behind type, length, interface and time.
    let mut rest = block.get(20..).unwrap_or(&[]);
    while let Some(([a, b, c, d], values)) = rest.split_first_chunk::<4>() {
        let (code, len) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
        let Some(value) = values.get(..len).filter(|_| code != END) else { break };
        match code {
            ISB_IFDROP => lost = value.first_chunk().map_or(0, |count| u64::from_le_bytes(*count)),
            COMMENT => why = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
        rest = values.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Block::Statistics { lost, why }
}

#[cfg(test)]
mod tests;
