//! A shared queue that can be looked at and takes nothing, and a disk that does not either.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::queue::local::tests::setup::Folder;

const SECOND: Duration = Duration::from_secs(1);

// A server without room, or without its replicas, answers whoever only looks.
// fault: 21
#[tokio::test]
async fn a_shared_queue_that_takes_nothing_is_away_although_it_answers() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    one.push("unit").await;
    for (op, calls) in [(QueueOp::Take, 2), (QueueOp::Finish, 3)] {
        fleet.faulty.next(op, calls, Fault::Fails);
    }
    assert_eq!(one.take("one").await, []);
    for _ in 0..3 {
        one.reconcile().await.unwrap_err();
        fleet.pass(SECOND);
        assert_eq!(one.queue.stats().await.unwrap().queued, 1);
        one.queue.next_due("one").await.unwrap();
        one.queue.list(&JobQuery::default()).await.unwrap();
        assert!(one.queue.health().shared_error.is_some());
    }
    assert_eq!(one.finish_all("one").await, 1);
    one.reconcile().await.unwrap();
    assert_eq!(one.queue.health().shared_error, None);
    assert_eq!(fleet.shared.get(&id("unit")).await.unwrap(), None);
}

// Each attempt at it costs the server its answers: it gets its time.
#[tokio::test(start_paused = true)]
async fn a_reconciliation_that_fails_is_not_begun_again_at_once() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock);
    let shared = LocalQueue::in_memory(QueueLimits::default(), Arc::clone(&clock));
    let faulty = Arc::new(FaultyQueue::new(Arc::new(shared), Arc::clone(&clock)));
    faulty.next(QueueOp::Push, 1, Fault::Fails);
    faulty.next(QueueOp::Restore, 1_000, Fault::Fails);
    let queue = JournaledQueue::new(
        Arc::clone(&faulty) as Arc<dyn DelayQueue>,
        LocalQueue::journal_in_memory(QueueLimits::default(), Arc::clone(&clock)),
        Arc::clone(&clock),
        &Handle::current(),
    );
    queue.push(&job("unit")).await.unwrap();
    clock.sleep(10 * SECOND).await;
    let tried = faulty.calls(QueueOp::Restore);
    assert!((8..=11).contains(&tried), "{tried} times in ten seconds");
    queue.shutdown().await;
}

// A worker that has nothing to take asks when there will be: that is often enough.
// fault: 34
#[tokio::test]
async fn what_the_disk_refused_is_written_while_workers_ask() {
    let (fleet, folder) = (Fleet::new(), Folder::new());
    let one = fleet.with_journal(fleet.journal_in(&folder).await);
    let owned = NewJob {
        owner: Some(Arc::from("one")),
        due_in: LONG,
        ..job("owned")
    };
    one.queue.push(&owned).await.unwrap();
    let disk = one.journal.disk().await;
    disk.read_only.store(true, Relaxed);
    let dropped = one.queue.drop_job(&owned.id).await.unwrap();
    assert_eq!(dropped, Changed::Changed);
    assert!(one.journal.core().is_behind());
    disk.read_only.store(false, Relaxed);
    fleet.pass(SECOND);
    assert_eq!(one.queue.next_due("one").await.unwrap(), None);
    assert!(!one.journal.core().is_behind());
    one.queue.shutdown().await;
}

// The journal had a job of the id, which was done elsewhere; the new one does not get into it.
// fault: 34
#[tokio::test]
async fn a_push_that_its_journal_lost_is_counted() {
    let (fleet, folder) = (Fleet::new(), Folder::new());
    let one = fleet.with_journal(fleet.journal_in(&folder).await);
    let two = fleet.instance();
    one.push("unit").await;
    assert_eq!(two.finish_all("two").await, 1);
    let disk = one.journal.disk().await;
    disk.read_only.store(true, Relaxed);
    one.push("unit").await;
    assert_eq!(one.queue.health().unjournaled, 1);
    disk.read_only.store(false, Relaxed);
    fleet.pass(SECOND);
    assert_eq!(two.finish_all("two").await, 1);
    one.reconcile().await.unwrap();
    one.push("unit").await;
    assert_eq!(one.queue.health().unjournaled, 1);
    one.queue.shutdown().await;
}
