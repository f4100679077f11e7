//! The ACK field: RFC 9293 §3.10.7.4, fifth, with RFC 5681, 5961 and 6582.

use crate::{Effect, Event, Flags, Instant, Leg, Segment, Seq, State, timer::Timer};

/// So many duplicate ACKs stand for a loss, not for a change of order (RFC 5681 §3.2).
const DUPLICATE_THRESHOLD: u8 = 3;

impl Leg {
    /// Fifth. Returns whether the segment is to be looked at further.
    pub(crate) fn check_ack(&mut self, now: Instant, segment: &Segment, effect: &mut Effect) -> bool {
        if self.state == State::SynReceived && !self.complete_handshake(segment, effect) {
            return false;
        }
        if !self.plausible(segment.ack) {
            self.duplicate_ack();
            return false;
        }
        if segment.ack.gt(self.snd.una) {
            effect.acked = self.advance(now, segment.ack);
        } else if self.is_duplicate(segment) {
            self.count_duplicate();
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

    /// The guest acknowledges something new. Returns how many bytes of payload.
    pub(crate) fn advance(&mut self, now: Instant, ack: Seq) -> u32 {
        let from = self.data_una();
        let syn = self.snd.una.lt(from);
        if syn && self.retries > 0 {
            self.rto.syn_was_lost();
        }
        self.rto.acknowledged(ack, now);
        self.snd.una = ack;
        self.snd.nxt = self.snd.nxt.max(ack);
        self.snd.duplicate_acks = 0;
        self.retries = 0;
        self.due.resend = false;
        self.recover_further();
        // RFC 6298 §5.3: the timer starts anew for what is left.
        self.timer = Timer::Idle;
        let fin = u32::from(self.fin_acked());
        ack.beyond(from) - fin.min(ack.beyond(from))
    }

    /// RFC 6582 §3.2, steps 3 and 4: a partial ACK uncovers the next hole, a full one ends the recovery.
    fn recover_further(&mut self) {
        let Some(recover) = self.snd.recover else { return };
        if self.snd.una.ge(recover) {
            self.snd.recovering = false;
        } else if self.snd.recovering {
            self.due.resend = true;
        }
        if self.snd.una.gt(recover) {
            self.snd.recover = None;
        }
    }

    /// RFC 5681 §2, all five parts. With a closed window it is the answer to a probe.
    fn is_duplicate(&self, segment: &Segment) -> bool {
        segment.ack == self.snd.una
            && self.snd.nxt.gt(self.snd.una)
            && segment.seq_len() == 0
            && self.snd.wnd > 0
            && self.scaled_window(segment) == self.snd.wnd
    }

    /// Fast retransmit (RFC 5681 §3.2). It begins once per window of data (RFC 6582 §3.2, step 2).
    fn count_duplicate(&mut self) {
        self.snd.duplicate_acks = self.snd.duplicate_acks.saturating_add(1);
        if self.snd.duplicate_acks == DUPLICATE_THRESHOLD && self.snd.recover.is_none() {
            self.snd.recover = Some(self.snd.max);
            self.snd.recovering = true;
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
        self.snd.wnd = self.scaled_window(segment);
        self.snd.max_wnd = self.snd.max_wnd.max(self.snd.wnd);
        if self.snd.wnd == 0 && self.snd.nxt.gt(self.data_una()) {
            // Closed over bytes on their way: the guest may have dropped them. They go again when it opens.
            self.snd.nxt = self.data_una();
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
            // No timer runs in FIN-WAIT-2: a half-closed stream may be silent for as long as its ends like.
            State::FinWait1 => self.state = State::FinWait2,
            State::Closing => {
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
