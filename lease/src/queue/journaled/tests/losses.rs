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

// A file that was a queue of its own becomes the journal of an instance that has joined a fleet.
// acceptance: G6
#[tokio::test]
async fn a_queue_becomes_a_journal_when_a_fleet_is_joined() {
    let (fleet, folder) = (Fleet::new(), Folder::new());
    let clock: Arc<dyn Clock> = Arc::new(fleet.clock.clone());
    let limits = QueueLimits::default();
    let alone = LocalQueue::open(folder.file(), limits, Arc::clone(&clock)).await;
    let owned = NewJob {
        owner: Some(Arc::from("one")),
        ..job("owned")
    };
    alone.push(&owned).await.unwrap();
    for name in ["dead", "done", "retried", "taken", "waiting"] {
        alone.push(&job(name)).await.unwrap();
    }
    for taken in alone.take("one", 10, LONG).await.unwrap() {
        let receipt = &taken.receipt;
        match taken.info.id.as_str() {
            "dead" => alone.bury(receipt, "hopeless").await.unwrap(),
            "done" => alone.ack(receipt).await.unwrap(),
            "retried" => alone.retry(receipt, LONG, "later").await.unwrap(),
            "taken" => continue,
            _ => alone.retry(receipt, Duration::ZERO, "again").await.unwrap(),
        };
    }
    alone.close().await;
    fleet.pass(Duration::from_secs(1));

    // They are done before anything was merged, and by whoever comes first after that.
    let journal = LocalQueue::open_journal(folder.file(), limits, Arc::clone(&clock)).await;
    let (one, two) = (fleet.with_journal(journal), fleet.instance());
    let first = one.queue.take("one", 1, LONG).await.unwrap();
    assert_eq!(first.len(), 1);
    one.queue.ack(&first[0].receipt).await.unwrap();
    one.reconcile().await.unwrap();
    assert_eq!(one.queue.health().restored, 0, "nothing was lost");
    let dead = fleet.shared.get(&id("dead")).await.unwrap().unwrap();
    assert!(matches!(dead.state, JobState::Dead { .. }));
    let mut seen: Vec<_> = first.iter().map(|job| job.info.id.clone()).collect();
    for (instance, name) in [(&two, "two"), (&one, "one")] {
        let taken = instance.take(name).await;
        for job in &taken {
            assert_eq!(job.info.owner.is_some(), job.info.id == id("owned"));
            instance.queue.ack(&job.receipt).await.unwrap();
        }
        seen.extend(taken.into_iter().map(|job| job.info.id));
    }
    seen.sort_unstable();
    assert_eq!(seen, ["owned", "taken", "waiting"].map(id));
    fleet.pass(LONG);
    assert_eq!(ids(&two.take("two").await), ["retried"]);
    one.queue.shutdown().await;

    // And back again: what the fleet has still to do is done here, and what it did is not.
    let alone = LocalQueue::open(folder.file(), limits, clock).await;
    assert_eq!(alone.file_health().unwrap().set_aside.len(), 0);
    fleet.pass(LONG);
    let taken = alone.take("one", 10, LONG).await.unwrap();
    assert!(ids(&taken).contains(&"retried"));
    assert!(!ids(&taken).contains(&"owned"));
    let query = JobQuery {
        dead: true,
        ..JobQuery::default()
    };
    let page = alone.list(&query).await.unwrap();
    assert_eq!(page.jobs[0].info.id, id("dead"));
    alone.close().await;
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
