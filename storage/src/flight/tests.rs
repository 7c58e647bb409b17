//! Interleavings of flights, forced by gates.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;

use lease::TokioClock;
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::error::ErrorKind;

const PATIENCE: Duration = Duration::from_secs(10);

struct Scene {
    flights: Flights<&'static str, u64>,
    clock: Arc<dyn Clock>,
    started: Arc<AtomicUsize>,
}

impl Scene {
    fn new() -> Self {
        Self::with_limits(FlightLimits {
            flights_max: 100,
            waiters_max: 1_000,
        })
    }

    fn with_limits(limits: FlightLimits) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock);
        Self {
            flights: Flights::new(limits, Handle::current(), clock.clone()),
            clock,
            started: Arc::default(),
        }
    }

    /// Joins the flight of `key`, whose leader waits for a permit of `gate` and then lands.
    fn join(
        &self,
        key: &'static str,
        gate: &Arc<Semaphore>,
        result: Result<u64, Error>,
    ) -> Seat<u64> {
        let (gate, started) = (gate.clone(), self.started.clone());
        self.flights
            .join(&key, key, |mut lead| async move {
                started.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                lead.land(result);
            })
            .unwrap()
    }

    async fn landed(&self, seat: &Seat<u64>) -> Result<u64, Error> {
        seat.landed(PATIENCE, &*self.clock).await
    }

    fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    async fn is_empty_soon(&self) {
        let empty = async {
            while !self.flights.is_empty() || !self.flights.table.tracker.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, empty)
            .await
            .expect("flights are left over");
    }
}

fn failure() -> Error {
    Error::Upstream {
        upstream: "u".to_owned(),
        reason: "no".to_owned(),
        source: None,
    }
}

#[tokio::test]
async fn a_single_request_flies_alone() {
    let scene = Scene::new();
    let seat = scene.join("a", &Arc::new(Semaphore::new(1)), Ok(7));
    assert_eq!(seat.role(), Role::Leader);
    assert_eq!(scene.landed(&seat).await.unwrap(), 7);
    scene.is_empty_soon().await;
}

// acceptance: B1
// acceptance: B18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_requests_share_one_flight() {
    let scene = Scene::new();
    let gate = Arc::new(Semaphore::new(0));
    let seats: Vec<_> = (0..500).map(|_| scene.join("a", &gate, Ok(7))).collect();
    assert_eq!(
        seats
            .iter()
            .filter(|seat| seat.role() == Role::Leader)
            .count(),
        1
    );
    assert_eq!(scene.flights.waiters(), 500);
    assert_eq!(scene.flights.list()[0].waiters, 500);
    gate.add_permits(1);
    for seat in &seats {
        assert_eq!(scene.landed(seat).await.unwrap(), 7);
    }
    assert_eq!(scene.started(), 1);
    drop(seats);
    assert_eq!(scene.flights.waiters(), 0);
    scene.is_empty_soon().await;
}

#[tokio::test]
async fn distinct_keys_do_not_wait_for_each_other() {
    let scene = Scene::new();
    let (shut, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(1)));
    let waiting = scene.join("a", &shut, Ok(1));
    let other = scene.join("b", &open, Ok(2));
    assert_eq!(scene.landed(&other).await.unwrap(), 2);
    shut.add_permits(1);
    assert_eq!(scene.landed(&waiting).await.unwrap(), 1);
    scene.is_empty_soon().await;
}

#[tokio::test]
async fn a_later_request_starts_afresh() {
    let scene = Scene::new();
    let gate = Arc::new(Semaphore::new(2));
    let first = scene.join("a", &gate, Ok(1));
    assert_eq!(scene.landed(&first).await.unwrap(), 1);
    scene.is_empty_soon().await;
    let second = scene.join("a", &gate, Ok(2));
    assert_eq!(scene.landed(&second).await.unwrap(), 2);
    assert_eq!(scene.started(), 2);
}

// acceptance: B14
#[tokio::test]
async fn a_failure_is_told_to_every_waiter_and_can_be_retried() {
    let scene = Scene::new();
    let gate = Arc::new(Semaphore::new(0));
    let seats: Vec<_> = (0..100)
        .map(|_| scene.join("a", &gate, Err(failure())))
        .collect();
    gate.add_permits(1);
    for seat in &seats {
        assert_eq!(
            scene.landed(seat).await.unwrap_err().kind(),
            ErrorKind::Transient
        );
    }
    assert_eq!(scene.started(), 1);
    // The flight has left the table before anybody was told.
    let again = scene.join("a", &Arc::new(Semaphore::new(1)), Ok(3));
    assert_eq!(again.role(), Role::Leader);
    assert_eq!(scene.landed(&again).await.unwrap(), 3);
    scene.is_empty_soon().await;
}

#[tokio::test]
async fn a_late_joiner_finds_a_landed_flight_that_goes_on() {
    let scene = Scene::new();
    let end = Arc::new(Notify::new());
    let first = scene
        .flights
        .join(&"a", "a", |mut lead| {
            let end = end.clone();
            async move {
                lead.land(Ok(5));
                end.notified().await;
            }
        })
        .unwrap();
    assert_eq!(scene.landed(&first).await.unwrap(), 5);
    let late = scene.join("a", &Arc::new(Semaphore::new(0)), Ok(6));
    assert_eq!(late.role(), Role::Waiter);
    assert_eq!(scene.landed(&late).await.unwrap(), 5);
    end.notify_one();
    scene.is_empty_soon().await;
}

// fault: 31
#[tokio::test]
async fn the_first_clients_leaving_stops_nothing() {
    let scene = Scene::new();
    let gate = Arc::new(Semaphore::new(0));
    let leader = scene.join("a", &gate, Ok(7));
    {
        let mut waiting = Box::pin(scene.landed(&leader));
        assert!(futures::poll!(&mut waiting).is_pending());
    }
    drop(leader);
    let waiter = scene.join("a", &gate, Ok(8));
    assert_eq!(waiter.role(), Role::Waiter);
    gate.add_permits(1);
    assert_eq!(scene.landed(&waiter).await.unwrap(), 7);
    scene.is_empty_soon().await;
}

#[tokio::test]
async fn a_flight_ends_without_any_client() {
    let scene = Scene::new();
    let gate = Arc::new(Semaphore::new(0));
    drop(scene.join("a", &gate, Ok(7)));
    gate.add_permits(1);
    scene.is_empty_soon().await;
    assert_eq!(scene.started(), 1);
}

// fault: 30
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_an_error_for_all_and_leaves_no_entry() {
    let scene = Scene::new();
    let gate = Arc::new(Semaphore::new(0));
    let seats: Vec<_> = (0..50)
        .map(|_| {
            let gate = gate.clone();
            scene
                .flights
                .join(&"a", "a", |lead| async move {
                    let _lead = lead;
                    gate.acquire().await.unwrap().forget();
                    panic!("a defect in the fill");
                })
                .unwrap()
        })
        .collect();
    gate.add_permits(1);
    for seat in &seats {
        assert_eq!(
            scene.landed(seat).await.unwrap_err().kind(),
            ErrorKind::Internal
        );
    }
    scene.is_empty_soon().await;
    let again = scene.join("a", &Arc::new(Semaphore::new(1)), Ok(9));
    assert_eq!(scene.landed(&again).await.unwrap(), 9);
}

#[tokio::test]
async fn an_old_flight_does_not_remove_a_newer_one() {
    let scene = Scene::new();
    let (left, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let old = scene
        .flights
        .join(&"a", "a", |mut lead| {
            let (left, end) = (left.clone(), end.clone());
            async move {
                lead.leave();
                left.notify_one();
                end.notified().await;
                lead.land(Ok(1));
            }
        })
        .unwrap();
    left.notified().await;
    let gate = Arc::new(Semaphore::new(0));
    let new = scene.join("a", &gate, Ok(2));
    assert_eq!(new.role(), Role::Leader);
    end.notify_one();
    assert_eq!(scene.landed(&old).await.unwrap(), 1);
    while scene.flights.table.tracker.len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.join("a", &gate, Ok(3)).role(), Role::Waiter);
    gate.add_permits(1);
    assert_eq!(scene.landed(&new).await.unwrap(), 2);
    scene.is_empty_soon().await;
}

// acceptance: B12
#[tokio::test(start_paused = true)]
async fn a_waiter_has_its_own_patience() {
    let scene = Scene::new();
    let gate = Arc::new(Semaphore::new(0));
    let seat = scene.join("a", &gate, Ok(7));
    let began = tokio::time::Instant::now();
    let patience = Duration::from_secs(3);
    let error = seat.landed(patience, &*scene.clock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitedTooLong);
    let waited = began.elapsed();
    assert!(
        waited >= patience && waited <= patience + Duration::from_millis(50),
        "{waited:?}"
    );
    gate.add_permits(1);
    assert_eq!(scene.landed(&seat).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn progress_prolongs_patience() {
    let scene = Scene::new();
    let seat = scene
        .flights
        .join(&"a", "a", |mut lead| {
            let clock = scene.clock.clone();
            async move {
                for step in 1..=10 {
                    clock.sleep(Duration::from_secs(2)).await;
                    lead.status().progress(step, None);
                }
                lead.land(Ok(1));
            }
        })
        .unwrap();
    assert_eq!(
        seat.landed(Duration::from_secs(3), &*scene.clock)
            .await
            .unwrap(),
        1
    );
}

// fault: 35
#[tokio::test]
async fn limits_refuse_with_their_name_and_recover() {
    let scene = Scene::with_limits(FlightLimits {
        flights_max: 1,
        waiters_max: 2,
    });
    let gate = Arc::new(Semaphore::new(0));
    let first = scene.join("a", &gate, Ok(1));
    let other = scene.flights.join(&"b", "b", |_lead| async {}).unwrap_err();
    assert!(matches!(
        other,
        Error::Overloaded {
            limit: "fill.concurrency_max"
        }
    ));
    let second = scene.join("a", &gate, Ok(1));
    let third = scene.flights.join(&"a", "a", |_lead| async {}).unwrap_err();
    assert!(matches!(
        third,
        Error::Overloaded {
            limit: "fill.waiters_max"
        }
    ));
    gate.add_permits(1);
    assert_eq!(scene.landed(&first).await.unwrap(), 1);
    drop((first, second));
    scene.is_empty_soon().await;
    assert_eq!(scene.flights.waiters(), 0);
    let gate = Arc::new(Semaphore::new(1));
    assert_eq!(
        scene.landed(&scene.join("b", &gate, Ok(2))).await.unwrap(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn draining_waits_then_cancels() {
    let scene = Scene::new();
    let seat = scene
        .flights
        .join(&"a", "a", |lead| async move {
            lead.status().cancelled().await;
            drop(lead);
        })
        .unwrap();
    let cancelled = scene
        .flights
        .drain(Duration::from_secs(10), Duration::from_secs(1))
        .await;
    assert_eq!(cancelled, 1);
    assert_eq!(
        scene.landed(&seat).await.unwrap_err().kind(),
        ErrorKind::Interrupted
    );
    let refused = scene.flights.join(&"b", "b", |_lead| async {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Interrupted);
}
