//! Release events that are lost, late, doubled or made up, and subscriptions that break.

use std::time::{Duration, Instant};

use e2e::fault_proxy::{Direction, Link};
use e2e::fleet::Plan;
use e2e::valkey::{Resp, Valkey, Value};

use crate::fixtures::{all_whole, fetched};
use crate::fleet_scene::{COMMAND_TIMEOUT, POLL_MAX, Round, Scene, seeds, within};

/// Events that are told again in later rounds.
const EVENTS_KEPT: usize = 20;

/// Followers learn of the end by events alone: nothing is relayed, and no lease ends by itself.
fn by_events() -> Plan {
    Plan::of(3)
        .ttl(Duration::from_secs(6))
        .set("internal.relay", "false")
}

/// Lets one instance fetch while the others follow; `meanwhile` runs before the end of the fetch.
/// Asserts one fetch and whole answers; returns how long the followers took after the holder.
async fn followed(scene: &Scene, round: &mut Round, meanwhile: impl AsyncFnOnce()) -> Instant {
    let gate = round.hold();
    let own = scene.fleet.herd_at(&[round.holder], 2, &round.zip);
    gate.wait_arrivals(1).await;
    let others = scene.others(round.holder);
    let clients = round.clients();
    let rest = scene.fleet.herd_at(&others, clients, &round.zip);
    scene.fleet.boarded(&others, clients as u64).await;
    meanwhile().await;
    gate.release();
    all_whole(&own.outcomes().await, &round.body);
    scene.fleet.stored(&round.zip, &round.body).await;
    let stored = Instant::now();
    all_whole(&rest.outcomes().await, &round.body);
    fetched(&round.path, 1);
    stored
}

// The holder's last words never arrive: the followers look for themselves.
// fault: 13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_is_lost_is_made_up_for_by_looking() {
    let mut scene = Scene::start(by_events().ttl(Duration::from_secs(1))).await;
    for seed in seeds() {
        let mut round = scene.round(seed);
        let link = &scene.fleet.members[round.holder].valkey;
        let hold = async || link.set(Direction::ToServer, Link::Hold);
        let stored = followed(&scene, &mut round, hold).await;
        within(stored, POLL_MAX, "the followers' look");
        link.cut();
        link.heal();
        scene.degraded(round.holder, false, POLL_MAX * 3).await;
    }
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: B8; fault: 14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_event_costs_one_look() {
    let mut scene = Scene::start(by_events()).await;
    for member in &scene.fleet.members {
        let lossy = Link::Without(":released".to_owned());
        member.valkey.set(Direction::ToClient, lossy);
    }
    for seed in seeds() {
        let mut round = scene.round(seed);
        let stored = followed(&scene, &mut round, async || {}).await;
        within(stored, POLL_MAX, "the followers' look");
    }
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_in_the_gap_of_a_broken_subscription_is_not_missed() {
    let mut scene = Scene::start(by_events()).await;
    for seed in seeds() {
        let mut round = scene.round(seed);
        let valkey = &scene.fleet.valkey;
        let kill = async || {
            valkey.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        };
        let stored = followed(&scene, &mut round, kill).await;
        within(stored, POLL_MAX, "the followers' look");
    }
    // Subscribed again, they are woken again.
    scene.all_degraded(false, POLL_MAX * 3).await;
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: B8; fault: 16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_subscription_everything_still_works() {
    let valkey = Valkey::start().await;
    let deny = ["-subscribe", "-ssubscribe", "-psubscribe"];
    valkey
        .command(&[["ACL", "SETUSER", "default"].as_slice(), &deny].concat())
        .await;
    let mut scene = Scene::over(by_events(), valkey).await;
    for seed in seeds() {
        let mut round = scene.round(seed);
        let stored = followed(&scene, &mut round, async || {}).await;
        within(stored, POLL_MAX, "the followers' look");
    }
    assert_eq!(
        scene.fleet.metric("corral_pubsub_connected", &[]).await,
        0.0
    );
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_events_wake_and_do_no_harm() {
    let mut scene = Scene::start(by_events()).await;
    // Every message is sent again, twice, and once more in the next round.
    let mut listener = Resp::open(scene.fleet.valkey.addr()).await.unwrap();
    listener
        .command(&["PSUBSCRIBE", "*released*"])
        .await
        .unwrap();
    let mut old: Vec<(String, String)> = Vec::new();
    for seed in seeds() {
        let mut round = scene.round(seed);
        let valkey = &scene.fleet.valkey;
        let again = old.clone();
        let forge = async || {
            for (channel, payload) in &again {
                for text in [
                    payload.as_str(),
                    "",
                    "{}",
                    "\u{0}|x|stored",
                    &payload[..payload.len() / 2],
                ] {
                    valkey.command(&["PUBLISH", channel, text]).await;
                }
            }
            // This round's own key, with a token that nobody has.
            let key = scene.lease_key().await;
            let lease = valkey.command(&["GET", &key]).await;
            let token = token_of(lease.text().unwrap());
            let bucket = key.split(":lease:").next().unwrap();
            let channel = format!("{bucket}:released");
            for (known, payload) in &again {
                let forged = payload.replace(&token_of(payload), &token);
                assert!(known.contains("released"), "{known}");
                valkey.command(&["PUBLISH", &channel, &forged]).await;
            }
        };
        followed(&scene, &mut round, forge).await;
        // Our own echoes are heard too: what is known is not told again.
        while let Ok(Ok(message)) = tokio::time::timeout(COMMAND_TIMEOUT, listener.next()).await {
            let [.., Value::Text(channel), Value::Text(payload)] = message.items() else {
                continue;
            };
            let event = (channel.clone(), payload.clone());
            let is_new = !payload.is_empty() && !old.contains(&event);
            if is_new && old.len() < EVENTS_KEPT {
                valkey.command(&["PUBLISH", channel, payload]).await;
                old.push(event);
            }
        }
        assert!(!old.is_empty(), "no event was ever seen");
    }
    scene.fleet.leaves_nothing_behind().await;
}

/// The UUID in a text.
fn token_of(text: &str) -> String {
    let is_uuid = |part: &&str| part.len() == 36 && part.matches('-').count() == 4;
    let parts = text.split(|c: char| c != '-' && !c.is_ascii_hexdigit());
    parts
        .into_iter()
        .find(is_uuid)
        .unwrap_or_default()
        .to_owned()
}
