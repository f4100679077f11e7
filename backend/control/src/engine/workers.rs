//! The workers: which one has which port, and which one gets an order.
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};
use vonic_datapath::{Command, Member, PortId, PortSpec, Waker, Worker, WorkerHandle};
use vonic_queue::{Done, handover};

/// How long a full command ring is waited for: far longer than a worker's round.
const ORDER_LIMIT: Duration = Duration::from_secs(10);
/// How long workers may take to hear of another one's port: a round.
const LEARN_LIMIT: Duration = Duration::from_secs(2);

/// All of them.
pub(super) struct Workers {
    handles: Vec<WorkerHandle>,
    owners: BTreeMap<PortId, usize>,
}

impl Workers {
    /// Each on a thread of its own.
    pub(super) fn start(team: Vec<(Worker, WorkerHandle)>) -> Result<Workers, String> {
        let mut handles = Vec::new();
        for (number, (worker, handle)) in team.into_iter().enumerate() {
            super::spawn(&format!("worker-{number}"), move || {
                // It has work for as long as anybody: no reason to have it sooner.
                vonic_front::take_turns_of(None);
                worker.run();
            })?;
            handles.push(handle);
        }
        Ok(Workers { handles, owners: BTreeMap::new() })
    }

    /// What wakes each.
    pub(super) fn wakers(&self) -> Vec<Waker> {
        self.handles.iter().map(WorkerHandle::waker).collect()
    }

    /// The worker that has a port; the first if none has it.
    pub(super) fn of(&self, port: PortId) -> usize {
        self.owners.get(&port).copied().unwrap_or_default()
    }

    /// The workers that have something to say of a port, or of all.
    pub(super) fn concerned(&self, port: Option<PortId>) -> Range<usize> {
        port.map_or(0..self.handles.len(), |port| self.of(port)..self.of(port) + 1)
    }

    /// Gives a port to the worker that its VM's file names, or to the one that has the fewest.
    pub(super) fn assign(&mut self, port: PortId, wish: Option<u16>) {
        let load = |worker: &usize| self.owners.values().filter(|owner| *owner == worker).count();
        // A number that there was not when vonicd was started is an error of the reload's already.
        let wish = wish.map(usize::from).filter(|wish| *wish < self.handles.len());
        let worker = wish.or_else(|| (0..self.handles.len()).min_by_key(load)).unwrap_or_default();
        self.owners.insert(port, worker);
    }

    /// A port is gone.
    pub(super) fn release(&mut self, port: PortId) {
        self.owners.remove(&port);
    }

    /// Gives one worker an order. One that cannot be given is an error of this program or a stuck worker; it is logged.
    pub(super) fn send(&mut self, worker: usize, command: Command) {
        let Some(handle) = self.handles.get_mut(worker) else { return };
        let until = Instant::now() + ORDER_LIMIT;
        let mut command = command;
        while let Err(back) = handle.send(command) {
            if Instant::now() > until {
                log::error!("worker-{worker} takes no orders: {back:?} is lost");
                return;
            }
            command = *back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Gives an order to the worker that it is for, or to all, and tells the others what they have to know of it.
    pub(super) fn order(&mut self, command: Command) {
        match command {
            Command::Network(spec) => self.tell_all(|| Command::Network(spec.clone())),
            Command::RemoveNetwork(network) => self.tell_all(|| Command::RemoveNetwork(network)),
            Command::Inherited => self.tell_all(|| Command::Inherited),
            Command::Host(view) => self.tell_all(|| Command::Host(view.clone())),
            command => {
                let owner = command.port().map(|port| self.of(port)).unwrap_or_default();
                match &command {
                    Command::Attach(spec) => self.introduce(owner, spec, true),
                    Command::Reconfigure { spec, .. } => self.introduce(owner, spec, false),
                    Command::Detach { port, .. } => self.tell_others(owner, || Command::Leave { port: *port }),
                    Command::Session { session, .. } => {
                        self.tell_others(owner, || Command::Elsewhere { session: *session });
                    }
                    _ => {}
                }
                self.send(owner, command);
            }
        }
    }

    /// Tells the others of a port. Of a new one before its own worker has it: from then on that one speaks of it.
    fn introduce(&mut self, owner: usize, spec: &PortSpec, is_new: bool) {
        if self.handles.len() == 1 {
            return;
        }
        let member: Member = spec.member(owner);
        self.tell_others(owner, || Command::Member(Box::new(member.clone())));
        if is_new && !self.all(LEARN_LIMIT, Some(owner), |done| Command::Barrier { done }) {
            log::warn!("port {}: the other workers have not heard of it within {LEARN_LIMIT:?}", spec.port);
        }
    }

    fn tell_all(&mut self, command: impl Fn() -> Command) {
        (0..self.handles.len()).for_each(|worker| self.send(worker, command()));
    }

    fn tell_others(&mut self, owner: usize, command: impl Fn() -> Command) {
        (0..self.handles.len()).filter(|worker| *worker != owner).for_each(|worker| self.send(worker, command()));
    }

    /// Gives each an order that is waited for; false: not all of them were done in time.
    pub(super) fn each(&mut self, limit: Duration, command: impl Fn(Done) -> Command) -> bool {
        self.all(limit, None, command)
    }

    fn all(&mut self, limit: Duration, but: Option<usize>, command: impl Fn(Done) -> Command) -> bool {
        let until = Instant::now() + limit;
        let mut waiters = Vec::new();
        for worker in (0..self.handles.len()).filter(|worker| Some(*worker) != but) {
            let (done, waiter) = handover();
            self.send(worker, command(done));
            waiters.push(waiter);
        }
        let wait = |waiter: vonic_queue::Waiter| waiter.wait(until.saturating_duration_since(Instant::now()));
        waiters.into_iter().map(wait).fold(true, |all, done| all & done)
    }

    /// Has all of them come to rest; what they have of each other's is dealt with first. False: not in time.
    pub(super) fn rest(&mut self, limit: Duration) -> bool {
        let settled = self.handles.len() == 1 || self.each(limit, |done| Command::Pause { done });
        self.each(limit, |done| Command::Rest { done }) && settled
    }
}
