//! The implementations against real servers, and against a fixture where those are too sane.

#![allow(clippy::unwrap_used)]

mod contract;
mod events;
mod layout;
mod observed;
mod odd;
mod outages;
mod queue;
mod releases;
mod ring;
mod topologies;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::*;
use crate::testing::{ServerKind, TestServer, eventually};
use crate::{Acquire, Clock, Grant, Holder, LeaseKey, TokioClock};

/// A wide bound for what takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);
/// Long enough that nothing ends by itself during a test.
const TTL: Duration = Duration::from_secs(60);
/// How long a call may take that ends by its time limit of 250 ms, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(1);

fn config(url: String) -> ValkeyConfig {
    ValkeyConfig::from_urls([url]).unwrap()
}

/// Starts an instance.
async fn start(config: ValkeyConfig) -> Valkey {
    start_observed(config, Arc::new(NoValkeyObserver)).await
}

async fn start_observed(config: ValkeyConfig, observer: Arc<dyn ValkeyObserver>) -> Valkey {
    Valkey::connect(config, Arc::new(TokioClock), Handle::current(), observer)
        .await
        .unwrap()
}

/// Starts an instance, and waits until events flow.
async fn connect_with(config: ValkeyConfig) -> Valkey {
    let valkey = start(config).await;
    flows(&valkey).await;
    valkey
}

async fn connect(server: &TestServer) -> Valkey {
    connect_with(config(server.url())).await
}

async fn flows(valkey: &Valkey) {
    eventually("events flow", SOON, || {
        valkey.health().nodes.iter().all(|node| node.subscribed)
    })
    .await;
}

fn key(text: &str) -> LeaseKey {
    LeaseKey::new(text).unwrap()
}

fn holder() -> Holder {
    Holder {
        instance: Arc::from("i"),
        address: None,
    }
}

async fn acquire(valkey: &Valkey, name: &str) -> Result<Acquire, LeaseError> {
    let leases = valkey.leases();
    leases.try_acquire(&key(name), &holder(), TTL).await
}

async fn grant(valkey: &Valkey, name: &str) -> Grant {
    match acquire(valkey, name).await.unwrap() {
        Acquire::Granted(grant) => grant,
        Acquire::Held(held) => panic!("{name} is held: {held:?}"),
    }
}

fn breaker(valkey: &Valkey) -> BreakerState {
    valkey.health().nodes[0].breaker
}

/// Returns the time that `work` takes, and its outcome.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = TokioClock.now();
    let outcome = work.await;
    (outcome, TokioClock.now() - began)
}

// acceptance: E15
#[tokio::test]
async fn a_shutdown_may_be_repeated_and_fails_calls() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    for _ in 0..2 {
        valkey.shutdown().await;
        assert!(acquire(&valkey, "k").await.is_err());
        assert!(valkey.health().degraded);
    }
}

#[tokio::test]
async fn a_fleet_agrees_on_one_secret_and_keeps_it() {
    let mut server = TestServer::start(ServerKind::Valkey).await;
    let [a, b] = [connect(&server).await, connect(&server).await];
    let (first, second) = tokio::join!(a.fleet_secret(), b.fleet_secret());
    let secret = first.unwrap();
    assert_eq!(secret, second.unwrap());
    assert!(secret.as_bytes().len() >= 32);
    assert!(!format!("{secret:?} {a:?}").contains(std::str::from_utf8(secret.as_bytes()).unwrap()));
    // The server forgets everything; the instances put their secret back before a third one comes.
    server.restart().await;
    eventually("the secret is back", SOON, || {
        server.command("KEYS *:fleet:*").starts_with("*1\r\n")
    })
    .await;
    assert_eq!(connect(&server).await.fleet_secret().await.unwrap(), secret);
}
