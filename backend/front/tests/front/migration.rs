//! What a VMM says in a live migration, and what becomes of it.
use crate::support::{
    Bench, FEATURES, LOG_ALL, Manner, STATE, Seen, Vmm, memory_file, number, request, ring, ring_fd, table, with_master,
};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use vonic_front::Message;
use vonic_front::Request::*;

const USER: u64 = 0x7000_0000;
/// LOG_SHMFD, RARP, REPLY_ACK and DEVICE_STATE.
const PROTOCOL: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 19;
/// Needs 32 bytes of log.
const MEMORY: u64 = 1 << 20;

fn log(size: u64, file: u64) -> Message {
    request(SetLogBase, [size, 0].map(u64::to_ne_bytes).concat(), vec![memory_file(file)])
}

fn addresses(flags: u32, log: u64) -> Message {
    let mut body = [1_u32, flags].map(u32::to_ne_bytes).concat();
    body.extend([USER, USER + 0x3000, USER + 0x2000, log].map(u64::to_ne_bytes).concat());
    request(SetVringAddr, body, vec![])
}

fn negotiated(bench: &Bench) -> Vmm {
    bench.listen("vm");
    let mut vmm = bench.connect("vm");
    assert_eq!(vmm.number(number(SetProtocolFeatures, PROTOCOL)), 0);
    vmm
}

fn with_memory(bench: &Bench) -> Vmm {
    let mut vmm = negotiated(bench);
    assert_eq!(vmm.number(number(SetFeatures, FEATURES)), 0);
    assert_eq!(vmm.number(table(&[[0, MEMORY, USER, 0]], vec![memory_file(MEMORY)])), 0);
    vmm
}

fn start_ring(vmm: &mut Vmm) {
    assert_eq!(vmm.number(ring(SetVringNum, 1, 64)), 0);
    assert_eq!(vmm.number(addresses(0, 0)), 0);
    assert_eq!(vmm.number(ring_fd(SetVringKick, 1)), 0);
}

#[test]
fn logging_goes_on_and_off_as_qemu_asks_for_it() {
    with_master(Manner::Serve, |bench| {
        let mut vmm = with_memory(bench);
        start_ring(&mut vmm);
        // QEMU asks for no acknowledgement of SET_LOG_BASE, and waits for its answer.
        vmm.send(log(32, 32), false);
        assert_eq!(vmm.receive().unwrap(), (6, [32u64, 0].map(u64::to_ne_bytes).concat()));
        assert_eq!(vmm.number(number(SetFeatures, FEATURES | LOG_ALL)), 0);
        bench.until(&Seen::Log { on: true, used: vec![] });
        assert_eq!(vmm.number(addresses(1, 0x3000)), 0);
        bench.until(&Seen::Log { on: true, used: vec![None, Some(0x3000)] });
        vmm.send(log(64, 64), false);
        assert_eq!(vmm.receive().unwrap().0, 6);
        bench.until(&Seen::Log { on: true, used: vec![None, Some(0x3000)] });
        assert_eq!(vmm.number(number(SetFeatures, FEATURES)), 0);
        bench.until(&Seen::Log { on: false, used: vec![None, Some(0x3000)] });
        assert_eq!(vmm.number(addresses(0, 0)), 0);
        vmm.lives();
    });
}

#[test]
fn a_log_that_is_too_short_fails_the_migration_and_nothing_else() {
    with_master(Manner::Serve, |bench| {
        let mut vmm = with_memory(bench);
        vmm.send(log(31, 4096), false);
        assert_eq!(vmm.receive().unwrap(), (6, vec![0; 16]));
        assert_eq!(vmm.number(number(SetFeatures, FEATURES | LOG_ALL)), 1);
        start_ring(&mut vmm);
        assert_eq!(vmm.number(number(SetFeatures, FEATURES)), 0);
        vmm.lives();
    });
}

#[test]
fn rarp_reaches_the_engine() {
    with_master(Manner::Serve, |bench| {
        let mut vmm = with_memory(bench);
        vmm.send(number(SendRarp, 0x5254_0000_0002), false);
        bench.until(&Seen::Announce);
        assert_eq!(vmm.number(number(SendRarp, 0x5254_0000_0002)), 0);
        bench.until(&Seen::Announce);
        vmm.lives();
    });
}

/// SET_DEVICE_STATE_FD, with one end of a socket pair as the pipe.
fn transfer(vmm: &mut Vmm, direction: u32) -> (u64, File) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let body = [direction, 0].map(u32::to_ne_bytes).concat();
    let answer = vmm.number(request(SetDeviceStateFd, body, vec![theirs.into()]));
    (answer, OwnedFd::from(ours).into())
}

fn check(vmm: &mut Vmm) -> u64 {
    vmm.number(request(CheckDeviceState, vec![], vec![]))
}

#[test]
fn the_state_is_saved_once_every_ring_is_stopped() {
    with_master(Manner::Serve, |bench| {
        let mut vmm = with_memory(bench);
        start_ring(&mut vmm);
        assert_eq!(transfer(&mut vmm, 0).0, 0x101, "a ring runs");
        assert_eq!(vmm.ask(ring(GetVringBase, 1, 0)).len(), 8);
        let (answer, mut pipe) = transfer(&mut vmm, 0);
        assert_eq!(answer, 0x100);
        let mut state = Vec::new();
        pipe.read_to_end(&mut state).unwrap();
        assert_eq!(state, STATE);
        assert_eq!(check(&mut vmm), 0);
        assert_eq!(check(&mut vmm), 1, "there is no other transfer");
        vmm.lives();
    });
}

#[test]
fn a_state_is_loaded_before_there_is_memory_or_features() {
    with_master(Manner::Serve, |bench| {
        let mut vmm = negotiated(bench);
        for (state, outcome) in [(STATE, 0), (b"something else".as_slice(), 1)] {
            let (answer, mut pipe) = transfer(&mut vmm, 1);
            assert_eq!(answer, 0x100);
            for part in state.chunks(5) {
                pipe.write_all(part).unwrap();
            }
            drop(pipe);
            assert_eq!(check(&mut vmm), outcome);
            bench.until(&Seen::Load(state.into()));
        }
        vmm.lives();
    });
}

#[test]
fn a_vmm_that_breaks_its_pipe_off_harms_only_its_migration() {
    with_master(Manner::Serve, |bench| {
        let mut vmm = with_memory(bench);
        let (answer, pipe) = transfer(&mut vmm, 1);
        assert_eq!(answer, 0x100);
        // Another transfer takes the place of the one that hangs.
        let (answer, other) = transfer(&mut vmm, 0);
        assert_eq!(answer, 0x100);
        drop((pipe, other));
        check(&mut vmm);
        vmm.lives();
        start_ring(&mut vmm);
    });
}
