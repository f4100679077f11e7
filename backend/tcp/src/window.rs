//! The receive window: what the guest may send, and what the host took of it.

use core::ops::Range;

use crate::{Config, Instant, Leg, MAX_WINDOW_SCALE, Seq, State, timer};

/// The receive sequence variables (RFC 9293 §3.3.1). RCV.WND is `edge - nxt`.
#[derive(Clone, Debug)]
pub(crate) struct Receive {
    pub(crate) nxt: Seq,
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
        self.edge = self.nxt;
        self.advertised = self.nxt;
        self.scaled = scaled;
        if !scaled {
            self.scale = 0;
        }
        self.extend();
    }

    /// RCV.WND
    pub(crate) fn wnd(&self) -> u32 {
        self.edge - self.nxt
    }

    /// Moves the right edge as the host's room allows: to the right by one MSS or half of the most room at least, so
    /// that no silly window is offered (RFC 9293 §3.8.6.2.2); to the left only as far as the guest has not heard of it.
    fn extend(&mut self) {
        let largest = u32::from(u16::MAX) << self.scale;
        let free = (self.free.min(largest) >> self.scale) << self.scale;
        let target = self.nxt + free;
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
        let units = self.wnd().div_ceil(1 << self.scale);
        let field = u16::try_from(units).unwrap_or(u16::MAX);
        self.advertised = self.nxt + (u32::from(field) << self.scale);
        self.edge = self.edge.max(self.advertised);
        field
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
        self.due.ack = true;
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
        self.rcv.nxt += n;
        if n > 0 {
            // What was out of order before this segment is answered by its ACK.
            self.due.duplicates = 0;
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
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(now),
            _ => {}
        }
    }

    /// TIME-WAIT, from its start.
    pub(crate) fn enter_time_wait(&mut self, now: Instant) {
        self.state = State::TimeWait;
        self.timer = timer::Timer::TimeWait { at: now + 2 * timer::MSL };
    }
}
