//! What journals tell the core: which jobs it may have lost, and which are over.

use super::entry::{Entry, Next, Phase};
use super::{Core, Memory};
use crate::queue::answers::{Restored, Review};
use crate::queue::job::{Backup, DELAY_MAX, DoneJob, JobRef, LIFE_MAX, clamped_ms};
use crate::queue::stored::Role;

impl Core {
    /// Brings back a job, which [`NewJob::check`](crate::NewJob) has passed.
    pub(crate) fn restore(&mut self, now: u64, backup: &Backup) -> Restored {
        let job = &backup.job;
        let of = JobRef {
            id: job.id.clone(),
            serial: job.serial,
        };
        let known = self.review(now, &of);
        let pushed = now.saturating_sub(clamped_ms(backup.pushed_ago, LIFE_MAX));
        if let Some(seq) = self.ids.get(&job.id).copied() {
            if known.is_other() && !backup.dead && !self.done_serials.contains_key(&job.serial) {
                self.follow_up(
                    now,
                    seq,
                    Next {
                        serial: job.serial,
                        pushed,
                    },
                );
            }
            if matches!(self.review(now, &of), Review::Queued { .. }) {
                self.catch_up(now, seq, backup);
            }
            return Restored::Known(self.review(now, &of));
        }
        if known != Review::Unknown {
            return Restored::Known(known);
        }
        let mut entry = Entry::new(now, job, Role::Own, false);
        entry.created = now.saturating_sub(clamped_ms(backup.age, LIFE_MAX));
        entry.pushed = pushed;
        entry.attempts = backup.attempts;
        entry.error = backup.last_error.clone();
        if backup.dead {
            entry.phase = Phase::Dead { since: now };
        } else if self.live() >= self.limits.jobs_max {
            return Restored::Full;
        }
        if !self.fits(&entry) {
            return Restored::Full;
        }
        self.insert(entry);
        self.make_room_for_the_dead(now);
        Restored::Added
    }

    /// Makes a job stand for another push of its id if that came later, or will once whoever works
    /// on it has failed.
    fn follow_up(&mut self, now: u64, seq: u64, next: Next) {
        let Some(entry) = self.entries.get_mut(&seq) else {
            return;
        };
        let last = entry.next.map_or(entry.pushed, |last| last.pushed);
        match entry.phase {
            Phase::Queued { .. } if last < next.pushed => self.stand_for(now, seq, next),
            Phase::Taken { .. } if last < next.pushed => self.wait_for(now, seq, next),
            _ => return,
        }
        self.touch(seq);
    }

    /// Lets a waiting job learn from a copy that saw more of it.
    fn catch_up(&mut self, now: u64, seq: u64, backup: &Backup) {
        if !matches!(self.entries[&seq].phase, Phase::Queued { .. }) {
            return;
        }
        if backup.attempts > self.entries[&seq].attempts {
            let error = backup.last_error.clone().unwrap_or_default();
            self.fail(now, seq, error, |entry| {
                entry.attempts = backup.attempts;
                entry.delay = clamped_ms(backup.job.due_in, DELAY_MAX);
            });
            let due = now + self.entries[&seq].delay;
            self.enter(seq, Phase::Queued { due });
        }
        if backup.dead {
            self.enter(seq, Phase::Dead { since: now });
            self.make_room_for_the_dead(now);
        }
    }

    /// Ends a push that was done elsewhere, unless somebody else works on it.
    pub(crate) fn finish(&mut self, now: u64, done: &DoneJob) {
        self.bring_back(now);
        let seq = self.ids.get(&done.job.id).copied();
        let Some((seq, entry)) = seq.and_then(|seq| Some((seq, self.entries.get_mut(&seq)?)))
        else {
            return self.remember(now, done);
        };
        if entry.serial != done.job.serial {
            if entry
                .next
                .is_some_and(|next| next.serial == done.job.serial)
            {
                entry.next = None;
                self.touch(seq);
            }
            return self.remember(now, done);
        }
        if matches!(entry.phase, Phase::Taken { .. }) && entry.token != done.token {
            return;
        }
        if entry.next.is_none() {
            return self.leave(now, seq);
        }
        // It was done before the push that came while somebody worked on it, for all we know.
        entry.token = None;
        self.come_back(now, seq);
        self.enter(seq, Phase::Queued { due: now });
    }

    fn remember(&mut self, now: u64, done: &DoneJob) {
        if self.memory != Memory::Nothing {
            self.note_done(now, done.clone());
        }
    }
}
