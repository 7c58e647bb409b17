//! `Core`: the queue itself, as data. It does no I/O and reads no clock, so every step is one call
//! with the time in it.
//!
//! Memory is the truth while the process lives; what changed since the file was last written is
//! remembered by number, and written as it then is. A push is the exception: the job arrives, is
//! written, and only then is there for workers.

mod disk;
mod entry;
mod journal;
mod restore;
mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

pub(super) use entry::Serving;
use entry::{Entry, Next, Phase};
pub(super) use journal::Mirror;

use super::answers::{Changed, Pushed, Settled};
use super::job::{
    DELAY_MAX, DoneJob, JobId, JobRef, JobSerial, NewJob, QueueLimits, Receipt, TakenJob,
    VISIBILITY_MAX, bounded_error, clamped_ms,
};
use super::stored::Role;
use crate::PAGE_LIMIT_MAX;

/// The jobs of one process. Times are milliseconds of a clock that never jumps.
#[derive(Debug)]
pub(super) struct Core {
    limits: QueueLimits,
    memory: Memory,
    /// Whether changes are remembered for the file.
    has_file: bool,
    /// The number of the next entry; numbers are never used twice.
    next: u64,
    entries: HashMap<u64, Entry>,
    ids: BTreeMap<JobId, u64>,
    due: BTreeSet<(u64, u64)>,
    taken: BTreeSet<(u64, u64)>,
    dead: BTreeSet<(u64, u64)>,
    /// The dead that have an owner, and maybe the only pointer to something that is kept there.
    dead_owned: BTreeSet<(u64, u64)>,
    done: BTreeMap<u64, Done>,
    done_serials: HashMap<JobSerial, u64>,
    bytes: usize,
    dead_dropped: u64,
    disk: disk::Pending,
}

/// What is remembered of pushes that are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Nothing: nobody asks.
    Nothing,
    /// What a shared queue must be told was done: this is a journal.
    Owed,
    /// What was done and what gave way to a later push: this is a shared queue.
    Over,
}

/// A push that is remembered as done.
#[derive(Debug, Clone)]
struct Done {
    done: DoneJob,
    since: u64,
}

impl Core {
    pub(super) fn new(limits: QueueLimits, memory: Memory, has_file: bool) -> Self {
        Self {
            limits,
            memory,
            has_file,
            next: 1,
            entries: HashMap::new(),
            ids: BTreeMap::new(),
            due: BTreeSet::new(),
            taken: BTreeSet::new(),
            dead: BTreeSet::new(),
            dead_owned: BTreeSet::new(),
            done: BTreeMap::new(),
            done_serials: HashMap::new(),
            bytes: 0,
            dead_dropped: 0,
            disk: disk::Pending::default(),
        }
    }

    /// Puts `job` in, which [`NewJob::check`] has passed.
    pub(super) fn push(&mut self, now: u64, job: &NewJob, role: Role) -> Pushed {
        self.bring_back(now);
        if let Some(seq) = self.ids.get(&job.id).copied() {
            return self.push_again(now, seq, job);
        }
        let entry = Entry::new(now, job, role, self.has_file);
        if self.live() >= self.limits.jobs_max || !self.fits(&entry) {
            return Pushed::Full;
        }
        self.insert(entry);
        Pushed::Queued
    }

    fn push_again(&mut self, now: u64, seq: u64, job: &NewJob) -> Pushed {
        let entry = &self.entries[&seq];
        let hurried = |due: u64| match job.hurries {
            true => due.min(now + clamped_ms(job.due_in, DELAY_MAX)),
            false => due,
        };
        let again = Pushed::AlreadyQueued { serial: job.serial };
        let next = Next {
            serial: job.serial,
            pushed: now,
        };
        let phase = match entry.phase {
            Phase::Dead { .. } => {
                return Pushed::Dead {
                    serial: entry.serial,
                };
            }
            Phase::Taken { .. } => {
                self.wait_for(now, seq, next);
                return again;
            }
            Phase::Queued { due } => Phase::Queued { due: hurried(due) },
            Phase::Arriving { due } => Phase::Arriving { due: hurried(due) },
        };
        self.stand_for(now, seq, next);
        self.enter(seq, phase);
        again
    }

    /// Makes a job stand for a later push: whatever ends an earlier one does not end this.
    fn stand_for(&mut self, now: u64, seq: u64, next: Next) {
        let Some(entry) = self.entries.get_mut(&seq) else {
            return;
        };
        let earlier = entry.to_ref();
        entry.serial = next.serial;
        entry.pushed = next.pushed;
        entry.next = None;
        if self.memory == Memory::Over && earlier.serial != next.serial {
            self.note_done(now, earlier.into());
        }
    }

    /// Keeps a push that came while somebody works on the job: success serves it too, and after a
    /// failure the job stands for it. One that waited for the same gives way to it.
    fn wait_for(&mut self, now: u64, seq: u64, next: Next) {
        let Some(entry) = self.entries.get_mut(&seq) else {
            return;
        };
        if entry.serial == next.serial {
            // It was repeated, and is what is being done.
            return;
        }
        let earlier = entry.next.replace(next);
        let JobRef { id, .. } = entry.to_ref();
        self.touch(seq);
        let earlier = earlier.filter(|earlier| earlier.serial != next.serial);
        if let Some(Next { serial, .. }) = earlier.filter(|_| self.memory == Memory::Over) {
            self.note_done(now, JobRef { id, serial }.into());
        }
    }

    /// Draws the conclusion from the end of an attempt that was none of the job.
    fn come_back(&mut self, now: u64, seq: u64) {
        if let Some(next) = self.entries.get(&seq).and_then(|entry| entry.next) {
            self.stand_for(now, seq, next);
        }
    }

    /// Takes due jobs.
    pub(super) fn take(
        &mut self,
        now: u64,
        worker: &str,
        limit: usize,
        visibility: Duration,
        serving: Serving,
    ) -> Vec<TakenJob> {
        self.bring_back(now);
        let due = self.due.range(..=(now, u64::MAX)).map(|(_, seq)| *seq);
        let seqs: Vec<u64> = due
            .filter(|seq| self.entries[seq].may_take(worker, serving))
            .take(limit.min(PAGE_LIMIT_MAX))
            .collect();
        let (token, worker) = (Uuid::new_v4(), Arc::<str>::from(worker));
        let until = now + visible_ms(visibility);
        let mut jobs = Vec::with_capacity(seqs.len());
        for seq in seqs {
            self.enter(seq, Phase::Taken { until });
            let Some(entry) = self.entries.get_mut(&seq) else {
                continue;
            };
            entry.attempts = entry.attempts.saturating_add(1);
            entry.token = Some(token);
            entry.worker = Some(Arc::clone(&worker));
            jobs.push(entry.taken_job(now, token));
        }
        jobs
    }

    /// Makes those wait again whose worker was too slow; its receipt stays good until the next one.
    fn bring_back(&mut self, now: u64) {
        while let Some((until, seq)) = self.taken.first().copied().filter(|(at, _)| *at <= now) {
            self.come_back(now, seq);
            self.enter(seq, Phase::Queued { due: until });
        }
    }

    pub(super) fn extend(&mut self, now: u64, receipt: &Receipt, visibility: Duration) -> Settled {
        let until = now + visible_ms(visibility);
        self.settle(receipt, |core, seq| {
            let was_taken = matches!(core.entries[&seq].phase, Phase::Taken { .. });
            core.shift(seq, Phase::Taken { until });
            if !was_taken {
                core.touch(seq);
            }
        })
    }

    pub(super) fn ack(&mut self, now: u64, receipt: &Receipt) -> Settled {
        self.settle(receipt, |core, seq| {
            core.leave(now, seq);
        })
    }

    pub(super) fn retry(
        &mut self,
        now: u64,
        receipt: &Receipt,
        due_in: Duration,
        error: &str,
    ) -> Settled {
        let error = bounded_error(error);
        self.settle(receipt, |core, seq| {
            core.fail(now, seq, error, |entry| {
                entry.delay = clamped_ms(due_in, DELAY_MAX);
                // The shared queue does not know of this attempt.
                entry.role = Role::Own;
            });
            let due = now + core.entries[&seq].delay;
            core.enter(seq, Phase::Queued { due });
        })
    }

    pub(super) fn bury(&mut self, now: u64, receipt: &Receipt, error: &str) -> Settled {
        let error = bounded_error(error);
        self.settle(receipt, |core, seq| {
            core.fail(now, seq, error, |entry| {
                // The shared queue may believe it alive: this one knows better.
                entry.role = Role::Own;
            });
            core.enter(seq, Phase::Dead { since: now });
            core.make_room_for_the_dead(now);
        })
    }

    fn settle(&mut self, receipt: &Receipt, act: impl FnOnce(&mut Self, u64)) -> Settled {
        match self.held(receipt) {
            Some(seq) => {
                act(self, seq);
                Settled::Settled
            }
            None => Settled::Stale,
        }
    }

    /// Returns the number of the job whose last taking gave out `receipt`.
    pub(super) fn held(&self, receipt: &Receipt) -> Option<u64> {
        let seq = *self.ids.get(&receipt.job.id)?;
        let entry = &self.entries[&seq];
        let same = entry.serial == receipt.job.serial && entry.token == Some(receipt.token);
        same.then_some(seq)
    }

    /// Ends an attempt: its receipt is used up.
    fn fail(&mut self, now: u64, seq: u64, error: Arc<str>, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.token = None;
            entry.worker = None;
            change(entry);
        }
        self.set_error(seq, Some(error));
        self.come_back(now, seq);
    }

    fn set_error(&mut self, seq: u64, error: Option<Arc<str>>) {
        if let Some(entry) = self.entries.get_mut(&seq) {
            let before = entry.bytes();
            entry.error = error;
            self.bytes = self.bytes + entry.bytes() - before;
        }
    }

    pub(super) fn run_now(&mut self, now: u64, id: &JobId) -> Changed {
        self.bring_back(now);
        let Some(seq) = self.ids.get(id).copied() else {
            return Changed::Gone;
        };
        match self.entries[&seq].phase {
            Phase::Queued { due } => {
                let due = due.min(now);
                self.enter(seq, Phase::Queued { due });
            }
            Phase::Arriving { .. } => self.enter(seq, Phase::Arriving { due: now }),
            Phase::Taken { .. } => return Changed::Taken,
            Phase::Dead { .. } => return Changed::Gone,
        }
        Changed::Changed
    }

    pub(super) fn drop_job(&mut self, now: u64, id: &JobId) -> Changed {
        match self.ids.get(id).copied() {
            Some(seq) => {
                self.leave(now, seq);
                Changed::Changed
            }
            None => Changed::Gone,
        }
    }

    pub(super) fn requeue(&mut self, now: u64, id: &JobId) -> Changed {
        let Some(seq) = self.ids.get(id).copied() else {
            return Changed::Gone;
        };
        if !matches!(self.entries[&seq].phase, Phase::Dead { .. }) {
            return Changed::Gone;
        }
        if self.live() >= self.limits.jobs_max {
            return Changed::Full;
        }
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.attempts = 0;
            entry.delay = 0;
            entry.live_again(now);
        }
        self.enter(seq, Phase::Queued { due: now });
        Changed::Changed
    }

    fn live(&self) -> usize {
        self.entries.len() - self.dead.len() - self.dead_owned.len()
    }

    fn fits(&self, entry: &Entry) -> bool {
        self.bytes.saturating_add(entry.bytes()) <= self.limits.bytes_max
    }

    fn insert(&mut self, entry: Entry) {
        let seq = self.next;
        self.next += 1;
        self.bytes += entry.bytes();
        self.ids.insert(entry.id.clone(), seq);
        let phase = entry.phase;
        self.entries.insert(seq, entry);
        self.enter(seq, phase);
    }

    /// Moves a job to `phase`, and remembers that the file must learn of it.
    fn enter(&mut self, seq: u64, phase: Phase) {
        self.shift(seq, phase);
        self.touch(seq);
    }

    /// Moves a job to `phase`, of which the file need not learn.
    fn shift(&mut self, seq: u64, phase: Phase) {
        let Some(entry) = self.entries.get_mut(&seq) else {
            return;
        };
        let before = std::mem::replace(&mut entry.phase, phase);
        let owned = entry.owner.is_some();
        self.index(before, seq, owned, false);
        self.index(phase, seq, owned, true);
    }

    fn index(&mut self, phase: Phase, seq: u64, owned: bool, add: bool) {
        let (set, at) = match phase {
            Phase::Arriving { .. } => return,
            Phase::Queued { due } => (&mut self.due, due),
            Phase::Taken { until } => (&mut self.taken, until),
            Phase::Dead { since } if owned => (&mut self.dead_owned, since),
            Phase::Dead { since } => (&mut self.dead, since),
        };
        if add {
            set.insert((at, seq));
        } else {
            set.remove(&(at, seq));
        }
    }

    /// Takes a job out for good. Nobody else ever hears of one that has an owner.
    fn leave(&mut self, now: u64, seq: u64) {
        if let Some(entry) = self.remove(seq)
            && self.memory != Memory::Nothing
            && entry.owner.is_none()
        {
            self.note_done(now, entry.to_ref().into());
            if let Some(next) = entry.next.filter(|_| self.memory == Memory::Over) {
                let JobRef { id, .. } = entry.to_ref();
                let serial = next.serial;
                self.note_done(now, JobRef { id, serial }.into());
            }
        }
    }

    fn remove(&mut self, seq: u64) -> Option<Entry> {
        let entry = self.entries.remove(&seq)?;
        self.ids.remove(&entry.id);
        self.index(entry.phase, seq, entry.owner.is_some(), false);
        self.bytes -= entry.bytes();
        self.touch(seq);
        Some(entry)
    }

    /// Lets the dead leave that are too many. Those with an owner stay: nobody else remembers what
    /// they are for, and they are no more than that instance keeps.
    fn make_room_for_the_dead(&mut self, now: u64) {
        while self.dead.len() > self.limits.dead_max {
            let Some((_, seq)) = self.dead.first().copied() else {
                return;
            };
            self.dead_dropped += 1;
            if self.entries[&seq].role == Role::Own {
                self.leave(now, seq);
            } else {
                // Want of room here says nothing about the shared queue.
                self.remove(seq);
            }
        }
    }

    fn note_done(&mut self, now: u64, done: DoneJob) {
        if self.done_serials.contains_key(&done.job.serial) {
            return;
        }
        let seq = self.next;
        self.next += 1;
        self.done_serials.insert(done.job.serial, seq);
        self.done.insert(seq, Done { done, since: now });
        self.touch(seq);
        while self.done.len() > self.limits.done_max {
            let Some((seq, oldest)) = self.done.pop_first() else {
                return;
            };
            self.done_serials.remove(&oldest.done.job.serial);
            self.touch(seq);
        }
    }

    fn touch(&mut self, seq: u64) {
        if self.has_file {
            self.disk.touch(seq);
        }
    }
}

fn visible_ms(visibility: Duration) -> u64 {
    clamped_ms(visibility, VISIBILITY_MAX).max(1)
}

#[cfg(test)]
mod tests;
