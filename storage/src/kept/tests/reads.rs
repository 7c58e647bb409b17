//! A disk that does not give what is kept, for a moment or for good.

use std::pin::pin;

use futures::poll;
use rustix::io::Errno;

use super::*;

/// No free descriptor, no memory for a mapping, a network disk that is away, and a user that may
/// not: all may be over in a moment.
const PASSING: [Errno; 5] = [
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOMEM,
    Errno::STALE,
    Errno::ACCESS,
];

// acceptance: G6
#[tokio::test]
async fn an_error_that_passes_costs_no_kept_bytes() {
    for error in PASSING {
        let (place, kept) = damaged(|_| {}).await;
        let names = place.names();
        // Before the bytes were checked, and behind that.
        for _ in 0..2 {
            place.faults.fail_reads(0, error.raw_os_error());
            assert_eq!(served(&kept, PATH).await, None);
            let entry = kept.entry(&key(PATH)).await.unwrap();
            assert!(kept.source(&entry).await.is_none());
            assert!(kept.has(&entry), "{error:?}");
            place.faults.heal_reads();
            assert_eq!(served(&kept, PATH).await, Some(body()), "{error:?}");
        }
        assert!(kept.take_lost().is_empty());
        assert_eq!(place.names(), names);
    }
}

// acceptance: G6
#[tokio::test]
async fn what_the_disk_cannot_read_any_more_is_set_aside() {
    for is_checked in [false, true] {
        let (place, kept) = damaged(|_| {}).await;
        if is_checked {
            assert!(served(&kept, PATH).await.is_some());
        }
        place.faults.fail_reads(0, Errno::IO.raw_os_error());
        assert_eq!(served(&kept, PATH).await, None);
        assert_eq!(kept.take_lost(), [key(PATH)]);
        assert_eq!((kept.files(), place.spool.used_bytes()), (0, 0));
        let names = place.names();
        let is_aside = |name: &String| name.contains(".corrupt-");
        assert!(names.len() == 2 && names.iter().all(is_aside), "{names:?}");
    }
}

// acceptance: G6
#[tokio::test]
async fn a_start_that_cannot_read_leaves_everything_to_the_next() {
    const MOD: &str = "example.com/m/@v/v1.0.0.mod";
    let module = Bytes::from_static(b"module example.com/m\n");
    let mut codes = PASSING.to_vec();
    codes.push(Errno::IO);
    for code in codes {
        // The note's text and its bytes are read one after the other; the index is read first.
        for read in 0..3 {
            if code == Errno::IO && read < 2 {
                continue;
            }
            let mut place = Place::new();
            let kept = place.start().await;
            drop(keep(&kept, PATH, &body()).await.unwrap());
            drop(kept.note(&key(MOD), Source::Bytes(module.clone())).await);
            drop(kept);
            let names = place.names();
            place.faults = KeptFaults::default();
            place.faults.fail_reads(read, code.raw_os_error());
            let kept = place.start().await;
            assert_eq!(kept.files(), u64::from(read > 0));
            assert!(kept.take_lost().is_empty());
            assert_eq!(place.names(), names, "{code:?} at read {read}");
            drop(kept);
            let kept = place.restart().await;
            assert_eq!(served(&kept, PATH).await, Some(body()));
            assert_eq!(served(&kept, MOD).await, Some(module.clone()));
        }
    }
}

#[tokio::test]
async fn a_check_goes_on_without_whoever_asked_for_it() {
    let (place, kept) = damaged(|_| {}).await;
    let entry = kept.entry(&key(PATH)).await.unwrap();
    let before = place.faults.reads();
    {
        let asking = pin!(kept.is_whole(&entry));
        assert!(poll!(asking).is_pending());
    }
    assert!(kept.is_whole(&entry).await);
    assert_eq!(place.faults.reads() - before, 1);
}
