//! A connection between two engines: what the dead one had not answered is asked of the next, behind the journal.
use super::{Connection, End, InFlight, Purpose};
use crate::carrier;
use crate::handover::{ConnectionState, Numbers};
use crate::limit::VmLog;
use crate::message::{Message, Reader, Request};
use crate::request::Front;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

impl Connection {
    /// The engine is dead. Answers that it gave still count; the connection then waits for the next engine's session.
    pub(crate) fn lose_engine(&mut self, now: Instant) -> Result<(), End> {
        self.session_ready(now)?;
        self.session = None;
        self.give_up_transfer()?;
        let unanswered = self.in_flight.take().map(|InFlight { message, purpose }| (message, purpose));
        let queued = std::mem::take(&mut self.queued);
        let is_vmms = |(_, purpose): &(Message, Purpose)| matches!(purpose, Purpose::Relay | Purpose::Swallow);
        self.queued = unanswered.into_iter().chain(queued).filter(is_vmms).collect();
        self.due = Some(now + self.patience);
        Ok(())
    }

    /// No engine is to be asked for a session: whatever the VMM says waits.
    pub(crate) fn wait_unheard(&mut self) {
        self.due = None;
    }

    /// Whether no engine is asked for a session.
    pub(crate) fn is_unheard(&self) -> bool {
        self.session.is_none() && self.due.is_none()
    }

    /// The engine is asked for a session.
    pub(crate) fn wait_for_session(&mut self, now: Instant) {
        self.due = Some(now + self.patience);
    }

    /// A transfer of the device's state dies with the engine: its pipe is half written, or half read. The VMM's migration fails,
    /// and the VM goes on where it is.
    fn give_up_transfer(&mut self) -> Result<(), End> {
        self.front.lose_transfer();
        let is_one = |message: &Message| {
            matches!(message.request(), Some(Request::SetDeviceStateFd | Request::CheckDeviceState))
        };
        if let Some(InFlight { message, .. }) = self.in_flight.take_if(|f| is_one(&f.message)) {
            self.answer(&Front::no_transfer(&message))?;
        }
        let (waiting, queued): (VecDeque<_>, _) = self.queued.drain(..).partition(|(message, _)| is_one(message));
        self.queued = queued;
        waiting.iter().try_for_each(|(message, _)| self.answer(&Front::no_transfer(message)))
    }

    /// Whether the engine has yet to learn of what was before it.
    pub(crate) fn is_behind(&self) -> bool {
        let ours = |purpose: &Purpose| matches!(purpose, Purpose::Handshake | Purpose::Replay);
        let in_flight = self.in_flight.iter().map(|f| &f.purpose);
        self.session.is_none() || in_flight.chain(self.queued.iter().map(|(_, purpose)| purpose)).any(ours)
    }

    /// What a new session is sent before anything else: the front's own questions, and the state so far.
    pub(super) fn introduction(&self) -> io::Result<VecDeque<(Message, Purpose)>> {
        let mut messages: VecDeque<_> = Front::handshake().map(|message| (message, Purpose::Handshake)).into();
        for message in self.journal.replay() {
            messages.extend(carrier::in_front_of(message).map(|carried| (carried, Purpose::Replay)));
            messages.push_back((message.duplicate()?, Purpose::Replay));
        }
        Ok(messages)
    }

    /// As another master goes on with it. The engine is dead.
    pub(crate) fn save(&self) -> ConnectionState {
        // Without an engine nothing is in flight, and each new one has its whole patience.
        let Connection {
            log,
            vmm,
            reader,
            pace: _,
            rests_until: _,
            session: _,
            front,
            journal,
            queued,
            in_flight: _,
            due: _,
            patience: _,
            declined,
            shared: _,
        } = self;
        ConnectionState {
            name: log.name().into(),
            vmm: vmm.as_raw_fd(),
            partial: reader.save(),
            front: front.save(),
            journal: journal.save(),
            queued: queued.iter().map(|(message, purpose)| (message.save(), *purpose == Purpose::Relay)).collect(),
            declined: declined.clone(),
        }
    }

    /// Goes on with what another master has saved; it has it as well until it ends.
    pub(crate) fn restore(
        state: ConnectionState,
        log: VmLog,
        patience: Duration,
        now: Instant,
        numbers: &mut Numbers,
    ) -> io::Result<Connection> {
        let ConnectionState { name: _, vmm, partial, front, journal, queued, declined } = state;
        let vmm = UnixStream::from(numbers.take(vmm)?);
        let mut connection = Connection::new(vmm, log, patience, now);
        connection.shared = true;
        connection.reader = Reader::restore(partial, numbers)?;
        connection.front = Front::restore(front);
        connection.declined = declined;
        for message in journal {
            connection.journal.note(Message::restore(message, numbers)?);
        }
        for (message, wanted) in queued {
            let purpose = if wanted { Purpose::Relay } else { Purpose::Swallow };
            connection.queued.push_back((Message::restore(message, numbers)?, purpose));
        }
        Ok(connection)
    }

    /// Every descriptor that it holds, but for the session's.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let waiting = self.queued.iter().map(|(message, _)| message);
        let messages = waiting.chain(self.in_flight.iter().map(|f| &f.message)).chain(self.journal.messages());
        let fds = messages.flat_map(|message| &message.fds).chain(self.reader.descriptors());
        fds.map(AsRawFd::as_raw_fd).chain([self.vmm.as_raw_fd()])
    }
}
