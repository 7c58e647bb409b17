//! What goes in, and what does not.

use futures::future::join_all;

use super::*;
use crate::{DELAY_MAX, JOB_PAYLOAD_BYTES_MAX, JobSerial, LIFE_MAX};

pub(super) async fn a_job_is_pushed_taken_and_acknowledged(case: &Case<'_>) {
    assert_eq!(case.take().await, []);
    let pushed = NewJob {
        reason: Some(Arc::from("no\nroute")),
        ..job("unit")
    };
    let answer = case.a.push(&pushed).await.expect("the queue answers");
    assert_eq!(answer, Pushed::Queued);
    let taken = case.take_one().await;
    assert_eq!(taken.payload, pushed.payload);
    let info = &taken.info;
    assert_eq!((&info.id, info.serial), (&pushed.id, pushed.serial));
    assert_eq!((&*info.kind, info.owner.as_deref()), ("fill", None));
    let why = info.last_error.as_deref();
    assert_eq!((info.attempts, why), (1, Some("no route")));
    assert!(info.deadline_in <= LIFE_MAX && info.deadline_in + LONG > LIFE_MAX);
    assert!(info.age < LONG);
    assert_eq!(case.take().await, [], "it is taken");
    let ack = || case.a.ack(&taken.receipt);
    assert_eq!(ack().await.expect("the queue answers"), Settled::Settled);
    assert_eq!(ack().await.expect("the queue answers"), Settled::Stale);
    assert_eq!(case.get("unit").await, None);
    // The same may be asked for again.
    case.push("unit").await;
    let info = case.take_one().await.info;
    assert_eq!((info.attempts, info.last_error), (1, None));
}

pub(super) async fn an_id_is_queued_once(case: &Case<'_>) {
    let (first, second, third) = (job("unit"), job("unit"), job("unit"));
    let push = async |job: &NewJob| case.b.push(job).await.expect("the queue answers");
    case.a.push(&first).await.expect("the queue answers");
    let stands_for = |job: &NewJob| Pushed::AlreadyQueued { serial: job.serial };
    assert_eq!(push(&second).await, stands_for(&second), "while it waits");
    let taken = case.take_one().await;
    assert_eq!(taken.info.serial, second.serial);
    assert_eq!(push(&third).await, stands_for(&third), "while it is taken");
    case.a.ack(&taken.receipt).await.expect("the queue answers");
    assert_eq!(push(&third).await, Pushed::Queued, "once it is done");
}

pub(super) async fn a_push_outlives_the_attempt_that_was_under_way(case: &Case<'_>) {
    for end in ["retried", "timed out", "finished"] {
        let (first, second) = (job(end), job(end));
        case.a.push(&first).await.expect("the queue answers");
        let taken = case.take_as("worker", case.while_).await;
        case.b.push(&second).await.expect("the queue answers");
        let receipt = &taken[0].receipt;
        match end {
            "retried" => {
                let retry = case.a.retry(receipt, Duration::ZERO, "e").await;
                assert_eq!(retry.expect("the queue answers"), Settled::Settled);
            }
            "timed out" => case.setup.pass(case.while_).await,
            // Said late, it says nothing about a push that came meanwhile.
            _ => {
                let done = [receipt.into()];
                case.a.finish(&done).await.expect("the queue answers");
            }
        }
        let again = case.take_one().await;
        assert_eq!(again.info.serial, second.serial, "{end}");
        let late = case.a.ack(receipt).await;
        assert_eq!(late.expect("the queue answers"), Settled::Stale, "{end}");
        let ack = case.a.ack(&again.receipt).await;
        assert_eq!(ack.expect("the queue answers"), Settled::Settled, "{end}");
    }
}

pub(super) async fn one_of_many_pushes_wins(case: &Case<'_>) {
    let jobs: Vec<_> = (0..32).map(|_| job("unit")).collect();
    let pushes = jobs.iter().enumerate().map(|(n, job)| {
        let queue = if n % 2 == 0 { &case.a } else { &case.b };
        queue.push(job)
    });
    let mut queued = 0;
    for (job, answer) in jobs.iter().zip(join_all(pushes).await) {
        match answer.expect("the queue answers") {
            Pushed::Queued => queued += 1,
            Pushed::AlreadyQueued { serial } => assert_eq!(serial, job.serial),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(queued, 1);
    let taken = case.take_one().await;
    assert!(jobs.iter().any(|job| job.serial == taken.info.serial));
}

/// Pushes a job of the id again; the later push is the one that the job stands for.
async fn push_again(case: &Case<'_>, due_in: Duration, hurries: bool) {
    let job = NewJob {
        due_in,
        hurries,
        ..job("unit")
    };
    let pushed = case.b.push(&job).await.expect("the queue answers");
    assert_eq!(pushed, Pushed::AlreadyQueued { serial: job.serial });
}

pub(super) async fn a_push_that_hurries_moves_the_due_time_forward(case: &Case<'_>) {
    case.push_in("unit", LONG).await;
    push_again(case, LONG * 2, true).await;
    assert!(case.due_in("unit").await <= LONG);
    push_again(case, LONG / 2, true).await;
    assert!(case.due_in("unit").await <= LONG / 2);
    assert_eq!(case.take().await, []);
    push_again(case, Duration::ZERO, true).await;
    assert_eq!(ids(&case.take().await), ["unit"]);
}

// fault: 29
pub(super) async fn any_other_push_leaves_a_back_off_alone(case: &Case<'_>) {
    case.push_in("unit", LONG).await;
    push_again(case, Duration::ZERO, false).await;
    assert_eq!(case.take().await, [], "as it was pushed first");
    case.a
        .run_now(&job_id("unit"))
        .await
        .expect("the queue answers");
    let taken = case.take_one().await;
    push_again(case, Duration::ZERO, false).await;
    let retry = case.a.retry(&taken.receipt, LONG, "e").await;
    assert_eq!(retry.expect("the queue answers"), Settled::Settled);
    assert_eq!(case.take().await, [], "as its worker has put it back");
    for due_in in [Duration::ZERO, LONG * 2] {
        push_again(case, due_in, false).await;
        let left = case.due_in("unit").await;
        assert!(left <= LONG && left + case.while_ > LONG, "{left:?}");
    }
    assert_eq!(case.take().await, []);
    let view = case.get("unit").await.expect("it is there");
    assert_eq!(view.info.attempts, 1);
}

pub(super) async fn a_full_queue_refuses_the_newest(case: &Case<'_>) {
    let limits = QueueLimits {
        jobs_max: 3,
        ..QueueLimits::default()
    };
    let case = Case::limited(case.setup, limits).await;
    for id in ["a", "b", "c"] {
        case.push(id).await;
    }
    let push = async |id: &str| case.b.push(&job(id)).await.expect("the queue answers");
    assert_eq!(push("d").await, Pushed::Full);
    assert_eq!(case.get("d").await, None);
    assert!(matches!(push("a").await, Pushed::AlreadyQueued { .. }));
    let taken = case.take().await;
    assert_eq!(taken.len(), 3);
    assert_eq!(push("d").await, Pushed::Full, "taken ones count");
    case.a
        .ack(&taken[0].receipt)
        .await
        .expect("the queue answers");
    case.a
        .bury(&taken[1].receipt, "e")
        .await
        .expect("the queue answers");
    assert_eq!(push("d").await, Pushed::Queued);
    assert_eq!(push("e").await, Pushed::Queued, "dead ones do not");
    assert_eq!(push("f").await, Pushed::Full);
}

pub(super) async fn what_no_queue_takes_is_refused(case: &Case<'_>) {
    let large = NewJob {
        payload: Bytes::from(vec![b'x'; JOB_PAYLOAD_BYTES_MAX + 1]),
        ..job("large")
    };
    let odd = NewJob {
        kind: Arc::from("No Word"),
        ..job("odd")
    };
    for bad in [large, odd] {
        assert!(case.a.push(&bad).await.is_err());
        assert_eq!(case.get(bad.id.as_str()).await, None);
    }
    for worker in ["", "a\nb"] {
        assert!(case.a.take(worker, 1, LONG).await.is_err());
        assert!(case.a.next_due(worker).await.is_err());
    }
}

pub(super) async fn any_bytes_are_a_payload(case: &Case<'_>) {
    let payloads = [
        Bytes::new(),
        Bytes::from_static(b"\0\r\n\"\\|'"),
        Bytes::from_static(&[0xff, 0xfe, 0]),
        Bytes::from("é\u{10ffff}"),
        Bytes::from(vec![b'x'; JOB_PAYLOAD_BYTES_MAX]),
        Bytes::from(vec![0xff; JOB_PAYLOAD_BYTES_MAX]),
    ];
    // Names may have what scripts and lists give a meaning to.
    for (n, payload) in payloads.into_iter().enumerate() {
        let job = NewJob {
            payload: payload.clone(),
            owner: Some(Arc::from("wor|ker \u{e9}")),
            ..job(&format!("{n}|{{x}} *?[a] é\\"))
        };
        case.a.push(&job).await.expect("the queue answers");
        let taken = case.take_own("wor|ker \u{e9}", LONG).await;
        assert_eq!(taken.len(), 1);
        assert!(taken[0].payload == payload, "payload {n}");
        assert_eq!(taken[0].info.owner, job.owner);
        assert_eq!(taken[0].info.id, job.id);
    }
}

pub(super) async fn times_are_moved_into_their_ranges(case: &Case<'_>) {
    let endless = NewJob {
        due_in: Duration::MAX,
        deadline_in: Duration::MAX,
        serial: JobSerial::random(),
        ..job("unit")
    };
    case.a.push(&endless).await.expect("the queue answers");
    let due_in = case.due_in("unit").await;
    assert!(
        due_in <= DELAY_MAX && due_in + LONG > DELAY_MAX,
        "{due_in:?}"
    );
    let view = case.get("unit").await.expect("it is there");
    assert!(view.info.deadline_in <= LIFE_MAX);
    case.a
        .run_now(&endless.id)
        .await
        .expect("the queue answers");
    let taken = case.take_as("worker", Duration::MAX).await;
    assert_eq!(taken.len(), 1);
    // No time at all is the shortest there is.
    let receipt = &taken[0].receipt;
    let extended = case.a.extend(receipt, Duration::ZERO).await;
    assert_eq!(extended.expect("the queue answers"), Settled::Settled);
    case.setup.pass(case.while_).await;
    assert_eq!(case.take_one().await.info.attempts, 2);
    let late = NewJob {
        deadline_in: Duration::ZERO,
        ..job("late")
    };
    case.a.push(&late).await.expect("the queue answers");
    assert_eq!(case.take_one().await.info.deadline_in, Duration::ZERO);
}
