//! Engines that stand by, hang, are replaced, and are held against a VM.
use super::{HEARTBEAT, Service, ask_features, is_dead, until};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vonic_front::History;

impl Service {
    /// What the engine was last told of those before it, once it is as `wanted`.
    fn history(&self, wanted: impl Fn(&History) -> bool) -> History {
        let read = || serde_json::from_str::<History>(&std::fs::read_to_string(self.path("history")).ok()?).ok();
        until(|| read().is_some_and(|history| wanted(&history)), "the engine knows what came before it");
        read().unwrap()
    }

    /// The processes that are the master's children: the engine, and who stands by.
    fn children(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Who waits to be the next engine.
    pub fn standby(&self) -> u32 {
        let others = || self.children().into_iter().filter(|&pid| pid != self.engine() && !is_dead(pid));
        until(|| others().count() == 1, "somebody stands by");
        others().next().unwrap()
    }
}

/// Processor time of a process so far, in clock ticks (proc_pid_stat(5), utime and stime).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

pub fn standby_takes_over() {
    let mut service = Service::ready("serves");
    let vmm = service.vmm();
    for _ in 0..2 {
        let (old, standby) = (service.engine(), service.standby());
        let spent = ticks(standby);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(ticks(standby), spent);
        service.signal(&old.to_string(), "KILL");
        until(|| service.engine() == standby, "who stood by is the engine");
        ask_features(&vmm);
    }
    // One that dies while it waits is followed too, and nobody else notices.
    let (engine, standby, table) = (service.engine(), service.standby(), service.settled_descriptors());
    service.signal(&standby.to_string(), "KILL");
    until(|| is_dead(standby), "who stood by is dead");
    let next = service.standby();
    assert_ne!(next, standby);
    assert_eq!((service.engine(), service.settled_descriptors()), (engine, table));
    ask_features(&vmm);
    // Dead, and not noticed yet: whoever is needed at once is made at once.
    service.signal(&format!("{}", service.child.id()), "STOP");
    service.signal(&next.to_string(), "KILL");
    service.signal(&engine.to_string(), "KILL");
    service.signal(&format!("{}", service.child.id()), "CONT");
    until(|| ![engine, next].contains(&service.engine()), "another engine");
    ask_features(&vmm);
    let left = [service.engine(), service.standby()];
    service.signal_master("TERM");
    assert_eq!(service.wait().code(), Some(0));
    assert!(left.into_iter().all(is_dead));
    assert_eq!(service.left_behind(), Vec::<String>::new());
    let mut service = Service::ready("serves");
    let standby = service.standby();
    service.signal_master("KILL");
    service.wait();
    until(|| is_dead(standby), "who stood by is dead");
}

/// The engine falls silent by itself, and is followed within `most`.
fn hang_is_noticed(manner: &str, reason: &str, [least, most]: [Duration; 2], blamed: &str) {
    let start = Instant::now();
    let service = Service::ready(manner);
    let (vmm, old) = (service.vmm(), service.engine());
    until(|| service.engine() != old, "another engine");
    let took = start.elapsed();
    // The fourth question is the first without an answer.
    assert!(took > 2 * HEARTBEAT + least && took < 2 * HEARTBEAT + most, "{took:?}");
    ask_features(&vmm);
    let history = service.history(|history| history.last_takeover.is_some());
    assert_eq!(history.deaths, 1);
    assert!(history.last_death.unwrap().reason.contains(reason));
    assert_eq!(std::fs::read_to_string(service.path("blamed")).unwrap(), blamed);
    let engine = service.engine();
    std::thread::sleep(4 * HEARTBEAT);
    assert_eq!(service.engine(), engine, "the next one is well");
}

pub fn hanging_worker_is_noticed() {
    hang_is_noticed("hangs", "its worker does not answer for 200ms", [HEARTBEAT, 8 * HEARTBEAT], "1 false");
}

pub fn deaf_control_side_is_noticed() {
    // The VM whose frames the worker takes meanwhile has nothing to do with it.
    hang_is_noticed("deaf", "its control thread does not answer for 1s", [5 * HEARTBEAT, 12 * HEARTBEAT], "0 false");
}

pub fn stopped_engine_is_killed() {
    let service = Service::ready("beats");
    let (vmm, old) = (service.vmm(), service.engine());
    std::thread::sleep(3 * HEARTBEAT);
    service.signal_master("STOP");
    std::thread::sleep(4 * HEARTBEAT);
    service.signal_master("CONT");
    std::thread::sleep(3 * HEARTBEAT);
    assert_eq!(service.engine(), old);
    service.signal(&old.to_string(), "STOP");
    until(|| service.engine() != old, "another engine");
    ask_features(&vmm);
    let history = service.history(|history| history.last_takeover.is_some());
    assert!(history.last_death.unwrap().reason.contains("somebody has stopped the process"));
    // Nobody's fault.
    assert_eq!(std::fs::read_to_string(service.path("blamed")).unwrap(), "0 false");
}

pub fn replaced_engine_has_not_died() {
    let service = Service::ready("replaces");
    let vmm = service.vmm();
    for replaced in 1..=5 {
        let (old, standby) = (service.engine(), service.standby());
        service.signal_master("HUP");
        until(|| service.engine() == standby, "who stood by is the engine");
        ask_features(&vmm);
        assert!(is_dead(old));
        let history = service.history(|history| history.replaced == replaced && history.last_takeover.is_some());
        assert_eq!((history.deaths, history.storm.delay), (0, 0));
        assert!(history.last_takeover.unwrap().planned);
    }
}

pub fn blame_is_handed_on() {
    let service = Service::ready("faults");
    let mut vmm = service.vmm();
    let blamed = || std::fs::read_to_string(service.path("blamed")).unwrap();
    let end = |signal: &str| {
        let old = service.engine();
        match signal {
            "KILL" => service.signal(&old.to_string(), "KILL"),
            signal => service.signal_master(signal),
        }
        until(|| service.engine() != old && is_dead(old), "another engine");
    };
    end("HUP");
    ask_features(&vmm);
    assert_eq!(blamed(), "1 false");
    // What comes from outside is nobody's fault.
    end("KILL");
    ask_features(&vmm);
    assert_eq!(blamed(), "1 false");
    end("HUP");
    ask_features(&vmm);
    assert_eq!(blamed(), "2 true");
    drop(std::mem::replace(&mut vmm, UnixStream::pair().unwrap().0));
    let again = service.vmm();
    end("KILL");
    ask_features(&again);
    assert_eq!(blamed(), "2 false");
}
