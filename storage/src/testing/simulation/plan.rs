//! `Plan`: what one run simulates, and everything that decides how it goes.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One run. The same plan gives the same run, event by event.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What every draw of the run follows from.
    pub seed: u64,
    /// Instances, 1 ..= 10,000.
    pub instances: usize,
    /// Clients, each of which wants one artifact from one instance.
    pub clients: usize,
    /// Cold artifacts that the clients choose among, 1 ..= 10,000.
    pub units: usize,
    /// The herd on an artifact arrives within this time. It begins at the start, or at any time
    /// while [`Trouble::until`] lasts.
    pub arrive_within: Duration,
    /// The longest that upstream takes for a whole artifact when nothing is wrong; every fetch
    /// takes between half of it and all of it.
    pub fetch_max: Duration,
    /// What goes wrong by chance.
    pub trouble: Trouble,
    /// What goes wrong by order, and when.
    pub script: Vec<(Duration, Act)>,
}

impl Plan {
    /// A herd on `units` cold artifacts while nothing goes wrong.
    pub fn calm(seed: u64, instances: usize, clients: usize, units: usize) -> Self {
        Self {
            seed,
            instances,
            clients,
            units,
            arrive_within: Duration::from_secs(1),
            fetch_max: Duration::from_millis(800),
            trouble: Trouble::NONE,
            script: Vec::new(),
        }
    }

    /// A run in which everything is drawn from the seed: up to `instances`, up to `clients`, a few
    /// artifacts, and fetches that take from no time to longer than a lease.
    pub fn drawn(seed: u64, instances: usize, clients: usize, trouble: Trouble) -> Self {
        let mut dice = StdRng::seed_from_u64(!seed);
        Self {
            instances: dice.random_range(1..=instances.max(1)),
            clients: dice.random_range(1..=clients.max(1)),
            units: dice.random_range(1..=12),
            arrive_within: Duration::from_millis(dice.random_range(0..=4_000)),
            fetch_max: Duration::from_millis(dice.random_range(5..=12_000)),
            ..Self::calm(seed, 1, 0, 1)
        }
        .with(trouble)
    }

    /// The same with `trouble`.
    #[must_use]
    pub fn with(mut self, trouble: Trouble) -> Self {
        self.trouble = trouble;
        self
    }

    /// The same with `act` at `at` after the start.
    #[must_use]
    pub fn then(mut self, at: Duration, act: Act) -> Self {
        self.script.push((at, act));
        self
    }

    /// Tells whether anything at all may go wrong.
    pub fn is_calm(&self) -> bool {
        self.trouble == Trouble::NONE && self.script.is_empty()
    }
}

/// What goes wrong by chance. Chances are 0.0 ..= 1.0 and hold until [`Trouble::until`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trouble {
    /// A command never reaches the lease server.
    pub command_lost: f64,
    /// A command takes effect, and its answer never arrives.
    pub reply_lost: f64,
    /// A command or its answer takes up to 400 ms, longer than the 250 ms that it is waited for.
    pub command_slow: f64,
    /// A release event does not reach an instance.
    pub event_lost: f64,
    /// One that does reaches it twice.
    pub event_doubled: f64,
    /// Each of these comes up to 3 s late.
    pub event_late: f64,
    /// Another instance does not answer a question in time.
    pub peer_silent: f64,
    /// An operation of the object store fails, in half of the cases after it took effect.
    pub store_fails: f64,
    /// An operation of the object store takes up to 2 s.
    pub store_slow: f64,
    /// Upstream answers 500 or 429, or takes no connection.
    pub upstream_fails: f64,
    /// Upstream sends nothing until its time limit.
    pub upstream_hangs: f64,
    /// A body breaks off, stalls, or ends short of its announced length.
    pub upstream_breaks: f64,
    /// The mean time between two acts of [`Act`]; `None`: none by chance.
    pub act_every: Option<Duration>,
    /// When all of this ends, and some clients still arrive until then.
    pub until: Duration,
}

impl Trouble {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        command_lost: 0.0,
        reply_lost: 0.0,
        command_slow: 0.0,
        event_lost: 0.0,
        event_doubled: 0.0,
        event_late: 0.0,
        peer_silent: 0.0,
        store_fails: 0.0,
        store_slow: 0.0,
        upstream_fails: 0.0,
        upstream_hangs: 0.0,
        upstream_breaks: 0.0,
        act_every: None,
        until: Duration::ZERO,
    };

    /// An ordinary bad day: a few of everything, and something breaks every few seconds.
    pub const SOME: Self = Self {
        command_lost: 0.005,
        reply_lost: 0.005,
        command_slow: 0.01,
        event_lost: 0.05,
        event_doubled: 0.05,
        event_late: 0.05,
        peer_silent: 0.01,
        store_fails: 0.01,
        store_slow: 0.02,
        upstream_fails: 0.05,
        upstream_hangs: 0.01,
        upstream_breaks: 0.03,
        act_every: Some(Duration::from_secs(5)),
        until: Duration::from_secs(30),
    };

    /// Everything at once.
    pub const HEAVY: Self = Self {
        command_lost: 0.03,
        reply_lost: 0.03,
        command_slow: 0.05,
        event_lost: 0.3,
        event_doubled: 0.2,
        event_late: 0.2,
        peer_silent: 0.1,
        store_fails: 0.08,
        store_slow: 0.1,
        upstream_fails: 0.2,
        upstream_hangs: 0.05,
        upstream_breaks: 0.15,
        act_every: Some(Duration::from_millis(1_500)),
        until: Duration::from_secs(60),
    };
}

/// Something that breaks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// An instance that holds a lease dies without a word: the process alone, whose machine then
    /// refuses connections (`false`), or the machine (`true`). A new process takes its place after
    /// this time. Without a holder, any instance.
    KillHolder(bool, Duration),
    /// A firewall begins to refuse the other instances' connections to one that holds a lease.
    RefuseHolder(Duration),
    /// An instance that holds a lease stands still for this long, as by `SIGSTOP`. Without a
    /// holder, any instance.
    PauseHolder(Duration),
    /// Any instance stands still.
    PauseAny(Duration),
    /// One instance cannot reach the lease server: connections break (`false`), or nothing
    /// comes back (`true`).
    CutLink(bool, Duration),
    /// One instance cannot reach the object store.
    CutStore(Duration),
    /// The lease server refuses connections (`false`) or answers nobody (`true`).
    Outage(bool, Duration),
    /// The lease server starts again with nothing in its memory, after this time.
    LoseMemory(Duration),
    /// The lease server's clock jumps by this many milliseconds.
    JumpClock(i64),
    /// Upstream fails every request.
    UpstreamOutage(Duration),
    /// Upstream sends other bytes for one artifact from now on.
    Retag,
    /// An operator breaks a lease that is held.
    Break,
}
