//! The contract suites, against each server and each way to work with it.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;

use super::*;
use crate::testing::{
    LeaseTableSetup, RecordsSetup, ServerKind, lease_table_contract, records_contract,
};
use crate::{Clock, LeaseTable, Records};

const TTL: Duration = Duration::from_millis(600);

/// Two instances on one server, with a key prefix of their own for each case.
#[derive(Debug)]
pub(super) struct OnServer {
    server: TestServer,
    /// User and password, as in a URL: `user:password@`.
    login: &'static str,
    cases: AtomicU32,
}

impl OnServer {
    pub(super) async fn new(kind: ServerKind) -> Self {
        Self {
            server: TestServer::start(kind).await,
            login: "",
            cases: AtomicU32::new(0),
        }
    }

    /// On a server that runs no scripts for us.
    pub(super) async fn without_scripts(kind: ServerKind) -> Self {
        let setup = Self {
            login: "noscript:secret@",
            ..Self::new(kind).await
        };
        let rules = "ACL SETUSER noscript on >secret ~* &* +@all -@scripting";
        assert!(setup.server.command(rules).starts_with("+OK"));
        setup
    }

    /// Returns the server's address.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    pub(super) async fn instances(&self) -> [Valkey; 2] {
        let case = self.cases.fetch_add(1, Ordering::Relaxed);
        let port = self.server.port();
        let url = format!("redis://{}127.0.0.1:{port}", self.login);
        let mut config = ValkeyConfig::from_urls([url]).unwrap();
        config.key_prefix = format!("case{case}");
        // A loaded machine must not make the suite's calls fail.
        config.command_timeout = Duration::from_secs(5);
        [
            connect_with(config.clone()).await,
            connect_with(config).await,
        ]
    }
}

#[async_trait]
impl LeaseTableSetup for OnServer {
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
impl RecordsSetup for OnServer {
    async fn fresh(&self) -> [Arc<dyn Records>; 2] {
        self.instances().await.map(|valkey| valkey.records())
    }

    fn ttl(&self) -> Duration {
        TTL
    }
}

// acceptance: A25 B9 E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_on_valkey() {
    lease_table_contract(&OnServer::new(ServerKind::Valkey).await).await;
}

// acceptance: A25 A31 E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_on_valkey() {
    records_contract(&OnServer::new(ServerKind::Valkey).await).await;
}

// acceptance: A25 B9 E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_on_redis() {
    lease_table_contract(&OnServer::new(ServerKind::Redis).await).await;
}

// acceptance: A25 A31 E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_on_redis() {
    records_contract(&OnServer::new(ServerKind::Redis).await).await;
}

// fault: 37
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_without_scripts() {
    for kind in [ServerKind::Valkey, ServerKind::Redis] {
        lease_table_contract(&OnServer::without_scripts(kind).await).await;
    }
}

// fault: 37
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_without_scripts() {
    for kind in [ServerKind::Valkey, ServerKind::Redis] {
        records_contract(&OnServer::without_scripts(kind).await).await;
    }
}
