//! Tests of mapped files: bytes, residency, fairness, and a writer beside many readers.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use futures::{StreamExt, TryStreamExt};

use super::*;

/// Bytes that differ from page to page and from chunk to chunk.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8)
        .collect()
}

fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn mapped(bytes: &[u8]) -> MappedFile {
    MappedFile::map(&file_with(bytes), bytes.len() as u64).unwrap()
}

#[test]
fn slices_share_the_mapping_and_outlive_it() {
    let bytes = pattern(3 << 20);
    let file = mapped(&bytes);
    let (a, b) = (file.slice(10..2_000_000), file.slice(10..20));
    assert_eq!(a.as_ptr(), b.as_ptr());
    drop(file);
    assert_eq!(a, &bytes[10..2_000_000]);
}

#[test]
fn an_empty_file_maps_to_nothing() {
    let file = mapped(b"");
    assert!(file.is_empty());
    assert!(file.slice(0..0).is_empty());
}

#[test]
fn a_file_shorter_than_announced_is_refused() {
    let error = MappedFile::map(&file_with(b"short"), 6).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

// acceptance: F14
#[tokio::test]
async fn a_stream_yields_every_byte_in_small_chunks() {
    let bytes = pattern((5 << 20) + 17);
    let file = mapped(&bytes);
    let len = bytes.len();
    for range in [
        0..len,
        1..len,
        65_535..65_537,
        7..7,
        (2 << 20) - 1..(4 << 20) + 1,
    ] {
        let mut stream = file.stream(range.start as u64..range.end as u64);
        assert_eq!(stream.remaining(), range.len() as u64);
        let mut got = Vec::new();
        while let Some(chunk) = stream.try_next().await.unwrap() {
            assert!(!chunk.is_empty() && chunk.len() <= CHUNK_BYTES_MAX);
            got.extend_from_slice(&chunk);
        }
        assert_eq!(stream.remaining(), 0);
        assert!(got == bytes[range]);
    }
}

#[tokio::test]
async fn missing_pages_are_read_on_a_blocking_thread() {
    let bytes = pattern(5 << 20);
    let file = file_with(&bytes);
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let map = MappedFile::map(&file, bytes.len() as u64).unwrap();
    // On tmpfs, where nothing can be dropped, only the bytes are checked.
    let cold = !map.mapping.is_resident(0..bytes.len());

    let mut stream = map.stream(0..bytes.len() as u64);
    let mut got = Vec::new();
    while let Some(chunk) = stream.try_next().await.unwrap() {
        got.extend_from_slice(&chunk);
    }
    assert!(got == bytes);
    assert!(!cold || stream.loads() > 0);
    assert!(map.mapping.is_resident(0..bytes.len()));

    let mut again = map.stream(0..bytes.len() as u64);
    while again.try_next().await.unwrap().is_some() {}
    assert_eq!(again.loads(), 0, "what is in memory needs no thread");
}

#[tokio::test]
async fn a_file_whose_residency_is_hidden_is_always_read_off_the_worker() {
    let bytes = pattern(5 << 20);
    let mut mapping = Mapping::new(&file_with(&bytes), 0, bytes.len()).unwrap();
    mapping.residency_known = false;
    let map = MappedFile {
        mapping: Arc::new(mapping),
        ..mapped(&bytes)
    };
    let mut stream = map.stream(0..bytes.len() as u64);
    while stream.try_next().await.unwrap().is_some() {}
    assert_eq!(stream.loads(), 3, "once for each window of 2 MiB");
}

#[test]
fn touching_works_where_the_kernel_lacks_the_advice() {
    let map = mapped(&pattern(100_001));
    map.mapping.touch(5..100_001);
    map.mapping.touch(100_000..100_001);
}

#[tokio::test]
async fn a_file_truncated_by_somebody_else_ends_the_stream_with_an_error() {
    let bytes = pattern(6 << 20);
    let file = file_with(&bytes);
    let map = MappedFile::map(&file, bytes.len() as u64).unwrap();
    file.set_len(4096).unwrap();
    let mut stream = map.stream(0..bytes.len() as u64);
    let error = loop {
        if let Err(error) = stream.next().await.expect("an error comes before the end") {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(stream.next().await.is_none());
}

#[test]
fn a_stream_gives_way_after_the_first_chunk_and_then_every_four() {
    let bytes = pattern(1 << 20);
    let map = mapped(&bytes);
    assert!(map.mapping.is_resident(0..bytes.len()), "just written");
    let mut stream = map.stream(0..bytes.len() as u64);
    let mut context = Context::from_waker(Waker::noop());
    let mut runs = vec![0];
    loop {
        match stream.poll_next_unpin(&mut context) {
            Poll::Ready(Some(chunk)) => *runs.last_mut().unwrap() += chunk.unwrap().len(),
            Poll::Ready(None) => break,
            Poll::Pending => runs.push(0),
        }
    }
    let kib = |count: usize| count << 10;
    assert_eq!(runs, [kib(64), kib(256), kib(256), kib(256), kib(192)]);
}

#[tokio::test]
async fn a_thousand_streams_on_one_thread_advance_together() {
    let bytes = pattern(2 << 20);
    let map = mapped(&bytes);
    let done = Arc::new(AtomicUsize::new(0));
    let started = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = map.stream(0..2 << 20);
            let (started, done) = (Arc::clone(&started), Arc::clone(&done));
            tokio::spawn(async move {
                stream.try_next().await.unwrap();
                started.fetch_add(1, Ordering::Relaxed);
                while stream.try_next().await.unwrap().is_some() {}
                if done.fetch_add(1, Ordering::Relaxed) == 0 {
                    // The first to finish finds that all others have begun.
                    assert_eq!(started.load(Ordering::Relaxed), 1000);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(done.load(Ordering::Relaxed), 1000);
}

#[test]
fn a_growing_map_cuts_at_its_segments() {
    let bytes = pattern(200_000);
    let map = GrowingMap::with_segment_bytes(file_with(&bytes), 65_536);
    assert_eq!(map.slice(0..200_000, 200_000).unwrap(), &bytes[..65_536]);
    assert_eq!(
        map.slice(65_530..65_540, 200_000).unwrap(),
        &bytes[65_530..65_536]
    );
    assert_eq!(
        map.slice(131_072..200_000, 200_000).unwrap(),
        &bytes[131_072..196_608]
    );
    assert!(map.slice(9..9, 9).unwrap().is_empty());
    assert_eq!(map.freeze(200_000).unwrap().slice(0..200_000), bytes);
}

#[test]
fn bytes_past_the_watermark_are_refused() {
    let map = GrowingMap::new(file_with(&pattern(100)));
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| map.slice(0..51, 50)));
    assert!(asked.is_err());
}

#[test]
fn readers_follow_a_writer_through_segments() {
    const TOTAL: usize = 3 << 20;
    let bytes = Arc::new(pattern(TOTAL));
    let mut writer = tempfile::NamedTempFile::new().unwrap();
    let map = Arc::new(GrowingMap::with_segment_bytes(
        writer.reopen().unwrap(),
        256 << 10,
    ));
    let written = Arc::new(AtomicU64::new(0));

    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (map, written, bytes) =
                (Arc::clone(&map), Arc::clone(&written), Arc::clone(&bytes));
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                let mut next = 0;
                while next < TOTAL as u64 {
                    let watermark = written.load(Ordering::Acquire);
                    if next == watermark {
                        std::thread::yield_now();
                        continue;
                    }
                    let chunk = map.slice(next..watermark, watermark).unwrap();
                    let at = next as usize;
                    assert!(chunk == bytes[at..at + chunk.len()]);
                    next += chunk.len() as u64;
                    kept.push((at, chunk));
                }
                // Slices taken early still hold after everything was written.
                for (at, chunk) in kept {
                    assert!(chunk == bytes[at..at + chunk.len()]);
                }
            })
        })
        .collect();
    for piece in bytes.chunks(10_007) {
        writer.write_all(piece).unwrap();
        written.fetch_add(piece.len() as u64, Ordering::Release);
    }
    for reader in readers {
        reader.join().unwrap();
    }
}

#[tokio::test]
async fn a_reader_far_behind_waits_for_the_disk_off_the_worker() {
    let bytes = pattern(1 << 20);
    let file = file_with(&bytes);
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let map = GrowingMap::new(file);
    map.ready(0..1 << 20, 1 << 20).await.unwrap();
    assert_eq!(map.slice(0..1 << 20, 1 << 20).unwrap(), bytes);
}
