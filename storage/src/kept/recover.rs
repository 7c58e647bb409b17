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

use super::disk::Disk;
use super::notes::{self, Found};
use super::shelf::{Room, Shelf};
use super::{Entry, Kept};
use crate::layout;
use crate::spool::Space;

impl Kept {
    /// Reads the indexes of what was found; the bytes are checked when they are first wanted.
    ///
    /// Returns how many there are. Look-ups wait for this, for a moment.
    pub(super) async fn load(&self, now: SystemTime) -> usize {
        let shelf = self.shelf.clone();
        let loading = tokio::task::spawn_blocking(move || shelf.load(now));
        let count = loading.await.unwrap_or(0);
        self.shelf.loaded.send_replace(true);
        count
    }
}

impl Shelf {
    fn load(&self, now: SystemTime) -> usize {
        let names = {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *found)
        };
        let Some(disk) = &self.disk else { return 0 };
        let stem_of = |name: &str, suffix: &str| {
            let stem = name.strip_suffix(suffix)?;
            let is_ours = stem.len() == 32 && Uuid::try_parse(stem).is_ok();
            is_ours.then(|| stem.to_owned())
        };
        let mut indexed: HashSet<_> = names
            .iter()
            .filter_map(|name| stem_of(name, ".json"))
            .collect();
        let mut noted = HashSet::new();
        for stem in names.iter().filter_map(|name| stem_of(name, ".note")) {
            match notes::take_up(disk, &stem, now) {
                Ok(Found::Kept) => {
                    indexed.insert(stem);
                }
                Ok(Found::Unfinished) => {
                    let _ = disk.remove_note(&stem);
                }
                Ok(Found::Damaged(key, reason)) => {
                    let _ = disk.remove_note(&stem);
                    self.give_up(&key, &stem, &reason);
                }
                Ok(Found::Stays(error)) => {
                    tracing::warn!(%error, "bytes of an earlier run cannot be kept yet; they stay");
                    noted.insert(stem);
                }
                Err(error) => set_aside(disk, &stem, &error, now),
            }
        }
        let mut count = 0;
        for stem in &indexed {
            match self.take_up(disk, stem) {
                Ok(true) => count += 1,
                Ok(false) => {}
                Err(error) => set_aside(disk, stem, &error, now),
            }
        }
        for name in &names {
            // Only what was there before this process began, so nothing that is being kept now.
            let is_leftover = stem_of(name, ".json.new").is_some()
                || stem_of(name, ".body")
                    .is_some_and(|stem| !indexed.contains(&stem) && !noted.contains(&stem));
            // A note's body that was kept just now is among the indexed.
            if is_leftover && let Err(error) = disk.remove_name(name) {
                tracing::warn!(%error, "a leftover of keeping could not be removed");
            }
        }
        count
    }

    /// Makes an entry of what an index says; `false` when there is nothing to be had.
    fn take_up(&self, disk: &Disk, stem: &str) -> io::Result<bool> {
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
        let entry = Arc::new(Entry {
            key: key.clone(),
            stem: stem.to_owned(),
            len: index.len,
            kept: index.kept(),
            sha256: index.sha256,
            token: LeaseToken::random(),
            whole: OnceCell::new(),
            served: AtomicBool::new(true),
            committing: AtomicBool::new(false),
            has_job: AtomicBool::new(false),
            _room: Room::of_existing(self, index.len),
            _space: Arc::new(Mutex::new(Space::of_existing(&self.budget, index.len))),
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

fn set_aside(disk: &Disk, stem: &str, error: &io::Error, now: SystemTime) {
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
