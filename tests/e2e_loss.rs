//! Loss, reordering and duplication, on the network's side and between a guest and vonic: does every byte arrive, both ways, and in
//! time? VONIC_LONG=1 moves ten times as much.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::process::Command;

use vonic_tests::*;

/// Both ends of a cable: in the test's namespace, in which vonic's own sockets are, and in the world's.
const HERE: &str = "198.51.100.1";
const THERE: &str = "198.51.100.2";
const CABLE: &str = "wan0";
/// One in a hundred that come in by the cable. What is dropped on its way out would be known to its sender.
const LOSS: &str = "table inet loss {
    chain in {
        type filter hook input priority 0;
        iifname wan0 meta l4proto tcp numgen random mod 100 < 1 counter drop;
    }
}
";
/// The same for what a guest sends and gets, and so for vonic's leg: frames wait for 1 ms, but 1 in 50 overtakes what was there before.
const NETEM: &str = "netem delay 1ms loss 1% duplicate 1% reorder 2%";
const MODULES: &str =
    "net/sched/sch_netem net/sched/sch_ingress net/sched/act_mirred net/sched/cls_matchall drivers/net/ifb";

fn times() -> u64 {
    if std::env::var_os("VONIC_LONG").is_some() { 10 } else { 1 }
}

/// A guest, its server on port 7, and the world with a server.
struct Path {
    guest: Guest,
    server: PeerServer,
    world: Netns,
    bed: Bed,
}

impl Path {
    fn start() -> Path {
        isolate().unwrap();
        let world = Netns::new().unwrap();
        world.cable(CABLE, &format!("{HERE}/24"), &format!("{THERE}/24")).unwrap();
        let forward = format!("[[forward]]\nproto = \"tcp\"\nlisten = \"{HERE}:7007\"\nport = 7");
        let limits = "limits = { pending_per_destination = 512 }";
        let bed = Bed::start_here(&TestConfig::default().vm("a", 2, &format!("{limits}\n{forward}"))).unwrap();
        let mut guest = bed.guest("a", 2, Vmm::Uml).unwrap();
        guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap().wait_output(&mut guest, "listening", seconds(10)).unwrap();
        let server = PeerServer::start("world", bed.directory.path(), &format!("{THERE}:0"), Some(&world)).unwrap();
        Path { guest, server, world, bed }
    }

    /// A program of the lab, in the calling thread's namespace; what it printed.
    fn tool(&self, line: &str) -> Result<String> {
        let mut words = line.split_ascii_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        let log = self.bed.directory.path().join("tool.log");
        drop(std::fs::remove_file(&log));
        let mut process = self.bed.lab.start("tool", &self.bed.directory, &mut command)?;
        assert!(process.wait(seconds(10))?.success(), "{line}: {}", process.log());
        Ok(process.log())
    }

    /// Checked streams, few and long, then many and short, each kind opened from either side.
    fn traffic(&mut self) {
        let long = 1_000_003 * times();
        for (operation, seed) in [("send", 100), ("recv", 200), ("both", 300)] {
            self.guest_opens(operation, long, seed, 32);
            self.world_opens(operation, long, seed + 1000, 32);
        }
        for round in 0..2 * times() {
            self.guest_opens("both", 251, 10_000 + 1000 * round, 250);
            self.world_opens("both", 251, 50_000 + 1000 * round, 250);
        }
    }

    fn guest_opens(&mut self, operation: &str, bytes: u64, seed: u64, streams: u64) {
        let command = format!("vonic-peer {operation} {} {bytes} {seed} {streams}", self.server.address());
        let text = self.guest.must(&command, seconds(60)).unwrap();
        let result: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(result["connections"], streams, "{command}: {result}");
    }

    fn world_opens(&self, operation: &str, bytes: u64, seed: u64, streams: u64) {
        let address = format!("{HERE}:7007");
        let words = [operation, &address, &bytes.to_string(), &seed.to_string(), &streams.to_string()];
        let result = peer(&words, Some(&self.world), self.bed.directory.path(), seconds(60)).unwrap();
        assert!(result["ok"] == true && result["connections"] == streams, "{words:?}: {result}");
    }

    /// Every stream ended well, so nothing may be left; TIME-WAIT passes.
    fn nothing_is_left(self) {
        let open = || self.bed.vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().len();
        wait_until("every connection's end", seconds(20), || open() == 0)
            .with_context(|| self.bed.vonicd.vonic_text(&["conns"]).unwrap_or_default())
            .unwrap();
        let stats = self.bed.vonicd.stats().unwrap();
        for path in ["guest_to_host", "host_to_guest"] {
            assert_eq!(stats["copied_bytes"][path], 0, "{path}");
        }
        self.bed.vonicd.stop().unwrap();
    }
}

/// The number behind `word` in each of its places.
fn numbers(text: &str, word: &str) -> Vec<u64> {
    let number = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    text.split(word).skip(1).filter_map(number).collect()
}

#[test]
fn one_segment_in_a_hundred_is_lost_on_the_network() {
    let mut path = Path::start();
    path.bed.directory.write("loss.nft", LOSS).unwrap();
    let lossy = || {
        // One frame is one segment: else a loss would take 64 KiB, and hardly anything would be there to lose.
        path.tool(&format!("ethtool -K {CABLE} tso off gso off gro off"))?;
        path.tool("nft -f /tmp/loss.nft")
    };
    lossy().unwrap();
    path.world.run(lossy).unwrap();
    path.traffic();
    let lost = || Ok(numbers(&path.tool("nft list ruleset")?, "counter packets "));
    for lost in [lost().unwrap(), path.world.run(lost).unwrap()] {
        assert!(lost.len() == 1 && lost[0] > 100, "{lost:?} segments were lost");
    }
    path.nothing_is_left();
}

#[test]
fn one_frame_in_a_hundred_is_lost_doubled_or_moved_between_guest_and_vonic() {
    let mut path = Path::start();
    let insert = format!("for name in {MODULES}; do insmod /usr/lib/uml/modules/*/kernel/$name.ko || exit 1; done");
    for line in [
        insert.as_str(),
        &format!("tc qdisc add dev eth0 root {NETEM}"),
        "ip link set ifb0 up",
        &format!("tc qdisc add dev ifb0 root {NETEM}"),
        "tc qdisc add dev eth0 ingress",
        "tc filter add dev eth0 parent ffff: matchall action mirred egress redirect dev ifb0",
    ] {
        path.guest.must(line, seconds(10)).unwrap();
    }
    path.traffic();
    for device in ["eth0", "ifb0"] {
        let told = path.guest.must(&format!("tc -s qdisc show dev {device} root"), seconds(5)).unwrap();
        for what in [" dropped ", " duplicated ", " reordered "] {
            assert!(numbers(&told, what).iter().any(|count| *count > 20), "{device}:{what}in {told}");
        }
    }
    let counters = &path.bed.vonicd.stats().unwrap()["vms"]["a"]["tcp"];
    assert!(counters["retransmitted"].as_u64().unwrap() > 20, "{counters}");
    path.nothing_is_left();
}
