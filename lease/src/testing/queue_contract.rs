//! The contract of every [`DelayQueue`].

mod journals;
mod orders;
mod pushes;
mod takes;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::contract::{Report, pass_really};
use crate::{DelayQueue, JobId, JobState, JobView, NewJob, Pushed, QueueLimits, Settled, TakenJob};

/// How the suite gets at an implementation.
#[async_trait]
pub trait QueueSetup: Send + Sync + Debug {
    /// Makes an empty queue with `limits` that no other call's queue touches, and returns two views
    /// of it: two connections of two instances, or the same queue twice where there is only one.
    async fn fresh(&self, limits: QueueLimits) -> [Arc<dyn DelayQueue>; 2];

    /// Returns a time that is long against a call: half a second or more where time is real,
    /// anything above 10 ms otherwise.
    fn while_(&self) -> Duration;

    /// Lets at least `by` pass; really, unless an implementation's clock is moved by hand.
    async fn pass(&self, by: Duration) {
        pass_really(by).await;
    }
}

/// Holds an implementation to the contract.
///
/// # Panics
///
/// When a case fails, after all have run, with the names of those that failed.
pub async fn queue_contract(setup: &dyn QueueSetup) {
    let mut report = Report::new("queue_contract");
    macro_rules! cases {
        ($($module:ident::{$($name:ident),* $(,)?}),* $(,)?) => {
            $($(report.case(stringify!($name), async {
                $module::$name(&Case::new(setup).await).await;
            }).await;)*)*
        };
    }
    cases![
        pushes::{
            a_job_is_pushed_taken_and_acknowledged,
            an_id_is_queued_once,
            a_push_outlives_the_attempt_that_was_under_way,
            one_of_many_pushes_wins,
            a_push_that_hurries_moves_the_due_time_forward,
            any_other_push_leaves_a_back_off_alone,
            a_full_queue_refuses_the_newest,
            what_no_queue_takes_is_refused,
            any_bytes_are_a_payload,
            times_are_moved_into_their_ranges,
        },
        takes::{
            the_most_overdue_comes_first,
            a_job_waits_until_it_is_due,
            every_job_is_taken_by_one,
            a_job_that_is_not_settled_comes_back,
            a_late_acknowledgement_counts_while_nobody_else_has_the_job,
            an_extended_job_stays_taken,
            a_retry_waits_and_tells_why,
            a_buried_job_is_dead,
            only_the_owner_takes_a_job,
            the_next_due_time_is_known,
        },
        orders::{
            a_dead_job_gets_another_life,
            the_oldest_dead_leaves,
            a_waiting_job_is_run_now,
            a_job_is_dropped_wherever_it_is,
            the_numbers_add_up,
            a_list_is_in_order_and_in_pages,
            a_list_takes_its_filter_literally,
        },
        journals::{
            a_push_is_known_wherever_it_is,
            another_push_of_the_id_is_told_apart,
            a_lost_job_is_brought_back,
            a_known_job_learns_of_attempts,
            what_is_finished_is_gone,
        },
    ];
    report.finish();
}

struct Case<'a> {
    setup: &'a dyn QueueSetup,
    a: Arc<dyn DelayQueue>,
    b: Arc<dyn DelayQueue>,
    while_: Duration,
}

/// Long enough to be over in no case.
const LONG: Duration = Duration::from_secs(30 * 60);

impl<'a> Case<'a> {
    async fn new(setup: &'a dyn QueueSetup) -> Self {
        Self::limited(setup, QueueLimits::default()).await
    }

    async fn limited(setup: &'a dyn QueueSetup, limits: QueueLimits) -> Self {
        let [a, b] = setup.fresh(limits).await;
        Self {
            setup,
            a,
            b,
            while_: setup.while_(),
        }
    }

    async fn push(&self, id: &str) {
        self.push_in(id, Duration::ZERO).await;
    }

    async fn push_in(&self, id: &str, due_in: Duration) {
        let pushed = self.a.push(&NewJob { due_in, ..job(id) }).await;
        assert_eq!(pushed.expect("the queue answers"), Pushed::Queued, "{id}");
    }

    /// Takes what is due, for a long time.
    async fn take(&self) -> Vec<TakenJob> {
        self.take_as("worker", LONG).await
    }

    async fn take_as(&self, worker: &str, visibility: Duration) -> Vec<TakenJob> {
        let taken = self.b.take(worker, 100, visibility).await;
        taken.expect("the queue answers")
    }

    /// Takes what is due for the owner of jobs, whom only that instance may see.
    async fn take_own(&self, owner: &str, visibility: Duration) -> Vec<TakenJob> {
        let taken = self.a.take(owner, 100, visibility).await;
        taken.expect("the queue answers")
    }

    /// Takes the one job that is due.
    async fn take_one(&self) -> TakenJob {
        let mut taken = self.take().await;
        assert_eq!(taken.len(), 1, "{taken:?}");
        taken.remove(0)
    }

    async fn bury(&self, id: &str) {
        self.push(id).await;
        let job = self.take_one().await;
        let buried = self.a.bury(&job.receipt, "hopeless").await;
        assert_eq!(buried.expect("the queue answers"), Settled::Settled);
    }

    async fn get(&self, id: &str) -> Option<JobView> {
        self.b.get(&job_id(id)).await.expect("the queue answers")
    }

    async fn state(&self, id: &str) -> Option<JobState> {
        self.get(id).await.map(|view| view.state)
    }

    /// Says whether the job waits, and for how long; panics when it is not there or does not.
    async fn due_in(&self, id: &str) -> Duration {
        match self.state(id).await {
            Some(JobState::Queued { due_in }) => due_in,
            other => panic!("{id} does not wait: {other:?}"),
        }
    }
}

fn job_id(id: &str) -> JobId {
    JobId::new(id).expect("an id")
}

fn job(id: &str) -> NewJob {
    NewJob::new(
        job_id(id),
        "fill",
        Bytes::from(format!("{{\"id\":\"{id}\"}}")),
    )
}

fn ids(jobs: &[TakenJob]) -> Vec<&str> {
    jobs.iter().map(|job| job.info.id.as_str()).collect()
}
