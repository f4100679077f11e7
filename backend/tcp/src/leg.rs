//! The leg: its variables, how it begins, and what the host's side tells it.

use crate::{
    Config, Header, Instant, Keepalive, MAX_WINDOW_SCALE, Options, SackBlocks, Segment, Seq, State,
    acknowledgment::Refusal, challenge::Challenges, rto::Rto, sack::Scoreboard, timer::Timer, timestamps::Clock,
    window::Receive,
};

/// The peer's MSS over IPv4 if its SYN has none (RFC 9293 §3.7.1, MUST-15).
pub const DEFAULT_MSS: u16 = 536;
/// The same over IPv6.
pub const DEFAULT_MSS_IPV6: u16 = 1220;
/// No smaller MSS is believed: each segment would be little but headers. Linux has the same floor.
pub const MIN_MSS: u16 = 48;

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
///    [`host_finished`](Leg::host_finished) when its stream has ended, or [`host_gone`](Leg::host_gone) when it has let go
///    of the socket before the leg was done;
///    [`AckPolicy::Peer`](crate::AckPolicy::Peer) asks for [`peer_acked`](Leg::peer_acked), too;
/// 5. after any of these, once per burst, calls [`poll`](Leg::poll) until it returns `None`, as long as it has a guest
///    buffer for what comes: a [`Control`](crate::Transmit::Control) that is not sent counts as lost. In front of payload it
///    leaves room for [`options_len`](Leg::options_len) bytes beside the fixed headers;
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
    pub(crate) clock: Clock,
    pub(crate) challenges: Challenges,
    pub(crate) keepalive: Option<Keepalive>,
    /// When the guest was last heard of.
    pub(crate) heard: Instant,
    /// No socket of the host takes the guest's payload any more.
    pub(crate) orphan: bool,
    /// Timeouts in a row without progress, towards R2 (RFC 9293 §3.8.3).
    pub(crate) retries: u8,
    pub(crate) due: Due,
}

/// The send sequence variables (RFC 9293 §3.3.1).
#[derive(Clone, Debug)]
pub(crate) struct Send {
    pub(crate) iss: Seq,
    pub(crate) una: Seq,
    /// Our SYN is acknowledged. From then on ISS is nothing to compare with: after 2³¹ bytes it comes before or behind anything.
    pub(crate) synchronized: bool,
    /// Next to be sent: goes back to `una` after a timeout.
    pub(crate) nxt: Seq,
    /// Behind everything that was ever sent: acknowledgments up to it are good.
    pub(crate) max: Seq,
    pub(crate) wnd: u32,
    /// MAX.SND.WND of RFC 9293 §3.8.6.2.1 and RFC 5961 §5.2.
    pub(crate) max_wnd: u32,
    /// What it was worth when the guest last closed it.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) wl1: Seq,
    pub(crate) wl2: Seq,
    /// Snd.Wind.Shift
    pub(crate) scale: u8,
    /// The effective send MSS; before the guest's SYN, its default.
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
    /// Both sides' SYNs permit SACK; before the guest's is known: ours does.
    pub(crate) sack: bool,
    pub(crate) board: Scoreboard,
    /// HighRxt of RFC 6675: this recovery has repeated everything below it that needed to be.
    pub(crate) repeated: Seq,
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
    /// It does not wait for payload.
    pub(crate) prompt: bool,
    /// Acknowledgments that go at once and alone: duplicates for the guest's fast retransmit, and challenges.
    pub(crate) duplicates: u8,
    /// The first unacknowledged segment.
    pub(crate) resend: bool,
    /// Something into a window that is closed or too small.
    pub(crate) probe: bool,
    /// A keepalive probe.
    pub(crate) keepalive: bool,
    /// The same with a byte, which is answered however often it comes.
    pub(crate) question: bool,
    /// An acknowledgment, as soon as the guest has answered: what the question said of the window was dropped with it.
    pub(crate) ack_then: bool,
    /// What the guest has sent twice (RFC 2883) or behind a hole (RFC 2018): one for each of the next acknowledgments.
    pub(crate) reports: SackBlocks,
}

/// More duplicate ACKs in one burst tell the guest nothing that these do not (RFC 5681 §3.2).
pub(crate) const MAX_DUPLICATES: u8 = 3;

impl Leg {
    /// The guest opens, by `syn` (SYN without ACK or RST: the caller has looked): SYN-RECEIVED, but silent until
    /// [`host_connected`](Leg::host_connected); repeated SYNs are ignored until then. `iss` as in RFC 6528.
    /// The SYN's payload, if any, is left for the guest to send again.
    pub fn accept(config: &Config, syn: &Segment, iss: Seq, now: Instant) -> Leg {
        let mut leg = Leg::new(config, iss, State::SynReceived, now);
        leg.synchronize(now, syn);
        leg
    }

    /// The world opens: SYN-SENT; the first poll yields the SYN.
    pub fn open(config: &Config, iss: Seq, now: Instant) -> Leg {
        let mut leg = Leg::new(config, iss, State::SynSent, now);
        leg.due.syn = true;
        leg
    }

    pub(crate) fn new(config: &Config, iss: Seq, state: State, now: Instant) -> Leg {
        Leg {
            state,
            snd: Send {
                iss,
                una: iss,
                synchronized: false,
                nxt: iss,
                max: iss,
                wnd: 0,
                max_wnd: 0,
                wl1: Seq(0),
                wl2: iss,
                scale: 0,
                mss: config.default_mss,
                fin: None,
                readable: true,
                duplicate_acks: 0,
                recover: None,
                recovering: false,
                sack: config.sack,
                board: Scoreboard::new(),
                repeated: iss,
                refusal: None,
            },
            rcv: Receive::new(config),
            rto: Rto::new(),
            timer: Timer::Idle,
            clock: Clock::new(config),
            challenges: Challenges::new(),
            keepalive: config.keepalive,
            heard: now,
            orphan: false,
            retries: 0,
            due: Due::default(),
        }
    }

    /// The guest's SYN: IRS, its window, and its options (RFC 9293 §3.7.1, RFC 7323 §2.2).
    pub(crate) fn synchronize(&mut self, now: Instant, syn: &Segment) {
        let options = Options::parse(syn.options);
        self.clock.synchronize(now, syn.seq, &options);
        self.snd.sack &= options.sack_permitted;
        // None can be meant by 0: as other kernels have it, it counts as none.
        let mss = options.mss.filter(|&mss| mss > 0).unwrap_or(self.snd.mss).min(self.rcv.mss);
        // An announced MSS knows nothing of options: they are the sender's to take off (RFC 9293 §3.7.1, RFC 6691).
        self.snd.mss = mss.max(MIN_MSS) - self.options_len();
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

    /// The host socket has nothing more until it has news.
    pub fn host_drained(&mut self) {
        self.snd.readable = false;
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
            _ => Some((self.ack_seq(), Some(self.rcv.ack()))),
        };
        if self.state != State::Closed {
            self.close();
            self.due.reset = reset;
        }
    }

    /// The caller has let go of the host socket altogether: nobody is left to take payload of the guest. A leg that waits
    /// for the guest's FIN does so for [`FIN_WAIT_2`](crate::FIN_WAIT_2) at most, and answers payload by a RST
    /// (RFC 9293 §3.6.1, SHLD-3); one whose FIN is not on its way yet is aborted.
    pub fn host_gone(&mut self, now: Instant) {
        match self.state {
            State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck | State::TimeWait => {
                self.orphan = true;
                self.arm(now);
            }
            _ => self.abort(),
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

    /// The effective send MSS in bytes of payload: the guest's ([`Config::default_mss`] if it gave none), at most ours, at
    /// least [`MIN_MSS`]; less [`options_len`](Leg::options_len).
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

    /// Whether a SYN of the guest may replace this leg in TIME-WAIT: its timestamp is later than those of the old
    /// connection (RFC 6191 §2), or, where that says nothing, it begins beyond its last sequence number
    /// (RFC 9293 §3.6.1, RFC 1122 §4.2.2.13).
    pub fn reusable(&self, syn: &Segment) -> bool {
        let opens = syn.has(crate::Flags::SYN) && !syn.has(crate::Flags::ACK) && !syn.has(crate::Flags::RST);
        self.state == State::TimeWait
            && opens
            && self.clock.newer(&Options::parse(syn.options)).unwrap_or(syn.seq.gt(self.rcv.nxt))
    }

    /// The first byte of the host's stream that the guest has not acknowledged: SND.UNA, but for our SYN.
    pub(crate) fn data_una(&self) -> Seq {
        if self.snd.synchronized { self.snd.una } else { self.snd.iss + 1 }
    }

    /// Our FIN went out, at least once.
    pub fn fin_sent(&self) -> bool {
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

    /// A header with all that every segment says. A SACK block stands only where there is no payload behind it.
    pub(crate) fn header(&mut self, now: Instant, seq: Seq, flags: crate::Flags, payload: bool) -> Header {
        (self.due.ack, self.due.prompt) = (false, false);
        let mut sack = SackBlocks::EMPTY;
        if let Some((left, right)) = self.due.reports.take_first().filter(|_| !payload) {
            sack.push(left, right);
        }
        let options = Options { timestamps: self.clock.option(now), sack, ..Options::default() }.emit();
        let (window, ack) = (self.rcv.advertise(), self.rcv.ack());
        self.clock.last_ack_sent = ack;
        Header { seq, ack, flags, window, options }
    }
}
