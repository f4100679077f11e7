//! One end of a connection made by hand, and the application at its other end. Positions are relative: 0 is the first byte of
//! either stream.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use vonic_peer::application::ramp;
use vonic_tests::frames::{Mac, Tcp};
use vonic_tests::mock::{MockFrontend, VnetHeader};
use vonic_tests::wire::connect;
use vonic_tests::*;

/// Shift of the injector's window where it has one.
pub const SCALE: u8 = 7;
/// What comes behind the last thing that was asked for may lie so far behind it.
const GRACE: Duration = Duration::from_millis(10);

/// Who is examined.
pub struct Subject {
    pub name: &'static str,
    pub mac: Mac,
    /// Where applications take orders.
    pub control: SocketAddr,
}

/// What a SYN of the injector offers.
#[derive(Clone, Debug)]
pub struct Offer {
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub sack: bool,
    pub stamps: bool,
    /// Instead of all those.
    pub raw: Option<Vec<u8>>,
}

impl Offer {
    pub const NONE: Offer = Offer { mss: None, scale: None, sack: false, stamps: false, raw: None };
    pub const MSS: Offer = Offer { mss: Some(1460), ..Offer::NONE };
    pub const SCALED: Offer = Offer { scale: Some(SCALE), ..Offer::MSS };
    pub const STAMPED: Offer = Offer { stamps: true, ..Offer::SCALED };

    fn options(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut options = Vec::new();
        options.extend(self.mss.into_iter().flat_map(|mss| [2, 4, (mss >> 8) as u8, mss as u8]));
        options.extend(self.scale.into_iter().flat_map(|shift| [1, 3, 3, shift]));
        options.extend(self.sack.then_some([1, 1, 4, 2]).into_iter().flatten());
        if self.stamps {
            options.extend(stamps(FIRST_STAMP, 0));
        }
        options
    }
}

/// The injector's clock at its SYN.
const FIRST_STAMP: u32 = 0xffff_fff0;

fn stamps(val: u32, ecr: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &val.to_be_bytes(), &ecr.to_be_bytes()].concat()
}

/// TSval and TSecr.
pub fn stamps_of(options: &[u8]) -> Option<(u32, u32)> {
    let value = option(options, 8)?;
    let word = |at: usize| value[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    Some((word(0), word(4)))
}

/// The value of an option.
pub fn option(mut options: &[u8], kind: u8) -> Option<&[u8]> {
    loop {
        options = match *options {
            [1, ref rest @ ..] => rest,
            [found, length, ..] if found != 0 => {
                let (value, rest) = options.split_at_checked(length.into())?;
                if found == kind {
                    return value.get(2..);
                }
                rest
            }
            _ => return None,
        };
    }
}

/// A connection as the injector has it.
#[derive(Clone, Debug, Default)]
pub struct Conn {
    pub ports: (u16, u16),
    iss: u32,
    irs: u32,
    /// So much of the subject's stream is acknowledged.
    pub has: u32,
    /// SEG.WND as it stands in the header.
    pub window: u16,
    shift: u8,
    /// TSval of what is sent, and the subject's last.
    pub stamps: Option<(u32, u32)>,
    /// The right edge of the subject's window, and whether it ever moved left.
    pub edge: u32,
    pub shrunk: bool,
}

impl Conn {
    /// The same ports, with an ISS that lies so far beyond the old one.
    pub fn reborn(&mut self, distance: u32) {
        let iss = self.iss.wrapping_add(distance);
        *self = Conn { ports: self.ports, iss, window: self.window, ..Conn::default() };
    }
}

/// A segment of the subject.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Where it begins in the subject's stream.
    pub at: u32,
    pub len: u32,
    /// How much of the injector's stream it acknowledges.
    pub acks: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub when: Instant,
}

impl Heard {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What was seen where something else was expected.
#[derive(Clone, Debug)]
pub struct Finding {
    pub case: &'static str,
    pub what: String,
    pub subject: &'static str,
    pub saw: String,
    pub wanted: String,
    pub family: &'static str,
}

pub struct Bench<'a> {
    pub mock: &'a mut MockFrontend,
    link: (Mac, Mac),
    addresses: (IpAddr, IpAddr),
    subject: &'static str,
    control: BufReader<TcpStream>,
    next_port: u16,
    pub case: &'static str,
    pub findings: Vec<Finding>,
    pub conn: Conn,
}

impl<'a> Bench<'a> {
    /// The injector has the first of the addresses, the subject the second.
    pub fn new(
        mock: &'a mut MockFrontend,
        mac: Mac,
        addresses: (IpAddr, IpAddr),
        subject: &Subject,
        first_port: u16,
    ) -> Result<Bench<'a>> {
        let control = connect(subject.control)?;
        control.set_read_timeout(Some(seconds(30)))?;
        control.set_nodelay(true)?;
        Ok(Bench {
            mock,
            link: (mac, subject.mac),
            addresses,
            subject: subject.name,
            control: BufReader::new(control),
            next_port: first_port,
            case: "",
            findings: vec![],
            conn: Conn::default(),
        })
    }

    /// From which another bench may go on.
    pub fn next_port(&self) -> u16 {
        self.next_port
    }

    pub fn family(&self) -> &'static str {
        if self.addresses.0.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// The MSS of a link with an MTU of 1500.
    pub fn mss(&self) -> u32 {
        if self.addresses.0.is_ipv4() { 1460 } else { 1440 }
    }

    /// Notes what is not as wanted.
    pub fn check(&mut self, what: &str, saw: impl ToString, wanted: impl ToString) {
        let (saw, wanted) = (saw.to_string(), wanted.to_string());
        if saw != wanted {
            let (case, subject, family) = (self.case, self.subject, self.family());
            self.findings.push(Finding { case, what: what.to_string(), subject, saw, wanted, family });
        }
    }

    /// Gives the application an order.
    pub fn tell(&mut self, order: &str) -> Result<()> {
        Ok(self.control.get_mut().write_all(format!("{order}\n").as_bytes())?)
    }

    /// What the application answers.
    pub fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.control.read_line(&mut line).context("the application's answer")?;
        Ok(line.trim().to_string())
    }

    pub fn ask(&mut self, order: &str) -> Result<String> {
        self.tell(order)?;
        self.answer().with_context(|| order.to_string())
    }

    /// Gives an order that must be answered so.
    pub fn must(&mut self, order: &str, wanted: &str) -> Result<()> {
        let answer = self.ask(order)?;
        ensure!(answer == wanted, "{order}: {answer}");
        Ok(())
    }

    /// A port on which the application listens.
    pub fn listen(&mut self) -> Result<u16> {
        let answer = self.ask("listen 0")?;
        Ok(answer.strip_prefix("port ").context(answer.clone())?.parse()?)
    }

    /// A connection to `port` that has not begun. Its sequence numbers will wrap soon.
    pub fn begin(&mut self, port: u16, offer: &Offer) {
        self.next_port += 1;
        let iss = 0u32.wrapping_sub(1500);
        let stamps = offer.stamps.then_some((FIRST_STAMP, 0));
        self.conn = Conn { ports: (self.next_port, port), iss, window: 0xffff, stamps, ..Conn::default() };
    }

    pub fn send_syn(&mut self, offer: &Offer) -> Result<()> {
        let options = offer.options();
        let sequence = self.conn.iss;
        self.send(&Tcp { sequence, acknowledgment: 0, options, ..self.segment(0, 0, Tcp::SYN) })
    }

    /// The answer to the SYN.
    pub fn hear_syn_ack(&mut self) -> Result<Heard> {
        self.hear_syn_ack_within(seconds(5))?.context("no answer to the SYN")
    }

    /// The answer to the SYN, if there is one.
    pub fn hear_syn_ack_within(&mut self, limit: Duration) -> Result<Option<Heard>> {
        let Some(heard) = self.raw(limit)? else { return Ok(None) };
        self.conn.irs = heard.sequence;
        self.conn.shift = option(&heard.options, 3).map_or(0, |value| value[0]);
        if let (Some((val, _)), Some(stamps)) = (stamps_of(&heard.options), &mut self.conn.stamps) {
            stamps.1 = val;
        }
        self.understand(heard).map(Some)
    }

    /// SYN, SYN-ACK, ACK, accepted by the application.
    pub fn open(&mut self, offer: &Offer) -> Result<Heard> {
        let port = self.listen()?;
        self.begin(port, offer);
        self.send_syn(offer)?;
        let heard = self.hear_syn_ack()?;
        ensure!(heard.flags == Tcp::SYN | Tcp::ACK, "no SYN-ACK: {heard:?}");
        self.ack(0)?;
        self.must("accept", "accepted")?;
        Ok(heard)
    }

    /// Ends the connection on both sides: `sent` bytes of the injector's stream are acknowledged.
    pub fn close(&mut self, sent: u32) -> Result<()> {
        self.put(sent, 0, Tcp::RST | Tcp::ACK)?;
        self.ask("reset")?;
        self.settle().map(drop)
    }

    fn segment(&self, at: u32, len: u32, flags: u8) -> Tcp {
        let conn = &self.conn;
        Tcp {
            ports: conn.ports,
            sequence: conn.iss.wrapping_add(1).wrapping_add(at),
            acknowledgment: conn.irs.wrapping_add(1).wrapping_add(conn.has),
            flags,
            window: conn.window,
            options: conn.stamps.map_or(vec![], |(val, ecr)| stamps(val, ecr)),
            text: (0..len).map(|n| ramp(at.wrapping_add(n).cast_signed().max(0) as usize)).collect(),
        }
    }

    pub fn send(&mut self, segment: &Tcp) -> Result<()> {
        let frame = segment.frame_of(self.link, self.addresses);
        self.mock.send_frame(&VnetHeader::default(), &frame).map(drop)
    }

    /// The injector's bytes from `at` on.
    pub fn put(&mut self, at: u32, len: u32, flags: u8) -> Result<()> {
        self.send(&self.segment(at, len, flags))
    }

    pub fn data(&mut self, at: u32, len: u32) -> Result<()> {
        self.put(at, len, Tcp::ACK)
    }

    /// A segment that is made otherwise.
    pub fn put_such(&mut self, at: u32, len: u32, change: impl FnOnce(&mut Tcp)) -> Result<()> {
        let mut segment = self.segment(at, len, Tcp::ACK);
        change(&mut segment);
        self.send(&segment)
    }

    /// The frame of a segment, for those who break it.
    pub fn frame(&self, at: u32, len: u32) -> Vec<u8> {
        self.segment(at, len, Tcp::ACK).frame_of(self.link, self.addresses)
    }

    /// A pure ACK of `has` bytes of the subject's stream, and of those from `left` to before `right`.
    pub fn sack(&mut self, sent: u32, has: u32, (left, right): (u32, u32)) -> Result<()> {
        self.conn.has = has;
        let base = self.conn.irs.wrapping_add(1);
        let edges = [left, right].map(|edge| base.wrapping_add(edge).to_be_bytes()).concat();
        self.put_such(sent, 0, |segment| segment.options.extend([&[1, 1, 5, 10][..], &edges].concat()))
    }

    /// The first block of a segment's SACK option, in the injector's stream.
    pub fn first_block(&self, heard: &Heard) -> Option<(u32, u32)> {
        let edge = |bytes: &[u8]| bytes.iter().fold(0, |edge: u32, byte| edge << 8 | u32::from(*byte));
        let position = |bytes: &[u8]| edge(bytes).wrapping_sub(self.conn.iss).wrapping_sub(1);
        option(&heard.options, 5).map(|value| (position(&value[..4]), position(&value[4..8])))
    }

    /// A pure ACK, behind `sent` bytes.
    pub fn ack(&mut self, sent: u32) -> Result<()> {
        self.data(sent, 0)
    }

    /// A pure ACK of `has` bytes of the subject's stream.
    pub fn ack_of(&mut self, sent: u32, has: u32) -> Result<()> {
        self.conn.has = has;
        self.ack(sent)
    }

    fn raw(&mut self, limit: Duration) -> Result<Option<Tcp>> {
        let (end, (mine, theirs)) = (Instant::now() + limit, self.conn.ports);
        while let Some((header, frame)) = self.mock.receive_frame(end.saturating_duration_since(Instant::now()))? {
            verify(&header, &frame)?;
            let fence = |tcp: &Tcp| tcp.ports == (FENCE.1, FENCE.0);
            if let Some(tcp) = Tcp::parse(&frame).filter(|tcp| tcp.ports == (theirs, mine) || fence(tcp)) {
                return Ok(Some(tcp));
            }
        }
        Ok(None)
    }

    fn understand(&mut self, tcp: Tcp) -> Result<Heard> {
        let conn = &mut self.conn;
        let at = tcp.sequence.wrapping_sub(conn.irs).wrapping_sub(1);
        let acks = tcp.acknowledgment.wrapping_sub(conn.iss).wrapping_sub(1);
        let shift = if tcp.flags & Tcp::SYN == 0 { conn.shift } else { 0 };
        if tcp.flags & Tcp::RST == 0 {
            let edge = acks.wrapping_add(u32::from(tcp.window) << shift);
            conn.shrunk |= edge < conn.edge;
            conn.edge = conn.edge.max(edge);
        }
        if let (Some((val, _)), Some(stamps)) = (stamps_of(&tcp.options), &mut conn.stamps) {
            stamps.1 = val;
        }
        let right = tcp.text.iter().enumerate().all(|(n, byte)| *byte == ramp(at as usize + n));
        ensure!(right, "wrong bytes at {at}");
        let (len, when) = (tcp.text.len() as u32, Instant::now());
        Ok(Heard { at, len, acks, flags: tcp.flags, window: tcp.window, options: tcp.options, when })
    }

    /// The subject's next segment.
    pub fn hear(&mut self, limit: Duration) -> Result<Option<Heard>> {
        let heard = self.raw(limit)?;
        heard.map(|tcp| self.understand(tcp)).transpose()
    }

    /// The first of the subject's segments that is such; it must come.
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&Heard) -> bool) -> Result<Heard> {
        let end = Instant::now() + seconds(10);
        loop {
            let heard = self.hear(end.saturating_duration_since(Instant::now()))?;
            let heard = heard.with_context(|| format!("no {what} within 10 s"))?;
            if wanted(&heard) {
                return Ok(heard);
            }
        }
    }

    /// All that the subject has to say about what it was sent so far: what comes before its answer to a segment of no connection, and shortly
    /// behind it.
    pub fn settle(&mut self) -> Result<Vec<Heard>> {
        static FENCES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let mark = FENCES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let fence = Tcp { ports: FENCE, acknowledgment: mark, flags: Tcp::ACK, ..Tcp::default() };
        self.send(&fence)?;
        let mut heard = vec![];
        let mut limit = seconds(5);
        let mut passed = false;
        while let Some(tcp) = self.raw(limit)? {
            if tcp.ports != (FENCE.1, FENCE.0) {
                heard.push(self.understand(tcp)?);
            } else if tcp.sequence == mark {
                (passed, limit) = (true, GRACE);
            }
        }
        ensure!(passed, "a segment of no connection was not answered");
        Ok(heard)
    }

    /// Acknowledges the subject's stream, byte for byte in order, up to `end`; `sent` bytes were sent to it.
    pub fn drain(&mut self, sent: u32, end: u32) -> Result<()> {
        while self.conn.has < end {
            let heard = self.expect("more of the stream", |heard| heard.len > 0)?;
            if heard.at <= self.conn.has {
                self.conn.has = self.conn.has.max(heard.at + heard.len);
            }
            self.ack(sent)?;
        }
        Ok(())
    }

    /// Sends the stream from `at` on, as far as the window goes, and again what is not acknowledged for half a second.
    pub fn pour(&mut self, at: u32, end: u32) -> Result<()> {
        let (mut next, mut una, mss) = (at, at, self.mss() - 12);
        let deadline = Instant::now() + seconds(20);
        while una < end {
            ensure!(Instant::now() < deadline, "{una} of {end} bytes are acknowledged");
            let room = self.conn.edge.min(end).saturating_sub(next).min(mss);
            if room == mss || (room > 0 && next + room == end) {
                self.data(next, room)?;
                next += room;
            }
            let limit = Duration::from_millis(if next < end && self.conn.edge > next { 0 } else { 500 });
            match self.hear(limit)? {
                Some(heard) => una = una.max(heard.acks),
                None if !limit.is_zero() => next = una,
                None => {}
            }
        }
        Ok(())
    }
}

/// Ports between which there never is a connection.
const FENCE: (u16, u16) = (9, 9);

/// Where the payload of what was heard begins and ends, in one piece; the same twice if there is none.
pub fn stretch(heard: &[Heard]) -> (u32, u32) {
    let from = heard.iter().filter(|heard| heard.len > 0).map(|heard| heard.at).min();
    let to = heard.iter().filter(|heard| heard.len > 0).map(|heard| heard.at + heard.len).max();
    from.zip(to).unwrap_or((0, 0))
}

/// How far each acknowledges.
pub fn acks(heard: &[Heard]) -> String {
    heard.iter().map(|heard| heard.acks.to_string()).collect::<Vec<_>>().join(" ")
}
