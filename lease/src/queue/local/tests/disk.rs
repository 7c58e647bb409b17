//! What the file keeps, and what may happen to the disk.

use std::sync::atomic::Ordering::Relaxed;

use futures::future::join_all;

use super::*;
use crate::queue::stored::{StoredJob, StoredState};
use crate::testing::log;
use crate::{JobQuery, JobState};

const LONG: Duration = Duration::from_secs(30 * 60);

async fn open(folder: &Folder, clock: &ManualClock) -> LocalQueue {
    let clock = Arc::new(clock.clone());
    LocalQueue::open(folder.file(), QueueLimits::default(), clock).await
}

async fn take(queue: &LocalQueue) -> Vec<TakenJob> {
    queue.take("worker", 100, LONG).await.unwrap()
}

fn ids(jobs: &[TakenJob]) -> Vec<&str> {
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

// A full disk costs new jobs only, and they say so.
// acceptance: G6; fault: 34
#[tokio::test]
async fn a_full_disk_refuses_new_jobs_and_loses_none() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    for id in ["acked", "retried", "waiting"] {
        queue.push(&job(id)).await.unwrap();
    }
    let disk = queue.disk().await;
    log::keep();
    disk.read_only.store(true, Relaxed);
    let jobs: Vec<_> = (0..20).map(|n| job(&format!("new{n}"))).collect();
    for answer in join_all(jobs.iter().map(|job| queue.push(job))).await {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), crate::LeaseErrorKind::Unavailable);
    }
    let why = queue.file_health().unwrap().last_error.unwrap();
    assert!(why.contains("read-only"), "{why}");
    let told = log::warnings_with(&[&folder.file().display().to_string()]);
    assert_eq!(told.len(), 1, "{told:?}");
    // A refused job is not there, and may be pushed again when there is room.
    let page = queue.list(&JobQuery::default()).await.unwrap();
    assert_eq!(page.jobs.len(), 3);
    for taken in take(&queue).await {
        match taken.info.id.as_str() {
            "acked" => queue.ack(&taken.receipt).await.unwrap(),
            "retried" => queue.retry(&taken.receipt, LONG, "later").await.unwrap(),
            _ => continue,
        };
    }
    disk.read_only.store(false, Relaxed);
    clock.advance(REOPEN_EVERY);
    assert_eq!(queue.push(&job("new0")).await.unwrap(), Pushed::Queued);
    assert_eq!(queue.file_health().unwrap().last_error, None);
    queue.close().await;
    // What happened meanwhile is on disk by now.
    let queue = open(&folder, &clock).await;
    let page = queue.list(&JobQuery::default()).await.unwrap();
    let seen: Vec<_> = page.jobs.iter().map(|view| view.info.id.as_str()).collect();
    assert_eq!(seen, ["new0", "retried", "waiting"]);
    assert_eq!(page.jobs[1].info.last_error.as_deref(), Some("later"));
}

// fault: 34
#[tokio::test]
async fn a_disk_that_cannot_grow_or_sync_is_no_different() {
    for fault in ["full", "cannot sync"] {
        let (folder, clock) = (Folder::new(), ManualClock::new());
        let queue = open(&folder, &clock).await;
        queue.push(&job("kept")).await.unwrap();
        let disk = queue.disk().await;
        let flag = match fault {
            "full" => &disk.full,
            _ => &disk.cannot_sync,
        };
        flag.store(true, Relaxed);
        let (mut taken_in, mut refused) = (Vec::new(), 0);
        for n in 0..200 {
            let big = NewJob {
                payload: bytes::Bytes::from(vec![b'x'; 60_000]),
                ..job(&format!("new{n:03}"))
            };
            match queue.push(&big).await {
                Ok(_) => taken_in.push(big.id),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0, "{fault}");
        flag.store(false, Relaxed);
        clock.advance(REOPEN_EVERY);
        queue.push(&job("again")).await.unwrap();
        drop(queue);
        drop(disk);
        // As after a kill: whatever was acknowledged is there.
        let queue = reopened(&folder, &clock).await;
        for id in taken_in.iter().map(JobId::as_str).chain(["kept", "again"]) {
            let id = JobId::new(id).unwrap();
            assert!(queue.get(&id).await.unwrap().is_some(), "{fault}: {id}");
        }
    }
}

/// Opens a file whose last user may still be closing it.
async fn reopened(folder: &Folder, clock: &ManualClock) -> LocalQueue {
    let queue = open(folder, clock).await;
    let open = || queue.file_health().unwrap().last_error.is_none();
    for _ in 0..100 {
        if open() {
            break;
        }
        tokio::task::yield_now().await;
        clock.advance(REOPEN_EVERY);
        queue.flush().await;
    }
    assert!(open());
    queue
}

#[tokio::test]
async fn a_file_that_is_in_use_is_waited_for() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let first = open(&folder, &clock).await;
    first.push(&job("first")).await.unwrap();
    let second = open(&folder, &clock).await;
    assert!(second.push(&job("second")).await.is_err());
    assert!(second.push(&job("first")).await.is_err());
    assert_eq!(take(&second).await, []);
    first.close().await;
    assert!(first.push(&job("third")).await.is_err());
    assert_eq!(
        second.push(&job("second")).await.unwrap_err().kind(),
        crate::LeaseErrorKind::Unavailable,
        "it is not tried all the time"
    );
    clock.advance(REOPEN_EVERY);
    let there = second.push(&job("first")).await.unwrap();
    assert!(matches!(there, Pushed::AlreadyQueued { .. }), "{there:?}");
    assert_eq!(second.push(&job("second")).await.unwrap(), Pushed::Queued);
    assert_eq!(ids(&take(&second).await), ["first", "second"]);
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

// Opening it again means reading all of it: not for each of thousands of jobs that find no room.
// fault: 34
#[tokio::test]
async fn a_refused_write_is_not_tried_all_the_time() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    let disk = queue.disk().await;
    disk.cannot_sync.store(true, Relaxed);
    let before = disk.opens.load(Relaxed);
    for n in 0..20 {
        queue.push(&job(&format!("unit{n}"))).await.unwrap_err();
        assert_eq!(take(&queue).await, []);
    }
    assert_eq!(disk.opens.load(Relaxed) - before, 0);
    clock.advance(REOPEN_EVERY);
    queue.push(&job("unit")).await.unwrap_err();
    disk.cannot_sync.store(false, Relaxed);
    clock.advance(REOPEN_EVERY);
    queue.push(&job("unit")).await.unwrap();
    assert_eq!(disk.opens.load(Relaxed) - before, 2);
}

// What is on disk need not be written again when the file is opened again: there may be no room.
#[tokio::test]
async fn a_file_that_is_opened_again_learns_only_what_it_lacks() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let queue = open(&folder, &clock).await;
    let jobs: Vec<_> = (0..50).map(|n| job(&format!("unit{n}"))).collect();
    join_all(jobs.iter().map(|job| queue.push(job))).await;
    let disk = queue.disk().await;
    disk.cannot_sync.store(true, Relaxed);
    queue.push(&job("refused")).await.unwrap_err();
    disk.cannot_sync.store(false, Relaxed);
    clock.advance(REOPEN_EVERY);
    queue.reopen().await;
    let writes = queue.core().begin_write(queue.now(), 0).writes.len();
    assert!(writes <= 1, "{writes} for one job that was refused");
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

// The file is read by the first call that can open it, and may have a job of that call's id.
#[tokio::test]
async fn a_push_that_finds_the_file_at_last_is_answered_by_what_is_there() {
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let first = open(&folder, &clock).await;
    for id in ["dead", "waiting"] {
        first.push(&job(id)).await.unwrap();
    }
    let taken = take(&first).await;
    first.bury(&taken[0].receipt, "e").await.unwrap();
    let serial = taken[0].info.serial;
    let second = open(&folder, &clock).await;
    let third = open(&folder, &clock).await;
    first.close().await;
    clock.advance(REOPEN_EVERY);
    let pushed = second.push(&job("dead")).await.unwrap();
    assert_eq!(pushed, Pushed::Dead { serial });
    second.close().await;
    clock.advance(REOPEN_EVERY);
    let new = job("waiting");
    let pushed = third.push(&new).await.unwrap();
    assert_eq!(pushed, Pushed::AlreadyQueued { serial: new.serial });
}

// acceptance: G6
#[tokio::test]
async fn a_folder_that_cannot_be_used_stops_nothing() {
    log::keep();
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let inside = folder.path().join("folder");
    std::fs::write(&inside, "no folder yet").unwrap();
    let path = inside.join("queue.redb");
    let limits = QueueLimits::default();
    let queue = LocalQueue::open(path.clone(), limits, Arc::new(clock.clone())).await;
    for _ in 0..3 {
        queue.push(&job("unit")).await.unwrap_err();
        assert_eq!(take(&queue).await, []);
        clock.advance(REOPEN_EVERY);
    }
    let told = log::warnings_with(&[&path.display().to_string()]);
    assert_eq!(told.len(), 1, "{told:?}");
    std::fs::remove_file(inside).unwrap();
    assert_eq!(queue.push(&job("unit")).await.unwrap(), Pushed::Queued);
    assert_eq!(ids(&take(&queue).await), ["unit"]);
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
