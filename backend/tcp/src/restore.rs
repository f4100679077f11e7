//! A leg that goes on after the engine that had it has died.
//!
//! What cannot be learned again is kept while the leg lives: the initial sequence numbers, and what the SYNs agreed to. How far both streams
//! are is counted by the host's kernel. Everything else (windows, round trips, what is on its way) begins anew: a first segment behind what
//! the guest has makes it answer with its acknowledgment and its window.

use crate::{Config, Instant, Leg, MAX_WINDOW_SCALE, Seq, State};

/// What both SYNs agreed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// The effective send MSS, options taken off.
    pub mss: u16,
    /// Snd.Wind.Shift.
    pub send_scale: u8,
    /// Windows are scaled: ours by [`Config::window_scale`].
    pub scaled: bool,
    /// Selective acknowledgments are used.
    pub sack: bool,
    /// Timestamps are sent: [`Config::timestamps`] is the same as ever, and the clock has not gone back.
    pub timestamps: bool,
}

/// Where a leg stands, as its record and the host's kernel have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    /// ISS.
    pub iss: Seq,
    /// IRS.
    pub irs: Seq,
    /// From the SYNs.
    pub agreed: Agreed,
    /// The host's connect has ended well.
    pub connected: bool,
    /// The guest has answered our SYN. If that is not known, what it has sent or acknowledged says so as well.
    pub established: bool,
    /// SND.UNA: behind the bytes that the guest has acknowledged. Our FIN does not count: it goes again.
    pub una: Seq,
    /// Bytes behind SND.UNA that the dead engine may have sent: those in the socket's queue.
    pub queued: u32,
    /// The host's stream has ended behind them: the FIN may have been sent, too.
    pub host_fin: bool,
    /// RCV.NXT: behind the bytes that the socket took, and the guest's FIN if that is passed on.
    pub rcv_nxt: Seq,
    /// The guest's FIN is passed on.
    pub guest_fin: bool,
    /// Bytes of those that the socket took which the remote peer has not acknowledged yet.
    pub held: u32,
}

impl Leg {
    /// What the SYNs agreed to; `None` before the guest's is known.
    pub fn agreed(&self) -> Option<Agreed> {
        (self.state != State::SynSent).then_some(Agreed {
            mss: self.snd.mss,
            send_scale: self.snd.scale,
            scaled: self.rcv.scaled,
            sack: self.snd.sack,
            timestamps: self.clock.on,
        })
    }

    /// ISS.
    pub fn iss(&self) -> Seq {
        self.snd.iss
    }

    /// The world opens, and another leg may have sent this SYN already: the guest's answer to that one counts. To refuse it would end the
    /// connection for the guest, which may take what is repeated for a new one, and answer both.
    pub fn reopen(config: &Config, iss: Seq, now: Instant) -> Leg {
        let mut leg = Leg::open(config, iss, now);
        leg.snd.max = iss + 1;
        leg
    }

    /// A leg as another one was. `config` is that one's. The caller calls [`set_window`](Leg::set_window) before it hands on the
    /// guest's first segment, and has the guest's segments that are waiting handled before it polls: they know more than this does.
    pub fn restore(config: &Config, state: &Restored, now: Instant) -> Leg {
        let mut leg = Leg::new(config, state.iss, State::Established, now);
        let Agreed { mss, send_scale, scaled, sack, timestamps } = state.agreed;
        leg.rcv.synchronize(state.irs, scaled);
        leg.rcv.resume(state.rcv_nxt, state.guest_fin, state.held);
        leg.clock.resume(timestamps, state.rcv_nxt);
        leg.snd.mss = mss;
        leg.snd.scale = send_scale.min(MAX_WINDOW_SCALE);
        leg.snd.sack = sack;
        leg.snd.una = state.una;
        leg.snd.synchronized = true;
        leg.snd.nxt = state.una;
        leg.snd.max = state.una + state.queued + u32::from(state.host_fin);
        // Whatever the guest's windows were: none was larger.
        leg.snd.max_wnd = u32::from(u16::MAX) << leg.snd.scale;
        leg.snd.wl1 = state.rcv_nxt;
        leg.snd.wl2 = state.una;
        leg.snd.repeated = state.una;
        // Unequal, not behind: after 2³¹ bytes a number comes before its first one.
        let spoke = state.established || state.una != state.iss + 1 || state.rcv_nxt != state.irs + 1;
        if !spoke {
            // The SYN-ACK may have gone or not: it goes again. A guest that has it answers by an ACK (RFC 9293 §3.10.7.4).
            leg.state = State::SynReceived;
            leg.snd.una = state.iss;
            leg.snd.synchronized = false;
            leg.snd.nxt = state.iss;
            leg.snd.max = state.iss + u32::from(state.connected);
            leg.due.syn = state.connected;
        } else {
            if state.guest_fin {
                leg.state = State::CloseWait;
            }
            if state.host_fin {
                leg.snd.fin = Some(state.una + state.queued);
                leg.state = leg.state.fin_sent();
            }
            // Its answer tells what it has and what it takes. With a byte, since guests bound how often they answer an empty segment that
            // lies outside their window (Linux: twice a second), and the one before this may have asked just now.
            leg.due.question = true;
            leg.rto.resume();
        }
        leg.arm(now);
        leg
    }
}
