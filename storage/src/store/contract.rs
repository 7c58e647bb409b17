//! What every kind of store must do, as one suite: [`run`] it over each.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::{ArtifactStore, Created, Source};
use crate::mapped::{CHUNK_BYTES_MAX, MappedFile};

/// What a store under test cannot do, by its protocol server's fault rather than by ours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowances {
    /// Conditional writes are checked before the body is read, so two at once may both succeed.
    pub creates_may_race: bool,
}

/// Runs every case over an empty store.
pub async fn run(store: &ArtifactStore, allowances: Allowances) {
    absence_and_names(store).await;
    created_once(store).await;
    bodies_of_every_size(store).await;
    a_big_file_byte_for_byte(store).await;
    replaced_at_once(store).await;
    deleted(store).await;
    listed_in_order(store).await;
    concurrent_creates(store, allowances).await;
    whole_or_not_at_all(store).await;
    store.check().await.unwrap();
    let shown = store.list("", None, 1000).await.unwrap();
    assert!(
        shown.iter().all(|object| !object.path.starts_with('.')),
        "{shown:?}"
    );
}

/// Reads a whole object.
pub async fn read(store: &ArtifactStore, path: &str) -> Option<Bytes> {
    let stored = store.lookup(path).await.unwrap()?;
    assert_eq!(stored.len, stored.body.len());
    Some(stored.body.read(u64::MAX).await.unwrap())
}

/// Bytes that differ from page to page.
pub fn pattern(len: usize, seed: u8) -> Bytes {
    (0..len)
        .map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8 ^ seed)
        .collect::<Vec<_>>()
        .into()
}

/// A finished spool file; the directory must outlive the source.
pub fn spooled(dir: &std::path::Path, bytes: &[u8]) -> Source {
    let path = dir.join(uuid::Uuid::new_v4().to_string());
    std::fs::write(&path, bytes).unwrap();
    let len = bytes.len() as u64;
    let map = MappedFile::map(&std::fs::File::open(&path).unwrap(), len).unwrap();
    Source::File { path, len, map }
}

/// A directory for spool files that is removed with the value.
fn spool_dir() -> crate::InstanceDir {
    let parent = std::env::temp_dir().join("corral-contract");
    crate::InstanceDir::open(&parent, "spool.dir").unwrap()
}

async fn absence_and_names(store: &ArtifactStore) {
    assert!(
        store
            .lookup("example.com/none/@v/v1.0.0.mod")
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        store
            .list("example.com/none", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    store
        .delete("example.com/none/@v/v1.0.0.mod")
        .await
        .unwrap();
    for path in [
        "",
        "/a",
        "a//b",
        "a/../b",
        "a/.",
        "a\0b",
        ".staging/x",
        "a\\b",
    ] {
        assert!(store.lookup(path).await.is_err(), "{path:?}");
        let source = Source::Bytes(Bytes::from_static(b"x"));
        assert!(store.create(path, source).await.is_err(), "{path:?}");
    }
}

async fn created_once(store: &ArtifactStore) {
    let path = "example.com/!acme/tool/@v/v1.0.0-rc.1+incompatible.info";
    let create = |bytes: &'static [u8]| store.create(path, Source::Bytes(bytes.into()));
    assert_eq!(create(b"first").await.unwrap(), Created::Created);
    assert_eq!(create(b"first").await.unwrap(), Created::ExistsSame);
    assert_eq!(
        create(b"other").await.unwrap(),
        Created::Conflict {
            stored_len: 5,
            offered_len: 5
        }
    );
    assert_eq!(
        create(b"longer").await.unwrap(),
        Created::Conflict {
            stored_len: 5,
            offered_len: 6
        }
    );
    assert_eq!(read(store, path).await.unwrap(), &b"first"[..]);
    let stored = store.lookup(path).await.unwrap().unwrap();
    assert!(stored.modified.elapsed().unwrap_or_default().as_secs() < 3600);
}

async fn bodies_of_every_size(store: &ArtifactStore) {
    let spool = spool_dir();
    let kib = 1 << 10;
    for (index, len) in [
        0,
        1,
        64 * kib,
        64 * kib + 1,
        256 * kib,
        256 * kib + 1,
        600 * kib,
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = pattern(len, 1);
        let path = format!("example.com/sizes/@v/v1.0.{index}.zip");
        let source = match index % 2 {
            0 => Source::Bytes(bytes.clone()),
            _ => spooled(spool.path(), &bytes),
        };
        assert_eq!(
            store.create(&path, source).await.unwrap(),
            Created::Created,
            "{len}"
        );
        let stored = store.lookup(&path).await.unwrap().unwrap();
        assert_eq!(stored.len, len as u64);
        let middle = len / 2;
        for range in [
            0..len,
            0..len.min(1),
            middle..len,
            len.saturating_sub(10)..len,
            len..len,
        ] {
            let mut stream = stored.body.stream(range.start as u64..range.end as u64);
            assert_eq!(stream.remaining(), range.len() as u64);
            let mut got = Vec::new();
            while let Some(chunk) = stream.try_next().await.unwrap() {
                assert!(chunk.len() <= CHUNK_BYTES_MAX);
                got.extend_from_slice(&chunk);
            }
            assert!(got == bytes[range.clone()], "{len} {range:?}");
        }
    }
}

async fn a_big_file_byte_for_byte(store: &ArtifactStore) {
    let spool = spool_dir();
    let bytes = pattern((8 << 20) + 3, 2);
    let path = "example.com/big/@v/v1.0.0.zip";
    let offer = |bytes: &[u8]| store.create(path, spooled(spool.path(), bytes));
    assert_eq!(offer(&bytes).await.unwrap(), Created::Created);
    assert_eq!(offer(&bytes).await.unwrap(), Created::ExistsSame);
    let mut other = bytes.to_vec();
    *other.last_mut().unwrap() ^= 1;
    assert!(matches!(
        offer(&other).await.unwrap(),
        Created::Conflict { .. }
    ));
    drop(spool);
    assert!(
        read(store, path).await.unwrap() == bytes,
        "also after the spool is gone"
    );
}

async fn replaced_at_once(store: &ArtifactStore) {
    let path = "example.com/doc/@v/list";
    store
        .replace(path, Bytes::from_static(b"v1.0.0\n"))
        .await
        .unwrap();
    let before = store.lookup(path).await.unwrap().unwrap();
    store
        .replace(path, Bytes::from_static(b"v1.0.0\nv1.1.0\n"))
        .await
        .unwrap();
    assert_eq!(read(store, path).await.unwrap(), &b"v1.0.0\nv1.1.0\n"[..]);
    assert_eq!(before.body.read(100).await.unwrap(), &b"v1.0.0\n"[..]);
    store.replace(path, Bytes::new()).await.unwrap();
    assert_eq!(
        read(store, path).await.unwrap(),
        Bytes::new(),
        "a module without versions"
    );
}

async fn deleted(store: &ArtifactStore) {
    let path = "example.com/gone/@v/v1.0.0.mod";
    let create = || store.create(path, Source::Bytes(Bytes::from_static(b"module gone")));
    assert_eq!(create().await.unwrap(), Created::Created);
    store.delete(path).await.unwrap();
    assert!(read(store, path).await.is_none());
    store.delete(path).await.unwrap();
    assert_eq!(create().await.unwrap(), Created::Created);
}

async fn listed_in_order(store: &ArtifactStore) {
    // Byte order of whole paths, which is not the order of a walk by directory names: `!`, `-`
    // and `.` sort before the slash.
    let names = [
        "a!b/@v/1", "a-b/@v/1", "a.b", "a/@v/1", "a/@v/10", "a/@v/2", "a/b/@v/1", "ab/x",
    ];
    let paths: Vec<_> = names
        .iter()
        .map(|name| format!("list.example/{name}"))
        .collect();
    for path in paths.iter().rev() {
        store
            .create(path, Source::Bytes(path.clone().into()))
            .await
            .unwrap();
    }
    for limit in [1, 2, 3, 100] {
        let mut got: Vec<String> = Vec::new();
        loop {
            let after = got.last().cloned();
            let page = store
                .list("list.example", after.as_deref(), limit)
                .await
                .unwrap();
            let last = page.len() < limit;
            assert!(
                page.iter()
                    .all(|object| object.len == object.path.len() as u64)
            );
            got.extend(page.into_iter().map(|object| object.path));
            if last {
                break;
            }
        }
        assert_eq!(got, paths, "in pages of {limit}");
    }
    let part = store.list("list.example/a", None, 100).await.unwrap();
    assert_eq!(part.len(), 4, "whole segments only: {part:?}");

    let directory = store.list_dir("list.example", 100).await.unwrap();
    let objects: Vec<_> = directory
        .objects
        .iter()
        .map(|object| object.path.as_str())
        .collect();
    assert_eq!(objects, ["list.example/a.b"]);
    let prefixes = ["a", "a!b", "a-b", "ab"].map(|name| format!("list.example/{name}"));
    assert_eq!(directory.prefixes, prefixes);
    assert!(!directory.truncated);
    assert!(store.list_dir("list.example", 2).await.unwrap().truncated);
    assert!(
        store
            .list_dir("list.example/none", 2)
            .await
            .unwrap()
            .objects
            .is_empty()
    );
}

async fn concurrent_creates(store: &ArtifactStore, allowances: Allowances) {
    let spool = Arc::new(spool_dir());
    let bytes = pattern(300 << 10, 3);
    let start = Arc::new(tokio::sync::Barrier::new(16));
    let tasks: Vec<_> = (0..16)
        .map(|index| {
            let (store, bytes) = (store.clone(), bytes.clone());
            let (spool, start) = (Arc::clone(&spool), Arc::clone(&start));
            tokio::spawn(async move {
                let source = match index % 2 {
                    0 => Source::Bytes(bytes),
                    _ => spooled(spool.path(), &bytes),
                };
                start.wait().await;
                store
                    .create("example.com/herd/@v/v1.0.0.zip", source)
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        match task.await.unwrap() {
            Created::Created => created += 1,
            Created::ExistsSame => {}
            Created::Conflict { .. } => panic!("the bytes were the same"),
        }
    }
    assert!(
        created == 1 || (created > 1 && allowances.creates_may_race),
        "{created} created"
    );
    assert!(read(store, "example.com/herd/@v/v1.0.0.zip").await.unwrap() == bytes);
}

async fn whole_or_not_at_all(store: &ArtifactStore) {
    let path = "example.com/whole/@v/v1.0.0.zip";
    let bytes = pattern(2 << 20, 4);
    let writer = {
        let (store, bytes) = (store.clone(), bytes.clone());
        tokio::spawn(async move { store.create(path, Source::Bytes(bytes)).await.unwrap() })
    };
    loop {
        let ended = writer.is_finished();
        let shown = store.list("example.com/whole", None, 10).await.unwrap();
        assert!(
            shown.iter().all(|object| object.len == bytes.len() as u64),
            "{shown:?}"
        );
        if let Some(stored) = store.lookup(path).await.unwrap() {
            assert_eq!(stored.len, bytes.len() as u64);
        } else {
            assert!(shown.is_empty(), "listed but not there");
            assert!(!ended, "answered but not there");
        }
        if ended {
            break;
        }
    }
    assert_eq!(writer.await.unwrap(), Created::Created);
}
