//! Keeps a busy worker on its processor. One that is woken thousands of times a second is put now here, now there, and whom it serves has to make
//! room: a guest's processes that wait for each other end up on two processors, and each step of theirs wakes one that sleeps (ADR 0034).
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use std::fs::File;
use std::os::unix::fs::FileExt;
use vonic_tcp::Instant;

/// Microseconds between two looks at what the scheduler says.
const LOOK_US: u64 = 100_000;
/// A worker is busy that runs for one part of so many. What it waits does not count: one that hardly runs, and waits long, is to be put where
/// it need not.
const BUSY: u64 = 8;
/// It shares its processor if it waits for one part of so many of the time in which it would run: one that is to look for work, since it does
/// not see what comes meanwhile, and any other.
const LOOKS: u64 = 6;
const SLEEPS: u64 = 2;
/// It has it alone if it waits for less than one part of so many: between that and sharing a look saw both.
const ALONE: u64 = 20;
/// After so many looks in a row at a processor that it shares it leaves. Each time twice as many, up to the most; where it has helped, for so many
/// looks without sharing, it is the fewest again.
const SOON: u32 = 2;
const SELDOM: u32 = 64;
const HELPED: u32 = 4;
/// What it did alone is no measure any more after so many looks in a row without: the load may have become another one.
const FORGOTTEN: u32 = 256;
/// Where less than so many parts are done alone of what was done where it left, it goes back.
const WORSE: (u128, u128) = (4, 3);

/// What was done up to a look, or between two.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Nanoseconds for which the worker ran, and for which it waited for a processor.
    ran: u64,
    waited: u64,
    /// Work for guests ([`super::pace::work_done`]), and microseconds.
    work: u64,
    time: u64,
}

impl Account {
    fn since(self, before: Account) -> Account {
        Account {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
            work: self.work.wrapping_sub(before.work),
            time: self.time.saturating_sub(before.time),
        }
    }

    fn is_busy(self) -> bool {
        self.ran / 1000 * BUSY > self.time
    }

    /// Whether it waited for one part of so many.
    fn shares(self, parts: u64) -> bool {
        self.waited * parts > self.ran + self.waited
    }

    fn work_in_a_second(self) -> u128 {
        u128::from(self.work) * 1_000_000 / u128::from(self.time.max(1))
    }
}

/// Where the worker is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    /// Where the scheduler puts it.
    Any,
    /// The same, for one look, since it shared this processor.
    Left(usize),
    Kept(usize),
}

/// Whether to stay.
#[derive(Debug)]
struct Habit {
    spot: Spot,
    /// Looks in a row at a processor that is shared, and how many are enough.
    shared: u32,
    enough: u32,
    /// Looks at one that it had alone since it last shared one, and what was done in the last of them.
    alone: u32,
    work_alone: u128,
    /// The processor that it left, and what was done there.
    left: Option<(usize, u128)>,
}

impl Habit {
    fn new() -> Habit {
        Habit { spot: Spot::Any, shared: 0, enough: SOON, alone: 0, work_alone: u128::MAX, left: None }
    }

    /// `looks`: it is to look for work; `here`: the processor it is on; `next`: the one to try if the scheduler leaves it there.
    fn learn(&mut self, account: Account, looks: bool, here: usize, next: impl FnOnce() -> usize) {
        self.shared = if account.shares(if looks { LOOKS } else { SLEEPS }) { self.shared + 1 } else { 0 };
        let work = account.work_in_a_second();
        let mut back = None;
        if !account.is_busy() {
            (self.alone, self.work_alone, self.left) = (0, u128::MAX, None);
        } else if account.shares(LOOKS) {
            self.alone = 0;
        } else if !account.shares(ALONE) {
            (self.alone, self.work_alone) = (self.alone + 1, work);
            back = self.left.take().filter(|&(_, before)| work * WORSE.0 < before * WORSE.1);
        }
        if self.alone >= HELPED {
            self.enough = SOON;
        }
        // More may get done by sharing: the guest then sends a burst while the worker waits.
        let knows = self.shared < FORGOTTEN;
        let leaves = self.shared >= self.enough && !(knows && work > self.work_alone);
        self.spot = match (self.spot, back) {
            _ if !account.is_busy() => Spot::Any,
            (_, Some((cpu, _))) => Spot::Kept(cpu),
            (Spot::Left(left), _) if left == here => Spot::Kept(next()),
            (Spot::Any | Spot::Left(_), _) => Spot::Kept(here),
            (Spot::Kept(kept), _) if leaves => {
                (self.shared, self.enough, self.left) = (0, (2 * self.enough).min(SELDOM), Some((kept, work)));
                Spot::Left(kept)
            }
            (kept @ Spot::Kept(_), _) => kept,
        };
    }
}

/// Where the worker's thread runs.
pub(super) struct Place {
    /// `None` where there is nothing to choose or to know.
    thread: Option<Thread>,
    habit: Habit,
    last: Account,
}

/// What the kernel says of this thread, and was told.
struct Thread {
    schedstat: File,
    /// Where it may run, as whoever started vonicd has it.
    allowed: CpuSet,
    /// Where it was told to.
    told: CpuSet,
}

impl Place {
    pub(super) fn of_this_thread(now: Instant) -> Place {
        let last = Account { time: now.0, ..Account::default() };
        Place { thread: Thread::this(), habit: Habit::new(), last }
    }

    /// Looks at how it goes, now and then. `looks`: the worker is to look for work; `work`: what has been done up to now.
    pub(super) fn look(&mut self, now: Instant, looks: bool, work: impl FnOnce() -> u64) {
        if now.0.saturating_sub(self.last.time) < LOOK_US {
            return;
        }
        let used = self.thread.as_ref().and_then(Thread::used);
        let Some((thread, (ran, waited))) = self.thread.as_mut().zip(used) else {
            self.last.time = now.0;
            return;
        };
        let account = Account { ran, waited, work: work(), time: now.0 };
        let here = sched_getcpu();
        self.habit.learn(account.since(std::mem::replace(&mut self.last, account)), looks, here, || thread.next(here));
        if thread.take(self.habit.spot).is_none() {
            // The kernel does not permit it: it is the scheduler's affair from now on.
            self.thread = None;
        }
    }
}

impl Thread {
    fn this() -> Option<Thread> {
        let allowed = sched_getaffinity(None).ok().filter(|allowed| allowed.count() > 1)?;
        Some(Thread { schedstat: File::open("/proc/thread-self/schedstat").ok()?, allowed, told: allowed })
    }

    /// Nanoseconds for which it ran, and for which it waited for a processor (proc(5), `/proc/pid/schedstat`).
    fn used(&self) -> Option<(u64, u64)> {
        let mut line = [0; 96];
        let len = self.schedstat.read_at(&mut line, 0).ok()?;
        let mut numbers = std::str::from_utf8(&line[..len]).ok()?.split_ascii_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// The processor behind this one, of those where it may run.
    fn next(&self, here: usize) -> usize {
        (here + 1..CpuSet::MAX_CPU).chain(0..here).find(|&cpu| self.allowed.is_set(cpu)).unwrap_or(here)
    }

    /// `None`: it cannot.
    fn take(&mut self, spot: Spot) -> Option<()> {
        let mut wanted = self.allowed;
        if let Spot::Kept(cpu) = spot {
            wanted.clear();
            wanted.set(cpu);
        }
        if wanted == self.told {
            return Some(());
        }
        let found = sched_getaffinity(None).ok()?;
        if found != self.told {
            // Somebody else has said where it may run.
            (self.allowed, self.told) = (found, found);
            return Some(());
        }
        self.told = wanted;
        sched_setaffinity(None, &wanted).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where it is put after such looks of a worker on processor 0, of percents for which it waits, and work done; it moves where it is put, and the
    /// scheduler leaves it where it is.
    fn spots(looks: bool, seen: &[(u64, u64)]) -> Vec<Spot> {
        let (mut habit, mut here) = (Habit::new(), 0);
        let mut spot = |&(percent, work): &(u64, u64)| {
            let waited = LOOK_US * 10 * percent;
            let account = Account { ran: LOOK_US * 1000 - waited, waited, work, time: LOOK_US };
            habit.learn(account, looks, here, || 1 - here);
            if let Spot::Kept(cpu) = habit.spot {
                here = cpu;
            }
            habit.spot
        };
        seen.iter().map(&mut spot).collect()
    }

    #[test]
    fn a_busy_worker_stays_and_one_that_shares_its_processor_leaves() {
        use Spot::{Kept, Left};
        assert_eq!(spots(true, &[(0, 9); 40]), [Kept(0); 40]);
        assert_eq!(
            spots(true, &[(0, 9), (20, 5), (20, 5), (20, 5), (0, 9)]),
            [Kept(0), Kept(0), Left(0), Kept(1), Kept(1)]
        );
        // Not for a look, and not one that sleeps, for so little.
        assert_eq!(spots(true, &[[(0, 9); 4], [(20, 5), (0, 9), (20, 5), (0, 9)]].concat()), [Kept(0); 8]);
        assert_eq!(spots(false, &[[(0, 9); 4], [(40, 5); 4]].concat()), [Kept(0); 8]);
        assert_eq!(spots(false, &[(0, 9), (60, 5), (60, 5)])[2], Left(0));
    }

    #[test]
    fn where_more_gets_done_by_sharing_it_is_shared() {
        let stays = [&[(0, 5); 4][..], &[(30, 9); FORGOTTEN as usize - 1]].concat();
        assert!(spots(true, &stays).iter().all(|&spot| spot == Spot::Kept(0)));
        assert_eq!(spots(true, &[&stays[..], &[(30, 9)]].concat()).last(), Some(&Spot::Left(0)));
    }

    #[test]
    fn what_was_done_alone_before_there_was_much_to_do_does_not_count() {
        let mut habit = Habit::new();
        habit.learn(Account { ran: LOOK_US, work: 1, time: LOOK_US, ..Account::default() }, true, 0, || 1);
        let shares = Account { ran: LOOK_US * 700, waited: LOOK_US * 300, work: 9, time: LOOK_US };
        (0..2).for_each(|_| habit.learn(shares, true, 0, || 1));
        assert_eq!(habit.spot, Spot::Left(0));
    }

    #[test]
    fn it_goes_back_where_far_more_was_done_by_sharing() {
        use Spot::{Kept, Left};
        let begins = [(30, 9), (30, 9), (0, 3)];
        assert_eq!(spots(true, &begins), [Kept(0), Left(0), Kept(0)]);
        let begins = [(30, 9), (30, 9), (30, 9), (0, 3), (0, 3)];
        assert_eq!(spots(true, &begins), [Kept(0), Left(0), Kept(1), Kept(0), Kept(0)]);
        let no_worse = [(30, 9), (30, 9), (30, 9), (0, 7)];
        assert_eq!(spots(true, &no_worse)[3], Kept(1));
    }

    #[test]
    fn a_look_at_which_it_shared_for_a_part_is_none_of_both() {
        assert_eq!(spots(true, &[(0, 9), (12, 3), (30, 5), (30, 5)])[3], Spot::Left(0));
        assert_eq!(spots(true, &[(0, 9), (30, 5), (12, 3), (30, 5)])[3], Spot::Kept(0));
    }

    #[test]
    fn who_shares_everywhere_leaves_less_and_less_often() {
        let leaves = |spots: &[Spot]| spots.iter().filter(|spot| matches!(spot, Spot::Left(_))).count();
        let all = spots(true, &[(30, 5); 400]);
        assert!((2..=6).contains(&leaves(&all[..100])) && leaves(&all[200..]) <= 4, "{all:?}");
        // And again as soon as at first, once it has been alone for a while.
        let later = spots(true, &[&[(30, 5); 400][..], &[(0, 9); HELPED as usize], &[(30, 5); 4]].concat());
        assert_eq!(leaves(&later[400..]), 1);
    }

    #[test]
    fn who_hardly_runs_is_put_where_there_is_room() {
        let mut habit = Habit::new();
        let account = |ran| Account { ran, time: LOOK_US, ..Account::default() };
        habit.learn(account(LOOK_US * 1000), true, 0, || 1);
        assert_eq!(habit.spot, Spot::Kept(0));
        habit.learn(account(LOOK_US * 100), true, 0, || 1);
        assert_eq!(habit.spot, Spot::Any);
        habit.learn(Account { waited: LOOK_US * 800, ..account(LOOK_US * 100) }, true, 0, || 1);
        assert_eq!(habit.spot, Spot::Any);
    }
}
