//! `Link`: one process's connection to the lease server.
//!
//! It stands for the networked client: commands go out in order and come back in order, each
//! within [`COMMAND_TIMEOUT`] or not at all; after [`FAILURES_MAX`] failures in a row nothing is
//! sent until a look every [`PROBE_EVERY`] finds the server again, which is also when events are
//! known to flow or not.

mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lease::{Fanout, LeaseError, LeaseToken, ReleaseEvent};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::bucket::Objects;
use super::host::Host;
use super::ledger::Op;
use super::server::Server;
use super::world::{World, lock};

pub(super) use view::{LinkedLeases, LinkedRecords};

/// How long an answer is waited for.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(250);

/// After so many failures in a row the server is taken to be away.
const FAILURES_MAX: u32 = 5;

/// How often it is looked for then, and how often the subscription is tested.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The longest that a message travels in one direction on a good day.
const TRAVEL_MAX_MS: u64 = 1;

/// How long a slow one travels.
const SLOW_MAX_MS: u64 = 400;

/// How late a late event is.
const EVENT_LATE_MAX_MS: u64 = 3_000;

/// See the module.
pub(super) struct Link {
    world: Arc<World>,
    host: Arc<Host>,
    server: Arc<Server>,
    objects: Arc<Objects>,
    fanout: Fanout,
    state: Mutex<State>,
    /// Grants that this process may have in force, and until when.
    live: Mutex<BTreeMap<LeaseToken, Instant>>,
}

#[derive(Debug)]
struct State {
    cut_until: Instant,
    cut_silent: bool,
    failures: u32,
    /// When the last message in each direction arrives: a connection keeps the order.
    last_out: Instant,
    last_back: Instant,
    last_event: Instant,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("host", &self.host.number)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Connects a process, and starts the task that tests its connection.
    pub(super) fn connect(
        world: Arc<World>,
        host: Arc<Host>,
        server: Arc<Server>,
        objects: Arc<Objects>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            cut_until: now,
            cut_silent: false,
            failures: 0,
            last_out: now,
            last_back: now,
            last_event: now,
        };
        let link = Arc::new(Self {
            world,
            host,
            fanout: Fanout::new(server.outage().is_none()),
            server: server.clone(),
            objects,
            state: Mutex::new(state),
            live: Mutex::default(),
        });
        server.connect(link.clone());
        tokio::spawn(probe(link.clone()));
        link
    }

    pub(super) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The process's own subscriptions.
    pub(super) fn fanout(&self) -> &Fanout {
        &self.fanout
    }

    /// Whether the process may have the grant `token` in force.
    ///
    /// A process knows its tokens before it asks for them to be granted; here they are made by
    /// the server, so they are known from that moment on, before which nobody can ask.
    pub(super) fn knows(&self, token: &LeaseToken) -> bool {
        let live = lock(&self.live);
        live.get(token).is_some_and(|until| Instant::now() < *until)
    }

    fn may_hold(&self, token: LeaseToken, until: Instant) {
        let now = Instant::now();
        let mut live = lock(&self.live);
        live.retain(|_, until| *until > now);
        live.insert(token, until);
    }

    fn forget(&self, token: &LeaseToken) {
        lock(&self.live).remove(token);
    }

    pub(super) fn cut(&self, silent: bool, duration: Duration) {
        {
            let mut state = lock(&self.state);
            state.cut_until = state.cut_until.max(Instant::now() + duration);
            state.cut_silent = silent;
        }
        if !silent {
            self.broke();
        }
    }

    /// The connection broke, and the process knows at once.
    pub(super) fn broke(&self) {
        self.fanout.set_live(false);
    }

    /// Whether the two reach each other, and if not, whether that is silent.
    fn severed(&self) -> Option<bool> {
        let state = lock(&self.state);
        if Instant::now() < state.cut_until {
            return Some(state.cut_silent);
        }
        drop(state);
        self.server.outage()
    }

    /// When the two could reach each other again, if they can.
    fn healed_at(&self) -> Instant {
        lock(&self.state).cut_until.max(self.server.out_until())
    }

    fn travel(&self) -> Duration {
        let slow = self.world.chance(self.world.trouble().command_slow);
        self.world
            .up_to_ms(if slow { SLOW_MAX_MS } else { TRAVEL_MAX_MS })
    }

    /// Sends a command, and waits for its answer as a client does.
    ///
    /// Once sent, it takes effect whether or not anybody still waits.
    async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        op: Op,
        unit: Option<usize>,
        effect: impl FnOnce(&Arc<Server>) -> T + Send + 'static,
    ) -> Result<T, LeaseError> {
        self.host.gate().await;
        if lock(&self.state).failures >= FAILURES_MAX {
            return Err(LeaseError::unavailable("be asked: it seems to be away"));
        }
        let (host, now) = (self.host.number, self.world.now());
        self.world.ledger().command(now, host, unit, op);
        let (tell, mut told) = oneshot::channel();
        tokio::spawn(self.clone().carry(effect, tell));
        let answer = tokio::select! {
            biased;
            answer = &mut told => answer.ok(),
            () = tokio::time::sleep(COMMAND_TIMEOUT) => None,
        };
        self.host.gate().await;
        // What came while the process stood still is found before the timer is.
        let answer = answer.or_else(|| told.try_recv().ok());
        let mut state = lock(&self.state);
        match answer {
            Some(value) => {
                state.failures = 0;
                Ok(value)
            }
            None => {
                state.failures += 1;
                drop(state);
                self.world.note(host, "no answer", unit, op as u64);
                Err(LeaseError::unavailable("answer in time"))
            }
        }
    }

    /// Takes a command to the server and its answer back, as far as they get. When `tell` is
    /// dropped, the sender sees its connection break.
    async fn carry<T>(
        self: Arc<Self>,
        effect: impl FnOnce(&Arc<Server>) -> T,
        tell: oneshot::Sender<T>,
    ) {
        let trouble = self.world.trouble();
        let arrives = {
            let travel = self.travel();
            let mut state = lock(&self.state);
            state.last_out = state.last_out.max(Instant::now() + travel);
            state.last_out
        };
        sleep_until(arrives).await;
        if let Some(silent) = self.severed() {
            return lose(silent, tell).await;
        }
        if self.world.chance(trouble.command_lost) {
            return lose(self.world.chance(0.5), tell).await;
        }
        sleep_until(self.server.enqueue()).await;
        if let Some(silent) = self.severed() {
            return lose(silent, tell).await;
        }
        let answer = effect(&self.server);
        if self.world.chance(trouble.reply_lost) {
            return lose(self.world.chance(0.5), tell).await;
        }
        let arrives = {
            let travel = self.travel();
            let mut state = lock(&self.state);
            state.last_back = state.last_back.max(Instant::now() + travel);
            state.last_back
        };
        sleep_until(arrives).await;
        if let Some(silent) = self.severed() {
            return lose(silent, tell).await;
        }
        // The sender may have given up.
        let _ = tell.send(answer);
    }

    /// When an event that is sent now arrives here: not at all, once or twice.
    pub(super) fn event_times(&self) -> Vec<Instant> {
        let trouble = self.world.trouble();
        if self.host.is_dead() || self.severed().is_some() || self.world.chance(trouble.event_lost)
        {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.world.chance(trouble.event_doubled));
        (0..copies)
            .map(|_| {
                let travel = self.world.up_to_ms(TRAVEL_MAX_MS);
                if self.world.chance(trouble.event_late) {
                    return Instant::now() + travel + self.world.up_to_ms(EVENT_LATE_MAX_MS);
                }
                let mut state = lock(&self.state);
                state.last_event = state.last_event.max(Instant::now() + travel);
                state.last_event
            })
            .collect()
    }

    /// Takes an event to the process, or to its socket while it stands still.
    pub(super) fn deliver(self: &Arc<Self>, event: &ReleaseEvent) {
        if self.severed().is_some() {
            return;
        }
        if !self.host.is_paused() {
            return self.wake(event);
        }
        let (link, event) = (self.clone(), event.clone());
        tokio::spawn(async move {
            link.host.gate().await;
            link.wake(&event);
        });
    }

    fn wake(&self, event: &ReleaseEvent) {
        if self.host.is_dead() {
            return;
        }
        let woken = self.fanout.publish(event) as u64;
        let now = self.world.now();
        self.world.ledger().woken(now, event.token, woken);
        if woken > 0 {
            let unit = self.world.unit_named(event.key.as_str());
            self.world
                .note(self.host.number, "event wakes", unit, woken);
        }
    }
}

/// Waits as long as nobody could know that the command is lost, if that is silent.
async fn lose<T>(silent: bool, tell: oneshot::Sender<T>) {
    if silent {
        tokio::time::sleep(2 * COMMAND_TIMEOUT).await;
    }
    drop(tell);
}

async fn sleep_until(at: Instant) {
    if at > Instant::now() {
        tokio::time::sleep_until(at).await;
    }
}

/// Tests the connection for as long as the process lives, and opens it again.
async fn probe(link: Arc<Link>) {
    let phase = link.world.between(Duration::ZERO, PROBE_EVERY);
    tokio::time::sleep(phase).await;
    loop {
        link.host.gate().await;
        let live = link.severed().is_none();
        if live {
            lock(&link.state).failures = 0;
        }
        if live != link.fanout.is_live() {
            link.fanout.set_live(live);
            if live {
                link.fanout.wake_all();
            }
            if live {
                let since = Instant::now().saturating_duration_since(link.healed_at());
                link.world.ledger().reconnects.push(since);
            }
            let what = if live { "reconnects" } else { "is cut off" };
            link.world.note(link.host.number, what, None, 0);
        }
        // A run's last hours, in which leases of the dead expire, need no such care.
        let factor = if link.world.is_quiet() { 600 } else { 1 };
        tokio::time::sleep(factor * PROBE_EVERY).await;
    }
}
