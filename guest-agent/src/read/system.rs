//! Processors, memory, tracked connections.
use super::{known, text};
use crate::sys;
use vonic_agent::message::{Conntrack, Cpu, Memory, Pressure, Stall};

/// The processors' time and the network's part in it.
pub fn cpu() -> Option<Cpu> {
    let files = ["/proc/stat", "/proc/softirqs", "/proc/net/softnet_stat"].map(|path| text(path).unwrap_or_default());
    read_cpu(&files, sys::ticks_per_second())
}

fn read_cpu([stat, softirqs, softnet]: &[String; 3], ticks: u64) -> Option<Cpu> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let all: Vec<u64> = all.unwrap_or_default().split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
    let ms = |ticked: u64| ticked.saturating_mul(1000) / ticks.max(1);
    // user, nice, system, idle, iowait, irq, softirq, steal; guests' time is part of the first two.
    let at = |place: usize| all.get(place).copied().map(ms);
    let sum = |places: &[usize]| {
        places.iter().map(|place| at(*place)).try_fold(0, |sum: u64, ms| Some(sum.saturating_add(ms?)))
    };
    let processors = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    known(Cpu {
        processors: (processors > 0).then_some(processors as u64),
        busy_ms: sum(&[0, 1, 2, 5, 6, 7]),
        idle_ms: sum(&[3, 4]),
        softirq_ms: at(6),
        irq_ms: at(5),
        steal_ms: at(7),
        net_rx: softirq(softirqs, "NET_RX:"),
        net_tx: softirq(softirqs, "NET_TX:"),
        backlog_dropped: softnet_sum(softnet, 1),
        squeezed: softnet_sum(softnet, 2),
    })
}

/// A line of /proc/softirqs, over all processors.
fn softirq(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name))?;
    line.split_ascii_whitespace().try_fold(0u64, |sum, n| Some(sum.saturating_add(n.parse().ok()?)))
}

/// A column of /proc/net/softnet_stat, which has a line of hexadecimal numbers for each processor.
fn softnet_sum(text: &str, column: usize) -> Option<u64> {
    let mut numbers = text
        .lines()
        .map(|line| line.split_ascii_whitespace().nth(column).and_then(|n| u64::from_str_radix(n, 16).ok()))
        .peekable();
    numbers.peek()?;
    numbers.try_fold(0, |sum: u64, n| Some(sum.saturating_add(n?)))
}

/// Memory, by /proc/meminfo and /proc/pressure/memory.
pub fn memory(meminfo: Option<String>, pressure: Option<String>) -> Option<Memory> {
    let meminfo = meminfo.unwrap_or_default();
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    known(Memory {
        total: bytes("MemTotal"),
        available: bytes("MemAvailable"),
        swap_total: bytes("SwapTotal"),
        swap_free: bytes("SwapFree"),
        pressure: pressure.and_then(|text| known(Pressure { some: stall(&text, "some"), full: stall(&text, "full") })),
    })
}

/// A line like `some avg10=0.00 avg60=1.25 avg300=0.00 total=12`.
fn stall(text: &str, name: &str) -> Option<Stall> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let value = |key: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let hundredths = |key: &str| {
        let (whole, part) = value(key)?.split_once('.')?;
        let (whole, part): (u64, u64) = (whole.parse().ok()?, part.get(..2)?.parse().ok()?);
        whole.checked_mul(100)?.checked_add(part)
    };
    known(Stall {
        avg10_basis_points: hundredths("avg10"),
        avg60_basis_points: hundredths("avg60"),
        total_us: value("total").and_then(|total| total.parse().ok()),
    })
}

/// Tracked connections, where the module is loaded.
pub fn conntrack() -> Option<Conntrack> {
    let number = |name: &str| text(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"))?.trim().parse().ok();
    known(Conntrack { count: number("count"), most: number("max") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_and_added_up() {
        let stat =
            "cpu  10 20 30 400 5 6 7 8 9 10\ncpu0 5 10 15 200 2 3 3 4 0 0\ncpu1 5 10 15 200 3 3 4 4 9 10\nintr 1\n";
        let softirqs = "                    CPU0       CPU1\n          HI:          1          0\n      NET_TX:          3          4\n      NET_RX:         50         60\n";
        let softnet = "00000010 00000001 0000000a 00000000\n00000020 00000002 00000001 00000000\n";
        let cpu = read_cpu(&[stat, softirqs, softnet].map(String::from), 100).unwrap();
        let expected = Cpu {
            processors: Some(2),
            busy_ms: Some(810),
            idle_ms: Some(4050),
            softirq_ms: Some(70),
            irq_ms: Some(60),
            steal_ms: Some(80),
            net_rx: Some(110),
            net_tx: Some(7),
            backlog_dropped: Some(3),
            squeezed: Some(11),
        };
        assert_eq!(cpu, expected);
    }

    #[test]
    fn what_old_kernels_lack_is_absent() {
        let stat = "cpu  10 20 30 400\ncpu0 10 20 30 400\n".to_string();
        let cpu = read_cpu(&[stat, String::new(), String::new()], 100).unwrap();
        assert_eq!(cpu, Cpu { processors: Some(1), ..Cpu::default() });
        assert_eq!(read_cpu(&Default::default(), 100), None);
        assert_eq!((memory(None, None), memory(Some("MemTotal: x kB".into()), Some("some".into()))), (None, None));
        // UML and kernels without PSI.
        let memory = memory(Some("MemTotal:  2 kB\n".into()), None).unwrap();
        assert_eq!(memory, Memory { total: Some(2048), ..Memory::default() });
    }

    #[test]
    fn memory_and_its_pressure_are_read() {
        let meminfo = "MemTotal:         505184 kB\nMemFree: 1 kB\nMemAvailable:     402068 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n";
        let pressure =
            "some avg10=0.07 avg60=12.34 avg300=1.00 total=123\nfull avg10=100.00 avg60=0.00 avg300=0.00 total=9\n";
        let memory = memory(Some(meminfo.into()), Some(pressure.into())).unwrap();
        assert_eq!(
            (memory.total, memory.available, memory.swap_free),
            (Some(505_184 << 10), Some(402_068 << 10), Some(0))
        );
        let pressure = memory.pressure.unwrap();
        let stall = |avg10, avg60, total| Stall {
            avg10_basis_points: Some(avg10),
            avg60_basis_points: Some(avg60),
            total_us: Some(total),
        };
        assert_eq!((pressure.some, pressure.full), (Some(stall(7, 1234, 123)), Some(stall(10_000, 0, 9))));
    }
}
