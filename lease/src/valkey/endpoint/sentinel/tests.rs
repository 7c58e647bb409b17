//! Real Sentinels: the primary is found, verified, and followed when it changes.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::TokioClock;
use crate::testing::{TestSentinels, until};
use crate::valkey::ValkeyConfig;
use crate::valkey::endpoint::{Push, pushes};
use crate::valkey::layout::Layout;

const LONG: Duration = Duration::from_secs(30);
const SIZES: PoolSizes = PoolSizes {
    max: 4,
    idle_max: 2,
    idle_min: 0,
};

fn endpoint(url: &str) -> SentinelEndpoint {
    match ValkeyConfig::from_urls([url]).unwrap().layout().unwrap() {
        Layout::Sentinel(layout) => {
            let limit = Duration::from_secs(2);
            SentinelEndpoint::new(layout, SIZES, limit, Arc::new(TokioClock))
        }
        other => panic!("{other:?}"),
    }
}

fn channels() -> Channels {
    Channels {
        events: vec!["t:released".to_owned()],
        canaries: vec!["t:canary".to_owned()],
    }
}

fn primary(endpoint: &SentinelEndpoint) -> Option<String> {
    endpoint.current().map(|at| at.address().to_owned())
}

async fn set(connection: &mut CommandConnection) -> RedisResult<Value> {
    connection.send(cmd("SET").arg("k").arg("v")).await
}

// acceptance: E7
// fault: 20
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed() {
    let mut started = TestSentinels::start(3).await;
    let endpoint = endpoint(&started.url());
    assert_eq!(
        endpoint.address(),
        started
            .url()
            .replace("redis-sentinel://", "")
            .split('/')
            .next()
            .map(|hosts| format!("main@{hosts}"))
            .unwrap()
    );
    let mut connection = endpoint.connect().await.unwrap();
    let name = |port: u16| Some(format!("127.0.0.1:{port}"));
    assert_eq!(primary(&endpoint), name(started.servers[0].port()));
    assert_eq!(set(&mut connection).await.unwrap(), Value::Okay);
    let (sender, mut receiver) = pushes();
    let _subscriber = endpoint.subscribe(&channels(), sender).await.unwrap();
    let disconnects = endpoint.disconnects();

    // A Sentinel that is down is one voice less, not a hindrance.
    started.sentinels[2].kill();
    started.servers[0].kill();
    disconnects.notified().await;
    assert_eq!(receiver.next().await, Push::Lost);
    assert!(set(&mut connection).await.is_err());
    let mut found = None;
    until("the replica is found as primary", LONG, async || {
        found = endpoint.connect().await.ok();
        found.is_some()
    })
    .await;
    assert_eq!(primary(&endpoint), name(started.servers[1].port()));
    let mut connection = found.unwrap();
    assert_eq!(set(&mut connection).await.unwrap(), Value::Okay);
    let (sender, mut receiver) = pushes();
    let _subscriber = endpoint.subscribe(&channels(), sender).await.unwrap();
    connection
        .send(cmd("PUBLISH").arg("t:released").arg("m"))
        .await
        .unwrap();
    assert!(matches!(receiver.next().await, Push::Message(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_failover_ends_the_old_connection() {
    let started = TestSentinels::start(3).await;
    let endpoint = endpoint(&started.url());
    let mut connection = endpoint.connect().await.unwrap();
    let disconnects = endpoint.disconnects();
    started.sentinels[0].command("SENTINEL FAILOVER main");
    // The Sentinels close the demoted primary's connections; should one survive, it is read-only.
    disconnects.notified().await;
    assert!(set(&mut connection).await.is_err());
    let mut found = None;
    until("the promoted replica is found", LONG, async || {
        found = endpoint.connect().await.ok();
        let promoted = format!("127.0.0.1:{}", started.servers[1].port());
        primary(&endpoint) == Some(promoted)
    })
    .await;
    assert_eq!(set(&mut found.unwrap()).await.unwrap(), Value::Okay);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_one_line() {
    let started = TestSentinels::start(1).await;
    let line = async |url: &str| {
        let error = endpoint(url).connect().await.unwrap_err().to_string();
        assert!(!error.contains('\n') && error.len() < 300, "{error}");
        error
    };
    let other_name = started.url().replace("/main", "/other");
    assert!(
        line(&other_name)
            .await
            .contains("no Sentinel monitors other")
    );
    let no_sentinel = format!(
        "redis-sentinel://127.0.0.1:{}/main",
        started.servers[0].port()
    );
    let said = line(&no_sentinel).await;
    assert!(
        said.contains("a Sentinel gave no answer") && said.contains("unknown command"),
        "{said}"
    );
    started.servers[0].command("CONFIG SET requirepass right");
    let wrong_password = started.url().replace("://", "://:HUSH@");
    let said = line(&wrong_password).await;
    assert!(!said.contains("HUSH"), "{said}");
    let mut started = started;
    started.sentinels[0].kill();
    assert!(line(&started.url()).await.contains("127.0.0.1"));
}
