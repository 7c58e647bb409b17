//! A Cluster of real servers: commands and events find their way, whatever moves or dies.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use redis::Cmd;

use super::*;
use crate::TokioClock;
use crate::testing::{ServerKind, TestCluster, until};
use crate::valkey::ValkeyConfig;
use crate::valkey::endpoint::{Push, pushes};
use crate::valkey::layout::Layout;

const LONG: Duration = Duration::from_secs(30);
const LIMITS: ClusterLimits = ClusterLimits {
    connect_timeout: Duration::from_secs(2),
    command_timeout: Duration::from_millis(250),
};

fn endpoint(url: &str) -> ClusterEndpoint {
    endpoint_with(url, LIMITS)
}

fn endpoint_with(url: &str, limits: ClusterLimits) -> ClusterEndpoint {
    match ValkeyConfig::from_urls([url]).unwrap().layout().unwrap() {
        Layout::Cluster(layout) => ClusterEndpoint::new(layout, limits, Arc::new(TokioClock)),
        other => panic!("{other:?}"),
    }
}

async fn router(endpoint: &ClusterEndpoint) -> Router {
    match endpoint.connect().await.unwrap() {
        CommandConnection::Cluster(router) => router,
        other => panic!("{other:?}"),
    }
}

/// A key in each bucket.
fn key(bucket: usize) -> String {
    format!("t:1:{{b{bucket:02}}}:lease:k")
}

fn set(bucket: usize) -> Cmd {
    let mut set = cmd("SET");
    set.arg(key(bucket)).arg("v").arg("PX").arg(60_000);
    set
}

fn channels() -> Channels {
    let names = |what: &str| (0..64).map(|b| format!("t:1:{{b{b:02}}}:{what}")).collect();
    Channels {
        events: names("released"),
        canaries: names("canary:x"),
    }
}

async fn publish(router: &Router, channel: &str) -> RedisResult<Value> {
    router.send(cmd("SPUBLISH").arg(channel).arg("m")).await
}

/// A bucket whose slot the node has, by the even shares of the start.
fn bucket_of(cluster: &TestCluster, node: usize) -> (usize, u16) {
    (0..64)
        .map(|bucket| (bucket, slot_of(key(bucket).as_bytes())))
        .find(|(_, slot)| cluster.primary_of(*slot) == node)
        .unwrap()
}

// acceptance: E21
#[tokio::test(flavor = "multi_thread")]
async fn commands_and_events_find_their_slots() {
    for kind in [ServerKind::Valkey, ServerKind::Redis] {
        let cluster = TestCluster::start(kind, 3, 0).await;
        let endpoint = endpoint(&cluster.url());
        let router = router(&endpoint).await;
        for bucket in 0..64 {
            assert_eq!(router.send(&set(bucket)).await.unwrap(), Value::Okay);
            let script = "return redis.call('get', KEYS[1])";
            let mut eval = cmd("EVAL");
            let answer = router.send(eval.arg(script).arg(1).arg(key(bucket))).await;
            assert_eq!(answer.unwrap(), Value::BulkString(b"v".to_vec()));
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(key(3)).cmd("PTTL").arg(key(3));
        let (value, left): (String, i64) = pipeline.query_async(&mut router.clone()).await.unwrap();
        assert!(value == "v" && (1..=60_000).contains(&left));
        let pong = router.send(&cmd("PING")).await.unwrap();
        assert_eq!(pong, Value::SimpleString("PONG".to_owned()));

        // One canary per server, and all 64 channels between them.
        let (sender, mut receiver) = pushes();
        let subscriber = endpoint.subscribe(&channels(), sender).await.unwrap();
        assert_eq!(
            (subscriber.connections.len(), subscriber.canaries.len()),
            (3, 3)
        );
        let names: Vec<_> = channels()
            .events
            .into_iter()
            .chain(subscriber.canaries.clone())
            .collect();
        for name in &names {
            assert_eq!(
                publish(&router, name).await.unwrap(),
                Value::Int(1),
                "{name}"
            );
            match receiver.next().await {
                Push::Message(message) => assert_eq!(message.channel, name.as_bytes()),
                other => panic!("{other:?}"),
            }
        }
        let shared = CommandConnection::Cluster(router.clone());
        assert_eq!(endpoint.primaries(&shared).await.unwrap().len(), 3);
        let mut own = endpoint.dedicated(&key(7)).await.unwrap();
        let value = own
            .get()
            .send_packed_command(cmd("GET").arg(key(7)))
            .await
            .unwrap();
        assert_eq!(value, Value::BulkString(b"v".to_vec()));
    }
}

// acceptance: E21
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_is_followed() {
    let cluster = TestCluster::start(ServerKind::Valkey, 3, 0).await;
    let endpoint = endpoint(&cluster.full_url());
    let router = router(&endpoint).await;
    let (bucket, slot) = bucket_of(&cluster, 0);
    let (sender, mut receiver) = pushes();
    let _subscriber = endpoint.subscribe(&channels(), sender).await.unwrap();

    // While it moves, a key that the old primary has not is the new one's: ASK.
    cluster.begin_move(slot, 0, 1);
    assert_eq!(router.send(&set(bucket)).await.unwrap(), Value::Okay);
    let mut pipeline = redis::pipe();
    pipeline
        .cmd("GET")
        .arg(key(bucket))
        .cmd("PTTL")
        .arg(key(bucket));
    let (value, _): (String, i64) = pipeline.query_async(&mut router.clone()).await.unwrap();
    assert_eq!(value, "v");
    assert!(cluster.nodes[1].command("INFO keyspace").contains("db0"));

    // Afterwards the old primary says so, and ends the subscription: MOVED.
    cluster.move_slot(slot, 0, 1);
    assert_eq!(router.send(&set(bucket)).await.unwrap(), Value::Okay);
    assert_eq!(receiver.next().await, Push::Lost);
    let (sender, mut receiver) = pushes();
    let _subscriber = until_subscribed(&endpoint, &sender).await;
    let channel = &channels().events[bucket];
    until("events come from the new primary", LONG, async || {
        publish(&router, channel)
            .await
            .is_ok_and(|heard| heard == Value::Int(1))
    })
    .await;
    assert!(matches!(receiver.next().await, Push::Message(_)));
}

/// Subscribes as soon as the nodes agree on who has what.
async fn until_subscribed(endpoint: &ClusterEndpoint, sender: &PushSender) -> SubscriberConnection {
    let mut subscriber = None;
    until("all channels are subscribed to", LONG, async || {
        subscriber = endpoint.subscribe(&channels(), sender.clone()).await.ok();
        subscriber.is_some()
    })
    .await;
    subscriber.unwrap()
}

// acceptance: E21
// fault: 10
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_primary_costs_its_own_slots_alone() {
    let cluster = TestCluster::start(ServerKind::Valkey, 3, 0).await;
    // Long enough to tell waiting from a busy machine.
    let limits = ClusterLimits {
        command_timeout: Duration::from_secs(4),
        ..LIMITS
    };
    let endpoint = endpoint_with(&cluster.full_url(), limits);
    let router = router(&endpoint).await;
    let (silent, other) = (bucket_of(&cluster, 0).0, bucket_of(&cluster, 1).0);
    // Otherwise all refuse everything once they have noticed.
    for node in &cluster.nodes {
        node.command("CONFIG SET cluster-require-full-coverage no");
    }
    cluster.nodes[0].pause();
    assert!(router.send(&set(silent)).await.is_err());
    // From now on nobody waits for it, and nobody is kept from the others.
    let began = TokioClock.now();
    for _ in 0..20 {
        assert!(router.send(&set(silent)).await.is_err());
        assert!(router.send(&set(other)).await.is_ok());
        assert!(router.send(&cmd("PING")).await.is_ok());
    }
    assert!(TokioClock.now() - began < Duration::from_secs(3));
    // A new connection comes up without it too.
    let second = self::router(&endpoint).await;
    assert!(second.send(&set(other)).await.is_ok());
    cluster.nodes[0].resume();
    until("it is back without any request", LONG, async || {
        router.primaries().len() == 3
    })
    .await;
    until("its slots are served", LONG, async || {
        router.send(&set(silent)).await.is_ok()
    })
    .await;
}

// acceptance: E21
// fault: 20
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over() {
    let mut cluster = TestCluster::start(ServerKind::Valkey, 3, 1).await;
    let endpoint = endpoint(&cluster.full_url());
    let router = router(&endpoint).await;
    let (sender, mut receiver) = pushes();
    let _subscriber = endpoint.subscribe(&channels(), sender).await.unwrap();
    let bucket = bucket_of(&cluster, 0).0;
    assert_eq!(router.send(&set(bucket)).await.unwrap(), Value::Okay);
    cluster.nodes[0].kill();
    assert_eq!(receiver.next().await, Push::Lost);
    until("the replica serves the slots", LONG, async || {
        router.send(&set(bucket)).await.is_ok()
    })
    .await;
    let (sender, mut receiver) = pushes();
    let _subscriber = until_subscribed(&endpoint, &sender).await;
    let channel = &channels().events[bucket];
    assert_eq!(publish(&router, channel).await.unwrap(), Value::Int(1));
    assert!(matches!(receiver.next().await, Push::Message(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_there_is_one_clear_line() {
    let mut cluster = TestCluster::start(ServerKind::Valkey, 1, 0).await;
    let endpoint = endpoint(&cluster.url());
    let router = router(&endpoint).await;
    cluster.nodes[0].kill();
    until("the loss is noticed", LONG, async || {
        router.primaries().is_empty()
    })
    .await;
    let error = router.send(&cmd("PING")).await.unwrap_err();
    assert!(error.is_io_error(), "{error:?}");
    assert!(router.send(&set(1)).await.is_err());
    let error = endpoint.connect().await.unwrap_err().to_string();
    assert!(
        error.contains("127.0.0.1") && !error.contains('\n'),
        "{error}"
    );
    cluster.nodes[0].restart().await;
    until("it is found again", LONG, async || {
        router.send(&set(1)).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_alone_is_no_cluster() {
    let server = crate::testing::TestServer::start(ServerKind::Valkey).await;
    let url = server.url().replace("redis://", "redis+cluster://");
    let error = endpoint(&url).connect().await.unwrap_err().to_string();
    assert!(error.contains("cluster support disabled"), "{error}");
}
