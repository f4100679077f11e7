//! Rates: what counters have grown by, over the time in which they did; and how both are written.
use std::time::Duration;

use serde::Serialize;

use crate::api::types::{Traffic, VmRow};

/// Over less time than this a difference says nothing.
pub(super) const LEAST: Duration = Duration::from_millis(50);

/// What goes one way in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Flow {
    #[serde(rename = "frames_per_second")]
    pub frames: f64,
    #[serde(rename = "bits_per_second")]
    pub bits: f64,
}

/// What one VM does in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    pub guest_to_host: Flow,
    pub host_to_guest: Flow,
    #[serde(rename = "drops_per_second")]
    pub drops: f64,
}

/// What a counter grows by in a second; nothing is known of one that went back, which is another one by the same name, nor over
/// hardly any time.
pub(super) fn per_second(before: u64, now: u64, time: Duration) -> Option<f64> {
    let grown = now.checked_sub(before)?;
    (time >= LEAST).then(|| grown as f64 / time.as_secs_f64())
}

impl Flow {
    pub fn over(before: Traffic, now: Traffic, time: Duration) -> Option<Flow> {
        let frames = per_second(before.frames, now.frames, time)?;
        Some(Flow { frames, bits: 8.0 * per_second(before.bytes, now.bytes, time)? })
    }

    pub fn plus(self, other: Flow) -> Flow {
        Flow { frames: self.frames + other.frames, bits: self.bits + other.bits }
    }
}

impl Rates {
    /// What a VM did between two looks, if it was the same one in both.
    pub fn over(before: &VmRow, now: &VmRow, time: Duration) -> Option<Rates> {
        if before.mac != now.mac {
            return None;
        }
        Some(Rates {
            guest_to_host: Flow::over(before.guest_to_host, now.guest_to_host, time)?,
            host_to_guest: Flow::over(before.host_to_guest, now.host_to_guest, time)?,
            drops: per_second(before.drops, now.drops, time)?,
        })
    }

    pub fn plus(self, other: Rates) -> Rates {
        Rates {
            guest_to_host: self.guest_to_host.plus(other.guest_to_host),
            host_to_guest: self.host_to_guest.plus(other.host_to_guest),
            drops: self.drops + other.drops,
        }
    }

    /// Bits of both directions.
    pub fn bits(self) -> f64 {
        self.guest_to_host.bits + self.host_to_guest.bits
    }
}

/// A number in five characters at most, three digits and a decimal prefix: `0`, `0.3`, `123`, `1.23k`, `123M`.
pub(super) fn short(n: f64) -> String {
    if n < 0.05 {
        return "0".to_string();
    }
    if n < 9.95 {
        return format!("{n:.1}");
    }
    let (mut n, mut prefix) = (n, "");
    for next in ["k", "M", "G", "T", "P", "E"] {
        if n < 999.5 {
            break;
        }
        (n, prefix) = (n / 1000.0, next);
    }
    match n {
        _ if prefix.is_empty() => format!("{n:.0}"),
        n if n < 9.995 => format!("{n:.2}{prefix}"),
        n if n < 99.95 => format!("{n:.1}{prefix}"),
        n => format!("{:.0}{prefix}", n.min(999.0)),
    }
}

/// The same of what may be unknown.
pub(super) fn short_or_dash(n: Option<f64>) -> String {
    n.map_or_else(|| "-".to_string(), short)
}

/// The last values as bars, the highest being the most of them; a dot is where nothing is known.
pub(super) fn bars(values: &[Option<f64>], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let last = &values[values.len().saturating_sub(width)..];
    let most = last.iter().flatten().copied().fold(0.0, f64::max);
    let bar = |value: &Option<f64>| match value {
        None => '·',
        Some(value) if *value < 0.5 || most <= 0.0 => ' ',
        Some(value) => BARS[((value / most * 8.0).ceil() as usize).clamp(1, 8) - 1],
    };
    let drawn: String = last.iter().map(bar).collect();
    format!("{drawn:>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn numbers_have_three_digits_and_at_most_five_characters() {
        for (n, text) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.33, "0.3"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (9996.0, "10.0k"),
            (99_960.0, "100k"),
            (123_456_789.0, "123M"),
            (9.994e9, "9.99G"),
            (f64::from(u32::MAX), "4.29G"),
            (u64::MAX as f64 * 8.0, "148E"),
            (f64::MAX, "999E"),
            (f64::INFINITY, "999E"),
        ] {
            assert_eq!(short(n), text, "{n}");
            assert!(text.len() <= 5);
        }
        assert_eq!(short_or_dash(None), "-");
    }

    #[test]
    fn a_counter_that_went_back_has_no_rate() {
        assert_eq!(per_second(10, 30, 2 * SECOND), Some(10.0));
        assert_eq!(per_second(30, 10, SECOND), None);
        assert_eq!(per_second(0, u64::MAX, SECOND / 100), None, "no time");
        let vm = |frames, mac: &str| VmRow {
            mac: mac.into(),
            guest_to_host: Traffic { frames, bytes: 100 * frames },
            ..VmRow::default()
        };
        let rates = Rates::over(&vm(10, "a"), &vm(20, "a"), SECOND).unwrap();
        assert_eq!((rates.guest_to_host.frames, rates.guest_to_host.bits, rates.bits()), (10.0, 8000.0, 8000.0));
        assert_eq!(Rates::over(&vm(20, "a"), &vm(10, "a"), SECOND), None);
        assert_eq!(Rates::over(&vm(10, "a"), &vm(20, "b"), SECOND), None, "another NIC of the same name");
    }

    #[test]
    fn bars_are_as_high_as_their_share_of_the_most() {
        let values = [None, Some(0.0), Some(1.0), Some(50.0), Some(100.0)];
        assert_eq!(bars(&values, 5), "· ▁▄█");
        assert_eq!(bars(&values, 8), "   · ▁▄█");
        assert_eq!(bars(&values, 2), "▄█");
        assert_eq!(
            (bars(&[Some(0.0)], 1), bars(&[], 2), bars(&[Some(f64::MAX)], 1)),
            (" ".into(), "  ".into(), "█".into())
        );
    }
}
