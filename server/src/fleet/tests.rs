//! Instances around a real server: agreed, degraded, recovered, and seen by an operator.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use actix_web::test::TestRequest;
use lease::testing::{ServerKind, TestServer, eventually};
use lease::{Acquire, Grant, Holder, LeaseKey, Progress, Renewal};
use serde_json::{Value, json};

use super::*;
use crate::admin::auth::ACTION_HEADER;
use crate::admin::testing::{Scene, scene, scene_with};

/// Far longer than anything takes that is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

const KEY: &str = "example.com/m@v1.0.0.zip";

fn node(breaker: BreakerState, subscribed: bool) -> NodeHealth {
    NodeHealth {
        address: "10.0.0.1:6379".to_owned(),
        server: None,
        breaker,
        subscribed,
        last_error: Some("connection\nrefused".to_owned()),
    }
}

pub(super) fn fleet(scene: &Scene) -> &Fleet {
    scene.state.fleet.as_ref().unwrap()
}

/// An instance as it is when it says that it is ready: its subscriber is up.
async fn member(server: &TestServer) -> Scene {
    let scene = scene_with(&[&format!("valkey.url={}", server.url())]).await;
    assert_eq!(fleet(&scene).degraded(), None);
    scene
}

async fn hold(scene: &Scene) -> Grant {
    let holder = Holder {
        instance: scene.state.instance.clone(),
        address: fleet(scene).advertised().cloned(),
    };
    let (key, ttl) = (LeaseKey::new(KEY).unwrap(), Duration::from_secs(60));
    match scene
        .state
        .leases
        .try_acquire(&key, &holder, ttl)
        .await
        .unwrap()
    {
        Acquire::Granted(grant) => grant,
        Acquire::Held(held) => panic!("{held:?}"),
    }
}

async fn metric(scene: &Scene, start: &str) -> f64 {
    let (_, text) = scene.get("/metrics").await;
    let text = text.as_str().unwrap().to_owned();
    let lines = text.lines().filter(|line| line.starts_with(start));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[test]
fn what_is_wrong_is_one_line() {
    let health = |nodes| ValkeyHealth {
        degraded: true,
        nodes,
    };
    let well = || node(BreakerState::Closed, true);
    assert_eq!(degraded(&health(vec![well(), well()])), None);
    let deaf = node(BreakerState::Closed, false);
    let gone = node(BreakerState::Open, false);
    assert_eq!(
        degraded(&health(vec![gone, well(), deaf])).as_deref(),
        Some(
            "valkey 10.0.0.1:6379 does not serve (connection refused), so each instance fetches \
             for itself; no release events from valkey 10.0.0.1:6379, so waiting instances look \
             now and then"
        )
    );
}

#[test]
fn a_name_gives_nothing_away_and_differs() {
    let (a, b) = (name_of(b"a"), name_of(b"b"));
    assert_eq!(a.len(), AGREED_NAME_DIGITS);
    assert_ne!(a, b);
    assert_eq!(a, name_of(b"a"));
}

// acceptance: A1
// acceptance: E13
// acceptance: E6
#[actix_web::test]
async fn without_a_url_an_instance_stands_alone() {
    let scene = scene().await;
    assert!(scene.state.fleet.is_none());
    assert_eq!(scene.get("/readyz").await, (200, json!("ready\n")));
    let (_, valkey) = scene.get("/admin/v1/valkey").await;
    assert_eq!(
        (&valkey["configured"], &valkey["nodes"]),
        (&json!(false), &json!([]))
    );
    let (_, leases) = scene.get("/admin/v1/leases").await;
    assert_eq!(leases["scope"], "instance");
    assert_eq!(metric(&scene, "corral_valkey_errors_total").await, 0.0);
    assert_eq!(metric(&scene, "corral_valkey_degraded").await, 0.0);
}

// acceptance: E5
// acceptance: E12
// acceptance: A26
#[actix_web::test]
async fn members_agree_and_see_each_others_leases() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let (a, b) = (member(&server).await, member(&server).await);
    // One connection for all commands and one for events, each.
    let clients = server.command("CLIENT LIST");
    assert_eq!(clients.matches("lib-name=corral").count(), 4, "{clients}");
    assert_eq!(a.state.fleet_name.id(), b.state.fleet_name.id());
    assert!(fleet(&a).secret().is_set() && fleet(&b).secret().is_set());
    assert_ne!(a.state.instance, b.state.instance);

    let grant = hold(&a).await;
    let (_, list) = b.get("/admin/v1/leases").await;
    assert_eq!(list["scope"], "fleet");
    let item = &list["items"][0];
    assert_eq!(item["key"], KEY);
    assert_eq!(item["instance"], json!(a.state.instance));
    assert_eq!(item["address"], json!(fleet(&a).advertised()));

    let order = TestRequest::post()
        .uri("/admin/v1/leases/break")
        .insert_header((ACTION_HEADER, "1"))
        .set_json(json!({ "key": KEY, "token": grant.token }));
    assert_eq!(b.json(order).await.0, 200);
    let told = a.state.leases.renew(&grant, &Progress::default()).await;
    assert_eq!(told.unwrap(), Renewal::Forced);

    let (_, instance) = a.get("/admin/v1/instance").await;
    let expected = json!({
        "id": a.state.fleet_name.id(),
        "internal_address": fleet(&a).advertised(),
        "secret": "agreed",
        "secret_known": true,
    });
    assert_eq!(instance["fleet"], expected);
}

// fault: 9
// acceptance: E8
// acceptance: E9
#[actix_web::test]
async fn an_instance_starts_without_its_valkey_and_joins_when_it_is_there() {
    let mut server = TestServer::start(ServerKind::Valkey).await;
    server.kill();
    let scene = scene_with(&[&format!("valkey.url={}", server.url())]).await;
    let own = scene.state.fleet_name.id();
    let (status, line) = scene.get("/readyz").await;
    let line = line.as_str().unwrap();
    assert_eq!(status, 200);
    assert!(
        line.starts_with("ready, degraded: valkey 127.0.0.1:"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(!fleet(&scene).secret().is_set());
    assert_eq!(scene.get("/admin/v1/leases").await.0, 503);
    let (_, valkey) = scene.get("/admin/v1/valkey").await;
    assert_eq!(valkey["degraded"], true, "{valkey}");
    assert_ne!(valkey["nodes"][0]["breaker"], "closed", "{valkey}");
    assert_eq!(metric(&scene, "corral_valkey_degraded").await, 1.0);

    server.restart().await;
    eventually("it is no longer degraded", PATIENCE, || {
        fleet(&scene).degraded().is_none()
    })
    .await;
    eventually("a name is agreed on", PATIENCE, || {
        scene.state.fleet_name.id() != own
    })
    .await;
    assert!(fleet(&scene).secret().is_set());
    assert_eq!(scene.get("/readyz").await, (200, json!("ready\n")));
    let (_, valkey) = scene.get("/admin/v1/valkey").await;
    let node = &valkey["nodes"][0];
    assert_eq!(
        (&node["breaker"], &node["subscribed"]),
        (&json!("closed"), &json!(true))
    );
    assert_eq!(node["server"]["name"], "valkey", "{node}");
    assert_eq!(node["last_error"], Value::Null, "{node}");
    assert_eq!(metric(&scene, "corral_valkey_degraded").await, 0.0);
    // Requests that were sent under the old name are still known as our own.
    assert!(scene.state.fleet_name.is_ours(&format!("corral/{own}")));
}

// fault: 16
#[actix_web::test]
async fn a_deaf_subscriber_is_said_to_be_degraded() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let rules = "ACL SETUSER default on nopass ~* +@all -subscribe -ssubscribe -psubscribe &*";
    assert_eq!(server.command(rules), "+OK\r\n");
    let scene = scene_with(&[&format!("valkey.url={}", server.url())]).await;
    hold(&scene).await;
    let (status, line) = scene.get("/readyz").await;
    let line = line.as_str().unwrap();
    assert_eq!(status, 200);
    assert!(line.contains("degraded: no release events"), "{line}");
    assert_eq!(metric(&scene, "corral_pubsub_connected").await, 0.0);
    assert_eq!(metric(&scene, "corral_valkey_degraded").await, 1.0);
}

// acceptance: A3
// acceptance: A9
#[actix_web::test]
async fn records_fall_back_to_this_process_and_say_so() {
    let mut server = TestServer::start(ServerKind::Valkey).await;
    let scene = member(&server).await;
    let total = async |name: &str| metric(&scene, &format!("corral_valkey_{name}_total")).await;
    let records = scene.records();
    records.set("k", "1".into(), PATIENCE).await.unwrap();
    assert!(records.get("k").await.unwrap().is_some());
    assert!(records.get("absent").await.unwrap().is_none());
    assert_eq!((total("writes").await, total("hits").await), (1.0, 1.0));
    assert_eq!((total("misses").await, total("miss").await), (1.0, 1.0));
    assert_eq!(total("errors").await, 0.0);

    server.kill();
    assert!(records.get("k").await.unwrap().is_some());
    records.set("l", "2".into(), PATIENCE).await.unwrap();
    assert!(records.get("l").await.unwrap().is_some());
    assert_eq!(total("get_fallback").await, 2.0);
    assert_eq!(total("set_fallback").await, 1.0);
    assert_eq!(total("errors").await, 3.0);
    assert_eq!((total("misses").await, total("writes").await), (1.0, 1.0));
}

#[actix_web::test]
async fn what_an_operator_sets_needs_no_agreement() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "hush-hush-hush-hush").unwrap();
    let scene = scene_with(&[
        &format!("valkey.url={}", server.url()),
        &format!("fleet.secret_file={}", file.display()),
        "fleet.id=ci",
        "internal.advertise=10.0.0.7:8072",
    ])
    .await;
    assert!(fleet(&scene).secret().is_set());
    assert_eq!(scene.state.fleet_name.id(), "ci");
    assert_eq!(server.command("DBSIZE"), ":0\r\n");
    let (_, instance) = scene.get("/admin/v1/instance").await;
    assert_eq!(instance["fleet"]["secret"], "file");
    assert_eq!(instance["fleet"]["internal_address"], "10.0.0.7:8072");
}

#[actix_web::test]
async fn no_password_is_shown_anywhere() {
    let server = TestServer::start_with(ServerKind::Valkey, &["--requirepass hunter2"]).await;
    for password in ["hunter2", "hunter3"] {
        let url = server.url().replace("://", &format!("://:{password}@"));
        let scene = scene_with(&[&format!("valkey.url={url}")]).await;
        let mut texts = vec![format!("{:?}", scene.state.fleet)];
        for target in [
            "/readyz",
            "/metrics",
            "/admin/v1/valkey",
            "/admin/v1/instance",
        ] {
            texts.push(scene.get(target).await.1.to_string());
        }
        for text in texts {
            assert!(!text.contains(password), "{text}");
        }
        let (_, valkey) = scene.get("/admin/v1/valkey").await;
        let well = password == "hunter2";
        assert_eq!(valkey["nodes"][0]["breaker"] == "closed", well, "{valkey}");
    }
}
