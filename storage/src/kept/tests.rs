//! Keeping, cut at every step; what a restart finds; limits.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use lease::{Clock, TokioClock};
use uuid::Uuid;

use super::*;
use crate::layout;
use crate::spool::SpoolLimits;

mod notes;
mod reads;

const PATH: &str = "example.com/m/@v/v1.0.0.zip";

struct Place {
    dir: tempfile::TempDir,
    spool: Spool,
    faults: KeptFaults,
}

impl Place {
    fn new() -> Self {
        Self::with_limits(|_| {})
    }

    fn with_limits(change: impl FnOnce(&mut SpoolLimits)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut limits = SpoolLimits {
            free_bytes_min: 0,
            ..SpoolLimits::default()
        };
        change(&mut limits);
        let spool = Spool::open(&dir.path().join("spool"), limits).unwrap();
        Self {
            dir,
            spool,
            faults: KeptFaults::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("kept")
    }

    /// As a process does that begins.
    async fn start(&self) -> Kept {
        let kept = Kept::open_with_faults(self.path(), &self.spool, &self.faults);
        kept.load(TokioClock.wall()).await;
        while kept.take_up_note(TokioClock.wall()).await.is_some() {}
        kept
    }

    /// The same behind a cut, by a process of its own.
    async fn restart(&mut self) -> Kept {
        self.faults = KeptFaults::default();
        self.start().await
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The one file whose name ends like this.
    fn file(&self, suffix: &str) -> PathBuf {
        let mut names = self.names();
        names.retain(|name| name.ends_with(suffix));
        assert_eq!(names.len(), 1, "{names:?}");
        self.path().join(names.remove(0))
    }

    /// A body in a spool file, as a fill leaves it.
    async fn spooled(&self, body: &Bytes) -> (crate::spool::FillingWriter, Source) {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock);
        let len = Some(body.len() as u64);
        let mut writer = self
            .spool
            .begin("m@v1.0.0.zip", len, body.clone(), clock)
            .await
            .unwrap();
        writer.open().await.unwrap();
        writer.complete();
        let source = Source::File {
            path: writer.path().to_owned(),
            len: body.len() as u64,
            map: writer.freeze().unwrap(),
        };
        (writer, source)
    }
}

fn key(path: &str) -> ArtifactKey {
    layout::parse_path(path).unwrap()
}

fn body() -> Bytes {
    Bytes::from_static(b"the bytes of a module")
}

async fn keep(kept: &Kept, path: &str, body: &Bytes) -> Result<Committing, NotKept> {
    let source = Source::Bytes(body.clone());
    kept.keep(&key(path), &source, None, TokioClock.wall())
        .await
}

async fn served(kept: &Kept, path: &str) -> Option<Bytes> {
    let stored = kept.get(&key(path)).await?;
    Some(stored.body.read(u64::MAX).await.unwrap())
}

/// How many steps an undisturbed sequence has.
async fn steps(work: impl AsyncFn(&Kept)) -> usize {
    let place = Place::new();
    let kept = place.start().await;
    work(&kept).await;
    place.faults.steps()
}

// acceptance: G6
#[tokio::test]
async fn a_keeping_that_is_cut_anywhere_leaves_all_or_nothing() {
    let keeping = async |kept: &Kept| drop(keep(kept, PATH, &body()).await);
    let steps = steps(keeping).await;
    assert!(steps >= 8, "{steps} steps");
    let mut survived = 0;
    for step in 0..=steps {
        let mut place = Place::new();
        let kept = place.start().await;
        place.faults.cut_at(step, Cut::Die);
        let is_relied_on = keep(&kept, PATH, &body()).await.is_ok();
        drop(kept);
        let kept = place.restart().await;
        match served(&kept, PATH).await {
            Some(found) => {
                assert_eq!(found, body(), "step {step}");
                survived += 1;
            }
            None => assert!(!is_relied_on, "kept bytes are lost at step {step}"),
        }
        // Half a thing is swept, and nothing else is left over.
        let files = usize::try_from(kept.files()).unwrap();
        assert_eq!(place.names().len(), 2 * files, "{:?}", place.names());
        assert!(kept.take_lost().is_empty());
    }
    assert!(
        survived >= 2,
        "the last steps come after the index is in place"
    );
}

// acceptance: G6
#[tokio::test]
async fn a_disk_that_refuses_any_step_of_keeping_leaves_nothing_behind() {
    let keeping = async |kept: &Kept| drop(keep(kept, PATH, &body()).await);
    for step in 0..steps(keeping).await {
        let place = Place::new();
        let kept = place.start().await;
        place.faults.cut_at(step, Cut::Fail);
        let refused = keep(&kept, PATH, &body()).await;
        assert!(matches!(refused, Err(NotKept::Failed(_))), "step {step}");
        drop(refused);
        assert_eq!((kept.files(), kept.bytes()), (0, 0));
        assert_eq!(place.spool.used_bytes(), 0);
        assert!(place.names().is_empty(), "{:?}", place.names());
        keep(&kept, PATH, &body()).await.unwrap();
    }
}

// acceptance: G6
#[tokio::test]
async fn a_removal_that_is_cut_anywhere_leaves_what_can_be_removed_again() {
    for step in 0..4 {
        let mut place = Place::new();
        let kept = place.start().await;
        let entry = keep(&kept, PATH, &body()).await.unwrap().entry().clone();
        place.faults.cut_at(step, Cut::Die);
        kept.remove(&entry).await;
        drop((kept, entry));
        let kept = place.restart().await;
        // Still there, and whole, or gone altogether.
        if let Some(found) = served(&kept, PATH).await {
            assert_eq!(found, body(), "step {step}");
            let entry = kept.entry(&key(PATH)).await.unwrap();
            kept.remove(&entry).await;
        }
        assert!(place.names().is_empty(), "step {step}: {:?}", place.names());
        assert!(kept.take_lost().is_empty(), "step {step}");
    }
}

// acceptance: G6
#[tokio::test]
async fn a_setting_aside_that_is_cut_anywhere_serves_nothing_half() {
    for step in 0..3 {
        let mut place = Place::new();
        let kept = place.start().await;
        let entry = keep(&kept, PATH, &body()).await.unwrap().entry().clone();
        place.faults.cut_at(step, Cut::Die);
        kept.set_aside(&entry).await;
        drop((kept, entry));
        let kept = place.restart().await;
        if let Some(found) = served(&kept, PATH).await {
            assert_eq!(found, body(), "step {step}");
        }
        let files = usize::try_from(kept.files()).unwrap();
        let names = place.names();
        let here = names.iter().filter(|name| *name != "conflicts");
        assert_eq!(here.count(), 2 * files, "step {step}: {names:?}");
        assert!(kept.take_lost().is_empty(), "step {step}");
    }
}

#[tokio::test]
async fn a_spool_file_is_linked_and_takes_its_place_once() {
    let place = Place::new();
    let kept = place.start().await;
    let body = Bytes::from(vec![7; 300_000]);
    let (writer, source) = place.spooled(&body).await;
    let inode = std::fs::metadata(writer.path()).unwrap().ino();
    let committing = kept
        .keep(&key(PATH), &source, Some(writer.space()), TokioClock.wall())
        .await
        .unwrap();
    let entry = committing.entry().clone();
    entry.serve();
    assert_eq!(std::fs::metadata(place.file(".body")).unwrap().ino(), inode);
    assert_eq!(place.spool.used_bytes(), 300_000);
    assert_eq!(kept.bytes(), 300_000);
    // The spool's file goes with its fill, the kept one stays.
    drop((writer, source, committing));
    assert_eq!(place.spool.used_bytes(), 300_000);
    let reader = kept.get(&key(PATH)).await.unwrap();
    assert!(matches!(reader.body, crate::StoredBody::Mapped(_)));
    kept.remove(&entry).await;
    drop(entry);
    assert_eq!((kept.bytes(), place.spool.used_bytes()), (0, 0));
    assert!(kept.get(&key(PATH)).await.is_none());
    // Who reads it reads on.
    assert_eq!(reader.body.read(u64::MAX).await.unwrap(), body);
}

#[tokio::test]
async fn what_has_no_room_is_not_kept() {
    let percent = |percent| {
        Place::with_limits(|limits| {
            limits.bytes_max = 100;
            limits.kept_percent_max = percent;
        })
    };
    let place = percent(50);
    let kept = place.start().await;
    let other = "example.com/m/@v/v1.0.0.mod";
    let first = keep(&kept, PATH, &Bytes::from(vec![1; 40])).await.unwrap();
    let refused = keep(&kept, other, &Bytes::from(vec![1; 11])).await;
    assert!(matches!(
        refused,
        Err(NotKept::Full("spool.kept_percent_max"))
    ));
    keep(&kept, other, &Bytes::from(vec![1; 10])).await.unwrap();
    assert_eq!((kept.files(), kept.bytes()), (2, 50));
    assert_eq!(place.names().len(), 4);
    // Whoever leaves makes room.
    let entry = first.entry().clone();
    drop(first);
    kept.remove(&entry).await;
    drop(entry);
    assert_eq!((kept.files(), kept.bytes()), (1, 10));
    keep(&kept, PATH, &Bytes::from(vec![1; 40])).await.unwrap();

    let place = percent(0);
    let kept = place.start().await;
    let refused = keep(&kept, PATH, &body()).await;
    assert!(matches!(refused, Err(NotKept::Full(_))));
    assert!(place.names().is_empty());
}

#[tokio::test]
async fn the_same_is_kept_once_and_other_bytes_not_at_all() {
    let place = Place::new();
    let kept = place.start().await;
    let first = keep(&kept, PATH, &body()).await.unwrap();
    let again = keep(&kept, PATH, &body()).await.unwrap();
    assert!(Arc::ptr_eq(first.entry(), again.entry()));
    let other = keep(&kept, PATH, &Bytes::from_static(b"others")).await;
    assert!(matches!(other, Err(NotKept::Conflict)));
    assert_eq!(place.names().len(), 2);
}

#[tokio::test]
async fn nothing_is_served_before_its_fill_has_ended() {
    let place = Place::new();
    let kept = place.start().await;
    let committing = keep(&kept, PATH, &body()).await.unwrap();
    let entry = committing.entry().clone();
    assert!(served(&kept, PATH).await.is_none());
    assert!(kept.idle_entries().is_empty());
    entry.serve();
    drop(committing);
    assert_eq!(served(&kept, PATH).await.unwrap(), body());
    assert_eq!(kept.idle_entries().len(), 1);
    let unit = key(PATH).unit();
    assert!(kept.get_by_token(&unit, &entry.token()).await.is_some());
    assert!(kept.get_by_token("other", &entry.token()).await.is_none());
    let unknown = LeaseToken::random();
    assert!(kept.get_by_token(&unit, &unknown).await.is_none());
}

/// Keeps one artifact, damages it, and starts again.
async fn damaged(damage: impl FnOnce(&Place)) -> (Place, Kept) {
    let mut place = Place::new();
    let kept = place.start().await;
    drop(keep(&kept, PATH, &body()).await.unwrap());
    drop(kept);
    damage(&place);
    let kept = place.restart().await;
    (place, kept)
}

// acceptance: G6
#[tokio::test]
async fn damaged_bytes_are_removed_and_fetched_again() {
    type Damage = fn(&Place);
    let damages: [Damage; 3] = [
        |place| std::fs::write(place.file(".body"), "the bytes").unwrap(),
        |place| std::fs::write(place.file(".body"), "the BYTES of a module").unwrap(),
        |place| std::fs::remove_file(place.file(".body")).unwrap(),
    ];
    for damage in damages {
        let (place, kept) = damaged(damage).await;
        assert!(served(&kept, PATH).await.is_none());
        assert_eq!(kept.take_lost(), [key(PATH)]);
        assert!(place.names().is_empty(), "{:?}", place.names());
        assert_eq!((kept.files(), place.spool.used_bytes()), (0, 0));
    }
}

// acceptance: G6
#[tokio::test]
async fn an_index_that_cannot_be_read_is_set_aside_with_its_bytes() {
    let texts: [fn(&str) -> String; 5] = [
        |_| String::new(),
        |text| text[..text.len() / 2].to_owned(),
        |text| text.replace("\"v\":1", "\"v\":2"),
        |text| text.replace("/@v/v1.0.0.zip", "/@v/list"),
        |text| text.replace("example.com/m", "../../etc"),
    ];
    for change in texts {
        let (place, kept) = damaged(|place| {
            let index = place.file(".json");
            let text = std::fs::read_to_string(&index).unwrap();
            let changed = change(&text);
            assert_ne!(changed, text);
            std::fs::write(&index, changed).unwrap();
        })
        .await;
        assert!(served(&kept, PATH).await.is_none());
        let names = place.names();
        assert_eq!(names.len(), 2, "{names:?}");
        let is_aside = |name: &String| name.contains(".corrupt-");
        assert!(names.iter().all(is_aside), "{names:?}");
        // It stays where it is, and the next may be kept under the same name.
        drop(keep(&kept, PATH, &body()).await.unwrap());
        assert_eq!(place.names().len(), 4);
    }
}

#[tokio::test]
async fn foreign_files_are_left_alone_and_leftovers_are_swept() {
    let mut place = Place::new();
    drop(place.start().await);
    let stem = Uuid::new_v4().simple().to_string();
    for name in ["notes.txt", "x.body", "conflicts"] {
        std::fs::write(place.path().join(name), "mine").unwrap();
    }
    std::fs::write(place.path().join(format!("{stem}.body")), "half").unwrap();
    std::fs::write(place.path().join(format!("{stem}.json.new")), "{").unwrap();
    let kept = place.restart().await;
    assert_eq!(place.names(), ["conflicts", "notes.txt", "x.body"]);
    assert!(kept.is_empty());
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_keeps_nothing() {
    let place = Place::new();
    std::fs::write(place.path(), "a file is in the way").unwrap();
    let kept = place.start().await;
    let refused = keep(&kept, PATH, &body()).await;
    assert!(matches!(refused, Err(NotKept::Failed(_))));
    assert!(kept.is_empty());
    assert!(kept.get(&key(PATH)).await.is_none());
}

#[tokio::test]
async fn contradictions_are_set_aside_and_the_oldest_make_room() {
    let place = Place::new();
    let kept = place.start().await;
    for number in 0..20 {
        let path = format!("example.com/m/@v/v1.0.{number}.zip");
        let entry = keep(&kept, &path, &body()).await.unwrap().entry().clone();
        assert!(kept.set_aside(&entry).await);
    }
    assert_eq!((kept.files(), kept.bytes()), (0, 0));
    assert_eq!(place.names(), ["conflicts"]);
    let aside = std::fs::read_dir(place.path().join("conflicts")).unwrap();
    assert_eq!(aside.count(), 2 * 16);
}

#[tokio::test]
async fn versions_are_those_whose_info_is_kept() {
    let place = Place::new();
    let kept = place.start().await;
    for path in [
        "example.com/m/@v/v1.2.0.info",
        "example.com/m/@v/v1.3.0.mod",
        "example.com/n/@v/v1.4.0.info",
    ] {
        keep(&kept, path, &body()).await.unwrap().entry().serve();
    }
    let module = ModulePath::parse("example.com/m").unwrap();
    let versions = kept.versions(&module);
    assert_eq!(versions, [Version::parse("v1.2.0").unwrap()]);
}
