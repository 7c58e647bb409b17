//! A disk, or a file system, that refuses.

use std::sync::atomic::Ordering::Relaxed;

use futures::future::join_all;

use super::disk::{LONG, ids, open, take};
use super::*;
use crate::JobQuery;
use crate::testing::log;

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

// Operators hear where the damaged file went although there is no room for another.
// acceptance: G6; fault: 34
#[tokio::test]
async fn a_damaged_file_on_a_full_disk_is_moved_aside_once_and_told() {
    log::keep();
    let (folder, clock) = (Folder::new(), ManualClock::new());
    let first = open(&folder, &clock).await;
    // Whose file it is until then, the second cannot even see that it is damaged.
    let second = open(&folder, &clock).await;
    first.close().await;
    std::fs::write(folder.file(), "this was a queue once").unwrap();
    second.disk().await.no_room.store(true, Relaxed);
    for _ in 0..3 {
        clock.advance(REOPEN_EVERY);
        second.push(&job("unit")).await.unwrap_err();
        let health = second.file_health().unwrap();
        assert!(health.last_error.is_some());
        assert_eq!(health.set_aside.len(), 1);
        assert_eq!(folder.names().len(), 2);
    }
    let path = folder.file().display().to_string();
    let told = log::warnings_with(&[&path, "moved aside"]);
    assert_eq!(told.len(), 1, "{told:?}");
    second.disk().await.no_room.store(false, Relaxed);
    clock.advance(REOPEN_EVERY);
    assert_eq!(second.push(&job("unit")).await.unwrap(), Pushed::Queued);
    assert_eq!(second.file_health().unwrap().set_aside.len(), 1);
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
