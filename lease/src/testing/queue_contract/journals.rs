//! What a journal asks and brings back.

use super::*;
use crate::{Backup, DoneJob, JobRef, JobSerial, Restored, Review};

fn to_ref(job: &NewJob) -> JobRef {
    JobRef {
        id: job.id.clone(),
        serial: job.serial,
    }
}

fn backup(job: NewJob) -> Backup {
    Backup {
        job,
        age: Duration::ZERO,
        pushed_ago: Duration::ZERO,
        attempts: 0,
        last_error: None,
        dead: false,
    }
}

impl Case<'_> {
    async fn review(&self, job: &NewJob) -> Review {
        let reviews = self.b.review(&[to_ref(job)]).await;
        reviews.expect("the queue answers")[0]
    }

    async fn restore(&self, backup: &Backup) -> Restored {
        self.b.restore(backup).await.expect("the queue answers")
    }
}

pub(super) async fn a_push_is_known_wherever_it_is(case: &Case<'_>) {
    let pushed = NewJob {
        due_in: LONG,
        ..job("unit")
    };
    assert_eq!(case.review(&pushed).await, Review::Unknown);
    case.a.push(&pushed).await.expect("the queue answers");
    match case.review(&pushed).await {
        Review::Queued { attempts, due_in } => {
            assert!(attempts == 0 && due_in <= LONG && due_in > Duration::ZERO);
        }
        other => panic!("{other:?}"),
    }
    case.a.run_now(&pushed.id).await.expect("the queue answers");
    let taken = case.take_one().await;
    match case.review(&pushed).await {
        Review::Taken {
            attempts,
            returns_in,
        } => assert!(attempts == 1 && returns_in <= LONG && returns_in > Duration::ZERO),
        other => panic!("{other:?}"),
    }
    case.a
        .bury(&taken.receipt, "e")
        .await
        .expect("the queue answers");
    assert_eq!(case.review(&pushed).await, Review::Dead { attempts: 1 });
    // Several at once are answered in their order.
    let other = job("other");
    case.a.push(&other).await.expect("the queue answers");
    let refs = [to_ref(&job("none")), to_ref(&other), to_ref(&pushed)];
    let reviews = case.b.review(&refs).await.expect("the queue answers");
    assert_eq!(reviews[0], Review::Unknown);
    assert!(matches!(reviews[1], Review::Queued { .. }));
    assert_eq!(reviews[2], Review::Dead { attempts: 1 });
    assert_eq!(case.b.review(&[]).await.expect("the queue answers"), []);
}

pub(super) async fn another_push_of_the_id_is_told_apart(case: &Case<'_>) {
    let (earlier, first, later) = (job("unit"), job("unit"), job("unit"));
    case.a.push(&first).await.expect("the queue answers");
    let other = |job: &NewJob| Review::Other { serial: job.serial };
    assert_eq!(case.review(&later).await, other(&first));
    // Which was pushed later decides, not which comes later.
    let copy = Backup {
        pushed_ago: LONG,
        ..backup(earlier.clone())
    };
    assert_eq!(case.restore(&copy).await, Restored::Known(other(&first)));
    case.setup.pass(Duration::from_millis(5)).await;
    let restored = case.restore(&backup(later.clone())).await;
    assert!(
        matches!(restored, Restored::Known(Review::Queued { .. })),
        "{restored:?}"
    );
    assert_eq!(case.review(&first).await, other(&later));
    // The end of an earlier push is not the end of the latest.
    let done = [to_ref(&first).into(), to_ref(&earlier).into()];
    case.a.finish(&done).await.expect("the queue answers");
    let taken = case.take_one().await;
    assert_eq!(taken.info.serial, later.serial);
    // What is being worked on stands for it once that has failed.
    case.setup.pass(Duration::from_millis(5)).await;
    let last = job("unit");
    let restored = case.restore(&backup(last.clone())).await;
    assert!(
        matches!(restored, Restored::Known(Review::Taken { .. })),
        "{restored:?}"
    );
    let retry = case.a.retry(&taken.receipt, Duration::ZERO, "e").await;
    assert_eq!(retry.expect("the queue answers"), Settled::Settled);
    assert_eq!(case.take_one().await.info.serial, last.serial);
}

// fault: 21
pub(super) async fn a_lost_job_is_brought_back(case: &Case<'_>) {
    let lost = Backup {
        job: NewJob {
            due_in: case.while_,
            deadline_in: LONG,
            ..job("unit")
        },
        age: LONG,
        pushed_ago: LONG,
        attempts: 3,
        last_error: Some(Arc::from("no route")),
        dead: false,
    };
    assert_eq!(case.restore(&lost).await, Restored::Added);
    assert!(matches!(
        case.restore(&lost).await,
        Restored::Known(Review::Queued { .. })
    ));
    assert_eq!(case.take().await, []);
    case.setup.pass(case.while_).await;
    let taken = case.take_one().await;
    assert_eq!(
        (&taken.payload, taken.info.serial),
        (&lost.job.payload, lost.job.serial)
    );
    assert_eq!(taken.info.attempts, 4);
    assert_eq!(taken.info.last_error, lost.last_error);
    assert!(taken.info.age >= LONG && taken.info.deadline_in <= LONG);
    let dead = Backup {
        dead: true,
        ..backup(job("dead"))
    };
    assert_eq!(case.restore(&dead).await, Restored::Added);
    assert!(matches!(
        case.state("dead").await,
        Some(JobState::Dead { .. })
    ));
    let limits = QueueLimits {
        jobs_max: 1,
        ..QueueLimits::default()
    };
    let case = Case::limited(case.setup, limits).await;
    case.push("unit").await;
    assert_eq!(case.restore(&backup(job("more"))).await, Restored::Full);
}

pub(super) async fn a_known_job_learns_of_attempts(case: &Case<'_>) {
    let pushed = job("unit");
    case.a.push(&pushed).await.expect("the queue answers");
    let newer = Backup {
        attempts: 5,
        last_error: Some(Arc::from("no route")),
        ..backup(NewJob {
            due_in: LONG,
            ..pushed.clone()
        })
    };
    case.restore(&newer).await;
    assert_eq!(case.take().await, [], "its due time came with it");
    case.restore(&backup(pushed.clone())).await;
    let view = case.get("unit").await.expect("it is there");
    assert_eq!(
        (view.info.attempts, view.info.last_error),
        (5, newer.last_error.clone())
    );
    let dead = Backup {
        dead: true,
        ..newer.clone()
    };
    let restored = case.restore(&dead).await;
    assert_eq!(restored, Restored::Known(Review::Dead { attempts: 5 }));
    // Nothing of that touches one that is being worked on.
    let other = job("other");
    case.a.push(&other).await.expect("the queue answers");
    let taken = case.take_one().await;
    let restored = case
        .restore(&Backup {
            dead: true,
            ..backup(other)
        })
        .await;
    assert!(matches!(
        restored,
        Restored::Known(Review::Taken { attempts: 1, .. })
    ));
    let ack = case.a.ack(&taken.receipt).await;
    assert_eq!(ack.expect("the queue answers"), Settled::Settled);
}

pub(super) async fn what_is_finished_is_gone(case: &Case<'_>) {
    let (waiting, gone) = (job("waiting"), job("gone"));
    case.a.push(&waiting).await.expect("the queue answers");
    let refs = [to_ref(&waiting), to_ref(&gone)];
    let done = refs.clone().map(DoneJob::from);
    case.a.finish(&done).await.expect("the queue answers");
    case.a.finish(&[]).await.expect("the queue answers");
    assert_eq!(case.take().await, []);
    let is_done = |review: &Review| matches!(review, Review::Done | Review::Unknown);
    let reviews = case.b.review(&refs).await.expect("the queue answers");
    assert!(reviews.iter().all(is_done), "{reviews:?}");
    // What somebody works on is left to them, unless it is who says so.
    let taken = job("taken");
    case.a.push(&taken).await.expect("the queue answers");
    let receipt = case.take_one().await.receipt;
    let done = [to_ref(&taken).into()];
    case.a.finish(&done).await.expect("the queue answers");
    assert!(matches!(case.review(&taken).await, Review::Taken { .. }));
    let done = [DoneJob::from(&receipt)];
    case.a.finish(&done).await.expect("the queue answers");
    assert_eq!(case.get("taken").await, None);
    let ack = case.a.ack(&receipt).await;
    assert_eq!(ack.expect("the queue answers"), Settled::Stale);
    // A push that was repeated while somebody worked on it is the one that is done.
    let repeated = job("repeated");
    case.a.push(&repeated).await.expect("the queue answers");
    let receipt = case.take_one().await.receipt;
    let again = case.a.push(&repeated).await.expect("the queue answers");
    let serial = repeated.serial;
    assert_eq!(again, Pushed::AlreadyQueued { serial });
    let done = [DoneJob::from(&receipt)];
    case.a.finish(&done).await.expect("the queue answers");
    assert_eq!(case.get("repeated").await, None);
    // So is what was acknowledged or dropped; a queue may forget it, but never shows it as there.
    let acked = job("acked");
    case.a.push(&acked).await.expect("the queue answers");
    let taken = case.take_one().await;
    case.a.ack(&taken.receipt).await.expect("the queue answers");
    let dropped = job("dropped");
    case.a.push(&dropped).await.expect("the queue answers");
    case.a
        .drop_job(&dropped.id)
        .await
        .expect("the queue answers");
    for job in [&acked, &dropped] {
        assert!(is_done(&case.review(job).await), "{:?}", job.id);
    }
    // The same id under another serial is another job.
    let again = NewJob {
        serial: JobSerial::random(),
        ..acked
    };
    assert_eq!(case.restore(&backup(again)).await, Restored::Added);
}
