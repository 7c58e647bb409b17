//! The shared queue goes away and comes back.

use super::*;

// acceptance: G6
#[tokio::test]
async fn what_is_pushed_alone_is_done_alone() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    fleet.away(true);
    one.push("unit").await;
    let again = one.queue.push(&job("unit")).await.unwrap();
    assert!(matches!(again, Pushed::AlreadyQueued { .. }));
    assert_eq!(
        one.queue.next_due("one").await.unwrap(),
        Some(Duration::ZERO)
    );
    assert_eq!(one.queue.stats().await.unwrap().queued, 1);
    assert_eq!(one.finish_all("one").await, 1);
    fleet.away(false);
    one.reconcile().await.unwrap();
    assert_eq!(one.queue.health().journaled, 0);
    assert_eq!(one.take("one").await, []);
}

// acceptance: G6
#[tokio::test]
async fn what_was_tried_alone_is_merged_with_its_attempts() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.instance(), fleet.instance());
    fleet.away(true);
    one.push("retried").await;
    one.push("buried").await;
    two.push("retried").await;
    for taken in one.take("one").await {
        match taken.info.id.as_str() {
            "buried" => one.queue.bury(&taken.receipt, "hopeless").await.unwrap(),
            _ => one
                .queue
                .retry(&taken.receipt, LONG, "later")
                .await
                .unwrap(),
        };
    }
    fleet.away(false);
    one.reconcile().await.unwrap();
    two.reconcile().await.unwrap();
    let retried = fleet.shared.get(&id("retried")).await.unwrap().unwrap();
    assert_eq!(
        (retried.info.attempts, retried.state),
        (1, JobState::Queued { due_in: LONG })
    );
    assert_eq!(retried.info.last_error.as_deref(), Some("later"));
    let buried = fleet.shared.get(&id("buried")).await.unwrap().unwrap();
    assert!(matches!(buried.state, JobState::Dead { .. }));
    fleet.pass(LONG);
    // Once, though both had it.
    assert_eq!(ids(&two.take("two").await), ["retried"]);
    assert_eq!(one.take("one").await, []);
    assert_eq!(
        one.queue.health().restored + two.queue.health().restored,
        0,
        "none was lost"
    );
}

// acceptance: G6
#[tokio::test]
async fn a_long_outage_is_bridged_by_whoever_pushed_last() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.instance(), fleet.instance());
    two.push("unit").await;
    let again = one.queue.push(&job("unit")).await.unwrap();
    assert!(matches!(again, Pushed::AlreadyQueued { .. }));
    two.reconcile().await.unwrap();
    fleet.away(true);
    assert_eq!(one.take("one").await, [], "it may be nothing");
    // A worker that sleeps until then is there in time.
    assert_eq!(one.queue.next_due("one").await.unwrap(), Some(OUTAGE_GRACE));
    assert_eq!(two.take("two").await, []);
    assert_eq!(two.queue.next_due("two").await.unwrap(), None);
    fleet.pass(OUTAGE_GRACE);
    assert_eq!(two.take("two").await, [], "it is the other's");
    let taken = one.take("one").await;
    assert_eq!(ids(&taken), ["unit"]);
    one.queue.ack(&taken[0].receipt).await.unwrap();
    fleet.away(false);
    one.reconcile().await.unwrap();
    two.reconcile().await.unwrap();
    // Nobody does it again, and nobody keeps it.
    assert_eq!(fleet.shared.get(&id("unit")).await.unwrap(), None);
    let journaled = [&one, &two].map(|instance| instance.queue.health().journaled);
    assert_eq!(journaled, [0, 0]);
}

#[tokio::test]
async fn a_brief_silence_changes_nothing() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    one.push("unit").await;
    fleet.faulty.next(QueueOp::Take, 1, Fault::Fails);
    assert_eq!(one.take("one").await, []);
    assert!(one.queue.health().shared_error.is_some());
    assert_eq!(ids(&one.take("one").await), ["unit"]);
    one.reconcile().await.unwrap();
    assert_eq!(one.queue.health().shared_error, None);
}

#[tokio::test]
async fn what_was_done_is_told_when_it_can_be() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.instance(), fleet.instance());
    one.push("unit").await;
    let taken = two.take("two").await;
    fleet.away(true);
    assert_eq!(
        two.queue.ack(&taken[0].receipt).await.unwrap(),
        Settled::Settled
    );
    // A retry that is not heard is no harm: the job comes back by itself.
    assert!(two.queue.retry(&taken[0].receipt, LONG, "e").await.is_err());
    fleet.away(false);
    fleet.pass(2 * LONG);
    two.reconcile().await.unwrap();
    assert_eq!(two.take("two").await, []);
    one.reconcile().await.unwrap();
    assert_eq!(one.queue.health().journaled, 0);
}

// An answer that never came says nothing about what was done.
#[tokio::test]
async fn lost_replies_lose_nothing() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    fleet.faulty.next(QueueOp::Push, 1, Fault::ReplyLost);
    one.push("pushed").await;
    one.reconcile().await.unwrap();
    let taken = one.take("one").await;
    assert_eq!(ids(&taken), ["pushed"], "once");
    fleet.faulty.next(QueueOp::Ack, 1, Fault::ReplyLost);
    assert_eq!(
        one.queue.ack(&taken[0].receipt).await.unwrap(),
        Settled::Settled
    );
    one.push("taken").await;
    fleet.faulty.next(QueueOp::Take, 1, Fault::ReplyLost);
    assert_eq!(one.take("one").await, []);
    one.reconcile().await.unwrap();
    fleet.pass(LONG);
    assert_eq!(ids(&one.take("one").await), ["taken"]);
}

// A push that was given up between the two queues is the reconciliation's.
#[tokio::test]
async fn a_cancelled_push_is_put_right() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    fleet.faulty.next(QueueOp::Push, 1, Fault::Hangs);
    let new = job("unit");
    let mut push = Box::pin(one.queue.push(&new));
    assert!(futures::poll!(push.as_mut()).is_pending());
    one.reconcile().await.unwrap();
    assert_eq!(one.take("one").await, [], "it is on its way");
    drop(push);
    assert_eq!(one.queue.health().journaled, 1);
    one.reconcile().await.unwrap();
    assert_eq!(ids(&one.take("one").await), ["unit"]);
}

#[tokio::test]
async fn orders_are_kept_while_the_shared_queue_is_away() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    for name in ["run", "drop", "dead"] {
        let due_in = if name == "dead" { Duration::ZERO } else { LONG };
        one.queue
            .push(&NewJob {
                due_in,
                ..job(name)
            })
            .await
            .unwrap();
    }
    let taken = one.take("one").await;
    one.queue.bury(&taken[0].receipt, "e").await.unwrap();
    fleet.pass(Duration::from_secs(10));
    one.reconcile().await.unwrap();
    fleet.away(true);
    one.take("one").await;
    fleet.pass(OUTAGE_GRACE);
    assert_eq!(
        one.queue.run_now(&id("run")).await.unwrap(),
        Changed::Changed
    );
    assert_eq!(
        one.queue.drop_job(&id("drop")).await.unwrap(),
        Changed::Changed
    );
    assert_eq!(
        one.queue.requeue(&id("dead")).await.unwrap(),
        Changed::Changed
    );
    assert!(
        one.queue.run_now(&id("elsewhere")).await.is_err(),
        "it may be there"
    );
    let mut taken = one.take("one").await;
    taken.sort_unstable_by(|a, b| a.info.id.cmp(&b.info.id));
    assert_eq!(ids(&taken), ["dead", "run"]);
    fleet.away(false);
    one.reconcile().await.unwrap();
    assert_eq!(fleet.shared.get(&id("drop")).await.unwrap(), None);
}

// The task does it by itself, once the shared queue is back.
#[tokio::test(start_paused = true)]
async fn the_task_merges_by_itself() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock);
    let shared = LocalQueue::in_memory(QueueLimits::default(), Arc::clone(&clock));
    let faulty = FaultyQueue::new(Arc::new(shared.clone()), Arc::clone(&clock));
    let faulty = Arc::new(faulty);
    faulty.always(Some(Fault::Fails));
    let journal = LocalQueue::journal_in_memory(QueueLimits::default(), Arc::clone(&clock));
    let queue = JournaledQueue::new(
        Arc::clone(&faulty) as Arc<dyn DelayQueue>,
        journal,
        Arc::clone(&clock),
        &Handle::current(),
    );
    queue.push(&job("unit")).await.unwrap();
    clock.sleep(LONG).await;
    assert_eq!(shared.get(&id("unit")).await.unwrap(), None);
    faulty.always(None);
    clock.sleep(2 * RECONCILE_RETRY_EVERY).await;
    assert!(shared.get(&id("unit")).await.unwrap().is_some());
    assert_eq!(queue.health().shared_error, None);
    let taken = shared.take("other", 1, LONG).await.unwrap();
    shared.ack(&taken[0].receipt).await.unwrap();
    clock.sleep(2 * RECONCILE_EVERY).await;
    assert_eq!(queue.health().journaled, 0);
    queue.shutdown().await;
    queue.shutdown().await;
}
