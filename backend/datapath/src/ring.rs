//! A port's ring with its two event descriptors.
use crate::calls::{CallPolicy, Calls};
use crate::command::RingCommand;
use crate::crash::crash_point;
use crate::kicks::{Kicked, Kicks};
use crate::recall::{Look, Recall};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use vonic_queue::{
    Burst, ControlChain, Direction, DirtyLog, Front, MemoryMap, Passed, QueueError, SplitRing, Terms, call, drain,
    pass_payload, pass_posted,
};
use vonic_tcp::Instant;

/// So many chains that it sent last a polling driver is shown later. DPDK's frees all that are done at once when all but 32 of its ring are, and goes
/// through all of its memory by that (ADR 0028).
const KEPT: u16 = 32;

/// One ring of a port. Without a started ring every call is a no-op that finds nothing.
#[derive(Default)]
pub struct Ring {
    split: Option<SplitRing>,
    kick: Option<File>,
    /// The kick is a socket, as UML has it, and fills up if nobody reads; an eventfd's every write is news by itself.
    kick_is_socket: bool,
    kicks: Kicks,
    call: Option<File>,
    enabled: bool,
    /// Disabled, but emptied nevertheless: a transmit queue of a driver that runs.
    discards: bool,
    /// The driver has had a buffer in it.
    posted: bool,
    unpublished: bool,
    /// What the driver has not been called for, and where the ring stood then.
    calls: Calls,
    recall: Recall,
    shown: u16,
    /// Something was shown for which the driver may want a call.
    owes_call: bool,
    armed: bool,
    /// Set when the ring lied; it then stands still until it is started anew.
    broken: Option<QueueError>,
    /// Its VMM has made a call descriptor block, and would again: the ring is started no more.
    holds: bool,
    /// Where the ring stood when it was stopped.
    left_at: Option<u16>,
    /// Where what is written for the guest is logged, and where the used ring is besides; both outlast the ring.
    log: Option<Arc<DirtyLog>>,
    log_alias: Option<u64>,
}

impl Ring {
    /// Takes over a ring's complete state. A ring that already runs at these addresses keeps its indices, but not over a
    /// time in which it was disabled: its driver may have gone meanwhile, and a new one laid its ring out in the same
    /// place. True if it stands elsewhere than it was left: then its driver is another one.
    pub fn start(&mut self, map: &Arc<MemoryMap>, command: RingCommand, direction: Direction) -> bool {
        self.flush();
        self.kick = command.kick.map(File::from);
        let kind = self.kick.as_ref().and_then(|kick| kick.metadata().ok());
        self.kicks = Kicks::default();
        self.kick_is_socket = kind.is_some_and(|kind| kind.file_type().is_socket());
        self.call = command.call.map(File::from);
        let resumes = command.enabled && !self.enabled;
        self.enabled = command.enabled;
        if !resumes && self.split.as_ref().is_some_and(|s| *s.setup() == command.setup) {
            return false;
        }
        if self.holds {
            self.fail(QueueError::CallBlocks);
            return false;
        }
        self.broken = None;
        self.posted = false;
        self.armed = true;
        let before = self.position();
        match SplitRing::new(map, &command.setup, direction) {
            Ok(split) => {
                self.split = Some(split);
                self.keep_log();
            }
            Err(error) => self.fail(error),
        }
        before.is_some() && before != self.position()
    }

    /// Where the ring stands, or stood.
    fn position(&self) -> Option<u16> {
        self.split.as_ref().map(SplitRing::next_used).or(self.left_at)
    }

    /// Publishes what is pending and lets go of the ring.
    pub fn stop(&mut self) {
        self.flush();
        let (left_at, log) = (self.position(), self.log.take());
        *self = Ring { left_at, log, log_alias: self.log_alias, holds: self.holds, ..Ring::default() };
    }

    /// Logs from now on what is written for the guest, or nothing.
    pub fn set_log(&mut self, log: Option<Arc<DirtyLog>>, alias: Option<u64>) {
        self.flush();
        (self.log, self.log_alias) = (log, alias);
        self.keep_log();
    }

    fn keep_log(&mut self) {
        if let Some(split) = &mut self.split {
            split.set_log(self.log.clone(), self.log_alias);
        }
    }

    /// Forgets where a stopped ring stood.
    pub fn forget(&mut self) {
        self.left_at = None;
    }

    /// Whether it is to be emptied while it is disabled.
    pub fn discard(&mut self, on: bool) {
        self.discards = on;
    }

    /// The ring, if it may be touched. A disabled one is left alone: nobody knows whether its driver is still there. But
    /// of a driver that runs, "the back-end … must process and discard any TX packets" (vhost-user specification, "Ring
    /// states").
    fn touchable(&mut self) -> Option<&mut SplitRing> {
        self.split.as_mut().filter(|_| self.enabled || self.discards)
    }

    /// Resolves the ring in a new map.
    pub fn remap(&mut self, map: &Arc<MemoryMap>) {
        self.flush();
        if let Some(Err(error)) = self.split.as_mut().map(|s| s.remap(map)) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: QueueError) {
        self.split = None;
        self.broken = Some(error);
    }

    /// Whether the ring broke, and nobody has been told.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// The error by which the ring broke, once.
    pub fn take_error(&mut self) -> Option<QueueError> {
        self.broken.take()
    }

    /// Whether frames may pass.
    pub fn is_live(&self) -> bool {
        self.enabled && self.split.is_some()
    }

    /// Whether frames may pass and the driver has shown that it uses the ring: one of several may stand ready unused.
    pub fn takes_frames(&mut self) -> bool {
        self.posted = self.is_live() && (self.posted || self.available() != 0);
        self.posted
    }

    /// The descriptor by which the driver signals.
    pub fn kick_fd(&self) -> Option<RawFd> {
        self.kick.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Whether the driver never signals: whoever wants to know has to look.
    pub fn is_polled(&self) -> bool {
        self.kick.is_none() && self.is_live()
    }

    /// Empties the kick descriptor where it has to be, so that it can signal again.
    pub fn drain_kick(&mut self) {
        if let Some(kick) = self.kick.as_ref().filter(|_| self.kick_is_socket) {
            drain(kick);
        }
    }

    /// Counts a kick.
    pub fn kicked(&mut self) -> Kicked {
        let posted = self.touchable().map_or(0, |split| split.posted());
        self.kicks.heard(posted)
    }

    /// Nobody hears its kicks; false if that is so already.
    pub fn ignore_kicks(&mut self) -> bool {
        self.kicks.ignore()
    }

    /// Its kicks are heard again; true if they were not.
    pub fn hear_kicks(&mut self) -> bool {
        self.kicks.hear()
    }

    /// Fetches up to `max` chains.
    pub fn fetch(&mut self, burst: &mut Burst, max: usize) -> usize {
        let Some(split) = self.touchable() else { return 0 };
        match split.fetch(burst, max) {
            Ok(n) => n,
            Err(error) => {
                burst.clear();
                self.fail(error);
                0
            }
        }
    }

    /// Fetches one chain of the control queue.
    pub fn fetch_control(&mut self, burst: &mut Burst) -> Option<ControlChain> {
        let fetched = self.touchable()?.fetch_control(burst);
        fetched.unwrap_or_else(|error| {
            self.fail(error);
            None
        })
    }

    /// Gives the last `n` chains back.
    pub fn unfetch(&mut self, n: u16) {
        if let Some(split) = &mut self.split {
            split.unfetch(n);
        }
    }

    /// Copies the first bytes of the next chain of a transmit queue that is live; see [`SplitRing::front`].
    pub fn front(&self, out: &mut Front) -> bool {
        self.split.as_ref().filter(|_| self.enabled).is_some_and(|split| split.front(out))
    }

    /// Copies chains of another guest into this receive ring's buffers, if it may be touched; see [`pass_payload`].
    #[inline(always)]
    pub fn pass(
        &mut self,
        (src, first): (&Burst, usize),
        terms: &Terms,
        takes: impl FnMut(&Front, u32) -> bool,
    ) -> Passed {
        let Some(split) = self.split.as_mut().filter(|_| self.enabled) else { return Passed::default() };
        let passed = pass_payload(src, first, split, terms, takes);
        self.unpublished |= passed.chains > 0;
        passed
    }

    /// As [`Ring::pass`], of what is posted in another guest's transmit ring, if that may be touched, too; see [`pass_posted`].
    #[inline(always)]
    pub fn pass_posted(
        &mut self,
        (src, max): (&mut Ring, u16),
        terms: &Terms,
        takes: impl FnMut(&Front, u32) -> bool,
    ) -> Passed {
        let (from, to) = (src.split.as_mut().filter(|_| src.enabled), self.split.as_mut().filter(|_| self.enabled));
        let (Some(from), Some(to)) = (from, to) else { return Passed::default() };
        let passed = pass_posted(from, max, to, terms, takes);
        src.unpublished |= passed.chains > 0;
        self.unpublished |= passed.chains > 0;
        passed
    }

    /// Completes a chain; the driver sees it at the next flush.
    pub fn push_used(&mut self, head: u16, len: u32) {
        if let Some(split) = &mut self.split {
            split.push_used(head, len);
            self.unpublished = true;
        }
    }

    /// Completes every chain of a burst, of which the device has only read.
    pub fn push_read(&mut self, burst: &Burst) {
        if let Some(split) = self.split.as_mut().filter(|_| !burst.is_empty()) {
            split.push_read(burst);
            self.unpublished = true;
        }
    }

    /// One store of the used index for everything completed, and a call if the driver wants one.
    pub fn flush(&mut self) {
        if self.flush_by(CallPolicy::default(), Instant(0)) {
            self.recall.forget();
        }
    }

    /// As [`Ring::flush`]; the call may wait for as long as the policy says. True if there was one that is to be looked after.
    pub fn flush_by(&mut self, policy: CallPolicy, now: Instant) -> bool {
        if !std::mem::take(&mut self.unpublished) && self.calls.since().is_none() {
            return false;
        }
        let Some(split) = &mut self.split else { return false };
        split.publish();
        crash_point!("used-before-call");
        let published = split.next_used().wrapping_sub(std::mem::replace(&mut self.shown, split.next_used()));
        if !self.calls.due(published, policy, now) || !split.call_needed() {
            return false;
        }
        self.signal();
        self.recall.called()
    }

    /// Looks whether its driver has heard the last call, and calls again if it has not for too long.
    pub fn look_after_call(&mut self) -> Look {
        let unheard = self.split.as_ref().is_some_and(SplitRing::is_unheard);
        let look = self.recall.look(unheard);
        if look == Look::CallAgain {
            self.signal();
        }
        look
    }

    /// Signals the driver whatever it asked for: at the start of a ring nobody knows what the last backend told it.
    ///
    /// A ring whose call descriptor blocks is broken from then on: it would hold up everybody's worker.
    pub fn signal(&mut self) {
        if self.call.as_ref().is_some_and(|file| call(file).is_err()) {
            (self.call, self.holds) = (None, true);
            self.fail(QueueError::CallBlocks);
        }
    }

    /// Its VMM's configuration is another one: it may start again.
    pub fn forgive(&mut self) {
        self.holds = false;
    }

    /// What its driver has not been called for.
    pub fn calls(&mut self) -> &mut Calls {
        &mut self.calls
    }

    /// Since when its driver is owed a call.
    pub fn owes_since(&self) -> Option<Instant> {
        self.calls.since()
    }

    /// Chains waiting to be fetched.
    pub fn available(&self) -> u16 {
        self.split.as_ref().filter(|_| self.enabled || self.discards).map_or(0, SplitRing::available)
    }

    /// Asks for kicks; true if there is work already.
    pub fn arm(&mut self) -> bool {
        self.arm_behind(0)
    }

    /// Asks for kicks once more than `waiting` chains wait; true if they do already.
    pub fn arm_behind(&mut self, waiting: u16) -> bool {
        self.armed = true;
        // Also if it is armed: what was fetched since has moved the index at which the driver is to signal.
        self.touchable().is_some_and(|split| split.arm_behind(waiting))
    }

    /// Asks for no kicks while the worker looks by itself.
    pub fn disarm(&mut self) {
        if std::mem::take(&mut self.armed)
            && let Some(split) = self.touchable()
        {
            split.disarm();
        }
    }

    /// One store of the used index for what is completed; [`Ring::call`] is to follow. True if a call may be owed.
    ///
    /// A driver that looks by itself is not shown the last [`KEPT`].
    pub fn show(&mut self) -> bool {
        let Some(split) = self.split.as_mut() else { return false };
        if self.unpublished {
            let kept = if split.is_looked_at() { KEPT.min(split.size() / 4) } else { 0 };
            self.unpublished = split.publish_but(kept) != 0;
            self.owes_call = true;
            crash_point!("used-before-call");
        }
        self.owes_call
    }

    /// The call for what was shown, if the driver still wants one. What was kept back is shown now, if `all` is to be or little has come
    /// since the last time.
    pub fn call(&mut self, all: bool) {
        let Some(split) = self.split.as_mut().filter(|_| std::mem::take(&mut self.owes_call)) else { return };
        let came = split.next_used().wrapping_sub(std::mem::replace(&mut self.shown, split.next_used()));
        if self.unpublished && (all || came < KEPT) {
            split.publish();
            self.unpublished = false;
        }
        if split.call_needed() {
            self.signal();
        }
    }
}
