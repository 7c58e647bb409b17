//! What is set aside: bytes that the disk does not give or nobody understands, and those that
//! contradict the store.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::disk::{Disk, remove_if_there};
use crate::store::sync_dir;

/// The directory of bytes that contradict what is stored.
const CONFLICTS: &str = "conflicts";

/// How many of those are held at most, and how many bytes of them; the oldest leave first.
const CONFLICTS_MAX: usize = 16;
/// See [`CONFLICTS_MAX`].
const CONFLICT_BYTES_MAX: u64 = 256 << 20;

impl Disk {
    /// Renames what cannot be understood, so that an operator finds it and nobody reads it again.
    pub(super) fn set_aside_corrupt(&self, stem: &str, now: SystemTime) -> io::Result<()> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        let paths = [self.index_path(stem), self.note_path(stem)];
        for path in paths.into_iter().chain([self.body_path(stem)]) {
            let mut aside = path.clone().into_os_string();
            aside.push(format!(".corrupt-{seconds}"));
            rename_if_there(&path, Path::new(&aside))?;
        }
        sync_dir(&self.dir)
    }

    /// Moves bytes that contradict what is stored out of the way, as far as there is room for
    /// such; tells whether they are still to be found.
    pub(super) fn set_aside_conflict(&self, stem: &str, len: u64) -> io::Result<bool> {
        if len > CONFLICT_BYTES_MAX {
            self.remove(stem)?;
            return Ok(false);
        }
        let aside = self.dir.join(CONFLICTS);
        std::fs::create_dir_all(&aside)?;
        make_room(&aside, len)?;
        // The index first: what is cut in between is a body that nobody relies on.
        self.step()?;
        rename_if_there(&self.index_path(stem), &aside.join(format!("{stem}.json")))?;
        self.step()?;
        rename_if_there(&self.body_path(stem), &aside.join(format!("{stem}.body")))?;
        sync_dir(&self.dir)?;
        Ok(true)
    }
}

/// Removes the oldest of what is set aside until one more of `len` bytes fits.
fn make_room(aside: &Path, len: u64) -> io::Result<()> {
    let mut bodies = Vec::new();
    for entry in std::fs::read_dir(aside)? {
        let entry = entry?;
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "body")
        {
            let metadata = entry.metadata()?;
            bodies.push((metadata.modified()?, metadata.len(), path));
        }
    }
    bodies.sort();
    let mut bytes: u64 = bodies.iter().map(|(_, len, _)| len).sum();
    let mut count = bodies.len();
    for (_, body_len, path) in bodies {
        if count < CONFLICTS_MAX && bytes + len <= CONFLICT_BYTES_MAX {
            break;
        }
        remove_if_there(&path.with_extension("json"))?;
        remove_if_there(&path)?;
        count -= 1;
        bytes -= body_len;
    }
    Ok(())
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}
