//! Notes of verified bytes on their way to the store, for the case that the process is killed
//! before the store, or [`Kept`], has them.
//!
//! A note waits for no disk: it outlives the process, not the machine. It is there before any
//! client has the whole body, and gone as soon as the bytes are safe. A start that finds one checks
//! the bytes like an upstream's, and keeps them from then on.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Kept;
use super::disk::{Disk, Index};
use super::shelf::Shelf;
use crate::artifact::ArtifactKey;
use crate::store::Source;
use crate::{layout, verify};

/// The version of the text that is written, and the only one that is read.
const NOTE_VERSION: u32 = 1;

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
/// Dropped without [`Note::over`], as when a fill is broken off, it stays for the next start.
#[derive(Debug)]
pub(crate) struct Note {
    stem: String,
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
                Ok(()) => Some(Note { stem, shelf }),
                Err(error) => {
                    tracing::debug!(path = text.path, %error, "bytes could not be noted");
                    None
                }
            }
        };
        tokio::task::spawn_blocking(noting).await.ok().flatten()
    }
}

impl Note {
    /// Says that the bytes are safe elsewhere, or lost for good.
    pub(crate) async fn over(self) {
        let removing = move || {
            // What cannot be removed is found by the next start, and found to be stored.
            if let Some(disk) = &self.shelf.disk {
                let _ = disk.remove_note(&self.stem);
            }
        };
        let _ = tokio::task::spawn_blocking(removing).await;
    }
}

/// What became of a note that an earlier process left.
pub(super) enum Found {
    /// Its bytes are kept now.
    Kept,
    /// Nobody had the whole: it was cut while it was written.
    Unfinished,
    /// Its bytes are not what they were.
    Damaged(ArtifactKey, String),
    /// The disk does not give the bytes, or does not take the index: it stays as it is, for the
    /// next start.
    Stays(io::Error),
}

/// Turns a note into an index, durably, if its bytes are what they should be.
///
/// An error says that the note itself cannot be read.
pub(super) fn take_up(disk: &Disk, stem: &str, now: std::time::SystemTime) -> io::Result<Found> {
    let Some(text) = disk.note(stem)? else {
        return Ok(Found::Unfinished);
    };
    let key = match layout::parse_path(&text.path) {
        Ok(key) if text.v == NOTE_VERSION && !key.is_mutable() => key,
        _ => return Err(io::Error::other("it is of no version or artifact of ours")),
    };
    // Hashed before it is mapped: what the disk does not give is an error then, and no signal.
    let read = disk
        .hash_of(stem, text.len)
        .and_then(|sha256| Ok((sha256, disk.source(stem, text.len)?)));
    let (sha256, source) = match read {
        Ok(read) => read,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
            ) =>
        {
            return Ok(Found::Damaged(key, "it is gone or was cut".to_owned()));
        }
        Err(error) => return Ok(Found::Stays(error)),
    };
    let body = match source {
        Source::Bytes(body) => body,
        Source::File { map, len, .. } => map.slice(0..len),
    };
    if let Err(error) = verify::check(&key, &body) {
        return Ok(Found::Damaged(key, error.to_string()));
    }
    let index = Index::new(text.path, text.len, sha256, now);
    Ok(match disk.index_noted(stem, &index) {
        Ok(()) => Found::Kept,
        Err(error) => Found::Stays(error),
    })
}
