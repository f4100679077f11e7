//! What vonic answers itself: on the gateway's address and on its service address.
pub mod address;
pub mod arp;
pub mod dhcp;
pub mod dhcp6;
pub mod icmp;
pub mod ndp;
pub mod resolver;

use crate::offload::Inbound;
use crate::port::Port;
use crate::switch::Network;
use vonic_frame::DropReason;

/// A service gets a frame that a guest sent to the gateway or to everybody.
pub struct Service {
    /// Answers the frame if it is for this service. `Ok(false)`: it is not.
    pub handle: fn(&Network, &mut Port, &Inbound<'_, '_>) -> Result<bool, DropReason>,
}

/// Every service. The first that answers has the frame.
pub const SERVICES: &[Service] = &[
    Service { handle: arp::handle },
    Service { handle: ndp::handle },
    Service { handle: icmp::handle },
    Service { handle: dhcp::handle },
    Service { handle: dhcp6::handle },
];
