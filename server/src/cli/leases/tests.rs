//! The commands against a real admin listener on a port of its own.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use clap::Parser;
use lease::{Acquire, Holder, LeaseKey, Progress};
use serde_json::Value;

use super::*;
use crate::cli::testing::Listener;
use crate::cli::{Cli, EXIT_FAILURE, EXIT_USAGE};
use crate::config::Secret;

const KEY: &str = "example.com/!upper/m@v1.0.0+incompatible.zip";

impl Listener {
    async fn hold(&self, key: &str) -> LeaseToken {
        let holder = Holder {
            instance: "corral-1\x1b[31m".into(),
            address: Some("10.0.0.7:8072".into()),
        };
        let leases = &self.scene.state.leases;
        let (key, ttl) = (LeaseKey::new(key).unwrap(), Duration::from_secs(60));
        let Acquire::Granted(grant) = leases.try_acquire(&key, &holder, ttl).await.unwrap() else {
            panic!("{key} is held")
        };
        let progress = Progress {
            bytes: 1 << 20,
            total: Some(4 << 20),
            waiters: 3,
        };
        leases.renew(&grant, &progress).await.unwrap();
        grant.token
    }

    async fn is_held(&self, key: &str) -> bool {
        let key = LeaseKey::new(key).unwrap();
        self.scene.state.leases.get(&key).await.unwrap().is_some()
    }
}

#[actix_web::test]
async fn leases_are_listed_as_a_table_and_as_json() {
    let listener = Listener::start(|_| {}).await;
    let ran = listener.run("leases").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, "no leases: this instance fetches nothing now\n");
    let ran = listener.run("leases list --filter x").await;
    assert_eq!(ran.out, "no leases with \"x\" in the key\n");

    let token = listener.hold(KEY).await;
    listener.hold("a@v1.mod").await;
    let ran = listener.run("leases list").await;
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        [
            "KEY", "HOLDER", "ADDRESS", "AGE", "LEFT", "WAITERS", "BYTES"
        ]
    );
    assert!(lines[1].starts_with("a@v1.mod  "), "{ran:?}");
    assert!(lines[2].starts_with(KEY), "{ran:?}");
    // What another machine says of itself is no order to a terminal.
    assert!(lines[2].contains("corral-1?[31m  10.0.0.7:8072"), "{ran:?}");
    assert!(lines[2].ends_with("1.0 MiB of 4.0 MiB (25%)"), "{ran:?}");
    assert_eq!(lines.last(), Some(&"2 leases of this instance"));
    assert_eq!(lines[0].find("ADDRESS"), lines[2].find("10.0.0.7"));

    let ran = listener.run("leases list --limit 1").await;
    assert!(ran.out.contains("the first 1 lease of"), "{ran:?}");
    let ran = listener
        .run("leases list --json --filter +incompatible")
        .await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["scope"], "instance");
    assert_eq!(json["next"], Value::Null);
    assert_eq!(json["items"][0]["token"], json!(token));
    assert_eq!(json["items"].as_array().unwrap().len(), 1);
}

#[actix_web::test]
async fn many_leases_are_listed_over_several_pages() {
    let listener = Listener::start(|_| {}).await;
    for i in 0..1_205 {
        listener.hold(&format!("m{i:04}@v1.zip")).await;
    }
    let count = async |line: &str| {
        let ran = listener.run(line).await;
        let json: Value = serde_json::from_str(&ran.out).unwrap();
        (
            json["items"].as_array().unwrap().len(),
            json["next"].clone(),
        )
    };
    assert_eq!(count("leases --json").await, (1_000, json!("m0999@v1.zip")));
    assert_eq!(
        count("leases list --limit 5000 --json").await,
        (1_205, Value::Null)
    );
}

#[actix_web::test]
async fn one_lease_is_shown() {
    let listener = Listener::start(|_| {}).await;
    let token = listener.hold(KEY).await;
    let ran = listener.run(&format!("leases show {KEY}")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for part in [KEY, &token.to_string(), "1.0 MiB of 4.0 MiB (25%)", "3\n"] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    let ran = listener.run(&format!("leases show --json {KEY}")).await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&json["key"], &json["waiters"]), (&json!(KEY), &json!(3)));

    let ran = listener.run("leases show no/such@v1.zip").await;
    assert_eq!(ran.code, EXIT_GONE);
    assert_eq!(ran.err, "corral: nobody holds no/such@v1.zip\n");
    assert!(ran.out.is_empty());
}

#[actix_web::test]
async fn a_break_asks_first() {
    let listener = Listener::start(|_| {}).await;
    let token = listener.hold(KEY).await;
    let order = format!("leases break {KEY}");

    let ran = listener.run(&order).await;
    assert_eq!(ran.code, EXIT_USAGE, "{ran:?}");
    assert!(ran.err.contains("--yes"), "{ran:?}");
    for answer in ["", "\n", "n\n", "yeah\n"] {
        let ran = listener.answering(&order, Some(answer)).await;
        assert_eq!(ran.code, EXIT_FAILURE, "{ran:?}");
        assert!(ran.out.contains(&token.to_string()), "{ran:?}");
        assert!(
            ran.err.ends_with("corral: nothing was changed\n"),
            "{ran:?}"
        );
    }
    assert!(listener.is_held(KEY).await);

    let ran = listener.answering(&order, Some("Y\n")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let last = format!("broken: {KEY} (token {token})");
    assert_eq!(ran.out.lines().last(), Some(last.as_str()));
    assert!(!listener.is_held(KEY).await);
    assert_eq!(listener.run(&order).await.code, EXIT_GONE);
}

#[actix_web::test]
async fn a_break_by_token_hits_that_grant_alone() {
    let listener = Listener::start(|_| {}).await;
    let token = listener.hold(KEY).await;
    let stale = LeaseToken::random();
    let ran = listener
        .run(&format!("leases break {KEY} --token {stale}"))
        .await;
    assert_eq!(ran.code, EXIT_GONE, "{ran:?}");
    for part in [stale.to_string(), token.to_string()] {
        assert!(ran.err.contains(&part), "{part}: {ran:?}");
    }
    assert!(listener.is_held(KEY).await);
    let ran = listener
        .run(&format!("leases break {KEY} --token {token} --json"))
        .await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        json,
        json!({ "outcome": "forced", "key": KEY, "token": token })
    );
    let ran = listener
        .run(&format!("leases break {KEY} --token {token}"))
        .await;
    assert_eq!(ran.code, EXIT_GONE, "{ran:?}");

    let token = listener.hold(KEY).await;
    let ran = listener
        .run(&format!("leases break {KEY} --yes --json"))
        .await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &json["token"]), (0, &json!(token)));
}

#[actix_web::test]
async fn every_failure_says_the_next_step() {
    let mut listener = Listener::start(|scene| {
        scene.access.token = Some("hush".to_owned());
        scene.access.is_loopback = false;
    })
    .await;
    let ran = listener.run("leases").await;
    assert_eq!(ran.code, EXIT_FAILURE);
    assert!(ran.err.contains("--token-file FILE"), "{ran:?}");
    listener.token = Some(Secret::new("hash"));
    let ran = listener.run("leases").await;
    assert!(ran.err.contains("does not know this token"), "{ran:?}");
    assert!(!ran.err.contains("hash"), "{ran:?}");
    listener.token = Some(Secret::new("hush"));
    assert_eq!(listener.run("leases").await.code, 0);

    listener.stop().await;
    let ran = listener.run("leases").await;
    assert_eq!(ran.code, EXIT_FAILURE);
    assert!(ran.err.contains("is corral running there?"), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
}

#[test]
fn a_token_that_is_none_is_a_usage_error() {
    let words = ["corral", "leases", "break", "k", "--token", "x"];
    let error = Cli::try_parse_from(words).unwrap_err();
    assert!(error.to_string().contains("not a lease token"), "{error}");
}
