//! Which connections a list is to have.
use std::net::SocketAddr;

use vonic_frame::Subnet;

use super::parameters::Given;

/// What a connection has to be like; what is absent does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this VM.
    pub vm: Option<String>,
    /// Of this protocol.
    pub protocol: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// One end lies here.
    pub address: Option<Subnet>,
    /// The same end, or any if no address is given, has this port.
    pub port: Option<u16>,
    /// At least so many seconds old.
    pub min_age: Option<u64>,
    /// At most so many seconds old.
    pub max_age: Option<u64>,
}

impl Filter {
    pub(super) fn of(given: &Given) -> Filter {
        Filter {
            vm: given.text("vm"),
            protocol: given.text("protocol"),
            state: given.text("state"),
            address: given.read_as("address"),
            port: given.read_as("port"),
            min_age: given.read_as("min_age"),
            max_age: given.read_as("max_age"),
        }
    }

    /// Whether a connection is like that, whatever its VM.
    pub fn admits(&self, (protocol, state): (&str, &str), ends: [SocketAddr; 2], age: u64) -> bool {
        let is =
            |wanted: &Option<String>, it: &str| wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(it));
        let ends_so = |end: SocketAddr| {
            self.address.is_none_or(|subnet| subnet.contains(end.ip()))
                && self.port.is_none_or(|port| port == end.port())
        };
        is(&self.protocol, protocol)
            && is(&self.state, state)
            && ends.into_iter().any(ends_so)
            && self.min_age.is_none_or(|least| age >= least)
            && self.max_age.is_none_or(|most| age <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_holds_by_itself_and_all_together() {
        let known = ["vm", "protocol", "state", "address", "port", "min_age", "max_age"];
        let admits = |query: &str| {
            let filter = Filter::of(&Given::read(Some(query), &known).unwrap());
            let ends = ["192.0.2.2:40000", "198.51.100.7:443"].map(|end| end.parse().unwrap());
            filter.admits(("tcp", "ESTABLISHED"), ends, 61)
        };
        for good in [
            "",
            "vm=other",
            "protocol=TCP",
            "state=established",
            "address=192.0.2.0/24",
            "address=198.51.100.7",
            "port=443",
            "port=40000",
            "min_age=61",
            "max_age=61",
            "address=198.51.100.0/24&port=443&min_age=60&max_age=62&protocol=tcp",
        ] {
            assert!(admits(good), "{good}");
        }
        for bad in [
            "protocol=udp",
            "state=CLOSED",
            "address=192.0.2.3",
            "address=2001:db8::/64",
            "port=80",
            "min_age=62",
            "max_age=60",
            // The port belongs to the end with that address.
            "address=192.0.2.2&port=443",
            "port=443&protocol=udp",
        ] {
            assert!(!admits(bad), "{bad}");
        }
    }
}
