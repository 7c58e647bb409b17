//! Readers of a growing spool file: pace, held-back tail, failures, budget.
#![allow(clippy::unwrap_used)]

use futures::TryStreamExt;
use lease::TokioClock;

use super::*;
use crate::error::ErrorKind;

const MIB: usize = 1 << 20;

fn limits(bytes_max: u64) -> SpoolLimits {
    SpoolLimits {
        bytes_max,
        free_bytes_min: 0,
        ..SpoolLimits::default()
    }
}

struct Scene {
    spool: Spool,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new(bytes_max: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            spool: Spool::open(dir.path(), limits(bytes_max)).unwrap(),
            _dir: dir,
        }
    }

    async fn begin(&self, len: Option<u64>) -> Result<FillingWriter, Error> {
        let clock = Arc::new(TokioClock);
        let begun = self.spool.begin("m@v1.0.0.zip", len, Bytes::new(), clock);
        let mut writer = begun.await?;
        writer.open().await?;
        Ok(writer)
    }

    fn files(&self) -> usize {
        let is_spool = |name: &std::ffi::OsStr| name.len() == 32;
        std::fs::read_dir(self.spool.budget.dir())
            .unwrap()
            .filter(|entry| is_spool(&entry.as_ref().unwrap().file_name()))
            .count()
    }
}

fn body(len: usize) -> Bytes {
    (0..len)
        .map(|i| u8::try_from(i * 31 % 251).unwrap())
        .collect::<Vec<_>>()
        .into()
}

async fn read(filling: &Arc<Filling>, range: Range<u64>) -> Result<Vec<u8>, Error> {
    filling
        .stream(range)
        .try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

// acceptance: B3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_follow_one_writer() {
    let scene = Scene::new(1 << 30);
    let whole = body(3 * MIB + 17);
    let mut writer = scene.begin(Some(whole.len() as u64)).await.unwrap();
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let filling = writer.filling().clone();
            tokio::spawn(async move { read(&filling, 0..u64::MAX).await })
        })
        .collect();
    for piece in whole.chunks(50_000) {
        writer
            .append(vec![Bytes::copy_from_slice(piece)])
            .await
            .unwrap();
    }
    writer.complete();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), whole);
    }
    let filling = writer.filling().clone();
    assert_eq!(
        read(&filling, 100_000..300_000).await.unwrap(),
        whole[100_000..300_000]
    );
    drop(writer);
    assert_eq!(scene.files(), 0);
    // A reader that comes late still has the mapping.
    assert_eq!(read(&filling, 0..u64::MAX).await.unwrap(), whole);
    assert!(scene.spool.used_bytes() > 0);
    drop(filling);
    assert_eq!(scene.spool.used_bytes(), 0);
}

// acceptance: G5
// fault: 33
#[tokio::test]
async fn the_tail_is_held_back_until_verified() {
    let scene = Scene::new(1 << 30);
    let whole = body(MIB);
    let mut writer = scene.begin(Some(MIB as u64)).await.unwrap();
    writer.append(vec![whole.clone()]).await.unwrap();
    writer.tell();
    let filling = writer.filling().clone();
    assert_eq!(filling.state().readable, MIB as u64 - HELD_BACK_BYTES);
    let mut stream = filling.stream(0..u64::MAX);
    let mut seen = 0;
    while seen < MIB as u64 - HELD_BACK_BYTES {
        seen += stream.next().await.unwrap().unwrap().len() as u64;
    }
    assert!(futures::poll!(stream.next()).is_pending());
    writer.fail(Error::Corrupt {
        unit: "m".to_owned(),
        reason: "bad".to_owned(),
    });
    assert_eq!(
        stream.next().await.unwrap().unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        filling.whole().await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn a_writer_that_goes_away_is_a_failure() {
    let scene = Scene::new(1 << 30);
    let mut writer = scene.begin(None).await.unwrap();
    writer.append(vec![body(MIB)]).await.unwrap();
    let filling = writer.filling().clone();
    drop(writer);
    assert_eq!(
        read(&filling, 0..u64::MAX).await.unwrap_err().kind(),
        ErrorKind::Interrupted
    );
    assert_eq!(
        filling
            .readable_beyond(MIB as u64)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Interrupted
    );
    assert_eq!(scene.files(), 0);
}

// fault: 34
#[tokio::test]
async fn the_budget_is_kept_and_given_back() {
    let scene = Scene::new(MIB as u64);
    let first = scene.begin(Some(700_000)).await.unwrap();
    let refused = scene.begin(Some(700_000)).await.unwrap_err();
    assert!(matches!(
        refused,
        Error::Overloaded {
            limit: "spool.bytes_max"
        }
    ));
    let mut unannounced = scene.begin(None).await.unwrap();
    unannounced.append(vec![body(300_000)]).await.unwrap();
    let refused = unannounced.append(vec![body(300_000)]).await.unwrap_err();
    assert!(matches!(
        refused,
        Error::Overloaded {
            limit: "spool.bytes_max"
        }
    ));
    drop((first, unannounced));
    assert_eq!(scene.spool.used_bytes(), 0);
    assert!(scene.begin(Some(MIB as u64)).await.is_ok());
}

// acceptance: B3
#[tokio::test]
async fn the_head_is_read_before_there_is_a_file() {
    let scene = Scene::new(1 << 30);
    let whole = body(MIB);
    let head = whole.slice(..1000);
    let clock = Arc::new(TokioClock);
    let mut writer = scene
        .spool
        .begin("m@v1.0.0.zip", Some(MIB as u64), head.clone(), clock)
        .await
        .unwrap();
    let filling = writer.filling().clone();
    assert_eq!(scene.files(), 0);
    let mut stream = filling.stream(0..u64::MAX);
    assert_eq!(stream.next().await.unwrap().unwrap(), head);
    writer.open().await.unwrap();
    writer.append(vec![whole.slice(1000..)]).await.unwrap();
    writer.complete();
    assert_eq!(read(&filling, 0..u64::MAX).await.unwrap(), whole);
    assert_eq!(read(&filling, 500..2000).await.unwrap(), whole[500..2000]);
    assert_eq!(std::fs::read(writer.path()).unwrap(), whole);
}

#[tokio::test(start_paused = true)]
async fn a_reader_lets_the_others_begin_but_not_for_ever() {
    let scene = Scene::new(1 << 20);
    let writer = scene
        .spool
        .begin("m@v1.0.0.zip", None, body(10), Arc::new(TokioClock))
        .await
        .unwrap();
    let filling = writer.filling().clone();
    let first = tokio::spawn({
        let filling = filling.clone();
        async move { filling.let_others_begin(|| 2).await }
    });
    tokio::task::yield_now().await;
    assert!(!first.is_finished(), "the second has nothing yet");
    let asked = Instant::now();
    filling.let_others_begin(|| 2).await;
    assert_eq!(Instant::now(), asked, "the last to begin waits for nobody");
    first.await.unwrap();

    let asked = Instant::now();
    filling.let_others_begin(|| 9).await;
    assert!(asked.elapsed() <= OTHERS_BEGIN_MAX + OTHERS_BEGIN_LOOK);
}
