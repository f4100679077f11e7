//! Before the connection is synchronized: SYN-SENT (RFC 9293 §3.10.7.3), and SYN-RECEIVED while the host connects.

use crate::{Effect, Event, Flags, Header, Instant, Leg, Options, Segment, State};

impl Leg {
    /// RFC 9293 §3.10.7.3. Payload and FIN of a SYN are left for the guest to send again.
    pub(crate) fn segment_in_syn_sent(&mut self, now: Instant, segment: &Segment, effect: &mut Effect) {
        let acks_syn = segment.has(Flags::ACK);
        if acks_syn && (segment.ack.le(self.snd.iss) || segment.ack.gt(self.snd.max)) {
            if !segment.has(Flags::RST) {
                self.due.reset = Some((segment.ack, None));
            }
            return;
        }
        if segment.has(Flags::RST) {
            if acks_syn {
                self.close();
                effect.event = Some(Event::Reset);
            }
            return;
        }
        if !segment.has(Flags::SYN) {
            return;
        }
        self.synchronize(now, segment);
        if acks_syn {
            self.advance(now, segment.ack, None);
            self.establish(segment, effect);
            (self.due.ack, self.due.prompt) = (true, true);
        } else {
            // Both open at once (RFC 9293 §3.5, figure 7).
            self.state = State::SynReceived;
            self.due.syn = true;
        }
    }

    /// The guest has heard nothing yet and shall not until the host's connect is decided: only its reset counts.
    pub(crate) fn segment_while_silent(&mut self, segment: &Segment, effect: &mut Effect) {
        if segment.has(Flags::RST) && segment.seq == self.rcv.nxt {
            self.close();
            effect.event = Some(Event::Reset);
        }
    }

    /// The guest's SYN again: it has not seen our SYN-ACK.
    pub(crate) fn is_repeated_syn(&self, segment: &Segment) -> bool {
        segment.has(Flags::SYN)
            && !segment.has(Flags::ACK)
            && !segment.has(Flags::RST)
            && segment.seq + 1 == self.rcv.nxt
    }

    /// SYN, or SYN-ACK, if one is due. Options are offered, and confirmed only if the guest offered them, too
    /// (RFC 7323 §2.2 and §3.2, RFC 2018 §2).
    pub(crate) fn poll_syn(&mut self, now: Instant) -> Option<Header> {
        if !core::mem::take(&mut self.due.syn) {
            return None;
        }
        let synchronized = self.state == State::SynReceived;
        let offer_scale = !synchronized || self.rcv.scaled;
        let options = Options {
            mss: Some(self.rcv.mss),
            window_scale: offer_scale.then_some(self.rcv.scale),
            sack_permitted: self.snd.sack,
            timestamps: if synchronized { self.clock.option(now) } else { self.clock.offer(now) },
            ..Options::default()
        }
        .emit();
        let flags = if synchronized { Flags::SYN | Flags::ACK } else { Flags::SYN };
        let seq = self.snd.iss;
        if self.snd.max == seq {
            self.rto.start(seq + 1, now);
        } else {
            self.rto.forget();
        }
        self.snd.nxt = seq + 1;
        self.snd.max = seq + 1;
        self.due.ack = false;
        self.due.duplicates = 0;
        self.arm(now);
        let window = self.rcv.advertise_in_syn(synchronized);
        Some(Header { seq, ack: self.rcv.nxt, flags, window, options })
    }
}
