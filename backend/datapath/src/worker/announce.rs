//! A guest that has come from another host, and whose driver cannot say so itself.
use crate::port::Port;
use crate::spec::PortId;
use crate::worker::Worker;
use vonic_frame::VNET_HEADER_LEN;
use vonic_queue::Gather;

/// An Ethernet frame without its checksum.
const SHORTEST_FRAME: usize = 60;
/// RARP's Ethernet type; hardware Ethernet, protocol IPv4 and the lengths of their addresses; "request reverse" (RFC 903).
const ETHERTYPE: [u8; 2] = [0x80, 0x35];
const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 3];

impl Worker {
    /// Has the switches of a guest's bridged network learn where it is now, by a frame from its address that nobody answers.
    /// Elsewhere there is nobody to be told: vonic's own switch goes by the configuration, and the host's sockets are the host's.
    pub(crate) fn announce(&mut self, id: PortId) {
        if let Some(port) = Worker::port_mut(&mut self.ports, id) {
            send_rarp(port);
        }
    }
}

fn send_rarp(port: &Port) {
    let Some(tap) = port.spec.tap.as_ref() else { return };
    let mac = port.spec.mac.0;
    let mut bytes = [0u8; VNET_HEADER_LEN + SHORTEST_FRAME];
    let fields: [&[u8]; 8] = [&[0xff; 6], &mac, &ETHERTYPE, &REQUEST, &mac, &[0; 4], &mac, &[0; 4]];
    let mut rest = &mut bytes[VNET_HEADER_LEN..];
    for field in fields {
        let (place, behind) = rest.split_at_mut(field.len());
        place.copy_from_slice(field);
        rest = behind;
    }
    let mut gather = Gather::default();
    let mut frame = gather.start();
    frame.host(&mut bytes[tap.header_gap()..]);
    // Not counted as the guest's, which knows nothing of it. If there is no room the VMM's next one finds some: it sends several.
    let _ = tap.send(&frame.finish());
}
