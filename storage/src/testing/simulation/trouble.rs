//! Breaks things, by chance and by order.

use std::sync::Arc;
use std::time::Duration;

use super::fleet::{Fleet, Instance};
use super::plan::Act;

/// Does what the plan orders and what its trouble brings; ends when the trouble does.
pub(super) async fn run(fleet: Arc<Fleet>) {
    let world = fleet.world.clone();
    for &(at, act) in &world.plan.script {
        let fleet = fleet.clone();
        tokio::spawn(async move {
            tokio::time::sleep(at).await;
            perform(&fleet, act);
        });
    }
    let Some(every) = world.plan.trouble.act_every else {
        return;
    };
    loop {
        tokio::time::sleep(world.between(Duration::from_millis(1), 2 * every)).await;
        if world.now() >= world.plan.trouble.until {
            return;
        }
        let act = draw(&fleet);
        perform(&fleet, act);
    }
}

fn draw(fleet: &Fleet) -> Act {
    let world = &fleet.world;
    let seconds =
        |min: u64, max: u64| world.between(Duration::from_millis(min), Duration::from_millis(max));
    match world.pick(24) {
        0..4 => Act::KillHolder(world.chance(0.5), seconds(1_000, 6_000)),
        4 => Act::RefuseHolder(seconds(1_000, 20_000)),
        5..8 => Act::PauseHolder(seconds(200, 15_000)),
        8..10 => Act::PauseAny(seconds(200, 15_000)),
        10..13 => Act::CutLink(world.chance(0.5), seconds(100, 12_000)),
        13..15 => Act::CutStore(seconds(100, 8_000)),
        15..17 => Act::Outage(world.chance(0.5), seconds(100, 4_000)),
        17 => Act::LoseMemory(seconds(50, 1_000)),
        18 => {
            let jump = i64::try_from(world.pick(3_600_000)).unwrap_or(0);
            Act::JumpClock(if world.chance(0.5) { jump } else { -jump })
        }
        19 => Act::UpstreamOutage(seconds(100, 6_000)),
        20 => Act::Retag,
        _ => Act::Break,
    }
}

fn any(fleet: &Fleet) -> Option<(usize, Arc<Instance>)> {
    let living = fleet.living();
    (!living.is_empty()).then(|| living[fleet.world.pick(living.len())].clone())
}

fn perform(fleet: &Arc<Fleet>, act: Act) {
    let world = &fleet.world;
    let note = |host: u32, what| world.note(host, what, None, 0);
    match act {
        Act::KillHolder(with_machine, absence) => {
            if let Some((place, _)) = fleet.pick_holder() {
                fleet.kill(place, with_machine, absence);
            }
        }
        Act::RefuseHolder(duration) => {
            if let Some((_, instance)) = fleet.pick_holder() {
                note(instance.host.number, "is behind a firewall");
                instance.host.refuse(duration);
            }
        }
        Act::PauseHolder(duration) => {
            if let Some((_, instance)) = fleet.pick_holder() {
                pause(fleet, &instance, duration);
            }
        }
        Act::PauseAny(duration) => {
            if let Some((_, instance)) = any(fleet) {
                pause(fleet, &instance, duration);
            }
        }
        Act::CutLink(silent, duration) => {
            if let Some((_, instance)) = any(fleet) {
                note(instance.host.number, "loses the lease server");
                instance.link.cut(silent, duration);
            }
        }
        Act::CutStore(duration) => {
            if let Some((_, instance)) = any(fleet) {
                note(instance.host.number, "loses the object store");
                instance.host.cut_store(duration);
            }
        }
        Act::Outage(silent, duration) => {
            note(
                0,
                if silent {
                    "lease server hangs"
                } else {
                    "lease server is down"
                },
            );
            fleet.server.go_out(silent, duration);
        }
        Act::LoseMemory(duration) => {
            note(0, "lease server forgets everything");
            fleet.server.lose_memory();
            fleet.server.go_out(false, duration);
        }
        Act::JumpClock(by_ms) => {
            world.note(
                0,
                "lease server's clock jumps (ms)",
                None,
                by_ms.unsigned_abs(),
            );
            fleet.server.jump_clock(by_ms);
        }
        Act::UpstreamOutage(duration) => {
            note(0, "upstream is down");
            fleet.origin.go_out(duration);
        }
        Act::Retag => {
            let unit = world.pick(world.units.len());
            world.note(0, "upstream changes it", Some(unit), 0);
            world.units[unit].retag();
        }
        Act::Break => {
            let leases = fleet.server.list();
            if leases.is_empty() {
                return;
            }
            let lease = &leases[world.pick(leases.len())];
            world.note(
                0,
                "operator breaks it",
                world.unit_named(lease.key.as_str()),
                0,
            );
            // Nothing else runs in between, so the token is in force.
            let _ = fleet.server.force_release(&lease.key, lease.token);
        }
    }
}

fn pause(fleet: &Fleet, instance: &Instance, duration: Duration) {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    fleet
        .world
        .note(instance.host.number, "stands still (ms)", None, ms);
    instance.host.pause(duration);
}
