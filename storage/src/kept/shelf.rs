//! What is kept now: the entries, their files and the room that they take.
//!
//! All that changes files blocks on the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use lease::LeaseToken;
use tokio::sync::{Notify, OnceCell, watch};
use uuid::Uuid;

use super::disk::{self, Checked, Disk, Index, Placed};
use super::notes::Left;
use super::{Entry, KEPT_FILES_MAX, NotKept};
use crate::artifact::ArtifactKey;
use crate::error::Error;
use crate::layout;
use crate::spool::{Budget, SharedSpace, Space};
use crate::store::Source;

/// Artifacts that were lost and wait to be fetched again; more are fetched when they are asked
/// for.
const LOST_MAX: usize = 10_000;

/// The tables of [`super::Kept`].
#[derive(Debug)]
pub(super) struct Shelf {
    /// `None`: there is no directory that can be written to, and nothing is kept.
    pub(super) disk: Option<Disk>,
    /// The names that an earlier process left.
    pub(super) found: Mutex<Vec<String>>,
    pub(super) budget: Arc<Budget>,
    pub(super) bytes_max: u64,
    pub(super) entries: DashMap<ArtifactKey, Arc<Entry>>,
    pub(super) by_token: DashMap<LeaseToken, ArtifactKey>,
    pub(super) totals: Arc<Totals>,
    /// Whether it is known what an earlier process kept.
    pub(super) loaded: watch::Sender<bool>,
    pub(super) lost: Mutex<Vec<ArtifactKey>>,
    /// Notes to take up.
    pub(super) left: Mutex<VecDeque<Left>>,
    /// Tells the task that tends to all this that there is something to do.
    pub(super) news: Notify,
    /// Tells it that there is such a note.
    pub(super) left_news: Notify,
}

/// What is kept, in numbers.
#[derive(Debug, Default)]
pub(super) struct Totals {
    files: AtomicU64,
    bytes: AtomicU64,
}

/// A share of what may be kept; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    totals: Arc<Totals>,
    bytes: u64,
}

impl Room {
    /// Room for `bytes` more, if they fit.
    pub(super) fn take(shelf: &Shelf, bytes: u64) -> Result<Self, NotKept> {
        // Given back by its drop where it turns out to be too much.
        let room = Self::of_existing(shelf, bytes);
        let (kept_files, kept_bytes) = shelf.totals.now();
        if kept_bytes > shelf.bytes_max {
            return Err(NotKept::Full("spool.kept_percent_max"));
        }
        if kept_files > KEPT_FILES_MAX {
            return Err(NotKept::Full("the number of kept files"));
        }
        Ok(room)
    }

    /// Room for what is there, whether or not it fits.
    pub(super) fn of_existing(shelf: &Shelf, bytes: u64) -> Self {
        shelf.totals.files.fetch_add(1, Ordering::Relaxed);
        shelf.totals.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self {
            totals: shelf.totals.clone(),
            bytes,
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.totals.files.fetch_sub(1, Ordering::Relaxed);
        self.totals.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Totals {
    pub(super) fn now(&self) -> (u64, u64) {
        let (files, bytes) = (&self.files, &self.bytes);
        (files.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }
}

impl Shelf {
    pub(super) fn keep(
        &self,
        key: &ArtifactKey,
        source: &Source,
        space: Option<SharedSpace>,
        now: SystemTime,
    ) -> Result<Arc<Entry>, NotKept> {
        let Some(disk) = &self.disk else {
            let reason = "there is no directory to keep it in";
            return Err(NotKept::Failed(io::Error::other(reason)));
        };
        let sha256 = disk::hash(source).map_err(NotKept::Failed)?;
        if let Some(entry) = self.entries.get(key) {
            return again(entry.value(), &sha256);
        }
        let room = Room::take(self, source.len())?;
        let is_shared = space.is_some();
        let space = match space {
            Some(space) => space,
            None => self.space(source.len())?,
        };
        let stem = Uuid::new_v4().simple().to_string();
        let len = source.len();
        let index = Index::new(layout::object_path(key), len, sha256.clone(), now);
        let placed = disk.write(&stem, &index, source).map_err(NotKept::Failed)?;
        let space = match placed {
            // On a file system without links the spool's file and this one are two.
            Placed::Copied if is_shared => {
                Arc::new(Mutex::new(Space::of_existing(&self.budget, len)))
            }
            _ => space,
        };
        let entry = Arc::new(Entry {
            key: key.clone(),
            stem,
            len,
            sha256,
            kept: now,
            token: LeaseToken::random(),
            whole: OnceCell::new_with(Some(true)),
            served: AtomicBool::new(false),
            committing: AtomicBool::new(true),
            has_job: AtomicBool::new(false),
            _room: room,
            _space: space,
        });
        match self.entries.entry(key.clone()) {
            Slot::Vacant(slot) => slot.insert(entry.clone()),
            Slot::Occupied(slot) => {
                // Another fill of the same artifact was quicker.
                let first = slot.get().clone();
                drop(slot);
                let _ = disk.remove(&entry.stem);
                return again(&first, &entry.sha256);
            }
        };
        self.by_token.insert(entry.token, key.clone());
        Ok(entry)
    }

    /// Space for `bytes` more of the spool's budget.
    pub(super) fn space(&self, bytes: u64) -> Result<SharedSpace, NotKept> {
        let mut space = Space::new(&self.budget);
        space.grow_to(bytes).map_err(|error| match error {
            Error::Overloaded { limit } => NotKept::Full(limit),
            error => NotKept::Failed(io::Error::other(error)),
        })?;
        space.wrote_to(bytes);
        Ok(Arc::new(Mutex::new(space)))
    }

    /// Takes an entry out of the tables; tells whether it was there.
    pub(super) fn take_out(&self, entry: &Entry) -> bool {
        self.by_token.remove(&entry.token);
        self.entries
            .remove_if(&entry.key, |_, here| here.stem == entry.stem)
            .is_some()
    }

    /// Tells whether an entry has the bytes that were kept, or else takes it out; `None` where the
    /// disk does not say at this moment.
    pub(super) fn check(&self, entry: &Entry) -> Option<bool> {
        let Some(disk) = &self.disk else {
            return Some(false);
        };
        match disk.check(&entry.stem, entry.len, &entry.sha256) {
            Checked::Whole => Some(true),
            Checked::Wrong(reason) => {
                self.lose(entry, reason);
                Some(false)
            }
            Checked::Unreadable(error) => self.lose_unreadable(entry, &error).then_some(false),
        }
    }

    /// Gives up an entry whose bytes are not what was kept.
    fn lose(&self, entry: &Entry, reason: &str) {
        if self.take_out(entry) {
            self.give_up(&entry.key, &entry.stem, reason);
        }
    }

    /// Removes bytes that are not what was kept, and has the artifact fetched again.
    pub(super) fn give_up(&self, key: &ArtifactKey, stem: &str, reason: &str) {
        tracing::warn!(
            unit = %key,
            reason,
            "kept bytes are damaged; they are removed and have to be fetched again"
        );
        if let Some(disk) = &self.disk {
            // What cannot be removed is found, and removed, by the next start.
            let _ = disk.remove(stem);
        }
        self.fetch_again(key.clone());
    }

    /// Sets bytes aside that the disk will not give any more, and has the artifact fetched again;
    /// tells whether they are such. What may pass changes nothing.
    pub(super) fn lose_unreadable(&self, entry: &Entry, error: &io::Error) -> bool {
        if !disk::is_lasting(error) {
            tracing::debug!(unit = %entry.key, %error, "kept bytes cannot be read at this moment");
            return false;
        }
        if !self.take_out(entry) {
            return true;
        }
        tracing::warn!(
            unit = %entry.key,
            %error,
            "kept bytes cannot be read; they are set aside as `.corrupt-…` and have to be fetched \
             again"
        );
        if let Some(disk) = &self.disk {
            let _ = disk.set_aside_corrupt(&entry.stem, entry.kept);
        }
        self.fetch_again(entry.key.clone());
        true
    }

    fn fetch_again(&self, key: ArtifactKey) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.len() < LOST_MAX {
            lost.push(key);
        }
        drop(lost);
        self.news.notify_one();
    }
}

/// What keeping comes to where something is kept already.
fn again(entry: &Arc<Entry>, sha256: &str) -> Result<Arc<Entry>, NotKept> {
    if entry.sha256 == sha256 {
        return Ok(entry.clone());
    }
    Err(NotKept::Conflict)
}
