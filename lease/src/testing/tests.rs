//! The wrappers misbehave as ordered, and the suites notice who breaks the contract.
#![allow(clippy::unwrap_used)]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;

use super::*;
use crate::{
    Acquire, Clock, Grant, Holder, LeaseErrorKind, LeaseKey, LeaseTable, LocalLeases, LocalRecords,
    ManualClock, Outcome, Progress, Records, Released, Renewal, Wake,
};

const TTL: Duration = Duration::from_secs(6);

/// Hands out whatever wrapper `wrap` puts around a local table.
struct Wrapped {
    clock: ManualClock,
    wrap: Wrap,
}

type Wrap = fn(Arc<dyn LeaseTable>, Arc<dyn Clock>) -> Arc<dyn LeaseTable>;

impl std::fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wrapped")
    }
}

#[async_trait]
impl LeaseTableSetup for Wrapped {
    async fn fresh(&self) -> [Arc<dyn LeaseTable>; 2] {
        let table = (self.wrap)(Arc::new(LocalLeases::new(self.clock())), self.clock());
        [Arc::clone(&table), table]
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    fn ttl(&self) -> Duration {
        TTL
    }

    async fn pass(&self, by: Duration) {
        self.clock.advance(by);
    }
}

#[tokio::test]
async fn wrappers_without_faults_keep_the_contract() {
    let none = |inner, clock| {
        let faults = EventFaults {
            lost: 0.0,
            doubled: 0.0,
            late: 0.0,
            late_max: Duration::ZERO,
        };
        let lossy: Arc<dyn LeaseTable> =
            Arc::new(LossyLeases::new(inner, Arc::clone(&clock), faults, 1));
        Arc::new(FaultyLeases::new(lossy, clock)) as Arc<dyn LeaseTable>
    };
    lease_table_contract(&Wrapped {
        clock: ManualClock::new(),
        wrap: none,
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_suite_names_what_a_deaf_table_breaks() {
    let deaf = |inner, clock| {
        Arc::new(LossyLeases::new(inner, clock, EventFaults::DEAF, 1)) as Arc<dyn LeaseTable>
    };
    let setup = Wrapped {
        clock: ManualClock::new(),
        wrap: deaf,
    };
    let panic = AssertUnwindSafe(lease_table_contract(&setup))
        .catch_unwind()
        .await
        .unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    for case in [
        "an_event_before_the_wait_is_latched",
        "an_event_reaches_every_subscriber",
    ] {
        assert!(text.contains(case), "{text}");
    }
    assert!(!text.contains("a_renewal_extends"), "{text}");
}

fn clock() -> (ManualClock, Arc<dyn Clock>) {
    let clock = ManualClock::new();
    (clock.clone(), Arc::new(clock))
}

fn key() -> LeaseKey {
    LeaseKey::new("k").unwrap()
}

async fn grant(table: &dyn LeaseTable) -> Grant {
    let holder = Holder {
        instance: Arc::from("i"),
        address: None,
    };
    match table.try_acquire(&key(), &holder, TTL).await.unwrap() {
        Acquire::Granted(grant) => grant,
        Acquire::Held(held) => panic!("{held:?}"),
    }
}

/// What of 200 events is heard, with `seed`, before and after the late ones' time.
async fn heard(seed: u64) -> Vec<(usize, usize)> {
    let (hand, clock) = clock();
    let inner = Arc::new(LocalLeases::new(Arc::clone(&clock)));
    let faults = EventFaults {
        lost: 0.3,
        doubled: 0.3,
        late: 0.3,
        late_max: TTL,
    };
    let lossy = LossyLeases::new(inner, clock, faults, seed);
    let mut heard = Vec::new();
    for _ in 0..200 {
        let mut ear = lossy.subscribe(&key());
        let grant = grant(&lossy).await;
        lossy.release(&grant, Outcome::Stored).await.unwrap();
        let (mut soon, mut late) = (0, 0);
        while let Some(wake) = ear.woken().now_or_never() {
            assert!(matches!(wake, Wake::Event(event) if event.token == grant.token));
            soon += 1;
        }
        hand.advance(TTL);
        while ear.woken().now_or_never().is_some() {
            late += 1;
        }
        heard.push((soon, late));
    }
    heard
}

// fault: 14
// fault: 18
#[tokio::test]
async fn events_get_lost_doubled_and_late_by_the_seed() {
    let first = heard(1).await;
    assert_eq!(first, heard(1).await, "the seed decides");
    assert_ne!(first, heard(2).await);
    let count = |wanted: fn(usize, usize) -> bool| {
        first
            .iter()
            .filter(|(soon, late)| wanted(*soon, *late))
            .count()
    };
    assert!(
        (30..90).contains(&count(|soon, late| soon + late == 0)),
        "lost"
    );
    assert!(
        (20..70).contains(&count(|soon, late| soon + late == 2)),
        "doubled"
    );
    assert!((25..90).contains(&count(|_, late| late > 0)), "late");
}

// fault: 11
#[tokio::test]
async fn calls_go_wrong_as_ordered_and_in_order() {
    let (hand, clock) = clock();
    let inner = Arc::new(LocalLeases::new(Arc::clone(&clock)));
    let faulty = FaultyLeases::new(inner.clone(), clock);
    let lease = grant(&faulty).await;
    faulty.next(LeaseOp::Renew, 1, Fault::Fails);
    faulty.next(LeaseOp::Renew, 1, Fault::Garbles);
    faulty.next(LeaseOp::Release, 1, Fault::ReplyLost);
    let progress = Progress {
        bytes: 1,
        total: None,
        waiters: 0,
    };
    for kind in [LeaseErrorKind::Unavailable, LeaseErrorKind::Protocol] {
        let answer = faulty.renew(&lease, &progress).await;
        assert_eq!(answer.unwrap_err().kind(), kind);
        assert_eq!(
            inner.get(&key()).await.unwrap().unwrap().progress,
            Progress::default()
        );
    }
    assert!(matches!(
        faulty.renew(&lease, &progress).await,
        Ok(Renewal::Renewed { .. })
    ));
    assert!(faulty.release(&lease, Outcome::Stored).await.is_err());
    assert!(inner.is_empty(), "it took effect all the same");
    let again = faulty.release(&lease, Outcome::Stored).await.unwrap();
    assert_eq!(again, Released::NotOwner);
    assert_eq!(
        (faulty.calls(LeaseOp::Renew), faulty.calls(LeaseOp::Release)),
        (3, 2)
    );
    faulty.next(LeaseOp::Get, 1, Fault::ReplyLate(TTL));
    let key = key();
    let mut late = faulty.get(&key);
    assert!((&mut late).now_or_never().is_none());
    hand.advance(TTL);
    assert!(late.await.is_ok());
    faulty.always(Some(Fault::Hangs));
    assert!(faulty.get(&key).now_or_never().is_none());
    faulty.always(None);
    assert!(faulty.get(&key).now_or_never().is_some());
}

#[tokio::test]
async fn a_late_grant_counts_from_before_the_request() {
    let (hand, clock) = clock();
    let inner = Arc::new(LocalLeases::new(Arc::clone(&clock)));
    let faulty = FaultyLeases::new(inner, Arc::clone(&clock));
    faulty.next(LeaseOp::TryAcquire, 1, Fault::Late(TTL / 2));
    let sent = clock.now();
    let mut waiting = grant(&faulty).boxed();
    assert!((&mut waiting).now_or_never().is_none());
    hand.advance(TTL / 2);
    assert_eq!(waiting.await.deadline, sent + TTL);
}

#[tokio::test]
async fn record_calls_go_wrong_too() {
    let (_, clock) = clock();
    let inner = Arc::new(LocalRecords::new(Arc::clone(&clock)));
    let faulty = FaultyRecords::new(inner, clock);
    faulty.next(RecordOp::Set, 1, Fault::ReplyLost);
    assert!(
        faulty
            .set("k", Bytes::from_static(b"v"), TTL)
            .await
            .is_err()
    );
    assert_eq!(faulty.get("k").await.unwrap().unwrap().value, "v");
    faulty.always(Some(Fault::Fails));
    assert!(faulty.get("k").await.is_err());
    assert!(faulty.list("", None, 1).await.is_err());
    assert_eq!(faulty.calls(RecordOp::Get), 2);
}
