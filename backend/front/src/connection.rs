//! One VMM's connection: between its socket and the engine's session, one message at a time.
use crate::carrier;
use crate::journal::Journal;
use crate::limit::VmLog;
use crate::message::{Message, ReadError, Reader, Request};
use crate::pace::Pace;
use crate::request::{Front, Verdict};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

mod takeover;

/// How many messages of one VMM are handled before others get their turn.
const TURN: usize = 32;
/// How many looks at what a VMM says a message is worth for which memory is mapped, beside its own.
const MAPPING: u32 = 9;

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The VMM closed it.
    Vmm,
    /// The engine's session closed its end.
    Session,
    /// Something is wrong; the text is for the log.
    Fault(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Vmm => write!(f, "the VMM disconnected"),
            End::Session => write!(f, "the engine ended the session"),
            End::Fault(text) => write!(f, "{text}: the connection is closed"),
        }
    }
}

/// A message that the engine has not answered yet.
#[derive(Debug)]
struct InFlight {
    message: Message,
    purpose: Purpose,
}

impl InFlight {
    /// The code under which the engine was asked, and will answer.
    fn sent_as(&self) -> u32 {
        carrier::in_place_of(&self.message).map_or(self.message.code, |carried| carried.code)
    }
}

/// What its answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The VMM waits for it.
    Relay,
    /// The VMM did not ask for it.
    Swallow,
    /// The front asked, to set the session up.
    Handshake,
    /// It brings a new engine's session to where the dead one's was.
    Replay,
}

/// The engine's side of a connection.
#[derive(Debug)]
struct SessionEnd {
    socket: UnixStream,
    reader: Reader,
}

/// One VMM's connection. Nothing in here waits.
#[derive(Debug)]
pub(crate) struct Connection {
    log: VmLog,
    vmm: UnixStream,
    reader: Reader,
    /// How often the VMM may be read, and until when it is not if that was too often.
    pace: Pace,
    rests_until: Option<Instant>,
    session: Option<SessionEnd>,
    front: Front,
    journal: Journal,
    /// To be sent to the engine before anything more is read from the VMM.
    queued: VecDeque<(Message, Purpose)>,
    in_flight: Option<InFlight>,
    /// When the engine's answer is due: to `Connected`, or to the message in flight.
    due: Option<Instant>,
    patience: Duration,
    /// Codes that were declined, and logged.
    declined: BTreeSet<u32>,
    /// Another master has it too: dropped here, it goes on there.
    pub(crate) shared: bool,
}

impl Connection {
    /// A VMM that has just connected; its messages wait until a session is attached, for `patience` at most.
    pub(crate) fn new(vmm: UnixStream, log: VmLog, patience: Duration, now: Instant) -> Connection {
        Connection {
            log,
            vmm,
            reader: Reader::default(),
            pace: Pace::of_messages(now),
            rests_until: None,
            session: None,
            front: Front::default(),
            journal: Journal::default(),
            queued: VecDeque::new(),
            in_flight: None,
            due: Some(now + patience),
            patience,
            declined: BTreeSet::new(),
            shared: false,
        }
    }

    /// The engine made a session: its other end.
    pub(crate) fn attach(&mut self, session: OwnedFd, now: Instant) -> Result<(), End> {
        let socket = UnixStream::from(session);
        socket.set_nonblocking(true).map_err(|e| End::Fault(format!("the session's socket is unusable: {e}")))?;
        self.session = Some(SessionEnd { socket, reader: Reader::default() });
        self.due = None;
        let mut first = self.introduction().map_err(|e| End::Fault(format!("its state cannot be replayed: {e}")))?;
        first.append(&mut self.queued);
        self.queued = first;
        self.send_queued(now)
    }

    pub(crate) fn vmm(&self) -> BorrowedFd<'_> {
        self.vmm.as_fd()
    }

    pub(crate) fn log(&self) -> &VmLog {
        &self.log
    }

    /// The session's descriptor, once there is one.
    pub(crate) fn session_fd(&self) -> Option<RawFd> {
        self.session.as_ref().map(|session| session.socket.as_raw_fd())
    }

    /// Is the VMM to be read now? Not before there is a session, nor while the engine owes an answer, or the VMM has said too much.
    pub(crate) fn reads_vmm(&self) -> bool {
        self.session.is_some() && self.in_flight.is_none() && self.rests_until.is_none()
    }

    /// When it is to be looked at without an event.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.rests_until).min()
    }

    /// Whether the engine's answer is overdue.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// A VMM that had said too much may be read again, if it is time.
    pub(crate) fn end_rest(&mut self, now: Instant) {
        self.rests_until.take_if(|until| *until <= now);
    }

    /// Handles what the VMM has sent, up to a turn's worth.
    pub(crate) fn vmm_ready(&mut self, now: Instant) -> Result<(), End> {
        for _ in 0..TURN {
            if !self.reads_vmm() {
                break;
            }
            if let Err(until) = self.pace.take(now) {
                self.log.warn("its VMM says too much: its next messages are read later");
                self.rests_until = Some(until);
                break;
            }
            match self.reader.read(&self.vmm) {
                Ok(Some(message)) => {
                    if message.request().is_some_and(Request::maps_memory) {
                        self.pace.count(MAPPING);
                    }
                    self.handle(message, now)?;
                }
                Ok(None) => break,
                Err(ReadError::Closed) => return Err(End::Vmm),
                Err(e) => return Err(End::Fault(e.to_string())),
            }
        }
        Ok(())
    }

    /// Handles the engine's answer.
    pub(crate) fn session_ready(&mut self, now: Instant) -> Result<(), End> {
        while let Some(session) = &mut self.session {
            match session.reader.read(&session.socket) {
                Ok(Some(reply)) => self.answered(reply, now)?,
                Ok(None) => break,
                Err(ReadError::Closed | ReadError::Truncated) => return Err(End::Session),
                Err(e) => return Err(End::Fault(format!("from the engine: {e}"))),
            }
        }
        Ok(())
    }

    /// The engine's answer is overdue.
    pub(crate) fn overdue(&self) -> End {
        let what = match &self.in_flight {
            Some(InFlight { message, .. }) => format!("to {}", describe(message)),
            None => "with a session".into(),
        };
        End::Fault(format!("the engine did not answer {what} within {:?}", self.patience))
    }

    fn handle(&mut self, message: Message, now: Instant) -> Result<(), End> {
        if message.is_reply() {
            return Err(End::Fault(format!("{} came as a reply; the front asked nothing", describe(&message))));
        }
        log::trace!("{}: > {message}", self.log.name());
        let (code, asked) = (message.code, message.needs_reply());
        let own_reply = message.request().is_some_and(Request::has_reply);
        let log = self.log.clone();
        match self.front.judge(message, |text| log.warn(text)) {
            Verdict::Forward(message) => self.pass_on(message, asked || own_reply, now),
            Verdict::After(before, message) => {
                self.queued.extend(before.into_iter().map(|message| (message, Purpose::Swallow)));
                self.pass_on(message, asked || own_reply, now)
            }
            Verdict::Done if asked => self.acknowledge(code, 0),
            Verdict::Done => Ok(()),
            Verdict::Answer(body) => self.answer(&Message::reply(code, body)),
            Verdict::Decline(why) => {
                if self.declined.insert(code) {
                    self.log.warn(&format!("declined: {why}"));
                }
                if asked { self.acknowledge(code, 1) } else { Ok(()) }
            }
            // An answer of its own kind cannot say "no".
            Verdict::Refuse(why) if asked && !own_reply => {
                self.log.warn(&format!("refused: {why}"));
                self.acknowledge(code, 1)
            }
            Verdict::Refuse(why) => Err(End::Fault(why)),
        }
    }

    /// To the engine, behind what is queued; the VMM gets the answer if it wants one.
    fn pass_on(&mut self, message: Message, wanted: bool, now: Instant) -> Result<(), End> {
        self.queued.push_back((message, if wanted { Purpose::Relay } else { Purpose::Swallow }));
        self.send_queued(now)
    }

    fn answered(&mut self, reply: Message, now: Instant) -> Result<(), End> {
        let in_flight = self.in_flight.take();
        let Some(InFlight { message, purpose }) = in_flight.filter(|f| f.sent_as() == reply.code && reply.is_reply())
        else {
            return Err(End::Fault(format!("from the engine: unexpected {}", describe(&reply))));
        };
        self.due = None;
        let request = message.request();
        let carried = reply.code != message.code;
        let own_reply = request.is_some_and(Request::has_reply) && !carried;
        let agreed = own_reply || reply.u64_at(0) == Some(0);
        // A log that was taken is confirmed by its own description, as the crate's frontend wants it.
        let reply = match request {
            Some(Request::SetLogBase) if agreed => Message::reply(message.code, message.body.clone()),
            _ => Message { code: message.code, fds: Vec::new(), ..reply },
        };
        if purpose == Purpose::Handshake {
            let learnt = request.map_or(Ok(Vec::new()), |request| self.front.learn(request, &reply));
            for message in learnt.map_err(End::Fault)?.into_iter().rev() {
                self.queued.push_front((message, Purpose::Handshake));
            }
        } else if purpose == Purpose::Replay {
            if !agreed {
                return Err(End::Fault(format!("the new engine refuses {}", describe(&message))));
            }
        } else if agreed {
            let more = self.front.done(&message);
            self.queued.extend(more.into_iter().map(|message| (message, Purpose::Swallow)));
            self.journal.note(message);
        } else {
            self.log.warn(&format!("the engine refuses {}", describe(&message)));
        }
        if purpose == Purpose::Relay {
            self.answer(&reply)?;
        }
        if purpose == Purpose::Replay && !self.queued.iter().any(|(_, purpose)| *purpose == Purpose::Replay) {
            log::info!("{}: goes on with the next engine", self.log.name());
        }
        self.send_queued(now)
    }

    /// Sends the next queued message, if none is in flight.
    fn send_queued(&mut self, now: Instant) -> Result<(), End> {
        if self.in_flight.is_some() {
            return Ok(());
        }
        let (Some(session), Some((mut message, purpose))) = (&self.session, self.queued.pop_front()) else {
            return Ok(());
        };
        let carried = carrier::in_place_of(&message);
        message.set_needs_reply(!message.request().is_some_and(Request::has_reply));
        let sent = match carried {
            Some(mut carried) => {
                carried.set_needs_reply(true);
                carried.send(&session.socket)
            }
            None => message.send(&session.socket),
        };
        match sent {
            Ok(()) => {}
            Err(e) if is_gone(&e) => return Err(End::Session),
            Err(e) => return Err(End::Fault(format!("{} cannot be passed on: {e}", describe(&message)))),
        }
        self.in_flight = Some(InFlight { message, purpose });
        self.due = Some(now + self.patience);
        Ok(())
    }

    fn acknowledge(&self, code: u32, value: u64) -> Result<(), End> {
        self.answer(&Message::reply(code, value.to_ne_bytes().to_vec()))
    }

    fn answer(&self, reply: &Message) -> Result<(), End> {
        log::trace!("{}: < {reply}", self.log.name());
        match reply.send(&self.vmm) {
            Ok(()) => Ok(()),
            Err(e) if is_gone(&e) => Err(End::Vmm),
            Err(e) => Err(End::Fault(format!("the VMM does not take its answers: {e}"))),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.shared {
            return;
        }
        // Closing is not enough where the other side holds a duplicate.
        let _ = self.vmm.shutdown(Shutdown::Both);
        if let Some(session) = &self.session {
            let _ = session.socket.shutdown(Shutdown::Both);
        }
    }
}

fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn describe(message: &Message) -> String {
    message.request().map_or_else(|| format!("request {}", message.code), |request| format!("{request:?}"))
}

#[cfg(test)]
mod tests;
