//! `Host`: one process, which may stand still or die; and the clock that it sees.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use lease::Clock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::world::{World, lock};

/// One process of the fleet.
///
/// Computing takes no virtual time, so all that a process does begins with something that arrives
/// and ends with something that is sent. A process that stands still is therefore one to which
/// nothing arrives and from which nothing goes out: every such place passes [`Host::gate`]. For a
/// dead one the gate never opens again, and what it was doing stops there for ever, its `Drop`
/// code included, as after `kill -9`.
#[derive(Debug)]
pub(super) struct Host {
    /// Counts processes from 1; one that takes a dead one's place has a number of its own.
    pub(super) number: u32,
    /// Cancelled by its death: its clients' connections break.
    pub(super) died: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    paused_until: Instant,
    /// All its pauses together: what its clients may wait in addition.
    paused: Duration,
    store_cut_until: Instant,
    refuses_until: Instant,
    machine_dead: bool,
}

impl Host {
    pub(super) fn new(number: u32) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            number,
            died: CancellationToken::new(),
            state: Mutex::new(State {
                paused_until: now,
                paused: Duration::ZERO,
                store_cut_until: now,
                refuses_until: now,
                machine_dead: false,
            }),
        })
    }

    /// Ends the process, alone or with its whole machine.
    pub(super) fn die(&self, with_machine: bool) {
        lock(&self.state).machine_dead = with_machine;
        self.died.cancel();
    }

    /// Whether not even a refusal comes from its address.
    pub(super) fn is_machine_dead(&self) -> bool {
        lock(&self.state).machine_dead
    }

    /// Lets a firewall refuse connections to it from other instances.
    pub(super) fn refuse(&self, duration: Duration) {
        let mut state = lock(&self.state);
        state.refuses_until = state.refuses_until.max(Instant::now() + duration);
    }

    pub(super) fn refuses(&self) -> bool {
        Instant::now() < lock(&self.state).refuses_until
    }

    pub(super) fn is_dead(&self) -> bool {
        self.died.is_cancelled()
    }

    pub(super) fn is_paused(&self) -> bool {
        Instant::now() < lock(&self.state).paused_until
    }

    pub(super) fn paused_in_all(&self) -> Duration {
        lock(&self.state).paused
    }

    pub(super) fn pause(&self, duration: Duration) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let until = state.paused_until.max(now + duration);
        let more = until - state.paused_until.max(now);
        state.paused += more;
        state.paused_until = until;
    }

    pub(super) fn cut_store(&self, duration: Duration) {
        let mut state = lock(&self.state);
        state.store_cut_until = state.store_cut_until.max(Instant::now() + duration);
    }

    pub(super) fn reaches_store(&self) -> bool {
        Instant::now() >= lock(&self.state).store_cut_until
    }

    /// Passes at once while the process runs, when it goes on after a pause, and never once it
    /// is dead.
    pub(super) async fn gate(&self) {
        if self.is_dead() || self.is_paused() {
            // Rare, and a timer is large: a million clients pass here.
            Box::pin(self.held_up()).await;
        }
    }

    async fn held_up(&self) {
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            let until = lock(&self.state).paused_until;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// The time as one process sees it.
#[derive(Debug)]
pub(super) struct HostClock {
    pub(super) world: Arc<World>,
    pub(super) host: Arc<Host>,
}

impl Clock for HostClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        // Some day: whatever depended on the real one would not be the same twice.
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.world.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let sleep = tokio::time::sleep(duration);
        let host = self.host.clone();
        async move {
            sleep.await;
            host.gate().await;
        }
        .boxed()
    }

    fn jitter(&self, max: Duration) -> Duration {
        self.world.between(Duration::ZERO, max)
    }
}
