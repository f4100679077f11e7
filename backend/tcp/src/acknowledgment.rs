//! The ACK field: RFC 9293 §3.10.7.4, fifth, with RFC 5681, 5961, 6582 and 6675.

use core::time::Duration;

use crate::{Effect, Event, Flags, Instant, Leg, Options, Segment, Seq, State, timer::Timer};

/// So many duplicate ACKs stand for a loss, not for a change of order (RFC 5681 §3.2).
const DUPLICATE_THRESHOLD: u8 = 3;

/// A window that was closed over bytes on their way. A kernel whose memory for the socket is used up does so, and promises the same
/// window again with its next ACK: whoever believed that each time would repeat the bytes as fast as the guest can drop them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// The first byte that was not taken.
    una: Seq,
    /// The largest window that was said to be there for it.
    window: u32,
    /// It was refused more than once.
    again: bool,
}

impl Refusal {
    fn after(before: Option<Refusal>, una: Seq, window: u32) -> Refusal {
        match before.filter(|before| before.una == una) {
            Some(before) => Refusal { una, window: window.max(before.window), again: true },
            None => Refusal { una, window, again: false },
        }
    }

    /// Whether such a window is not to be believed, and probed like a closed one: no larger, and nothing was taken since.
    fn doubts(&self, una: Seq, window: u32) -> bool {
        self.again && self.una == una && window <= self.window
    }
}

impl Leg {
    /// Fifth. Returns whether the segment is to be looked at further.
    pub(crate) fn check_ack(
        &mut self,
        now: Instant,
        segment: &Segment,
        options: &Options,
        effect: &mut Effect,
    ) -> bool {
        if self.state == State::SynReceived && !self.complete_handshake(segment, effect) {
            return false;
        }
        if !self.plausible(segment.ack) {
            self.challenge(now, effect);
            return false;
        }
        let advances = segment.ack.gt(self.snd.una);
        if advances {
            effect.acked = self.advance(now, segment.ack, self.clock.round_trip(now, options));
        }
        let news = self.learn_blocks(segment.ack, options);
        if !advances && (news || self.is_duplicate(segment, options)) {
            self.count_duplicate();
        }
        if news {
            self.recover_if_lost();
        }
        self.update_window(segment);
        if matches!(self.timer, Timer::Persist { .. }) {
            // The guest is there; its window may stay closed for as long as it likes (RFC 9293 §3.8.6.1).
            self.retries = 0;
        }
        self.our_fin(now, effect)
    }

    /// SYN-RECEIVED: only an ACK of our SYN counts; for another one the guest gets a reset.
    fn complete_handshake(&mut self, segment: &Segment, effect: &mut Effect) -> bool {
        if segment.ack.le(self.snd.una) || segment.ack.gt(self.snd.max) {
            self.due.reset = Some((segment.ack, None));
            return false;
        }
        self.establish(segment, effect);
        true
    }

    /// ESTABLISHED, by a segment that acknowledges our SYN.
    pub(crate) fn establish(&mut self, segment: &Segment, effect: &mut Effect) {
        self.state = State::Established;
        self.due.syn = false;
        self.snd.wl1 = segment.seq;
        self.snd.wl2 = segment.ack;
        self.take_window(segment);
        effect.event = Some(Event::Established);
    }

    /// Neither beyond what was sent, nor older than the guest's largest window (RFC 5961 §5.2).
    fn plausible(&self, ack: Seq) -> bool {
        ack.le(self.snd.max) && ack.ge(self.snd.una - self.snd.max_wnd)
    }

    /// The guest acknowledges something new, and its echo tells of a round trip. Returns how many bytes of payload.
    pub(crate) fn advance(&mut self, now: Instant, ack: Seq, echo: Option<Duration>) -> u32 {
        let from = self.data_una();
        let syn = !core::mem::replace(&mut self.snd.synchronized, true);
        let repeated_syn = syn && self.retries > 0;
        if repeated_syn {
            self.rto.syn_was_lost();
        }
        match echo.filter(|_| !repeated_syn) {
            Some(rtt) => self.rto.echoed(rtt, (self.snd.max - self.snd.una) / (2 * u32::from(self.snd.mss))),
            None => self.rto.acknowledged(ack, now),
        }
        self.snd.una = ack;
        self.snd.board.advance(ack);
        self.snd.nxt = self.snd.board.skip(self.snd.nxt.max(ack));
        self.snd.repeated = self.snd.repeated.max(ack);
        self.snd.duplicate_acks = 0;
        self.retries = 0;
        self.due.resend = false;
        self.recover_further();
        // RFC 6298 §5.3: the timer starts anew for what is left.
        self.timer = Timer::Idle;
        let fin = u32::from(self.fin_acked());
        ack.beyond(from) - fin.min(ack.beyond(from))
    }

    /// RFC 6582 §3.2, steps 3 and 4: a partial ACK uncovers the next hole, a full one ends the recovery. Where the guest
    /// says what it has, the scoreboard knows the holes.
    fn recover_further(&mut self) {
        let Some(recover) = self.snd.recover else { return };
        if self.snd.una.ge(recover) {
            self.snd.recovering = false;
        } else if self.snd.recovering && self.snd.board.is_empty() {
            self.due.resend = true;
        }
        if self.snd.una.gt(recover) {
            self.snd.recover = None;
        }
    }

    /// RFC 5681 §2, all five parts. With a closed window it is the answer to a probe. With blocks the scoreboard judges
    /// (RFC 6675 §2): those of RFC 2883 tell of the opposite of a loss. Without, it may be of a guest that permits SACK but
    /// keeps nothing.
    fn is_duplicate(&self, segment: &Segment, options: &Options) -> bool {
        segment.ack == self.snd.una
            && options.sack.as_slice().is_empty()
            && self.snd.nxt.gt(self.snd.una)
            && segment.seq_len() == 0
            && self.snd.wnd > 0
            && self.scaled_window(segment) == self.snd.wnd
    }

    /// Enters what the guest selectively acknowledges. Returns whether it has something new.
    fn learn_blocks(&mut self, ack: Seq, options: &Options) -> bool {
        if !self.snd.sack || ack.lt(self.snd.una) {
            return false;
        }
        let news = self.snd.board.add(&options.sack, self.snd.una, self.snd.max);
        if news && self.snd.nxt.lt(self.snd.max) {
            self.snd.nxt = self.snd.board.skip(self.snd.nxt);
        }
        news
    }

    fn count_duplicate(&mut self) {
        self.snd.duplicate_acks = self.snd.duplicate_acks.saturating_add(1);
        if self.snd.duplicate_acks == DUPLICATE_THRESHOLD {
            self.start_recovery();
            self.due.resend |= self.lost_after_timeout();
        }
    }

    /// Of what a timeout repeated, a part was acknowledged, and what comes next is asked for. The duplicates may be of what the guest
    /// had already, so that RFC 6582 §3.2 (step 2) does not take them for a loss; but here a frame too many is cheaper than another
    /// timeout, which without a measurement lasts ever longer (RFC 6298 §5.5).
    fn lost_after_timeout(&self) -> bool {
        let repeats = !self.snd.recovering && self.snd.recover.is_some_and(|recover| self.snd.una.lt(recover));
        repeats && self.retries == 0
    }

    /// RFC 6675 §5, step 2: no three ACKs need to be waited for if the guest has much beyond the first hole.
    fn recover_if_lost(&mut self) {
        if self.snd.board.is_lost(self.snd.una, self.snd.mss) {
            self.start_recovery();
        }
    }

    /// Fast retransmit (RFC 5681 §3.2). It begins once per window of data (RFC 6582 §3.2, step 2).
    fn start_recovery(&mut self) {
        if self.snd.recover.is_none() && self.snd.nxt.gt(self.snd.una) {
            self.snd.recover = Some(self.snd.max);
            self.snd.recovering = true;
            self.snd.repeated = self.snd.una;
            self.due.resend = true;
        }
    }

    fn scaled_window(&self, segment: &Segment) -> u32 {
        let shift = if segment.has(Flags::SYN) { 0 } else { self.snd.scale };
        u32::from(segment.window) << shift
    }

    /// SND.WND, unless the segment is older than the one that the window is from (SND.WL1, SND.WL2).
    fn update_window(&mut self, segment: &Segment) {
        let newer = self.snd.wl1.lt(segment.seq) || self.snd.wl1 == segment.seq && self.snd.wl2.le(segment.ack);
        if segment.ack == self.snd.una && newer {
            self.snd.wl1 = segment.seq;
            self.snd.wl2 = segment.ack;
            self.take_window(segment);
        }
    }

    fn take_window(&mut self, segment: &Segment) {
        let before = self.snd.wnd;
        let said = self.scaled_window(segment);
        self.snd.max_wnd = self.snd.max_wnd.max(said);
        let doubtful = self.snd.refusal.is_some_and(|refusal| refusal.doubts(self.snd.una, said));
        self.snd.wnd = if doubtful { 0 } else { said };
        if self.snd.wnd == 0 && self.snd.nxt.gt(self.data_una()) {
            // Closed over bytes on their way: the guest may have dropped them. They go again when it opens.
            self.snd.refusal = Some(Refusal::after(self.snd.refusal, self.snd.una, before));
            self.snd.nxt = self.data_una();
            self.snd.board.clear();
            self.snd.readable = true;
            self.due.resend = false;
        }
    }

    /// What an ACK of our FIN changes. Returns whether the segment is to be looked at further.
    fn our_fin(&mut self, now: Instant, effect: &mut Effect) -> bool {
        if !self.fin_acked() {
            return true;
        }
        match self.state {
            // A half-closed stream may be silent for as long as its ends like.
            State::FinWait1 => self.state = State::FinWait2,
            State::Closing if !self.rcv.holds() => {
                self.enter_time_wait(now);
                effect.event = Some(Event::TimeWait);
            }
            // The guest still waits for an ACK of its last bytes, or may not have heard the one that came after our FIN.
            State::LastAck if self.rcv.holds() => self.state = State::Closing,
            State::LastAck if self.rcv.lags() => {
                self.enter_time_wait(now);
                effect.event = Some(Event::TimeWait);
            }
            State::LastAck => {
                self.close();
                effect.event = Some(Event::Closed);
            }
            _ => {}
        }
        self.state != State::Closed
    }
}
