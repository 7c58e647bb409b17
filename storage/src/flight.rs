//! In-process sharing: every request for a unit waits on the one flight that gets it.
//!
//! Invariants, each the answer to a bug that others have:
//! - A flight is a task on the fill runtime. It belongs to no request, so no client's leaving,
//!   and no HTTP worker's end, stops it.
//! - Waiters are told exactly once, whatever happens: a leader that panics, is aborted or simply
//!   forgets to land tells them an error when it is dropped.
//! - An entry leaves the table by identity, so an old flight never removes a newer one.
//! - No lock is held across an await; the table's shard lock is held for a look-up or an insert.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use lease::Clock;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::peers::Origin;

/// The named maxima of a [`Flights`] table.
#[derive(Debug, Clone, Copy)]
pub struct FlightLimits {
    /// Flights at once; one more is answered [`Error::Overloaded`]. `fill.concurrency_max`.
    pub flights_max: usize,
    /// Requests that wait on flights at once, all flights together. `fill.waiters_max`.
    pub waiters_max: usize,
}

/// Where a flight is; shown to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Phase {
    /// Looks in the store and in the records of failures.
    Checking = 0,
    /// Waits for another instance that holds the lease.
    Following = 1,
    /// Asks upstream and receives its bytes.
    Fetching = 2,
    /// Checks what arrived.
    Verifying = 3,
    /// Writes to the object store; clients already have everything.
    Committing = 4,
    /// Waits before another attempt.
    Backoff = 5,
}

impl Phase {
    fn from_u8(raw: u8) -> Self {
        match raw {
            1 => Self::Following,
            2 => Self::Fetching,
            3 => Self::Verifying,
            4 => Self::Committing,
            5 => Self::Backoff,
            _ => Self::Checking,
        }
    }
}

/// What is known of one running flight; lives as long as anybody looks at it.
#[derive(Debug)]
pub struct FlightStatus {
    id: u64,
    unit: String,
    started: Instant,
    waiters: AtomicU64,
    bytes: AtomicU64,
    /// 0 while unknown: no artifact that is worth a progress figure is empty.
    total: AtomicU64,
    attempts: AtomicU64,
    phase: AtomicU8,
    origin: Mutex<Option<Origin>>,
    landed: AtomicBool,
    cancel: CancellationToken,
    ended: CancellationToken,
}

impl FlightStatus {
    /// The flight's number, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The unit that the flight is for.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Tells whether its waiters have been told where to read from, or how it failed.
    pub fn has_landed(&self) -> bool {
        self.landed.load(Ordering::Relaxed)
    }

    /// Notes the phase that begins now.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Notes that an attempt begins.
    pub fn begin_attempt(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// Attempts begun so far.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Notes which upstream answered.
    pub fn answered_by(&self, origin: Origin) {
        *self
            .origin
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(origin);
    }

    /// Which upstream answered; `None` while none has.
    pub fn origin(&self) -> Option<Origin> {
        self.origin
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Notes how many bytes have arrived, and how many are expected (`None`: not known).
    pub fn progress(&self, bytes: u64, total: Option<u64>) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.total.store(total.unwrap_or(0), Ordering::Relaxed);
    }

    /// Requests that hold a seat now.
    pub fn waiters(&self) -> u64 {
        self.waiters.load(Ordering::Relaxed)
    }

    /// The form in which a lease carries this flight's progress.
    pub fn lease_progress(&self) -> lease::Progress {
        let total = self.total.load(Ordering::Relaxed);
        lease::Progress {
            bytes: self.bytes.load(Ordering::Relaxed),
            total: (total > 0).then_some(total),
            waiters: self.waiters.load(Ordering::Relaxed),
        }
    }

    /// Ends when somebody asks this flight to end: an operator or a shutdown.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        self.cancel.clone().cancelled_owned()
    }

    /// Asks the flight to end.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Ends when the flight has: behind its landing comes the commit, and it may fail until then.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        self.ended.clone().cancelled_owned()
    }
}

/// One row of the operators' list of flights.
#[derive(Debug, Clone, Serialize)]
pub struct FlightView {
    /// Number of the flight, unique in this process.
    pub id: u64,
    /// The unit that is being got.
    pub unit: String,
    /// Where it is.
    pub phase: Phase,
    /// Milliseconds since it began, by the monotonic clock.
    pub age_ms: u64,
    /// Bytes that have arrived.
    pub bytes: u64,
    /// Bytes that are expected; `null` while unknown.
    pub total: Option<u64>,
    /// Mean rate since it began.
    pub bytes_per_s: u64,
    /// Requests that wait on it or read from it.
    pub waiters: u64,
    /// Upstream attempts begun.
    pub attempts: u64,
    /// The upstream that answered; `null` while none has.
    pub upstream: Option<String>,
}

type Landing<V> = Shared<BoxFuture<'static, Result<V, Error>>>;

struct Flight<V> {
    status: Arc<FlightStatus>,
    landing: Landing<V>,
}

struct Table<K, V> {
    flights: DashMap<K, Arc<Flight<V>>>,
    limits: FlightLimits,
    next_id: AtomicU64,
    waiters: Arc<AtomicUsize>,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// The table of running flights of this process.
pub struct Flights<K: Eq + Hash, V> {
    table: Arc<Table<K, V>>,
}

impl<K: Eq + Hash, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights")
            .field("flights", &self.table.flights.len())
            .finish()
    }
}

/// Whether a request started the flight that it waits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its arrival started the flight.
    Leader,
    /// It found the flight running.
    Waiter,
}

/// A request's place in a flight. Dropping it leaves the flight running.
pub struct Seat<V> {
    flight: Arc<Flight<V>>,
    waiters: Arc<AtomicUsize>,
    role: Role,
}

impl<V> fmt::Debug for Seat<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("status", &self.flight.status)
            .field("role", &self.role)
            .finish()
    }
}

/// The leader's side of a flight: owned by the flight's task and by nobody else.
pub struct Lead<K: Eq + Hash, V> {
    table: Arc<Table<K, V>>,
    key: K,
    status: Arc<FlightStatus>,
    landing: Option<oneshot::Sender<Result<V, Error>>>,
    in_table: bool,
}

impl<K, V> Flights<K, V>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Creates an empty table whose flights run on `runtime`.
    ///
    /// `runtime` must be a multi-thread runtime of its own: a flight that ran on an HTTP worker
    /// would end with it and could be starved by it.
    pub fn new(limits: FlightLimits, runtime: Handle, clock: Arc<dyn Clock>) -> Self {
        Self {
            table: Arc::new(Table {
                flights: DashMap::new(),
                limits,
                next_id: AtomicU64::new(1),
                waiters: Arc::new(AtomicUsize::new(0)),
                clock,
                runtime,
                tracker: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        }
    }

    /// Takes a seat in the flight of `key`, starting it with `lead` if there is none.
    ///
    /// `unit` is the flight's name for operators. Never waits. The task that `lead` describes
    /// must end with a call to [`Lead::land`]; if it does not, its waiters get an error.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`]: one of [`FlightLimits`] is reached; answer 503, the client returns.
    pub fn join<F, Fut>(&self, key: &K, unit: &str, lead: F) -> Result<Seat<V>, Error>
    where
        F: FnOnce(Lead<K, V>) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let table = &self.table;
        if table.waiters.load(Ordering::Relaxed) >= table.limits.waiters_max {
            // Before a flight is started that nobody could wait on.
            return Err(Error::Overloaded {
                limit: "fill.waiters_max",
            });
        }
        // Read before the entry is taken: `len` locks every shard, the entry's own included.
        let running = table.tracker.len();
        let (flight, role) = match table.flights.entry(key.clone()) {
            Entry::Occupied(entry) => (entry.get().clone(), Role::Waiter),
            Entry::Vacant(entry) => {
                if running >= table.limits.flights_max {
                    return Err(Error::Overloaded {
                        limit: "fill.concurrency_max",
                    });
                }
                if table.stop.is_cancelled() {
                    return Err(Error::Interrupted {
                        unit: unit.to_owned(),
                    });
                }
                let (tell, told) = oneshot::channel();
                let status = Arc::new(FlightStatus {
                    id: table.next_id.fetch_add(1, Ordering::Relaxed),
                    unit: unit.to_owned(),
                    started: table.clock.now(),
                    waiters: AtomicU64::new(0),
                    bytes: AtomicU64::new(0),
                    total: AtomicU64::new(0),
                    attempts: AtomicU64::new(0),
                    phase: AtomicU8::new(Phase::Checking as u8),
                    origin: Mutex::new(None),
                    landed: AtomicBool::new(false),
                    cancel: table.stop.child_token(),
                    ended: CancellationToken::new(),
                });
                let unit = unit.to_owned();
                let landing = async move {
                    told.await
                        .unwrap_or(Err(Error::Internal { unit, source: None }))
                }
                .boxed()
                .shared();
                let flight = Arc::new(Flight {
                    status: status.clone(),
                    landing,
                });
                entry.insert(flight.clone());
                let task = lead(Lead {
                    table: table.clone(),
                    key: key.clone(),
                    status,
                    landing: Some(tell),
                    in_table: true,
                });
                table.tracker.spawn_on(task, &table.runtime);
                (flight, Role::Leader)
            }
        };
        self.seat(flight, role)
    }

    /// Takes a seat in the flight of `key` if there is one; never starts one.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`]: `fill.waiters_max` is reached.
    pub fn join_running(&self, key: &K) -> Result<Option<Seat<V>>, Error> {
        let table = &self.table;
        let Some(flight) = table.flights.get(key).map(|entry| entry.value().clone()) else {
            return Ok(None);
        };
        self.seat(flight, Role::Waiter).map(Some)
    }

    fn seat(&self, flight: Arc<Flight<V>>, role: Role) -> Result<Seat<V>, Error> {
        let table = &self.table;
        if table.waiters.fetch_add(1, Ordering::Relaxed) >= table.limits.waiters_max {
            table.waiters.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Overloaded {
                limit: "fill.waiters_max",
            });
        }
        flight.status.waiters.fetch_add(1, Ordering::Relaxed);
        Ok(Seat {
            flight,
            waiters: table.waiters.clone(),
            role,
        })
    }

    /// Running flights, in the order in which they began.
    pub fn list(&self) -> Vec<FlightView> {
        let now = self.table.clock.now();
        let mut flights: Vec<_> = self
            .table
            .flights
            .iter()
            .map(|entry| {
                let status = &entry.value().status;
                let age = now.saturating_duration_since(status.started);
                let bytes = status.bytes.load(Ordering::Relaxed);
                let total = status.total.load(Ordering::Relaxed);
                let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                FlightView {
                    id: status.id,
                    unit: status.unit.clone(),
                    phase: Phase::from_u8(status.phase.load(Ordering::Relaxed)),
                    age_ms,
                    bytes,
                    total: (total > 0).then_some(total),
                    bytes_per_s: bytes.saturating_mul(1000) / age_ms.max(1),
                    waiters: status.waiters.load(Ordering::Relaxed),
                    attempts: status.attempts.load(Ordering::Relaxed),
                    upstream: status.origin().map(|origin| origin.upstream.to_string()),
                }
            })
            .collect();
        flights.sort_by_key(|flight| flight.id);
        flights
    }

    /// Flights in the table: those that a new request would join.
    pub fn len(&self) -> usize {
        self.table.flights.len()
    }

    /// Tells whether no flight can be joined.
    pub fn is_empty(&self) -> bool {
        self.table.flights.is_empty()
    }

    /// Tells whether [`Flights::drain`] has begun to cancel what runs.
    pub fn is_stopping(&self) -> bool {
        self.table.stop.is_cancelled()
    }

    /// Requests that hold a seat.
    pub fn waiters(&self) -> usize {
        self.table.waiters.load(Ordering::Relaxed)
    }

    /// Lets running flights end by themselves for at most `patience`, then cancels the rest and
    /// gives them `patience_after_cancel` to clean up. Returns how many were cancelled.
    ///
    /// New flights are accepted until the wait is over, because a request that is still being
    /// answered may need one.
    pub async fn drain(&self, patience: Duration, patience_after_cancel: Duration) -> usize {
        let table = &self.table;
        table.tracker.close();
        let clock = &table.clock;
        tokio::select! {
            () = table.tracker.wait() => {}
            () = clock.sleep(patience) => {}
        }
        let cancelled = table.tracker.len();
        table.stop.cancel();
        if cancelled > 0 {
            tokio::select! {
                () = table.tracker.wait() => {}
                () = clock.sleep(patience_after_cancel) => {}
            }
        }
        cancelled
    }
}

impl<V: Clone> Seat<V> {
    /// Whether this request started the flight.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The flight's status, for the reader who goes on counting as a waiter.
    pub fn status(&self) -> &Arc<FlightStatus> {
        &self.flight.status
    }

    /// Waits for the flight to land, for at most `patience` without progress.
    ///
    /// The time counts from this call and starts anew whenever the flight has received bytes
    /// meanwhile, so a long fetch that moves is never given up. Cancelling is safe at any point:
    /// the flight goes on.
    ///
    /// # Errors
    ///
    /// [`Error::WaitedTooLong`]: no progress for `patience`; the flight goes on.
    /// Any other: the flight's own failure, the same for every waiter.
    pub async fn landed(&self, patience: Duration, clock: &dyn Clock) -> Result<V, Error> {
        let began = clock.now();
        let mut seen = self.flight.status.bytes.load(Ordering::Relaxed);
        loop {
            tokio::select! {
                biased;
                result = self.flight.landing.clone() => return result,
                () = clock.sleep(patience) => {
                    let bytes = self.flight.status.bytes.load(Ordering::Relaxed);
                    if bytes == seen {
                        return Err(Error::WaitedTooLong {
                            unit: self.flight.status.unit.clone(),
                            waited_s: clock.now().saturating_duration_since(began).as_secs(),
                        });
                    }
                    seen = bytes;
                }
            }
        }
    }
}

impl<V> Drop for Seat<V> {
    fn drop(&mut self) {
        self.flight.status.waiters.fetch_sub(1, Ordering::Relaxed);
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<K: Eq + Hash, V> Lead<K, V> {
    /// The flight's status, to be kept true while it runs.
    pub fn status(&self) -> &Arc<FlightStatus> {
        &self.status
    }

    /// Tells every waiter, present and to come, how the flight ended or where to read from.
    ///
    /// A failure leaves the table first, so that nobody joins a flight that has failed. Only the
    /// first call tells anything.
    pub fn land(&mut self, result: Result<V, Error>) {
        if result.is_err() {
            self.leave();
        }
        self.status.landed.store(true, Ordering::Relaxed);
        if let Some(landing) = self.landing.take() {
            // Nobody listening is no fault: the last client may have left.
            let _ = landing.send(result);
        }
    }

    /// Tells whether [`Lead::land`] was called.
    pub fn has_landed(&self) -> bool {
        self.status.has_landed()
    }

    /// Takes the flight out of the table: whoever comes now starts a new one.
    pub fn leave(&mut self) {
        if std::mem::take(&mut self.in_table) {
            let id = self.status.id;
            self.table
                .flights
                .remove_if(&self.key, |_, flight| flight.status.id == id);
        }
    }
}

impl<K: Eq + Hash, V> Drop for Lead<K, V> {
    fn drop(&mut self) {
        self.leave();
        if let Some(landing) = self.landing.take() {
            let unit = self.status.unit.clone();
            let error = if std::thread::panicking() {
                Error::Internal { unit, source: None }
            } else {
                Error::Interrupted { unit }
            };
            let _ = landing.send(Err(error));
        }
        self.status.ended.cancel();
    }
}

#[cfg(test)]
mod tests;
