//! `World`: what everything in a run shares: the dice, the trace, the ledger and the artifacts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lease::LeaseKey;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::plan::{Plan, Trouble};
use super::run::Violation;
use super::trace::Trace;
use crate::artifact::{ArtifactKey, FileKind};
use crate::layout;
use crate::module::{ModulePath, Version};

/// Everything that breaks is whole again so long after it broke.
pub(super) const QUIET_AFTER: Duration = Duration::from_secs(60);

/// One cold artifact that clients ask for.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) key: ArtifactKey,
    pub(super) name: String,
    pub(super) lease: LeaseKey,
    pub(super) object_path: String,
    /// What upstream has sent or may send: more than one only after [`Act::Retag`].
    ///
    /// [`Act::Retag`]: super::Act::Retag
    pub(super) versions: Mutex<Vec<Bytes>>,
}

/// Everything that all parts of one run share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) units: Vec<Unit>,
    by_name: HashMap<String, usize>,
    by_path: HashMap<String, usize>,
    began: Instant,
    dice: Mutex<StdRng>,
    trace: Mutex<Trace>,
    ledger: Mutex<Ledger>,
    violation: Mutex<Option<Violation>>,
    /// Cancelled by the first violation: there is no point in going on.
    pub(super) over: CancellationToken,
}

impl World {
    pub(super) fn new(plan: Plan) -> Arc<Self> {
        let units: Vec<_> = (0..plan.units).map(Unit::new).collect();
        let by_name = units
            .iter()
            .enumerate()
            .map(|(index, unit)| (unit.name.clone(), index));
        let by_path = units.iter().enumerate().flat_map(|(index, unit)| {
            [unit.object_path.clone(), layout::upstream_path(&unit.key)].map(|path| (path, index))
        });
        Arc::new(Self {
            by_name: by_name.collect(),
            by_path: by_path.collect(),
            began: Instant::now(),
            dice: Mutex::new(StdRng::seed_from_u64(plan.seed)),
            trace: Mutex::new(Trace::new()),
            ledger: Mutex::new(Ledger::new(&plan)),
            violation: Mutex::new(None),
            over: CancellationToken::new(),
            plan,
            units,
        })
    }

    /// Virtual time since the start.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The chances that hold now: none once the trouble is over.
    pub(super) fn trouble(&self) -> Trouble {
        if self.now() < self.plan.trouble.until {
            self.plan.trouble
        } else {
            Trouble::NONE
        }
    }

    /// Whether everything that the plan breaks has been whole again for a while.
    pub(super) fn is_quiet(&self) -> bool {
        let script = self.plan.script.iter().map(|(at, _)| *at).max();
        let last = self.plan.trouble.until.max(script.unwrap_or_default());
        self.now() > last + QUIET_AFTER
    }

    /// The unit with this name or lease key; what the sum of the product asks for is always one.
    pub(super) fn unit_named(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The unit at this path, of the store's tree or upstream's.
    pub(super) fn unit_at(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    pub(super) fn chance(&self, chance: f64) -> bool {
        // No draw for what cannot happen: a run without trouble takes half the time.
        chance > 0.0 && lock(&self.dice).random_bool(chance)
    }

    /// Draws from `0 .. below`.
    pub(super) fn pick(&self, below: usize) -> usize {
        lock(&self.dice).random_range(0..below.max(1))
    }

    /// Draws a duration from `min ..= max`, in whole milliseconds.
    pub(super) fn between(&self, min: Duration, max: Duration) -> Duration {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(lock(&self.dice).random_range(ms(min)..=ms(max).max(ms(min))))
    }

    /// Draws a duration from `0 ..= max_ms` milliseconds.
    pub(super) fn up_to_ms(&self, max_ms: u64) -> Duration {
        self.between(Duration::ZERO, Duration::from_millis(max_ms))
    }

    /// Writes an event into the trace.
    pub(super) fn note(&self, host: u32, what: &'static str, unit: Option<usize>, number: u64) {
        lock(&self.trace).push(self.now(), host, what, unit, number);
    }

    pub(super) fn trace_hash(&self) -> (u64, u64) {
        let trace = lock(&self.trace);
        (trace.hash(), trace.events())
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Notes that a rule was broken, if it is the first; the run ends with it.
    pub(super) fn violated(&self, unit: Option<usize>, rule: impl Into<String>) {
        let mut violation = lock(&self.violation);
        if violation.is_none() {
            let trace = lock(&self.trace).tail(unit);
            *violation = Some(Violation {
                seed: self.plan.seed,
                rule: rule.into(),
                unit: unit.map(|unit| self.units[unit].name.clone()),
                at: self.now(),
                trace,
            });
        }
        self.over.cancel();
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        lock(&self.violation).take()
    }
}

impl Unit {
    fn new(index: usize) -> Self {
        let module = ModulePath::parse(&format!("example.com/m{index}"))
            .expect("a letter and digits are a module's name");
        let version = Version::parse("v1.0.0").expect("it is canonical");
        let key = ArtifactKey::file(module, version, FileKind::Mod).expect("major version 1 fits");
        let name = key.unit();
        Self {
            lease: LeaseKey::new(&name).expect("a short name can be leased"),
            object_path: layout::object_path(&key),
            versions: Mutex::new(vec![body(&name, 1)]),
            key,
            name,
        }
    }

    /// What upstream sends now.
    pub(super) fn current(&self) -> Bytes {
        lock(&self.versions)
            .last()
            .cloned()
            .expect("there is one from the start")
    }

    /// Lets upstream send other bytes from now on.
    pub(super) fn retag(&self) {
        let mut versions = lock(&self.versions);
        let next = versions.len() + 1;
        versions.push(body(&self.name, next));
    }

    /// Tells whether upstream ever sent `bytes` as the whole artifact.
    pub(super) fn has_sent(&self, bytes: &Bytes) -> bool {
        lock(&self.versions).contains(bytes)
    }
}

/// A `.mod` file that no other unit and no other version has.
fn body(name: &str, version: usize) -> Bytes {
    format!(
        "module {name}\n// bytes of version {version}\n{}",
        "x".repeat(400)
    )
    .into()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
