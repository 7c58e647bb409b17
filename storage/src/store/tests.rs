//! Tests of the store over each kind of backend, and of what it makes of a backend's faults.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use futures::{FutureExt, StreamExt};

use url::Url;

use super::contract::{Allowances, pattern, read, spooled};
use super::*;
use crate::ErrorKind;

mod s3;

const PATH: &str = "example.com/m/@v/v1.0.0.zip";

fn open(url: &str) -> ArtifactStore {
    ArtifactStore::open(url, StoreOptions::default()).unwrap()
}

fn open_dir(dir: &Path) -> ArtifactStore {
    open(dir.to_str().unwrap())
}

fn small(bytes: &'static [u8]) -> Source {
    Source::Bytes(Bytes::from_static(bytes))
}

/// Every file below a directory, relative to it.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

// acceptance: F1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    contract::run(&open("memory://"), Allowances::default()).await;
}

// acceptance: F1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not/there yet");
    let url = Url::from_directory_path(&root).unwrap();
    contract::run(&open(url.as_str()), Allowances::default()).await;
    assert!(
        files(&root)
            .iter()
            .all(|path| !path.starts_with(".staging")),
        "nothing is left"
    );
}

// acceptance: F1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_keeps_the_contract() {
    let server = s3::S3Server::start().await;
    let allowances = Allowances {
        creates_may_race: true,
    };
    contract::run(&server.store("s3://bucket/some/prefix"), allowances).await;
}

// fault: 24
#[tokio::test]
async fn only_a_missing_object_is_an_absence() {
    let code = |code| format!("<Error><Code>{code}</Code></Error>").leak() as &str;
    let absent = s3::store_that_answers("404 Not Found", code("NoSuchKey")).await;
    assert!(absent.lookup(PATH).await.unwrap().is_none());
    for (status, code) in [
        ("404 Not Found", code("NoSuchBucket")),
        ("403 Forbidden", code("AccessDenied")),
        ("401 Unauthorized", ""),
        ("400 Bad Request", code("ExpiredToken")),
        ("301 Moved Permanently", code("PermanentRedirect")),
        ("503 Slow Down", code("SlowDown")),
        ("200 OK", "what a captive portal says"),
    ] {
        let store = s3::store_that_answers(status, code).await;
        let error = store.lookup(PATH).await.expect_err(status);
        assert_eq!(error.kind(), ErrorKind::Storage, "{status}");
    }
}

// fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_body_is_resumed_after_cuts_and_silence() {
    let server = s3::S3Server::start().await;
    let bytes = pattern(3 << 20, 9);
    server
        .store("s3://bucket")
        .create(PATH, Source::Bytes(bytes.clone()))
        .await
        .unwrap();
    for silent in [false, true] {
        let link = server.broken_link(3, 700 << 10, silent).await;
        assert!(read(&link.store, PATH).await.unwrap() == bytes);
        assert!(link.connections() >= 3);
    }
}

// fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_body_that_stays_broken_ends_in_an_error() {
    let server = s3::S3Server::start().await;
    let bytes = pattern(1 << 20, 9);
    server
        .store("s3://bucket")
        .create(PATH, Source::Bytes(bytes.clone()))
        .await
        .unwrap();
    let link = server.broken_link(0, 0, false).await;
    let stored = link.store.lookup(PATH).await.unwrap().unwrap();
    link.sever();
    let mut stream = stored.body.stream(0..1 << 20);
    let mut got = 0;
    let error = loop {
        match stream.next().await.expect("an error comes before the end") {
            Ok(chunk) => got += chunk.len(),
            Err(error) => break error,
        }
    };
    assert!(got < 1 << 20, "{error}");
    assert!(stream.next().await.is_none());
}

// fault: 26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_of_two_objects_are_never_put_together() {
    let server = s3::S3Server::start().await;
    let store = server.store("s3://bucket");
    store.replace(PATH, pattern(1 << 20, 1)).await.unwrap();
    let stored = store.lookup(PATH).await.unwrap().unwrap();
    store.replace(PATH, pattern(1 << 20, 2)).await.unwrap();
    assert!(stored.body.read(u64::MAX).await.is_err());
}

// fault: 24
#[tokio::test]
async fn an_unreachable_store_is_no_absence() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let settings = [
        ("aws_endpoint_url", endpoint.as_str()),
        ("aws_allow_http", "1"),
        ("aws_region", "r"),
    ]
    .into_iter()
    .chain([
        ("aws_access_key_id", "k"),
        ("aws_secret_access_key", "hush"),
    ])
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let options = StoreOptions {
        settings,
        lookup_timeout: Duration::from_millis(500),
        ..StoreOptions::default()
    };
    assert!(!format!("{options:?}").contains("hush"));
    let store = ArtifactStore::open("s3://bucket", options).unwrap();
    let error = store.lookup(PATH).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains(PATH) && !error.to_string().contains("127.0.0.1"));
}

#[test]
fn a_wrong_url_is_a_line_about_the_setting() {
    for url in [
        "",
        "data",
        "./data",
        "ftp://host/x",
        "s3://",
        "s3:bucket",
        "s3://key:hush@bucket",
        "s3://bucket/a//b",
        "file://elsewhere/x",
        "az://c?sig=hush",
    ] {
        let error = ArtifactStore::open(url, StoreOptions::default()).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Config, "{url}: {text}");
        assert!(
            text.starts_with("storage: ") && !text.contains("hush"),
            "{url}: {text}"
        );
        assert_eq!(text.lines().count(), 1);
    }
}

#[tokio::test]
async fn a_spool_file_on_the_same_disk_is_linked_and_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_dir(&dir.path().join("store"));
    let source = spooled(dir.path(), &pattern(100_000, 4));
    let Source::File { path: spool, .. } = &source else {
        unreachable!()
    };
    let inode = std::fs::metadata(spool).unwrap().ino();
    assert_eq!(
        store.create(PATH, source.clone()).await.unwrap(),
        Created::Created
    );
    let stored = dir.path().join("store").join(PATH);
    assert_eq!(std::fs::metadata(&stored).unwrap().ino(), inode);
    std::fs::remove_file(spool).unwrap();
    assert!(read(&store, PATH).await.unwrap() == pattern(100_000, 4));
}

#[tokio::test]
async fn a_spool_file_on_another_disk_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let other = Path::new("/dev/shm");
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    if device(other).is_none() || device(other) == device(dir.path()) {
        return; // One file system is all there is: nothing to show.
    }
    let elsewhere = tempfile::tempdir_in(other).unwrap();
    let store = open_dir(dir.path());
    let source = spooled(elsewhere.path(), &pattern(100_000, 4));
    assert_eq!(
        store.create(PATH, source.clone()).await.unwrap(),
        Created::Created
    );
    assert_eq!(
        store.create(PATH, source).await.unwrap(),
        Created::ExistsSame
    );
    assert!(read(&store, PATH).await.unwrap() == pattern(100_000, 4));
    assert_eq!(
        files(dir.path()).len(),
        2,
        "the object and the staging directory's lock"
    );
}

#[tokio::test]
async fn leftovers_of_the_dead_are_swept_and_the_staging_of_the_living_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let living = open_dir(dir.path());
    let dead = dir
        .path()
        .join(".staging")
        .join(uuid::Uuid::new_v4().to_string());
    std::fs::create_dir_all(&dead).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    std::fs::write(dead.join("0"), "half a zip").unwrap();
    let next = open_dir(dir.path());
    assert!(!dead.exists());
    for (store, path) in [(&living, "a/@v/1.mod"), (&next, "b/@v/1.mod")] {
        assert_eq!(
            store.create(path, small(b"module")).await.unwrap(),
            Created::Created
        );
    }
    drop((living, next));
    assert_eq!(files(dir.path()), ["a/@v/1.mod", "b/@v/1.mod"]);
}

#[tokio::test]
async fn staging_that_was_cleaned_away_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_dir(dir.path());
    std::fs::remove_dir_all(dir.path().join(".staging")).unwrap();
    assert_eq!(
        store.create(PATH, small(b"x")).await.unwrap(),
        Created::Created
    );
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_be_written_to_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("example.com/m/@v")).unwrap();
    std::fs::write(dir.path().join(PATH), "from before").unwrap();
    // A file where staging would be stops every user, root included.
    std::fs::write(dir.path().join(".staging"), "").unwrap();
    let store = open_dir(dir.path());
    assert_eq!(read(&store, PATH).await.unwrap(), &b"from before"[..]);
    let error = store
        .create("other/@v/v1.0.0.mod", small(b"x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(
        !error.to_string().contains(dir.path().to_str().unwrap()),
        "{error}"
    );
    match store.check().await.unwrap() {
        StoreHealth::ReadOnly(error) => assert_eq!(error.kind(), ErrorKind::Storage),
        StoreHealth::Writable => panic!("it cannot be written to"),
    }
    // It comes back by itself.
    std::fs::remove_file(dir.path().join(".staging")).unwrap();
    assert!(matches!(
        store.check().await.unwrap(),
        StoreHealth::Writable
    ));
}

// fault: 24
#[tokio::test]
async fn a_root_that_is_gone_or_another_one_is_no_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = open_dir(&root);
    store.create(PATH, small(b"x")).await.unwrap();
    std::fs::rename(&root, dir.path().join("aside")).unwrap();
    for other_root in [false, true] {
        if other_root {
            std::fs::create_dir(&root).unwrap();
        }
        assert_eq!(
            store.lookup(PATH).await.unwrap_err().kind(),
            ErrorKind::Storage
        );
        assert!(store.list("", None, 9).await.is_err());
        assert!(store.create("b/@v/1", small(b"x")).await.is_err());
        assert!(store.replace("b/@v/list", Bytes::new()).await.is_err());
        assert!(store.check().await.is_err());
    }
    assert!(files(&root).is_empty());
}

// acceptance: G9
#[tokio::test]
async fn strange_things_in_the_tree_stop_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_dir(dir.path());
    std::fs::create_dir_all(dir.path().join("m/@v/v1.0.0.zip")).unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("m/loop")).unwrap();
    std::os::unix::fs::symlink("nothing", dir.path().join("m/dangling")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("m/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(store.lookup("m/@v/v1.0.0.zip").await.unwrap().is_none());
    assert!(store.lookup("m/dangling").await.unwrap().is_none());
    assert!(store.lookup("m/pipe").await.is_err());
    assert!(store.lookup(&"x".repeat(300)).await.unwrap().is_none());
    assert!(store.list("", None, 100).await.unwrap().is_empty());
}

// fault: 25
#[tokio::test(start_paused = true)]
async fn what_is_stored_decides_whatever_a_create_was_answered() {
    let hour = Duration::from_secs(3600);
    let cases = [
        (vec![], Created::Created, 1),
        // The answer was lost, or came after our patience.
        (vec![Fault::Lost], Created::ExistsSame, 1),
        (vec![Fault::Late(hour)], Created::ExistsSame, 1),
        // It never arrived, or somebody else's write was in progress and failed.
        (vec![Fault::Fail], Created::Created, 2),
        (vec![Fault::Hang], Created::Created, 2),
        (vec![Fault::Lie; 5], Created::Created, 6),
    ];
    for (sequence, outcome, calls) in cases {
        let faults = Faults::new();
        for (index, fault) in sequence.iter().enumerate() {
            faults.inject(Operation::Create, index + 1..=index + 1, fault.clone());
        }
        let store = open("memory://").with_faults(&faults);
        assert_eq!(
            store.create(PATH, small(b"x")).await.unwrap(),
            outcome,
            "{sequence:?}"
        );
        assert_eq!(faults.calls(Operation::Create), calls, "{sequence:?}");
        assert_eq!(read(&store, PATH).await.unwrap(), &b"x"[..]);
    }
}

// fault: 25
#[tokio::test(start_paused = true)]
async fn creating_gives_up_after_a_bound() {
    for (fault, calls) in [
        (Fault::Fail, 6),
        (Fault::Lie, 6),
        (Fault::Refuse, 1),
        (Fault::Hang, 6),
    ] {
        let faults = Faults::new();
        faults.inject(Operation::Create, .., fault.clone());
        let store = open("memory://").with_faults(&faults);
        let error = store.create(PATH, small(b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert_eq!(faults.calls(Operation::Create), calls, "{fault:?}");
    }
}

// fault: 26
#[tokio::test(start_paused = true)]
async fn other_bytes_are_a_conflict_also_after_a_lost_answer() {
    let faults = Faults::new();
    let store = open("memory://").with_faults(&faults);
    store.create(PATH, small(b"first")).await.unwrap();
    faults.inject(Operation::Create, 2..=2, Fault::Fail);
    let conflict = store.create(PATH, small(b"other")).await.unwrap();
    assert!(matches!(conflict, Created::Conflict { .. }));
    assert_eq!(read(&store, PATH).await.unwrap(), &b"first"[..]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_never_answered_leaves_a_store_that_can_be_read() {
    let faults = Faults::new();
    let store = open("memory://").with_faults(&faults);
    faults.inject(Operation::CheckWrite, 1..=1, Fault::Hang);
    assert!(matches!(
        store.check().await.unwrap(),
        StoreHealth::ReadOnly(_)
    ));
    assert!(matches!(
        store.check().await.unwrap(),
        StoreHealth::Writable
    ));
}

#[tokio::test(start_paused = true)]
async fn every_operation_has_a_deadline() {
    let faults = Faults::new();
    let store = open("memory://").with_faults(&faults);
    for operation in [
        Operation::Lookup,
        Operation::Create,
        Operation::Replace,
        Operation::Delete,
        Operation::List,
        Operation::CheckRead,
    ] {
        faults.inject(operation, .., Fault::Hang);
    }
    let outcomes = [
        store.lookup(PATH).map(|outcome| outcome.err()).boxed(),
        store
            .create(PATH, small(b"x"))
            .map(|outcome| outcome.err())
            .boxed(),
        store
            .replace(PATH, Bytes::new())
            .map(|outcome| outcome.err())
            .boxed(),
        store.delete(PATH).map(|outcome| outcome.err()).boxed(),
        store.list("", None, 1).map(|outcome| outcome.err()).boxed(),
        store.list_dir("", 1).map(|outcome| outcome.err()).boxed(),
        store.check().map(|outcome| outcome.err()).boxed(),
    ];
    for outcome in futures::future::join_all(outcomes).await {
        assert_eq!(outcome.expect("it failed").kind(), ErrorKind::Storage);
    }
}

#[tokio::test]
async fn a_body_that_ends_early_or_late_is_an_error() {
    let pieces = |count: usize| {
        futures::stream::iter((0..count).map(|_| Ok(Bytes::from_static(b"0123456789")))).boxed()
    };
    for (len, count, fine) in [(30, 3, true), (31, 3, false), (25, 3, false), (0, 0, true)] {
        let outcomes: Vec<_> = ByteStream::from_stream(len, pieces(count)).collect().await;
        assert_eq!(outcomes.iter().all(Result::is_ok), fine, "{len} {count}");
    }
}
