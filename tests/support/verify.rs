//! Whether a received frame is what its headers say: lengths, checksums, and what the virtio-net header leaves to the driver.

use std::net::Ipv4Addr;

use anyhow::{Result, bail, ensure};

use crate::frames::{checksum, pseudo_header};
use crate::mock::VnetHeader;

/// Checks a frame by virtio 1.3 §5.1.6.4 and its own protocols: IPv4 length and checksum; the TCP or UDP checksum, which is complete, or
/// where NEEDS_CSUM says so the pseudo header's sum at the right place; segmentation only with all that a driver needs for it.
///
/// # Errors
/// What is wrong.
pub fn verify(header: &VnetHeader, frame: &[u8]) -> Result<()> {
    let offloads = (header.flags, header.gso_type, header.gso_size, header.csum_start, header.csum_offset);
    ensure!(frame.len() >= 14, "a frame of {} bytes", frame.len());
    if frame[12..14] != [8, 0] {
        ensure!(offloads == (0, 0, 0, 0, 0), "offloads on no IP packet: {header:?}");
        return Ok(());
    }
    let packet = &frame[14..];
    ensure!(packet.len() >= 20 && packet[0] == 0x45, "an IP header that is not ours");
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let padded = frame.len() == 60 && total < 46;
    ensure!(total >= 20 && (total == packet.len() || padded), "total length {total} in {} bytes", packet.len());
    ensure!(checksum(&packet[..20]) == 0, "a wrong IP checksum");
    let (start, offset) = match packet[9] {
        6 => (34, 16),
        17 => (34, 6),
        _ => {
            ensure!(offloads == (0, 0, 0, 0, 0), "offloads on protocol {}: {header:?}", packet[9]);
            return Ok(());
        }
    };
    let transport = &packet[20..total];
    let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let pseudo = pseudo_header(address(12), address(16), packet[9], transport.len());
    let field = u16::from_be_bytes([transport[offset], transport[offset + 1]]);
    match header.flags {
        VnetHeader::NEEDS_CSUM => {
            let place = (header.csum_start, usize::from(header.csum_offset));
            ensure!(place == (start, offset), "a checksum is asked for at {place:?}");
            ensure!(field == !checksum(&pseudo), "{field:04x} is not the pseudo header's sum");
        }
        0 => {
            ensure!(
                (header.csum_start, header.csum_offset) == (0, 0),
                "checksum fields without NEEDS_CSUM: {header:?}"
            );
            ensure!(checksum(&[&pseudo[..], transport].concat()) == 0, "a wrong checksum in protocol {}", packet[9]);
            ensure!(packet[9] == 6 || field != 0, "no UDP checksum");
        }
        flags => bail!("flags {flags}"),
    }
    if header.gso_type == 0 {
        ensure!(header.gso_size == 0, "a segment size without segmentation: {header:?}");
        return Ok(());
    }
    let headers = usize::from(transport[12] >> 4) * 4;
    ensure!(packet[9] == 6 && header.gso_type == VnetHeader::TCPV4, "segmentation of kind {}", header.gso_type);
    ensure!(header.flags == VnetHeader::NEEDS_CSUM, "segmentation without NEEDS_CSUM");
    ensure!(usize::from(header.header_length) == 34 + headers, "hdr_len {}", header.header_length);
    let text = transport.len() - headers;
    ensure!(header.gso_size > 0 && text > usize::from(header.gso_size), "gso_size {} for {text}", header.gso_size);
    Ok(())
}
