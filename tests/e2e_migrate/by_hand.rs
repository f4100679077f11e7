//! A VMM that does not take its backend's state along: the operator does, by `vonic migrate save` and `vonic migrate load`.
use crate::hosts::{FORWARD, Hosts};
use crate::state::{Pair, open, run};
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};
use vonic_tests::mock::{MockConfig, MockFrontend};
use vonic_tests::wire::{HandGuest, ramp};
use vonic_tests::*;

/// As older VMMs do it.
fn config() -> MockConfig {
    MockConfig { device_state: false, ..MockConfig::default() }
}

fn guest(hosts: &Hosts) -> HandGuest {
    HandGuest::start_configured(hosts.here(), "a", 2, config()).unwrap()
}

fn connect(bed: &Bed) -> MockFrontend {
    let mut mock = MockFrontend::connect(&bed.socket("a"), config()).unwrap();
    mock.negotiate().unwrap();
    mock
}

/// `vonic ARGUMENTS` on a host.
fn vonic(bed: &Bed, arguments: &[&str]) -> Command {
    let mut command = Command::new(Vonicd::client().unwrap());
    command.arg("--socket").arg(bed.directory.path().join("run/api.sock")).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn begin(bed: &Bed, arguments: &[&str]) -> Child {
    vonic(bed, arguments).spawn().unwrap()
}

/// What a command that has ended, or ends soon, has said.
fn end(mut child: Child) -> (bool, String) {
    drop(child.stdin.take());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.success(), [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
}

/// How often a host has said something.
fn said(bed: &Bed, what: &str) -> usize {
    bed.vonicd.log().matches(what).count()
}

fn wait_said(bed: &Bed, what: &str, times: usize) {
    wait_until(what, seconds(10), || said(bed, what) == times).unwrap();
}

fn exchange(streams: &mut [Pair], guest: &mut HandGuest) {
    streams.iter_mut().try_for_each(|stream| stream.exchange(guest)).unwrap();
}

/// One command's output is the other's input, as over ssh. The guest's rings start on the other host before the state is there, and wait
/// for it; then back again, by a file, and before the VMM is there.
#[test]
fn connections_move_by_hand_there_and_back() {
    let mut hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = guest(&hosts);
    let mut streams: Vec<Pair> = (0..3).map(|n| open(&mut guest, 4000 + n)).collect();
    exchange(&mut streams, &mut guest);
    let mut save = begin(hosts.here(), &["migrate", "save", "a", "-"]);
    let load = vonic(hosts.there(), &["migrate", "load", "a", "-"]).stdin(save.stdout.take().unwrap()).spawn().unwrap();
    wait_said(hosts.here(), "its state is to be saved by hand", 1);
    wait_said(hosts.there(), "its rings wait for a state", 1);
    // Nothing stops while they wait.
    exchange(&mut streams, &mut guest);
    let mut mock = connect(hosts.there());
    run(&mut mock);
    streams[1].world.write_all(&ramp(50_000)).unwrap();
    guest.mock.stop_rings().unwrap();
    let (loaded, said_of_load) = end(load);
    assert!(
        loaded && said_of_load == "3 connections have come from a: its rings, which waited, start\n",
        "{said_of_load}"
    );
    assert_eq!(end(save), (true, String::new()));
    drop(std::mem::replace(&mut guest.mock, mock));
    hosts.at = 1;
    assert_eq!(streams[1].conn.receive(&mut guest, 50_000).unwrap().0, ramp(50_000));
    exchange(&mut streams, &mut guest);
    wait_said(hosts.there(), "its guest has left with 3 connections", 1);

    let file = hosts.here().directory.path().join("state");
    let name = file.display().to_string();
    guest.mock.stop_rings().unwrap();
    assert_eq!(end(begin(hosts.here(), &["migrate", "save", "a", &name])), (true, String::new()));
    let (loaded, said) = end(begin(hosts.there(), &["migrate", "load", "a", &name]));
    assert!(loaded && said == "3 connections have come from a: they go on when its rings start\n", "{said}");
    let mut mock = connect(hosts.there());
    run(&mut mock);
    drop(std::mem::replace(&mut guest.mock, mock));
    hosts.at = 0;
    exchange(&mut streams, &mut guest);
}

/// Whatever is wrong is said, and the guest goes on where it is, or begins without.
#[test]
fn what_cannot_be_done_by_hand_is_said() {
    let hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = guest(&hosts);
    let mut stream = [open(&mut guest, 4000)];
    let (here, there) = (hosts.here(), hosts.there());
    let fails = |bed: &Bed, words: &str, why: &str| {
        let arguments: Vec<&str> = ["migrate"].into_iter().chain(words.split(' ')).collect();
        let (done, said) = end(begin(bed, &arguments));
        assert!(!done && said.contains(why), "{words}: {said}");
    };
    fails(here, "save nobody -", "there is no VM 'nobody'");
    fails(there, "load nobody -", "there is no VM 'nobody'");
    fails(there, "save a -", "a has no VMM here");
    fails(here, "save a - --timeout 1", "a's rings have not stopped in time");
    fails(here, "save a - --timeout 0", "0 is not in 1..=86400");
    fails(here, "load a -", "a's rings run here already");
    fails(here, "save a /nowhere/state", "/nowhere/state: No such file");
    exchange(&mut stream, &mut guest);
    // The guest does not leave, whichever way its rings stand still.
    let enable = |guest: &mut HandGuest, on| (0..2).try_for_each(|ring| guest.mock.enable_ring(ring, on)).unwrap();
    let save = || vonic(here, &["migrate", "save", "a", "-"]).output().unwrap().stdout;
    enable(&mut guest, false);
    assert!(!save().is_empty());
    enable(&mut guest, true);
    exchange(&mut stream, &mut guest);
    guest.mock.stop_rings().unwrap();
    let state = save();
    guest.mock.start_rings().unwrap();
    exchange(&mut stream, &mut guest);

    let mut mock = connect(there);
    let mut waits = 0;
    let mut begin_load = |seconds: &str| {
        waits += 1;
        let load = begin(there, &["migrate", "load", "a", "-", "--timeout", seconds]);
        wait_said(there, "its rings wait for a state", waits);
        load
    };
    let mut flipped = state.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, why) in [
        (vec![], "nothing has come; see what 'vonic migrate save' has said"),
        (state[..100].to_vec(), "this stream is damaged"),
        (flipped, "this stream is damaged"),
        (b"connections, please".to_vec(), "damaged: it ends too early"),
    ] {
        let mut load = begin_load("60");
        load.stdin.take().unwrap().write_all(&bytes).unwrap();
        let (done, said) = end(load);
        assert!(!done && said.contains(why), "{why}: {said}");
    }
    let load = begin_load("60");
    fails(there, "load a -", "another state is awaited for a");
    // It is killed: nothing more is awaited.
    let mut killed = load;
    killed.kill().unwrap();
    drop(end(killed));
    // Once for the state that was empty.
    wait_said(there, "no state has come by hand", 2);
    // Nothing comes: the rings wait so long, and start without.
    let mut late = begin_load("2");
    run(&mut mock);
    let (stdin, mut said) = (late.stdin.take(), String::new());
    mock.gateway_answers(2).unwrap();
    late.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!late.wait().unwrap().success() && said.contains("did not come within 2s"), "{said}");
    drop((stdin, mock));
    exchange(&mut stream, &mut guest);
}
