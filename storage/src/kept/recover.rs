//! What an earlier process kept: found again after a restart, also after one by `kill -9`.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use dashmap::mapref::entry::Entry as Slot;
use lease::LeaseToken;
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::disk::{self, Disk, Index};
use super::shelf::{Room, Shelf};
use super::{Entry, Kept};
use crate::artifact::ArtifactKey;
use crate::layout;
use crate::spool::{SharedSpace, Space};

impl Kept {
    /// Reads the indexes of what was found; the bytes are checked when they are first wanted, and
    /// the notes are taken up behind it.
    ///
    /// Returns how many indexes there are. Look-ups wait for this, for a moment.
    pub(super) async fn load(&self, now: SystemTime) -> usize {
        let shelf = self.shelf.clone();
        let loading = tokio::task::spawn_blocking(move || shelf.load(now));
        let count = loading.await.unwrap_or(0);
        // Also where there is no disk to read them from.
        self.shelf.loaded.send_replace(true);
        count
    }
}

/// What an entry that is taken up begins with.
pub(super) struct TakenFrom {
    pub(super) room: Room,
    pub(super) space: SharedSpace,
    /// Whether its bytes were checked just now.
    pub(super) is_checked: bool,
    /// Whether requests are answered from it at once.
    pub(super) is_served: bool,
}

impl TakenFrom {
    /// What is there already, whether or not there is room for it.
    pub(super) fn earlier_run(shelf: &Shelf, len: u64, is_checked: bool) -> Self {
        Self {
            room: Room::of_existing(shelf, len),
            space: Arc::new(Mutex::new(Space::of_existing(&shelf.budget, len))),
            is_checked,
            is_served: true,
        }
    }
}

impl Shelf {
    fn load(&self, now: SystemTime) -> usize {
        let names = {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *found)
        };
        let Some(disk) = &self.disk else { return 0 };
        let stems = |suffix| names.iter().filter_map(move |name| stem_of(name, suffix));
        let indexed: HashSet<_> = stems(".json").collect();
        let noted: HashSet<_> = stems(".note").collect();
        let mut count = 0;
        let mut read = HashSet::new();
        for stem in &indexed {
            match self.take_up_index(disk, stem) {
                Ok(is_kept) => {
                    count += usize::from(is_kept);
                    read.insert(*stem);
                }
                Err(error) if disk::is_lasting(&error) => set_aside(disk, stem, &error, now),
                Err(error) => stays(stem, &error),
            }
        }
        self.loaded.send_replace(true);
        for stem in noted.difference(&indexed) {
            self.left_noted((*stem).to_owned(), true);
        }
        for name in &names {
            // Only what was there before this process began, so nothing that is being kept now.
            let is_leftover = stem_of(name, ".json.new").is_some()
                // Of a start that was killed between the index and the note's removal.
                || stem_of(name, ".note").is_some_and(|stem| read.contains(stem))
                || stem_of(name, ".body")
                    .is_some_and(|stem| !indexed.contains(stem) && !noted.contains(stem));
            if is_leftover && let Err(error) = disk.remove_name(name) {
                tracing::warn!(%error, "a leftover of keeping could not be removed");
            }
        }
        count
    }

    /// Makes an entry of what an index says; `false` when there is nothing to be had.
    fn take_up_index(&self, disk: &Disk, stem: &str) -> io::Result<bool> {
        let index = disk.index(stem)?;
        let key = layout::parse_path(&index.path).map_err(io::Error::other)?;
        if key.is_mutable() {
            return Err(io::Error::other("only what never changes is kept"));
        }
        let damage = match disk.body_len(stem)? {
            Some(len) if len == index.len => None,
            Some(_) => Some("it has not the length that was kept"),
            None => Some("its bytes are gone"),
        };
        if let Some(reason) = damage {
            self.give_up(&key, stem, reason);
            return Ok(false);
        }
        let from = TakenFrom::earlier_run(self, index.len, false);
        self.put(disk, key, stem, index, from)
    }

    /// Puts what has an index into the tables; `false` where the same is there already.
    pub(super) fn put(
        &self,
        disk: &Disk,
        key: ArtifactKey,
        stem: &str,
        index: Index,
        from: TakenFrom,
    ) -> io::Result<bool> {
        let entry = Arc::new(Entry {
            key: key.clone(),
            stem: stem.to_owned(),
            len: index.len,
            kept: index.kept(),
            sha256: index.sha256,
            token: LeaseToken::random(),
            whole: OnceCell::new_with(from.is_checked.then_some(true)),
            served: AtomicBool::new(from.is_served),
            committing: AtomicBool::new(false),
            has_job: AtomicBool::new(false),
            _room: from.room,
            _space: from.space,
        });
        match self.entries.entry(key.clone()) {
            Slot::Vacant(slot) => {
                slot.insert(entry.clone());
            }
            // A process that was killed while it kept the same twice.
            Slot::Occupied(slot) if slot.get().sha256 == entry.sha256 => {
                drop(slot);
                disk.remove(stem)?;
                return Ok(false);
            }
            Slot::Occupied(_) => {
                return Err(io::Error::other(
                    "there are other bytes of the same artifact",
                ));
            }
        }
        self.by_token.insert(entry.token, key);
        Ok(true)
    }
}

/// The stem of one of our names that ends with `suffix`.
fn stem_of<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let stem = name.strip_suffix(suffix)?;
    (stem.len() == 32 && Uuid::try_parse(stem).is_ok()).then_some(stem)
}

/// Says that bytes of an earlier run are left as they are.
pub(super) fn stays(stem: &str, error: &io::Error) {
    tracing::warn!(
        file = stem,
        %error,
        "verified bytes on disk cannot be taken up now; they stay for the next start"
    );
}

pub(super) fn set_aside(disk: &Disk, stem: &str, error: &io::Error, now: SystemTime) {
    match disk.set_aside_corrupt(stem, now) {
        Ok(()) => tracing::warn!(
            file = stem,
            %error,
            "an index or note of kept bytes cannot be used; it is set aside as `.corrupt-…`"
        ),
        Err(stays) => tracing::warn!(
            file = stem,
            %error,
            %stays,
            "an index or note of kept bytes cannot be used, nor be set aside"
        ),
    }
}
