#![allow(clippy::unwrap_used)]

mod chaos;
mod fleet;
mod lives;
mod losses;
mod outages;
mod refusals;

use bytes::Bytes;

use super::*;
use crate::queue::answers::JobState;
use crate::queue::job::{JobSerial, LIFE_MAX, QueueLimits};
use crate::testing::{Fault, FaultyQueue, QueueOp, queue_contract};
use crate::{ManualClock, TokioClock};
use fleet::{Fleet, Instance, LONG, id, ids, job};

// acceptance: B15 B16
#[tokio::test]
async fn over_a_queue_in_memory() {
    queue_contract(&fleet::InMemory::new()).await;
}

#[tokio::test]
async fn a_job_with_an_owner_never_leaves_its_instance() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.instance(), fleet.instance());
    let owned = NewJob {
        owner: Some(Arc::from("one")),
        ..job("owned")
    };
    assert_eq!(one.queue.push(&owned).await.unwrap(), Pushed::Queued);
    assert!(matches!(
        one.queue.push(&owned).await.unwrap(),
        Pushed::AlreadyQueued { .. }
    ));
    one.reconcile().await.unwrap();
    assert_eq!(fleet.shared.get(&id("owned")).await.unwrap(), None);
    assert_eq!(two.queue.get(&id("owned")).await.unwrap(), None);
    assert_eq!(two.take("one").await, []);
    assert_eq!(one.queue.stats().await.unwrap().queued, 1);
    let page = one.queue.list(&JobQuery::default()).await.unwrap();
    assert_eq!(page.jobs[0].info.owner.as_deref(), Some("one"));
    assert_eq!(
        one.queue.next_due("one").await.unwrap(),
        Some(Duration::ZERO)
    );
    assert_eq!(one.queue.next_due("two").await.unwrap(), None);
    assert_eq!(one.take("two").await, []);
    let taken = one.take("one").await;
    assert_eq!(
        one.queue.bury(&taken[0].receipt, "e").await.unwrap(),
        Settled::Settled
    );
    assert_eq!(
        one.queue.requeue(&id("owned")).await.unwrap(),
        Changed::Changed
    );
    let taken = one.take("one").await;
    assert_eq!(
        one.queue.ack(&taken[0].receipt).await.unwrap(),
        Settled::Settled
    );
    assert_eq!(one.queue.health().journaled, 0);
}

// What is this instance's alone waits for no server.
#[tokio::test]
async fn orders_for_a_job_with_an_owner_ask_nobody() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    let owned = NewJob {
        owner: Some(Arc::from("one")),
        due_in: LONG,
        ..job("owned")
    };
    one.queue.push(&owned).await.unwrap();
    fleet.faulty.always(Some(Fault::Hangs));
    let queue = &one.queue;
    assert_eq!(queue.run_now(&owned.id).await.unwrap(), Changed::Changed);
    let taken = one.journal.take("one", 1, LONG).await.unwrap();
    let settled = queue.bury(&taken[0].receipt, "e").await.unwrap();
    assert_eq!(settled, Settled::Settled);
    assert_eq!(queue.requeue(&owned.id).await.unwrap(), Changed::Changed);
    assert!(queue.get(&owned.id).await.unwrap().is_some());
    assert_eq!(queue.drop_job(&owned.id).await.unwrap(), Changed::Changed);
    assert_eq!(queue.health().journaled, 0);
}

// Neither queue may starve the other, whatever the limit.
#[tokio::test]
async fn both_queues_get_their_turn() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    for n in 0..4 {
        one.push(&format!("shared{n}")).await;
        let owned = NewJob {
            owner: Some(Arc::from("worker")),
            ..job(&format!("owned{n}"))
        };
        one.queue.push(&owned).await.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let taken = one.queue.take("worker", 1, LONG).await.unwrap();
        seen.push(taken[0].info.owner.is_some());
    }
    assert_eq!(seen.iter().filter(|owned| **owned).count(), 2, "{seen:?}");
    assert_eq!(one.take("worker").await.len(), 4, "the rest at once");
}

#[tokio::test]
async fn pages_of_both_are_put_together() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    for n in 0..10 {
        let owner = (n % 3 == 0).then(|| Arc::from("worker"));
        let job = NewJob {
            owner,
            ..job(&format!("unit{n}"))
        };
        one.queue.push(&job).await.unwrap();
    }
    for limit in [1, 2, 3, 7, 10, 20] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let query = JobQuery {
                after,
                limit,
                ..JobQuery::default()
            };
            let page = one.queue.list(&query).await.unwrap();
            assert!(!page.jobs.is_empty() && page.jobs.len() <= limit);
            seen.extend(page.jobs.into_iter().map(|view| view.info.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<_> = (0..10).map(|n| id(&format!("unit{n}"))).collect();
        assert_eq!(seen, expected, "limit {limit}");
    }
}

// What a page of the shared queue was to show has moved on, and what comes behind has not.
#[tokio::test]
async fn a_page_without_jobs_is_not_the_last_one() {
    let journal = LocalQueue::journal_in_memory(QueueLimits::default(), Arc::new(TokioClock));
    for n in [1, 5, 9] {
        journal.push(&job(&format!("unit{n}"))).await.unwrap();
    }
    let own = async |limit| {
        let query = JobQuery {
            limit,
            ..JobQuery::default()
        };
        journal.list(&query).await.unwrap()
    };
    let empty = |next: Option<&str>| JobPage {
        jobs: Vec::new(),
        next: next.map(id),
    };
    let shown = |page: JobPage| {
        let ids: Vec<_> = page.jobs.into_iter().map(|view| view.info.id).collect();
        (ids, page.next)
    };
    for (own, shared, limit, expected, next) in [
        (empty(None), empty(Some("unit3")), 3, vec![], Some("unit3")),
        (
            own(3).await,
            empty(Some("unit3")),
            3,
            vec!["unit1"],
            Some("unit3"),
        ),
        (own(3).await, empty(Some("unit0")), 3, vec![], Some("unit0")),
        (
            own(2).await,
            empty(Some("unit7")),
            2,
            vec!["unit1", "unit5"],
            Some("unit5"),
        ),
        (
            own(3).await,
            empty(Some("unit7")),
            1,
            vec!["unit1"],
            Some("unit1"),
        ),
        (
            own(3).await,
            empty(None),
            3,
            vec!["unit1", "unit5", "unit9"],
            None,
        ),
    ] {
        let page = merged(own, shared, limit);
        let expected: Vec<_> = expected.into_iter().map(id).collect();
        assert_eq!(shown(page), (expected, next.map(id)));
    }
}

// The journal learns what others did, and keeps nothing for ever.
#[tokio::test]
async fn the_journal_follows_the_shared_queue() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.instance(), fleet.instance());
    for id in ["acked", "dead", "dropped", "retried"] {
        one.push(id).await;
    }
    fleet.pass(LONG);
    for taken in two.take("two").await {
        match taken.info.id.as_str() {
            "acked" => two.queue.ack(&taken.receipt).await.unwrap(),
            "dead" => two.queue.bury(&taken.receipt, "hopeless").await.unwrap(),
            "retried" => two
                .queue
                .retry(&taken.receipt, LONG, "later")
                .await
                .unwrap(),
            _ => continue,
        };
    }
    assert_eq!(
        two.queue.drop_job(&id("dropped")).await.unwrap(),
        Changed::Changed
    );
    assert_eq!(one.queue.health().journaled, 4);
    one.reconcile().await.unwrap();
    assert_eq!(one.journal_state("acked").await, None);
    assert_eq!(one.journal_state("dropped").await, None);
    assert!(matches!(
        one.journal_state("dead").await,
        Some(JobState::Dead { .. })
    ));
    let retried = one.journal.get(&id("retried")).await.unwrap().unwrap();
    assert_eq!(
        (retried.state, retried.info.attempts),
        (JobState::Queued { due_in: LONG }, 1)
    );
    // Another life is followed too, and not taken back.
    assert_eq!(
        two.queue.requeue(&id("dead")).await.unwrap(),
        Changed::Changed
    );
    for _ in 0..2 {
        one.reconcile().await.unwrap();
        assert!(matches!(
            one.journal_state("dead").await,
            Some(JobState::Queued { .. })
        ));
    }
    assert_eq!(ids(&two.take("two").await), ["dead"]);
    assert_eq!(one.queue.health().restored, 0);
}

// A job that was done by others leaves a copy until the next look; a new push must not be taken
// for it.
#[tokio::test]
async fn a_new_push_is_told_from_one_that_was_done() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.instance(), fleet.instance());
    one.push("unit").await;
    fleet.pass(LONG);
    two.finish_all("two").await;
    // While the shared queue answers …
    one.push("unit").await;
    fleet.pass(LONG);
    one.reconcile().await.unwrap();
    assert_eq!(one.queue.health().journaled, 1);
    two.finish_all("two").await;
    // … and while it does not.
    fleet.away(true);
    let again = one.queue.push(&job("unit")).await.unwrap();
    assert!(matches!(again, Pushed::AlreadyQueued { .. }), "{again:?}");
    fleet.away(false);
    one.reconcile().await.unwrap();
    assert_eq!(ids(&two.take("two").await), ["unit"]);
}

#[tokio::test]
async fn what_the_shared_queue_refuses_is_not_kept() {
    let fleet = Fleet::limited(QueueLimits {
        jobs_max: 1,
        ..QueueLimits::default()
    });
    let one = fleet.instance();
    one.push("first").await;
    assert_eq!(one.queue.push(&job("second")).await.unwrap(), Pushed::Full);
    assert_eq!(one.queue.health().journaled, 1);
    let taken = one.take("one").await;
    one.queue.bury(&taken[0].receipt, "e").await.unwrap();
    let serial = taken[0].info.serial;
    assert_eq!(
        one.queue.push(&job("first")).await.unwrap(),
        Pushed::Dead { serial }
    );
    // What was pushed without it and finds no room there is done here.
    fleet.away(true);
    one.push("alone").await;
    fleet.away(false);
    fleet.shared.push(&job("faster")).await.unwrap();
    one.reconcile().await.unwrap();
    assert_eq!(fleet.shared.get(&id("alone")).await.unwrap(), None);
    let mut taken = one.take("one").await;
    taken.sort_unstable_by(|a, b| a.info.id.cmp(&b.info.id));
    assert_eq!(ids(&taken), ["alone", "faster"]);
}

// A journal that cannot be written costs its protection, not the job.
#[tokio::test]
async fn a_full_journal_refuses_nothing() {
    let fleet = Fleet::new();
    let small = QueueLimits {
        jobs_max: 1,
        ..QueueLimits::default()
    };
    let journal = LocalQueue::journal_in_memory(small, Arc::new(fleet.clock.clone()));
    let one = fleet.with_journal(journal);
    one.push("first").await;
    one.push("second").await;
    let health = one.queue.health();
    assert_eq!((health.journaled, health.unjournaled), (1, 1));
    assert_eq!(one.take("one").await.len(), 2);
    fleet.away(true);
    assert_eq!(one.queue.push(&job("third")).await.unwrap(), Pushed::Full);
}
