//! What a guest says of itself, as `vm show` prints it. Any number may be anything.
use std::io::{self, Write};
use std::net::SocketAddr;

use super::layout::{Table, bytes, duration};
use super::view::apart;
use crate::api::types::{
    AgentRow, Conntrack, Cpu, Device, GuestReport, Interface, Listening, Memory, NicCounters, Stall, Tcp,
};

/// The lines about the guest's agent and its words.
pub(super) fn lines(agent: Option<&AgentRow>, guest: Option<&GuestReport>, line: &mut dyn FnMut(&str, String)) {
    let (Some(agent), Some(guest)) = (agent, guest) else { return line("guest agent", "none".to_string()) };
    let seen = duration(agent.seen_seconds);
    let state = if agent.silent { format!("silent for {seen}") } else { format!("seen {seen} ago") };
    line("guest agent", format!("{}, {state}", agent.version));
    line("guest hostname", guest.hostname.clone());
    line("guest kernel", guest.kernel.clone());
    line("guest uptime", duration(guest.uptime_seconds));
    for interface in &guest.interfaces {
        if let Some(device) = &interface.device {
            device_lines(&interface.name, device, line);
        }
    }
    for (name, text) in [
        ("guest tcp", guest.tcp.as_ref().and_then(tcp)),
        ("guest round trips", guest.tcp.as_ref().and_then(round_trips)),
        ("guest softirq", guest.cpu.as_ref().and_then(softirq)),
        ("guest memory", guest.memory.as_ref().and_then(memory)),
        ("guest conntrack", guest.conntrack.as_ref().and_then(conntrack)),
        ("guest listens", guest.listening.as_ref().map(listening)),
    ] {
        if let Some(text) = text {
            line(name, text);
        }
    }
}

fn device_lines(interface: &str, device: &Device, line: &mut dyn FnMut(&str, String)) {
    if let Some(driver) = &device.driver {
        let version = device.version.iter().map(|version| format!(" {version}"));
        let bus = device.bus.iter().map(|bus| format!(" at {bus}"));
        let rest: String = version.chain(bus).collect();
        line("guest driver", format!("{interface}: {driver}{rest}"));
    }
    for (name, on) in [("guest offloads on", true), ("guest offloads off", false)] {
        let offloads = device.offloads.iter().flatten().filter(|(_, is)| **is == on);
        let names: Vec<&str> = offloads.map(|(name, _)| name.as_str()).collect();
        if !names.is_empty() {
            line(name, format!("{interface}: {}", names.join(" ")));
        }
    }
}

fn tcp(tcp: &Tcp) -> Option<String> {
    let (established, sent, again) = (tcp.established?, tcp.segments_sent?, tcp.retransmitted?);
    let share = share(again, sent.saturating_add(again));
    Some(format!("{established} established; of {sent} segments {again} sent again ({share})"))
}

fn round_trips(tcp: &Tcp) -> Option<String> {
    let sockets = tcp.sockets?;
    let (median, most) = (sockets.rtt_median_us?, sockets.rtt_p99_us?);
    let more = if sockets.more == Some(true) { "the first " } else { "" };
    let waiting = sockets.retransmitting.filter(|waiting| *waiting > 0);
    let waiting = waiting.map(|waiting| format!("; {waiting} of them sending again")).unwrap_or_default();
    let count = sockets.count?;
    let connections = if count == 1 { "connection" } else { "connections" };
    Some(format!("median {}, 99 % at most {}, of {more}{count} {connections}{waiting}", time(median), time(most)))
}

fn softirq(cpu: &Cpu) -> Option<String> {
    let (softirq, busy, idle) = (cpu.softirq_ms?, cpu.busy_ms?, cpu.idle_ms?);
    let mut text = format!("{} of processor time", share(softirq, busy.saturating_add(idle)));
    for (count, what) in [
        (cpu.net_rx, "receiving"),
        (cpu.net_tx, "sending"),
        (cpu.squeezed.filter(|n| *n > 0), "squeezed"),
        (cpu.backlog_dropped.filter(|n| *n > 0), "dropped"),
    ] {
        if let Some(count) = count {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    Some(text)
}

fn memory(memory: &Memory) -> Option<String> {
    let mut text = format!("{} of {} available", bytes(memory.available?), bytes(memory.total?));
    if let Some(swap) = memory.swap_total.filter(|swap| *swap > 0) {
        text.push_str(&format!(", {} of {} of swap free", bytes(memory.swap_free.unwrap_or(0)), bytes(swap)));
    }
    let recent = |stall: Option<Stall>| stall?.avg10_basis_points;
    if let Some(pressure) = memory.pressure
        && let (Some(some), Some(full)) = (recent(pressure.some), recent(pressure.full))
    {
        let [some, full] = [some, full].map(hundredths);
        text.push_str(&format!("; waited for {some} of the last 10s, by all tasks {full}"));
    }
    Some(text)
}

fn conntrack(conntrack: &Conntrack) -> Option<String> {
    Some(match (conntrack.count?, conntrack.most) {
        (count, Some(most)) => format!("{count} of {most}"),
        (count, None) => count.to_string(),
    })
}

fn listening(listening: &Listening) -> String {
    let list = |name: &str, sockets: &[SocketAddr]| {
        let sockets: Vec<String> = sockets.iter().map(ToString::to_string).collect();
        (!sockets.is_empty()).then(|| format!("{name} {}", sockets.join(" ")))
    };
    let parts: Vec<String> = [list("tcp", &listening.tcp), list("udp", &listening.udp)].into_iter().flatten().collect();
    let more = if listening.more { " and more" } else { "" };
    if parts.is_empty() { "nowhere".to_string() } else { format!("{}{more}", parts.join(", ")) }
}

/// A share as a percentage with two places.
fn share(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    self::hundredths(u64::try_from(hundredths).unwrap_or(u64::MAX))
}

fn hundredths(hundredths: u64) -> String {
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// Microseconds for people.
fn time(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{}.{:02} ms", us / 1000, us % 1000 / 10),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

/// The tables about the guest's interfaces.
pub(super) fn tables(guest: &GuestReport, out: &mut dyn Write) -> io::Result<()> {
    nic(guest.nic.as_ref(), out)?;
    interfaces(&guest.interfaces, out)?;
    statistics(&guest.interfaces, out)
}

/// The NIC as both sides count it, at the moment of the guest's last message.
fn nic(nic: Option<&NicCounters>, out: &mut dyn Write) -> io::Result<()> {
    let Some(nic) = nic else { return Ok(()) };
    let mut table = Table::new(&["NIC", ">BY THE HOST", ">BY THE GUEST", ">DIFFERENCE"]);
    for (way, both) in [("guest to host", nic.guest_to_host), ("host to guest", nic.host_to_guest)] {
        for (what, host, guest) in
            [("frames", both.host.frames, both.guest.frames), ("bytes", both.host.bytes, both.guest.bytes)]
        {
            let difference = i128::from(guest) - i128::from(host);
            table.row([format!("{way}, {what}"), host.to_string(), guest.to_string(), format!("{difference:+}")]);
        }
    }
    apart(&table, true, out)
}

fn interfaces(interfaces: &[Interface], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&["INTERFACE", "MAC", ">MTU", ">SENT", ">RECEIVED", ">ERRORS", ">DROPPED"]);
    for Interface { name, mac, received, sent, mtu, device: _ } in interfaces {
        table.row([
            name.clone(),
            mac.clone().unwrap_or_else(|| "-".to_string()),
            mtu.map_or_else(|| "-".to_string(), |mtu| mtu.to_string()),
            bytes(sent.bytes),
            bytes(received.bytes),
            (u128::from(sent.errors) + u128::from(received.errors)).to_string(),
            (u128::from(sent.dropped) + u128::from(received.dropped)).to_string(),
        ]);
    }
    apart(&table, !interfaces.is_empty(), out)
}

/// What drivers have counted: what is not zero.
fn statistics(interfaces: &[Interface], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&["INTERFACE", "BY ITS DRIVER", ">COUNT"]);
    let mut any = false;
    for interface in interfaces {
        let statistics = interface.device.iter().flat_map(|device| &device.statistics).flatten();
        for (name, count) in statistics.filter(|(_, count)| **count > 0) {
            table.row([interface.name.clone(), name.clone(), count.to_string()]);
            any = true;
        }
    }
    apart(&table, any, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_times_for_people() {
        assert_eq!([share(0, 0), share(1, 3), share(u64::MAX, 1)], ["0.00 %", "33.33 %", "184467440737095516.15 %"]);
        assert_eq!([999, 1000, 61_239, 1_500_000].map(time), ["999 us", "1.00 ms", "61.23 ms", "1.50 s"]);
        assert!(time(u64::MAX).ends_with(" s"));
    }

    /// A hostile guest's numbers at their limits, and a guest that tells nothing.
    #[test]
    fn every_number_has_its_line_and_nothing_has_none() {
        let all = Some(u64::MAX);
        let sockets = crate::api::types::Sockets {
            count: all,
            more: Some(true),
            rtt_median_us: all,
            rtt_p99_us: all,
            retransmitted: all,
            retransmitting: all,
        };
        let tcp =
            Tcp { established: all, segments_sent: all, retransmitted: all, sockets: Some(sockets), ..Tcp::default() };
        let stall = Some(Stall { avg10_basis_points: all, avg60_basis_points: all, total_us: all });
        let pressure = Some(crate::api::types::Pressure { some: stall, full: stall });
        let guest = GuestReport {
            tcp: Some(tcp),
            cpu: Some(Cpu {
                softirq_ms: all,
                busy_ms: all,
                idle_ms: all,
                net_rx: all,
                squeezed: all,
                ..Cpu::default()
            }),
            memory: Some(Memory { total: all, available: all, swap_total: all, swap_free: None, pressure }),
            conntrack: Some(Conntrack { count: all, most: all }),
            listening: Some(Listening::default()),
            ..GuestReport::default()
        };
        let named = |guest: &GuestReport| {
            let mut names = Vec::new();
            lines(Some(&AgentRow::default()), Some(guest), &mut |name, _| names.push(name.to_string()));
            names.split_off(4)
        };
        let expected =
            ["guest tcp", "guest round trips", "guest softirq", "guest memory", "guest conntrack", "guest listens"];
        assert_eq!(named(&guest), expected);
        assert!(named(&GuestReport::default()).is_empty());
    }
}
