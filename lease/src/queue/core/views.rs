//! What the core tells without changing anything that anybody could see.

use std::ops::Bound;
use std::time::Duration;

use super::Core;
use super::entry::{Phase, Serving, ms};
use crate::PAGE_LIMIT_MAX;
use crate::queue::answers::{JobPage, JobQuery, JobView, QueueStats, Review};
use crate::queue::job::{JobId, JobRef};
use crate::queue::stored::Role;

impl Core {
    pub(crate) fn next_due(&self, now: u64, worker: &str, serving: Serving) -> Option<Duration> {
        let may_take = |(_, seq): &&(u64, u64)| self.entries[seq].may_take(worker, serving);
        let queued = self.due.iter().find(may_take);
        let taken = self.taken.iter().find(may_take);
        let (at, _) = queued.into_iter().chain(taken).min()?;
        Some(ms(at.saturating_sub(now)))
    }

    pub(crate) fn stats(&self, now: u64, counts: impl Fn(Role) -> bool) -> QueueStats {
        let mut stats = QueueStats {
            dead_dropped: self.dead_dropped,
            ..QueueStats::default()
        };
        for entry in self.entries.values().filter(|entry| counts(entry.role)) {
            match entry.phase_at(now) {
                Phase::Arriving { .. } => stats.queued += 1,
                Phase::Queued { due } => {
                    stats.queued += 1;
                    stats.lag = stats.lag.max(ms(now.saturating_sub(due)));
                }
                Phase::Taken { .. } => stats.taken += 1,
                Phase::Dead { .. } => stats.dead += 1,
            }
        }
        stats
    }

    pub(crate) fn list(&self, now: u64, query: &JobQuery, shows: impl Fn(Role) -> bool) -> JobPage {
        let limit = query.limit.clamp(1, PAGE_LIMIT_MAX);
        let start = query
            .after
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = JobPage::default();
        for (id, seq) in self.ids.range((start, Bound::Unbounded)) {
            let entry = &self.entries[seq];
            let dead = matches!(entry.phase, Phase::Dead { .. });
            if dead != query.dead || !query.wants(id) || !shows(entry.role) {
                continue;
            }
            if page.jobs.len() == limit {
                page.next = page.jobs.last().map(|last| last.info.id.clone());
                break;
            }
            page.jobs.push(entry.view(now));
        }
        page
    }

    pub(crate) fn get(&self, now: u64, id: &JobId) -> Option<JobView> {
        let seq = self.ids.get(id)?;
        Some(self.entries[seq].view(now))
    }

    pub(crate) fn review(&mut self, now: u64, job: &JobRef) -> Review {
        self.bring_back(now);
        let Some(seq) = self.ids.get(&job.id) else {
            return match self.done_serials.contains_key(&job.serial) {
                true => Review::Done,
                false => Review::Unknown,
            };
        };
        let entry = &self.entries[seq];
        if entry.serial == job.serial || entry.next.is_some_and(|next| next.serial == job.serial) {
            return entry.review(now);
        }
        Review::Other {
            serial: entry.serial,
        }
    }
}
