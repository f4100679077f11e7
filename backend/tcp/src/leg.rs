//! The leg: its variables, how it begins, and what the host's side tells it.

use crate::{Header, Instant, MAX_WINDOW_SCALE, Options, Segment, Seq, State, rto::Rto, timer::Timer, window::Receive};

/// The peer's MSS if its SYN has none (RFC 9293 §3.7.1, MUST-15). It is IPv4's; IPv6's is larger, so this is safe.
pub const DEFAULT_MSS: u16 = 536;
/// No smaller MSS is believed: each segment would be little but headers. Linux has the same floor.
pub const MIN_MSS: u16 = 48;

/// What the leg announces to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The largest payload of a frame from the guest, in bytes: the MTU less the fixed headers. What is sent to the
    /// guest is bounded by it, too, since it is the same link.
    pub mss: u16,
    /// Shift of our window; above [`MAX_WINDOW_SCALE`] counts as that.
    pub window_scale: u8,
}

/// One TCP leg towards a guest.
///
/// # Calling contract
///
/// The leg does nothing by itself. The caller, which owns the rings, the host socket and the clock:
///
/// 1. after [`accept`](Leg::accept) starts the host's connect and reports it by
///    [`host_connected`](Leg::host_connected) or [`abort`](Leg::abort);
/// 2. hands each segment of the guest to [`handle_segment`](Leg::handle_segment); acts on the [`Effect`](crate::Effect):
///    offers payload to the host socket and reports by [`taken`](Leg::taken) before the next segment, drops what was
///    acknowledged from the host's queue;
/// 3. says how much the host socket can take by [`set_window`](Leg::set_window): before the first poll (the window is
///    0 until then), after `taken`, and when the socket becomes writable;
/// 4. says [`host_readable`](Leg::host_readable) when the host socket has news, and
///    [`host_finished`](Leg::host_finished) when its stream has ended;
/// 5. after any of these, once per burst, calls [`poll`](Leg::poll) until it returns `None`, as long as it has a guest
///    buffer for what comes: a [`Control`](crate::Transmit::Control) that is not sent counts as lost;
/// 6. sees that [`handle_timeout`](Leg::handle_timeout) is called when [`deadline`](Leg::deadline) has come, and polls;
/// 7. forgets the leg when [`is_closed`](Leg::is_closed).
///
/// Time never goes back from one call to the next. No call fails, whatever a guest sends.
#[derive(Clone, Debug)]
pub struct Leg {
    pub(crate) state: State,
    pub(crate) snd: Send,
    pub(crate) rcv: Receive,
    pub(crate) rto: Rto,
    pub(crate) timer: Timer,
    /// Timeouts in a row without progress, towards R2 (RFC 9293 §3.8.3).
    pub(crate) retries: u8,
    pub(crate) due: Due,
}

/// The send sequence variables (RFC 9293 §3.3.1).
#[derive(Clone, Debug)]
pub(crate) struct Send {
    pub(crate) iss: Seq,
    pub(crate) una: Seq,
    /// Next to be sent: goes back to `una` after a timeout.
    pub(crate) nxt: Seq,
    /// Behind everything that was ever sent: acknowledgments up to it are good.
    pub(crate) max: Seq,
    pub(crate) wnd: u32,
    /// MAX.SND.WND of RFC 9293 §3.8.6.2.1 and RFC 5961 §5.2.
    pub(crate) max_wnd: u32,
    pub(crate) wl1: Seq,
    pub(crate) wl2: Seq,
    /// Snd.Wind.Shift
    pub(crate) scale: u8,
    pub(crate) mss: u16,
    /// Where our FIN stands in the sequence, once the host's stream has ended.
    pub(crate) fin: Option<Seq>,
    /// The host's queue may hold bytes from `nxt` on.
    pub(crate) readable: bool,
    pub(crate) duplicate_acks: u8,
    /// RFC 6582: `max` when loss recovery last began; duplicate ACKs up to it say nothing new.
    pub(crate) recover: Option<Seq>,
    /// Fast recovery is going on: a partial ACK uncovers the next hole.
    pub(crate) recovering: bool,
}

/// What the next polls owe to the guest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Due {
    /// A reset, with its SEG.SEQ and, where it has one, SEG.ACK.
    pub(crate) reset: Option<(Seq, Option<Seq>)>,
    /// SYN or SYN-ACK.
    pub(crate) syn: bool,
    /// An acknowledgment; payload can carry it.
    pub(crate) ack: bool,
    /// Acknowledgments that go at once and alone: duplicates for the guest's fast retransmit, and challenges.
    pub(crate) duplicates: u8,
    /// The first unacknowledged segment.
    pub(crate) resend: bool,
    /// Something into a window that is closed or too small.
    pub(crate) probe: bool,
}

/// More duplicate ACKs in one burst tell the guest nothing that these do not (RFC 5681 §3.2).
const MAX_DUPLICATES: u8 = 3;

impl Leg {
    /// The guest opens, by `syn` (SYN without ACK or RST: the caller has looked): SYN-RECEIVED, but silent until
    /// [`host_connected`](Leg::host_connected); repeated SYNs are ignored until then. `iss` as in RFC 6528.
    /// The SYN's payload, if any, is left for the guest to send again.
    pub fn accept(config: &Config, syn: &Segment, iss: Seq, _now: Instant) -> Leg {
        let mut leg = Leg::new(config, iss, State::SynReceived);
        leg.synchronize(syn);
        leg
    }

    /// The world opens: SYN-SENT; the first poll yields the SYN.
    pub fn open(config: &Config, iss: Seq, _now: Instant) -> Leg {
        let mut leg = Leg::new(config, iss, State::SynSent);
        leg.due.syn = true;
        leg
    }

    fn new(config: &Config, iss: Seq, state: State) -> Leg {
        Leg {
            state,
            snd: Send {
                iss,
                una: iss,
                nxt: iss,
                max: iss,
                wnd: 0,
                max_wnd: 0,
                wl1: Seq(0),
                wl2: iss,
                scale: 0,
                mss: DEFAULT_MSS,
                fin: None,
                readable: true,
                duplicate_acks: 0,
                recover: None,
                recovering: false,
            },
            rcv: Receive::new(config),
            rto: Rto::new(),
            timer: Timer::Idle,
            retries: 0,
            due: Due::default(),
        }
    }

    /// The guest's SYN: IRS, its window, and its options (RFC 9293 §3.7.1, RFC 7323 §2.2).
    pub(crate) fn synchronize(&mut self, syn: &Segment) {
        let options = Options::parse(syn.options);
        let mss = options.mss.unwrap_or(DEFAULT_MSS).min(self.rcv.mss);
        self.snd.mss = mss.max(MIN_MSS);
        self.snd.scale = options.window_scale.map_or(0, |shift| shift.min(MAX_WINDOW_SCALE));
        self.snd.wnd = syn.window.into();
        self.snd.max_wnd = self.snd.wnd;
        self.snd.wl1 = syn.seq;
        self.rcv.synchronize(syn.seq, options.window_scale.is_some());
    }

    /// The host's connect succeeded: the SYN-ACK is due.
    pub fn host_connected(&mut self, _now: Instant) {
        if self.silent() {
            self.due.syn = true;
        }
    }

    /// SYN-RECEIVED, and the SYN-ACK has neither gone nor is it due.
    pub(crate) fn silent(&self) -> bool {
        self.state == State::SynReceived && self.snd.max == self.snd.iss && !self.due.syn
    }

    /// The host socket has news: the leg may plan payload again.
    pub fn host_readable(&mut self) {
        self.snd.readable = true;
    }

    /// The host's stream has ended: the caller saw its end `queued` bytes beyond SND.UNA, which are still in the
    /// receive queue, be they sent or not. The FIN goes behind them. A second call changes nothing.
    pub fn host_finished(&mut self, queued: u32) {
        if self.snd.fin.is_none() {
            self.snd.fin = Some((self.data_una() + queued).max(self.snd.max));
            self.snd.readable = true;
        }
    }

    /// The host's side failed (refused, reset), or the leg must end: the guest gets a RST by the next poll
    /// (RFC 9293 §3.10.5), and the leg is closed. No RST goes in SYN-SENT and TIME-WAIT: none is needed.
    pub fn abort(&mut self) {
        let reset = match self.state {
            State::SynSent | State::TimeWait | State::Closed => None,
            // The form of RFC 9293 §3.5.2, group 1: the guest has seen no sequence number of ours.
            State::SynReceived if self.snd.max == self.snd.iss => Some((Seq(0), Some(self.rcv.nxt))),
            _ => Some((self.ack_seq(), Some(self.rcv.nxt))),
        };
        if self.state != State::Closed {
            self.close();
            self.due.reset = reset;
        }
    }

    /// CLOSED: nothing is owed any more.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
        self.timer = Timer::Idle;
        self.due = Due::default();
        self.rcv.offer = None;
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the leg can be forgotten: closed, and the last poll has been made.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed && self.due.reset.is_none()
    }

    /// The effective send MSS in bytes of payload: the guest's ([`DEFAULT_MSS`] if it gave none), at most ours, at
    /// least [`MIN_MSS`].
    pub fn mss(&self) -> u16 {
        self.snd.mss
    }

    /// SND.UNA: the oldest unacknowledged sequence number.
    pub fn snd_una(&self) -> Seq {
        self.snd.una
    }

    /// Behind everything that was ever sent. A leg that replaces this one in TIME-WAIT takes an ISS beyond it.
    pub fn snd_max(&self) -> Seq {
        self.snd.max
    }

    /// SND.WND: the guest's window in bytes from SND.UNA.
    pub fn snd_wnd(&self) -> u32 {
        self.snd.wnd
    }

    /// RCV.NXT: the next sequence number expected from the guest; 0 in SYN-SENT.
    pub fn rcv_nxt(&self) -> Seq {
        self.rcv.nxt
    }

    /// Whether a SYN of the guest may replace this leg in TIME-WAIT: it begins beyond the old connection's last
    /// sequence number (RFC 9293 §3.6.1, RFC 1122 §4.2.2.13).
    pub fn reusable(&self, syn: &Segment) -> bool {
        let opens = syn.has(crate::Flags::SYN) && !syn.has(crate::Flags::ACK) && !syn.has(crate::Flags::RST);
        self.state == State::TimeWait && opens && syn.seq.gt(self.rcv.nxt)
    }

    /// The first byte of the host's stream that the guest has not acknowledged: SND.UNA, but for our SYN.
    pub(crate) fn data_una(&self) -> Seq {
        self.snd.una.max(self.snd.iss + 1)
    }

    /// Our FIN went out, at least once.
    pub(crate) fn fin_sent(&self) -> bool {
        self.snd.fin.is_some_and(|fin| self.snd.max.gt(fin))
    }

    /// The guest has acknowledged our FIN.
    pub(crate) fn fin_acked(&self) -> bool {
        self.snd.fin.is_some_and(|fin| self.snd.una.gt(fin))
    }

    /// One more acknowledgment goes at once and alone.
    pub(crate) fn duplicate_ack(&mut self) {
        self.due.duplicates = (self.due.duplicates + 1).min(MAX_DUPLICATES);
    }

    /// SEG.SEQ of a segment without payload: behind everything sent, so that the guest takes it for new, but not
    /// beyond its window, where it would drop it. (SND.NXT is behind after a timeout; a window probe puts `max` beyond
    /// the window.)
    pub(crate) fn ack_seq(&self) -> Seq {
        if self.snd.nxt == self.snd.max { self.snd.max } else { self.snd.max.min(self.snd.una + self.snd.wnd) }
    }

    pub(crate) fn header(&mut self, seq: Seq, flags: crate::Flags) -> Header {
        self.due.ack = false;
        let window = self.rcv.advertise();
        Header { seq, ack: self.rcv.nxt, flags, window, options: crate::OptionBytes::EMPTY }
    }
}
