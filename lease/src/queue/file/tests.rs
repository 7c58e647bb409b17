#![allow(clippy::unwrap_used)]
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::*;
use crate::queue::job::JobSerial;
use crate::queue::local::tests::setup::Folder;
use crate::queue::stored::StoredState;

const NOW: Duration = Duration::from_millis(1_700_000_000_000);

fn stored(id: &str) -> StoredJob {
    StoredJob::named(id, JobSerial::random(), StoredState::Queued)
}

fn filled(folder: &Folder, jobs: u64) -> QueueFile {
    let mut file = QueueFile::new(folder.file());
    assert!(file.open(NOW).unwrap().jobs.is_empty());
    let entries: Vec<_> = (1..=jobs)
        .map(|seq| (seq, Some(stored(&format!("unit{seq}")))))
        .collect();
    file.write(&entries).unwrap();
    file
}

impl QueueFile {
    /// Puts bytes in that need not be a job.
    pub(crate) fn put_bytes(&mut self, seq: u64, bytes: &[u8]) {
        let writing = self.database.as_ref().unwrap().begin_write().unwrap();
        writing
            .open_table(JOBS)
            .unwrap()
            .insert(seq, bytes)
            .unwrap();
        writing.commit().unwrap();
    }

    /// Returns what is there under a number.
    pub(crate) fn bytes(&self, seq: u64) -> Option<Vec<u8>> {
        let reading = self.database.as_ref().unwrap().begin_read().unwrap();
        let jobs = reading.open_table(JOBS).unwrap();
        Some(jobs.get(seq).unwrap()?.value().to_vec())
    }
}

/// Opens the file for a moment; returns as well where another one went.
fn opened(folder: &Folder) -> (Opened, Option<SetAside>) {
    let mut file = QueueFile::new(folder.file());
    let opened = file.open(NOW).unwrap();
    (opened, file.take_set_aside())
}

#[test]
fn what_was_written_is_read() {
    let folder = Folder::new();
    let mut file = filled(&folder, 3);
    let changed = StoredJob {
        attempts: 4,
        ..stored("unit2")
    };
    file.write(&[(1, None), (2, Some(changed.clone())), (9, None)])
        .unwrap();
    file.close();
    let (opened, set_aside) = opened(&folder);
    assert_eq!(opened.jobs.len(), 2);
    assert_eq!(opened.jobs[0], (2, changed));
    assert_eq!(opened.jobs[1].0, 3);
    assert_eq!((opened.unreadable, set_aside), (vec![], None));
}

#[test]
fn one_process_has_the_file() {
    let folder = Folder::new();
    let mut first = filled(&folder, 1);
    let mut second = QueueFile::new(folder.file());
    let error = second.open(NOW).unwrap_err();
    assert!(matches!(error, FileError::InUse), "{error}");
    first.write(&[(2, Some(stored("unit2")))]).unwrap();
    first.close();
    assert_eq!(second.open(NOW).unwrap().jobs.len(), 2);
    assert_eq!(folder.names(), ["queue.redb"]);
}

// acceptance: G6
#[test]
fn a_newer_format_is_moved_aside() {
    let folder = Folder::new();
    filled(&folder, 1).close();
    let database = Builder::new().open(folder.file()).unwrap();
    let writing = database.begin_write().unwrap();
    writing
        .open_table(META)
        .unwrap()
        .insert("format", FORMAT + 1)
        .unwrap();
    writing.commit().unwrap();
    drop(database);
    let (opened, set_aside) = opened(&folder);
    assert!(opened.jobs.is_empty());
    let (aside, reason) = set_aside.unwrap();
    assert!(reason.contains("format is 2"), "{reason}");
    assert!(aside.ends_with("queue.redb.corrupt-1700000000000"));
    assert_eq!(
        folder.names(),
        ["queue.redb", "queue.redb.corrupt-1700000000000"]
    );
}

// acceptance: G6
#[test]
fn an_entry_that_means_nothing_stays_and_hides_nothing() {
    let folder = Folder::new();
    let mut file = filled(&folder, 2);
    file.put_bytes(7, b"\xff");
    file.close();
    for _ in 0..2 {
        let (opened, _) = opened(&folder);
        assert_eq!((opened.jobs.len(), opened.unreadable), (2, vec![7]));
    }
}

// acceptance: G6
#[test]
fn other_files_are_moved_aside_one_by_one() {
    let folder = Folder::new();
    for n in 1..=3 {
        std::fs::write(
            folder.file(),
            "no database of ours, but long enough to be read",
        )
        .unwrap();
        let (opened, set_aside) = opened(&folder);
        assert!(opened.jobs.is_empty() && set_aside.is_some());
        assert_eq!(folder.names().len(), n + 1, "nothing is overwritten");
    }
    // An empty file is what a process leaves that was killed at the very beginning.
    std::fs::write(folder.file(), "").unwrap();
    assert_eq!(opened(&folder).1, None);
}

// A file that there was no room to begin is no damaged one, however long it is.
// fault: 34
#[test]
fn a_file_that_could_not_be_begun_is_begun_later() {
    let folder = Folder::new();
    let mut file = QueueFile::new(folder.file());
    file.disk().no_room.store(true, Relaxed);
    for _ in 0..3 {
        let error = file.open(NOW).unwrap_err();
        assert!(matches!(error, FileError::Io(_)), "{error}");
        assert_eq!(file.take_set_aside(), None);
        assert_eq!(folder.names(), ["queue.redb"]);
    }
    file.disk().no_room.store(false, Relaxed);
    assert!(file.open(NOW).unwrap().jobs.is_empty());
    file.write(&[(1, Some(stored("unit")))]).unwrap();
    assert_eq!(folder.names(), ["queue.redb"]);
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let mut file = QueueFile::new(folder.path().join("file/queue.redb"));
    assert!(matches!(file.open(NOW), Err(FileError::Io(_))));
    assert_eq!(folder.names(), ["file"]);
}

// Jobs are not refused for ever because somebody changed what is at the path, or its rights.
// acceptance: G6; fault: 34
#[test]
fn what_nobody_may_open_is_moved_aside() {
    let folder = Folder::new();
    std::fs::create_dir(folder.file()).unwrap();
    std::fs::write(folder.file().join("note"), "not ours").unwrap();
    let aside = opened(&folder).1.unwrap().0;
    assert!(aside.join("note").exists(), "nothing is deleted");
    assert!(folder.file().is_file());

    filled(&folder, 3).close();
    let mut file = QueueFile::new(folder.file());
    file.disk().forbidden.store(true, Relaxed);
    let there = file.open(NOW).unwrap();
    assert!(there.jobs.is_empty());
    let (aside, reason) = file.take_set_aside().unwrap();
    assert!(reason.contains("permission"), "{reason}");
    file.write(&[(1, Some(stored("new")))]).unwrap();
    // Whoever gets it back finds all of it.
    let mut old = QueueFile::new(aside);
    assert_eq!(old.open(NOW).unwrap().jobs.len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // acceptance: G6
    // Damage of any kind, anywhere: the file is used as far as it is whole, or moved aside.
    #[test]
    fn a_damaged_file_never_stops_the_start(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..600),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let folder = Folder::new();
        filled(&folder, 20).close();
        let mut content = std::fs::read(folder.file()).unwrap();
        let at = at.index(content.len());
        for (byte, new) in content[at..].iter_mut().zip(&bytes) {
            *byte = *new;
        }
        if let Some(cut) = cut {
            content.truncate(cut.index(content.len()));
        }
        std::fs::write(folder.file(), &content).unwrap();
        let mut file = QueueFile::new(folder.file());
        let opened = file.open(NOW).unwrap();
        prop_assert!(opened.jobs.len() <= 20);
        if let Some((aside, _)) = file.take_set_aside() {
            prop_assert_eq!(std::fs::read(aside).unwrap().len(), content.len());
        }
        file.write(&[(99, Some(stored("new")))]).unwrap();
        file.close();
        let jobs = self::opened(&folder).0.jobs;
        prop_assert!(jobs.iter().any(|(seq, _)| *seq == 99));
    }
}
