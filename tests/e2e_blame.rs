//! Engines die of what a VMM says: who is held to be the cause, and what becomes of that VM and of its neighbours?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::time::Duration;

use serde_json::{Value, json};
use vonic_tests::crash::{self, Killer, Manner};
use vonic_tests::line::Line;
use vonic_tests::mock::{code, feature};
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

fn status(bed: &Bed) -> Value {
    bed.vonicd.vonic(&["engine", "status", "--json"]).unwrap()
}

/// SET_VRING_ENABLE of the first ring, as it is.
fn speak(guest: &mut HandGuest) {
    let body: Vec<u8> = [0_u32, 1].into_iter().flat_map(u32::to_ne_bytes).collect();
    assert!(guest.mock.raw().tell(code::SET_VRING_ENABLE, 8, &body, &[]).unwrap());
}

/// Until then the next engine is told what everybody's VMM has said, and could die of that.
fn wait_takeover(bed: &Bed, nth: usize) {
    let taken_over = || bed.vonicd.log().matches("the engine has taken over").count() == nth;
    wait_until("the takeover", seconds(10), taken_over).unwrap();
}

fn is_answered(guest: &mut HandGuest) {
    assert_eq!(guest.mock.raw().reply(code::SET_VRING_ENABLE).unwrap().acknowledged(), Some(true));
}

/// By a panic of the session's thread, and by an abort of the control thread, while the worker is busy with the neighbour: the second time
/// the VMM is not listened to any more, until the operator says so.
#[test]
fn a_vmm_whose_messages_engines_die_of_is_heard_no_more() {
    let bed = Bed::start(&TestConfig { crash_points: true, ..TestConfig::default() }.vm("a", 2, "").vm("b", 3, ""));
    let bed = bed.unwrap();
    let killer = Killer::new(&bed.directory).unwrap();
    let [mut a, mut b] =
        [("a", 2), ("b", 3)].map(|(name, number)| HandGuest::start(&bed, name, number, feature::ALL).unwrap());
    let mut stays = Line::guest_opens(&mut b, 4000).unwrap();
    for (nth, point, manner) in [(1, "message-heard", Manner::Panic), (2, "message-taken", Manner::Abort)] {
        let old = bed.vonicd.engine().unwrap();
        killer.arm(point, 1, manner).unwrap();
        std::thread::sleep(crash::LOOKS);
        speak(&mut a);
        wait_until("the engine's death", seconds(10), || {
            b.mock.gateway_answers(3).unwrap();
            killer.has_fired()
        })
        .unwrap();
        killer.wait_successor(old).unwrap();
        wait_takeover(&bed, nth);
        stays.exchange(&mut b).unwrap();
        if point == "message-heard" {
            is_answered(&mut a);
            a.mock.gateway_answers(2).unwrap();
        }
    }
    let now = status(&bed);
    assert_eq!((&now["quarantined"], &now["deaths"]), (&json!(["a"]), &json!(2)), "{now}");
    let deaths = |vm: &str| bed.vonicd.stats().unwrap()["vms"][vm]["engine_deaths"].as_u64().unwrap();
    assert_eq!([deaths("a"), deaths("b")], [2, 0]);
    let shown = bed.vonicd.vm("a").unwrap();
    assert!(shown["last_error"].as_str().unwrap().contains("died of what its VMM says"), "{shown}");
    // The next engine is not told of it, and so does not die of it.
    killer.kill().unwrap();
    stays.exchange(&mut b).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!((&bed.vonicd.vm("a").unwrap()["connected"], &status(&bed)["deaths"]), (&json!(false), &json!(3)));
    bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap();
    is_answered(&mut a);
    a.mock.gateway_answers(2).unwrap();
    stays.exchange(&mut b).unwrap();
    assert_eq!(status(&bed)["quarantined"], json!([]));
    assert_eq!(bed.vonicd.log().matches("a VMM connected").count(), 2, "neither has noticed");
    bed.vonicd.stop().unwrap();
}

/// An engine that dies while it publishes what one guest's rings have completed dies of that guest.
#[test]
fn what_engines_die_of_while_they_publish_has_a_name() {
    let bed = Bed::start(&TestConfig { crash_points: true, ..TestConfig::default() }.vm("a", 2, "").vm("b", 3, ""));
    let bed = bed.unwrap();
    let killer = Killer::new(&bed.directory).unwrap();
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let mut b = HandGuest::start(&bed, "b", 3, feature::ALL).unwrap();
    for death in 1..=2 {
        let old = bed.vonicd.engine().unwrap();
        killer.arm("used-before-call", 1, Manner::Panic).unwrap();
        std::thread::sleep(crash::LOOKS);
        // The first time the next engine completes what this one has begun.
        let answered = a.mock.gateway_answers(2);
        assert!(answered.is_ok() || death == 2, "{answered:?}");
        assert!(killer.has_fired());
        killer.wait_successor(old).unwrap();
    }
    assert_eq!(status(&bed)["quarantined"], json!(["a"]), "{}", bed.vonicd.log());
    b.mock.gateway_answers(3).unwrap();
    bed.vonicd.stop().unwrap();
}

/// A VMM that ends engines, leaves and comes: the first time it is let go at once, the second time it has to wait, and its neighbour has lost three
/// engines and no byte.
#[test]
fn a_vmm_that_comes_again_is_let_go_ever_later() {
    let bed = Bed::start(&TestConfig { crash_points: true, ..TestConfig::default() }.vm("a", 2, "").vm("b", 3, ""));
    let bed = bed.unwrap();
    let killer = Killer::new(&bed.directory).unwrap();
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let mut b = HandGuest::start(&bed, "b", 3, feature::ALL).unwrap();
    let mut stays = Line::guest_opens(&mut b, 4000).unwrap();
    let end = |a: &mut HandGuest, nth| {
        let old = bed.vonicd.engine().unwrap();
        killer.arm("message-taken", 1, Manner::Abort).unwrap();
        std::thread::sleep(crash::LOOKS);
        speak(a);
        wait_until("the engine's death", seconds(10), || killer.has_fired()).unwrap();
        killer.wait_successor(old).unwrap();
        wait_takeover(&bed, nth);
    };
    end(&mut a, 1);
    is_answered(&mut a);
    end(&mut a, 2);
    stays.exchange(&mut b).unwrap();
    let now = status(&bed);
    assert_eq!(now["quarantined"], json!(["a"]), "{now}\n{}", bed.vonicd.log());
    drop(a);
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    a.mock.gateway_answers(2).unwrap();
    // Once more is enough now.
    end(&mut a, 3);
    let ended = std::time::Instant::now();
    let now = status(&bed);
    assert_eq!((&now["quarantined"], &now["deaths"]), (&json!(["a"]), &json!(3)), "{now}");
    let shown = bed.vonicd.vm("a").unwrap()["last_error"].as_str().unwrap().to_string();
    assert!(shown.contains("restart its VMM, which ends it in 10 s at the earliest"), "{shown}");
    drop(a);
    // It comes again at once, and has to wait.
    let stream = std::os::unix::net::UnixStream::connect(bed.socket("a")).unwrap();
    wait_until("the log", seconds(5), || bed.vonicd.log().contains("engines have died of it again and again")).unwrap();
    while ended.elapsed() < Duration::from_secs(8) {
        stays.exchange(&mut b).unwrap();
        assert_eq!(bed.vonicd.vm("a").unwrap()["connected"], json!(false));
        std::thread::sleep(Duration::from_millis(200));
    }
    // In time it is told of to the engine, without another connection.
    wait_until("the end of the quarantine", seconds(10), || status(&bed)["quarantined"] == json!([])).unwrap();
    assert!(ended.elapsed() > Duration::from_secs(9));
    wait_until("its session", seconds(5), || bed.vonicd.vm("a").unwrap()["connected"] == json!(true)).unwrap();
    drop(stream);
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    a.mock.gateway_answers(2).unwrap();
    stays.exchange(&mut b).unwrap();
    assert_eq!(status(&bed)["deaths"], json!(3));
    assert_eq!(bed.vonicd.log().matches("a: no longer in quarantine: its VMM has left").count(), 2);
    bed.vonicd.stop().unwrap();
}
