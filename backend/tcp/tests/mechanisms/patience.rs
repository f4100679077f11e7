//! Acknowledgments that wait for something to carry them.

use vonic_tcp::{Config, Flags, Options};

use crate::{CONFIG, Rig};

const PATIENT: Config = Config { patience: 2000, ..CONFIG };

fn patient() -> Rig {
    Rig::established_with(&PATIENT, Options::default())
}

#[test]
fn an_acknowledgment_waits_for_something_to_carry_it() {
    let mut rig = patient();
    rig.data(0, 1);
    assert_eq!(rig.drain(), []);
    assert!(rig.leg.ack_waits());
    // The answer carries it.
    rig.host_sends(1);
    let out = rig.one();
    assert_eq!((out.len, out.acks()), (1, 1));
    assert!(!rig.leg.ack_waits());
    // No answer comes.
    rig.guest_acks = 1;
    rig.data(1, 1);
    assert_eq!(rig.drain(), []);
    rig.leg.hurry();
    assert!(!rig.leg.ack_waits());
    let out = rig.one();
    assert_eq!((out.len, out.acks()), (0, 2));
    // Where nothing is owed there is nothing to hurry: the next one waits again.
    rig.leg.hurry();
    rig.data(2, 1);
    assert!(rig.leg.ack_waits());
    assert_eq!(rig.drain(), []);
}

/// RFC 9293 §3.8.6.3: at least one for every second full segment, however many ACKs wait.
#[test]
fn only_acknowledgments_of_little_payload_in_order_wait() {
    let mut rig = patient();
    rig.data(0, 1000);
    assert_eq!(rig.drain(), []);
    rig.data(1000, 1000);
    assert_eq!(rig.one().acks(), 2000, "two full segments");
    rig.data(3000, 10);
    assert_eq!(rig.one().acks(), 2000, "a hole");
    rig.data(2000, 1000);
    assert!(rig.leg.ack_waits(), "it is filled");
    rig.data(1000, 1000);
    assert_eq!(rig.one().acks(), 3000, "what the guest repeats is answered at once");
    let effect = rig.segment(3000, 10, Flags::ACK | Flags::FIN);
    assert!(effect.fin && rig.leg.taken(rig.now, 10));
    assert_eq!(rig.one().acks(), 3011, "its FIN");
}

#[test]
fn no_acknowledgment_waits_that_tells_of_room() {
    let mut rig = patient();
    rig.data(0, 8500);
    assert_eq!(rig.one().acks(), 8500);
    rig.leg.set_window(1500);
    rig.data(8500, 1);
    assert_eq!(rig.one().acks(), 8501, "the guest has less than two segments of room left");
    rig.leg.set_window(0);
    rig.data(8501, 1499);
    rig.drain();
    rig.leg.set_window(10_000);
    assert!(!rig.leg.ack_waits());
    assert_eq!(rig.one().acks(), 10_000, "the window has opened");
}

#[test]
fn a_window_is_roomy_until_an_eighth_of_it_is_used() {
    let mut rig = Rig::established();
    assert!(rig.leg.window_is_roomy());
    rig.data(0, 1249);
    assert!(rig.leg.window_is_roomy());
    rig.data(1249, 1);
    assert!(!rig.leg.window_is_roomy());
    rig.leg.set_window(10_000);
    assert!(rig.leg.window_is_roomy());
}

#[test]
fn a_drained_host_is_asked_again_only_with_news() {
    let mut rig = Rig::established();
    rig.host_sends(100);
    assert_eq!(rig.one().len, 100);
    rig.leg.host_drained();
    rig.queued += 50;
    assert_eq!(rig.drain(), [], "nobody has told");
    rig.leg.host_readable();
    assert_eq!(rig.one().len, 50);
}
