//! What becomes of a job in one queue, as the other learns of it.

use super::*;
use crate::queue::local::tests::setup::Folder;

async fn bury(instance: &Instance, error: &str) {
    let taken = instance.take("worker").await;
    let buried = instance.queue.bury(&taken[0].receipt, error).await;
    assert_eq!(buried.unwrap(), Settled::Settled);
}

async fn retry(instance: &Instance, due_in: Duration, error: &str) {
    let taken = instance.take("worker").await;
    let retried = instance.queue.retry(&taken[0].receipt, due_in, error).await;
    assert_eq!(retried.unwrap(), Settled::Settled);
}

// What an operator ordered is not taken back because the other queue was not there to hear it.
// acceptance: G6
#[tokio::test]
async fn another_life_that_was_given_alone_is_kept() {
    for is_tried in [false, true] {
        let (fleet, folder) = (Fleet::new(), Folder::new());
        let one = fleet.with_journal(fleet.journal_in(&folder).await);
        one.push("unit").await;
        bury(&one, "hopeless").await;
        one.reconcile().await.unwrap();
        fleet.away(true);
        let requeued = one.queue.requeue(&id("unit")).await.unwrap();
        assert_eq!(requeued, Changed::Changed);
        if is_tried {
            retry(&one, LONG, "again").await;
        }
        one.queue.shutdown().await;
        drop(one);
        let one = fleet.with_journal(fleet.journal_in(&folder).await);
        fleet.away(false);
        for _ in 0..2 {
            one.reconcile().await.unwrap();
            let there = fleet.shared.get(&id("unit")).await.unwrap().unwrap();
            let (attempts, due_in) = match is_tried {
                true => (1, LONG),
                false => (0, Duration::ZERO),
            };
            assert_eq!(there.info.attempts, attempts);
            assert_eq!(there.state, JobState::Queued { due_in });
            let here = one.journal_state("unit").await;
            assert_eq!(here, Some(JobState::Queued { due_in }));
        }
        // From now on the shared queue has the last word again.
        fleet.pass(LONG);
        let two = fleet.instance();
        bury(&two, "hopeless again").await;
        one.reconcile().await.unwrap();
        let here = one.journal_state("unit").await;
        assert!(matches!(here, Some(JobState::Dead { .. })), "{here:?}");
        one.queue.shutdown().await;
    }
}

// Nobody ordered this life: it is what was left here of one that has ended there.
#[tokio::test]
async fn a_death_that_was_not_heard_of_ends_a_copy_that_was_tried() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    one.push("unit").await;
    fleet.away(true);
    one.take("one").await;
    fleet.pass(OUTAGE_GRACE);
    retry(&one, LONG, "again").await;
    let taken = fleet.shared.take("two", 1, LONG).await.unwrap();
    fleet.shared.bury(&taken[0].receipt, "no").await.unwrap();
    fleet.away(false);
    one.reconcile().await.unwrap();
    let here = one.journal_state("unit").await;
    assert!(matches!(here, Some(JobState::Dead { .. })), "{here:?}");
}

// The copy lives as long as the job does, and no longer than it is worth doing.
#[tokio::test]
async fn another_life_has_a_deadline_of_its_own() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.instance(), fleet.instance());
    let limited = NewJob {
        deadline_in: LONG,
        ..job("unit")
    };
    one.queue.push(&limited).await.unwrap();
    for _ in 0..3 {
        bury(&two, "hopeless").await;
        fleet.pass(2 * LONG);
        one.reconcile().await.unwrap();
        let requeued = two.queue.requeue(&id("unit")).await.unwrap();
        assert_eq!(requeued, Changed::Changed);
        one.reconcile().await.unwrap();
        for queue in [&one.journal, &fleet.shared] {
            let info = queue.get(&id("unit")).await.unwrap().unwrap().info;
            assert_eq!((info.deadline_in, info.age), (LONG, Duration::ZERO));
        }
    }
}

// Workers read from the last error how often a job was tried in earnest.
// fault: 21
#[tokio::test]
async fn what_attempts_ended_with_comes_back_too() {
    let (fleet, folder) = (Fleet::new(), Folder::new());
    let one = fleet.with_journal(fleet.journal_in(&folder).await);
    let two = fleet.instance();
    one.push("unit").await;
    retry(&two, Duration::ZERO, "#1 no").await;
    one.reconcile().await.unwrap();
    // It is seen while it is tried, and no more often than before once that has failed.
    let taken = two.take("two").await;
    one.reconcile().await.unwrap();
    let failed = two.queue.retry(&taken[0].receipt, LONG, "#2 no; #1 no");
    assert_eq!(failed.await.unwrap(), Settled::Settled);
    one.reconcile().await.unwrap();
    let asked = fleet.faulty.calls(QueueOp::List);
    one.reconcile().await.unwrap();
    let again = fleet.faulty.calls(QueueOp::List) - asked;
    assert_eq!(again, 0, "nothing is new");
    // Neither that nor how long it waits is lost with both processes.
    one.queue.shutdown().await;
    drop(one);
    let fleet = fleet.forgetful();
    let one = fleet.with_journal(fleet.journal_in(&folder).await);
    one.reconcile().await.unwrap();
    let there = fleet.shared.get(&id("unit")).await.unwrap().unwrap();
    let error = there.info.last_error.as_deref();
    assert_eq!((there.info.attempts, error), (2, Some("#2 no; #1 no")));
    assert_eq!(there.state, JobState::Queued { due_in: LONG });
    one.queue.shutdown().await;
}

// Three pushes while one attempt is under way: the last stands for all of them.
#[tokio::test]
async fn a_push_that_gave_way_to_a_later_one_is_not_lost_when_that_is_done() {
    let fleet = Fleet::new();
    let [one, two, three] = [fleet.instance(), fleet.instance(), fleet.instance()];
    one.push("unit").await;
    let taken = two.take("two").await;
    for instance in [&three, &one] {
        let again = instance.queue.push(&job("unit")).await.unwrap();
        assert!(matches!(again, Pushed::AlreadyQueued { .. }), "{again:?}");
        fleet.pass(Duration::from_millis(10));
    }
    let done = two.queue.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(done, Settled::Settled);
    for instance in [&one, &three] {
        instance.reconcile().await.unwrap();
        let health = instance.queue.health();
        assert_eq!((health.journaled, health.restored), (0, 0));
    }
    assert_eq!(two.take("two").await, []);
}
