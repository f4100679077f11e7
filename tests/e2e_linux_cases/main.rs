//! The twenty-five cases on the wire: is the leg's answer to every segment a Linux kernel's? The same script talks to a connection that
//! vonic terminates, with an application behind a socket of the host, and through vonic's switch to the kernel of a guest, with the
//! same application. Each case is a function with the name that it has in `backend/tcp/tests/conformance`; a step has one answer that is wanted of both. Who
//! answers otherwise stands in [`DIFFERENCES`], with its judgement in `backend/docs/rfc9293.md`: one more fails the test, and so does one less.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code, which tells what it tries again")]

mod bench;
mod closing;
mod differences;
mod opening;
mod receiving;
mod sending;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use bench::{Bench, Subject};
use differences::{compare, unlisted};
use vonic_tests::frames::{ip4, mac};
use vonic_tests::mock::{MockConfig, feature};
use vonic_tests::stalls::longest_stall;
use vonic_tests::*;

/// After such a pause Linux may repeat what it has sent (its probe of the last segment comes after 20 ms): the case is tried again, and what it found
/// does not count unless it was the last try. What vonic does counts always.
const STALL: std::time::Duration = std::time::Duration::from_millis(10);
const TRIES: usize = 5;

type Case = (&'static str, fn(&mut Bench) -> Result<()>);

macro_rules! cases {
    ($($file:ident::$name:ident),* $(,)?) => { [$((stringify!($name), $file::$name as fn(&mut Bench) -> Result<()>)),*] };
}

const CASES: [Case; 27] = cases![
    opening::a_syn_ack_answers_what_was_offered,
    opening::a_repeated_syn_is_answered_by_the_same_iss,
    opening::a_refused_connect_is_a_reset_of_the_syn,
    opening::any_mss_is_survived_and_obeyed,
    opening::broken_options_break_nothing,
    opening::windows_are_scaled_by_at_most_14_and_never_negative,
    receiving::payload_is_acknowledged_at_once_and_as_far_as_it_was_taken,
    receiving::overlapping_segments_give_each_byte_once,
    receiving::a_hole_is_answered_by_duplicates_and_filled_by_one_ack,
    receiving::payload_beyond_the_window_is_dropped_and_answered,
    receiving::a_wrong_checksum_costs_one_segment,
    sending::a_silent_guest_is_asked_ever_more_rarely_then_reset,
    sending::three_duplicate_acks_repeat_and_others_do_not,
    sending::a_partial_ack_uncovers_the_next_hole_and_one_beyond_is_challenged,
    sending::old_acks_change_nothing,
    sending::a_closed_window_is_probed_for_as_long_as_the_guest_answers,
    sending::a_window_that_shrinks_is_obeyed,
    receiving::a_stalled_host_closes_the_window_without_moving_its_edge,
    closing::a_fin_counts_in_order_once_and_not_beside_a_reset,
    closing::half_closed_either_way_a_megabyte_goes_on,
    closing::closing_at_once_and_one_after_the_other,
    closing::a_reset_is_believed_if_exact_and_passed_on,
    sending::blocks_are_used_and_sent,
    sending::an_applications_reset_comes_where_it_is_expected,
    opening::a_syn_on_a_connection_is_challenged_and_a_stray_ack_reset,
    receiving::timestamps_are_echoed_checked_and_monotone,
    receiving::keepalive_probes_are_answered_with_and_without_a_byte,
];

/// Where the guest's applications take orders, by a forward.
const CONTROL: &str = "127.0.0.1:18008";

/// A guest whose kernel is examined, and its applications.
fn linux(bed: &Bed) -> (Guest, Job) {
    let plain = GuestConfig::new("b", 3, &bed.socket("b"));
    let mut guest = bed.start_configured(&GuestConfig { ip6: true, ..plain }).unwrap();
    guest.wait_ready().unwrap();
    // The injector answers no ARP and no NDP. Without the limits on answers to bad segments each of the script's steps gets its own;
    // and each segment, as long as none are merged on arrival.
    let command = "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad && ip addr add 2001:db8::3/64 dev eth0 && \
        ip neigh replace 192.0.2.2 lladdr 52:54:00:00:00:02 dev eth0 nud permanent && \
        ip -6 neigh replace 2001:db8::2 lladdr 52:54:00:00:00:02 dev eth0 nud permanent && \
        ethtool -K eth0 gro off && echo 0 >/proc/sys/net/ipv4/tcp_invalid_ratelimit";
    guest.must(command, seconds(10)).unwrap();
    let applications = guest.spawn("vonic-peer application [::]:8").unwrap();
    applications.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    (guest, applications)
}

/// Applications of the host.
fn host() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || vonic_peer::application::serve(&listener));
    address
}

#[test]
fn the_leg_answers_as_linux_does_but_for_what_is_listed() {
    let forward = format!("[[forward]]\nproto = \"tcp\"\nlisten = \"{CONTROL}\"\nport = 8\n");
    let bed = Bed::start(&TestConfig::both_families().vm("a", 2, "").vm("b", 3, &forward)).unwrap();
    // As small as a guest's: a window closes soon.
    for name in ["tcp_rmem", "tcp_wmem"] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), "4096 131072 262144").unwrap();
    }
    let (_guest, _applications) = linux(&bed);
    let config = MockConfig { features: feature::PLAIN, ..MockConfig::default() };
    let mut mock = bed.mock("a", config).unwrap();
    let gateway = mock.gateway_answers(2).unwrap();
    let vonic = Subject { name: "vonic", mac: gateway, control: host() };
    let linux = Subject { name: "linux", mac: mac(3), control: CONTROL.parse().unwrap() };
    let of6 = |number| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number));
    let of4 = |number: u8| IpAddr::from(ip4(number));
    let mut findings = vec![];
    for (subject, number) in [(&vonic, 1), (&linux, 3)] {
        for addresses in [(of4(2), of4(number)), (of6(2), of6(number.into()))] {
            let first_port = if subject.name == "vonic" { 20_000 } else { 30_000 };
            let mut bench = Bench::new(&mut mock, mac(2), addresses, subject, first_port).unwrap();
            for (name, case) in CASES {
                bench.case = name;
                let before = bench.findings.clone();
                for more in (0..TRIES).rev() {
                    longest_stall();
                    if let Err(error) = case(&mut bench) {
                        bench.check("how far it came", format!("{error:#}"), "its end");
                        // The application may be in the middle of an order: a new one goes on.
                        let findings = std::mem::take(&mut bench.findings);
                        let port = bench.next_port();
                        bench = Bench::new(&mut mock, mac(2), addresses, subject, port).unwrap();
                        bench.findings = findings;
                    }
                    let stall = longest_stall();
                    let ends = subject.name == "vonic" || more == 0 || stall < STALL;
                    if ends || unlisted(&bench.findings[before.len()..]).is_empty() {
                        break;
                    }
                    println!("{name} over {}: Linux again, the machine stood for {stall:?}", bench.family());
                    bench.findings.clone_from(&before);
                }
            }
            findings.extend(bench.findings);
        }
    }
    compare(&findings);
}
