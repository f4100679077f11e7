//! The API's real server on a socket of its own, before an engine that knows three answers.
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use vonic_control::api::types::{
    AgentRow, BothCounts, CheckpointRow, ConnectionRow, Conntrack, Counters, Cpu, DeathRow, Device, Difference,
    EgressRow, EngineStatus, FileError, GuestReport, Health, Histogram, Interface, LimitRow, Listening, LoadReport,
    Memory, NicCounters, OffloadRow, OffloadsRow, Opener, Pressure, ReloadReport, RingRow, Sockets, Stall, Stats,
    TakeoverRow, Tcp, Traffic, UpgradeReport, UplinkRow, VmDetail, VmRow, VmStats,
};
use vonic_control::api::{ApiError, Feed, Handler, Reply, Request, Response, serve};
use vonic_control::capture::Nic;
use vonic_frame::MacAddr;

/// A running service.
pub struct Service {
    dir: TempDir,
    /// States that nobody waits for any more.
    #[allow(dead_code, reason = "not every test that has a service looks at it")]
    pub forgotten: Arc<AtomicU32>,
    /// Where what happens is told.
    #[allow(dead_code, reason = "not every test that has a service tells something")]
    pub feed: Feed,
}

/// Answers for the engine.
#[derive(Default)]
struct Engine {
    /// Replies that are sent only when the VM "late" is asked for.
    held: Mutex<Vec<Reply>>,
    restarts: AtomicU32,
    /// States that nobody waits for any more.
    forgotten: Arc<AtomicU32>,
    feed: Feed,
}

/// What web1 has for another host.
pub const STATE: &str = "all of web1";

/// What becomes of it there.
pub fn loaded() -> LoadReport {
    LoadReport { from: "web1".into(), connections: 3, runs: true }
}

impl Service {
    pub fn start() -> Service {
        let dir = TempDir::new().unwrap();
        let engine = Engine::default();
        let (forgotten, feed) = (Arc::clone(&engine.forgotten), engine.feed.clone());
        serve(UnixListener::bind(dir.path().join("api.sock")).unwrap(), Arc::new(engine)).unwrap();
        Service { dir, forgotten, feed }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }
}

impl Handler for Engine {
    fn handle(&self, request: Request, reply: Reply) {
        let response = match request {
            Request::Vms => Response::Vms(vec![row("web1"), VmRow { name: "web2".into(), ..VmRow::default() }]),
            Request::Vm(name) if name == "web1" => Response::Vm(Box::new(detail())),
            Request::Vm(name) if name == "slow" => return self.held.lock().unwrap().push(reply),
            Request::Vm(name) if name == "late" => {
                self.held.lock().unwrap().drain(..).for_each(|held| held.send(Response::Vms(Vec::new())));
                Response::Vms(Vec::new())
            }
            Request::Vm(name) if name == "lost" => return drop(reply),
            Request::Vm(name) => Response::Error(ApiError::no_such_vm(&name)),
            Request::Connections(filter) => Response::Connections(
                connections().into_iter().filter(|c| filter.vm.as_ref().is_none_or(|v| *v == c.vm)).collect(),
            ),
            Request::PutVm { vm, text } => {
                assert_eq!((vm.as_str(), text.trim()), ("web1", "mtu = 1400"));
                Response::Reload(put())
            }
            Request::DeleteVm(vm) if vm == "web1" => {
                Response::Reload(ReloadReport { removed: vec![vm], ..ReloadReport::default() })
            }
            Request::DeleteVm(vm) => Response::Error(ApiError::no_such_vm(&vm)),
            Request::Events(_) | Request::OpenApi | Request::Rates(_) => return drop(reply),
            Request::Stats => Response::Stats(stats()),
            Request::Metrics => Response::Metrics(Box::default()),
            // From another thread, as the engine does.
            Request::Reload { dry_run } => {
                std::thread::spawn(move || reply.send(Response::Reload(ReloadReport { dry_run, ..report() })));
                return;
            }
            Request::Upgrade(_) | Request::Upgraded => {
                Response::Upgrade(UpgradeReport { number: 1, error: None, version: "0.1.0".into(), process: 7 })
            }
            Request::SaveState { vm, .. } if vm == "web1" => Response::State(STATE.into()),
            Request::AwaitState { vm, .. } if vm == "web1" => Response::Awaited(7),
            Request::SaveState { vm, .. } | Request::AwaitState { vm, .. } => {
                Response::Error(ApiError::no_such_vm(&vm))
            }
            Request::LoadState { number, state, .. } => {
                assert_eq!((number, &state[..]), (7, STATE.as_bytes()));
                Response::Loaded(loaded())
            }
            Request::Capture { vm, capturer } if vm == "web1" => {
                // Its end is the capture's.
                drop(capturer.take());
                Response::Capturing(Nic { mac: MacAddr([2, 0, 0, 0, 0, 2]), epoch: 0 })
            }
            Request::Capture { vm, .. } => Response::Error(ApiError::no_such_vm(&vm)),
            Request::EndCapture { .. } => return,
            Request::ForgetState { .. } => {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Request::Health => Response::Health(health()),
            Request::Engine => Response::Engine(Box::new(engine(self.restarts.load(Ordering::Relaxed)))),
            // Every other one that is asked does not live to answer.
            Request::RestartEngine => match self.restarts.fetch_add(1, Ordering::Relaxed) {
                before if before % 2 == 0 => Response::Engine(Box::new(engine(before))),
                _ => return drop(reply),
            },
        };
        reply.send(response);
    }

    fn feed(&self) -> Feed {
        self.feed.clone()
    }
}

pub fn row(name: &str) -> VmRow {
    VmRow {
        name: name.into(),
        mac: "52:54:00:00:00:02".into(),
        network: "default".into(),
        address4: Some("192.0.2.2".into()),
        address6: Some("2001:db8::2".into()),
        quarantined: false,
        connected: true,
        driver_ready: true,
        guest_to_host: Traffic { frames: 3, bytes: 2048 },
        host_to_guest: Traffic { frames: 4, bytes: 5 << 30 },
        drops: 7,
        connections: 2,
        agent: Some(AgentRow { version: "0.1.0".into(), seen_seconds: 1, silent: false }),
    }
}

/// The engine after so many restarts.
pub fn engine(restarts: u32) -> EngineStatus {
    let takeover = TakeoverRow { at: 1_700_000_000, microseconds: 2345 + u64::from(restarts), planned: true };
    let death = DeathRow { reason: "died by signal 11".into(), at: 1_700_000_000 };
    EngineStatus {
        pid: 100 + restarts,
        version: "0.1.0".into(),
        uptime_seconds: 90,
        generation: 5 + u64::from(restarts),
        checkpoint: CheckpointRow { version: 1, records: 3, capacity: 100_000 },
        standby: true,
        deaths: 4,
        replaced: restarts.into(),
        last_death: Some(death),
        last_takeover: Some(takeover),
        deaths_in_short_succession: 4,
        next_was_delayed_ms: 100,
        quarantined: vec!["web2".into()],
    }
}

fn drops() -> BTreeMap<String, BTreeMap<String, u64>> {
    let ways = BTreeMap::from([("guest_to_host".to_string(), 7), ("host_to_guest".to_string(), 0)]);
    BTreeMap::from([("spoofed_mac".to_string(), ways)])
}

pub fn detail() -> VmDetail {
    let rings = ["host_to_guest", "guest_to_host"].iter().zip(0..).map(|(way, index)| RingRow {
        index,
        direction: way.to_string(),
        size: 256,
        enabled: true,
        state: "running".into(),
    });
    VmDetail {
        row: row("web1"),
        mtu: 1500,
        hostname: Some("web1".into()),
        session_seconds: Some(61),
        resolvers: vec!["127.0.0.53".into(), "198.51.100.53".into()],
        socket: "/run/vonic/web1.sock".into(),
        socket_mode: "server".into(),
        worker: 0,
        queue_pairs: 1,
        failover: true,
        ack: "kernel".into(),
        coalesce: true,
        coalesce_us: 30,
        call_us: 100,
        call_frames: 64,
        labels: BTreeMap::from([("tier".to_string(), "web".to_string())]),
        features_offered: vec!["csum".into(), "tso".into()],
        features_negotiated: vec!["csum".into()],
        offloads: OffloadsRow {
            guest_to_host: OffloadRow { checksum: true, tso4: true, tso6: false },
            host_to_guest: OffloadRow::default(),
        },
        rings: rings.collect(),
        drops_by_reason: drops(),
        copied_bytes: BTreeMap::from([("guest_to_guest".to_string(), 99)]),
        uplink: UplinkRow { kind: "sockets".into(), interface: None, error: None, warnings: Vec::new() },
        forwards: vec!["tcp 127.0.0.1:8080 -> 80".into()],
        forward_errors: vec!["forward 127.0.0.1:80: cannot listen on port 80".into()],
        egress: vec![EgressRow { rule: "deny 198.51.100.0/24 tcp ports 1-1023".into(), decided: 7 }],
        denied_otherwise: BTreeMap::from([("never".to_string(), 5), ("no_rule".to_string(), 3)]),
        limits: vec![LimitRow { name: "new_per_second".into(), most: Some(2000), reached: 9 }],
        last_error: None,
        tcp: BTreeMap::from([("retransmissions".to_string(), 1)]),
        icmp: BTreeMap::from([("replies".to_string(), 4)]),
        udp: BTreeMap::from([("errors".to_string(), 5)]),
        coalesced: BTreeMap::from([("segments".to_string(), 6)]),
        coalesced_bytes: Histogram::default(),
        latency_us: Histogram::new([(Some(1), 0), (Some(2), 50), (Some(4), 48), (Some(8), 2), (None, 0)], 300),
        hints: vec!["guests cannot ping the world".into()],
        guest: Some(guest()),
    }
}

fn guest() -> GuestReport {
    let sent = Counters { packets: 2, bytes: 2000, errors: 1, dropped: 2 };
    let mac = Some("52:54:00:00:00:02".into());
    let eth0 =
        Interface { name: "eth0".into(), mac, received: sent, sent, mtu: Some(1500), device: Some(virtio_net()) };
    let both =
        |frames, bytes| BothCounts { host: Traffic { frames, bytes }, guest: Traffic { frames: 2, bytes: 2000 } };
    let nic = NicCounters { interface: "eth0".into(), guest_to_host: both(3, 2048), host_to_guest: both(1, 1960) };
    GuestReport {
        source: "guest".into(),
        message_version: 2,
        hostname: "www".into(),
        kernel: "6.12.1".into(),
        uptime_seconds: 61,
        nic: Some(nic),
        interfaces: vec![eth0, Interface { name: "sit0".into(), ..Interface::default() }],
        tcp: Some(tcp()),
        cpu: Some(Cpu {
            softirq_ms: Some(1250),
            busy_ms: Some(4000),
            idle_ms: Some(6000),
            net_rx: Some(70),
            net_tx: Some(7),
            squeezed: Some(0),
            ..Cpu::default()
        }),
        memory: Some(memory()),
        conntrack: Some(Conntrack { count: Some(5), most: Some(65_536) }),
        listening: Some(Listening {
            tcp: ["0.0.0.0:22", "[::]:22"].map(|socket| socket.parse().unwrap()).into(),
            udp: vec!["127.0.0.1:53".parse().unwrap()],
            more: true,
        }),
    }
}

fn virtio_net() -> Device {
    let offloads = [("rx-gro", true), ("tx-tcp-segmentation", true), ("tx-udp-segmentation", false)];
    let statistics = [("tx_kicks", 12), ("tx_timeouts", 0)];
    Device {
        driver: Some("virtio_net".into()),
        version: Some("1.0.0".into()),
        bus: Some("0000:00:02.0".into()),
        offloads: Some(offloads.map(|(name, on)| (name.to_string(), on)).into()),
        statistics: Some(statistics.map(|(name, count)| (name.to_string(), count)).into()),
    }
}

fn tcp() -> Tcp {
    let sockets = Sockets {
        count: Some(3),
        more: Some(false),
        rtt_median_us: Some(250),
        rtt_p99_us: Some(1234),
        retransmitted: Some(9),
        retransmitting: Some(1),
    };
    Tcp {
        established: Some(3),
        segments_sent: Some(197),
        retransmitted: Some(3),
        sockets: Some(sockets),
        ..Tcp::default()
    }
}

fn memory() -> Memory {
    let stall = |avg10| Stall { avg10_basis_points: Some(avg10), ..Stall::default() };
    Memory {
        total: Some(512 << 20),
        available: Some(402 << 20),
        swap_total: Some(0),
        swap_free: Some(0),
        pressure: Some(Pressure { some: Some(stall(7)), full: Some(stall(0)) }),
    }
}

pub fn connections() -> Vec<ConnectionRow> {
    let connection = |vm: &str, direction| ConnectionRow {
        vm: vm.into(),
        protocol: "tcp".into(),
        direction,
        guest: "192.0.2.2:40000".into(),
        remote: "198.51.100.7:443".into(),
        state: "ESTABLISHED".into(),
        bytes_guest_to_host: 10,
        bytes_host_to_guest: 2048,
        age_seconds: 61,
    };
    vec![connection("web1", Opener::GuestOpens), connection("web2", Opener::WorldOpens)]
}

pub fn stats() -> Stats {
    let vm = VmStats {
        guest_to_host: Traffic { frames: 3, bytes: 2048 },
        drops_by_reason: drops(),
        connections: 2,
        ..VmStats::default()
    };
    let copied_bytes = BTreeMap::from([("coalesce".to_string(), 5)]);
    Stats { uptime_seconds: 3661, copied_bytes, vms: BTreeMap::from([("web1".to_string(), vm)]) }
}

pub fn report() -> ReloadReport {
    let error = FileError { file: "/etc/vonic/vms.d/x.toml".into(), line: Some(3), message: "mtu: wrong".into() };
    ReloadReport {
        added: vec!["a".into(), "b".into()],
        changed: vec![],
        removed: vec!["c".into()],
        unchanged: 5,
        errors: vec![error],
        dry_run: false,
        differences: vec![],
        reconnects: vec![],
    }
}

/// What came of a put.
pub fn put() -> ReloadReport {
    let difference =
        Difference { of: "vm web1".into(), key: "mtu".into(), before: Some("1500".into()), after: Some("1400".into()) };
    ReloadReport {
        changed: vec!["web1".into()],
        unchanged: 1,
        differences: vec![difference],
        reconnects: vec!["web1".into()],
        ..ReloadReport::default()
    }
}

pub fn health() -> Health {
    Health {
        status: "ok".into(),
        problems: Vec::new(),
        version: "0.1.0".into(),
        uptime_seconds: 9,
        vms: 2,
        vms_connected: 1,
        hints: Vec::new(),
    }
}
