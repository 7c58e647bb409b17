//! Several independent servers.

use super::*;
use crate::{LeaseQuery, Outcome};

async fn three() -> (Vec<TestServer>, ValkeyConfig) {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(TestServer::start(ServerKind::Valkey).await);
    }
    let config = ValkeyConfig::from_urls(servers.iter().map(TestServer::url)).unwrap();
    (servers, config)
}

// acceptance: A2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_costs_its_own_keys_only() {
    let (mut servers, mut config) = three().await;
    let a = connect_with(config.clone()).await;
    config.urls.reverse();
    let b = connect_with(config).await;
    let names: Vec<_> = (0..60).map(|n| format!("m/{n:02}")).collect();
    let mut grants = Vec::new();
    for name in &names {
        grants.push(grant(&a, name).await);
        let held = acquire(&b, name).await.unwrap();
        assert!(
            matches!(held, Acquire::Held(_)),
            "both know where {name} is"
        );
    }
    let page = b.leases().list(&LeaseQuery::default()).await.unwrap();
    let seen: Vec<_> = page.leases.iter().map(|view| view.key.as_str()).collect();
    assert_eq!(seen, names);
    servers[0].kill();
    eventually("its loss is known", SOON, || {
        breaker(&a) == BreakerState::Open
    })
    .await;
    let mut failed = 0;
    for lease in &grants {
        failed += usize::from(a.leases().release(lease, Outcome::Stored).await.is_err());
    }
    assert!((1..40).contains(&failed), "{failed} of {}", grants.len());
    // What the others have is still shown.
    for name in names.iter().take(10) {
        let _ = acquire(&a, name).await;
    }
    let page = a.leases().list(&LeaseQuery::default()).await.unwrap();
    assert!(!page.leases.is_empty());
    servers[0].restart().await;
    eventually("it is used again", Duration::from_secs(2), || {
        !a.health().degraded
    })
    .await;
}
