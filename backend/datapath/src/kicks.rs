//! What a driver's kicks are worth. Each wakes the worker; a driver that kicks without end and posts nothing would keep it from sleep, and from others.

/// So many in a row that nothing came with are heard at once. A driver kicks in vain now and then, when the worker has looked by itself meanwhile.
const IN_VAIN: u8 = 64;

/// What a kick says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kicked {
    /// The driver has posted something since the last one.
    News,
    /// It has not.
    Vain,
    /// Nor has it for long: its kicks are to be heard later.
    TooMany,
}

/// One ring's kicks.
#[derive(Default)]
pub struct Kicks {
    /// The available index at the last one.
    posted: Option<u16>,
    vain: u8,
    deaf: bool,
}

impl Kicks {
    /// A kick has come, and the available index is `posted`.
    pub fn heard(&mut self, posted: u16) -> Kicked {
        if self.posted.replace(posted) != Some(posted) {
            self.vain = 0;
            return Kicked::News;
        }
        self.vain = self.vain.saturating_add(1);
        if self.vain < IN_VAIN {
            return Kicked::Vain;
        }
        Kicked::TooMany
    }

    /// Nobody hears them; false if that is so already.
    pub fn ignore(&mut self) -> bool {
        !std::mem::replace(&mut self.deaf, true)
    }

    /// They are heard again; true if they were not. The event that a descriptor has when it is watched anew counts as one, and the next one in vain
    /// is one too many again.
    pub fn hear(&mut self) -> bool {
        let was_deaf = std::mem::take(&mut self.deaf);
        if was_deaf {
            self.vain = IN_VAIN - 2;
        }
        was_deaf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kicks_with_news_are_never_too_many() {
        let mut kicks = Kicks::default();
        for posted in 0..=u16::MAX {
            assert_eq!(kicks.heard(posted), Kicked::News);
            assert_eq!(kicks.heard(posted), Kicked::Vain, "the worker had looked already");
        }
    }

    #[test]
    fn who_kicks_for_nothing_is_heard_twice_a_time() {
        let mut kicks = Kicks::default();
        assert_eq!(kicks.heard(7), Kicked::News);
        for _ in 1..IN_VAIN {
            assert_eq!(kicks.heard(7), Kicked::Vain);
        }
        assert_eq!(kicks.heard(7), Kicked::TooMany);
        assert!(kicks.ignore() && !kicks.ignore() && kicks.hear());
        assert_eq!([kicks.heard(7), kicks.heard(7)], [Kicked::Vain, Kicked::TooMany]);
        assert!(kicks.ignore() && kicks.hear() && !kicks.hear());
        assert_eq!([kicks.heard(7), kicks.heard(8), kicks.heard(8)], [Kicked::Vain, Kicked::News, Kicked::Vain]);
    }
}
