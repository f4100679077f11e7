//! What goes to the guest.

use crate::{DataPlan, Flags, Header, Instant, Leg, Options, Seq, State, Transmit, action::PlanKind};

impl Leg {
    /// The next thing to send; `None` if there is nothing. To be called until `None`, as long as the caller has guest
    /// buffers. `max_payload` is what a frame of the caller's can hold, in bytes, not 0: 64 KiB less headers and
    /// [`options_len`](Leg::options_len) if the guest takes segments to be cut, else [`mss`](Leg::mss).
    ///
    /// A [`Transmit::Control`] counts as sent. A [`Transmit::Data`] changes nothing until [`sent`](Leg::sent).
    pub fn poll(&mut self, now: Instant, max_payload: u32) -> Option<Transmit> {
        if let Some((seq, ack)) = self.due.reset.take() {
            let options = Options { timestamps: self.clock.option(now), ..Options::default() }.emit();
            return Some(Transmit::Control(Header { options, ..Header::reset(seq, ack) }));
        }
        if matches!(self.state, State::Closed | State::SynSent) || self.silent() {
            return self.poll_syn(now).map(Transmit::Control);
        }
        if let Some(header) = self.poll_syn(now) {
            return Some(Transmit::Control(header));
        }
        if self.due.duplicates > 0 {
            self.due.duplicates -= 1;
            return Some(self.pure_ack(now));
        }
        if core::mem::take(&mut self.due.question) {
            self.due.keepalive = false;
            return Some(Transmit::Question(self.keepalive_probe(now)));
        }
        if core::mem::take(&mut self.due.keepalive) {
            return Some(Transmit::Control(self.keepalive_probe(now)));
        }
        if let Some(plan) = self.plan(max_payload) {
            return Some(Transmit::Data(plan));
        }
        if let Some(header) = self.poll_fin(now) {
            return Some(Transmit::Control(header));
        }
        // A probe without a byte to probe with: nothing was there.
        self.due.probe = false;
        self.arm(now);
        let goes = self.due.ack && !self.ack_waits();
        goes.then(|| self.pure_ack(now))
    }

    fn pure_ack(&mut self, now: Instant) -> Transmit {
        let seq = self.ack_seq();
        Transmit::Control(self.header(now, seq, Flags::ACK, false))
    }

    /// Our FIN, where no payload is left to carry it.
    fn poll_fin(&mut self, now: Instant) -> Option<Header> {
        let fin = self.snd.fin.filter(|_| self.state.sends())?;
        let resend = self.due.resend && fin == self.snd.una;
        let next = fin == self.snd.nxt && (self.usable() > 0 || self.due.probe);
        if !resend && !next {
            return None;
        }
        let kind = match (resend, self.usable()) {
            (true, _) => PlanKind::Resend,
            (false, 0) => PlanKind::Probe,
            (false, _) => PlanKind::Next,
        };
        self.count(now, fin, fin + 1, kind);
        self.state = self.state.fin_sent();
        Some(self.header(now, fin, Flags::FIN | Flags::ACK, false))
    }

    /// The caller has peeked `n` bytes for `plan`: the header for them, which acknowledges too. With 0 nothing is sent
    /// and payload is not planned again until [`host_readable`](Leg::host_readable) or a retransmission.
    ///
    /// The plan is the one that the last poll returned, and nothing happened to the leg in between.
    pub fn sent(&mut self, now: Instant, plan: &DataPlan, n: u32) -> Option<Header> {
        if n == 0 {
            self.snd.readable = false;
            self.due.resend = false;
            self.due.probe = false;
            if plan.kind == PlanKind::Resend {
                self.snd.repeated = self.snd.max;
            }
            return None;
        }
        let n = n.min(plan.max);
        let end = plan.seq + n;
        let fin = self.fin_behind(plan, end);
        let mut flags = Flags::ACK;
        if n < plan.max || fin || self.snd.fin == Some(end) {
            flags = flags | Flags::PSH;
        }
        if fin {
            flags = flags | Flags::FIN;
            self.state = self.state.fin_sent();
        }
        self.count(now, plan.seq, end + u32::from(fin), plan.kind);
        Some(self.header(now, plan.seq, flags, true))
    }

    /// Whether our FIN goes with the payload that ends at `end`: there is room for it, and a repeated segment does not
    /// bring it forward.
    fn fin_behind(&self, plan: &DataPlan, end: Seq) -> bool {
        let room = end.lt(self.snd.una + self.snd.wnd);
        let in_turn = plan.kind == PlanKind::Next || self.fin_sent();
        self.snd.fin == Some(end) && room && in_turn
    }

    /// Bookkeeping for a segment that occupies `seq..end`.
    fn count(&mut self, now: Instant, seq: Seq, end: Seq, kind: PlanKind) {
        if seq.lt(self.snd.max) {
            self.rto.forget();
        } else {
            self.rto.start(end, now);
        }
        self.snd.max = self.snd.max.max(end);
        match kind {
            PlanKind::Next => self.snd.nxt = self.snd.board.skip(end),
            PlanKind::Resend => {
                self.due.resend = false;
                self.snd.repeated = self.snd.repeated.max(end);
            }
            PlanKind::Probe => {}
        }
        self.due.probe = false;
        self.arm(now);
    }
}
