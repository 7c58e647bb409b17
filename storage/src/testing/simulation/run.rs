//! One run from its first to its last moment, and what must be true at the end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio_util::task::TaskTracker;

use super::fleet::{Fleet, Instance};
use super::plan::Plan;
use super::report::Report;
use super::world::World;
use crate::artifacts::{Artifacts, GetOptions};
use crate::config::WarmerConfig;
use crate::instance_dir::InstanceDir;
use crate::testing::read_answer;

/// The longest that a run may take until every client has its answer: far above what any bound of
/// the product allows, so that only a hang reaches it.
const RUN_MAX: Duration = Duration::from_secs(2 * 3_600);

/// Failures are remembered at most so long; after it, everything must work again.
const FORGET: Duration = Duration::from_secs(61);

/// Artifacts asked for again at the end, of each instance.
const PROBES_MAX: usize = 20;

/// Events that are shown with a violation, of those that it has.
const LINES_SHOWN: usize = 60;

/// A rule that a run broke. Displayed, it ends with the last of its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The seed that shows it again.
    pub seed: u64,
    /// What is wrong.
    pub rule: String,
    /// The artifact that it is about.
    pub unit: Option<String>,
    /// When, in virtual time since the start.
    pub at: Duration,
    /// The last events that concern it, one a line.
    pub trace: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.unit.as_deref().unwrap_or("all");
        writeln!(
            f,
            "seed {}: after {:?}, {unit}: {}",
            self.seed, self.at, self.rule
        )?;
        let lines: Vec<_> = self.trace.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

/// Runs a plan to its end, in virtual time and on the thread of the caller.
///
/// # Errors
///
/// [`Violation`]: the first rule that was broken; the run ended with it.
///
/// # Panics
///
/// Inside a runtime, or when temporary files cannot be written.
pub fn run(plan: Plan) -> Result<Report, Box<Violation>> {
    let parent = std::env::temp_dir().join("corral-tests");
    let dir = InstanceDir::open(&parent, "simulation").expect("temporary files can be written");
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(async {
        let world = World::new(plan);
        let fleet = Fleet::start(world.clone(), dir.path());
        let report = tokio::select! {
            biased;
            () = world.over.cancelled() => None,
            report = live(&fleet) => report,
        };
        fleet.server.disconnect_all();
        match (world.violation(), report) {
            (None, Some(report)) => Ok(report),
            (Some(violation), _) => Err(Box::new(violation)),
            (None, None) => unreachable!("a run without a report has told of a violation"),
        }
    })
}

async fn live(fleet: &Arc<Fleet>) -> Option<Report> {
    let world = &fleet.world;
    let trouble = tokio::spawn(super::trouble::run(fleet.clone()));
    let clients = TaskTracker::new();
    super::clients::arrive(fleet, &clients);
    if tokio::time::timeout(RUN_MAX, clients.wait()).await.is_err() {
        let rule = format!("{} clients never got an answer", clients.len());
        world.violated(None, rule);
        return None;
    }
    let lasted = world.now();
    drop(trouble.await);
    let report = Report::of(fleet, lasted);
    calm_down(fleet).await?;
    nothing_is_left(fleet)?;
    all_is_well(fleet).await?;
    calm_down(fleet).await?;
    nothing_is_left(fleet)?;
    let (hash, events) = world.trace_hash();
    Some(Report {
        hash,
        events,
        ..report
    })
}

/// Waits until nothing goes on and everything remembered is forgotten.
async fn calm_down(fleet: &Fleet) -> Option<()> {
    let world = &fleet.world;
    while !world.is_quiet() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let idle = async {
        while !fleet
            .living()
            .iter()
            .all(|(_, instance)| instance.is_idle())
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(RUN_MAX, idle).await.is_err() {
        world.violated(None, "flights go on for ever, with nobody waiting");
        return None;
    }
    tokio::time::sleep(FORGET + fleet.server.rewound()).await;
    Some(())
}

fn nothing_is_left(fleet: &Fleet) -> Option<()> {
    let world = &fleet.world;
    if let Some(lease) = fleet.server.list().first() {
        let unit = world.unit_named(lease.key.as_str());
        let holder = &lease.holder.instance;
        let left = lease.expires_in;
        world.violated(
            unit,
            format!("{holder} still holds the lease, for {left:?} more"),
        );
        return None;
    }
    let kept = fleet
        .living()
        .into_iter()
        .find_map(|(_, instance)| instance.leftovers());
    if let Some(kept) = kept {
        world.violated(None, kept);
        return None;
    }
    let (mut gave_up, ledger) = (0, world.ledger());
    for instance in fleet.everybody() {
        gave_up += instance.metrics.lease_rounds_exhausted.get();
    }
    let asked: u64 = ledger.units.iter().map(|unit| unit.gave_up).sum();
    drop(ledger);
    if asked > gave_up {
        let rule = format!("{asked} asked upstream while others held the lease, {gave_up} gave up");
        world.violated(None, rule);
        return None;
    }
    Some(())
}

/// Every instance answers every artifact, all with the bytes that are stored.
async fn all_is_well(fleet: &Arc<Fleet>) -> Option<()> {
    let world = &fleet.world;
    let asked: Vec<_> = {
        let ledger = world.ledger();
        let units = ledger.units.iter().enumerate();
        units
            .filter(|(_, unit)| unit.grants + unit.refused > 0)
            .map(|(unit, _)| unit)
            .take(PROBES_MAX)
            .collect()
    };
    let probes = TaskTracker::new();
    for (_, instance) in fleet.living() {
        for &unit in &asked {
            probes.spawn(probe(fleet.clone(), instance.clone(), unit));
        }
    }
    probes.close();
    if tokio::time::timeout(2 * WarmerConfig::default().wait_max, probes.wait())
        .await
        .is_err()
    {
        world.violated(None, "a request after all trouble gets no answer");
        return None;
    }
    (!world.over.is_cancelled()).then_some(())
}

async fn probe(fleet: Arc<Fleet>, instance: Arc<Instance>, unit: usize) {
    let world = &fleet.world;
    let key = &world.units[unit].key;
    let answer = instance.warmer.get(key, GetOptions::default()).await;
    let bytes = match answer {
        Ok(answer) => read_answer(answer).await,
        Err(error) => Err(error),
    };
    let stored = fleet.objects.get(unit);
    let number = instance.host.number;
    match bytes {
        // The leader of a last fetch has its bytes before the store has.
        Ok(bytes) if stored.is_none() || stored.as_ref() == Some(&bytes) => {}
        // The one exception: it fetched while upstream changed the artifact, the store did not
        // say what became of the commit, and it goes on to serve what it verified.
        Ok(bytes) if instance.has_failed_commits() && world.units[unit].has_sent(&bytes) => {
            world.note(number, "answers what it could not store", Some(unit), 0);
        }
        Ok(_) => {
            let rule = format!("instance {number} answers other bytes than are stored");
            world.violated(Some(unit), rule);
        }
        Err(error) => {
            let rule = format!("instance {number} fails after all trouble: {error}");
            world.violated(Some(unit), rule);
        }
    }
}
