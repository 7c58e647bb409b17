//! The simulated lease server: `lease`'s own table and records behind a clock that may jump and a
//! memory that may be lost.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lease::{
    Acquire, Clock, ForceRelease, Grant, Holder, LeaseKey, LeaseQuery, LeaseTable, LeaseToken,
    LeaseView, LocalLeases, LocalRecords, Outcome, Progress, Record, Records, ReleaseEvent,
    Released, Renewal, TakeOver,
};
use tokio::time::Instant;

use super::link::Link;
use super::world::{World, lock};

/// What one command costs the server: about what was measured for its scripts.
const COMMAND_COST: Duration = Duration::from_micros(20);

/// How much virtual time lies before a run, so that the server's clock can be set back.
const HISTORY: Duration = Duration::from_secs(48 * 3_600);

#[derive(Debug)]
pub(super) struct Server {
    world: Arc<World>,
    clock: Arc<ServerClock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    leases: Arc<LocalLeases>,
    records: Arc<LocalRecords>,
    /// When it will have done what it was asked so far: it does one command at a time.
    busy_until: Instant,
    out_until: Instant,
    out_silent: bool,
    links: Vec<Arc<Link>>,
}

/// The server's own time; leases and records end by it.
#[derive(Debug)]
struct ServerClock {
    world: Arc<World>,
    /// Milliseconds, at most [`HISTORY`] in either direction.
    offset_ms: Mutex<i64>,
    /// All jumps back together: so much longer may leases last.
    rewound: Mutex<Duration>,
}

impl Clock for ServerClock {
    fn now(&self) -> Instant {
        let offset = *lock(&self.offset_ms);
        let by = Duration::from_millis(offset.unsigned_abs());
        let now = Instant::now() + HISTORY;
        if offset < 0 { now - by } else { now + by }
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.world.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}

impl Server {
    pub(super) fn new(world: Arc<World>) -> Arc<Self> {
        let clock = Arc::new(ServerClock {
            world: world.clone(),
            offset_ms: Mutex::new(0),
            rewound: Mutex::new(Duration::ZERO),
        });
        let now = Instant::now();
        let state = State {
            leases: Arc::new(LocalLeases::new(clock.clone())),
            records: records(&clock),
            busy_until: now,
            out_until: now,
            out_silent: false,
            links: Vec::new(),
        };
        Arc::new(Self {
            world,
            clock,
            state: Mutex::new(state),
        })
    }

    /// Enters the instance's subscription.
    pub(super) fn connect(&self, link: Arc<Link>) {
        lock(&self.state).links.push(link);
    }

    /// Forgets a dead process's connection.
    pub(super) fn disconnect(&self, host: u32) {
        lock(&self.state)
            .links
            .retain(|link| link.host().number != host);
    }

    /// Forgets all connections: they hold on to the server, and it to them.
    pub(super) fn disconnect_all(&self) {
        lock(&self.state).links.clear();
    }

    /// When a command that arrives now will have been done.
    pub(super) fn enqueue(&self) -> Instant {
        let mut state = lock(&self.state);
        state.busy_until = state.busy_until.max(Instant::now()) + COMMAND_COST;
        state.busy_until
    }

    /// Whether it answers, and if not, whether it is silent about that.
    pub(super) fn outage(&self) -> Option<bool> {
        let state = lock(&self.state);
        (Instant::now() < state.out_until).then_some(state.out_silent)
    }

    /// When the last outage ended or will end; the start when there was none.
    pub(super) fn out_until(&self) -> Instant {
        lock(&self.state).out_until
    }

    pub(super) fn go_out(&self, silent: bool, duration: Duration) {
        let links = {
            let mut state = lock(&self.state);
            state.out_until = state.out_until.max(Instant::now() + duration);
            state.out_silent = silent;
            state.links.clone()
        };
        if !silent {
            links.iter().for_each(|link| link.broke());
        }
    }

    pub(super) fn lose_memory(&self) {
        let mut state = lock(&self.state);
        state.leases = Arc::new(LocalLeases::new(self.clock.clone()));
        state.records = records(&self.clock);
        drop(state);
        self.world.ledger().forgotten();
    }

    pub(super) fn jump_clock(&self, by_ms: i64) {
        let limit = i64::try_from(HISTORY.as_millis() / 2).unwrap_or(i64::MAX);
        let mut offset = lock(&self.clock.offset_ms);
        let before = *offset;
        *offset = offset.saturating_add(by_ms).clamp(-limit, limit);
        let back = u64::try_from(before - *offset).unwrap_or(0);
        *lock(&self.clock.rewound) += Duration::from_millis(back);
    }

    /// How much later than they should leases and records may end, for all the jumps back.
    pub(super) fn rewound(&self) -> Duration {
        *lock(&self.clock.rewound)
    }

    fn leases(&self) -> Arc<LocalLeases> {
        lock(&self.state).leases.clone()
    }

    fn records(&self) -> Arc<LocalRecords> {
        lock(&self.state).records.clone()
    }

    pub(super) fn try_acquire(
        &self,
        unit: usize,
        key: &LeaseKey,
        holder: &Holder,
        ttl: Duration,
    ) -> Result<Acquire, lease::LeaseError> {
        let answer = at_once(self.leases().try_acquire(key, holder, ttl))?;
        if let Acquire::Granted(grant) = &answer {
            let checked = self.world.ledger().granted(unit, grant.token);
            self.check(unit, checked);
        }
        Ok(answer)
    }

    pub(super) fn renew(
        &self,
        unit: usize,
        grant: &Grant,
        progress: &Progress,
    ) -> Result<Renewal, lease::LeaseError> {
        let answer = at_once(self.leases().renew(grant, progress))?;
        if matches!(answer, Renewal::Renewed { .. }) {
            let checked = self.world.ledger().renewed(unit, grant.token);
            self.check(unit, checked);
        }
        Ok(answer)
    }

    pub(super) fn release(
        self: &Arc<Self>,
        unit: usize,
        grant: &Grant,
        outcome: Outcome,
        is_stored: bool,
    ) -> Result<Released, lease::LeaseError> {
        let answer = at_once(self.leases().release(grant, outcome))?;
        if answer == Released::Released {
            let checked = self
                .world
                .ledger()
                .released(unit, grant.token, outcome, is_stored);
            self.check(unit, checked);
            self.publish(&grant.key, grant.token, outcome);
        }
        Ok(answer)
    }

    pub(super) fn take_over(
        self: &Arc<Self>,
        unit: usize,
        key: &LeaseKey,
        token: LeaseToken,
        ttl: Duration,
    ) -> Result<TakeOver, lease::LeaseError> {
        let answer = at_once(self.leases().take_over(key, &token, ttl))?;
        if answer == TakeOver::Freed {
            let now = self.clock.now().saturating_duration_since(Instant::now());
            let now = now + self.world.now();
            let checked = self.world.ledger().taken_over(unit, now, ttl);
            self.check(unit, checked);
            self.publish(key, token, Outcome::Abandoned);
        }
        Ok(answer)
    }

    pub(super) fn force_release(
        self: &Arc<Self>,
        key: &LeaseKey,
        token: LeaseToken,
    ) -> Result<ForceRelease, lease::LeaseError> {
        let answer = at_once(self.leases().force_release(key, &token))?;
        if answer == ForceRelease::Forced {
            self.publish(key, token, Outcome::Forced);
        }
        Ok(answer)
    }

    /// The lease of `key` that is in force, if any.
    pub(super) fn get(&self, key: &LeaseKey) -> Option<LeaseView> {
        at_once(self.leases().get(key)).unwrap_or_default()
    }

    /// Leases in force, up to a thousand.
    pub(super) fn list(&self) -> Vec<LeaseView> {
        let query = LeaseQuery {
            limit: lease::PAGE_LIMIT_MAX,
            ..LeaseQuery::default()
        };
        at_once(self.leases().list(&query)).map_or_else(|_| Vec::new(), |page| page.leases)
    }

    pub(super) fn record(&self, key: &str) -> Result<Option<Record>, lease::LeaseError> {
        at_once(self.records().get(key))
    }

    pub(super) fn set_record(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<(), lease::LeaseError> {
        at_once(self.records().set(key, value, ttl))
    }

    pub(super) fn add_record(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<bool, lease::LeaseError> {
        at_once(self.records().set_if_absent(key, value, ttl))
    }

    pub(super) fn delete_record(&self, key: &str) -> Result<bool, lease::LeaseError> {
        at_once(self.records().delete(key))
    }

    fn check(&self, unit: usize, checked: Result<(), String>) {
        if let Err(rule) = checked {
            self.world.violated(Some(unit), rule);
        }
    }

    /// Sends a release event to every instance, each at its own time.
    fn publish(self: &Arc<Self>, key: &LeaseKey, token: LeaseToken, outcome: Outcome) {
        let event = ReleaseEvent {
            key: key.clone(),
            token,
            outcome,
        };
        let links = lock(&self.state).links.clone();
        let mut deliveries: Vec<_> = links
            .into_iter()
            .flat_map(|link| {
                let times = link.event_times();
                times.into_iter().map(move |at| (at, link.clone()))
            })
            .collect();
        deliveries.sort_by_key(|(at, _)| *at);
        tokio::spawn(async move {
            for (at, link) in deliveries {
                if at > Instant::now() {
                    tokio::time::sleep_until(at).await;
                }
                link.deliver(&event);
            }
        });
    }
}

fn records(clock: &Arc<ServerClock>) -> Arc<LocalRecords> {
    Arc::new(LocalRecords::new(clock.clone()))
}

/// The answer of an operation on memory: it never waits.
fn at_once<T>(operation: impl Future<Output = T>) -> T {
    operation
        .now_or_never()
        .expect("the local table and records never wait")
}
