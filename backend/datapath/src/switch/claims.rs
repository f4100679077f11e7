//! IPv6 addresses that a guest takes for itself, beyond those of its file: claimed by duplicate address detection (RFC 4862 §5.4),
//! a few for each.
use std::net::Ipv6Addr;

/// Addresses that one guest may have besides its own.
pub const CLAIMS: usize = 4;

/// One guest's claims, the one used last first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claims([Option<Ipv6Addr>; CLAIMS]);

impl Claims {
    /// Whether the address is claimed; if so, it has been used.
    pub fn touch(&mut self, address: Ipv6Addr) -> bool {
        let place = self.0.iter().position(|claim| *claim == Some(address));
        if let Some(place) = place {
            self.0[..=place].rotate_right(1);
        }
        place.is_some()
    }

    /// Adds a claim; returns the one that was unused for longest and makes room for it.
    pub fn add(&mut self, address: Ipv6Addr) -> Option<Ipv6Addr> {
        self.0.rotate_right(1);
        self.0[0].replace(address)
    }

    /// Gives one claim up.
    pub fn remove(&mut self, address: Ipv6Addr) {
        if self.touch(address) {
            self.0[0] = None;
            self.0.rotate_left(1);
        }
    }

    /// Whether the address is claimed, which uses nothing.
    pub fn has(&self, address: Ipv6Addr) -> bool {
        self.all().any(|claim| claim == address)
    }

    /// Every claim, the one used last first.
    pub fn all(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.0.into_iter().flatten()
    }

    /// Gives all claims up, and names them.
    pub fn take(&mut self) -> impl Iterator<Item = Ipv6Addr> + use<> {
        std::mem::take(&mut self.0).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claim_unused_for_longest_makes_room() {
        let address = |n| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n);
        let mut claims = Claims::default();
        for n in 1..=4 {
            assert_eq!(claims.add(address(n)), None);
        }
        assert!(claims.touch(address(1)) && !claims.touch(address(5)));
        assert_eq!(claims.add(address(5)), Some(address(2)));
        claims.remove(address(3));
        assert_eq!(claims.add(address(6)), None);
        assert_eq!(claims.add(address(7)), Some(address(4)));
        assert_eq!(claims.take().collect::<Vec<_>>(), [address(7), address(6), address(5), address(1)]);
        assert_eq!(claims.take().count(), 0);
    }
}
