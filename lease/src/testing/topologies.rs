//! Clusters and Sentinels of real servers, for tests.

use std::net::TcpListener;
use std::time::Duration;

use super::server::{ServerKind, TestServer};
use crate::{Clock, TokioClock};

/// How long servers may take to agree on something.
const AGREE_MAX: Duration = Duration::from_secs(30);
/// How many slots a Cluster has.
const SLOTS: usize = 16_384;

/// Waits until `state` holds, however long one look at it takes.
///
/// # Panics
///
/// When it does not within `limit`.
pub async fn until(what: &str, limit: Duration, mut state: impl AsyncFnMut() -> bool) {
    let deadline = TokioClock.now() + limit;
    while !state().await {
        assert!(TokioClock.now() < deadline, "not within {limit:?}: {what}");
        TokioClock.sleep(Duration::from_millis(5)).await;
    }
}

/// A Cluster of primaries that share all slots evenly, the first of which may have replicas.
#[derive(Debug)]
pub struct TestCluster {
    /// The primaries in the order of their slots, then the replicas of the first one.
    pub nodes: Vec<TestServer>,
    primaries: usize,
}

impl TestCluster {
    /// Starts `primaries` primaries and `replicas` replicas of the first, with a node timeout of
    /// one second; returns when all agree that it is complete.
    pub async fn start(kind: ServerKind, primaries: usize, replicas: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..primaries + replicas {
            // By default it is the port plus 10,000, which there may not be.
            let bus = format!("--cluster-port {}", free_port());
            let options = ["--cluster-enabled yes", "--cluster-node-timeout 1000", &bus];
            nodes.push((TestServer::start_with(kind, &options).await, bus));
        }
        let first = nodes[0].0.port();
        let first_bus = nodes[0].1.replace("--cluster-port ", "");
        for (i, (node, _)) in nodes.iter().enumerate() {
            expect_ok(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", i + 1));
            if i < primaries {
                let (from, to) = (SLOTS * i / primaries, SLOTS * (i + 1) / primaries - 1);
                expect_ok(node, &format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
            }
            if i > 0 {
                expect_ok(node, &format!("CLUSTER MEET 127.0.0.1 {first} {first_bus}"));
            }
        }
        let nodes: Vec<_> = nodes.into_iter().map(|(node, _)| node).collect();
        let cluster = Self { nodes, primaries };
        cluster.agreed("the nodes know each other").await;
        for replica in &cluster.nodes[primaries..] {
            expect_ok(replica, &format!("CLUSTER REPLICATE {}", cluster.id(0)));
        }
        for replica in &cluster.nodes[primaries..] {
            until("a replica is in step", AGREE_MAX, async || {
                replica
                    .command("INFO replication")
                    .contains("master_link_status:up")
            })
            .await;
        }
        cluster.agreed("the replicas are known").await;
        cluster
    }

    /// Waits until every node that runs takes the Cluster for complete and knows all others.
    pub async fn agreed(&self, what: &str) {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        for node in &self.nodes {
            until(what, AGREE_MAX, async || {
                let info = node.command("CLUSTER INFO");
                info.contains("cluster_state:ok") && info.contains(&known)
            })
            .await;
        }
    }

    /// Returns a URL that names the first primary alone; the others are found through it.
    pub fn url(&self) -> String {
        format!("redis+cluster://127.0.0.1:{}", self.nodes[0].port())
    }

    /// Returns a URL that names all nodes.
    pub fn full_url(&self) -> String {
        let ports = self.nodes.iter().map(TestServer::port);
        let hosts: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Returns the index of the primary that was given `slot` at the start.
    pub fn primary_of(&self, slot: u16) -> usize {
        let mut indices = 0..self.primaries;
        let has = |i: &usize| usize::from(slot) < SLOTS * (i + 1) / self.primaries;
        indices.find(has).unwrap_or(self.primaries - 1)
    }

    /// Begins to move `slot` from one primary to another: keys that are not there any more are
    /// asked for at the other.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (source, target) = (self.id(from), self.id(to));
        expect_ok(
            &self.nodes[to],
            &format!("CLUSTER SETSLOT {slot} IMPORTING {source}"),
        );
        expect_ok(
            &self.nodes[from],
            &format!("CLUSTER SETSLOT {slot} MIGRATING {target}"),
        );
    }

    /// Moves `slot`, which has no keys, from one primary to another.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let target = self.id(to);
        for node in [to, from] {
            expect_ok(
                &self.nodes[node],
                &format!("CLUSTER SETSLOT {slot} NODE {target}"),
            );
        }
    }

    fn id(&self, node: usize) -> String {
        let answer = self.nodes[node].command("CLUSTER MYID");
        answer.lines().nth(1).expect("a node has an id").to_owned()
    }
}

/// A primary, its replica, and Sentinels that watch them.
#[derive(Debug)]
pub struct TestSentinels {
    /// The primary at the start, then its replica.
    pub servers: Vec<TestServer>,
    /// The Sentinels.
    pub sentinels: Vec<TestServer>,
}

impl TestSentinels {
    /// The name that the Sentinels have for the primary.
    pub const MASTER: &str = "main";

    /// Starts a primary, a replica and `sentinels` Sentinels, more than half of which decide;
    /// returns when they know each other.
    pub async fn start(sentinels: usize) -> Self {
        let primary = TestServer::start(ServerKind::Valkey).await;
        let follow = format!("--replicaof 127.0.0.1 {}", primary.port());
        let options = [follow.as_str(), "--repl-diskless-sync-delay 0"];
        let replica = TestServer::start_with(ServerKind::Valkey, &options).await;
        until("the replica is in step", AGREE_MAX, async || {
            replica
                .command("INFO replication")
                .contains("master_link_status:up")
        })
        .await;
        let mut found = Vec::new();
        for _ in 0..sentinels {
            let sentinel = TestServer::start(ServerKind::Sentinel).await;
            let (name, port, quorum) = (Self::MASTER, primary.port(), sentinels / 2 + 1);
            expect_ok(
                &sentinel,
                &format!("SENTINEL MONITOR {name} 127.0.0.1 {port} {quorum}"),
            );
            for (option, value) in [
                ("down-after-milliseconds", "500"),
                ("failover-timeout", "5000"),
            ] {
                expect_ok(&sentinel, &format!("SENTINEL SET {name} {option} {value}"));
            }
            found.push(sentinel);
        }
        let servers = vec![primary, replica];
        let started = Self {
            servers,
            sentinels: found,
        };
        for sentinel in &started.sentinels {
            until(
                "the Sentinels know each other and the replica",
                AGREE_MAX,
                async || {
                    let about = sentinel.command(&format!("SENTINEL MASTER {}", Self::MASTER));
                    let field = |name: &str, value: usize| {
                        let text = format!("{name}\r\n${}\r\n{value}\r\n", value.to_string().len());
                        about.contains(&text)
                    };
                    field("num-slaves", 1) && field("num-other-sentinels", sentinels - 1)
                },
            )
            .await;
        }
        started
    }

    /// Returns the URL of all Sentinels.
    pub fn url(&self) -> String {
        let ports = self.sentinels.iter().map(TestServer::port);
        let hosts: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis-sentinel://{}/{}", hosts.join(","), Self::MASTER)
    }
}

fn expect_ok(server: &TestServer, command: &str) {
    let answer = server.command(command);
    assert!(answer.starts_with("+OK"), "{command}: {answer}");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
