//! What an operator sees and orders.

use super::*;
use crate::{Changed, JobQuery};

pub(super) async fn a_dead_job_gets_another_life(case: &Case<'_>) {
    let id = job_id("unit");
    let requeue = async || case.a.requeue(&id).await.expect("the queue answers");
    assert_eq!(requeue().await, Changed::Gone, "there is none");
    let pushed = NewJob {
        deadline_in: LONG,
        ..job("unit")
    };
    case.a.push(&pushed).await.expect("the queue answers");
    assert_eq!(requeue().await, Changed::Gone, "it is not dead");
    let mut taken = case.take_one().await;
    assert_eq!(requeue().await, Changed::Gone, "it is being worked on");
    // Each life is as long as the first, however many there are.
    for _ in 0..2 {
        case.a
            .bury(&taken.receipt, "hopeless")
            .await
            .expect("the queue answers");
        case.setup.pass(case.while_).await;
        assert_eq!(requeue().await, Changed::Changed);
        taken = case.take_one().await;
        assert_eq!(taken.info.attempts, 1);
        assert_eq!(taken.info.last_error.as_deref(), Some("hopeless"));
        let left = taken.info.deadline_in;
        assert!(left <= LONG && left + case.while_ > LONG, "{left:?}");
    }
}

// acceptance: A23
pub(super) async fn the_oldest_dead_leaves(case: &Case<'_>) {
    let limits = QueueLimits {
        dead_max: 2,
        jobs_max: 2,
        ..QueueLimits::default()
    };
    let case = Case::limited(case.setup, limits).await;
    for id in ["b", "a", "c"] {
        case.bury(id).await;
        case.setup.pass(Duration::from_millis(2)).await;
    }
    assert_eq!(case.get("b").await, None);
    let stats = case.a.stats().await.expect("the queue answers");
    let other = case.b.stats().await.expect("the queue answers");
    assert_eq!(
        (stats.dead, stats.dead_dropped.max(other.dead_dropped)),
        (2, 1)
    );
    case.push("d").await;
    case.push("e").await;
    let requeued = case.a.requeue(&job_id("a")).await;
    assert_eq!(requeued.expect("the queue answers"), Changed::Full);
    assert!(matches!(case.state("a").await, Some(JobState::Dead { .. })));
}

pub(super) async fn a_waiting_job_is_run_now(case: &Case<'_>) {
    let id = job_id("unit");
    let run = async || case.a.run_now(&id).await.expect("the queue answers");
    assert_eq!(run().await, Changed::Gone);
    case.push_in("unit", LONG).await;
    assert_eq!(case.take().await, []);
    assert_eq!(run().await, Changed::Changed);
    let taken = case.take_one().await;
    assert_eq!(run().await, Changed::Taken);
    case.a
        .bury(&taken.receipt, "e")
        .await
        .expect("the queue answers");
    assert_eq!(
        run().await,
        Changed::Gone,
        "a dead one needs another life first"
    );
}

pub(super) async fn a_job_is_dropped_wherever_it_is(case: &Case<'_>) {
    let drop_job = async |id| case.a.drop_job(&job_id(id)).await.expect("it answers");
    assert_eq!(drop_job("unit").await, Changed::Gone);
    case.bury("dead").await;
    case.push("taken").await;
    let taken = case.take_one().await;
    case.push("waiting").await;
    for id in ["dead", "taken", "waiting"] {
        assert_eq!(drop_job(id).await, Changed::Changed, "{id}");
        assert_eq!(case.get(id).await, None, "{id}");
    }
    let ack = case.b.ack(&taken.receipt).await;
    assert_eq!(ack.expect("the queue answers"), Settled::Stale);
    assert_eq!(case.take().await, []);
    let stats = case.b.stats().await.expect("the queue answers");
    assert_eq!((stats.queued, stats.taken, stats.dead), (0, 0, 0));
}

pub(super) async fn the_numbers_add_up(case: &Case<'_>) {
    let stats = async || case.b.stats().await.expect("the queue answers");
    assert_eq!(stats().await, crate::QueueStats::default());
    case.bury("dead").await;
    case.push("taken").await;
    case.take_one().await;
    case.push_in("later", LONG).await;
    let then = stats().await;
    assert_eq!((then.queued, then.taken, then.dead), (1, 1, 1));
    assert_eq!(then.lag, Duration::ZERO);
    case.push("due").await;
    case.setup.pass(case.while_).await;
    let then = stats().await;
    assert_eq!((then.queued, then.taken, then.dead), (2, 1, 1));
    assert!(then.lag >= case.while_ && then.lag < LONG, "{:?}", then.lag);
}

pub(super) async fn a_list_is_in_order_and_in_pages(case: &Case<'_>) {
    for id in ["dead2", "dead1"] {
        case.bury(id).await;
    }
    case.push("c").await;
    case.take_one().await;
    for id in ["e", "a", "d", "b", "é"] {
        case.push(id).await;
    }
    let expected = ["a", "b", "c", "d", "e", "é"];
    for limit in [0, 1, 2, 5, 6, 7, usize::MAX] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let query = JobQuery {
                after: after.clone(),
                limit,
                ..JobQuery::default()
            };
            let page = case.b.list(&query).await.expect("the queue answers");
            assert!(page.jobs.len() <= limit.max(1));
            seen.extend(page.jobs.into_iter().map(|view| view.info.id));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let seen: Vec<_> = seen.iter().map(JobId::as_str).collect();
        assert_eq!(seen, expected, "limit {limit}");
        assert_eq!(
            pages,
            expected.len().div_ceil(limit.max(1)),
            "limit {limit}"
        );
    }
    let query = JobQuery {
        dead: true,
        ..JobQuery::default()
    };
    let page = case.b.list(&query).await.expect("the queue answers");
    let seen: Vec<_> = page.jobs.iter().map(|view| view.info.id.as_str()).collect();
    assert_eq!((seen, page.next), (vec!["dead1", "dead2"], None));
    let view = &page.jobs[0];
    assert_eq!(
        case.get("dead1").await.map(|view| view.info.serial),
        Some(view.info.serial)
    );
    assert_eq!(view.info.last_error.as_deref(), Some("hopeless"));
}

pub(super) async fn a_list_takes_its_filter_literally(case: &Case<'_>) {
    for id in ["a*b", "aab", "a[x]", "ax", "A"] {
        case.push(id).await;
    }
    let list = async |contains: &str| {
        let query = JobQuery {
            contains: Some(contains.to_owned()),
            ..JobQuery::default()
        };
        let page = case.b.list(&query).await.expect("the queue answers");
        let ids = page.jobs.into_iter().map(|view| view.info.id);
        ids.map(|id| id.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("a*").await, ["a*b"]);
    assert_eq!(list("[x]").await, ["a[x]"]);
    assert_eq!(list("?").await, [""; 0]);
    assert_eq!(list("").await.len(), 5);
}
