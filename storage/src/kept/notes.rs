//! Notes of verified bytes on their way to the store, for the case that the process is killed
//! before the store, or [`Kept`], has them.
//!
//! A note waits for no disk: it outlives the process, not the machine. It is there before any
//! client has the whole body, and gone as soon as the bytes are safe. One that a killed process or
//! a broken-off fill leaves is taken up: its bytes are checked like an upstream's, and kept.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::disk::{self, Disk, Index};
use super::recover::{self, TakenFrom};
use super::shelf::{Room, Shelf};
use super::{Kept, NotKept};
use crate::artifact::ArtifactKey;
use crate::store::Source;
use crate::{layout, verify};

/// The version of the text that is written, and the only one that is read.
const NOTE_VERSION: u32 = 1;

/// Notes that wait to be taken up; more of them wait for the next start.
const LEFT_MAX: usize = 10_000;

/// What a note says; JSON, for example `{"v":1,"path":"example.com/m/@v/v1.0.0.zip","len":3}`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NoteText {
    v: u32,
    /// The object's path in the store.
    path: String,
    /// The number of bytes.
    len: u64,
}

/// Verified bytes that nobody else has yet.
///
/// Dropped without [`Note::over`], as when a fill is broken off, it is taken up like one that a
/// killed process left.
#[derive(Debug)]
pub(crate) struct Note {
    /// `None` once it is over.
    stem: Option<String>,
    shelf: Arc<Shelf>,
}

impl Kept {
    /// Notes verified bytes; call it before anybody has all of them.
    ///
    /// `None` where the disk does not take a note: a process that is killed then loses them.
    pub(crate) async fn note(&self, key: &ArtifactKey, source: Source) -> Option<Note> {
        self.shelf.disk.as_ref()?;
        let (shelf, path) = (self.shelf.clone(), layout::object_path(key));
        let noting = move || {
            let disk = shelf.disk.as_ref()?;
            let stem = Uuid::new_v4().simple().to_string();
            let text = NoteText {
                v: NOTE_VERSION,
                path,
                len: source.len(),
            };
            match disk.write_note(&stem, &text, &source) {
                Ok(()) => Some(Note {
                    stem: Some(stem),
                    shelf,
                }),
                Err(error) => {
                    tracing::debug!(path = text.path, %error, "bytes could not be noted");
                    None
                }
            }
        };
        tokio::task::spawn_blocking(noting).await.ok().flatten()
    }

    /// Takes up the next note that was left, if there is one.
    pub(super) async fn take_up_note(&self, now: SystemTime) -> Option<TakenUp> {
        let left = self.shelf.next_left()?;
        let shelf = self.shelf.clone();
        let taking = tokio::task::spawn_blocking(move || shelf.take_up_note(&left, now));
        Some(taking.await.unwrap_or(TakenUp::Nothing))
    }
}

impl Note {
    /// Says that the bytes are safe elsewhere, or lost for good.
    pub(crate) async fn over(mut self) {
        let removing = move || {
            // What cannot be removed is found by the next start, and found to be stored.
            if let (Some(disk), Some(stem)) = (&self.shelf.disk, self.stem.take()) {
                let _ = disk.remove_note(&stem);
            }
        };
        let _ = tokio::task::spawn_blocking(removing).await;
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(stem) = self.stem.take() {
            self.shelf.left_noted(stem, false);
        }
    }
}

/// A note that nobody is responsible for any more.
#[derive(Debug)]
pub(super) struct Left {
    stem: String,
    /// Whether it is of an earlier process.
    is_earlier: bool,
}

/// What became of a note that was left.
#[derive(Debug)]
pub(super) enum TakenUp {
    /// Its bytes are kept from now on, under this label of `corral_spool_kept_total`.
    Kept(&'static str),
    /// They are kept already, there is nothing whole to be had, or they stay where they are.
    Nothing,
    /// They are gone: there was no room to keep them.
    NoRoom(ArtifactKey, NotKept),
}

impl Shelf {
    /// Has a note taken up, in this process if not too many wait for that.
    pub(super) fn left_noted(&self, stem: String, is_earlier: bool) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() < LEFT_MAX {
            left.push_back(Left { stem, is_earlier });
        }
        drop(left);
        self.left_news.notify_one();
    }

    fn next_left(&self) -> Option<Left> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.pop_front()
    }

    fn take_up_note(&self, left: &Left, now: SystemTime) -> TakenUp {
        let Some(disk) = &self.disk else {
            return TakenUp::Nothing;
        };
        match self.try_take_up_note(disk, left, now) {
            Ok(taken) => taken,
            Err(error) => {
                if disk::is_lasting(&error) {
                    recover::set_aside(disk, &left.stem, &error, now);
                } else {
                    recover::stays(&left.stem, &error);
                }
                TakenUp::Nothing
            }
        }
    }

    /// Turns a note into an index, durably, if its bytes are what they should be.
    ///
    /// An error says that the note itself cannot be read, or contradicts what is kept.
    fn try_take_up_note(&self, disk: &Disk, left: &Left, now: SystemTime) -> io::Result<TakenUp> {
        let stem = &left.stem;
        let Some(text) = disk.note(stem)? else {
            // Cut while it was written, so that nobody had the whole.
            let _ = disk.remove_note(stem);
            return Ok(TakenUp::Nothing);
        };
        let key = match layout::parse_path(&text.path) {
            Ok(key) if text.v == NOTE_VERSION && !key.is_mutable() => key,
            _ => return Err(io::Error::other("it is of no version or artifact of ours")),
        };
        if self.entries.contains_key(&key) {
            let _ = disk.remove_note(stem);
            return Ok(TakenUp::Nothing);
        }
        let from = match self.taken_from(left, text.len) {
            Ok(from) => from,
            Err(reason) => {
                let _ = disk.remove_note(stem);
                return Ok(TakenUp::NoRoom(key, reason));
            }
        };
        let sha256 = match check(disk, stem, &key, text.len) {
            Checked::Whole(sha256) => sha256,
            Checked::Damaged(reason) => {
                let _ = disk.remove_note(stem);
                self.give_up(&key, stem, &reason);
                return Ok(TakenUp::Nothing);
            }
            Checked::Unreadable(error) => {
                recover::stays(stem, &error);
                return Ok(TakenUp::Nothing);
            }
        };
        let index = Index::new(text.path, text.len, sha256, now);
        if let Err(error) = disk.index_noted(stem, &index) {
            recover::stays(stem, &error);
            return Ok(TakenUp::Nothing);
        }
        Ok(match self.put(disk, key, stem, index, from)? {
            true if left.is_earlier => TakenUp::Kept("recovered"),
            true => TakenUp::Kept("kept"),
            false => TakenUp::Nothing,
        })
    }

    fn taken_from(&self, left: &Left, len: u64) -> Result<TakenFrom, NotKept> {
        if left.is_earlier {
            return Ok(TakenFrom::earlier_run(self, len, true));
        }
        Ok(TakenFrom {
            room: Room::take(self, len)?,
            space: self.space(len)?,
            is_checked: true,
            // Its fill may have lost the lease to somebody who stores other bytes: the upload
            // finds out.
            is_served: false,
        })
    }
}

/// Whether noted bytes are what they should be.
enum Checked {
    /// They are, and this is their hash.
    Whole(String),
    Damaged(String),
    /// The disk does not give them.
    Unreadable(io::Error),
}

fn check(disk: &Disk, stem: &str, key: &ArtifactKey, len: u64) -> Checked {
    // Hashed before it is mapped: what the disk does not give is an error then, and no signal.
    let read = disk
        .hash_of(stem, len)
        .and_then(|sha256| Ok((sha256, disk.source(stem, len)?)));
    let (sha256, source) = match read {
        Ok(read) => read,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound => Checked::Damaged("its bytes are gone".to_owned()),
                io::ErrorKind::UnexpectedEof => {
                    Checked::Damaged("it has not the length that was noted".to_owned())
                }
                _ => Checked::Unreadable(error),
            };
        }
    };
    let body = match source {
        Source::Bytes(body) => body,
        Source::File { map, len, .. } => map.slice(0..len),
    };
    match verify::check(key, &body) {
        Ok(_) => Checked::Whole(sha256),
        Err(error) => Checked::Damaged(error.to_string()),
    }
}
