//! Taking turns against lease tables that behave badly: rounds, patience and what is given back.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use lease::{
    Fanout, ForceRelease, Grant, HeldLease, LeaseConfig, LeaseError, LeasePage, LeaseQuery,
    LeaseTable, LeaseView, LocalLeases, Progress, Released, Renewal, Subscription, TakeOver,
    TokioClock,
};
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::flight::{FlightLimits, Flights, Seat};
use crate::holder_watch::WatchParts;
use crate::peers::NoPeers;
use crate::testing::{Gate, soon};

/// What is found where another instance keeps it.
const ELSEWHERE: &str = "kept elsewhere";

impl Finding for &'static str {
    fn outcome(&self) -> Outcome {
        match *self {
            ELSEWHERE => Outcome::Spooled,
            _ => Outcome::Stored,
        }
    }
}

const UNIT: &str = "example.com/m@v1.0.0.info";

/// A table in which somebody else has every lease; what it answers is up to the test.
struct Taken {
    fanout: Fanout,
    answer: Mutex<Box<dyn FnMut() -> HeldLease + Send>>,
    asked: AtomicUsize,
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Taken")
    }
}

impl Taken {
    fn new(answer: impl FnMut() -> HeldLease + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            fanout: Fanout::new(true),
            answer: Mutex::new(Box::new(answer)),
            asked: AtomicUsize::new(0),
        })
    }

    /// As if one holder after another took the lease and gave it back with nothing stored.
    fn by_one_after_another() -> Arc<Self> {
        Self::new(|| held(LeaseToken::random(), 0))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn held(token: LeaseToken, bytes: u64) -> HeldLease {
    HeldLease {
        token,
        holder: holder("somebody"),
        expires_in: Duration::from_secs(6),
        progress: Progress {
            bytes,
            ..Progress::default()
        },
    }
}

fn holder(name: &str) -> Holder {
    Holder {
        instance: name.into(),
        address: None,
    }
}

#[async_trait]
impl LeaseTable for Taken {
    fn subscribe(&self, key: &LeaseKey) -> Subscription {
        self.fanout.subscribe(key)
    }

    async fn try_acquire(
        &self,
        _: &LeaseKey,
        _: &Holder,
        _: Duration,
    ) -> Result<Acquire, LeaseError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(Acquire::Held((self.answer.lock().unwrap())()))
    }

    async fn renew(&self, _: &Grant, _: &Progress) -> Result<Renewal, LeaseError> {
        Ok(Renewal::Lost)
    }

    async fn release(&self, _: &Grant, _: Outcome) -> Result<Released, LeaseError> {
        Ok(Released::NotOwner)
    }

    async fn list(&self, _: &LeaseQuery) -> Result<LeasePage, LeaseError> {
        Ok(LeasePage::default())
    }

    async fn get(&self, _: &LeaseKey) -> Result<Option<LeaseView>, LeaseError> {
        Ok(None)
    }

    async fn force_release(
        &self,
        _: &LeaseKey,
        _: &LeaseToken,
    ) -> Result<ForceRelease, LeaseError> {
        Ok(ForceRelease::Gone)
    }

    async fn take_over(
        &self,
        _: &LeaseKey,
        _: &LeaseToken,
        _: Duration,
    ) -> Result<TakeOver, LeaseError> {
        Ok(TakeOver::Gone)
    }
}

/// One instance's turns over a table, and a flight to take them for.
struct Scene {
    turns: Turns,
    config: WarmerConfig,
    seat: Seat<()>,
}

impl Scene {
    fn new(leases: Arc<dyn LeaseTable>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock);
        let metrics = StorageMetrics::new(&mut Registry::with_prefix("corral"));
        let config = WarmerConfig::default();
        let keeper = LeaseKeeper::new(
            leases,
            clock.clone(),
            LeaseConfig::default(),
            Handle::current(),
            metrics.clone(),
        )
        .unwrap();
        let limits = FlightLimits {
            flights_max: 1,
            waiters_max: 1,
        };
        let flights = Flights::new(limits, Handle::current(), clock.clone());
        let seat = flights
            .join(&UNIT, UNIT, |lead| async move {
                // Its status is all that is needed.
                let _lead = lead;
                std::future::pending::<()>().await;
            })
            .unwrap();
        Self {
            turns: Turns {
                keeper,
                holder: holder("us"),
                watch: HolderWatch::new(WatchParts {
                    peers: Arc::new(NoPeers),
                    clock: clock.clone(),
                    metrics: metrics.clone(),
                    every: config.holder_asked_every,
                    runtime: Handle::current(),
                    tasks: TaskTracker::new(),
                    stop: CancellationToken::new(),
                }),
                outage: WarningGate::new(clock.clone(), OUTAGE_WARN_EVERY),
                clock,
                metrics,
                unleased: Arc::new(Semaphore::new(config.unleased_max)),
            },
            config,
            seat,
        }
    }

    async fn take<F, Fut>(&self, look: F) -> Result<Turn<&'static str>, Error>
    where
        F: Fn(Look) -> Fut,
        Fut: Future<Output = Result<Option<&'static str>, Error>>,
    {
        let status = self.seat.status();
        let wait = Wait::default();
        self.turns
            .take(UNIT, status, &self.config, &wait, look)
            .await
    }

    /// Takes a turn for something that is never found.
    async fn take_in_vain(&self) -> Result<Turn<&'static str>, Error> {
        self.take(|_| async { Ok(None) }).await
    }

    fn given_up(&self) -> u64 {
        self.turns.metrics.lease_rounds_exhausted.get()
    }
}

fn is_unleased<T>(turn: &Turn<T>) -> bool {
    matches!(
        turn,
        Turn::Ours {
            guard: None,
            _unleased: Some(_)
        }
    )
}

// acceptance: B7
#[tokio::test(start_paused = true)]
async fn after_eight_rounds_a_follower_fetches_without_a_lease() {
    let leases = Taken::by_one_after_another();
    let scene = Scene::new(leases.clone());
    let looks = AtomicUsize::new(0);
    let look = |_| {
        looks.fetch_add(1, Ordering::SeqCst);
        async { Ok(None) }
    };
    let turn = scene.take(look).await.unwrap();
    assert!(is_unleased(&turn));
    // The first answer begins the wait; each further token ends a round.
    assert_eq!(leases.asked(), 1 + ROUNDS_MAX as usize);
    // Each wake-up looked, and so did each answer.
    assert_eq!(looks.load(Ordering::SeqCst), 1 + 2 * ROUNDS_MAX as usize);
    assert_eq!(scene.given_up(), 1);
}

// acceptance: B7
#[tokio::test(start_paused = true)]
async fn after_eight_rounds_a_follower_fails_where_it_must_not_fetch() {
    let mut scene = Scene::new(Taken::by_one_after_another());
    scene.config.on_wait_timeout = OnWaitTimeout::Error;
    let Err(error) = scene.take_in_vain().await else {
        panic!("a turn came")
    };
    assert!(matches!(error, Error::WaitedTooLong { .. }), "{error:?}");
    assert_eq!(scene.given_up(), 1);
}

// acceptance: B7
// fault: 35
#[tokio::test(start_paused = true)]
async fn only_so_many_fetch_without_a_lease_at_once() {
    let mut scene = Scene::new(Taken::by_one_after_another());
    scene.turns.unleased = Arc::new(Semaphore::new(2));
    let first = scene.take_in_vain().await.unwrap();
    let second = scene.take_in_vain().await.unwrap();
    let Err(error) = scene.take_in_vain().await else {
        panic!("a third fetch was allowed")
    };
    assert!(
        matches!(
            error,
            Error::Overloaded {
                limit: "fill.unleased_max"
            }
        ),
        "{error:?}"
    );
    drop(first);
    assert!(is_unleased(&scene.take_in_vain().await.unwrap()));
    drop(second);
}

// acceptance: B7
#[tokio::test(start_paused = true)]
async fn a_holder_that_stands_still_is_waited_for_for_wait_max() {
    let token = LeaseToken::random();
    let scene = Scene::new(Taken::new(move || held(token, 1_000)));
    let began = Instant::now();
    assert!(is_unleased(&scene.take_in_vain().await.unwrap()));
    let (waited, wait_max) = (began.elapsed(), scene.config.wait_max);
    assert!(
        waited >= wait_max && waited <= wait_max + Duration::from_millis(10),
        "{waited:?}"
    );
    assert_eq!(scene.given_up(), 1);
}

// acceptance: B7
#[tokio::test(start_paused = true)]
async fn a_holder_that_moves_is_waited_for_up_to_the_longest_fill() {
    let (token, mut bytes) = (LeaseToken::random(), 0);
    let leases = Taken::new(move || {
        bytes += 1;
        held(token, bytes)
    });
    let mut scene = Scene::new(leases);
    scene.config.fill_max = Duration::from_secs(600);
    let began = Instant::now();
    let status = scene.seat.status().clone();
    let turn = tokio::time::timeout(Duration::from_secs(900), scene.take_in_vain());
    assert!(is_unleased(&turn.await.unwrap().unwrap()));
    let (waited, longest) = (began.elapsed(), scene.config.fill_max);
    assert!(
        waited >= longest && waited <= longest + scene.config.follow_poll,
        "{waited:?}"
    );
    // Its own waiters saw the bytes rise, so none of them lost patience.
    assert!(status.lease_progress().bytes > 200);
}

// acceptance: B8
// fault: 16
#[tokio::test(start_paused = true)]
async fn while_events_do_not_flow_a_follower_looks_after_250_ms_then_ever_later() {
    let token = LeaseToken::random();
    let leases = Taken::new(move || held(token, 0));
    leases.fanout.set_live(false);
    let scene = Scene::new(leases.clone());
    let began = Instant::now();
    let looks = Mutex::new(Vec::new());
    let turn = scene.take(|_| {
        let mut looks = looks.lock().unwrap();
        looks.push(began.elapsed().as_millis());
        let found = looks.len() == 7;
        async move { Ok(found.then_some("found")) }
    });
    assert!(matches!(turn.await.unwrap(), Turn::Theirs("found")));
    let looks = looks.lock().unwrap().clone();
    assert_eq!(looks, [0, 250, 750, 1_750, 3_750, 5_750, 7_750]);
}

// acceptance: B20
// fault: 17
#[tokio::test(start_paused = true)]
async fn an_event_between_the_try_and_the_wait_is_not_missed() {
    let token = LeaseToken::random();
    let leases = Taken::new(move || held(token, 0));
    let scene = Scene::new(leases.clone());
    let looks = AtomicUsize::new(0);
    let began = Instant::now();
    let turn = scene.take(|_| {
        let looked = looks.fetch_add(1, Ordering::SeqCst);
        if looked == 0 {
            // The holder releases while we look for the first time and find nothing.
            leases.fanout.publish(&lease::ReleaseEvent {
                key: LeaseKey::new(UNIT).unwrap(),
                token,
                outcome: Outcome::Stored,
            });
        }
        async move { Ok((looked > 0).then_some("found")) }
    });
    assert!(matches!(turn.await.unwrap(), Turn::Theirs("found")));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(leases.asked(), 1);
}

#[tokio::test]
async fn what_is_found_behind_the_grant_is_served_and_the_lease_given_back() {
    let leases = Arc::new(LocalLeases::new(Arc::new(TokioClock)));
    let scene = Scene::new(leases.clone());
    let mut events = leases.subscribe(&LeaseKey::new(UNIT).unwrap());
    let turn = scene.take(|_| async { Ok(Some("found")) }).await.unwrap();
    assert!(matches!(turn, Turn::Theirs("found")));
    assert_eq!(outcome_of(&mut events).await, Outcome::Stored);
    // Who waits for what the store does not have must look where it is.
    let turn = scene.take(|_| async { Ok(Some(ELSEWHERE)) }).await.unwrap();
    assert!(matches!(turn, Turn::Theirs(ELSEWHERE)));
    assert_eq!(outcome_of(&mut events).await, Outcome::Spooled);
}

// fault: 24
#[tokio::test]
async fn a_look_that_fails_behind_the_grant_gives_the_lease_back_as_failed() {
    let leases = Arc::new(LocalLeases::new(Arc::new(TokioClock)));
    let scene = Scene::new(leases.clone());
    let mut events = leases.subscribe(&LeaseKey::new(UNIT).unwrap());
    let failing = |_| async {
        Err(Error::Storage {
            doing: "reading".to_owned(),
            source: None,
        })
    };
    let Err(error) = scene.take(failing).await else {
        panic!("a turn came")
    };
    assert!(matches!(error, Error::Storage { .. }));
    assert_eq!(outcome_of(&mut events).await, Outcome::Failed);
}

#[tokio::test]
async fn a_turn_that_is_cancelled_behind_the_grant_leaves_no_lease() {
    let leases = Arc::new(LocalLeases::new(Arc::new(TokioClock)));
    let scene = Scene::new(leases.clone());
    let mut events = leases.subscribe(&LeaseKey::new(UNIT).unwrap());
    let gate = Gate::new();
    let look = |_| async {
        gate.pass().await;
        Ok(None)
    };
    tokio::select! {
        _ = scene.take(look) => panic!("a turn came"),
        () = gate.reached(1) => {}
    }
    assert_eq!(outcome_of(&mut events).await, Outcome::Abandoned);
    assert!(leases.is_empty());
}

async fn outcome_of(events: &mut Subscription) -> Outcome {
    match soon("a release", events.woken()).await {
        Wake::Event(event) => event.outcome,
        Wake::Reconnected => panic!("nothing was reconnected"),
    }
}

#[tokio::test]
async fn a_unit_too_long_for_a_lease_is_fetched_without_one() {
    let leases = Taken::by_one_after_another();
    let scene = Scene::new(leases.clone());
    let long = "m".repeat(10_000);
    let status = scene.seat.status();
    let look = |_| async { Ok(None::<&str>) };
    let turn = scene
        .turns
        .take(&long, status, &scene.config, &Wait::default(), look)
        .await;
    assert!(matches!(
        turn.unwrap(),
        Turn::Ours {
            guard: None,
            _unleased: None
        }
    ));
    assert_eq!(leases.asked(), 0);
}
