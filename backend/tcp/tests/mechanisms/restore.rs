use vonic_tcp::{
    AckPolicy, Agreed, Config, Event, Flags, Instant, Leg, MIN_RTO, Options, Restored, Segment, Seq, State, Timestamps,
    Transmit,
};

use crate::{CONFIG, IRS, ISS, MSS, Rig};

/// As an engine's successor finds it: `acked` bytes are acknowledged and `queued` wait in the socket, which has taken `taken`.
fn found(acked: u32, queued: u32, taken: u32) -> Restored {
    let agreed = Agreed { mss: MSS, send_scale: 0, scaled: false, sack: false, timestamps: false };
    Restored {
        iss: ISS,
        irs: IRS,
        agreed,
        connected: true,
        established: true,
        una: ISS + 1 + acked,
        queued,
        host_fin: false,
        rcv_nxt: IRS + 1 + taken,
        guest_fin: false,
        held: 0,
    }
}

/// The rig of a guest that has `acks` bytes of the host's stream.
fn rig(config: &Config, state: &Restored, acks: u32) -> Rig {
    let now = Instant(9_000_000);
    let mut rig = Rig::new(Leg::restore(config, state, now));
    rig.leg.set_window(10_000);
    (rig.now, rig.queued, rig.guest_acks) = (now, state.queued, acks);
    rig
}

#[test]
fn a_restored_leg_asks_and_goes_on_where_the_guest_is() {
    // The dead engine had sent 3000 bytes beyond what it knew to be acknowledged; the guest has 1000 of them.
    let mut rig = rig(&CONFIG, &found(5000, 3000, 700), 6000);
    let asked = rig.one();
    assert!(asked.is(Flags::ACK) && asked.header.seq == ISS + 5000 && asked.len == 1, "{asked:?}");
    assert_eq!(asked.acks(), 700);
    assert_eq!(rig.ack(6000).acked, 1000);
    assert_eq!(rig.frames(), [(6000, 2000)]);
    assert_eq!(rig.ack(8000).acked, 2000);
    // The guest's stream goes on as well, and what was replayed of it is trimmed.
    let effect = rig.segment(600, 300, Flags::ACK);
    assert_eq!(effect.payload, Some(100..300));
    assert!(!rig.leg.taken(rig.now, 200));
    assert_eq!(rig.one().acks(), 900);
    assert_eq!((rig.leg.state(), rig.queued), (State::Established, 0));
}

/// What the guest sent before it is asked tells its window. The question stays behind what it has: further on it would be taken for new,
/// and not be answered (RFC 9293 §3.10.7.4).
#[test]
fn a_restored_leg_asks_below_what_the_guest_has_told_meanwhile() {
    let mut rig = rig(&CONFIG, &found(5000, 3000, 700), 6000);
    assert_eq!(rig.ack(5000).acked, 0);
    assert_eq!(rig.ack(5500).acked, 500);
    let sent = rig.drain();
    assert!(sent[0].is(Flags::ACK) && sent[0].header.seq == ISS + 5500 && sent[0].len == 1, "{sent:?}");
    assert_eq!((sent.len(), sent[1].len), (2, 2500));
}

/// The dead engine may have told the guest that there is no room. What a guest drops as old tells it nothing (RFC 9293 §3.10.7.4), and its
/// own next probe of a window that was closed for long may be a minute away.
#[test]
fn a_restored_leg_tells_its_window_beside_its_question() {
    let sent = rig(&CONFIG, &found(5000, 0, 700), 5000).drain();
    let told: Vec<_> = sent.iter().map(|out| (out.header.seq - ISS, out.acks(), out.header.window)).collect();
    assert_eq!(told, [(5000, 700, 10_000), (5001, 700, 10_000)]);
}

/// The same where the host has bytes for the guest, which has no room for them: neither payload nor a window of its own would tell.
#[test]
fn a_restored_leg_tells_its_window_behind_the_answer() {
    let mut rig = rig(&CONFIG, &found(5000, 3000, 700), 6000);
    rig.drain();
    rig.window = 0;
    rig.ack(6000);
    let told = rig.one();
    assert_eq!((told.header.seq - (ISS + 1), told.len, told.header.window), (6000, 0, 10_000));
    rig.window = 20_000;
    rig.ack(6000);
    assert_eq!(rig.frames(), [(6000, 2000)]);
}

#[test]
fn a_restored_leg_asks_again_when_its_question_is_lost() {
    let mut rig = rig(&CONFIG, &found(0, 1000, 1), 0);
    rig.drain();
    // Not after a second, as where nothing is known of the way to the guest (RFC 6298 §2.1): other engines may die in that time.
    assert!(rig.until_deadline() <= MIN_RTO, "{:?}", rig.until_deadline());
    rig.expire();
    assert_eq!(rig.frames(), [(0, 1)]);
    rig.ack(0);
    rig.expire();
    assert_eq!(rig.frames(), [(0, 1000)]);
}

#[test]
fn the_end_of_the_hosts_stream_goes_again_and_counts_as_no_byte() {
    for known in [0, 500, 501] {
        let state = Restored { host_fin: true, ..found(100, 500, 0) };
        let mut rig = rig(&CONFIG, &state, 100);
        assert_eq!(rig.leg.state(), State::FinWait1);
        rig.drain();
        let effect = rig.ack(100 + known);
        assert_eq!(effect.acked, known.min(500), "{known}");
        if known < 501 {
            let last = rig.drain().pop().unwrap_or_else(|| panic!("nothing goes again: {known}"));
            assert!(last.header.flags.contains(Flags::FIN) && last.at() + last.len == 600, "{last:?}");
            assert_eq!(rig.ack(601).acked, 500 - known);
        }
        assert_eq!(rig.leg.state(), State::FinWait2);
    }
}

#[test]
fn after_the_guests_end_the_host_may_send_on() {
    let state = Restored { guest_fin: true, ..found(0, 700, 51) };
    let mut rig = rig(&CONFIG, &state, 0);
    assert_eq!(rig.leg.state(), State::CloseWait);
    assert_eq!(rig.one().acks(), 51);
    // The guest's FIN again: it was not sure that we had it.
    rig.segment(50, 0, Flags::ACK | Flags::FIN);
    assert_eq!(rig.leg.state(), State::CloseWait);
    rig.ack(0);
    assert!(rig.drain().iter().any(|out| (out.at(), out.len) == (0, 700)));
    rig.ack(700);
    rig.leg.host_finished(0);
    assert!(rig.one().header.flags.contains(Flags::FIN));
    assert_eq!(rig.leg.state(), State::LastAck);
    assert_eq!(rig.ack(701).event, Some(Event::Closed));
}

#[test]
fn a_handshake_that_may_not_have_ended_is_repeated() {
    let state = Restored { established: false, ..found(0, 0, 0) };
    let mut fresh = rig(&CONFIG, &state, 0);
    let again = fresh.one();
    assert!(again.is(Flags::SYN | Flags::ACK) && again.header.seq == ISS && again.header.ack == IRS + 1);
    assert_eq!(fresh.ack(0).event, Some(Event::Established));
    // One whose connect is in progress waits for that, silently.
    let mut waiting = rig(&CONFIG, &Restored { connected: false, ..state }, 0);
    assert_eq!(waiting.drain(), []);
    waiting.leg.host_connected(waiting.now);
    assert!(waiting.one().is(Flags::SYN | Flags::ACK));
    // A guest that has spoken since has had the SYN-ACK.
    let state = Restored { established: false, ..found(0, 0, 10) };
    assert_eq!(rig(&CONFIG, &state, 0).leg.state(), State::Established);
}

/// The guest has answered the dead engine's SYN, perhaps more than once. Refused, it would forget the connection, and refuse what comes of its
/// second answer.
#[test]
fn an_answer_to_a_dead_engines_syn_is_an_answer_to_ours() {
    let now = Instant(9_000_000);
    let mut rig = Rig::new(Leg::reopen(&CONFIG, ISS, now));
    rig.now = now;
    rig.leg.set_window(10_000);
    let answer = Options { mss: Some(MSS), ..Options::default() }.emit();
    let options = answer.as_slice();
    let answer = Segment { seq: IRS, ack: ISS + 1, flags: Flags::SYN | Flags::ACK, window: 20_000, options, len: 0 };
    assert_eq!(rig.leg.handle_segment(now, &answer).event, Some(Event::Established));
    let told = rig.one();
    assert!(told.is(Flags::ACK) && told.header.seq == ISS + 1 && told.acks() == 0, "{told:?}");
    assert!(!rig.leg.handle_segment(now, &answer).event.is_some_and(|event| event == Event::Reset));
    assert!(rig.one().is(Flags::ACK));
    // None has come: the SYN goes again.
    let mut rig = Rig::new(Leg::reopen(&CONFIG, ISS, now));
    let syn = rig.leg.poll(now, 1000);
    assert!(matches!(syn, Some(Transmit::Control(header)) if header.flags == Flags::SYN && header.seq == ISS));
}

#[test]
fn what_was_agreed_to_holds_and_the_guests_clock_is_learned_anew() {
    let config = Config { timestamps: Some(7), sack: true, ..CONFIG };
    let stamp = |val| Some(Timestamps { val, ecr: 0 });
    let syn =
        Options { timestamps: stamp(3_000_000_000), sack_permitted: true, window_scale: Some(3), ..Options::default() };
    let before = Rig::established_with(&config, syn);
    let agreed = before.leg.agreed().unwrap_or_else(|| panic!("synchronized"));
    assert_eq!(agreed, Agreed { mss: MSS - 12, send_scale: 3, scaled: true, sack: true, timestamps: true });
    assert_eq!(before.leg.iss(), ISS);
    let mut rig = rig(&config, &Restored { agreed, ..found(10, 90_000, 0) }, 10);
    assert_eq!((rig.leg.mss(), rig.leg.options_len()), (MSS - 12, 12));
    rig.options.timestamps = stamp(3_000_000_001);
    rig.window = 5000;
    let asked = rig.one();
    let options = Options::parse(asked.header.options.as_slice());
    assert_eq!(options.timestamps.map(|t| t.val), Some(7 + 9000));
    rig.ack(10);
    let sent: u32 = rig.frames().iter().map(|frame| frame.1).sum();
    assert_eq!((sent, rig.leg.snd_wnd()), (40_000, 40_000));
    // From here on its clock does not go back.
    rig.options.timestamps = stamp(2_999_999_999);
    assert_eq!(rig.ack(500).acked, 0);
    assert_eq!(Leg::open(&CONFIG, Seq(1), rig.now).agreed(), None);
}

/// The dead engine had heard of the guest's last acknowledgment, and the guest of its own: it knows the connection no more, and answers the
/// question by a reset (RFC 9293 §3.10.7.1). Nothing has failed: what the host's socket still has is to reach the peer.
#[test]
fn a_guest_that_has_forgotten_a_complete_connection_has_reset_nothing() {
    for (queued, event) in [(0, Event::Closed), (10, Event::Reset)] {
        let mut rig = rig(&CONFIG, &Restored { guest_fin: true, host_fin: true, ..found(500, queued, 51) }, 500);
        assert_eq!(rig.leg.state(), State::LastAck);
        let asked = rig.drain().remove(0);
        let reset = Segment { seq: asked.header.ack, ack: Seq(0), flags: Flags::RST, window: 0, options: &[], len: 0 };
        assert_eq!(rig.leg.handle_segment(rig.now, &reset).event, Some(event), "{queued}");
        assert!(rig.leg.is_closed());
    }
}

#[test]
fn by_peer_what_the_peer_has_not_acknowledged_is_not_acknowledged() {
    let config = Config { ack: AckPolicy::Peer, ..CONFIG };
    let mut rig = rig(&config, &Restored { held: 300, guest_fin: true, ..found(0, 0, 1001) }, 0);
    assert_eq!((rig.one().acks(), rig.leg.held()), (700, 300));
    rig.leg.peer_acked(rig.now, 100);
    assert_eq!(rig.one().acks(), 800);
    rig.leg.peer_acked(rig.now, 200);
    assert_eq!(rig.one().acks(), 1001);
}
