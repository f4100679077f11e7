//! Eight guests at once, real and mock mixed: does each hear all that is meant for it, once, and nothing else, whoever lies about whom?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;

use vonic_tests::frames::{self, BROADCAST, Mac, ethernet, udp};
use vonic_tests::lies::{EXPERIMENTAL, Family, Identity, Scene, lies, udp6};
use vonic_tests::mock::MockConfig;
use vonic_tests::*;

/// The families that are spoken and lied in.
const FAMILIES: &[Family] = &[Family::V4, Family::V6];

/// Numbers of the VMs; 1 is the gateway.
const NUMBERS: std::ops::Range<u8> = 2..10;

fn name(number: u8) -> String {
    format!("vm{number}")
}

/// `[network.NETWORK]` with the subnets that [`Identity::of`] lives in, in the families spoken.
fn network(name: &str, more: &str) -> String {
    let mut text = format!("[network.{name}]\nuplink = \"none\"\n{more}");
    for family in FAMILIES {
        text.push_str(match family {
            Family::V4 => "subnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"\n",
            Family::V6 => "subnet6 = \"2001:db8::/64\"\ngateway6 = \"2001:db8::1\"\n",
        });
    }
    text
}

fn vm(number: u8, network: &str) -> String {
    let me = Identity::of(number);
    let mut text = format!("mac = \"52:54:00:00:00:{number:02x}\"\nnetwork = \"{network}\"\n");
    for family in FAMILIES {
        text.push_str(&match family {
            Family::V4 => format!("address4 = \"{}\"\n", me.ip4),
            Family::V6 => format!("address6 = \"{}\"\n", me.ip6),
        });
    }
    text
}

/// All VMs on network `default`.
fn config(more: &str) -> TestConfig {
    let mut config = TestConfig { service: network("default", more), network: String::new(), ..TestConfig::default() };
    config.vms.extend(NUMBERS.map(|number| (name(number), vm(number, "default"))));
    config
}

/// Drops of a VM by reason and direction, as it stands now.
type Drops = BTreeMap<String, BTreeMap<String, u64>>;

/// A service and its members, each of which records all that it gets.
struct Town {
    members: Vec<Member>,
    bed: Bed,
    gateway: Mac,
    /// What each member has been given and has sent, and what was dropped of that, by reason.
    given: Vec<u64>,
    sent: Vec<u64>,
    dropped: Vec<BTreeMap<&'static str, u64>>,
}

impl Town {
    /// Three under user-mode Linux, one under QEMU and four mocks; or eight mocks.
    fn start(config: &TestConfig, real: bool) -> Town {
        let bed = Bed::start(config).unwrap();
        // Asked before anybody records; the mock's connection ends with it.
        let first = NUMBERS.start;
        let gateway = bed.mock(&name(first), MockConfig::default()).unwrap().gateway_answers(first).unwrap();
        let start = |number: u8| match number {
            2..=4 if real => Member::real(&bed, &name(number), number, Vmm::Uml),
            5 if real => Member::real(&bed, &name(number), number, Vmm::Qemu),
            _ => Member::mock(&bed, &name(number), number),
        };
        let mut members: Vec<Member> = NUMBERS.map(|number| start(number).unwrap()).collect();
        members.iter_mut().for_each(|member| member.wait_ready().unwrap());
        let mut town =
            Town { members, gateway, given: vec![0; 8], sent: vec![0; 8], dropped: vec![BTreeMap::new(); 8], bed };
        // Real guests hear the groups that they ask for, and these are to hear all.
        for guest in town.members.iter_mut().filter_map(|member| member.guest()) {
            guest.must("ip link set eth0 allmulticast on 2>/dev/null || ifconfig eth0 allmulti", seconds(10)).unwrap();
        }
        for at in 0..8 {
            // The gateway's first advertisement comes with the buffers: it is heard before the counting begins.
            wait_until("a quiet member", seconds(20), || {
                town.members[at].heard(0).unwrap();
                (town.given[at], town.sent[at]) = town.traffic(at);
                std::thread::sleep(std::time::Duration::from_millis(100));
                town.members[at].heard(0).unwrap().is_empty() && (town.given[at], town.sent[at]) == town.traffic(at)
            })
            .unwrap();
        }
        assert_eq!(town.drops(0), Drops::new());
        town
    }

    /// What the service says that it gave to a member, and had from it.
    fn traffic(&self, at: usize) -> (u64, u64) {
        let vm = self.bed.vonicd.vm(&name(self.members[at].number)).unwrap();
        let of = |way: &str| vm[way]["frames"].as_u64().unwrap();
        (of("host_to_guest"), of("guest_to_host"))
    }

    fn drops(&self, at: usize) -> Drops {
        let vm = self.bed.vonicd.vm(&name(self.members[at].number)).unwrap();
        serde_json::from_value(vm["drops_by_reason"].clone()).unwrap()
    }

    fn send(&mut self, at: usize, frames: &[Vec<u8>]) {
        self.members[at].send(frames).unwrap();
        self.sent[at] += frames.len() as u64;
    }

    /// Notes that `count` frames that member `at` sent are dropped for `reason`.
    fn expect_drops(&mut self, at: usize, reason: &'static str, count: u64) {
        *self.dropped[at].entry(reason).or_default() += count;
    }

    /// What a member has heard, at least `count` frames of others. The gateway may advertise itself meanwhile.
    fn heard(&mut self, at: usize, count: usize) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        loop {
            let more = self.members[at].heard(usize::from(heard.len() < count)).unwrap();
            self.given[at] += more.len() as u64;
            heard.extend(more.into_iter().filter(|frame| frame[6..12] != self.gateway));
            if heard.len() >= count {
                return heard;
            }
        }
    }

    /// A member has heard exactly this.
    fn hears(&mut self, at: usize, wanted: &[Vec<u8>], why: &str) {
        let mut heard = self.heard(at, wanted.len());
        let mut sorted = wanted.to_vec();
        // Frames of one sender come in its order; senders may interleave. A real kernel's packet sockets get what no protocol of the kernel
        // wants at the end of each batch (pt_prev in net/core/dev.c), so there the order is each EtherType's own.
        let real = self.members[at].guest().is_some();
        let key = |frame: &Vec<u8>| (frame[6..12].to_vec(), real.then(|| frame[12..14].to_vec()));
        sorted.sort_by_key(key);
        heard.sort_by_key(key);
        let number = self.members[at].number;
        assert!(heard == sorted, "{why}: {number} heard\n{:?}, not\n{:?}", outline(&heard), outline(&sorted));
    }

    /// Every counter is what was sent, received and dropped so far, and no other reason appears.
    fn accounts(&mut self, why: &str) {
        for at in 0..8 {
            let number = self.members[at].number;
            let both = |count: u64| {
                BTreeMap::from([("guest_to_host", count), ("host_to_guest", 0)].map(|(way, n)| (way.into(), n)))
            };
            let wanted: Drops =
                self.dropped[at].iter().map(|(reason, count)| (reason.to_string(), both(*count))).collect();
            assert_eq!(self.drops(at), wanted, "{why}: drops of {number}");
            // What the gateway says of itself meanwhile is on its way, or lies there.
            wait_until(&format!("{why}: all frames to {number}"), seconds(5), || {
                let (given, sent) = self.traffic(at);
                assert_eq!(self.heard(at, 0), Vec::<Vec<u8>>::new(), "{why}: {number}");
                assert_eq!(sent, self.sent[at], "{why}: frames from {number}");
                self.given[at] == given
            })
            .unwrap();
        }
    }
}

/// Frames in short: source MAC's last byte, EtherType, length, and the first bytes of the payload of IP and others.
fn outline(frames: &[Vec<u8>]) -> Vec<String> {
    let one = |frame: &Vec<u8>| {
        format!("{:02x} {} {}: {}", frame[11], frames::hex(&frame[12..14]), frame.len(), frames::hex(&frame[14..48]))
    };
    frames.iter().map(one).collect()
}

/// The other places.
fn others(at: usize) -> impl Iterator<Item = usize> {
    (0..8).filter(move |other| *other != at)
}

fn of(at: usize) -> Identity {
    Identity::of(NUMBERS.start + at as u8)
}

/// An honest frame to everybody, which nobody takes for anything.
fn mark(at: usize, serial: u8) -> Vec<u8> {
    ethernet(BROADCAST, of(at).mac, EXPERIMENTAL, &[b"mark", &[at as u8, serial][..]].concat())
}

/// A frame that says who sent it to whom, and the how manieth it is, in so many bytes of pattern.
fn stamped(family: Option<Family>, from: usize, to: usize, serial: u8, size: usize) -> Vec<u8> {
    let mut stamp = vec![from as u8, to as u8, serial];
    stamp.extend((0..size).map(|at| (at * (17 + 31 * from + 7 * to)) as u8 ^ serial));
    let (me, you) = (of(from), of(to));
    match family {
        None => ethernet(you.mac, me.mac, EXPERIMENTAL, &stamp),
        Some(Family::V4) => udp((me.mac, you.mac), me.ip4, you.ip4, (4000, 4001), &stamp),
        Some(Family::V6) => udp6((me.mac, you.mac), me.ip6, you.ip6, (4000, 4001), &stamp),
    }
}

/// All that `from` has to say to `to`: in each family, frames of several sizes.
fn message(from: usize, to: usize) -> Vec<Vec<u8>> {
    let kinds = std::iter::once(None).chain(FAMILIES.iter().copied().map(Some));
    // What a real guest sends goes over its console first, in digits.
    let sizes = [(0, 1), (1, 257), (2, if from < 4 { 480 } else { 1400 })];
    kinds.flat_map(|kind| sizes.map(|(serial, size)| stamped(kind, from, to, serial, size))).collect()
}

/// Whose identity member `at` may take: everybody else's, the gateway's, nobody's, a group's.
fn victims(town: &Town, at: usize) -> Vec<Identity> {
    let gateway = Identity { mac: town.gateway, ..Identity::of(1) };
    let group = Identity { mac: [0x33, 0x33, 0, 0, 0, 1], ip4: [224, 0, 0, 1].into(), ip6: Identity::of(98).ip6 };
    others(at).map(of).chain([gateway, Identity::of(99), group]).collect()
}

/// Every lie that member `at` can tell of everybody, to everybody and to the gateway in turn.
fn all_lies(town: &mut Town, at: usize) -> Vec<Vec<u8>> {
    let gateway = Identity { mac: town.gateway, ..Identity::of(1) };
    let hearers: Vec<Identity> = others(at).map(of).chain([gateway]).collect();
    let mut hearers = hearers.iter().cycle();
    let mut told = Vec::new();
    for other in victims(town, at) {
        for lie in lies(FAMILIES) {
            let to = *hearers.find(|to| **to != other).unwrap();
            told.push((lie.frame)(&Scene { me: of(at), other, to }));
            town.expect_drops(at, lie.reason, 1);
        }
    }
    told
}

fn nobody_passes_for_another(town: &mut Town) {
    for at in 0..8 {
        let told = all_lies(town, at);
        assert!(told.len() >= 100);
        town.send(at, &told);
        // Frames of one ring go in order: when the mark is there, so would be what came before it.
        let mark = mark(at, 0);
        town.send(at, std::slice::from_ref(&mark));
        for other in others(at) {
            town.hears(other, std::slice::from_ref(&mark), "after lies");
        }
        town.accounts("after lies");
    }
}

fn every_pair_talks(town: &mut Town) {
    for from in 0..8 {
        let frames: Vec<_> = others(from).flat_map(|to| message(from, to)).collect();
        town.send(from, &frames);
    }
    for to in 0..8 {
        let wanted: Vec<_> = others(to).flat_map(|from| message(from, to)).collect();
        town.hears(to, &wanted, "from every other");
    }
    town.accounts("after all pairs");
}

fn groups_are_heard_once(town: &mut Town) {
    let groups = [BROADCAST, [1, 0, 0x5e, 0, 0, 0xfb], [0x33, 0x33, 0, 0, 0, 0xfb], [1, 0x80, 0xc2, 0, 0, 0x21]];
    let message =
        |from: usize| groups.map(|group| ethernet(group, of(from).mac, EXPERIMENTAL, &[from as u8, group[0]]));
    for from in 0..8 {
        town.send(from, &message(from));
    }
    for to in 0..8 {
        let wanted: Vec<_> = others(to).flat_map(message).collect();
        town.hears(to, &wanted, "to groups");
    }
    // A frame to oneself or to nobody is no group frame, and is never flooded.
    for at in 0..8 {
        let to = [of(at).mac, frames::mac(99)];
        town.send(at, &to.map(|to| ethernet(to, of(at).mac, EXPERIMENTAL, b"who?")));
        town.expect_drops(at, "unknown_destination", 2);
        let mark = mark(at, 1);
        town.send(at, std::slice::from_ref(&mark));
        others(at).for_each(|other| town.hears(other, std::slice::from_ref(&mark), "after frames to nobody"));
    }
    town.accounts("after groups");
}

/// The real guests' own stacks: streams between all of them at once, while the mocks hear questions to all and nothing else.
fn real_stacks_talk(town: &mut Town) {
    for at in 0..4 {
        let address = of(at).ip4;
        let guest = town.members[at].guest().unwrap();
        guest.must(&format!("ip addr add {address}/24 dev eth0"), seconds(5)).unwrap();
        guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap().wait_output(guest, "listening", seconds(10)).unwrap();
    }
    let mut jobs = Vec::new();
    for from in 0..4 {
        for to in others(from).filter(|to| *to < 4) {
            let command = format!("vonic-peer both {}:7 3000017 {}", of(to).ip4, 8 * from + to);
            jobs.push((from, town.members[from].guest().unwrap().spawn(&command).unwrap()));
        }
    }
    for (from, job) in jobs {
        let done = job.wait(town.members[from].guest().unwrap(), seconds(120)).unwrap();
        assert_eq!(done.status, 0, "{}", done.stdout);
    }
    for at in 4..8 {
        let heard = town.members[at].heard(0).unwrap();
        assert!(!heard.is_empty() && heard.iter().all(|frame| frame[0] & 1 == 1), "{heard:02x?}");
    }
}

#[test]
fn eight_guests_hear_what_is_theirs_and_nothing_else() {
    let mut town = Town::start(&config(""), true);
    every_pair_talks(&mut town);
    nobody_passes_for_another(&mut town);
    groups_are_heard_once(&mut town);
    every_pair_talks(&mut town);
    real_stacks_talk(&mut town);
    town.members.clear();
    town.bed.vonicd.stop().unwrap();
}

#[test]
fn guests_of_an_isolated_network_hear_the_gateway_alone() {
    let mut town = Town::start(&config("isolated = true\n"), false);
    for at in 0..8 {
        let told = all_lies(&mut town, at);
        town.send(at, &told);
        for to in others(at) {
            let frames = message(at, to);
            town.send(at, &frames);
            town.expect_drops(at, "isolated", frames.len() as u64);
        }
        town.send(at, &[mark(at, 0)]);
    }
    for at in 0..8 {
        town.send(at, &[frames::arp_request(NUMBERS.start + at as u8, frames::ip4(1))]);
        // Not the first frame of the gateway's, perhaps, but one of the next.
        let answer = (0..5).find_map(|_| {
            let heard = town.members[at].heard(1).unwrap();
            town.given[at] += heard.len() as u64;
            heard.iter().find_map(|frame| frames::arp_answer(frame, frames::ip4(1)))
        });
        assert_eq!(answer, Some(town.gateway));
        town.hears(at, &[], "in isolation");
    }
    town.accounts("in isolation");
    town.bed.vonicd.stop().unwrap();
}

/// Four VMs on each of two networks; those of the second have no addresses of their own, so that any goes that nobody *there* has.
fn two_networks() -> TestConfig {
    let mut config = config("");
    config.service.push_str("[network.other]\nsubnet4 = \"198.51.100.0/24\"\ngateway4 = \"198.51.100.1\"\n");
    for number in 6..10 {
        let text = format!("mac = \"52:54:00:00:00:{number:02x}\"\nnetwork = \"other\"\n");
        config.vms.insert(name(number), text);
    }
    config
}

#[test]
fn nothing_crosses_from_one_network_to_another() {
    let mut town = Town::start(&two_networks(), false);
    let together = |one: usize, other: usize| (one < 4) == (other < 4);
    for from in 0..8 {
        for to in others(from) {
            let frames = message(from, to);
            town.send(from, &frames);
            if !together(from, to) {
                town.expect_drops(from, "unknown_destination", frames.len() as u64);
            }
        }
        // The first network's gateway is nobody in the second.
        if from >= 4 {
            town.send(from, &[ethernet(town.gateway, of(from).mac, EXPERIMENTAL, b"who?")]);
            town.expect_drops(from, "unknown_destination", 1);
        }
        // To be heard at all, one must be oneself.
        let told: Vec<_> = others(from).map(|other| ethernet(BROADCAST, of(other).mac, EXPERIMENTAL, b"lie")).collect();
        town.send(from, &told);
        town.expect_drops(from, "spoofed_mac", told.len() as u64);
        town.send(from, &[mark(from, 0)]);
    }
    for to in 0..8 {
        let heard = |from: usize| message(from, to).into_iter().chain([mark(from, 0)]);
        let wanted: Vec<_> = others(to).filter(|from| together(*from, to)).flat_map(heard).collect();
        town.hears(to, &wanted, "from one's own network");
    }
    town.accounts("with two networks");

    // An address of the one network is free in the other, where nobody has it; and taken in its own.
    let borrowed =
        |from: usize, to: usize| udp((of(from).mac, of(to).mac), of(0).ip4, of(to).ip4, (7, 7), b"mine here");
    town.send(4, &[borrowed(4, 5)]);
    town.hears(5, &[borrowed(4, 5)], "from an address of the other network");
    town.send(1, &[borrowed(1, 2)]);
    town.expect_drops(1, "spoofed_address", 1);
    town.accounts("with a borrowed address");
    town.bed.vonicd.stop().unwrap();
}

/// What the configuration refuses, lest two guests be one: each with the words of its complaint.
#[test]
fn no_mac_address_or_subnet_is_given_twice() {
    let says = |config: &TestConfig, words: &[&str]| {
        let folder = TempDir::new().unwrap();
        config.write(&folder).unwrap();
        let output = Vonicd::check(&folder.path().join("etc")).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.iter().all(|word| said.contains(word)), "{words:?} in {said}");
    };
    let with = |number: u8, text: String| {
        let mut config = two_networks();
        config.vms.insert(name(number), text);
        config
    };
    says(&with(6, vm(2, "default").replace("192.0.2.2", "192.0.2.6")), &["vm6.toml:1: mac", "vm2"]);
    says(
        &with(6, vm(6, "other").replace("00:06", "00:02").replace("192.0.2.6", "198.51.100.6")),
        &["vm6.toml:1: mac", "vm2"],
    );
    says(&with(6, vm(6, "default").replace("192.0.2.6", "192.0.2.2")), &["vm6.toml:3: address4", "vm2"]);
    let mut overlapping = two_networks();
    overlapping.service =
        overlapping.service.replace("198.51.100.0/24", "192.0.2.128/25").replace("198.51.100.1", "192.0.2.129");
    says(&overlapping, &["subnet4", "overlap"]);
}
