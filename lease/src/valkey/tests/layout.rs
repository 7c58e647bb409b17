//! What is on the server, and how many connections and commands it takes.

use bytes::Bytes;

use super::*;
use crate::{LeaseErrorKind, LeaseQuery, LeaseToken, Outcome, Progress, TakeOver};

/// Returns the bulk strings of an answer.
fn strings(answer: &str) -> Vec<&str> {
    let lines = answer.split("\r\n");
    lines.filter(|line| line.starts_with("corral")).collect()
}

/// Returns how many commands the server got from clients since the last reset, scripts' own calls
/// not counted.
fn commands(server: &TestServer) -> u64 {
    let stats = server.command("INFO commandstats");
    let calls = |name: &str| {
        let line = stats
            .lines()
            .find(|line| line.starts_with(&format!("cmdstat_{name}:")));
        let calls =
            line.and_then(|line| line.split_once("calls=")?.1.split(',').next()?.parse().ok());
        calls.unwrap_or(0_u64)
    };
    // A script's inner calls are counted too, so what only scripts call is left out.
    calls("set") + calls("evalsha") + calls("eval") - calls("del")
}

// acceptance: B5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_has_a_time_to_live() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    let (leases, records) = (valkey.leases(), valkey.records());
    let held = grant(&valkey, "held").await;
    leases.renew(&held, &Progress::default()).await.unwrap();
    let broken = grant(&valkey, "broken").await;
    leases
        .force_release(&broken.key, &broken.token)
        .await
        .unwrap();
    let dead = grant(&valkey, "dead").await;
    let taken = leases.take_over(&dead.key, &dead.token, TTL).await;
    assert_eq!(taken.unwrap(), TakeOver::Freed);
    records
        .set("r", Bytes::from_static(b"v"), TTL)
        .await
        .unwrap();
    records
        .set_if_absent("r2", Bytes::from_static(b"v"), TTL)
        .await
        .unwrap();
    valkey.fleet_secret().await.unwrap();
    let keys = server.command("KEYS *");
    let keys = strings(&keys);
    let kinds = ["lease", "progress", "forced", "takeover", "record", "fleet"];
    for kind in kinds {
        let infix = format!("}}:{kind}:");
        assert!(
            keys.iter().any(|key| key.contains(&infix)),
            "{kind} {keys:?}"
        );
    }
    for key in keys {
        let left = server.parts(&["PTTL", key]).unwrap();
        let left: i64 = left.trim_start_matches(':').trim_end().parse().unwrap();
        assert!(left > 0, "{key} {left}");
    }
}

// acceptance: A26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_takes_two_connections() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    let work = (0..200).map(|n| {
        let valkey = &valkey;
        async move {
            let lease = grant(valkey, &format!("k{n}")).await;
            valkey.records().get("r").await.unwrap();
            valkey
                .leases()
                .release(&lease, Outcome::Stored)
                .await
                .unwrap();
        }
    });
    join_all(work).await;
    let clients = server.command("CLIENT LIST");
    let ours = clients
        .lines()
        .filter(|line| line.contains("lib-name=corral"));
    assert_eq!(ours.count(), 2, "{clients}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_takes_a_leader_two_commands_and_a_follower_two() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let [a, b] = [connect(&server).await, connect(&server).await];
    server.command("CONFIG RESETSTAT");
    let lease = grant(&a, "k").await;
    assert_eq!(commands(&server), 1);
    assert!(matches!(acquire(&b, "k").await.unwrap(), Acquire::Held(_)));
    assert_eq!(commands(&server), 3);
    let before = server.command("INFO commandstats");
    a.leases().release(&lease, Outcome::Stored).await.unwrap();
    let after = server.command("INFO commandstats");
    let evalsha = |stats: &str| {
        stats
            .split("cmdstat_evalsha:calls=")
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert!(evalsha(&before).starts_with("1,") && evalsha(&after).starts_with("2,"));
}

// acceptance: B9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_another_version_does_not_stop_anybody() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    let name = |unit: &str| keys::Keys::new("corral").name(keys::KeyKind::Lease, unit);
    let token = LeaseToken::random();
    let newer = format!(r#"{{"v":2,"token":"{token}","instance":"new","since":[1,2]}}"#);
    server
        .parts(&["SET", &name("newer"), &newer, "PX", "60000"])
        .unwrap();
    let Acquire::Held(held) = acquire(&valkey, "newer").await.unwrap() else {
        panic!("it is held");
    };
    assert_eq!((held.token, &*held.holder.instance), (token, "new"));
    server
        .parts(&["SET", &name("odd"), "not ours", "PX", "60000"])
        .unwrap();
    let error = acquire(&valkey, "odd").await.unwrap_err();
    assert_eq!(error.kind(), LeaseErrorKind::Protocol);
    server.parts(&["LPUSH", &name("list"), "1"]).unwrap();
    let error = acquire(&valkey, "list").await.unwrap_err();
    assert_eq!(error.kind(), LeaseErrorKind::Protocol);
    assert!(!valkey.health().degraded);
    assert!(valkey.live_grants().is_empty());
    // One that cannot be read hides no other one.
    grant(&valkey, "good").await;
    let page = valkey.leases().list(&LeaseQuery::default()).await.unwrap();
    let seen: Vec<_> = page.leases.iter().map(|view| view.key.as_str()).collect();
    assert_eq!(seen, ["good", "newer"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_keys_are_not_listed() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    for foreign in [
        "corral:1:{b00}:lease:k",
        "corral:1:{bxx}:lease:k",
        "corral:2:{b09}:lease:k",
    ] {
        server.parts(&["SET", foreign, "x"]).unwrap();
    }
    let page = valkey.leases().list(&LeaseQuery::default()).await.unwrap();
    assert!(page.leases.is_empty());
}

// acceptance: E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_known_by_name() {
    for (kind, name) in [(ServerKind::Valkey, "valkey"), (ServerKind::Redis, "redis")] {
        let server = TestServer::start(kind).await;
        let health = connect(&server).await.health();
        let about = health.nodes[0].server.clone().unwrap();
        assert_eq!(
            (about.name.as_str(), about.role.as_str()),
            (name, "primary")
        );
        assert!(about.scripting && !about.version.is_empty(), "{about:?}");
    }
}
