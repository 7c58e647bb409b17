//! The renewal task of one held lease.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Shared, State};
use crate::config::{renew_every, renew_retry_every};
use crate::{
    Grant, LeaseError, LeaseErrorKind, LostReason, Progress, Renewal, sleep_until, timeout,
};

/// Renews `grant` until it is lost or broken, and leaves that in `state`.
pub(super) async fn run(
    shared: Arc<Shared>,
    grant: Grant,
    state: Arc<watch::Sender<State>>,
    progress: Box<dyn Fn() -> Progress + Send + Sync>,
) {
    // Set by drop, so that a panic in `progress` or in the table counts as a loss too: the lease
    // will expire, and nobody must go on believing in it.
    let mut last_word = LastWord {
        shared,
        grant,
        state,
        end: State::Lost(LostReason::Expired),
    };
    last_word.end = renew(&last_word, &*progress).await;
}

async fn renew(task: &LastWord, progress: &(dyn Fn() -> Progress + Send + Sync)) -> State {
    let LastWord {
        shared,
        grant,
        state,
        ..
    } = task;
    let (clock, config) = (&*shared.clock, &shared.config);
    let renew_every = renew_every(grant.ttl);
    let retry_every = renew_retry_every(grant.ttl);
    // No renewal may carry the lease past this.
    let held_end = grant.sent_at() + config.held_max;
    let mut deadline = grant.deadline;
    let mut next = grant.sent_at() + renew_every;
    let mut failing = false;
    loop {
        sleep_until(clock, next).await;
        let now = clock.now();
        if now + grant.ttl > held_end {
            sleep_until(clock, deadline).await;
            return State::Lost(LostReason::Expired);
        }
        // Half of what is left, so that an answer that never comes leaves time for other tries;
        // yet a try at the deadline gets some time too, since the server counts from a later
        // moment than we do.
        let left = deadline.saturating_duration_since(now);
        let limit = (left / 2).clamp(retry_every, renew_every);
        let progress = progress();
        let call = shared.table.renew(grant, &progress);
        let answer = timeout(clock, limit, call).await.unwrap_or_else(|| {
            Err(LeaseError::unavailable(format!(
                "answer a renewal within {limit:?}"
            )))
        });
        match answer {
            Ok(Renewal::Renewed { deadline: later }) => {
                deadline = later;
                failing = false;
                state.send_if_modified(|state| {
                    // The holder may have given the lease back meanwhile; that stands.
                    let held = matches!(state, State::Held { .. });
                    if held {
                        *state = State::Held { deadline };
                    }
                    held
                });
                shared.observer.renewed(&grant.key);
                let sent = deadline.checked_sub(grant.ttl).unwrap_or(now);
                // Never at once, whatever deadline a table answers.
                next = (sent + renew_every).max(clock.now() + retry_every);
            }
            Ok(Renewal::Lost) if clock.now() < deadline => {
                return State::Lost(LostReason::NotOwner);
            }
            Ok(Renewal::Lost) => return State::Lost(LostReason::Expired),
            Ok(Renewal::Forced) => return State::Forced,
            Err(error) => {
                failed(task, &error, &mut failing);
                if clock.now() >= deadline {
                    return State::Lost(LostReason::Unreachable);
                }
                next = deadline.min(clock.now() + retry_every);
            }
        }
    }
}

/// Tells of a failed renewal: everyone to the observer, the first of a series to the log.
fn failed(task: &LastWord, error: &LeaseError, failing: &mut bool) {
    let kind: LeaseErrorKind = error.kind();
    task.shared.observer.renewal_failed(&task.grant.key, kind);
    if !*failing {
        *failing = true;
        tracing::warn!(
            lease.key = %task.grant.key,
            lease.token = %task.grant.token,
            error = error as &dyn std::error::Error,
            "a renewal failed; it is tried again until the lease's deadline",
        );
    }
}

/// Publishes how the renewals ended when the task ends, in whatever way.
struct LastWord {
    shared: Arc<Shared>,
    grant: Grant,
    state: Arc<watch::Sender<State>>,
    end: State,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let told = self.state.send_if_modified(|state| {
            let held = matches!(state, State::Held { .. });
            if held {
                *state = self.end;
            }
            held
        });
        if !told {
            return;
        }
        match self.end {
            State::Lost(reason) => {
                tracing::warn!(
                    lease.key = %self.grant.key,
                    lease.token = %self.grant.token,
                    lease.reason = reason.as_str(),
                    "a lease was lost; the work goes on without it",
                );
                self.shared.observer.lost(&self.grant.key, reason);
            }
            State::Forced => self.shared.observer.forced(&self.grant.key),
            State::Held { .. } | State::Ended => {}
        }
    }
}
