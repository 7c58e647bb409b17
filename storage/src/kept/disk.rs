//! The files of what is kept: written, found again and removed in an order that a crash may cut
//! anywhere.
//!
//! | name | what it is |
//! | --- | --- |
//! | `{stem}.body` | the bytes; durable before there is an index of them |
//! | `{stem}.json` | an [`Index`]: as long as it is there, the bytes count as kept |
//! | `{stem}.json.new` | an index that is being written |
//! | `{stem}.note` | a [`NoteText`]: the bytes were on their way to the store |
//! | `….corrupt-{seconds}` | what could not be read; when it was kept, or when a start found it so |
//! | `conflicts/` | bytes that differ from what is stored, with their index |
//!
//! A stem is a UUID without hyphens. Everything here blocks on the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[cfg(any(test, feature = "test-util"))]
use super::faults::KeptFaults;
use super::notes::NoteText;
use crate::hex::hex;
use crate::mapped::MappedFile;
use crate::store::{Source, StoredBody, link_unsupported, sync_dir};

/// The version of the index that is written, and the only one that is read.
const INDEX_VERSION: u32 = 1;

/// The largest index that is read: a path of the longest module and its escapes, and some room.
const INDEX_BYTES_MAX: u64 = 16 * 1024;

/// Files up to this length are read when they are served; longer ones are mapped.
const READ_BYTES_MAX: u64 = 64 << 10;

/// Bytes that are hashed at once.
const HASHED_AT_ONCE: usize = 1 << 20;

/// What is known of kept bytes; JSON, for example
/// `{"v":1,"path":"example.com/m/@v/v1.0.0.zip","len":3,"sha256":"ba78…","kept_ms":1700000000000}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    v: u32,
    /// The object's path in the store.
    pub(super) path: String,
    /// The number of bytes.
    pub(super) len: u64,
    /// Their hash in hexadecimal digits.
    pub(super) sha256: String,
    /// When they were kept, in milliseconds since 1970 by this machine's clock.
    kept_ms: u64,
}

impl Index {
    pub(super) fn new(path: String, len: u64, sha256: String, kept: SystemTime) -> Self {
        let since = kept.duration_since(SystemTime::UNIX_EPOCH);
        Self {
            v: INDEX_VERSION,
            path,
            len,
            sha256,
            kept_ms: u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn kept(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(self.kept_ms))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// How the bytes came into their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// They are the very file of the spool.
    Linked,
    /// They take room of their own.
    Copied,
}

/// Whether a body is what its index says.
#[derive(Debug)]
pub(super) enum Checked {
    Whole,
    /// It is not.
    Wrong(&'static str),
    /// The disk does not say.
    Unreadable(io::Error),
}

/// The directory of what is kept.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) dir: PathBuf,
    #[cfg(any(test, feature = "test-util"))]
    faults: KeptFaults,
}

impl Disk {
    /// Makes the directory where there is none, and tries to write to it.
    pub(super) fn open(
        dir: PathBuf,
        #[cfg(any(test, feature = "test-util"))] faults: KeptFaults,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let probe = dir.join("probe");
        std::fs::write(&probe, "probe")?;
        std::fs::remove_file(&probe)?;
        Ok(Self {
            dir,
            #[cfg(any(test, feature = "test-util"))]
            faults,
        })
    }

    /// A place where a crash, or the disk, may cut a sequence.
    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn step(&self) -> io::Result<()> {
        self.faults.step()
    }

    #[cfg(not(any(test, feature = "test-util")))]
    pub(super) fn step(&self) -> io::Result<()> {
        Ok(())
    }

    /// A place where the disk may know no links.
    #[cfg(any(test, feature = "test-util"))]
    fn linking(&self) -> io::Result<()> {
        self.faults.linking()
    }

    #[cfg(not(any(test, feature = "test-util")))]
    fn linking(&self) -> io::Result<()> {
        Ok(())
    }

    /// A place where the disk may refuse a read.
    #[cfg(any(test, feature = "test-util"))]
    fn reading(&self) -> io::Result<()> {
        self.faults.reading()
    }

    #[cfg(not(any(test, feature = "test-util")))]
    fn reading(&self) -> io::Result<()> {
        Ok(())
    }

    /// The names of all files.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(super) fn body_path(&self, stem: &str) -> PathBuf {
        self.dir.join(format!("{stem}.body"))
    }

    pub(super) fn note_path(&self, stem: &str) -> PathBuf {
        self.dir.join(format!("{stem}.note"))
    }

    pub(super) fn index_path(&self, stem: &str) -> PathBuf {
        self.dir.join(format!("{stem}.json"))
    }

    /// Writes a body, then its index, both durably; on failure neither stays.
    pub(super) fn write(&self, stem: &str, index: &Index, body: &Source) -> io::Result<Placed> {
        let written = self.place_body(stem, body).and_then(|placed| {
            self.write_index(stem, index)?;
            Ok(placed)
        });
        if written.is_err() {
            // What cannot be removed now is swept by the next start.
            let _ = self.remove(stem);
        }
        written
    }

    fn place_body(&self, stem: &str, body: &Source) -> io::Result<Placed> {
        self.step()?;
        let placed = self.link_or_copy(stem, body)?;
        self.step()?;
        self.sync_body(stem, body.len())?;
        Ok(placed)
    }

    fn link_or_copy(&self, stem: &str, body: &Source) -> io::Result<Placed> {
        match (self.link_or_write(stem, body), body) {
            (Err(error), Source::File { path, .. }) if link_unsupported(&error) => {
                let mut copy = File::create_new(self.body_path(stem))?;
                io::copy(&mut File::open(path)?, &mut copy)?;
                Ok(Placed::Copied)
            }
            (placed, _) => placed,
        }
    }

    /// Gives a file another name, or writes bytes from memory; copies no file.
    fn link_or_write(&self, stem: &str, body: &Source) -> io::Result<Placed> {
        let path = self.body_path(stem);
        match body {
            Source::Bytes(bytes) => {
                File::create_new(&path)?.write_all(bytes)?;
                Ok(Placed::Copied)
            }
            Source::File { path: spool, .. } => {
                self.linking()?;
                std::fs::hard_link(spool, &path)?;
                Ok(Placed::Linked)
            }
        }
    }

    fn sync_body(&self, stem: &str, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().read(true).open(self.body_path(stem))?;
        if file.metadata()?.len() != len {
            return Err(io::Error::other("the spool file changed its length"));
        }
        file.sync_all()?;
        self.step()?;
        sync_dir(&self.dir)
    }

    /// Writes a body, then a note of it, without waiting for the disk; on failure neither stays.
    ///
    /// A file that cannot be linked is refused: every fill would copy its zip, into space that
    /// nobody has promised.
    pub(super) fn write_note(&self, stem: &str, text: &NoteText, body: &Source) -> io::Result<()> {
        let write = || {
            self.step()?;
            self.link_or_write(stem, body)?;
            self.step()?;
            let text = serde_json::to_vec(text).map_err(io::Error::other)?;
            File::create_new(self.note_path(stem))?.write_all(&text)?;
            self.step()
        };
        let written = write();
        if written.is_err() {
            let _ = self.remove_note(stem);
        }
        written
    }

    /// Removes a note, then its body: what is cut in between is a body that nobody relies on.
    pub(super) fn remove_note(&self, stem: &str) -> io::Result<()> {
        self.step()?;
        remove_if_there(&self.note_path(stem))?;
        self.step()?;
        remove_if_there(&self.body_path(stem))
    }

    /// Reads a note; `None` when it was cut while it was written.
    pub(super) fn note(&self, stem: &str) -> io::Result<Option<NoteText>> {
        self.reading()?;
        let mut text = Vec::new();
        let file = File::open(self.note_path(stem))?;
        file.take(INDEX_BYTES_MAX).read_to_end(&mut text)?;
        if text.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&text)?))
    }

    /// Makes a noted body durable and writes its index; the note goes.
    pub(super) fn index_noted(&self, stem: &str, index: &Index) -> io::Result<()> {
        self.step()?;
        self.sync_body(stem, index.len)?;
        // Of a start that was killed here.
        remove_if_there(&self.dir.join(format!("{stem}.json.new")))?;
        self.write_index(stem, index)?;
        remove_if_there(&self.note_path(stem))
    }

    fn write_index(&self, stem: &str, index: &Index) -> io::Result<()> {
        self.step()?;
        let new = self.dir.join(format!("{stem}.json.new"));
        let mut file = File::create_new(&new)?;
        file.write_all(&serde_json::to_vec(index).map_err(io::Error::other)?)?;
        self.step()?;
        file.sync_all()?;
        self.step()?;
        std::fs::rename(&new, self.index_path(stem))?;
        self.step()?;
        sync_dir(&self.dir)?;
        self.step()
    }

    /// Removes the index, then the body: what is cut in between is a body that nobody relies on.
    pub(super) fn remove(&self, stem: &str) -> io::Result<()> {
        self.step()?;
        remove_if_there(&self.dir.join(format!("{stem}.json.new")))?;
        remove_if_there(&self.index_path(stem))?;
        self.step()?;
        sync_dir(&self.dir)?;
        self.step()?;
        remove_if_there(&self.body_path(stem))?;
        self.step()
    }

    /// Removes one file of this directory.
    pub(super) fn remove_name(&self, name: &str) -> io::Result<()> {
        remove_if_there(&self.dir.join(name))
    }

    /// Reads an index; an error says what is wrong with it, without a path.
    pub(super) fn index(&self, stem: &str) -> io::Result<Index> {
        self.reading()?;
        let mut text = Vec::new();
        let file = File::open(self.index_path(stem))?;
        file.take(INDEX_BYTES_MAX).read_to_end(&mut text)?;
        let index: Index = serde_json::from_slice(&text)?;
        if index.v != INDEX_VERSION {
            let reason = format!("its version is {}, not {INDEX_VERSION}", index.v);
            return Err(io::Error::other(reason));
        }
        Ok(index)
    }

    /// The length of a body; `None` when there is none.
    pub(super) fn body_len(&self, stem: &str) -> io::Result<Option<u64>> {
        match std::fs::metadata(self.body_path(stem)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Compares a body with what is known of it.
    pub(super) fn check(&self, stem: &str, len: u64, sha256: &str) -> Checked {
        match self.hash_of(stem, len) {
            Ok(found) if found == sha256 => Checked::Whole,
            Ok(_) => Checked::Wrong("it has other bytes than were kept"),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Checked::Wrong("its bytes are gone"),
                io::ErrorKind::UnexpectedEof => {
                    Checked::Wrong("it has not the length that was kept")
                }
                _ => Checked::Unreadable(error),
            },
        }
    }

    /// The hash of a body of `len` bytes.
    ///
    /// Read and not mapped: a sector that the disk does not give is an error of a read, and the end
    /// of the process in a mapping.
    pub(super) fn hash_of(&self, stem: &str, len: u64) -> io::Result<String> {
        let mut file = self.open_body(stem, len)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; HASHED_AT_ONCE];
        let mut hashed = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) if hashed == len => return Ok(hex(&hash.finalize())),
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(read) => {
                    hash.update(&buffer[..read]);
                    hashed += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens a body; `UnexpectedEof` when it has not `len` bytes.
    fn open_body(&self, stem: &str, len: u64) -> io::Result<File> {
        self.reading()?;
        let file = File::open(self.body_path(stem))?;
        if file.metadata()?.len() != len {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(file)
    }

    /// Opens a body for reading.
    pub(super) fn read(&self, stem: &str, len: u64) -> io::Result<StoredBody> {
        let mut file = self.open_body(stem, len)?;
        if len > READ_BYTES_MAX {
            return Ok(StoredBody::Mapped(MappedFile::map(&file, len)?));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(StoredBody::Bytes(bytes.into()))
    }

    /// A body as the store takes it.
    pub(super) fn source(&self, stem: &str, len: u64) -> io::Result<Source> {
        Ok(match self.read(stem, len)? {
            StoredBody::Mapped(map) => Source::File {
                path: self.body_path(stem),
                len,
                map,
            },
            StoredBody::Bytes(bytes) => Source::Bytes(bytes),
            StoredBody::Remote(_) => return Err(io::Error::other("a local file is not remote")),
        })
    }
}

/// Tells whether a failed read says something of what is on the disk, and not of this moment only.
///
/// No free descriptor, no memory for a mapping, a network disk that is away: what passes must not
/// cost bytes that are nowhere else.
pub(super) fn is_lasting(error: &io::Error) -> bool {
    let is_about_content = matches!(
        error.kind(),
        // The last one is our own: what is there makes no sense.
        io::ErrorKind::NotFound
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::Other
    );
    is_about_content || error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The hash of a body as it is written down; blocks on the disk.
pub(super) fn hash(body: &Source) -> io::Result<String> {
    let mut hash = Sha256::new();
    match body {
        Source::Bytes(bytes) => hash.update(bytes),
        Source::File { map, len, .. } => {
            let mut position = 0;
            while position < *len {
                let part = position..(*len).min(position + HASHED_AT_ONCE as u64);
                map.fault_in(part.clone())?;
                let bytes: Bytes = map.slice(part.clone());
                hash.update(&bytes);
                drop(bytes);
                position = part.end;
                map.forget(part);
            }
        }
    }
    Ok(hex(&hash.finalize()))
}
