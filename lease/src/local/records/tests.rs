//! The contract, and the bounds in entries and bytes.
#![allow(clippy::unwrap_used)]

use futures::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::testing::{RecordsSetup, records_contract};
use crate::{ManualClock, TokioClock};

const TTL: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Local(ManualClock);

#[async_trait]
impl RecordsSetup for Local {
    async fn fresh(&self) -> [Arc<dyn Records>; 2] {
        let store: Arc<dyn Records> = Arc::new(LocalRecords::new(Arc::new(self.0.clone())));
        [Arc::clone(&store), store]
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
    records_contract(&Local(ManualClock::new())).await;
}

/// The runtime's own clock, as a store with a server behind it would use.
#[derive(Debug)]
struct LocalOnTokio;

#[async_trait]
impl RecordsSetup for LocalOnTokio {
    async fn fresh(&self) -> [Arc<dyn Records>; 2] {
        let store: Arc<dyn Records> = Arc::new(LocalRecords::new(Arc::new(TokioClock)));
        [Arc::clone(&store), store]
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract_while_time_runs_by_itself() {
    records_contract(&LocalOnTokio).await;
}

fn store(entries_max: usize, bytes_max: u64) -> (ManualClock, LocalRecords) {
    let clock = ManualClock::new();
    let limits = RecordLimits {
        entries_max,
        bytes_max,
    };
    let store = LocalRecords::with_limits(Arc::new(clock.clone()), limits);
    (clock, store)
}

fn now<T>(answer: impl Future<Output = Result<T, LeaseError>>) -> Result<T, LeaseError> {
    answer.now_or_never().expect("the local store never waits")
}

fn set(store: &LocalRecords, key: &str, bytes: usize, secs: u64) -> Result<(), LeaseError> {
    now(store.set(key, Bytes::from(vec![0; bytes]), Duration::from_secs(secs)))
}

fn keys(store: &LocalRecords) -> Vec<String> {
    let page = now(store.list("", None, PAGE_LIMIT_MAX)).unwrap();
    page.records.into_iter().map(|entry| entry.key).collect()
}

#[test]
fn at_the_most_entries_the_one_that_ends_soonest_goes() {
    let (_, store) = store(3, u64::MAX);
    for (key, secs) in [("long", 30), ("short", 10), ("middle", 20)] {
        set(&store, key, 1, secs).unwrap();
    }
    set(&store, "short", 1, 10).unwrap();
    assert_eq!(store.stats().evicted, 0, "a replacement needs no room");
    set(&store, "new", 1, 5).unwrap();
    assert_eq!(keys(&store), ["long", "middle", "new"]);
    assert_eq!(store.stats().evicted, 1);
}

#[test]
fn what_ended_makes_room_first_and_is_no_eviction() {
    let (clock, store) = store(2, u64::MAX);
    set(&store, "a", 1, 10).unwrap();
    set(&store, "b", 1, 20).unwrap();
    clock.advance(Duration::from_secs(10));
    set(&store, "c", 1, 5).unwrap();
    assert_eq!(keys(&store), ["b", "c"]);
    assert_eq!(store.stats().evicted, 0);
}

#[test]
fn at_the_most_bytes_as_many_go_as_needed() {
    let (_, store) = store(1_000, 10_000);
    for n in 0..8 {
        set(&store, &n.to_string(), 1_000, 10 + n).unwrap();
    }
    assert_eq!(store.stats().evicted, 0);
    set(&store, "big", 5_000, 1).unwrap();
    assert!(keys(&store).contains(&"big".to_owned()));
    let stats = store.stats();
    assert!(stats.bytes <= 10_000 && stats.evicted == 4, "{stats:?}");
}

#[test]
fn what_can_never_fit_is_refused_and_hides_no_old_value() {
    let (_, store) = store(1_000, 10_000);
    set(&store, "k", 1_000, 10).unwrap();
    set(&store, "other", 1_000, 10).unwrap();
    assert!(matches!(
        set(&store, "k", 10_000, 10),
        Err(LeaseError::TooLarge { .. })
    ));
    assert_eq!(keys(&store), ["other"]);
    assert_eq!(store.stats().oversized, 1);
}

#[test]
fn what_nobody_asks_for_again_is_cleared_away() {
    let (clock, store) = store(1_000, u64::MAX);
    for n in 0..300 {
        set(&store, &n.to_string(), 10, 1).unwrap();
    }
    clock.advance(Duration::from_secs(1));
    for _ in 0..10 {
        set(&store, "k", 1, 10).unwrap();
    }
    assert_eq!(store.stats().entries, 1);
    assert!(now(store.delete("k")).unwrap());
    assert_eq!(store.stats(), RecordStats::default());
}

#[test]
fn a_slice_does_not_keep_its_buffer() {
    let (_, store) = store(10, 10_000);
    let buffer = Bytes::from(vec![1; 1024 * 1024]);
    now(store.set("k", buffer.slice(..16), TTL)).unwrap();
    let kept = now(store.get("k")).unwrap().unwrap().value;
    assert_eq!(kept, buffer.slice(..16));
    assert!(buffer.is_unique());
}

#[derive(Debug, Clone)]
enum Step {
    Set(u8, usize, u64),
    SetIfAbsent(u8, usize, u64),
    Delete(u8),
    Pass(u64),
}

proptest! {
    #[test]
    fn the_accounts_are_right_and_the_limits_hold(steps in prop::collection::vec(
        prop_oneof![
            (0..12_u8, 0..1_500_usize, 1..50_u64).prop_map(|(k, b, t)| Step::Set(k, b, t)),
            (0..12_u8, 0..1_500_usize, 1..50_u64).prop_map(|(k, b, t)| Step::SetIfAbsent(k, b, t)),
            (0..12_u8).prop_map(Step::Delete),
            (0..20_u64).prop_map(Step::Pass),
        ],
        1..80,
    )) {
        let (clock, store) = store(6, 4_000);
        for step in steps {
            match step {
                Step::Set(key, bytes, secs) => set(&store, &key.to_string(), bytes, secs).unwrap(),
                Step::SetIfAbsent(key, bytes, secs) => {
                    let before = now(store.get(&key.to_string())).unwrap();
                    let value = Bytes::from(vec![0; bytes]);
                    let ttl = Duration::from_secs(secs);
                    let stored = now(store.set_if_absent(&key.to_string(), value, ttl)).unwrap();
                    prop_assert_eq!(stored, before.is_none());
                }
                Step::Delete(key) => drop(now(store.delete(&key.to_string()))),
                Step::Pass(secs) => clock.advance(Duration::from_secs(secs)),
            }
            let stats = store.stats();
            prop_assert!(stats.entries <= 6 && stats.bytes <= 4_000, "{:?}", stats);
            let state = lock(&store.state);
            let counted: u64 = state
                .records
                .range::<str>(Bound::Unbounded)
                .map(|(key, value, _)| cost(key, value))
                .sum();
            prop_assert_eq!(counted, stats.bytes);
        }
    }
}
