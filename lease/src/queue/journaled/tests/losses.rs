//! The shared queue's server, or an instance, loses its memory.

use super::*;
use crate::queue::local::tests::setup::Folder;

// fault: 21
#[tokio::test]
async fn the_journals_bring_back_what_the_server_lost() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.instance(), fleet.instance());
    for name in ["one", "both", "done", "dead", "tried"] {
        one.push(name).await;
    }
    two.push("two").await;
    two.queue.push(&job("both")).await.unwrap();
    for taken in two.take("two").await {
        match taken.info.id.as_str() {
            "done" => two.queue.ack(&taken.receipt).await.unwrap(),
            "dead" => two.queue.bury(&taken.receipt, "hopeless").await.unwrap(),
            "tried" => two
                .queue
                .retry(&taken.receipt, LONG, "later")
                .await
                .unwrap(),
            _ => two
                .queue
                .retry(&taken.receipt, Duration::ZERO, "again")
                .await
                .unwrap(),
        };
    }
    fleet.pass(Duration::from_secs(10));
    one.reconcile().await.unwrap();

    let fleet = fleet.forgetful();
    let (one, two) = (
        fleet.with_journal(one.journal),
        fleet.with_journal(two.journal),
    );
    assert_eq!(one.take("one").await, []);
    one.reconcile().await.unwrap();
    two.reconcile().await.unwrap();
    let mut taken = two.take("two").await;
    taken.sort_unstable_by(|a, b| a.info.id.cmp(&b.info.id));
    assert_eq!(ids(&taken), ["both", "one", "two"], "each once");
    let dead = fleet.shared.get(&id("dead")).await.unwrap().unwrap();
    assert!(matches!(dead.state, JobState::Dead { .. }));
    let tried = fleet.shared.get(&id("tried")).await.unwrap().unwrap();
    assert_eq!(tried.info.attempts, 1);
    assert_eq!(one.queue.health().restored, 4);
    assert_eq!(two.queue.health().restored, 1);
}

// acceptance: G6
#[tokio::test]
async fn the_journal_outlives_its_process() {
    let (fleet, folder) = (Fleet::new(), Folder::new());
    let open = async || {
        let clock = Arc::new(fleet.clock.clone());
        LocalQueue::open_journal(folder.file(), QueueLimits::default(), clock).await
    };
    let one = fleet.with_journal(open().await);
    one.push("shared").await;
    let taken = one.take("one").await;
    fleet.away(true);
    one.push("alone").await;
    one.queue.ack(&taken[0].receipt).await.unwrap();
    one.push("buried").await;
    let taken = one.take("one").await;
    let buried = taken
        .iter()
        .find(|job| job.info.id == id("buried"))
        .unwrap();
    one.queue.bury(&buried.receipt, "hopeless").await.unwrap();
    one.queue.shutdown().await;
    drop(one);
    fleet.pass(Duration::from_secs(60));

    let one = fleet.with_journal(open().await);
    assert_eq!(ids(&one.take("one").await), ["alone"]);
    fleet.away(false);
    fleet.pass(LONG);
    one.reconcile().await.unwrap();
    assert_eq!(
        fleet.shared.get(&id("shared")).await.unwrap(),
        None,
        "it was done"
    );
    assert_eq!(ids(&one.take("one").await), ["alone"]);
    let buried = fleet.shared.get(&id("buried")).await.unwrap().unwrap();
    assert!(matches!(buried.state, JobState::Dead { .. }));
    one.queue.shutdown().await;
}

// The fleet's server was taken out of the configuration, and is put in again.
#[tokio::test]
async fn a_journal_is_a_queue_without_a_shared_one() {
    let (fleet, folder) = (Fleet::new(), Folder::new());
    let clock: Arc<dyn Clock> = Arc::new(fleet.clock.clone());
    let limits = QueueLimits::default();
    let journal = LocalQueue::open_journal(folder.file(), limits, Arc::clone(&clock)).await;
    let (one, two) = (fleet.with_journal(journal), fleet.instance());
    one.push("backup").await;
    two.queue.push(&job("backup")).await.unwrap();
    one.push("primary").await;
    one.reconcile().await.unwrap();
    fleet.away(true);
    one.push("own").await;
    one.push("done").await;
    let taken = one.take("one").await;
    for job in taken.iter().filter(|job| job.info.id == id("done")) {
        one.queue.ack(&job.receipt).await.unwrap();
    }
    one.queue.shutdown().await;
    drop(one);
    let alone = LocalQueue::open(folder.file(), limits, Arc::clone(&clock)).await;
    let mut taken = alone.take("one", 10, LONG).await.unwrap();
    taken.sort_unstable_by(|a, b| a.info.id.cmp(&b.info.id));
    assert_eq!(ids(&taken), ["backup", "own", "primary"]);
    alone.ack(&taken[0].receipt).await.unwrap();
    alone.close().await;
    let journal = LocalQueue::open_journal(folder.file(), limits, clock).await;
    assert!(journal.core().owed(10).is_empty());
    let one = fleet.with_journal(journal);
    fleet.away(false);
    fleet.pass(LONG);
    one.reconcile().await.unwrap();
    assert_eq!(fleet.shared.stats().await.unwrap().queued, 3);
    one.queue.shutdown().await;
}

// Whatever an instance knew but did not say dies with it; the shared queue still has the job.
#[tokio::test]
async fn a_dead_instance_costs_nothing_while_the_server_lives() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.instance(), fleet.instance());
    one.push("unit").await;
    one.take("one").await;
    drop(one);
    assert_eq!(two.take("two").await, []);
    fleet.pass(LONG);
    assert_eq!(ids(&two.take("two").await), ["unit"]);
}

#[tokio::test]
async fn jobs_keep_their_age_and_deadline_through_losses() {
    let fleet = Fleet::new();
    let one = fleet.instance();
    let limited = NewJob {
        deadline_in: 3 * LONG,
        serial: JobSerial::random(),
        ..job("unit")
    };
    one.queue.push(&limited).await.unwrap();
    fleet.pass(LONG);
    let fleet = fleet.forgetful();
    let one = fleet.with_journal(one.journal);
    one.reconcile().await.unwrap();
    let view = fleet.shared.get(&id("unit")).await.unwrap().unwrap();
    assert_eq!((view.info.age, view.info.deadline_in), (LONG, 2 * LONG));
    assert!(view.info.deadline_in < LIFE_MAX);
}
