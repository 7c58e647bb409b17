//! The contract suites and the loss of servers, for every way in which several belong together.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;

use super::*;
use crate::testing::{
    LeaseTableSetup, RecordsSetup, ServerKind, TestCluster, TestSentinels, lease_table_contract,
    records_contract, until,
};
use crate::valkey::placement::Placement;
use crate::{Acquire, Clock, Holder, LeaseKey, LeaseTable, Outcome, Records, Released, Wake};

const TTL: Duration = Duration::from_millis(600);
const LONG: Duration = Duration::from_secs(30);

/// Two instances over the same servers, with a key prefix of their own for each case.
#[derive(Debug)]
struct Several<S> {
    servers: S,
    urls: Vec<String>,
    cases: AtomicU32,
}

impl<S> Several<S> {
    fn new(servers: S, urls: Vec<String>) -> Self {
        let cases = AtomicU32::new(0);
        Self {
            servers,
            urls,
            cases,
        }
    }

    /// A configuration with a key prefix of its own. The second instance gets the URLs in another
    /// order than the first.
    fn config(&self, second: bool) -> ValkeyConfig {
        let mut urls = self.urls.clone();
        if second {
            urls.reverse();
        }
        ValkeyConfig {
            key_prefix: format!("case{}", self.cases.load(Ordering::Relaxed)),
            ..ValkeyConfig::from_urls(urls).unwrap()
        }
    }

    async fn instances(&self) -> [Valkey; 2] {
        self.cases.fetch_add(1, Ordering::Relaxed);
        // A loaded machine must not make the suite's calls fail.
        let patient = |second| ValkeyConfig {
            command_timeout: Duration::from_secs(5),
            ..self.config(second)
        };
        [
            connect_with(patient(false)).await,
            connect_with(patient(true)).await,
        ]
    }
}

#[async_trait]
impl<S: Send + Sync + fmt::Debug> LeaseTableSetup for Several<S> {
    async fn fresh(&self) -> [Arc<dyn LeaseTable>; 2] {
        self.instances().await.map(|valkey| valkey.leases())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(TokioClock)
    }

    fn ttl(&self) -> Duration {
        TTL
    }
}

#[async_trait]
impl<S: Send + Sync + fmt::Debug> RecordsSetup for Several<S> {
    async fn fresh(&self) -> [Arc<dyn Records>; 2] {
        self.instances().await.map(|valkey| valkey.records())
    }

    fn ttl(&self) -> Duration {
        TTL
    }
}

async fn ring(kinds: &[ServerKind]) -> Several<Vec<TestServer>> {
    let mut servers = Vec::new();
    for kind in kinds {
        servers.push(TestServer::start(*kind).await);
    }
    let urls = servers.iter().map(TestServer::url).collect();
    Several::new(servers, urls)
}

async fn cluster(kind: ServerKind) -> Several<TestCluster> {
    let cluster = TestCluster::start(kind, 3, 0).await;
    let url = cluster.url();
    Several::new(cluster, vec![url])
}

async fn sentinels() -> Several<TestSentinels> {
    let sentinels = TestSentinels::start(3).await;
    let url = sentinels.url();
    Several::new(sentinels, vec![url])
}

const MIXED: [ServerKind; 3] = [ServerKind::Valkey, ServerKind::Redis, ServerKind::Valkey];

// acceptance: A2 E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_on_a_ring() {
    lease_table_contract(&ring(&MIXED).await).await;
}

// acceptance: A2 E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_on_a_ring() {
    records_contract(&ring(&MIXED).await).await;
}

// acceptance: E21, F2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_on_a_cluster() {
    for kind in [ServerKind::Valkey, ServerKind::Redis] {
        lease_table_contract(&cluster(kind).await).await;
    }
}

// acceptance: E21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_on_a_cluster() {
    for kind in [ServerKind::Valkey, ServerKind::Redis] {
        records_contract(&cluster(kind).await).await;
    }
}

// acceptance: E7, F2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_records_behind_sentinels() {
    let setup = sentinels().await;
    lease_table_contract(&setup).await;
    records_contract(&setup).await;
}

fn holder() -> Holder {
    Holder {
        instance: Arc::from("i"),
        address: None,
    }
}

fn keys(count: usize) -> Vec<LeaseKey> {
    let key = |i| LeaseKey::new(format!("example.com/m{i}@v1.0.0.zip")).unwrap();
    (0..count).map(key).collect()
}

/// Takes and gives back the lease of `key`; says whether that worked.
async fn works(leases: &dyn LeaseTable, key: &LeaseKey) -> bool {
    match leases.try_acquire(key, &holder(), TTL).await {
        Ok(Acquire::Granted(grant)) => {
            let released = leases.release(&grant, Outcome::Stored).await;
            matches!(released, Ok(Released::Released))
        }
        _ => false,
    }
}

/// The keys whose leases cannot be had now.
async fn refused(leases: &dyn LeaseTable, keys: &[LeaseKey]) -> Vec<LeaseKey> {
    let mut refused = Vec::new();
    for key in keys {
        if !works(leases, key).await {
            refused.push(key.clone());
        }
    }
    refused
}

// acceptance: A2
// fault: 9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_of_a_ring_costs_its_own_keys() {
    let mut setup = ring(&[ServerKind::Valkey; 3]).await;
    let valkey = connect_with(setup.config(false)).await;
    let (leases, keys) = (valkey.leases(), keys(60));
    assert_eq!(refused(&*leases, &keys).await, []);
    let address = valkey.health().nodes[1].address.clone();
    setup.servers[1].kill();
    eventually("the loss is known", LONG, || valkey.health().degraded).await;
    let health = valkey.health();
    let closed = |node: &NodeHealth| node.breaker == BreakerState::Closed;
    let up: Vec<_> = health.nodes.iter().map(closed).collect();
    assert_eq!(up, [true, false, true]);
    let began = TokioClock.now();
    let lost = refused(&*leases, &keys).await;
    // Nothing is waited for, and what is refused is what that server had: about a third.
    assert!(TokioClock.now() - began < Duration::from_secs(5));
    let places = Placement::new(health.nodes.iter().map(|node| node.address.as_str()));
    let expected: Vec<_> = keys
        .iter()
        .filter(|key| health.nodes[places.node_of(key.as_str())].address == address)
        .cloned()
        .collect();
    assert_eq!(lost, expected);
    assert!((8..=32).contains(&lost.len()), "{}", lost.len());
    setup.servers[1].restart().await;
    eventually(
        "it is used again without a request",
        Duration::from_secs(5),
        || !valkey.health().degraded,
    )
    .await;
    assert_eq!(refused(&*leases, &keys).await, []);
}

/// A release on one instance wakes a waiter on the other.
async fn wakes(valkeys: &[Valkey; 2], key: &LeaseKey) -> bool {
    let (here, there) = (valkeys[0].leases(), valkeys[1].leases());
    let mut ear = there.subscribe(key);
    let Ok(Acquire::Granted(grant)) = here.try_acquire(key, &holder(), LONG).await else {
        return false;
    };
    if !matches!(
        here.release(&grant, Outcome::Stored).await,
        Ok(Released::Released)
    ) {
        return false;
    }
    loop {
        match tokio::time::timeout(Duration::from_secs(2), ear.woken()).await {
            Ok(Wake::Event(event)) if event.token == grant.token => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

// acceptance: E7
// fault: 20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_go_on_after_sentinels_failed_over() {
    let mut setup = sentinels().await;
    let both = [
        connect_with(setup.config(false)).await,
        connect_with(setup.config(true)).await,
    ];
    let keys = keys(20);
    for key in &keys[..5] {
        assert!(wakes(&both, key).await);
    }
    let lease = both[0]
        .leases()
        .try_acquire(&keys[5], &holder(), LONG)
        .await;
    let Ok(Acquire::Granted(lease)) = lease else {
        panic!("{lease:?}");
    };
    setup.servers.servers[0].kill();
    // Calls fail, and none of them takes longer than a command may.
    until("the loss is known", LONG, async || {
        let began = TokioClock.now();
        let worked = works(&*both[0].leases(), &keys[6]).await;
        assert!(TokioClock.now() - began < Duration::from_secs(5));
        !worked
    })
    .await;
    until(
        "leases and events work on the new primary",
        LONG,
        async || wakes(&both, &keys[7]).await,
    )
    .await;
    assert_eq!(refused(&*both[1].leases(), &keys[8..]).await, []);
    // The lease from before may or may not have reached the replica; its holder gets an answer.
    assert!(
        both[0]
            .leases()
            .release(&lease, Outcome::Stored)
            .await
            .is_ok()
    );
}

// acceptance: E21
// fault: 20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_go_on_after_a_cluster_failed_over() {
    let started = TestCluster::start(ServerKind::Valkey, 3, 1).await;
    let url = started.full_url();
    let mut setup = Several::new(started, vec![url]);
    let both = [
        connect_with(setup.config(false)).await,
        connect_with(setup.config(true)).await,
    ];
    let keys = keys(40);
    for key in &keys {
        assert!(wakes(&both, key).await, "{key}");
    }
    setup.servers.nodes[0].kill();
    until("all leases work again", LONG, async || {
        refused(&*both[0].leases(), &keys).await.is_empty()
    })
    .await;
    eventually("events flow again", LONG, || {
        both.iter()
            .all(|valkey| valkey.health().nodes.iter().all(|node| node.subscribed))
    })
    .await;
    for key in &keys {
        assert!(wakes(&both, key).await, "{key}");
    }
}

// acceptance: E21
// fault: 10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_primary_of_a_cluster_leaves_the_others_working() {
    let setup = cluster(ServerKind::Valkey).await;
    for node in &setup.servers.nodes {
        node.command("CONFIG SET cluster-require-full-coverage no");
    }
    // Long enough to tell waiting from a busy machine.
    let patient = ValkeyConfig {
        command_timeout: Duration::from_secs(4),
        ..setup.config(false)
    };
    let valkey = connect_with(patient).await;
    let (leases, keys) = (valkey.leases(), keys(60));
    assert_eq!(refused(&*leases, &keys).await, []);
    setup.servers.nodes[1].pause();
    until("the loss is known", LONG, async || {
        !refused(&*leases, &keys[..10]).await.is_empty()
    })
    .await;
    for _ in 0..3 {
        let began = TokioClock.now();
        let lost = refused(&*leases, &keys).await.len();
        assert!((5..=35).contains(&lost), "{lost}");
        assert!(TokioClock.now() - began < Duration::from_secs(10));
    }
    setup.servers.nodes[1].resume();
    until("all of them work again", LONG, async || {
        refused(&*leases, &keys).await.is_empty()
    })
    .await;
}
