//! Bytes that were on their way to the store when the process was killed.

use super::*;
use crate::kept::notes::TakenUp;

const MOD: &str = "example.com/m/@v/v1.0.0.mod";

fn module() -> Bytes {
    Bytes::from_static(b"module example.com/m\n")
}

async fn note(kept: &Kept, path: &str, body: &Bytes) -> Option<Note> {
    kept.note(&key(path), Source::Bytes(body.clone())).await
}

// acceptance: G6
#[tokio::test]
async fn what_was_on_its_way_is_kept_after_a_kill() {
    let mut place = Place::new();
    let kept = place.start().await;
    let noted = note(&kept, MOD, &module()).await.unwrap();
    assert_eq!(served(&kept, MOD).await, None, "it is on its way");
    drop((noted, kept));
    let kept = place.restart().await;
    assert_eq!(served(&kept, MOD).await, Some(module()));
    // From now on it is kept like anything else.
    drop(kept);
    let kept = place.restart().await;
    assert_eq!(served(&kept, MOD).await, Some(module()));
    assert_eq!(place.names().len(), 2, "{:?}", place.names());
}

#[tokio::test]
async fn a_spool_file_is_noted_by_another_name_and_outlives_the_spool() {
    let mut place = Place::new();
    let kept = place.start().await;
    let zip = crate::testing::module_zip("example.com/m", "v1.0.0", 300_000);
    let (writer, source) = place.spooled(&zip).await;
    let inode = std::fs::metadata(writer.path()).unwrap().ino();
    let noted = kept.note(&key(PATH), source).await.unwrap();
    assert_eq!(std::fs::metadata(place.file(".body")).unwrap().ino(), inode);
    drop((writer, noted, kept));
    let kept = place.restart().await;
    assert_eq!(served(&kept, PATH).await, Some(zip));
}

// acceptance: A16
#[tokio::test]
async fn without_links_a_file_is_kept_by_a_copy_and_not_noted() {
    let place = Place::new();
    place.faults.forbid_links();
    let kept = place.start().await;
    let zip = crate::testing::module_zip("example.com/m", "v1.0.0", 300_000);
    let (writer, source) = place.spooled(&zip).await;
    // Every fill would be copied, into space that nobody has promised.
    assert!(kept.note(&key(PATH), source.clone()).await.is_none());
    assert!(place.names().is_empty(), "{:?}", place.names());
    let space = Some(writer.space());
    let now = TokioClock.wall();
    let committing = kept.keep(&key(PATH), &source, space, now).await.unwrap();
    committing.entry().serve();
    assert_eq!(place.spool.used_bytes(), 2 * zip.len() as u64);
    drop((writer, source));
    assert_eq!(served(&kept, PATH).await, Some(zip));
    assert!(note(&kept, MOD, &module()).await.is_some());
}

#[tokio::test]
async fn what_is_safe_leaves_no_note() {
    let mut place = Place::new();
    let kept = place.start().await;
    note(&kept, MOD, &module()).await.unwrap().over().await;
    assert!(place.names().is_empty(), "{:?}", place.names());
    drop(kept);
    assert_eq!(served(&place.restart().await, MOD).await, None);
}

// acceptance: G6
#[tokio::test]
async fn a_note_that_is_cut_anywhere_leaves_all_or_nothing() {
    let noting = async |kept: &Kept| drop(note(kept, MOD, &module()).await);
    let steps = steps(noting).await;
    for step in 0..=steps {
        let mut place = Place::new();
        let kept = place.start().await;
        place.faults.cut_at(step, Cut::Die);
        let is_relied_on = note(&kept, MOD, &module()).await.is_some();
        drop(kept);
        let kept = place.restart().await;
        let found = served(&kept, MOD).await;
        assert!(found.is_none_or(|found| found == module()));
        assert!(!is_relied_on || kept.files() == 1, "lost at step {step}");
        assert_eq!(place.names().len() as u64, 2 * kept.files());
    }
}

// acceptance: G6
#[tokio::test]
async fn a_start_that_is_cut_while_it_takes_up_a_note_is_followed_by_one_that_does() {
    let mut cut = 0;
    for step in 0..12 {
        let mut place = Place::new();
        drop(note(&place.start().await, MOD, &module()).await);
        place.faults = KeptFaults::default();
        place.faults.cut_at(step, Cut::Die);
        drop(place.start().await);
        cut += usize::from(place.faults.steps() > step);
        let kept = place.restart().await;
        assert_eq!(served(&kept, MOD).await, Some(module()), "step {step}");
    }
    assert!(cut >= 5, "{cut} steps were cut");
}

// acceptance: G6
#[tokio::test]
async fn indexes_are_read_before_notes_are_taken_up() {
    let mut place = Place::new();
    let kept = place.start().await;
    drop(keep(&kept, PATH, &body()).await);
    drop(note(&kept, MOD, &module()).await);
    drop(kept);
    place.faults = KeptFaults::default();
    let kept = Kept::open_with_faults(place.path(), &place.spool, &place.faults);
    assert_eq!(kept.load(TokioClock.wall()).await, 1);
    assert_eq!(served(&kept, PATH).await, Some(body()));
    assert_eq!(served(&kept, MOD).await, None);
    while kept.take_up_note(TokioClock.wall()).await.is_some() {}
    assert_eq!(served(&kept, MOD).await, Some(module()));
    assert_eq!(place.names().len(), 4, "{:?}", place.names());
}

#[tokio::test]
async fn a_note_beside_its_index_goes_alone() {
    let mut place = Place::new();
    let kept = place.start().await;
    drop(keep(&kept, PATH, &body()).await);
    drop(kept);
    // As a start that was killed right before it removed the note.
    let text = r#"{"v":1,"path":"example.com/m/@v/v1.0.0.zip","len":21}"#;
    std::fs::write(place.file(".json").with_extension("note"), text).unwrap();
    let kept = place.restart().await;
    assert_eq!(served(&kept, PATH).await, Some(body()));
    assert_eq!(place.names().len(), 2, "{:?}", place.names());
}

// acceptance: G6
#[tokio::test]
async fn what_a_broken_off_fill_leaves_is_taken_up() {
    let place = Place::new();
    let kept = place.start().await;
    drop(note(&kept, MOD, &module()).await);
    let taken = kept.take_up_note(TokioClock.wall()).await;
    assert!(matches!(taken, Some(TakenUp::Kept("kept"))), "{taken:?}");
    // The upload finds out whether somebody else has stored other bytes.
    assert_eq!(served(&kept, MOD).await, None);
    assert_eq!(kept.idle_entries().len(), 1);
    assert_eq!(place.spool.used_bytes(), module().len() as u64);
    assert_eq!(place.names().len(), 2, "{:?}", place.names());
    // What is kept already needs no second place.
    drop(note(&kept, MOD, &module()).await);
    let taken = kept.take_up_note(TokioClock.wall()).await;
    assert!(matches!(taken, Some(TakenUp::Nothing)), "{taken:?}");
    assert_eq!(place.names().len(), 2, "{:?}", place.names());
    assert!(kept.take_up_note(TokioClock.wall()).await.is_none());
}

// acceptance: G6
#[tokio::test]
async fn what_a_broken_off_fill_leaves_is_kept_only_where_there_is_room() {
    let place = Place::with_limits(|limits| {
        limits.bytes_max = 100;
        limits.kept_percent_max = 10;
    });
    let kept = place.start().await;
    drop(note(&kept, MOD, &module()).await);
    let taken = kept.take_up_note(TokioClock.wall()).await;
    let Some(TakenUp::NoRoom(lost, NotKept::Full(_))) = taken else {
        panic!("{taken:?}");
    };
    assert_eq!(lost, key(MOD));
    assert!(place.names().is_empty(), "{:?}", place.names());
    assert_eq!((kept.files(), place.spool.used_bytes()), (0, 0));
}

// acceptance: G6
#[tokio::test]
async fn noted_bytes_that_are_damaged_are_fetched_again() {
    let mut place = Place::new();
    let kept = place.start().await;
    drop(note(&kept, MOD, &module()).await);
    std::fs::write(place.file(".body"), "module").unwrap();
    drop(kept);
    let kept = place.restart().await;
    assert_eq!(served(&kept, MOD).await, None);
    assert_eq!(kept.take_lost(), [key(MOD)]);
    assert!(place.names().is_empty(), "{:?}", place.names());
}

#[tokio::test]
async fn a_note_that_cannot_be_read_is_set_aside() {
    let mut place = Place::new();
    let kept = place.start().await;
    drop(note(&kept, MOD, &module()).await);
    std::fs::write(place.file(".note"), "{\"v\":9").unwrap();
    drop(kept);
    drop(place.restart().await);
    let names = place.names();
    assert!(
        names.len() == 2 && names.iter().all(|name| name.contains(".corrupt-")),
        "{names:?}"
    );
}
