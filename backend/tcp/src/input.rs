//! A segment arrives: RFC 9293 §3.10.7.4, step by step. Sixth (URG) is absent: urgent data is payload like any other.

use crate::{Effect, Event, Flags, Instant, Leg, Segment, State};

impl Leg {
    /// A segment of this connection came from the guest (RFC 9293 §3.10.7.3 and §3.10.7.4). What the leg answers comes
    /// from [`poll`](Leg::poll).
    pub fn handle_segment(&mut self, now: Instant, segment: &Segment) -> Effect {
        self.rcv.offer = None;
        let mut effect = Effect::default();
        match self.state {
            State::Closed => {}
            State::SynSent => self.segment_in_syn_sent(now, segment, &mut effect),
            State::SynReceived if self.silent() => self.segment_while_silent(segment, &mut effect),
            State::SynReceived if self.is_repeated_syn(segment) => self.due.syn = true,
            _ => self.segment_in_sequence(now, segment, &mut effect),
        }
        self.arm(now);
        effect
    }

    fn segment_in_sequence(&mut self, now: Instant, segment: &Segment, effect: &mut Effect) {
        if !self.check_sequence(now, segment) {
            return;
        }
        if segment.has(Flags::RST) {
            return self.check_reset(segment, effect);
        }
        // Third, security and compartment: not used by anyone. Fourth, SYN: RFC 5961 §4.
        if segment.has(Flags::SYN) {
            return self.duplicate_ack();
        }
        if !segment.has(Flags::ACK) || !self.check_ack(now, segment, effect) {
            return;
        }
        if self.state.receives() {
            self.accept_text(segment, effect);
        }
    }

    /// First: whether the segment has anything to do with the window. If not, it is answered by an ACK and dropped.
    fn check_sequence(&mut self, now: Instant, segment: &Segment) -> bool {
        let acceptable = self.acceptable(segment);
        if !acceptable && !segment.has(Flags::RST) {
            if self.state == State::TimeWait && segment.has(Flags::FIN) {
                // The guest has not seen our last ACK: its FIN restarts the wait.
                self.enter_time_wait(now);
            }
            self.duplicate_ack();
        }
        acceptable
    }

    /// The acceptability test, widened in three places as other stacks do. A segment that begins before the window and
    /// ends behind it counts, since a frame of 64 KiB easily does. So does one that begins at RCV.NXT while the window
    /// is closed: its payload is cut off, its ACK is good (the RFC asks for "special allowance"). So does an empty one
    /// at the right edge: it is what a guest sends whose last full window was lost.
    fn acceptable(&self, segment: &Segment) -> bool {
        let (nxt, edge) = (self.rcv.nxt, self.rcv.edge);
        if segment.seq_len() == 0 {
            return segment.seq.ge(nxt) && segment.seq.le(edge);
        }
        if segment.seq.le(nxt) { segment.end().gt(nxt) } else { segment.seq.lt(edge) }
    }

    /// Second: a reset counts if it is exactly next in sequence, else it is challenged (RFC 5961 §3.2).
    fn check_reset(&mut self, segment: &Segment, effect: &mut Effect) {
        if segment.seq != self.rcv.nxt {
            return self.duplicate_ack();
        }
        // In TIME-WAIT both streams are complete: nothing is left to be reset.
        let complete = self.state == State::TimeWait;
        effect.event = Some(if complete { Event::Closed } else { Event::Reset });
        self.close();
    }

    /// Seventh and eighth: offers the part of the payload that is next in sequence, cut at the window's edge, and a
    /// FIN only behind all of it. Nothing that is out of order is kept.
    fn accept_text(&mut self, segment: &Segment, effect: &mut Effect) {
        let fin = segment.has(Flags::FIN);
        if segment.len == 0 && !fin {
            return;
        }
        if segment.seq.gt(self.rcv.nxt) {
            return self.duplicate_ack();
        }
        let start = (self.rcv.nxt - segment.seq).min(segment.len);
        let end = segment.len.min(start.saturating_add(self.rcv.wnd()));
        effect.fin = fin && end == segment.len;
        if start < end {
            effect.payload = Some(start..end);
        }
        if start < end || effect.fin {
            self.offer(&(start..end), effect.fin);
        } else {
            // A probe of our closed window (RFC 9293 §3.8.6.1).
            self.duplicate_ack();
        }
    }
}
