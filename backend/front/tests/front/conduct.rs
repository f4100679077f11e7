//! Who may connect, who is told what, and what remains.
use crate::support::{
    Bench, FEATURES, Manner, PATIENCE, Seen, Vmm, event, memory_file, number, request, ring, ring_fd, table,
    with_master,
};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;
use vonic_front::Request::*;
use vonic_front::{API, MasterConfig, MasterError, Message, ToMaster, run};

const USER: u64 = 0x7000_0000;

#[test]
fn a_session_from_handshake_to_stop() {
    with_master(Manner::Serve, |bench| {
        bench.listen("vm");
        let mut vmm = bench.connect("vm");
        assert_eq!(vmm.number(number(SetFeatures, FEATURES)), 0);
        assert_eq!(vmm.number(table(&[[0, 1 << 20, USER, 0]], vec![memory_file(1 << 20)])), 0);
        assert_eq!(vmm.number(ring(SetVringNum, 1, 64)), 0);
        let mut addresses = [1_u32, 0].map(u32::to_ne_bytes).concat();
        addresses.extend([USER, USER + 0x3000, USER + 0x2000, 0].map(u64::to_ne_bytes).concat());
        assert_eq!(vmm.number(request(SetVringAddr, addresses, vec![])), 0);
        assert_eq!(vmm.number(ring_fd(SetVringKick, 1)), 0);
        let started = |enabled, call| Seen::Ring { index: 1, size: 64, enabled, kick: true, call };
        bench.until(&started(false, false));
        assert_eq!(vmm.number(ring_fd(SetVringCall, 1)), 0);
        bench.until(&started(false, true));
        assert_eq!(vmm.number(ring(SetVringEnable, 1, 1)), 0);
        bench.until(&started(true, true));
        assert_eq!(vmm.ask(ring(GetVringBase, 1, 0)), [1, 0, 0, 0, 0, 0, 0, 0]);
        bench.until(&Seen::RingStopped(1));
        drop(vmm);
        bench.until(&Seen::Closed(1));
    });
}

#[test]
fn one_vmm_at_a_time() {
    with_master(Manner::Serve, |bench| {
        bench.listen("vm");
        let mut first = bench.connect("vm");
        first.lives();
        for _ in 0..50 {
            bench.connect("vm").ended();
        }
        first.lives();
        drop(first);
        // The end of the first and the arrival of the next are one moment.
        let mut next = bench.connect("vm");
        next.lives();
        bench.until(&Seen::Connected(2));
    });
}

#[test]
fn vms_do_not_share_anything() {
    with_master(Manner::Serve, |bench| {
        for name in ["a", "b"] {
            bench.listen(name);
        }
        let (mut a, mut b) = (bench.connect("a"), bench.connect("b"));
        a.lives();
        a.throw(b"\0\0\0\0\0\0\0\0\0\0\0\0", &[]);
        a.ended();
        b.lives();
    });
}

#[test]
fn each_end_is_told_of_the_others() {
    with_master(Manner::Serve, |bench| {
        bench.listen("vm");
        let mut vmm = bench.connect("vm");
        vmm.lives();
        bench.end_session(1);
        vmm.ended();
        bench.until(&Seen::Disconnected(1));
        bench.connect("vm").lives();
        bench.until(&Seen::Disconnected(2));
    });
}

#[test]
fn an_engine_may_refuse_or_be_late() {
    with_master(Manner::Refuse, |bench| {
        bench.listen("vm");
        bench.connect("vm").ended();
        bench.until(&Seen::Disconnected(1));
    });
    with_master(Manner::Late, |bench| {
        bench.listen("vm");
        let vmm = bench.connect("vm");
        bench.until(&Seen::Connected(1));
        number(SetFeatures, FEATURES).send(&vmm.0).unwrap();
        drop(vmm);
        // The session is made for a connection that is gone: its end is closed, and it ends.
        let ends = [bench.next(), bench.next()];
        assert!(ends.contains(&Seen::Disconnected(1)) && ends.contains(&Seen::Closed(1)), "{ends:?}");
    });
}

#[test]
fn an_engine_that_never_answers_is_not_waited_for_long() {
    with_master(Manner::Late, |bench| {
        bench.listen("vm");
        let start = Instant::now();
        let mut vmm = bench.connect("vm");
        vmm.0.set_read_timeout(Some(PATIENCE * 3)).unwrap();
        vmm.ended();
        assert!((9..14).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    });
}

#[test]
fn listening_and_its_end() {
    with_master(Manner::Serve, |bench| {
        bench.listen("vm");
        bench.listen("vm"); // Once more is the same.
        let mode = std::fs::metadata(bench.path("vm")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = |name: &str, path| {
            bench.link.send(&ToMaster::Listen { name: String::from(name), path, mode: 0o600 }).unwrap();
            bench.until(&Seen::Listening(name.into(), false));
        };
        refused("vm", bench.path("elsewhere"));
        refused("other", bench.path("vm"));
        let mut vmm = bench.connect("vm");
        vmm.lives();
        bench.link.send(&ToMaster::Unlisten { name: "vm".into() }).unwrap();
        vmm.ended();
        bench.until(&Seen::Disconnected(1));
        assert!(!bench.path("vm").exists());
        bench.listen("vm");
        bench.connect("vm").lives();
    });
}

#[test]
fn a_vmm_that_listens_is_connected_to_and_again() {
    with_master(Manner::Serve, |bench| {
        let path = bench.path("vm");
        bench.link.send(&ToMaster::Connect { name: "vm".into(), path: path.clone() }).unwrap();
        bench.listen("other");
        let listener = UnixListener::bind(&path).unwrap();
        for session in 1..=3 {
            let mut vmm = Vmm(listener.accept().unwrap().0);
            vmm.0.set_read_timeout(Some(PATIENCE)).unwrap();
            vmm.lives();
            bench.connect("other");
            drop(vmm);
            bench.until(&Seen::Disconnected(session * 2 - 1));
        }
        // The engine ends the session: that too is no end of trying.
        let mut vmm = Vmm(listener.accept().unwrap().0);
        vmm.0.set_read_timeout(Some(PATIENCE)).unwrap();
        vmm.lives();
        bench.link.send(&ToMaster::Unlisten { name: "vm".into() }).unwrap();
        vmm.ended();
        assert!(path.exists());
        listener.set_nonblocking(true).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2500));
        assert!(listener.accept().is_err(), "nobody asked for it any more");
    });
}

#[test]
fn a_refused_session_does_not_make_the_master_run_in_circles() {
    with_master(Manner::Refuse, |bench| {
        let path = bench.path("vm");
        let listener = UnixListener::bind(&path).unwrap();
        bench.link.send(&ToMaster::Connect { name: "vm".into(), path }).unwrap();
        let start = Instant::now();
        for _ in 0..5 {
            Vmm(listener.accept().unwrap().0).ended();
        }
        // 0, 0.1, 0.3, 0.7, 1.5 s.
        assert!((1400..3000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    });
}

#[test]
fn the_api_is_bound_here_and_accepted_by_the_engine() {
    with_master(Manner::Serve, |bench| {
        bench.link.send(&ToMaster::Listen { name: API.into(), path: bench.path("api.sock"), mode: 0o660 }).unwrap();
        bench.until(&Seen::Listening(API.into(), true));
        let _client = UnixStream::connect(bench.path("api.sock")).unwrap();
        assert!(bench.seen.recv_timeout(std::time::Duration::from_millis(200)).is_err(), "no VMM has connected");
    });
}

#[test]
fn nothing_is_left_behind() {
    let mut path = None;
    with_master(Manner::Serve, |bench: &Bench| {
        bench.listen("vm");
        bench.connect("vm").lives();
        path = Some(bench.path("vm"));
        let left = std::fs::read_dir(bench.dir.as_path()).unwrap().count();
        assert_eq!(left, 1, "the session's private socket is gone");
        bench.until(&Seen::Disconnected(1));
    });
    assert!(!path.unwrap().exists());
}

#[test]
fn a_dead_masters_socket_is_taken_over_and_a_living_ones_is_not() {
    with_master(Manner::Serve, |bench| {
        drop(UnixListener::bind(bench.path("dead")).unwrap());
        bench.listen("dead");
        let _living = UnixListener::bind(bench.path("living")).unwrap();
        let path = bench.path("living");
        bench.link.send(&ToMaster::Listen { name: "living".into(), path, mode: 0o600 }).unwrap();
        bench.until(&Seen::Listening("living".into(), false));
    });
}

#[test]
fn a_descriptor_that_is_not_open_is_no_session() {
    with_master(Manner::Late, |bench| {
        bench.listen("vm");
        let mut vmm = bench.connect("vm");
        bench.until(&Seen::Connected(1));
        bench.link.send(&ToMaster::Session { session: 1, fd: 1_000_000 }).unwrap();
        bench.link.send(&ToMaster::SessionRefused { session: 1 }).unwrap();
        vmm.ended();
        bench.connect("vm");
        bench.until(&Seen::Connected(2));
    });
}

#[test]
fn the_engine_is_not_cloned_from_many_threads() {
    let result = run(MasterConfig::default(), |_, _| 0);
    assert!(matches!(result, Err(MasterError::Threads(2..))), "{result:?}");
}

#[test]
fn early_enabling_reaches_the_data_path() {
    with_master(Manner::Serve, |bench| {
        bench.listen("vm");
        let mut vmm = bench.connect("vm");
        assert_eq!(vmm.number(ring(SetVringEnable, 0, 1)), 0);
        vmm.send(ring(SetVringEnable, 1, 1), false);
        vmm.send(number(SetFeatures, FEATURES), false);
        vmm.send(table(&[[0, 1 << 20, USER, 0]], vec![memory_file(1 << 20)]), false);
        vmm.send(Message { fds: vec![event()], ..number(SetVringKick, 0) }, false);
        bench.until(&Seen::Ring { index: 0, size: 1024, enabled: true, kick: true, call: false });
    });
}
