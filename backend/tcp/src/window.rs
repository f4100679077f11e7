//! The receive window: what the guest may send, and what the host took of it.

use core::ops::Range;

use crate::{AckPolicy, Config, Instant, Leg, MAX_WINDOW_SCALE, Seq, State, timer};

/// The receive sequence variables (RFC 9293 §3.3.1). RCV.WND is `edge - nxt`.
#[derive(Clone, Debug)]
pub(crate) struct Receive {
    pub(crate) nxt: Seq,
    /// SEG.ACK of what goes out: RCV.NXT, but for what the remote peer has yet to acknowledge.
    released: Seq,
    policy: AckPolicy,
    patience: u32,
    /// The guest's FIN is taken.
    finished: bool,
    /// The window's right edge. It never moves left.
    pub(crate) edge: Seq,
    /// The right edge that the guest last heard of.
    advertised: Seq,
    /// What the host socket could take when last asked, in bytes, and the most it ever could.
    free: u32,
    most_free: u32,
    /// Rcv.Wind.Shift; before the guest's SYN, the one that we offer.
    pub(crate) scale: u8,
    /// Both sides' SYNs have the option.
    pub(crate) scaled: bool,
    /// The MSS that we announce.
    pub(crate) mss: u16,
    /// Payload in bytes and FIN that the caller is offering to the host socket.
    pub(crate) offer: Option<(u32, bool)>,
}

impl Receive {
    pub(crate) fn new(config: &Config) -> Receive {
        Receive {
            nxt: Seq(0),
            released: Seq(0),
            policy: config.ack,
            patience: config.patience,
            finished: false,
            edge: Seq(0),
            advertised: Seq(0),
            free: 0,
            most_free: 0,
            scale: config.window_scale.min(MAX_WINDOW_SCALE),
            scaled: false,
            mss: config.mss,
            offer: None,
        }
    }

    /// The guest's SYN is known.
    pub(crate) fn synchronize(&mut self, irs: Seq, scaled: bool) {
        self.nxt = irs + 1;
        self.released = self.nxt;
        self.edge = self.nxt;
        self.advertised = self.nxt;
        self.scaled = scaled;
        if !scaled {
            self.scale = 0;
        }
        self.extend();
    }

    /// The stream goes on from here, another leg having taken what is before it.
    pub(crate) fn resume(&mut self, nxt: Seq, finished: bool, held: u32) {
        self.nxt = nxt;
        self.released = match self.policy {
            AckPolicy::Peer if held > 0 => nxt - (held + u32::from(finished)),
            _ => nxt,
        };
        self.edge = nxt;
        self.advertised = nxt;
        self.finished = finished;
    }

    /// SEG.ACK
    pub(crate) fn ack(&self) -> Seq {
        self.released
    }

    /// Whether something is taken that is not to be acknowledged yet.
    pub(crate) fn holds(&self) -> bool {
        self.released != self.nxt
    }

    /// Whether acknowledgments may come after segments that could have carried them.
    pub(crate) fn lags(&self) -> bool {
        self.policy == AckPolicy::Peer
    }

    /// Payload bytes that are taken and not to be acknowledged yet.
    fn held(&self) -> u32 {
        let all = self.nxt - self.released;
        all - u32::from(self.finished && all > 0)
    }

    /// `n` bytes of what is held are to be acknowledged. A FIN goes with the last of them: its own way to the peer changes
    /// nothing for the guest's stream.
    fn release(&mut self, n: u32) {
        self.released += n.min(self.held());
        if self.held() == 0 {
            self.released = self.nxt;
        }
    }

    /// RCV.WND
    pub(crate) fn wnd(&self) -> u32 {
        self.edge - self.nxt
    }

    /// Moves the right edge as the host's room allows: to the right by one MSS or half of the most room at least, so
    /// that no silly window is offered (RFC 9293 §3.8.6.2.2); to the left only as far as the guest has not heard of it.
    fn extend(&mut self) {
        let largest = u32::from(u16::MAX) << self.scale;
        // The field counts from SEG.ACK.
        let held = self.nxt - self.released;
        let window = (self.free.saturating_add(held).min(largest) >> self.scale) << self.scale;
        let target = self.released + window;
        if target.lt(self.edge) {
            self.edge = target.max(self.advertised).max(self.nxt);
        } else if target.beyond(self.edge) >= self.step(1) {
            self.edge = target;
        }
    }

    /// So many MSS, or half of the most room if that is less; not 0.
    fn step(&self, segments: u32) -> u32 {
        (segments * u32::from(self.mss)).min(self.most_free / 2).max(1)
    }

    /// SEG.WND: rounded up, since rounding down would move the right edge left (RFC 7323 §2.4).
    pub(crate) fn advertise(&mut self) -> u16 {
        let units = (self.edge - self.released).div_ceil(1 << self.scale);
        let field = u16::try_from(units).unwrap_or(u16::MAX);
        self.advertised = self.released + (u32::from(field) << self.scale);
        self.edge = self.edge.max(self.advertised);
        field
    }

    /// Whether an acknowledgment is in no hurry of which `said` is the last: it would say little new, and the guest can go on without. One
    /// that has waited for the peer has waited enough.
    fn is_patient(&self, said: Seq) -> bool {
        !self.lags() && self.ack() - said < self.patience && self.advertised.beyond(self.nxt) >= self.patience
    }

    /// SEG.WND of a segment with SYN: never scaled (RFC 7323 §2.2).
    pub(crate) fn advertise_in_syn(&mut self, synchronized: bool) -> u16 {
        let wnd = if synchronized { self.wnd() } else { self.free };
        let field = u16::try_from(wnd).unwrap_or(u16::MAX);
        self.advertised = self.advertised.max(self.nxt + u32::from(field));
        field
    }

    /// The window has opened by so much that the guest should hear of it without having asked: from 0, or by two MSS
    /// or half of the most room.
    fn update_due(&self) -> bool {
        let opened = self.edge.beyond(self.advertised);
        opened > 0 && (self.advertised.le(self.nxt) || opened >= self.step(2))
    }
}

impl Leg {
    /// How many bytes the host socket can take now: the window to advertise from here on. The right edge that was
    /// advertised never moves left, whatever is said here. An ACK falls due if the window opens from 0, or by two MSS
    /// (or half of the largest window, if that is less).
    pub fn set_window(&mut self, free: u32) {
        self.rcv.free = free;
        self.rcv.most_free = self.rcv.most_free.max(free);
        if self.state == State::SynSent {
            return;
        }
        self.rcv.extend();
        if self.state.receives() && self.rcv.update_due() {
            self.due.ack = true;
        }
    }

    /// Whether what is left of the window is too little to be told of, although the guest may send: less than one MSS, or half of the
    /// most room if that is less.
    pub fn window_is_silly(&self) -> bool {
        self.state.receives() && self.rcv.wnd() < self.rcv.step(1)
    }

    /// The host socket took less than was offered some time ago, and has room now: duplicate ACKs make the guest send the rest at
    /// once (RFC 5681 §3.2) instead of after its timeout. One more than the three that count, since the first may carry
    /// another window and then counts for none (RFC 5681 §2).
    pub fn ask_again(&mut self) {
        if self.state.receives() {
            self.due.duplicates = 4;
        }
    }

    /// RFC 9293 §3.10.7.4, seventh and eighth: notes what is offered to the host socket, and acknowledges it by and by.
    pub(crate) fn offer(&mut self, payload: &Range<u32>, fin: bool) {
        self.rcv.offer = Some((payload.end - payload.start, fin));
        // Under the other policy an ACK that says nothing new would look like a duplicate one.
        self.due.ack |= self.rcv.policy == AckPolicy::Kernel;
    }

    /// The answer to [`Effect::payload`](crate::Effect::payload) and [`Effect::fin`](crate::Effect::fin): the host
    /// socket took the first `n` bytes of what was offered (0 if only a FIN was). The rest stays unacknowledged and
    /// the guest hears so at once.
    ///
    /// Returns whether the guest's stream ends here: everything was taken and the FIN stood behind it. The caller then
    /// shuts the host socket down for writing.
    pub fn taken(&mut self, now: Instant, n: u32) -> bool {
        let Some((offered, fin)) = self.rcv.offer.take() else { return false };
        let n = n.min(offered);
        if n > 0 {
            // What was out of order before this segment is answered by its ACK, and not held any more.
            self.due.duplicates = 0;
            self.due.reports.forget_from(self.rcv.nxt);
        }
        self.rcv.nxt += n;
        if self.rcv.policy == AckPolicy::Kernel {
            self.rcv.release(n);
        }
        if n < offered {
            self.duplicate_ack();
        }
        let finished = n == offered && fin;
        if finished {
            self.fin_received(now);
        }
        // A FIN, or bytes in a window that was rounded up, may lie beyond the edge.
        self.rcv.edge = self.rcv.edge.max(self.rcv.nxt);
        finished
    }

    /// RFC 9293 §3.10.7.4, eighth: the guest's FIN counts.
    fn fin_received(&mut self, now: Instant) {
        self.rcv.nxt += 1;
        self.rcv.finished = true;
        if self.rcv.held() == 0 {
            self.rcv.release(0);
            (self.due.ack, self.due.prompt) = (true, true);
        }
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            // As if our FIN had not been acknowledged: the host socket is needed until the last bytes are.
            State::FinWait2 if self.rcv.holds() => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(now),
            _ => {}
        }
    }

    /// Whether an acknowledgment is owed that waits for something to carry it, as [`Config::patience`] lets it. The caller has it go by
    /// [`hurry`](Leg::hurry) before long (RFC 9293 §3.8.6.3: within half a second).
    pub fn ack_waits(&self) -> bool {
        self.due.ack && !self.due.prompt && self.rcv.is_patient(self.clock.last_ack_sent)
    }

    /// What waits for something to carry it goes with the next poll.
    pub fn hurry(&mut self) {
        self.due.prompt |= self.due.ack;
    }

    /// Whether most of the window that there ever was is open still, so that there is little to be won by asking for room. Where
    /// acknowledgments wait for the peer, what is held counts, too, and only the socket knows how it stands.
    pub fn window_is_roomy(&self) -> bool {
        !self.rcv.lags() && self.rcv.wnd() > self.rcv.most_free - self.rcv.most_free / 8
    }

    /// Under [`AckPolicy::Peer`]: payload bytes that the host socket took and the remote peer is not known to have
    /// acknowledged. As long as it is not 0, the caller asks the socket (SIOCOUTQ) now and then, and keeps it.
    pub fn held(&self) -> u32 {
        self.rcv.held()
    }

    /// Under [`AckPolicy::Peer`]: the remote peer has acknowledged `n` more of the [`held`](Leg::held) bytes (more than
    /// there are count as all of them); the guest is told by the next poll, and of its FIN with the last of them. The
    /// window's right edge stays where it is. TIME-WAIT may begin here.
    pub fn peer_acked(&mut self, now: Instant, n: u32) {
        let before = self.rcv.ack();
        self.rcv.release(n);
        if self.rcv.ack() == before || self.state == State::Closed {
            return;
        }
        (self.due.ack, self.due.prompt) = (true, true);
        self.rcv.extend();
        if self.state == State::Closing && self.fin_acked() && !self.rcv.holds() {
            self.enter_time_wait(now);
        }
    }

    /// TIME-WAIT, from its start.
    pub(crate) fn enter_time_wait(&mut self, now: Instant) {
        self.state = State::TimeWait;
        self.timer = timer::Timer::TimeWait { at: now + 2 * timer::MSL };
    }
}
