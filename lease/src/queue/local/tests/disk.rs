//! What the file keeps, and what may happen to the disk.

use std::sync::atomic::Ordering::Relaxed;

use futures::future::join_all;

use super::*;
use crate::queue::stored::{StoredJob, StoredState};
use crate::testing::log;
use crate::{JobQuery, JobState};

pub(super) const LONG: Duration = Duration::from_secs(30 * 60);

pub(super) async fn open(folder: &Folder, clock: &ManualClock) -> LocalQueue {
    let clock = Arc::new(clock.clone());
    LocalQueue::open(folder.file(), QueueLimits::default(), clock).await
}

pub(super) async fn take(queue: &LocalQueue) -> Vec<TakenJob> {
    queue.take("worker", 100, LONG).await.unwrap()
}

pub(super) fn ids(jobs: &[TakenJob]) -> Vec<&str> {
    jobs.iter().map(|job| job.info.id.as_str()).collect()
}

// acceptance: G6
#[tokio::test]
async fn everything_outlives_the_process() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    let hour = Duration::from_secs(3_600);
    let late = NewJob {
        due_in: hour,
        deadline_in: 3 * hour,
        owner: Some(Arc::from("worker")),
        payload: bytes::Bytes::from_static(&[0, 0xff]),
        ..job("late")
    };
    for job in [
        &late,
        &job("acked"),
        &job("taken"),
        &job("dead"),
        &job("retried"),
    ] {
        assert_eq!(queue.push(job).await.unwrap(), Pushed::Queued);
    }
    for taken in take(&queue).await {
        match taken.info.id.as_str() {
            "acked" => queue.ack(&taken.receipt).await.unwrap(),
            "dead" => queue.bury(&taken.receipt, "hopeless").await.unwrap(),
            "retried" => queue.retry(&taken.receipt, hour, "later").await.unwrap(),
            _ => continue,
        };
    }
    queue.close().await;
    clock.advance(hour / 2);

    let queue = open(&folder, &clock).await;
    let page = queue.list(&JobQuery::default()).await.unwrap();
    let seen: Vec<_> = page.jobs.iter().map(|view| view.info.id.as_str()).collect();
    assert_eq!(seen, ["late", "retried", "taken"]);
    let view = &page.jobs[0];
    assert_eq!(view.state, JobState::Queued { due_in: hour / 2 });
    assert_eq!(
        (view.info.age, view.info.deadline_in),
        (hour / 2, hour / 2 * 5)
    );
    assert_eq!(view.info.serial, late.serial);
    let dead = queue
        .get(&JobId::new("dead").unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(dead.state, JobState::Dead { since: hour / 2 });
    assert_eq!(dead.info.last_error.as_deref(), Some("hopeless"));
    // Whoever had it is gone.
    let taken = take(&queue).await;
    assert_eq!((ids(&taken), taken[0].info.attempts), (vec!["taken"], 2));
    queue.ack(&taken[0].receipt).await.unwrap();
    clock.advance(hour / 2);
    let taken = take(&queue).await;
    assert_eq!(ids(&taken), ["late", "retried"]);
    assert_eq!(
        (&taken[0].payload, taken[0].info.owner.as_deref()),
        (&late.payload, Some("worker"))
    );
    assert_eq!(taken[1].info.last_error.as_deref(), Some("later"));
}

// What happened while a queue waited for its file to close it is the last that is written.
#[tokio::test]
async fn a_change_on_the_way_to_the_end_is_written() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    queue.push(&job("unit")).await.unwrap();
    let taken = take(&queue).await;
    let busy = Arc::clone(queue.shared.file.as_ref().unwrap());
    let busy = busy.lock_owned().await;
    let mut closing = Box::pin(queue.close());
    assert!(futures::poll!(closing.as_mut()).is_pending());
    let mut ack = Box::pin(queue.ack(&taken[0].receipt));
    assert!(futures::poll!(ack.as_mut()).is_pending());
    drop(ack);
    drop(busy);
    closing.await;
    assert_eq!(take(&open(&folder, &clock).await).await, []);
}

// Nothing waits for ever because somebody set the clock.
#[tokio::test]
async fn a_wall_clock_that_jumps_stalls_nothing() {
    let year = Duration::from_secs(365 * 24 * 3_600);
    for (name, jump) in [("back", -1), ("forth", 1), ("not at all", 0)] {
        let (folder, clock) = (Folder::new(), ManualClock::new());
        let queue = open(&folder, &clock).await;
        let due_in = Duration::from_secs(60);
        queue
            .push(&NewJob {
                due_in,
                ..job("soon")
            })
            .await
            .unwrap();
        queue
            .push(&NewJob {
                due_in: LONG,
                ..job("later")
            })
            .await
            .unwrap();
        let jumped = match jump {
            -1 => clock.wall() - year,
            1 => clock.wall() + year,
            _ => clock.wall(),
        };
        // While it runs, only the monotonic clock counts.
        clock.set_wall(jumped);
        assert_eq!(take(&queue).await, []);
        assert_eq!(queue.next_due("worker").await.unwrap(), Some(due_in));
        queue.close().await;
        let queue = open(&folder, &clock).await;
        let next = queue.next_due("worker").await.unwrap().unwrap();
        assert!(next <= due_in, "{name}: {next:?}");
        clock.advance(due_in);
        assert!(ids(&take(&queue).await).contains(&"soon"), "{name}");
        clock.advance(LONG);
        let page = queue.list(&JobQuery::default()).await.unwrap();
        assert_eq!(page.jobs.len(), 2, "{name}");
    }
}

#[tokio::test]
async fn concurrent_pushes_share_their_writes() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    let disk = queue.disk().await;
    let before = disk.syncs.load(Relaxed);
    let jobs: Vec<_> = (0..500).map(|n| job(&format!("unit{n}"))).collect();
    let answers = join_all(jobs.iter().map(|job| queue.push(job))).await;
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Ok(Pushed::Queued)))
    );
    let syncs = disk.syncs.load(Relaxed) - before;
    assert!(syncs < 50, "{syncs} for 500 jobs");
    queue.close().await;
    assert_eq!(take(&open(&folder, &clock).await).await.len(), 100);
}

// acceptance: G6
#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_a_new_one_begun() {
    log::keep();
    let (folder, clock) = (Folder::new(), ManualClock::new());
    std::fs::write(folder.file(), "this was a queue once").unwrap();
    let queue = open(&folder, &clock).await;
    let health = queue.file_health().unwrap();
    assert_eq!(health.last_error, None);
    let aside = &health.set_aside[0];
    assert_eq!(std::fs::read(aside).unwrap(), b"this was a queue once");
    let told = log::warnings_with(&[&folder.file().display().to_string()]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&*aside.to_string_lossy()), "{told:?}");
    queue.push(&job("unit")).await.unwrap();
    queue.close().await;
    assert_eq!(ids(&take(&open(&folder, &clock).await).await), ["unit"]);
}

// acceptance: G6
#[tokio::test]
async fn a_file_that_is_damaged_meanwhile_is_written_anew() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    queue.push(&job("before")).await.unwrap();
    let disk = queue.disk().await;
    disk.read_only.store(true, Relaxed);
    queue.push(&job("refused")).await.unwrap_err();
    disk.read_only.store(false, Relaxed);
    // It is closed now; whoever has the disk writes something else there.
    std::fs::write(folder.file(), "not any more").unwrap();
    clock.advance(REOPEN_EVERY);
    queue.push(&job("after")).await.unwrap();
    assert_eq!(queue.file_health().unwrap().set_aside.len(), 1);
    queue.close().await;
    let queue = open(&folder, &clock).await;
    assert_eq!(ids(&take(&queue).await), ["before", "after"]);
}

// A job that an older version wrote, with fewer fields, is done like any other.
// acceptance: G6
#[tokio::test]
async fn jobs_of_an_older_version_are_read() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let mut file = QueueFile::new(folder.file());
    file.open(Duration::ZERO).unwrap();
    let older = StoredJob::read(br#"{"id":"older","kind":"fill","payload":"p"}"#).unwrap();
    let odd = StoredJob::read(br#"{"id":"odd","kind":"Not A Word"}"#).unwrap();
    file.write(&[(3, Some(older)), (4, Some(odd))]).unwrap();
    file.close();
    let queue = open(&folder, &clock).await;
    let taken = take(&queue).await;
    assert_eq!(
        (ids(&taken), &taken[0].payload[..]),
        (vec!["older"], &b"p"[..])
    );
    queue.push(&job("new")).await.unwrap();
    queue.close().await;
    // What could not be read is there for whoever can.
    let mut file = QueueFile::new(folder.file());
    let jobs = file.open(Duration::ZERO).unwrap().jobs;
    let odd = jobs.iter().find(|(seq, _)| *seq == 4).unwrap();
    assert_eq!((&*odd.1.id, odd.1.state), ("odd", StoredState::Queued));
}

// Nor is it written over, or cleared away, whatever happens to the file.
#[tokio::test]
async fn what_means_nothing_to_this_version_stays() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let mut file = QueueFile::new(folder.file());
    file.open(Duration::ZERO).unwrap();
    let odd = StoredJob::read(br#"{"id":"odd","kind":"Not A Word"}"#).unwrap();
    file.write(&[(1, Some(odd))]).unwrap();
    file.put_bytes(2, b"\xff");
    file.close();
    let queue = open(&folder, &clock).await;
    for id in ["first", "second"] {
        queue.push(&job(id)).await.unwrap();
    }
    let disk = queue.disk().await;
    disk.read_only.store(true, Relaxed);
    queue.push(&job("refused")).await.unwrap_err();
    disk.read_only.store(false, Relaxed);
    clock.advance(REOPEN_EVERY);
    queue.push(&job("third")).await.unwrap();
    queue.close().await;
    let mut file = QueueFile::new(folder.file());
    let there = file.open(Duration::ZERO).unwrap();
    let ids: Vec<_> = there.jobs.iter().map(|(_, job)| &*job.id).collect();
    assert_eq!(ids, ["odd", "first", "second", "third"]);
    assert_eq!(file.bytes(2).unwrap(), b"\xff");
}

// Pushes that keep coming share their writes too, rather than each writing for the next.
#[tokio::test]
async fn pushes_from_many_tasks_share_their_writes() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    let disk = queue.disk().await;
    let before = disk.syncs.load(Relaxed);
    let pushing = (0..50).map(|task| {
        let queue = &queue;
        async move {
            for n in 0..20 {
                let pushed = queue.push(&job(&format!("unit{task}-{n}"))).await;
                assert_eq!(pushed.unwrap(), Pushed::Queued);
            }
        }
    });
    join_all(pushing).await;
    let syncs = disk.syncs.load(Relaxed) - before;
    assert!(syncs < 300, "{syncs} for 1000 jobs of 50 tasks");
}

// A push that was cancelled while it was written is there, or will be, or never was.
#[tokio::test]
async fn a_cancelled_push_blocks_nothing() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    for n in 0..50 {
        let job = job(&format!("unit{n:02}"));
        let mut push = Box::pin(queue.push(&job));
        for _ in 0..n % 4 {
            assert!(futures::poll!(push.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        drop(push);
        // Whatever became of it, the next one knows.
        let again = queue.push(&job).await.unwrap();
        assert!(matches!(
            again,
            Pushed::Queued | Pushed::AlreadyQueued { .. }
        ));
    }
    assert_eq!(take(&queue).await.len(), 50);
}

// As many as there may be: they all get in, and they all get out.
#[tokio::test]
async fn a_full_queue_is_drained() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    let jobs: Vec<_> = (0..10_000).map(|n| job(&format!("unit{n}"))).collect();
    for some in jobs.chunks(1_000) {
        let answers = join_all(some.iter().map(|job| queue.push(job))).await;
        let queued = |answer: &Result<Pushed, LeaseError>| matches!(answer, Ok(Pushed::Queued));
        assert!(answers.iter().all(queued));
    }
    assert_eq!(queue.push(&job("one more")).await.unwrap(), Pushed::Full);
    queue.close().await;
    let queue = open(&folder, &clock).await;
    let mut done = 0;
    loop {
        let taken = take(&queue).await;
        if taken.is_empty() {
            break;
        }
        done += taken.len();
        for answer in join_all(taken.iter().map(|job| queue.ack(&job.receipt))).await {
            assert_eq!(answer.unwrap(), Settled::Settled);
        }
    }
    assert_eq!(done, 10_000);
    assert_eq!(queue.stats().await.unwrap(), QueueStats::default());
}
