//! What the core does beside when it is the journal of jobs that a shared queue serves.

use std::ops::Bound;

use super::Core;
use super::entry::{Entry, Phase};
use crate::queue::answers::{Changed, JobView, Pushed, Review};
use crate::queue::job::{Backup, DELAY_MAX, DoneJob, JobId, JobRef, JobSerial, NewJob, clamped_ms};
use crate::queue::stored::Role;

/// A job of the journal, as the reconciliation with the shared queue sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) job: JobRef,
    pub(crate) role: Role,
    pub(crate) attempts: u32,
    /// Whether it lives since an operator said so here.
    pub(crate) revived: bool,
    /// Whether the shared queue may have a later error.
    pub(crate) is_behind: bool,
}

impl Core {
    /// Returns jobs that the shared queue should have, in the order of their ids, after `after`.
    /// Those that are arriving or being worked on here are left for later.
    pub(crate) fn mirrors(&mut self, now: u64, after: Option<&JobId>, limit: usize) -> Vec<Mirror> {
        self.bring_back(now);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.ids.range((start, Bound::Unbounded));
        entries
            .map(|(_, seq)| &self.entries[seq])
            .filter(|entry| entry.owner.is_none() && entry.rests())
            .take(limit)
            .map(Entry::mirror)
            .collect()
    }

    /// Returns the push and the role that the job of `id` has.
    pub(crate) fn mirror(&self, id: &JobId) -> Option<Mirror> {
        Some(self.entries[self.ids.get(id)?].mirror())
    }

    /// Says whether there is a job of `id` that has an owner.
    pub(crate) fn has_owner(&self, id: &JobId) -> bool {
        let seq = self.ids.get(id);
        seq.is_some_and(|seq| self.entries[seq].owner.is_some())
    }

    /// Returns a copy of a job.
    pub(crate) fn backup(&self, now: u64, job: &JobRef) -> Option<Backup> {
        Some(self.entries[&self.seq_of(job)?].backup(now))
    }

    /// Changes who has the last word on a job.
    pub(crate) fn set_role(&mut self, job: &JobRef, role: Role) {
        self.change(job, |entry| {
            let changes = entry.role != role;
            entry.play(role);
            changes
        });
    }

    /// Gives a dead job another life, of which the shared queue has not heard.
    pub(crate) fn revive(&mut self, now: u64, id: &JobId) -> Changed {
        let changed = self.requeue(now, id);
        let seq = self.ids.get(id).filter(|_| changed == Changed::Changed);
        if let Some(entry) = seq.and_then(|seq| self.entries.get_mut(seq)) {
            entry.role = Role::Own;
            entry.revived = true;
        }
        changed
    }

    /// Makes a job stand for another push of its id, unless somebody here works on it.
    pub(crate) fn rename(&mut self, job: &JobRef, serial: JobSerial, role: Role) {
        self.change(job, |entry| {
            if matches!(entry.phase, Phase::Taken { .. }) {
                return false;
            }
            let changes = entry.serial != serial || entry.role != role;
            entry.serial = serial;
            entry.token = None;
            entry.play(role);
            changes
        });
    }

    /// Puts `job` in the place of whatever has its id, unless somebody here works on that, behind
    /// which it waits already; says whether there was room.
    pub(crate) fn replace(&mut self, now: u64, job: &NewJob, role: Role) -> bool {
        if let Some(seq) = self.ids.get(&job.id).copied() {
            if matches!(self.entries[&seq].phase, Phase::Taken { .. }) {
                return true;
            }
            self.remove(seq);
        }
        self.push(now, job, role) == Pushed::Queued
    }

    /// Takes a job out; says whether it was there.
    pub(crate) fn forget(&mut self, job: &JobRef) -> bool {
        let seq = self.seq_of(job);
        seq.and_then(|seq| self.remove(seq)).is_some()
    }

    /// Makes a job look as the shared queue says it is there, unless somebody here works on it;
    /// `view` is what it shows of the job, if it was asked.
    pub(crate) fn follow(
        &mut self,
        now: u64,
        job: &JobRef,
        review: Review,
        view: Option<&JobView>,
    ) {
        let (attempts, phase) = match review {
            Review::Queued { attempts, due_in } => {
                let due = now + clamped_ms(due_in, DELAY_MAX);
                (attempts, Phase::Queued { due })
            }
            // Should the shared queue go away now, whoever has it there is given its time.
            Review::Taken {
                attempts,
                returns_in,
            } => {
                let due = now + clamped_ms(returns_in, DELAY_MAX);
                (attempts, Phase::Queued { due })
            }
            Review::Dead { attempts } => (attempts, Phase::Dead { since: now }),
            Review::Done | Review::Other { .. } | Review::Unknown => return,
        };
        let Some(seq) = self.seq_of(job) else {
            return;
        };
        let entry = &self.entries[&seq];
        let dies = matches!(phase, Phase::Dead { .. });
        let dead = matches!(entry.phase, Phase::Dead { .. });
        if !entry.rests() {
            return;
        }
        let role = match entry.role {
            Role::Own => Role::Primary,
            role => role,
        };
        let tried = entry.attempts != attempts;
        let error = view.map(|view| view.info.last_error.clone());
        let error = error.filter(|error| *error != entry.error);
        let changes = dies != dead || tried || entry.role != role || error.is_some();
        if !(dies && dead) {
            // Not every change of a due time is worth a write.
            self.shift(seq, phase);
        }
        if let Some(error) = error {
            self.set_error(seq, error);
        }
        if let Some(entry) = self.entries.get_mut(&seq) {
            if dead && !dies {
                entry.live_again(now);
            }
            if let Phase::Queued { due } = phase {
                // However long that is, a restart in between must not cut it short.
                entry.delay = due - now;
            }
            entry.attempts = attempts;
            entry.play(role);
            entry.is_behind = view.is_none() && (entry.is_behind || tried);
        }
        if changes {
            self.touch(seq);
        }
        self.make_room_for_the_dead(now);
    }

    /// Remembers that the shared queue must be told that a job is done.
    pub(crate) fn owe(&mut self, now: u64, done: DoneJob) {
        self.note_done(now, done);
    }

    /// Returns some of what the shared queue must be told, the oldest first.
    pub(crate) fn owed(&self, limit: usize) -> Vec<DoneJob> {
        let owed = self.done.values().take(limit);
        owed.map(|done| done.done.clone()).collect()
    }

    /// Forgets what the shared queue was told.
    pub(crate) fn paid(&mut self, told: &[DoneJob]) {
        for done in told {
            if let Some(seq) = self.done_serials.remove(&done.job.serial) {
                self.done.remove(&seq);
                self.touch(seq);
            }
        }
    }

    /// Returns how many jobs there are, dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn seq_of(&self, job: &JobRef) -> Option<u64> {
        let seq = *self.ids.get(&job.id)?;
        (self.entries[&seq].serial == job.serial).then_some(seq)
    }

    fn change(&mut self, job: &JobRef, change: impl FnOnce(&mut Entry) -> bool) {
        let Some(seq) = self.seq_of(job) else {
            return;
        };
        if self.entries.get_mut(&seq).is_some_and(change) {
            self.touch(seq);
        }
    }
}

impl Entry {
    fn mirror(&self) -> Mirror {
        Mirror {
            job: self.to_ref(),
            role: self.role,
            attempts: self.attempts,
            revived: self.revived && !matches!(self.phase, Phase::Dead { .. }),
            is_behind: self.is_behind,
        }
    }

    /// Changes who has the last word on it; what the shared queue has, it has heard of.
    fn play(&mut self, role: Role) {
        self.role = role;
        self.revived &= role == Role::Own;
    }

    /// Says whether it neither is on its way into the file nor worked on.
    fn rests(&self) -> bool {
        matches!(self.phase, Phase::Queued { .. } | Phase::Dead { .. })
    }
}
