//! What the store did not take: verified bytes that outlive the process until they are uploaded.
//!
//! A directory that a restart finds again ([`crate::StateDir`]), with a file for the bytes and a
//! small index for each artifact. Invariants:
//! - Whoever relies on kept bytes does so after both files are durable.
//! - What was kept by an earlier process is served only after its length and hash were checked.
//! - Bytes that a client has in whole are noted here until the store has them.
//! - Nothing that cannot be read is deleted: it is set aside under another name, or stays where the
//!   error may pass.
//! - Kept bytes count against the spool's budget, and nothing is kept beyond their share of it; what
//!   a restart finds stays, whether or not it fits.
//!
//! Source: ADR-0014.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use lease::LeaseToken;
use tokio::sync::{Notify, OnceCell, watch};

use crate::artifact::{ArtifactKey, FileKind};
use crate::module::{ModulePath, Version};
use crate::spool::{SharedSpace, Spool};
use crate::store::{Source, Stored};

mod aside;
mod disk;
#[cfg(any(test, feature = "test-util"))]
mod faults;
mod notes;
mod record;
mod recover;
mod shelf;
mod tend;

use self::disk::Disk;
#[cfg(any(test, feature = "test-util"))]
pub use self::faults::{Cut, KeptFaults};
pub(crate) use self::notes::Note;
pub(crate) use self::record::{SpooledAt, UnitRecord};
use self::shelf::{Room, Shelf};
pub(crate) use self::tend::tend;

/// How many artifacts are kept at most: as many as there may be jobs.
pub const KEPT_FILES_MAX: u64 = 10_000;

/// How long a look-up waits, right after a start, until it is known what an earlier process kept.
const LOADED_WITHIN: Duration = Duration::from_secs(2);

/// The bytes that wait for the store. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct Kept {
    shelf: Arc<Shelf>,
}

/// One kept artifact.
#[derive(Debug)]
pub(crate) struct Entry {
    key: ArtifactKey,
    stem: String,
    len: u64,
    sha256: String,
    kept: SystemTime,
    /// What other instances ask for it by; a new one with every start.
    token: LeaseToken,
    /// Whether the bytes are what they should be; known from the start for our own.
    whole: OnceCell<bool>,
    /// Whether requests are answered from it.
    served: AtomicBool,
    /// Whether a fill is still trying to store it.
    committing: AtomicBool,
    /// Whether there is a job that uploads it, as far as this process knows.
    has_job: AtomicBool,
    _room: Room,
    /// Held for the spool's budget.
    _space: SharedSpace,
}

impl Entry {
    pub(crate) fn key(&self) -> &ArtifactKey {
        &self.key
    }

    pub(crate) fn token(&self) -> LeaseToken {
        self.token
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Says that its fill has ended and requests may be answered from it.
    pub(crate) fn serve(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    fn has_job(&self) -> bool {
        self.has_job.load(Ordering::Relaxed)
    }

    pub(crate) fn set_has_job(&self, has_job: bool) {
        self.has_job.store(has_job, Ordering::Relaxed);
    }
}

/// Why bytes were not kept.
#[derive(Debug)]
pub(crate) enum NotKept {
    /// There is no room for them.
    Full(&'static str),
    /// The disk did not take them, or there is none.
    Failed(std::io::Error),
    /// Other bytes of the same artifact are kept.
    Conflict,
}

/// A fill that is still trying to store what it has kept already.
#[derive(Debug)]
pub(crate) struct Committing {
    entry: Arc<Entry>,
    shelf: Arc<Shelf>,
}

impl Committing {
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }
}

impl Drop for Committing {
    fn drop(&mut self) {
        self.entry.committing.store(false, Ordering::Relaxed);
        if !self.entry.has_job() {
            // The fill was broken off in between, or no job could be pushed.
            self.shelf.news.notify_one();
        }
    }
}

impl Kept {
    /// Opens the directory `dir`, making it where there is none; `spool` counts what is in it.
    ///
    /// Blocks on the disk. What cannot be used is said in one line of the log, and nothing is
    /// kept then. What an earlier process kept is taken up by the [`crate::Warmer`].
    pub fn open(dir: PathBuf, spool: &Spool) -> Self {
        let disk = Disk::open(
            dir,
            #[cfg(any(test, feature = "test-util"))]
            KeptFaults::default(),
        );
        Self::over(disk, spool)
    }

    /// The same over a disk that fails as `faults` says.
    #[cfg(any(test, feature = "test-util"))]
    pub fn open_with_faults(dir: PathBuf, spool: &Spool, faults: &KeptFaults) -> Self {
        Self::over(Disk::open(dir, faults.clone()), spool)
    }

    /// Keeps nothing.
    pub fn nothing(spool: &Spool) -> Self {
        Self::with(None, Vec::new(), spool)
    }

    fn over(disk: std::io::Result<Disk>, spool: &Spool) -> Self {
        let opened = disk.and_then(|disk| {
            let names = disk.names()?;
            Ok((disk, names))
        });
        match opened {
            Ok((disk, names)) => Self::with(Some(disk), names, spool),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the directory `kept` below `spool.dir` cannot be used: what the storage does \
                     not take is not kept, and has to be fetched again"
                );
                Self::nothing(spool)
            }
        }
    }

    fn with(disk: Option<Disk>, found: Vec<String>, spool: &Spool) -> Self {
        let limits = spool.limits();
        let percent = u64::from(limits.kept_percent_max.min(100));
        let is_loaded = found.is_empty();
        let shelf = Shelf {
            disk,
            found: Mutex::new(found),
            budget: spool.budget().clone(),
            bytes_max: limits.bytes_max / 100 * percent + limits.bytes_max % 100 * percent / 100,
            entries: DashMap::new(),
            by_token: DashMap::new(),
            totals: Arc::default(),
            loaded: watch::Sender::new(is_loaded),
            lost: Mutex::default(),
            left: Mutex::default(),
            news: Notify::new(),
            left_news: Notify::new(),
        };
        Self {
            shelf: Arc::new(shelf),
        }
    }

    /// Tells whether nothing is kept; until it is known, something is.
    pub(crate) fn is_empty(&self) -> bool {
        self.files() == 0 && *self.shelf.loaded.borrow()
    }

    /// Artifacts that are kept.
    pub fn files(&self) -> u64 {
        self.shelf.totals.now().0
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.shelf.totals.now().1
    }

    /// Keeps verified bytes: durably, once this returns. `space` is the share of the budget that a
    /// spool file has.
    ///
    /// They are not served before [`Entry::serve`]. Keeping what is kept already keeps it once.
    /// Cancelling leaves them kept or not, and nothing half.
    pub(crate) async fn keep(
        &self,
        key: &ArtifactKey,
        source: &Source,
        space: Option<SharedSpace>,
        now: SystemTime,
    ) -> Result<Committing, NotKept> {
        self.wait_until_loaded().await;
        let (shelf, key, source) = (self.shelf.clone(), key.clone(), source.clone());
        let keeping = move || {
            let entry = shelf.keep(&key, &source, space, now)?;
            Ok(Committing { entry, shelf })
        };
        match tokio::task::spawn_blocking(keeping).await {
            Ok(kept) => kept,
            Err(error) => Err(NotKept::Failed(std::io::Error::other(error))),
        }
    }

    /// What is kept of an artifact, for whoever asked for it.
    ///
    /// Costs nothing while nothing is kept. Never an error: what cannot be read any more is not
    /// kept.
    pub(crate) async fn get(&self, key: &ArtifactKey) -> Option<Stored> {
        if self.is_empty() {
            return None;
        }
        let entry = self.entry(key).await.filter(|entry| entry.is_served())?;
        self.read(&entry).await
    }

    /// What is kept of `unit` under `token`, for another instance.
    pub(crate) async fn get_by_token(&self, unit: &str, token: &LeaseToken) -> Option<Stored> {
        let key = self.shelf.by_token.get(token)?.value().clone();
        if key.unit() != unit {
            return None;
        }
        self.get(&key).await
    }

    /// The entry of an artifact.
    pub(crate) async fn entry(&self, key: &ArtifactKey) -> Option<Arc<Entry>> {
        self.wait_until_loaded().await;
        let entry = self.shelf.entries.get(key)?;
        Some(entry.value().clone())
    }

    /// Tells whether an entry is still kept.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        let here = self.shelf.entries.get(&entry.key);
        here.is_some_and(|here| here.stem == entry.stem)
    }

    /// All entries but those whose fill still tries to store them.
    fn idle_entries(&self) -> Vec<Arc<Entry>> {
        let entries = self.shelf.entries.iter();
        entries
            .map(|entry| entry.value().clone())
            .filter(|entry| !entry.committing.load(Ordering::Relaxed))
            .collect()
    }

    /// Takes the artifacts that were lost since the last call.
    fn take_lost(&self) -> Vec<ArtifactKey> {
        let mut lost = self
            .shelf
            .lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *lost)
    }

    /// The versions of `module` whose info file is kept.
    pub(crate) fn versions(&self, module: &ModulePath) -> Vec<Version> {
        if self.is_empty() {
            return Vec::new();
        }
        let entries = self.shelf.entries.iter();
        entries
            .filter(|entry| entry.value().is_served())
            .filter_map(|entry| match entry.key() {
                ArtifactKey::File {
                    module: of,
                    version,
                    kind: FileKind::Info,
                } if of == module => Some(version.clone()),
                _ => None,
            })
            .collect()
    }

    /// The bytes of an entry as the store takes them; `None` when they are not there any more, are
    /// not what was kept, or cannot be read at this moment: then [`Kept::has`] it still.
    pub(crate) async fn source(&self, entry: &Arc<Entry>) -> Option<Source> {
        self.opened(entry, |disk, entry| disk.source(&entry.stem, entry.len))
            .await
    }

    async fn read(&self, entry: &Arc<Entry>) -> Option<Stored> {
        let body = self
            .opened(entry, |disk, entry| disk.read(&entry.stem, entry.len))
            .await?;
        Some(Stored {
            len: entry.len,
            modified: entry.kept,
            body,
        })
    }

    async fn opened<T: Send + 'static>(
        &self,
        entry: &Arc<Entry>,
        open: impl FnOnce(&Disk, &Entry) -> std::io::Result<T> + Send + 'static,
    ) -> Option<T> {
        if !self.is_whole(entry).await {
            return None;
        }
        let (shelf, entry) = (self.shelf.clone(), entry.clone());
        let opening = move || match open(shelf.disk.as_ref()?, &entry) {
            Ok(opened) => Some(opened),
            Err(error) => {
                // Uploaded and removed in between; or not readable, now or any more.
                shelf.lose_unreadable(&entry, &error);
                None
            }
        };
        tokio::task::spawn_blocking(opening).await.ok().flatten()
    }

    /// Checks what an earlier process kept, once; what is not whole leaves. `false` also where the
    /// disk does not say at this moment; it is asked again then.
    ///
    /// Cancelling leaves the check to go on by itself, so that the next who asks does not begin it
    /// anew.
    async fn is_whole(&self, entry: &Arc<Entry>) -> bool {
        if let Some(whole) = entry.whole.get() {
            return *whole;
        }
        let (shelf, entry) = (self.shelf.clone(), entry.clone());
        let checking = async move {
            let check = || async {
                let checked = entry.clone();
                let checking = move || shelf.check(&checked);
                let checked = tokio::task::spawn_blocking(checking).await;
                checked.ok().flatten().ok_or(())
            };
            let whole = entry.whole.get_or_try_init(check).await;
            whole.is_ok_and(|whole| *whole)
        };
        tokio::spawn(checking).await.unwrap_or(false)
    }

    /// Forgets an artifact that need not be kept any more. Who reads it reads on.
    pub(crate) async fn remove(&self, entry: &Arc<Entry>) {
        self.leave(entry, |disk, entry| disk.remove(&entry.stem))
            .await;
    }

    /// Takes bytes away that contradict what is stored; tells whether they can still be found.
    pub(crate) async fn set_aside(&self, entry: &Arc<Entry>) -> bool {
        let aside = self.leave(entry, |disk, entry| {
            disk.set_aside_conflict(&entry.stem, entry.len)
        });
        aside.await.unwrap_or(false)
    }

    async fn leave<T: Send + 'static>(
        &self,
        entry: &Arc<Entry>,
        work: impl FnOnce(&Disk, &Entry) -> std::io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let (shelf, entry) = (self.shelf.clone(), entry.clone());
        let leaving = move || {
            shelf.take_out(&entry);
            work(shelf.disk.as_ref()?, &entry)
                .inspect_err(|error| {
                    // It is taken up again by the next start, and found to be stored.
                    tracing::warn!(unit = %entry.key, %error, "kept bytes could not be removed");
                })
                .ok()
        };
        tokio::task::spawn_blocking(leaving).await.ok().flatten()
    }

    async fn wait_until_loaded(&self) {
        if *self.shelf.loaded.borrow() {
            return;
        }
        let _ = tokio::time::timeout(LOADED_WITHIN, self.loaded()).await;
    }

    /// Waits, for as long as it takes, until it is known what an earlier process kept.
    pub(crate) async fn loaded(&self) {
        let mut loaded = self.shelf.loaded.subscribe();
        // Its other end lives as long as we do.
        let _ = loaded.wait_for(|loaded| *loaded).await;
    }
}

#[cfg(test)]
mod tests;
