//! `LocalQueue`: the delay queue of one process, in memory or with a file that outlives it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::answers::{
    Changed, JobPage, JobQuery, JobView, Pushed, QueueStats, Restored, Review, Settled,
};
use super::core::{Core, Memory, Serving};
use super::delay_queue::DelayQueue;
use super::file::{FileError, QueueFile};
use super::job::{
    Backup, DoneJob, JobId, JobRef, LIFE_MAX, NewJob, QueueLimits, Receipt, TakenJob, check_name,
};
use super::stored::Role;
use crate::error::with_causes;
use crate::sync::lock;
use crate::{Clock, LeaseError, PAGE_LIMIT_MAX};

/// The least time between two attempts to open a file that could not be opened or written.
const REOPEN_EVERY: Duration = Duration::from_secs(1);
/// How often a push is put in whose place another job of its id takes while it is written.
const PUSHES_MAX: usize = 3;

/// The delay queue of one process. Clones share everything.
///
/// With a file, a push is answered once the job is on disk, and concurrent pushes share one write.
/// Everything else takes effect in memory at once and is written with it; where the disk refuses
/// that, it is owed and written later, so a full disk costs new jobs only, and a process that is
/// killed then may do some jobs once more. While the file cannot be opened at all, pushes fail, and
/// each call tries it again after a second. Time is counted on the monotonic clock; only what was
/// written down is read by the wall clock, and no job waits longer than it once had to.
#[derive(Debug, Clone)]
pub struct LocalQueue {
    shared: Arc<Shared>,
}

/// How the file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHealth {
    /// Where it is.
    pub path: PathBuf,
    /// Why it could not be opened or written last; `None` when it could.
    pub last_error: Option<String>,
    /// Where damaged files, or those of a newer version, were moved to since the start.
    pub set_aside: Vec<PathBuf>,
}

#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    clock: Arc<dyn Clock>,
    start: Instant,
    file: Option<Arc<AsyncMutex<FileState>>>,
    health: Mutex<Option<FileHealth>>,
}

#[derive(Debug)]
struct FileState {
    file: QueueFile,
    tried: Option<Instant>,
    closed: bool,
}

impl LocalQueue {
    /// Makes an empty queue in memory, which ends with the process.
    pub fn in_memory(limits: QueueLimits, clock: Arc<dyn Clock>) -> Self {
        Self::new(None, limits, Memory::Over, clock)
    }

    /// Makes an empty journal of a shared queue in memory, which ends with the process.
    pub fn journal_in_memory(limits: QueueLimits, clock: Arc<dyn Clock>) -> Self {
        Self::new(None, limits, Memory::Owed, clock)
    }

    /// Opens the queue in the file at `path`; makes folder and file where there are none.
    ///
    /// A file that is damaged or was written by a newer version is moved aside, with one line in
    /// the log. A file that cannot be used otherwise makes pushes fail until it can; see
    /// [`file_health`](Self::file_health).
    pub async fn open(
        path: impl Into<PathBuf>,
        limits: QueueLimits,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let queue = Self::new(Some(path.into()), limits, Memory::Nothing, clock);
        queue.flush().await;
        queue
    }

    /// As [`open`](Self::open), for the journal of a shared queue: remembers what the shared queue
    /// must be told.
    pub async fn open_journal(
        path: impl Into<PathBuf>,
        limits: QueueLimits,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let queue = Self::new(Some(path.into()), limits, Memory::Owed, clock);
        queue.flush().await;
        queue
    }

    fn new(
        path: Option<PathBuf>,
        limits: QueueLimits,
        memory: Memory,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let health = path.clone().map(|path| FileHealth {
            path,
            last_error: None,
            set_aside: Vec::new(),
        });
        let file = path.map(|path| {
            Arc::new(AsyncMutex::new(FileState {
                file: QueueFile::new(path),
                tried: None,
                closed: false,
            }))
        });
        Self {
            shared: Arc::new(Shared {
                core: Mutex::new(Core::new(limits, memory, file.is_some())),
                start: clock.now(),
                clock,
                file,
                health: Mutex::new(health),
            }),
        }
    }

    /// Returns how the file is; `None` for a queue in memory. Costs no I/O.
    pub fn file_health(&self) -> Option<FileHealth> {
        lock(&self.shared.health).clone()
    }

    /// Writes what is owed and closes the file, so that another process may open it. Pushes fail
    /// from then on.
    pub async fn close(&self) {
        self.flush().await;
        let Some(file) = &self.shared.file else {
            return;
        };
        let mut state = Arc::clone(file).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        let closing = tokio::task::spawn_blocking(move || {
            if lock(&shared.core).wants_file() {
                // What changed while we waited for the file; nobody can write it after us.
                shared.write(&mut state);
            }
            state.closed = true;
            state.file.close();
        });
        // It fails only when the runtime ends, which closes the file too.
        let _ = closing.await;
        if let Some(health) = &mut *lock(&self.shared.health) {
            health.last_error = Some("it was closed".to_owned());
        }
    }

    /// Returns what tests break the disk with.
    #[cfg(test)]
    pub(super) async fn disk(&self) -> Arc<super::file::faults::Disk> {
        let file = self.shared.file.as_ref().expect("a queue with a file");
        Arc::clone(file.lock().await.file.disk())
    }

    /// Opens the file again without writing to it.
    #[cfg(test)]
    pub(super) async fn reopen(&self) {
        let file = self.shared.file.as_ref().expect("a queue with a file");
        let mut state = Arc::clone(file).lock_owned().await;
        assert!(self.shared.open(&mut state));
    }

    /// Returns the queue's data, for a journal.
    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.shared.core)
    }

    /// Returns the time on the core's clock.
    pub(super) fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Writes what has changed. Cancelling it leaves the write to itself.
    pub(super) async fn flush(&self) {
        let Some(file) = &self.shared.file else {
            return;
        };
        let (change, owed) = {
            let core = self.core();
            if !core.wants_file() {
                return;
            }
            let change = core.changes();
            (change, core.is_settled(change))
        };
        let mut state = Arc::clone(file).lock_owned().await;
        // Whoever had the file before may have written this too. What came since is for those to
        // write who wait behind: were it written here, every write would carry one change.
        let done = {
            let core = self.core();
            match owed {
                true => !core.is_behind(),
                false => core.is_settled(change),
            }
        };
        if done {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let written = tokio::task::spawn_blocking(move || shared.write(&mut state)).await;
        if let Err(error) = written {
            // The runtime is ending, or our own code panicked: nothing was promised to anybody.
            tracing::debug!(%error, "the queue's file was not written");
        }
    }

    /// Takes some of the jobs that are due.
    pub(super) async fn take_as(
        &self,
        worker: &str,
        limit: usize,
        visibility: Duration,
        serving: Serving,
    ) -> Vec<TakenJob> {
        // What a cancelled push left behind, or a disk that was full.
        self.flush().await;
        let jobs = self
            .core()
            .take(self.now(), worker, limit, visibility, serving);
        if !jobs.is_empty() {
            // The attempt counts, even if the job ends this process.
            self.flush().await;
        }
        jobs
    }

    /// Pushes in a given role, which only a journal has.
    pub(super) async fn push_as(&self, job: &NewJob, role: Role) -> Result<Pushed, LeaseError> {
        job.check()?;
        for _ in 0..PUSHES_MAX {
            let (pushed, arrival) = {
                let mut core = self.core();
                let pushed = core.push(self.now(), job, role);
                (pushed, core.arrival(&job.id))
            };
            self.flush().await;
            let Some(arrival) = arrival else {
                return Ok(pushed);
            };
            match arrival.get() {
                Some(true) => return Ok(pushed),
                Some(false) => break,
                None => match self.core().mirror(&job.id) {
                    // The file, which was read only now, had a job of this id; or another push
                    // took the place of this one.
                    Some(there) if there.job.serial != job.serial => {}
                    Some(_) => break,
                    // An operator dropped it.
                    None => return Ok(pushed),
                },
            }
        }
        let health = self.file_health();
        let why = health.and_then(|health| health.last_error);
        Err(LeaseError::Unavailable {
            doing: format!("write job {:?} to disk", job.id.as_str()),
            source: why.map(Into::into),
        })
    }
}

impl Shared {
    fn now(&self) -> u64 {
        // Far enough from zero that every age lies after it.
        let base = 2 * u64::try_from(LIFE_MAX.as_millis()).unwrap_or(0);
        let passed = self.clock.now().saturating_duration_since(self.start);
        base + u64::try_from(passed.as_millis()).unwrap_or(0)
    }

    fn wall(&self) -> Duration {
        let since = self.clock.wall().duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default()
    }

    fn wall_ms(&self) -> u64 {
        u64::try_from(self.wall().as_millis()).unwrap_or(u64::MAX)
    }

    /// Brings the file up to date, with whoever waits behind `state` meanwhile.
    fn write(&self, state: &mut FileState) {
        let opened = state.file.is_open() || self.open(state);
        let batch = lock(&self.core).begin_write(self.now(), self.wall_ms());
        let written = match opened {
            true if batch.writes.is_empty() => Ok(()),
            true => state.file.write(&batch.writes),
            false => {
                lock(&self.core).end_write(batch, false);
                return;
            }
        };
        if written.is_err() {
            // To open it again is to read all of it, which not every refused push is worth.
            state.tried = Some(self.clock.now());
        }
        lock(&self.core).end_write(batch, written.is_ok());
        self.report(state, written);
    }

    /// Opens the file, and reads it if that was not done yet.
    fn open(&self, state: &mut FileState) -> bool {
        let now = self.clock.now();
        let recently = |tried: Instant| now.saturating_duration_since(tried) < REOPEN_EVERY;
        if state.closed || state.tried.is_some_and(recently) {
            return false;
        }
        state.tried = Some(now);
        let opened = state.file.open(self.wall());
        if let Some((aside, reason)) = state.file.take_set_aside() {
            let path = state.file.path().display();
            tracing::warn!(
                queue.file = %path,
                queue.set_aside = %aside.display(),
                reason,
                "the queue's file was not usable and was moved aside; a new one is begun",
            );
            if let Some(health) = &mut *lock(&self.health) {
                health.set_aside.push(aside);
            }
        }
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.report(state, Err(error));
                return false;
            }
        };
        state.tried = None;
        let path = state.file.path().display();
        let mut core = lock(&self.core);
        core.pass_over(&opened.unreadable);
        if core.is_loaded() {
            core.complete(&opened.jobs);
            return true;
        }
        let odd = core.load(opened.jobs, self.now(), self.wall_ms());
        drop(core);
        let unreadable = opened.unreadable.len() + odd;
        if unreadable > 0 {
            tracing::warn!(
                queue.file = %path,
                queue.unreadable = unreadable,
                "some jobs in the queue's file mean nothing to this version; they stay in the file",
            );
        }
        true
    }

    /// Keeps why the file cannot be used, and says so once.
    fn report(&self, state: &FileState, result: Result<(), FileError>) {
        let mut health = lock(&self.health);
        let Some(health) = &mut *health else {
            return;
        };
        let path = state.file.path().display();
        match result {
            Ok(()) => {
                if health.last_error.take().is_some() {
                    tracing::info!(queue.file = %path, "the queue's file can be written again");
                }
            }
            Err(error) => {
                let text = with_causes(&error);
                if health.last_error.is_none() {
                    tracing::warn!(
                        queue.file = %path,
                        error = &error as &dyn std::error::Error,
                        "the queue's file cannot be used; new jobs are refused until it can",
                    );
                }
                health.last_error = Some(text);
            }
        }
    }
}

#[async_trait]
impl DelayQueue for LocalQueue {
    async fn push(&self, job: &NewJob) -> Result<Pushed, LeaseError> {
        self.push_as(job, Role::Own).await
    }

    async fn take(
        &self,
        worker: &str,
        limit: usize,
        visibility: Duration,
    ) -> Result<Vec<TakenJob>, LeaseError> {
        check_name(worker)?;
        let jobs = self.take_as(worker, limit, visibility, Serving::All);
        Ok(jobs.await)
    }

    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<Settled, LeaseError> {
        Ok(self.core().extend(self.now(), receipt, visibility))
    }

    async fn ack(&self, receipt: &Receipt) -> Result<Settled, LeaseError> {
        let settled = self.core().ack(self.now(), receipt);
        self.flush().await;
        Ok(settled)
    }

    async fn retry(
        &self,
        receipt: &Receipt,
        due_in: Duration,
        error: &str,
    ) -> Result<Settled, LeaseError> {
        let settled = self.core().retry(self.now(), receipt, due_in, error);
        self.flush().await;
        Ok(settled)
    }

    async fn bury(&self, receipt: &Receipt, error: &str) -> Result<Settled, LeaseError> {
        let settled = self.core().bury(self.now(), receipt, error);
        self.flush().await;
        Ok(settled)
    }

    async fn next_due(&self, worker: &str) -> Result<Option<Duration>, LeaseError> {
        check_name(worker)?;
        // A worker asks this before it takes anything: a file that could not be opened must not
        // wait for the next push to be read.
        self.flush().await;
        Ok(self.core().next_due(self.now(), worker, Serving::All))
    }

    async fn stats(&self) -> Result<QueueStats, LeaseError> {
        Ok(self.core().stats(self.now(), |_| true))
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage, LeaseError> {
        Ok(self.core().list(self.now(), query, |_| true))
    }

    async fn get(&self, id: &JobId) -> Result<Option<JobView>, LeaseError> {
        Ok(self.core().get(self.now(), id))
    }

    async fn run_now(&self, id: &JobId) -> Result<Changed, LeaseError> {
        let changed = self.core().run_now(self.now(), id);
        self.flush().await;
        Ok(changed)
    }

    async fn drop_job(&self, id: &JobId) -> Result<Changed, LeaseError> {
        let changed = self.core().drop_job(self.now(), id);
        self.flush().await;
        Ok(changed)
    }

    async fn requeue(&self, id: &JobId) -> Result<Changed, LeaseError> {
        let changed = self.core().requeue(self.now(), id);
        self.flush().await;
        Ok(changed)
    }

    async fn review(&self, refs: &[JobRef]) -> Result<Vec<Review>, LeaseError> {
        let (mut core, now) = (self.core(), self.now());
        let refs = refs.iter().take(PAGE_LIMIT_MAX);
        Ok(refs.map(|job| core.review(now, job)).collect())
    }

    async fn restore(&self, backup: &Backup) -> Result<Restored, LeaseError> {
        backup.job.check()?;
        let restored = self.core().restore(self.now(), backup);
        self.flush().await;
        Ok(restored)
    }

    async fn finish(&self, done: &[DoneJob]) -> Result<(), LeaseError> {
        {
            let (mut core, now) = (self.core(), self.now());
            for done in done.iter().take(PAGE_LIMIT_MAX) {
                core.finish(now, done);
            }
        }
        self.flush().await;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
