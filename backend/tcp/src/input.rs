//! A segment arrives: RFC 9293 §3.10.7.4, step by step. Sixth (URG) is absent: urgent data is payload like any other.

use crate::{Effect, Event, Flags, Instant, Leg, Options, Segment, State};

impl Leg {
    /// A segment of this connection came from the guest (RFC 9293 §3.10.7.3 and §3.10.7.4). What the leg answers comes
    /// from [`poll`](Leg::poll).
    pub fn handle_segment(&mut self, now: Instant, segment: &Segment) -> Effect {
        self.rcv.offer = None;
        self.heard = now;
        let mut effect = Effect::default();
        match self.state {
            State::Closed => {}
            State::SynSent => self.segment_in_syn_sent(now, segment, &mut effect),
            State::SynReceived if self.silent() => self.segment_while_silent(segment, &mut effect),
            State::SynReceived if self.is_repeated_syn(segment) => {
                self.clock.syn_again(now, segment);
                self.due.syn = true;
            }
            _ => self.segment_in_sequence(now, segment, &mut effect),
        }
        self.arm(now);
        effect
    }

    fn segment_in_sequence(&mut self, now: Instant, segment: &Segment, effect: &mut Effect) {
        let options = Options::parse(segment.options);
        if !self.check_timestamp(now, segment, &options, effect) || !self.check_sequence(now, segment, effect) {
            return;
        }
        self.learn_timestamp(now, segment, &options);
        if core::mem::take(&mut self.due.ack_then) {
            (self.due.ack, self.due.prompt) = (true, true);
        }
        if segment.has(Flags::RST) {
            return self.check_reset(now, segment, effect);
        }
        // Third, security and compartment: not used by anyone. Fourth, SYN: RFC 5961 §4.
        if segment.has(Flags::SYN) {
            return self.challenge(now, effect);
        }
        if !segment.has(Flags::ACK) || !self.check_ack(now, segment, &options, effect) {
            return;
        }
        if self.state.receives() {
            self.accept_text(segment, effect);
        }
    }

    /// First: whether the segment has anything to do with the window. If not, it is answered by an ACK and dropped.
    fn check_sequence(&mut self, now: Instant, segment: &Segment, effect: &mut Effect) -> bool {
        let acceptable = self.acceptable(segment);
        if !acceptable && !segment.has(Flags::RST) {
            if self.state == State::TimeWait && segment.has(Flags::FIN) {
                // The guest has not seen our last ACK: its FIN restarts the wait.
                self.enter_time_wait(now);
            }
            if segment.seq_len() == 0 || segment.has(Flags::SYN) {
                self.challenge(now, effect);
            } else {
                self.note_duplicate(segment);
                self.duplicate_ack();
            }
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

    /// Second: a reset counts if it is exactly next in sequence, else it is challenged (RFC 5961 §3.2). In TIME-WAIT it
    /// is ignored: both streams are complete, and the wait must not be cut short (RFC 1337 §3, F1).
    fn check_reset(&mut self, now: Instant, segment: &Segment, effect: &mut Effect) {
        if self.state == State::TimeWait {
            return;
        }
        if segment.seq != self.rcv.nxt {
            return self.challenge(now, effect);
        }
        // In CLOSING and LAST-ACK the guest's stream is complete, and that it has forgotten the connection is no failure (RFC 9293
        // §3.10.7.4, second), unless it has not taken all of the host's: a restored leg may ask where its predecessor had all answers.
        let complete = matches!(self.state, State::Closing | State::LastAck) && self.snd.fin == Some(self.snd.una);
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
            self.note_out_of_order(segment);
            return self.duplicate_ack();
        }
        self.note_duplicate(segment);
        let start = (self.rcv.nxt - segment.seq).min(segment.len);
        let end = segment.len.min(start.saturating_add(self.rcv.wnd()));
        if self.orphan && start < end {
            // Nobody will ever read this (RFC 9293 §3.6.1, SHLD-3).
            self.abort();
            effect.event = Some(Event::GaveUp);
            return;
        }
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
