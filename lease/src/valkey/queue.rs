//! `ValkeyQueue`: the delay queue that a fleet shares.

mod answer;
mod scripts;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::act::Act;
use super::keys::to_json;
use super::ops::Ops;
use super::ring::Ring;
use super::scripts::LeaseScript;
use super::tasks::Tasks;
use crate::queue::{StoredPayload, bounded_error, check_name, clamped_ms};
use crate::{
    Backup, Changed, DELAY_MAX, DelayQueue, DoneJob, JobId, JobPage, JobQuery, JobRef, JobView,
    LIFE_MAX, LeaseError, NewJob, PAGE_LIMIT_MAX, Pushed, QueueLimits, QueueStats, Receipt,
    Restored, Review, Settled, TakenJob, VISIBILITY_MAX,
};
use answer::Reader;
use scripts::{Numbers, PARTS, QueueScripts};

/// How long the keys outlive the last change: far longer than any job's deadline.
const KEYS_TTL: Duration = Duration::from_secs(2 * 30 * 24 * 60 * 60);
/// How long a push is remembered as done; a journal that asks later may have the job done again.
const DONE_TTL: Duration = Duration::from_secs(48 * 60 * 60);
/// What stands for the queue where keys are spread over servers: all of it lies on one.
const PLACE: &str = "queue";
/// How many jobs of a listing are looked at in one call.
const DESCRIBE_MAX: usize = 200;

/// The delay queue that a fleet shares. It needs scripts: where the server runs none, every call
/// fails with [`LeaseError::Unavailable`].
#[derive(Debug)]
pub(crate) struct ValkeyQueue {
    ring: Arc<Ring>,
    names: [String; PARTS.len()],
    scripts: QueueScripts,
    dead_dropped: AtomicU64,
    /// Whether operators were told that the server runs no scripts.
    scriptless: AtomicBool,
    _tasks: Arc<Tasks>,
}

impl ValkeyQueue {
    pub(crate) fn new(ring: Arc<Ring>, tasks: Arc<Tasks>, limits: QueueLimits) -> Self {
        let keys = &ring.of(PLACE).ops.keys;
        Self {
            names: PARTS.map(|part| keys.queue(part)),
            scripts: QueueScripts::new(Numbers {
                jobs_max: limits.jobs_max,
                dead_max: limits.dead_max,
                done_max: limits.done_max,
                ttl_ms: KEYS_TTL.as_millis(),
                done_ttl_ms: DONE_TTL.as_millis(),
                delay_ms_max: DELAY_MAX.as_millis(),
                visibility_ms_max: VISIBILITY_MAX.as_millis(),
                life_ms_max: LIFE_MAX.as_millis(),
            }),
            dead_dropped: AtomicU64::new(0),
            scriptless: AtomicBool::new(false),
            ring,
            _tasks: tasks,
        }
    }

    fn ops(&self) -> &Ops {
        &self.ring.of(PLACE).ops
    }

    async fn run(
        &self,
        act: Act<'_>,
        script: &LeaseScript,
        args: &[&str],
    ) -> Result<Reader<'_>, LeaseError> {
        let ops = self.ops();
        let names = self.names.each_ref().map(String::as_str);
        let Some(value) = ops.node.script(act, script, &names, args).await? else {
            if !self.scriptless.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    valkey.node = ops.node.address(),
                    "the server runs no scripts for us, so the fleet shares no queue of jobs; each \
                     instance does its own",
                );
            }
            return Err(act.unavailable("the server runs no scripts for us"));
        };
        self.scriptless.store(false, Ordering::Relaxed);
        Ok(Reader::new(ops, act.verb, value))
    }

    async fn settle(
        &self,
        verb: &'static str,
        script: &LeaseScript,
        receipt: &Receipt,
        more: &[&str],
    ) -> Result<i64, LeaseError> {
        let id = receipt.job.id.as_str();
        let (serial, token) = (receipt.job.serial.to_string(), receipt.token.to_string());
        let mut args = vec![id, &serial, &token];
        args.extend(more);
        self.run(Act::new(verb, id), script, &args).await?.int()
    }

    async fn order(
        &self,
        verb: &'static str,
        script: &LeaseScript,
        id: &JobId,
    ) -> Result<Changed, LeaseError> {
        let args = [id.as_str()];
        let answer = self.run(Act::new(verb, args[0]), script, &args).await?;
        match answer.clone().int()? {
            1 => Ok(Changed::Changed),
            2 => Ok(Changed::Taken),
            0 => Ok(Changed::Gone),
            3 => Ok(Changed::Full),
            _ => Err(answer.nonsense("no number of ours")),
        }
    }

    fn skip(&self, error: &LeaseError) {
        let node = &self.ops().node;
        node.observer().unreadable(node.address());
        if let Some(held_back) = self.ring.unreadable.due() {
            tracing::warn!(
                valkey.node = node.address(),
                error = error as &dyn std::error::Error,
                held_back,
                "a job was written by another version and cannot be read",
            );
        }
    }

    async fn describe(&self, ids: &[JobId]) -> Result<Vec<JobView>, LeaseError> {
        let mut views = Vec::with_capacity(ids.len());
        for ids in ids.chunks(DESCRIBE_MAX) {
            let act = Act::new("describe jobs", "");
            let args: Vec<&str> = ids.iter().map(JobId::as_str).collect();
            let answers = self.run(act, &self.scripts.describe, &args).await?.list()?;
            for (id, answer) in ids.iter().zip(answers) {
                if answer.is_nothing() {
                    continue;
                }
                match answer.view(id) {
                    Ok(view) => views.push(view),
                    // The others must not stay unseen for that.
                    Err(error) => self.skip(&error),
                }
            }
        }
        Ok(views)
    }
}

fn settled(answer: i64) -> Settled {
    match answer {
        0 => Settled::Stale,
        _ => Settled::Settled,
    }
}

fn visible_ms(visibility: Duration) -> String {
    clamped_ms(visibility, VISIBILITY_MAX).max(1).to_string()
}

fn pairs(refs: &[JobRef]) -> Vec<String> {
    let refs = refs.iter().take(PAGE_LIMIT_MAX);
    refs.flat_map(|job| [job.id.as_str().to_owned(), job.serial.to_string()])
        .collect()
}

#[async_trait]
impl DelayQueue for ValkeyQueue {
    async fn push(&self, job: &NewJob) -> Result<Pushed, LeaseError> {
        job.check()?;
        let serial = job.serial.to_string();
        let body = to_json(&StoredPayload::new(job.payload.clone()));
        let due_in = clamped_ms(job.due_in, DELAY_MAX).to_string();
        let life = clamped_ms(job.deadline_in, LIFE_MAX).to_string();
        let owner = job.owner.as_deref().unwrap_or("");
        let reason = bounded_error(job.reason.as_deref().unwrap_or(""));
        let id = job.id.as_str();
        let hurries = if job.hurries { "1" } else { "0" };
        let args = [
            id, &serial, &body, &job.kind, owner, &due_in, &life, &reason, hurries,
        ];
        let answer = self
            .run(Act::new("push job", id), &self.scripts.push, &args)
            .await?;
        if !answer.is_list() {
            return match answer.clone().int()? {
                1 => Ok(Pushed::Queued),
                0 => Ok(Pushed::Full),
                _ => Err(answer.nonsense("no number of ours")),
            };
        }
        let [state, serial] = answer.clone().fields()?;
        let serial = serial.serial()?;
        match state.int()? {
            2 => Ok(Pushed::AlreadyQueued { serial }),
            3 => Ok(Pushed::Dead { serial }),
            _ => Err(answer.nonsense("no number of ours")),
        }
    }

    async fn take(
        &self,
        worker: &str,
        limit: usize,
        visibility: Duration,
    ) -> Result<Vec<TakenJob>, LeaseError> {
        check_name(worker)?;
        let token = Uuid::new_v4();
        let limit = limit.min(PAGE_LIMIT_MAX).to_string();
        let (visibility, shown) = (visible_ms(visibility), token.to_string());
        let args = [worker, &limit, &visibility, &shown];
        let act = Act::new("take jobs", "");
        let answers = self.run(act, &self.scripts.take, &args).await?.list()?;
        let mut jobs = Vec::with_capacity(answers.len());
        for answer in answers {
            match answer.taken(token) {
                Ok(job) => jobs.push(job),
                // It comes back, and again, until a version takes it that can read it; the others
                // must not wait for that.
                Err(error) => self.skip(&error),
            }
        }
        Ok(jobs)
    }

    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<Settled, LeaseError> {
        let visibility = visible_ms(visibility);
        self.settle("extend job", &self.scripts.extend, receipt, &[&visibility])
            .await
            .map(settled)
    }

    async fn ack(&self, receipt: &Receipt) -> Result<Settled, LeaseError> {
        self.settle("acknowledge job", &self.scripts.ack, receipt, &[])
            .await
            .map(settled)
    }

    async fn retry(
        &self,
        receipt: &Receipt,
        due_in: Duration,
        error: &str,
    ) -> Result<Settled, LeaseError> {
        let due_in = clamped_ms(due_in, DELAY_MAX).to_string();
        let more = [due_in.as_str(), &bounded_error(error)];
        self.settle("retry job", &self.scripts.retry, receipt, &more)
            .await
            .map(settled)
    }

    async fn bury(&self, receipt: &Receipt, error: &str) -> Result<Settled, LeaseError> {
        let more = [&*bounded_error(error)];
        let answer = self
            .settle("bury job", &self.scripts.bury, receipt, &more)
            .await?;
        let dropped = u64::try_from(answer - 1).unwrap_or(0);
        self.dead_dropped.fetch_add(dropped, Ordering::Relaxed);
        Ok(settled(answer))
    }

    async fn next_due(&self, worker: &str) -> Result<Option<Duration>, LeaseError> {
        check_name(worker)?;
        let act = Act::new("see the next job", "");
        let answer = self.run(act, &self.scripts.next_due, &[worker]).await?;
        let ms = u64::try_from(answer.int()?).ok();
        Ok(ms.map(Duration::from_millis))
    }

    async fn stats(&self) -> Result<QueueStats, LeaseError> {
        let act = Act::new("count jobs", "");
        let answer = self.run(act, &self.scripts.stats, &[]).await?;
        let [queued, taken, dead, lag] = answer.fields()?;
        Ok(QueueStats {
            queued: queued.count()?,
            taken: taken.count()?,
            dead: dead.count()?,
            lag: lag.duration()?,
            dead_dropped: self.dead_dropped.load(Ordering::Relaxed),
        })
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage, LeaseError> {
        let limit = query.limit.clamp(1, PAGE_LIMIT_MAX);
        let which = if query.dead { "dead" } else { "live" };
        let act = Act::new("list jobs", "");
        let lists = self.run(act, &self.scripts.ids, &[which]).await?.list()?;
        let mut ids = Vec::new();
        for list in lists {
            for id in list.list()? {
                // What cannot be an id was not put there by us.
                let id = id.text().and_then(JobId::new).ok();
                ids.extend(id.filter(|id| query.wants(id)));
            }
        }
        ids.sort_unstable();
        let more = ids.len() > limit;
        ids.truncate(limit);
        let mut jobs = self.describe(&ids).await?;
        // They may have moved on since.
        jobs.retain(|view| query.dead == matches!(view.state, crate::JobState::Dead { .. }));
        Ok(JobPage {
            jobs,
            next: ids.pop().filter(|_| more),
        })
    }

    async fn get(&self, id: &JobId) -> Result<Option<JobView>, LeaseError> {
        let mut views = self.describe(std::slice::from_ref(id)).await?;
        Ok(views.pop())
    }

    async fn run_now(&self, id: &JobId) -> Result<Changed, LeaseError> {
        self.order("run job now", &self.scripts.run_now, id).await
    }

    async fn drop_job(&self, id: &JobId) -> Result<Changed, LeaseError> {
        self.order("drop job", &self.scripts.drop_job, id).await
    }

    async fn requeue(&self, id: &JobId) -> Result<Changed, LeaseError> {
        self.order("requeue job", &self.scripts.requeue, id).await
    }

    async fn review(&self, refs: &[JobRef]) -> Result<Vec<Review>, LeaseError> {
        let args = pairs(refs);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let act = Act::new("review jobs", "");
        let answers = self.run(act, &self.scripts.review, &args).await?;
        answers.list()?.into_iter().map(Reader::review).collect()
    }

    async fn restore(&self, backup: &Backup) -> Result<Restored, LeaseError> {
        let job = &backup.job;
        job.check()?;
        let serial = job.serial.to_string();
        let body = to_json(&StoredPayload::new(job.payload.clone()));
        let numbers = [
            clamped_ms(job.due_in, DELAY_MAX),
            clamped_ms(job.deadline_in, LIFE_MAX),
            clamped_ms(backup.age, LIFE_MAX),
            u64::from(backup.attempts),
            clamped_ms(backup.pushed_ago, LIFE_MAX),
        ];
        let [due_in, life, age, attempts, pushed_ago] = numbers.map(|number| number.to_string());
        let id = job.id.as_str();
        let args = [
            id,
            &serial,
            &body,
            &job.kind,
            job.owner.as_deref().unwrap_or(""),
            &due_in,
            &life,
            &age,
            &attempts,
            if backup.dead { "1" } else { "0" },
            &bounded_error(backup.last_error.as_deref().unwrap_or("")),
            &pushed_ago,
        ];
        let act = Act::new("restore job", id);
        let answer = self.run(act, &self.scripts.restore, &args).await?;
        if answer.is_list() {
            return answer.review().map(Restored::Known);
        }
        match answer.clone().int()? {
            1 => Ok(Restored::Added),
            0 => Ok(Restored::Full),
            _ => Err(answer.nonsense("no number of ours")),
        }
    }

    async fn finish(&self, done: &[DoneJob]) -> Result<(), LeaseError> {
        let done = done.iter().take(PAGE_LIMIT_MAX);
        let args: Vec<String> = done
            .flat_map(|done| {
                let token = done.token.map(|token| token.to_string());
                let job = &done.job;
                let id = job.id.as_str().to_owned();
                [id, job.serial.to_string(), token.unwrap_or_default()]
            })
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let act = Act::new("finish jobs", "");
        self.run(act, &self.scripts.finish, &args).await.map(drop)
    }
}
