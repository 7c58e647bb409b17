//! What is on disk: the files below a folder, and a file system so small that it fills up.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A spool's bookkeeping is smaller than this, what a fill leaves behind usually larger.
const BOOKKEEPING_BYTES_MAX: u64 = 64 * 1024;

/// All files below `dir`: path relative to it, and size in bytes; sorted. Files that vanish
/// meanwhile are left out, a folder that does not exist has none.
pub fn files_under(dir: &Path) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    collect(dir, dir, &mut files);
    files.sort();
    files
}

/// The size of all files below `dir` together; a file with several names counts once.
pub fn bytes_under(dir: &Path) -> u64 {
    let files = files_under(dir);
    let metadata = files
        .iter()
        .filter_map(|(path, _)| dir.join(path).metadata().ok());
    let sizes: HashMap<_, _> = metadata.map(|file| (file.ino(), file.len())).collect();
    sizes.values().sum()
}

/// What fills have left in a spool folder: large files and kept bytes, but neither the spool's own
/// bookkeeping nor the file of the jobs, which outlive fills.
pub fn left_in_spool(spool: &Path) -> Vec<(String, u64)> {
    let mut files = files_under(spool);
    files.retain(|(path, bytes)| {
        let is_kept = path.contains("/kept/") && *bytes > 0;
        let is_queue = path.starts_with("state-") && path.ends_with("/queue.redb");
        is_kept || (!is_queue && *bytes > BOOKKEEPING_BYTES_MAX)
    });
    files
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, u64)>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            collect(root, &path, files);
        } else if let Ok(relative) = path.strip_prefix(root) {
            files.push((relative.to_string_lossy().into_owned(), meta.len()));
        }
    }
}

/// A mounted memory file system of a fixed size; unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// Mounts `bytes` of space; `None`, with the reason printed, where mounting is not allowed.
    ///
    /// # Panics
    ///
    /// When no temporary directory can be made.
    pub fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("corral-disk-").tempdir();
        let dir = dir.expect("a temporary directory");
        let options = format!("size={bytes}");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "corral-e2e"])
            .arg(dir.path())
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self { dir }),
            Ok(output) => skip(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => skip(&error.to_string()),
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes up all space that is left, with one file.
    pub fn fill_up(&self) -> PathBuf {
        let path = self.dir.path().join("ballast");
        if let Ok(mut file) = std::fs::File::create(&path) {
            // Ends with the error "no space left", which is what is wanted.
            let _ = std::io::copy(&mut std::io::repeat(0), &mut file);
        }
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, because a killed process may still be going.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.dir.path())
            .output();
    }
}

fn skip<T>(reason: &str) -> Option<T> {
    #[allow(clippy::print_stderr)]
    {
        eprintln!("skipped: no tmpfs can be mounted here: {}", reason.trim());
    }
    None
}
