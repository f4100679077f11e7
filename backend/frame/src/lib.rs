//! Frames as vonic reads and writes them: headers, checksums, virtio-net header, drop reasons.
//!
//! Everything here is a value made from bytes that were copied once: nothing refers to guest memory.
#![forbid(unsafe_code)]

mod aggregate;
mod build;
mod checksum;
mod datagrams;
mod domain;
mod echo;
mod fragment;
mod frame;
mod ipv6;
mod mac;
mod ndp;
mod reason;
mod refusal;
mod segment;
mod subnet;
mod vnet;
mod wire;

pub use aggregate::{Aggregate, Next, tcp_checksum_holds};
pub use build::{
    Checksum, Envelope, HeaderBytes, TCP_CHECKSUM, TcpFields, UDP_CHECKSUM, UDP_HEADER_LEN, arp_frame, icmp_echo_reply,
    ip_header_len, tcp_headers, udp_frame, udp_headers,
};
pub use checksum::Sum;
pub use datagrams::DatagramSegmenter;
pub use domain::{encode_domains, is_domain, is_label};
pub use echo::{
    Culprit, ECHO_HEADER_LEN, EchoRequest, IcmpError, echo_reply, echo_reply_header, echo_reply_sequence, echo_request,
    icmp_error, icmp_sum, restore_echo_id,
};
pub use fragment::{Fragment, fragment_capacity, fragment_header_len, fragment_headers};
pub use frame::{
    Arp, Content, ETHERNET_LEN, Frame, HEADER_MAX, Icmp, Ip, PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP,
    Tcp, Transport, Udp,
};
pub use mac::MacAddr;
pub use ndp::{
    ALL_NODES, Ndp, NdpMessage, ROUTER_ADVERTISEMENT_MAX, RouterAdvertisement, neighbor_advertisement,
    router_advertisement, solicited_node,
};
pub use reason::DropReason;
pub use refusal::{refused_datagram, refused_segment};
pub use segment::{Segment, Segmenter};
pub use subnet::Subnet;
pub use vnet::{Gso, GsoKind, Offloads, PartialChecksum, VNET_HEADER_LEN, VnetHeader};
