//! The clients: each wants one artifact, takes any instance, and goes to another if it dies.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::fleet::{Fleet, Instance};
use crate::artifacts::{AnswerBody, Artifacts, GetOptions};
use crate::config::WarmerConfig;
use crate::error::{Error, ErrorKind};
use crate::testing::read_answer;

/// One client in this many comes with its artifact's herd or later, while the trouble lasts.
const LATE_ONE_IN: usize = 5;

/// A client that finds nobody at a place tries another after this long.
const RECONNECT: Duration = Duration::from_millis(100);

/// The longest that a request may take, its instance's pauses apart.
///
/// A waiter gives up after `wait_max` without news of bytes. News begin it anew, but in a
/// simulation they come within one fetch, which is over long before a second `wait_max` is.
fn wait_max() -> Duration {
    2 * WarmerConfig::default().wait_max
}

/// Lets all clients arrive; each is a task of `clients`, which this closes.
pub(super) fn arrive(fleet: &Arc<Fleet>, clients: &TaskTracker) {
    let world = &fleet.world;
    let plan = &world.plan;
    let herds: Vec<_> = (0..plan.units)
        .map(|_| world.between(Duration::ZERO, plan.trouble.until))
        .collect();
    let mut arrivals: Vec<_> = (0..plan.clients)
        .map(|client| {
            let (unit, place) = (world.pick(plan.units), world.pick(plan.instances));
            let rest = plan.trouble.until.saturating_sub(herds[unit]);
            // Never before the herd, which would find it stored then.
            let within = match client % LATE_ONE_IN {
                0 => rest.max(plan.arrive_within),
                _ => plan.arrive_within,
            };
            let at = herds[unit] + world.between(Duration::ZERO, within);
            (at, unit, place)
        })
        .collect();
    arrivals.sort_unstable();
    let (fleet, tasks) = (fleet.clone(), clients.clone());
    clients.spawn(async move {
        for (at, unit, place) in arrivals {
            let now = fleet.world.now();
            if at > now {
                tokio::time::sleep(at - now).await;
            }
            tasks.spawn(client(fleet.clone(), unit, place));
        }
    });
    clients.close();
}

async fn client(fleet: Arc<Fleet>, unit: usize, mut place: usize) {
    loop {
        if let Some(instance) = fleet.at(place) {
            tokio::select! {
                biased;
                () = request(&fleet, &instance, unit) => return,
                () = instance.host.died.cancelled() => {
                    *fleet.world.ledger().answers.entry("reset").or_default() += 1;
                }
            }
        } else {
            tokio::time::sleep(RECONNECT).await;
        }
        place = fleet.world.pick(fleet.world.plan.instances);
    }
}

async fn request(fleet: &Fleet, instance: &Instance, unit: usize) {
    let (world, host) = (&fleet.world, &instance.host);
    let (began, paused) = (world.now(), host.paused_in_all());
    // The connection is accepted once the process runs.
    host.gate().await;
    let key = &world.units[unit].key;
    let answer = instance.warmer.get(key, GetOptions::default()).await;
    if host.is_dead() {
        std::future::pending::<()>().await;
    }
    host.gate().await;
    let waited = world.now() - began;
    let bytes = match answer {
        // In one poll: what is small is in memory.
        Ok(answer) => match answer.body {
            AnswerBody::Stored(_) => read_answer(answer).await,
            _ => Err(Error::Internal {
                unit: "only small artifacts are simulated".to_owned(),
                source: None,
            }),
        },
        Err(error) => Err(error),
    };
    let word = match &bytes {
        Ok(bytes) if world.units[unit].has_sent(bytes) => "ok",
        Ok(_) => {
            world.violated(Some(unit), "a client got bytes that upstream never sent");
            "wrong"
        }
        Err(error) => word(error.kind()),
    };
    world.note(host.number, word, Some(unit), 0);
    world.ledger().answered(word, waited);
    let longest = wait_max() + (host.paused_in_all() - paused);
    if waited > longest {
        world.violated(
            Some(unit),
            format!("a client waited {waited:?}, over {longest:?}"),
        );
    }
    match bytes {
        Err(error) if world.plan.is_calm() => {
            world.violated(
                Some(unit),
                format!("an error, and nothing had gone wrong: {error}"),
            );
        }
        Err(error) if matches!(word, "not found" | "gone" | "internal") => {
            let rule = format!("trouble was answered as what it is not: {error:?}");
            world.violated(Some(unit), rule);
        }
        _ => {}
    }
}

/// How an error is counted.
fn word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not found",
        ErrorKind::Gone => "gone",
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::Transient => "transient",
        ErrorKind::TimedOut => "timed out",
        ErrorKind::Throttled => "throttled",
        ErrorKind::Corrupt | ErrorKind::TooLarge => "corrupt",
        ErrorKind::Storage => "storage",
        ErrorKind::Overloaded => "overloaded",
        ErrorKind::WaitedTooLong => "waited too long",
        ErrorKind::Interrupted => "interrupted",
        _ => "internal",
    }
}
