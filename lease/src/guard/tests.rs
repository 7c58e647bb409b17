//! A held lease from its grant to every one of its ends, on paused time.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;

use super::*;
use crate::sync::lock;
use crate::testing::{Fault, FaultyLeases, LeaseOp};
use crate::{
    Acquire, ForceRelease, Holder, LeaseErrorKind, LocalLeases, Subscription, TokioClock, Wake,
};

const TTL: Duration = Duration::from_secs(6);

#[derive(Debug, Default)]
struct Counts(Mutex<Vec<String>>);

impl Counts {
    fn note(&self, text: impl Into<String>) {
        lock(&self.0).push(text.into());
    }

    fn count(&self, text: &str) -> usize {
        lock(&self.0).iter().filter(|noted| *noted == text).count()
    }
}

impl LeaseObserver for Counts {
    fn renewed(&self, _: &LeaseKey) {
        self.note("renewed");
    }

    fn renewal_failed(&self, _: &LeaseKey, kind: LeaseErrorKind) {
        self.note(format!("renewal failed: {}", kind.as_str()));
    }

    fn lost(&self, _: &LeaseKey, reason: LostReason) {
        self.note(format!("lost: {}", reason.as_str()));
    }

    fn forced(&self, _: &LeaseKey) {
        self.note("forced");
    }

    fn released(&self, _: &LeaseKey, outcome: Outcome, end: ReleaseEnd, held: Duration) {
        self.note(format!(
            "{outcome}: {} after {} s",
            end.as_str(),
            held.as_secs()
        ));
    }
}

struct Bench {
    table: Arc<LocalLeases>,
    faulty: Arc<FaultyLeases>,
    keeper: LeaseKeeper,
    seen: Arc<Counts>,
    key: LeaseKey,
}

impl Bench {
    fn new() -> Self {
        Self::with(LeaseConfig {
            ttl: TTL,
            ..LeaseConfig::default()
        })
    }

    fn with(config: LeaseConfig) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock);
        let table = Arc::new(LocalLeases::new(Arc::clone(&clock)));
        let inner: Arc<dyn LeaseTable> = table.clone();
        let faulty = Arc::new(FaultyLeases::new(inner, Arc::clone(&clock)));
        let seen = Arc::new(Counts::default());
        let keeper = LeaseKeeper::new(
            faulty.clone(),
            clock,
            config,
            Handle::current(),
            seen.clone(),
        )
        .unwrap();
        Self {
            table,
            faulty,
            keeper,
            seen,
            key: LeaseKey::new("k").unwrap(),
        }
    }

    async fn grant(&self) -> Grant {
        let holder = Holder {
            instance: Arc::from("i"),
            address: None,
        };
        match self
            .table
            .try_acquire(&self.key, &holder, TTL)
            .await
            .unwrap()
        {
            Acquire::Granted(grant) => grant,
            Acquire::Held(held) => panic!("{held:?}"),
        }
    }

    async fn hold(&self) -> LeaseGuard {
        self.keeper.hold(self.grant().await, Progress::default)
    }

    async fn token(&self) -> Option<LeaseToken> {
        self.table
            .get(&self.key)
            .await
            .unwrap()
            .map(|view| view.token)
    }

    fn ear(&self) -> Subscription {
        self.table.subscribe(&self.key)
    }
}

async fn pass(by: Duration) {
    // In small steps and with room between them, so that every task sees its own moment.
    let end = TokioClock.now() + by;
    while TokioClock.now() < end {
        tokio::time::advance(Duration::from_millis(50)).await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
}

async fn outcome(ear: &mut Subscription) -> Outcome {
    match timeout(&TokioClock, TTL * 10, ear.woken()).await {
        Some(Wake::Event(event)) => event.outcome,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn it_renews_every_third_and_shows_progress() {
    let bench = Bench::new();
    let bytes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&bytes);
    let progress = move || Progress {
        bytes: counted.fetch_add(10, Ordering::Relaxed) + 10,
        total: Some(100),
        waiters: 3,
    };
    let guard = bench.keeper.hold(bench.grant().await, progress);
    let first = guard.deadline().unwrap();
    for renewals in 1..=5 {
        pass(TTL / 3).await;
        assert_eq!(bench.seen.count("renewed"), renewals);
        let view = bench.table.get(&bench.key).await.unwrap().unwrap();
        let expected = Progress {
            bytes: 10 * renewals as u64,
            total: Some(100),
            waiters: 3,
        };
        assert_eq!(view.progress, expected);
        guard.ensure_held().unwrap();
    }
    assert_eq!(guard.deadline().unwrap() - first, TTL / 3 * 5);
    assert_eq!(guard.release(Outcome::Stored).await, ReleaseEnd::Released);
    assert_eq!(bench.seen.count("stored: released after 10 s"), 1);
    pass(TTL).await;
    assert_eq!(
        bench.seen.count("renewed"),
        5,
        "no renewal after the release"
    );
}

#[tokio::test(start_paused = true)]
async fn a_release_goes_on_without_its_caller() {
    let bench = Bench::new();
    let mut ear = bench.ear();
    let guard = bench.hold().await;
    bench
        .faulty
        .next(LeaseOp::Release, 1, Fault::Late(Duration::from_secs(1)));
    drop(guard.release(Outcome::Stored));
    assert_eq!(bench.keeper.releasing(), 1);
    assert_eq!(outcome(&mut ear).await, Outcome::Stored);
    bench.keeper.settled().await;
    assert_eq!((bench.keeper.releasing(), bench.token().await), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_drop_abandons() {
    let bench = Bench::new();
    let mut ear = bench.ear();
    let guard = bench.hold().await;
    let (mut lost, mut forced) = (guard.lost().boxed(), guard.forced().boxed());
    drop(guard);
    assert_eq!(outcome(&mut ear).await, Outcome::Abandoned);
    bench.keeper.settled().await;
    assert_eq!(bench.token().await, None);
    pass(TTL * 2).await;
    assert_eq!(
        ((&mut lost).now_or_never(), (&mut forced).now_or_never()),
        (None, None)
    );
    assert_eq!(bench.seen.count("abandoned: released after 0 s"), 1);
}

// fault: 30
#[tokio::test(start_paused = true)]
async fn a_panic_of_the_holder_abandons() {
    let bench = Bench::new();
    let mut ear = bench.ear();
    let guard = bench.hold().await;
    let work = tokio::spawn(async move {
        guard.ensure_held().unwrap();
        panic!("by order of the test");
    });
    assert!(work.await.unwrap_err().is_panic());
    assert_eq!(outcome(&mut ear).await, Outcome::Abandoned);
}

// fault: 3
#[tokio::test(start_paused = true)]
async fn what_is_forgotten_expires_in_silence() {
    let bench = Bench::new();
    let mut ear = bench.ear();
    let guard = bench.hold().await;
    guard.forget();
    pass(TTL - Duration::from_millis(100)).await;
    assert!(bench.token().await.is_some());
    pass(Duration::from_millis(100)).await;
    assert_eq!(bench.token().await, None);
    assert_eq!(ear.woken().now_or_never(), None);
    assert_eq!(bench.keeper.releasing(), 0);
}

#[tokio::test(start_paused = true)]
async fn failed_renewals_before_the_deadline_cost_nothing() {
    for fault in [Fault::Fails, Fault::ReplyLost, Fault::Garbles, Fault::Hangs] {
        let bench = Bench::new();
        let guard = bench.hold().await;
        let mut lost = guard.lost().boxed();
        bench.faulty.next(LeaseOp::Renew, 2, fault);
        pass(TTL * 3).await;
        assert!((&mut lost).now_or_never().is_none(), "{fault:?}");
        assert_eq!(bench.token().await, Some(guard.token()), "{fault:?}");
        assert_eq!(
            guard.release(Outcome::Stored).await,
            ReleaseEnd::Released,
            "{fault:?}"
        );
    }
}

// fault: 12
#[tokio::test(start_paused = true)]
async fn an_unreachable_table_costs_the_lease_at_the_deadline() {
    for fault in [Fault::Fails, Fault::Hangs] {
        let bench = Bench::new();
        let guard = bench.hold().await;
        let deadline = guard.deadline().unwrap();
        bench.faulty.always(Some(fault));
        let reason = guard.lost().await;
        assert_eq!(reason, LostReason::Unreachable, "{fault:?}");
        let late = TokioClock.now() - deadline;
        assert!(
            late <= bench.keeper.config().renew_every() / 2,
            "{fault:?}: {late:?}"
        );
        assert!(guard.ensure_held().is_err());
        assert_eq!(guard.deadline(), None);
        assert_eq!(
            guard.release(Outcome::Stored).await,
            ReleaseEnd::Failed,
            "{fault:?}"
        );
        assert_eq!(bench.seen.count("lost: unreachable"), 1);
        let tries = bench.faulty.calls(LeaseOp::Renew);
        assert!((2..=10).contains(&tries), "{fault:?}: {tries}");
    }
}

// fault: 21
#[tokio::test(start_paused = true)]
async fn a_table_that_forgot_costs_the_lease_at_once() {
    let bench = Bench::new();
    let guard = bench.hold().await;
    let behind = Grant {
        token: guard.token(),
        ..guard.grant.clone()
    };
    bench
        .table
        .release(&behind, Outcome::Abandoned)
        .await
        .unwrap();
    assert_eq!(guard.lost().await, LostReason::NotOwner);
    assert_eq!(guard.release(Outcome::Stored).await, ReleaseEnd::NotOwner);
    assert_eq!(bench.seen.count("lost: not_owner"), 1);
}

// fault: 6
#[tokio::test(start_paused = true)]
async fn a_holder_that_slept_past_its_deadline_finds_out() {
    let bench = Bench::new();
    let guard = bench.hold().await;
    tokio::time::advance(TTL * 2).await;
    assert!(
        guard.ensure_held().is_err(),
        "by its own clock, before anybody tells it"
    );
    let taker = bench.grant().await;
    assert_eq!(guard.lost().await, LostReason::Expired);
    assert_eq!(guard.release(Outcome::Stored).await, ReleaseEnd::NotOwner);
    assert_eq!(bench.token().await, Some(taker.token));
}

#[tokio::test(start_paused = true)]
async fn a_broken_lease_is_told_once_and_is_no_loss() {
    let bench = Bench::new();
    let guard = bench.hold().await;
    let (mut lost, forced) = (guard.lost().boxed(), guard.forced());
    let broken = bench
        .table
        .force_release(&bench.key, &guard.token())
        .await
        .unwrap();
    assert_eq!(broken, ForceRelease::Forced);
    let asked = TokioClock.now();
    forced.await;
    assert!(TokioClock.now() - asked <= TTL / 3);
    pass(TTL * 2).await;
    assert!((&mut lost).now_or_never().is_none());
    assert_eq!(bench.seen.count("forced"), 1);
    assert_eq!(
        bench.faulty.calls(LeaseOp::Renew),
        1,
        "nothing is renewed afterwards"
    );
    guard.forced().await;
    assert_eq!(guard.release(Outcome::Failed).await, ReleaseEnd::NotOwner);
}

// fault: 8
#[tokio::test(start_paused = true)]
async fn no_lease_lives_longer_than_held_max() {
    let held_max = Duration::from_secs(20);
    let bench = Bench::with(LeaseConfig {
        ttl: TTL,
        held_max,
        ..LeaseConfig::default()
    });
    let began = TokioClock.now();
    let guard = bench.hold().await;
    assert_eq!(guard.lost().await, LostReason::Expired);
    let lived = TokioClock.now() - began;
    assert!(lived <= held_max && lived > held_max - TTL, "{lived:?}");
    assert_eq!(bench.token().await, None);
    assert_eq!(bench.seen.count("lost: expired"), 1);
}

// fault: 13
#[tokio::test(start_paused = true)]
async fn a_release_without_an_answer_ends_by_its_own_deadline() {
    let bench = Bench::new();
    let guard = bench.hold().await;
    bench.faulty.next(LeaseOp::Release, 1, Fault::Hangs);
    let asked = TokioClock.now();
    assert_eq!(guard.release(Outcome::Stored).await, ReleaseEnd::Failed);
    assert_eq!(
        TokioClock.now() - asked,
        bench.keeper.config().release_timeout
    );
    pass(TTL).await;
    assert_eq!(bench.token().await, None, "it expires instead");
    assert_eq!(bench.keeper.releasing(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_given_back_without_a_guard() {
    let bench = Bench::new();
    let grant = bench.grant().await;
    assert_eq!(
        bench.keeper.give_back(grant, Outcome::Stored).await,
        ReleaseEnd::Released
    );
    assert_eq!(bench.token().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_progress_counts_as_a_loss() {
    let bench = Bench::new();
    let guard = bench
        .keeper
        .hold(bench.grant().await, || panic!("by order of the test"));
    assert_eq!(guard.lost().await, LostReason::Expired);
    assert_eq!(guard.release(Outcome::Stored).await, ReleaseEnd::Released);
}

#[tokio::test(start_paused = true)]
async fn the_observer_hears_each_failed_renewal() {
    let bench = Bench::new();
    let guard = bench.hold().await;
    bench.faulty.next(LeaseOp::Renew, 1, Fault::Fails);
    bench.faulty.next(LeaseOp::Renew, 1, Fault::Garbles);
    pass(TTL).await;
    assert_eq!(bench.seen.count("renewal failed: unavailable"), 1);
    assert_eq!(bench.seen.count("renewal failed: protocol"), 1);
    assert!(bench.seen.count("renewed") >= 1);
    drop(guard);
}

#[test]
fn a_guard_may_outlive_its_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (bench, guard) = runtime.block_on(async {
        let bench = Bench::new();
        let guard = bench.hold().await;
        (bench, guard)
    });
    drop(runtime);
    let waiting = guard.release(Outcome::Stored);
    assert_eq!(futures::executor::block_on(waiting), ReleaseEnd::Failed);
    assert_eq!(bench.keeper.releasing(), 0);
}

#[tokio::test]
async fn a_bad_config_makes_no_keeper() {
    let config = LeaseConfig {
        ttl: Duration::ZERO,
        ..LeaseConfig::default()
    };
    let clock: Arc<dyn Clock> = Arc::new(TokioClock);
    let table = Arc::new(LocalLeases::new(Arc::clone(&clock)));
    let keeper = LeaseKeeper::unobserved(table, clock, config, Handle::current());
    assert!(matches!(
        keeper,
        Err(LeaseError::InvalidConfig { field: "ttl", .. })
    ));
}
