//! Who gets a job, when, and what becomes of it.

use std::collections::BTreeSet;

use futures::future::join_all;

use super::*;
use crate::{JOB_ERROR_BYTES_MAX, LIFE_MAX};

pub(super) async fn the_most_overdue_comes_first(case: &Case<'_>) {
    case.push_in("third", case.while_ / 2).await;
    case.push("first").await;
    case.setup.pass(Duration::from_millis(5)).await;
    case.push("second").await;
    case.setup.pass(case.while_).await;
    for expected in ["first", "second", "third"] {
        let taken = case.b.take("worker", 1, LONG).await;
        assert_eq!(ids(&taken.expect("the queue answers")), [expected]);
    }
    assert_eq!(case.take().await, []);
    assert_eq!(
        case.b.take("worker", 0, LONG).await.expect("it answers"),
        []
    );
}

pub(super) async fn a_job_waits_until_it_is_due(case: &Case<'_>) {
    case.push_in("unit", case.while_).await;
    assert_eq!(case.take().await, []);
    let due_in = case.due_in("unit").await;
    assert!(due_in <= case.while_, "{due_in:?}");
    case.setup.pass(case.while_).await;
    assert_eq!(ids(&case.take().await), ["unit"]);
}

// acceptance: B16
pub(super) async fn every_job_is_taken_by_one(case: &Case<'_>) {
    let pushes = (0..64).map(|n| {
        let queue = Arc::clone(if n % 2 == 0 { &case.a } else { &case.b });
        async move { queue.push(&job(&format!("unit{n:02}"))).await }
    });
    for answer in join_all(pushes).await {
        assert_eq!(answer.expect("the queue answers"), Pushed::Queued);
    }
    let takes = (0..32).map(|n| {
        let queue = if n % 2 == 0 { &case.a } else { &case.b };
        queue.take("worker", 3, LONG)
    });
    let taken: Vec<_> = join_all(takes)
        .await
        .into_iter()
        .flat_map(|taken| taken.expect("the queue answers"))
        .collect();
    let distinct: BTreeSet<_> = taken.iter().map(|job| &job.info.id).collect();
    assert_eq!((taken.len(), distinct.len()), (64, 64));
    for answer in join_all(taken.iter().map(|job| case.a.ack(&job.receipt))).await {
        assert_eq!(answer.expect("the queue answers"), Settled::Settled);
    }
    assert_eq!(case.take().await, []);
}

// acceptance: B16
pub(super) async fn a_job_that_is_not_settled_comes_back(case: &Case<'_>) {
    case.push("unit").await;
    let first = case.take_as("first", case.while_).await;
    assert_eq!(case.take_as("second", LONG).await, []);
    match case.state("unit").await {
        Some(JobState::Taken { worker, returns_in }) => {
            assert!(&*worker == "first" && returns_in <= case.while_);
        }
        other => panic!("{other:?}"),
    }
    case.setup.pass(case.while_).await;
    assert_eq!(case.due_in("unit").await, Duration::ZERO);
    let second = case.take_as("second", LONG).await;
    assert_eq!((ids(&second), second[0].info.attempts), (vec!["unit"], 2));
    // The first worker is too late for everything.
    let late = &first[0].receipt;
    let answers = [
        case.a.ack(late).await,
        case.a.extend(late, LONG).await,
        case.a.retry(late, LONG, "late").await,
        case.a.bury(late, "late").await,
    ];
    for answer in answers {
        assert_eq!(answer.expect("the queue answers"), Settled::Stale);
    }
    let ack = case.a.ack(&second[0].receipt).await;
    assert_eq!(ack.expect("the queue answers"), Settled::Settled);
}

pub(super) async fn a_late_acknowledgement_counts_while_nobody_else_has_the_job(case: &Case<'_>) {
    for id in ["acked", "extended", "retried", "buried"] {
        case.push(id).await;
    }
    let taken = case.take_as("worker", case.while_).await;
    assert_eq!(taken.len(), 4);
    case.setup.pass(case.while_).await;
    let receipt = |id| {
        let of = taken.iter().find(|job| job.info.id.as_str() == id);
        &of.expect("it was taken").receipt
    };
    let answers = [
        case.a.ack(receipt("acked")).await,
        case.a.extend(receipt("extended"), LONG).await,
        case.a.retry(receipt("retried"), LONG, "late").await,
        case.a.bury(receipt("buried"), "late").await,
    ];
    for answer in answers {
        assert_eq!(answer.expect("the queue answers"), Settled::Settled);
    }
    assert_eq!(case.take().await, []);
    assert_eq!(case.get("acked").await, None);
    assert!(matches!(
        case.state("extended").await,
        Some(JobState::Taken { .. })
    ));
    assert!(case.due_in("retried").await > Duration::ZERO);
    assert!(matches!(
        case.state("buried").await,
        Some(JobState::Dead { .. })
    ));
}

pub(super) async fn an_extended_job_stays_taken(case: &Case<'_>) {
    case.push("unit").await;
    let taken = case.take_as("worker", case.while_).await;
    let extended = case.a.extend(&taken[0].receipt, LONG).await;
    assert_eq!(extended.expect("the queue answers"), Settled::Settled);
    case.setup.pass(case.while_).await;
    assert_eq!(case.take().await, []);
    let ack = case.a.ack(&taken[0].receipt).await;
    assert_eq!(ack.expect("the queue answers"), Settled::Settled);
    let extended = case.a.extend(&taken[0].receipt, LONG).await;
    assert_eq!(extended.expect("the queue answers"), Settled::Stale);
}

pub(super) async fn a_retry_waits_and_tells_why(case: &Case<'_>) {
    case.push("unit").await;
    let taken = case.take_one().await;
    let long = format!("no\nroute|{}", "x".repeat(JOB_ERROR_BYTES_MAX));
    let retry = case.a.retry(&taken.receipt, case.while_, &long).await;
    assert_eq!(retry.expect("the queue answers"), Settled::Settled);
    assert_eq!(case.take().await, []);
    assert!(case.due_in("unit").await <= case.while_);
    let again = case.a.retry(&taken.receipt, LONG, "again").await;
    assert_eq!(
        again.expect("the queue answers"),
        Settled::Stale,
        "it is used up"
    );
    case.setup.pass(case.while_).await;
    let taken = case.take_one().await;
    assert_eq!(taken.info.attempts, 2);
    let error = taken.info.last_error.as_deref().expect("it failed");
    assert!(error.starts_with("no route|xx") && error.len() <= JOB_ERROR_BYTES_MAX);
    case.a
        .retry(&taken.receipt, Duration::ZERO, "other")
        .await
        .expect("the queue answers");
    let view = case.get("unit").await.expect("it is there");
    assert_eq!(view.info.last_error.as_deref(), Some("other"));
    assert!(view.info.age >= case.while_ && view.info.deadline_in < LIFE_MAX);
}

// fault: 38
pub(super) async fn a_buried_job_is_dead(case: &Case<'_>) {
    case.bury("unit").await;
    assert_eq!(case.take().await, []);
    let view = case.get("unit").await.expect("it stays listed");
    assert!(matches!(view.state, JobState::Dead { since } if since < LONG));
    assert_eq!(view.info.last_error.as_deref(), Some("hopeless"));
    assert_eq!(view.info.attempts, 1);
    let again = case.a.push(&job("unit")).await.expect("the queue answers");
    let serial = view.info.serial;
    assert_eq!(
        again,
        Pushed::Dead { serial },
        "only an operator brings it back"
    );
    assert_eq!(case.take().await, []);
}

pub(super) async fn only_the_owner_takes_a_job(case: &Case<'_>) {
    for n in 0..5 {
        let owned = NewJob {
            owner: Some(Arc::from("one")),
            ..job(&format!("owned{n}"))
        };
        case.a.push(&owned).await.expect("the queue answers");
    }
    assert_eq!(case.b.next_due("other").await.expect("it answers"), None);
    case.push("free").await;
    // Those of others stand in nobody's way.
    let taken = case.b.take("other", 1, LONG).await.expect("it answers");
    assert_eq!(ids(&taken), ["free"]);
    assert_eq!(case.take_as("other", LONG).await, []);
    assert_eq!(case.take_own("other", LONG).await, []);
    let due = case.a.next_due("one").await.expect("it answers");
    assert_eq!(due, Some(Duration::ZERO));
    let taken = case.take_own("one", case.while_).await;
    assert_eq!(taken.len(), 5);
    assert_eq!(taken[0].info.owner.as_deref(), Some("one"));
    case.setup.pass(case.while_).await;
    assert_eq!(case.take_as("other", LONG).await, []);
    assert_eq!(case.take_own("one", LONG).await.len(), 5);
}

pub(super) async fn the_next_due_time_is_known(case: &Case<'_>) {
    let next = async || case.b.next_due("worker").await.expect("the queue answers");
    assert_eq!(next().await, None);
    case.push_in("later", LONG).await;
    let due = next().await.expect("there is one");
    assert!(due <= LONG && due > LONG / 2, "{due:?}");
    case.push_in("soon", case.while_).await;
    assert!(next().await.expect("there is one") <= case.while_);
    case.setup.pass(case.while_).await;
    assert_eq!(next().await, Some(Duration::ZERO));
    case.take_as("worker", LONG / 2).await;
    let due = next().await.expect("there is one");
    assert!(
        due <= LONG / 2 && due > LONG / 4,
        "a taken one may come back: {due:?}"
    );
}
