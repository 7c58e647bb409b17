#![allow(clippy::unwrap_used)]
use std::sync::Mutex;

use super::*;
use crate::ManualClock;
use crate::sync::lock;
use crate::testing::{Fault, FaultyRecords, RecordOp, RecordsSetup, records_contract};

const TTL: Duration = Duration::from_secs(300);
const L1_TTL: Duration = Duration::from_secs(60);

/// Counts by name.
#[derive(Debug, Default)]
struct Counts(Mutex<Vec<&'static str>>);

impl Counts {
    fn add(&self, name: &'static str) {
        lock(&self.0).push(name);
    }

    /// Returns what was counted since the last call, in order.
    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl ValkeyObserver for Counts {
    fn record_hit(&self) {
        self.add("hit");
    }
    fn record_miss(&self) {
        self.add("miss");
    }
    fn record_write(&self) {
        self.add("write");
    }
    fn record_error(&self, _kind: LeaseErrorKind) {
        self.add("error");
    }
    fn record_get_fallback(&self) {
        self.add("get_fallback");
    }
    fn record_set_fallback(&self) {
        self.add("set_fallback");
    }
}

struct Tiers {
    clock: ManualClock,
    shared: Arc<LocalRecords>,
    faults: Arc<FaultyRecords>,
    counts: Arc<Counts>,
    records: FallbackRecords,
}

fn tiers(l1_ttl: Duration, on_get_error: OnGetError) -> Tiers {
    let clock = ManualClock::new();
    let time: Arc<dyn Clock> = Arc::new(clock.clone());
    let shared = Arc::new(LocalRecords::new(Arc::clone(&time)));
    let inner: Arc<dyn Records> = Arc::clone(&shared) as _;
    let faults = Arc::new(FaultyRecords::new(inner, Arc::clone(&time)));
    let counts = Arc::new(Counts::default());
    let records = FallbackRecords::new(
        Arc::clone(&faults) as _,
        LocalRecords::new(Arc::clone(&time)),
        l1_ttl,
        on_get_error,
        Arc::clone(&counts) as _,
        time,
    );
    Tiers {
        clock,
        shared,
        faults,
        counts,
        records,
    }
}

impl Tiers {
    async fn set(&self, value: &'static str, ttl: Duration) {
        let value = Bytes::from_static(value.as_bytes());
        self.records.set("k", value, ttl).await.unwrap();
    }

    async fn get(&self) -> Option<String> {
        let record = self.records.get("k").await.unwrap()?;
        Some(String::from_utf8(record.value.to_vec()).unwrap())
    }

    fn fail(&self, fails: bool) {
        self.faults.always(fails.then_some(Fault::Fails));
    }
}

// acceptance: A6 A9
#[tokio::test]
async fn a_clean_miss_is_a_miss() {
    let tiers = tiers(L1_TTL, OnGetError::L1);
    tiers.set("v", TTL).await;
    tiers.shared.delete("k").await.unwrap();
    tiers.counts.take();
    assert_eq!(tiers.get().await, None, "the copy is not asked");
    assert_eq!(tiers.counts.take(), ["miss"]);
}

// acceptance: A3 A7 A9 A24
#[tokio::test]
async fn a_failed_get_asks_the_copy() {
    for fault in [Fault::Fails, Fault::Garbles] {
        let tiers = tiers(L1_TTL, OnGetError::L1);
        tiers.set("v", TTL).await;
        tiers.counts.take();
        tiers.faults.next(RecordOp::Get, 1, fault);
        assert_eq!(tiers.get().await.as_deref(), Some("v"));
        assert_eq!(tiers.counts.take(), ["error", "get_fallback"]);
        assert_eq!(tiers.get().await.as_deref(), Some("v"));
        assert_eq!(tiers.counts.take(), ["hit"]);
    }
}

// acceptance: A7
#[tokio::test]
async fn a_failed_get_may_be_a_miss_instead() {
    let tiers = tiers(L1_TTL, OnGetError::Miss);
    tiers.set("v", TTL).await;
    tiers.counts.take();
    tiers.fail(true);
    assert_eq!(tiers.get().await, None);
    assert_eq!(tiers.counts.take(), ["error"]);
}

// acceptance: A8 A9
#[tokio::test]
async fn a_failed_set_is_kept_here() {
    for l1_ttl in [L1_TTL, Duration::ZERO] {
        let tiers = tiers(l1_ttl, OnGetError::L1);
        tiers.fail(true);
        tiers.set("v", TTL).await;
        assert_eq!(tiers.counts.take(), ["error", "set_fallback"]);
        tiers.clock.advance(TTL - Duration::from_millis(1));
        assert_eq!(tiers.get().await.as_deref(), Some("v"));
        tiers.clock.advance(Duration::from_millis(1));
        assert_eq!(tiers.get().await, None, "never past its own time");
        tiers.fail(false);
        tiers.counts.take();
        assert_eq!(tiers.get().await, None, "the store never had it");
        assert_eq!(tiers.counts.take(), ["miss"]);
    }
}

#[tokio::test]
async fn a_failed_conditional_set_decides_here() {
    let tiers = tiers(L1_TTL, OnGetError::L1);
    tiers.fail(true);
    for expected in [true, false] {
        let set = tiers
            .records
            .set_if_absent("k", Bytes::from_static(b"v"), TTL);
        assert_eq!(set.await.unwrap(), expected);
    }
    let counted = ["error", "set_fallback", "error", "set_fallback"];
    assert_eq!(tiers.counts.take(), counted);
}

// acceptance: A5 A30
#[tokio::test]
async fn a_copy_lasts_the_shorter_of_both_times() {
    for (ttl, lasts) in [(TTL, L1_TTL), (L1_TTL / 2, L1_TTL / 2)] {
        let tiers = tiers(L1_TTL, OnGetError::L1);
        tiers.set("v", ttl).await;
        tiers.fail(true);
        tiers.clock.advance(lasts - Duration::from_millis(1));
        assert_eq!(tiers.get().await.as_deref(), Some("v"));
        tiers.clock.advance(Duration::from_millis(1));
        assert_eq!(tiers.get().await, None);
    }
}

// acceptance: A5 E1
#[tokio::test]
async fn a_hit_keeps_a_copy_for_what_is_left() {
    let tiers = tiers(L1_TTL, OnGetError::L1);
    let value = Bytes::from_static(b"theirs");
    tiers.shared.set("k", value, L1_TTL / 2).await.unwrap();
    tiers.clock.advance(L1_TTL / 4);
    assert_eq!(tiers.get().await.as_deref(), Some("theirs"));
    tiers.fail(true);
    tiers.clock.advance(L1_TTL / 4 - Duration::from_millis(1));
    assert_eq!(tiers.get().await.as_deref(), Some("theirs"));
    tiers.clock.advance(Duration::from_millis(1));
    assert_eq!(tiers.get().await, None);
}

// acceptance: A4
#[tokio::test]
async fn zero_keeps_no_copy_and_drops_an_older_one() {
    let tiers = tiers(Duration::ZERO, OnGetError::L1);
    tiers.fail(true);
    tiers.set("old", TTL).await;
    tiers.fail(false);
    tiers.set("new", TTL).await;
    tiers.fail(true);
    assert_eq!(
        tiers.get().await,
        None,
        "what is older than the store's is never shown"
    );
}

// acceptance: A31
#[tokio::test]
async fn reads_do_not_extend_a_copy() {
    let tiers = tiers(L1_TTL, OnGetError::L1);
    tiers.set("v", TTL).await;
    tiers.fail(true);
    for _ in 0..3 {
        tiers.clock.advance(L1_TTL / 4);
        assert_eq!(tiers.get().await.as_deref(), Some("v"));
    }
    tiers.clock.advance(L1_TTL / 4);
    assert_eq!(tiers.get().await, None);
}

// acceptance: A34
#[tokio::test]
async fn a_delete_cleans_the_copy_also_when_the_store_fails() {
    for fails in [false, true] {
        let tiers = tiers(L1_TTL, OnGetError::L1);
        tiers.set("v", TTL).await;
        tiers.fail(fails);
        assert_eq!(tiers.records.delete("k").await.is_err(), fails);
        tiers.fail(true);
        assert_eq!(tiers.get().await, None);
    }
}

#[tokio::test]
async fn the_callers_mistakes_are_no_failures_of_the_store() {
    let tiers = tiers(L1_TTL, OnGetError::L1);
    assert!(tiers.records.get("").await.is_err());
    let empty = Bytes::new();
    assert!(tiers.records.set("k", empty, Duration::ZERO).await.is_err());
    assert!(tiers.counts.take().is_empty());
}

#[derive(Debug)]
struct Setup(ManualClock);

#[async_trait]
impl RecordsSetup for Setup {
    async fn fresh(&self) -> [Arc<dyn Records>; 2] {
        let clock: Arc<dyn Clock> = Arc::new(self.0.clone());
        let shared: Arc<dyn Records> = Arc::new(LocalRecords::new(Arc::clone(&clock)));
        [(); 2].map(|()| {
            Arc::new(FallbackRecords::new(
                Arc::clone(&shared),
                LocalRecords::new(Arc::clone(&clock)),
                L1_TTL,
                OnGetError::L1,
                Arc::new(Counts::default()),
                Arc::clone(&clock),
            )) as Arc<dyn Records>
        })
    }

    fn ttl(&self) -> Duration {
        TTL
    }

    async fn pass(&self, by: Duration) {
        self.0.advance(by);
    }
}

// acceptance: A25
#[tokio::test]
async fn it_keeps_the_contract() {
    records_contract(&Setup(ManualClock::new())).await;
}
