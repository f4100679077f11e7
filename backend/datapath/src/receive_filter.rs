//! What a guest's driver has said over the control queue that it listens to (virtio 1.3 §5.1.6.5.1, §5.1.6.5.2). As long as it has not
//! given its table of addresses everything is let through, as after an engine's death: a filter saves a guest work, it protects nobody.
use vonic_frame::MacAddr;

/// Group addresses kept; a driver that has more gets all groups.
const GROUPS_MAX: usize = 32;

/// A receive mode (VIRTIO_NET_CTRL_RX_…), by its command's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Promiscuous = 0,
    /// All groups.
    AllMulticast = 1,
    /// All single addresses. A guest gets no frames for others anyway.
    AllUnicast = 2,
    /// No groups.
    NoMulticast = 3,
    /// No single addresses.
    NoUnicast = 4,
    /// No broadcasts.
    NoBroadcast = 5,
}

impl Mode {
    /// The mode that a command is about.
    pub fn of(command: u8) -> Option<Mode> {
        let all = [
            Mode::Promiscuous,
            Mode::AllMulticast,
            Mode::AllUnicast,
            Mode::NoMulticast,
            Mode::NoUnicast,
            Mode::NoBroadcast,
        ];
        all.into_iter().find(|mode| *mode as u8 == command)
    }
}

/// What one guest listens to.
#[derive(Debug, Default)]
pub struct ReceiveFilter {
    modes: u8,
    /// The driver has given its table.
    told: bool,
    /// Group addresses, as many as there are.
    groups: [MacAddr; GROUPS_MAX],
    count: usize,
    /// There were more.
    overflow: bool,
}

impl ReceiveFilter {
    /// The driver switches a mode.
    pub fn set_mode(&mut self, mode: Mode, on: bool) {
        let bit = 1 << mode as u8;
        self.modes = if on { self.modes | bit } else { self.modes & !bit };
    }

    fn has(&self, mode: Mode) -> bool {
        self.modes & 1 << mode as u8 != 0
    }

    /// The driver gives its groups, in the place of those before.
    pub fn set_groups(&mut self, groups: impl Iterator<Item = MacAddr>) {
        (self.told, self.count, self.overflow) = (true, 0, false);
        // Whatever a driver claims to have.
        for group in groups.take(GROUPS_MAX + 1) {
            match self.groups.get_mut(self.count) {
                Some(place) => {
                    *place = group;
                    self.count += 1;
                }
                None => self.overflow = true,
            }
        }
    }

    /// Whether the guest listens to frames for this address, its own or a group's.
    pub fn accepts(&self, to: MacAddr) -> bool {
        if !self.told || self.has(Mode::Promiscuous) {
            return true;
        }
        if to == MacAddr::BROADCAST {
            return !self.has(Mode::NoBroadcast);
        }
        if !to.is_group() {
            return self.has(Mode::AllUnicast) || !self.has(Mode::NoUnicast);
        }
        let listed = self.overflow || self.groups[..self.count].contains(&to);
        !self.has(Mode::NoMulticast) && (listed || self.has(Mode::AllMulticast))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn group(n: u8) -> MacAddr {
        MacAddr([1, 0, 0x5e, 0, 0, n])
    }

    fn heard(filter: &ReceiveFilter) -> [bool; 4] {
        [OWN, MacAddr::BROADCAST, group(1), group(2)].map(|to| filter.accepts(to))
    }

    #[test]
    fn everything_comes_until_the_driver_has_given_its_table() {
        let mut filter = ReceiveFilter::default();
        filter.set_mode(Mode::Promiscuous, false);
        assert_eq!(heard(&filter), [true; 4]);
        filter.set_groups([group(1)].into_iter());
        assert_eq!(heard(&filter), [true, true, true, false]);
        filter.set_groups(std::iter::empty());
        assert_eq!(heard(&filter), [true, true, false, false]);
        filter.set_groups((0..=255).map(group));
        assert_eq!(heard(&filter), [true; 4], "too many to know them all");
    }

    #[test]
    fn each_mode_does_what_it_says() {
        for (mode, expected) in [
            (Mode::Promiscuous, [true; 4]),
            (Mode::AllMulticast, [true; 4]),
            (Mode::AllUnicast, [true, true, true, false]),
            (Mode::NoMulticast, [true, true, false, false]),
            (Mode::NoUnicast, [false, true, true, false]),
            (Mode::NoBroadcast, [true, false, true, false]),
        ] {
            let mut filter = ReceiveFilter::default();
            filter.set_groups([group(1)].into_iter());
            filter.set_mode(mode, true);
            assert_eq!(heard(&filter), expected, "{mode:?}");
            filter.set_mode(mode, false);
            assert_eq!(heard(&filter), [true, true, true, false], "{mode:?}");
            assert_eq!(Mode::of(mode as u8), Some(mode));
        }
        assert_eq!(Mode::of(6), None);
    }
}
