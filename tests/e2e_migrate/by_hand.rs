//! A VMM that does not take its backend's state along: the operator does, by `vonic migrate save` and `vonic migrate load`.
use crate::hosts::{FORWARD, Hosts};
use crate::state::{Pair, kill_engine, open, run};
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
    let left = ["vm_connected", "migration_begun leaves", "vm_disconnected", "migration_done leaves 3"];
    let came = ["migration_begun comes", "vm_connected", "migration_done comes 3"];
    assert_eq!(told(hosts.here(), 7), [&left[..], &came].concat());
}

/// The first events of the engine that there is, each with what it says of the move.
fn told(bed: &Bed, count: usize) -> Vec<String> {
    let socket = bed.directory.path().join("run/api.sock");
    let mut command = Command::new("timeout");
    command.arg("30").arg(Vonicd::client().unwrap()).arg("--socket").arg(socket);
    // Of another engine than any: everything from its beginning on.
    command.args(["events", "--json", "--after", "0-0", "--count", &count.to_string()]);
    let lines = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let events = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let text = |event: serde_json::Value| {
        let words = ["event", "direction", "connections"].map(|key| event[key].clone());
        let words = words.iter().filter(|word| !word.is_null()).map(|word| word.to_string().replace('"', ""));
        words.collect::<Vec<_>>().join(" ")
    };
    events.map(text).filter(|text| text != "begun").collect()
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

/// The engine dies while rings wait, and while the state is here and the VMM is not: they go on waiting, and the operator says it again.
#[test]
fn rings_wait_on_behind_an_engines_death() {
    let mut hosts = Hosts::new(FORWARD).unwrap();
    let mut guest = guest(&hosts);
    let mut streams = [open(&mut guest, 4000)];
    exchange(&mut streams, &mut guest);
    let there = hosts.there();
    let first = begin(there, &["migrate", "load", "a", "-", "--timeout", "120"]);
    wait_said(there, "its rings wait for a state", 1);
    let mut mock = connect(there);
    run(&mut mock);
    kill_engine(there);
    assert!(!end(first).0, "it has ended with the engine");
    wait_said(there, "its rings still wait for a state", 1);
    guest.mock.stop_rings().unwrap();
    let state = vonic(hosts.here(), &["migrate", "save", "a", "-"]).output().unwrap().stdout;
    let mut load = begin(there, &["migrate", "load", "a", "-"]);
    load.stdin.take().unwrap().write_all(&state).unwrap();
    let (loaded, said_of_load) = end(load);
    assert!(loaded && said_of_load.contains("its rings, which waited, start"), "{said_of_load}");
    drop(std::mem::replace(&mut guest.mock, mock));
    hosts.at = 1;
    exchange(&mut streams, &mut guest);
    // Another engine has nothing to wait for.
    kill_engine(hosts.here());
    exchange(&mut streams, &mut guest);
    assert_eq!(said(hosts.here(), "its rings still wait"), 1);
}
