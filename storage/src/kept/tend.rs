//! The task that tends to what is kept: takes it up after a restart, and sees to it that each has
//! its job, and others know where it is.

use std::sync::Arc;
use std::time::Duration;

use super::Entry;
use super::notes::TakenUp;
use crate::error::Error;
use crate::retry::{Job, JobKind};
use crate::warmer::Core;

/// How often every entry's job is looked at.
const TEND_EVERY: Duration = Duration::from_secs(30);

/// Every how many times its record is renewed, which lasts several times as long.
const RECORDS_EVERY: u32 = 3;

/// Tends to what `core` keeps, for ever.
pub(crate) async fn tend(core: Arc<Core>) {
    let found = core.kept.load(core.clock.wall()).await;
    if found > 0 {
        core.metrics.kept.count_many("recovered", found as u64);
        tracing::info!(found, "an earlier run kept what the storage did not take");
    }
    // Reading everything once may take long, and records must be renewed meanwhile.
    tokio::join!(see_to_all(&core), look_through(&core));
}

/// Sees to the jobs and records of all entries, and to what was lost, for ever.
async fn see_to_all(core: &Core) {
    let mut rounds = 0_u32;
    let mut all_due = core.clock.now();
    loop {
        fetch_lost(core).await;
        let all = core.clock.now() >= all_due;
        let records = all && rounds.is_multiple_of(RECORDS_EVERY);
        if all {
            all_due = core.clock.now() + TEND_EVERY;
            rounds = rounds.wrapping_add(1);
        }
        for entry in core.kept.idle_entries() {
            if all || !entry.has_job() {
                see_to_job(core, &entry).await;
            }
            if records && entry.is_served() {
                core.write_spooled(&entry).await;
            }
        }
        let pause = all_due.saturating_duration_since(core.clock.now());
        tokio::select! {
            () = core.kept.shelf.news.notified() => {}
            () = core.clock.sleep(pause) => {}
        }
    }
}

/// Takes up the notes that were left, one after the other, and checks what an earlier process kept;
/// for ever.
async fn look_through(core: &Core) {
    loop {
        while let Some(taken) = core.kept.take_up_note(core.clock.wall()).await {
            match taken {
                TakenUp::Kept(label) => {
                    core.metrics.kept.count(label);
                    core.kept.shelf.news.notify_one();
                }
                TakenUp::NoRoom(key, reason) => core.not_kept(&key, &reason).await,
                TakenUp::Nothing => {}
            }
        }
        for entry in core.kept.idle_entries() {
            core.kept.is_whole(&entry).await;
        }
        core.kept.shelf.left_news.notified().await;
    }
}

/// Has what was lost fetched again.
async fn fetch_lost(core: &Core) {
    for key in core.kept.take_lost() {
        core.metrics.kept.count("lost");
        let error = Error::Corrupt {
            unit: key.unit(),
            reason: "its kept bytes are damaged".to_owned(),
        };
        core.retries.push_fetch(&key, &error).await;
    }
}

/// Makes sure that an entry has a job of ours that uploads it. One whose job is gone, because an
/// operator dropped it, is given up.
async fn see_to_job(core: &Core, entry: &Arc<Entry>) {
    let job = Job {
        kind: JobKind::Upload,
        key: entry.key().clone(),
    };
    let Ok(id) = job.id() else { return };
    let queue = core.retries.queue();
    let known = match queue.get(&id).await {
        Ok(known) => known,
        // Asked again in a while.
        Err(_) => return,
    };
    match known {
        Some(job) if job.info.owner.as_ref() == Some(core.retries.worker()) => {
            entry.set_has_job(true);
        }
        Some(_) => {
            // From a time when this directory had another name: nobody would ever take it.
            let _ = queue.drop_job(&id).await;
            core.push_upload(entry).await;
        }
        None if !entry.has_job() => core.push_upload(entry).await,
        // An upload that succeeded has taken the entry away before its job.
        None if core.kept.has(entry) => {
            tracing::warn!(
                unit = %entry.key(),
                "the job of kept bytes was dropped, so they are removed"
            );
            core.metrics.kept.count("dropped");
            core.kept.remove(entry).await;
            core.forget_spooled(entry).await;
        }
        None => {}
    }
}
