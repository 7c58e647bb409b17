//! How a job is settled: done, due again, or dead, as far as the queue can be told.

use std::time::Duration;

use lease::{Settled, TakenJob};
use tokio::time::Instant;

use super::Worker;
use crate::retry::decision::{Run, Standing, Verdict, decide};
use crate::retry::history;
use crate::retry::jobs::JobKind;
use crate::warmer::causes;

/// How often a queue that does not answer is told what became of a job, and the pause between.
const SETTLE_TRIES: u32 = 3;
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// Tells the queue what became of a job that was taken at `since`.
    pub(super) async fn settle(&self, job: &TakenJob, since: Instant, run: Run) {
        let (core, info) = (&self.core, &job.info);
        let told = history::attempts_in(info.last_error.as_deref());
        let kind = JobKind::parse(&info.kind);
        let ran_for = core.clock.now().saturating_duration_since(since);
        let standing = Standing {
            // Nobody asks for the kind of a job that makes no sense.
            kind: kind.unwrap_or(JobKind::Fetch),
            // Another life has its own numbers: the queue counts what was taken in it.
            attempt: told.saturating_add(1).min(info.attempts.max(1)),
            deadline_in: info.deadline_in.saturating_sub(ran_for),
        };
        let verdict = decide(&run, standing, &core.config.retry);
        let text = match &run {
            Run::Failed(error) | Run::Hindered(error) => error.to_string(),
            Run::Senseless(reason) => reason.clone(),
            Run::NoRoom | Run::NotTried(_) => {
                "its time was over before it could be tried".to_owned()
            }
            Run::Done | Run::Absent => String::new(),
        };
        // What hangs on an error's source chain is for the log: paths, endpoints. The queue is read
        // by more people.
        let logged = match &run {
            Run::Failed(error) | Run::Hindered(error) => causes(error),
            _ => text.clone(),
        };
        let earlier = info.last_error.as_deref();
        let history = match &verdict {
            Verdict::PutBack { .. } => earlier.unwrap_or_default().to_owned(),
            _ => history::with_attempt(standing.attempt, &text, earlier),
        };
        let outcome = match &verdict {
            Verdict::Ack { outcome } => outcome,
            Verdict::Retry { .. } => "failed",
            Verdict::PutBack { .. } => "put_back",
            Verdict::Bury => "dead",
        };
        let (id, attempt) = (&info.id, standing.attempt);
        match &verdict {
            Verdict::Ack { .. } => tracing::info!(job = %id, attempt, outcome, "a job is done"),
            Verdict::Retry { due_in } => {
                let due_in_ms = due_in.as_millis();
                tracing::debug!(job = %id, attempt, error = logged, due_in_ms, "a job failed");
            }
            Verdict::PutBack { due_in } => {
                let due_in_ms = due_in.as_millis();
                tracing::debug!(job = %id, due_in_ms, "a job was put back");
            }
            Verdict::Bury => {
                tracing::warn!(job = %id, attempt, error = logged, "a job is given up");
            }
        }
        // Before the queue knows: whoever sees there that it has ended finds it counted.
        core.metrics
            .count_job(kind.map_or("unknown", JobKind::as_str), outcome);
        self.tell(job, &verdict, &history).await;
    }

    /// Tells the queue, several times if it does not answer.
    async fn tell(&self, job: &TakenJob, verdict: &Verdict, history: &str) {
        let (queue, receipt) = (self.core.retries.queue(), &job.receipt);
        for left in (0..SETTLE_TRIES).rev() {
            let telling = async {
                match verdict {
                    Verdict::Ack { .. } => queue.ack(receipt).await,
                    Verdict::Retry { due_in } | Verdict::PutBack { due_in } => {
                        queue.retry(receipt, *due_in, history).await
                    }
                    Verdict::Bury => queue.bury(receipt, history).await,
                }
            };
            match self.within(telling).await {
                Ok(Settled::Settled) => return,
                // Or an earlier telling was heard, and only its answer lost.
                Ok(Settled::Stale) => {
                    tracing::debug!(job = %job.info.id, "a job was taken from us meanwhile");
                    return;
                }
                Err(error) => tracing::debug!(job = %job.info.id, %error, "not settled"),
            }
            if left == 0 || self.stop.is_cancelled() {
                break;
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.core.clock.sleep(SETTLE_PAUSE) => {}
            }
        }
        if let Some(kept_back) = self.warnings.due() {
            tracing::warn!(
                job = %job.info.id,
                kept_back,
                "the queue did not take a job's end; the job comes back and is looked at again"
            );
        }
    }
}
