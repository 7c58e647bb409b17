//! What the file must learn, and what it tells at the start.

use std::collections::{BTreeSet, HashSet};

use super::entry::{Arrival, Entry, Phase, ms};
use super::{Core, Done, Memory};
use crate::queue::job::{
    DELAY_MAX, DoneJob, JobId, JobRef, JobSerial, LIFE_MAX, NewJob, clamped_ms,
};
use crate::queue::stored::{StoredJob, StoredState};

/// The highest number of an entry: a file that has a higher one was not written by us, and counting
/// on from there must not end.
const SEQ_MAX: u64 = u64::MAX / 2;

/// Changes that are not in the file yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// The numbers of the entries that changed.
    dirty: BTreeSet<u64>,
    /// How many changes there were, and up to which one the file was written or tried to be.
    changes: u64,
    settled: u64,
    /// Whether the file has told what was in it.
    loaded: bool,
}

impl Pending {
    pub(super) fn touch(&mut self, seq: u64) {
        self.dirty.insert(seq);
        self.changes += 1;
    }
}

/// What one write puts into the file: by number, the entry or that there is none.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) writes: Vec<(u64, Option<StoredJob>)>,
    changes: u64,
}

impl Core {
    /// Returns the number of the last change, for [`is_settled`](Self::is_settled).
    pub(crate) fn changes(&self) -> u64 {
        self.disk.changes
    }

    /// Says whether the file was written, or refused to be, with the change of this number.
    pub(crate) fn is_settled(&self, change: u64) -> bool {
        self.disk.settled >= change
    }

    /// Says whether there is something to write or to wait for.
    pub(crate) fn wants_file(&self) -> bool {
        self.has_file && (self.disk.settled < self.disk.changes || self.is_behind())
    }

    /// Says whether the file lacks something that nobody is writing now, or was not read yet.
    pub(crate) fn is_behind(&self) -> bool {
        !self.disk.dirty.is_empty() || !self.disk.loaded
    }

    /// Says whether the file has told what was in it.
    pub(crate) fn is_loaded(&self) -> bool {
        self.disk.loaded
    }

    /// Returns where to hear whether the job of `id` gets into the file, if it is on its way.
    pub(crate) fn arrival(&self, id: &JobId) -> Option<Arrival> {
        self.entries[self.ids.get(id)?].arrival.clone()
    }

    /// Takes all changes; `wall` is the wall clock at `now`.
    pub(crate) fn begin_write(&mut self, now: u64, wall: u64) -> Batch {
        let dirty = std::mem::take(&mut self.disk.dirty);
        let writes = dirty.into_iter().map(|seq| {
            let stored = self.entries.get(&seq).map(|entry| stored(entry, now, wall));
            (seq, stored.or_else(|| self.stored_done(seq, now, wall)))
        });
        Batch {
            writes: writes.collect(),
            changes: self.disk.changes,
        }
    }

    fn stored_done(&self, seq: u64, now: u64, wall: u64) -> Option<StoredJob> {
        let done = self.done.get(&seq)?;
        let JobRef { id, serial } = &done.done.job;
        let named = StoredJob::named(id.as_str(), *serial, StoredState::Done);
        Some(StoredJob {
            token: done.done.token,
            since_ms: wall.saturating_sub(now.saturating_sub(done.since)),
            ..named
        })
    }

    /// Draws the conclusions: what arrived is there, or was refused; what was not written is still
    /// to be.
    pub(crate) fn end_write(&mut self, batch: Batch, written: bool) {
        self.disk.settled = self.disk.settled.max(batch.changes);
        for (seq, _) in batch.writes {
            let arriving = match self.entries.get_mut(&seq) {
                Some(entry) => match entry.phase {
                    Phase::Arriving { due } => {
                        if let Some(arrival) = entry.arrival.take() {
                            // Nobody else sets it, since it was taken out.
                            let _ = arrival.set(written);
                        }
                        Some(due)
                    }
                    _ => None,
                },
                None => None,
            };
            match (arriving, written) {
                (Some(due), true) => {
                    // No change for the file, where an arriving one is a queued one.
                    if let Some(entry) = self.entries.get_mut(&seq) {
                        entry.phase = Phase::Queued { due };
                        self.due.insert((due, seq));
                    }
                }
                // The write may have got through all the same, so it stays to be removed.
                (Some(_), false) => drop(self.remove(seq)),
                (None, true) => {}
                (None, false) => {
                    self.disk.dirty.insert(seq);
                }
            }
        }
    }

    /// Takes over what was in the file; returns how many entries meant nothing.
    ///
    /// Whoever arrived before is numbered anew, and gives way to a job of the same id.
    pub(crate) fn load(&mut self, stored: Vec<(u64, StoredJob)>, now: u64, wall: u64) -> usize {
        let waiting: Vec<u64> = self.entries.keys().copied().collect();
        let arrived: Vec<Entry> = waiting.iter().filter_map(|seq| self.remove(*seq)).collect();
        let done = std::mem::take(&mut self.done);
        self.done_serials.clear();
        self.disk.dirty.clear();
        self.disk.loaded = true;
        let (mut bad, mut highest) = (0, 0);
        for (seq, job) in stored {
            if seq > SEQ_MAX {
                bad += 1;
                continue;
            }
            highest = highest.max(seq);
            bad += usize::from(!self.load_one(seq, job, now, wall));
        }
        self.next = self.next.max(highest + 1);
        for entry in arrived {
            if !self.ids.contains_key(&entry.id) {
                self.insert(entry);
            }
        }
        for done in done.into_values() {
            self.note_done(done.since, done.done);
        }
        bad
    }

    fn load_one(&mut self, seq: u64, job: StoredJob, now: u64, wall: u64) -> bool {
        let Ok(id) = JobId::new(&*job.id) else {
            return false;
        };
        let serial = job.serial.unwrap_or_else(JobSerial::random);
        if job.state == StoredState::Done && self.memory == Memory::Nothing {
            // There was a shared queue to be told, and there is none any more.
            self.touch(seq);
            return true;
        }
        if job.state == StoredState::Done && self.done_serials.contains_key(&serial) {
            // One that is told twice would be owed for ever.
            self.touch(seq);
            return true;
        }
        if job.state == StoredState::Done {
            self.done_serials.insert(serial, seq);
            let since = now.saturating_sub(wall.saturating_sub(job.since_ms));
            let done = DoneJob {
                job: JobRef { id, serial },
                token: job.token,
            };
            self.done.insert(seq, Done { done, since });
            return true;
        }
        // Whatever became of the wall clock, a job waits no longer than it once had to.
        let delay = job.delay_ms.min(clamped_ms(DELAY_MAX, DELAY_MAX));
        let life = job.deadline_ms.saturating_sub(job.created_ms);
        let new = NewJob {
            id,
            serial,
            kind: job.kind,
            payload: job.payload,
            owner: job.owner,
            due_in: ms(job.due_ms.saturating_sub(wall).min(delay)),
            hurries: false,
            deadline_in: ms(life),
            reason: None,
        };
        if new.check().is_err() || self.ids.contains_key(&new.id) {
            return false;
        }
        let mut entry = Entry::new(now, &new, job.role, false);
        let age = wall.saturating_sub(job.created_ms);
        entry.created = now.saturating_sub(age.min(clamped_ms(LIFE_MAX, LIFE_MAX)));
        // It is worth doing no longer than it once was, and another life is no longer than this.
        entry.deadline -= now - entry.created;
        let ago = |then: u64| now.saturating_sub(wall.saturating_sub(then));
        // A version that knew of one push only meant the first.
        entry.pushed = ago(job.pushed_ms.max(job.created_ms)).max(entry.created);
        entry.delay = delay;
        entry.attempts = job.attempts;
        entry.revived = job.revived;
        entry.error = job.error;
        match job.state {
            StoredState::Dead => {
                let since = ago(job.since_ms);
                entry.phase = Phase::Dead { since };
            }
            StoredState::Taken => {
                entry.phase = Phase::Queued { due: now };
                // That is not to be said of it again.
                self.touch(seq);
            }
            // Among those that are due, the order stays.
            _ if job.due_ms < wall => {
                let due = ago(job.due_ms);
                entry.phase = Phase::Queued { due };
            }
            _ => {}
        }
        self.bytes += entry.bytes();
        self.ids.insert(entry.id.clone(), seq);
        let (phase, owned) = (entry.phase, entry.owner.is_some());
        self.entries.insert(seq, entry);
        self.index(phase, seq, owned, true);
        true
    }

    /// Keeps the numbers of entries that mean nothing to this version from being used again: what
    /// they say stays for a version that can read it.
    pub(crate) fn pass_over(&mut self, unreadable: &[u64]) {
        let ours = unreadable.iter().filter(|seq| **seq <= SEQ_MAX);
        self.next = self.next.max(ours.max().map_or(0, |seq| seq + 1));
    }

    /// Makes the file, which was opened again and has `stored`, learn what it lacks beside the
    /// changes that it was not told: all of it if it is another one.
    pub(crate) fn complete(&mut self, stored: &[(u64, StoredJob)]) {
        let there: HashSet<(u64, &str)> =
            stored.iter().map(|(seq, job)| (*seq, &*job.id)).collect();
        let entries = self.entries.iter().map(|(seq, entry)| (*seq, &entry.id));
        let done = self.done.iter();
        let done = done.map(|(seq, done)| (*seq, &done.done.job.id));
        let lacks = |(seq, id): &(u64, &JobId)| !there.contains(&(*seq, id.as_str()));
        let lacking = entries.chain(done).filter(lacks).map(|(seq, _)| seq);
        self.disk.dirty.extend(lacking);
    }
}

fn stored(entry: &Entry, now: u64, wall: u64) -> StoredJob {
    let wall_of = |at: u64| match at >= now {
        true => wall.saturating_add(at - now),
        false => wall.saturating_sub(now - at),
    };
    let (state, due, since) = match entry.phase {
        Phase::Arriving { due } | Phase::Queued { due } => (StoredState::Queued, due, 0),
        Phase::Taken { .. } => (StoredState::Taken, now, 0),
        Phase::Dead { since } => (StoredState::Dead, now, wall_of(since)),
    };
    // Whoever works on it will not have, by the time that this is read.
    let (serial, pushed) = match entry.next {
        Some(next) => (next.serial, next.pushed),
        None => (entry.serial, entry.pushed),
    };
    StoredJob {
        kind: entry.kind.clone(),
        owner: entry.owner.clone(),
        payload: entry.payload.clone(),
        created_ms: wall_of(entry.created),
        pushed_ms: wall_of(pushed),
        deadline_ms: wall_of(entry.deadline),
        due_ms: wall_of(due),
        delay_ms: entry.delay,
        since_ms: since,
        attempts: entry.attempts,
        error: entry.error.clone(),
        role: entry.role,
        revived: entry.revived,
        ..StoredJob::named(entry.id.as_str(), serial, state)
    }
}
