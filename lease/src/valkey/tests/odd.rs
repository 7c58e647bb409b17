//! Servers that answer oddly.

use super::*;
use crate::testing::{Odd, OddServer};
use crate::{LeaseErrorKind, LeaseQuery, Outcome, Progress};

async fn instance(server: &OddServer) -> Valkey {
    let valkey = start(config(server.url())).await;
    assert!(!valkey.health().degraded, "{:?}", valkey.health());
    valkey
}

/// Answers that no server should give.
fn oddities() -> Vec<Odd> {
    let mut all: Vec<_> = [
        ":1\r\n",
        "+PONG\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*4\r\n:1\r\n:2\r\n:3\r\n:4\r\n",
        "%1\r\n+a\r\n:1\r\n",
        "$3\r\n\u{1}\u{2}\u{3}\r\n",
        "_\r\n",
        "#t\r\n",
        ",1.5\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "\r\n\r\n",
        ">2\r\n+message\r\n+x\r\n",
    ]
    .into_iter()
    .map(Odd::raw)
    .collect();
    for error in [
        "LOADING the dataset is in memory soon",
        "NOAUTH Authentication required.",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "MOVED 1 127.0.0.1:1",
        "OOM command not allowed",
        "MISCONF cannot persist",
        "BUSY a script runs",
        "NOPERM no permissions",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR unknown command",
        "ERR",
        "",
    ] {
        all.push(Odd::error(error));
    }
    all.extend([Odd::Silence, Odd::Close, Odd::Raw(vec![0xff; 64])]);
    all
}

// fault: 10 37
// acceptance: E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_hangs_panics_or_goes_unnoticed() {
    // Side by side, since most of the time is spent waiting.
    let tries = oddities().into_iter().map(|odd| tokio::spawn(survive(odd)));
    for survived in join_all(tries).await {
        survived.unwrap();
    }
}

async fn survive(odd: Odd) {
    let server = OddServer::start().await;
    let valkey = instance(&server).await;
    let Ok(Acquire::Granted(lease)) = acquire(&valkey, "k").await else {
        panic!("the usual answer grants");
    };
    let wrong = odd.clone();
    server.answer(move |parts| match parts[0].as_str() {
        "SET" | "EVALSHA" | "EVAL" | "GET" | "DEL" | "WATCH" | "SCAN" | "MULTI" => {
            Some(wrong.clone())
        }
        _ => None,
    });
    let (leases, records) = (valkey.leases(), valkey.records());
    let calls = async {
        // What an answer means is its own affair, as long as there is one in time.
        let (_, took) = timed(acquire(&valkey, "k")).await;
        assert!(took < LIMIT, "{odd:?} {took:?}");
        let _ = leases.renew(&lease, &Progress::default()).await;
        let _ = leases.get(&key("k")).await;
        let _ = leases.list(&LeaseQuery::default()).await;
        let _ = leases.force_release(&lease.key, &lease.token).await;
        let _ = leases.take_over(&lease.key, &lease.token, TTL).await;
        let _ = leases.release(&lease, Outcome::Stored).await;
        let _ = records.get("r").await;
        let _ = records.set("r", bytes::Bytes::new(), TTL).await;
        let _ = records.delete("r").await;
        let _ = records.list("", None, 10).await;
    };
    let ((), took) = timed(calls).await;
    assert!(took < SOON, "{odd:?} {took:?}");
    server.behave();
    eventually("it is used again", SOON, || !valkey.health().degraded).await;
}

// fault: 9
// acceptance: E24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_refusals_in_a_row_open_the_breaker() {
    let server = OddServer::start().await;
    let no_canaries =
        |parts: &[String]| (parts[0] == "SUBSCRIBE").then(|| Odd::error("NOPERM no permissions"));
    server.answer(no_canaries);
    let mut config = config(server.url());
    // So that nobody but this test asks the server anything.
    config.health_check_interval = Duration::from_secs(60);
    let valkey = start(config).await;
    server.answer(move |parts| match parts[0].as_str() {
        "HELLO" | "CLIENT" => None,
        "SUBSCRIBE" => no_canaries(parts),
        _ => Some(Odd::error("LOADING the dataset is in memory soon")),
    });
    for refusals in 0..5 {
        assert_ne!(breaker(&valkey), BreakerState::Open, "{refusals}");
        assert!(acquire(&valkey, "k").await.is_err());
    }
    assert_eq!(breaker(&valkey), BreakerState::Open);
    let sent = server.calls("SET");
    assert!(acquire(&valkey, "k").await.is_err());
    assert_eq!(server.calls("SET"), sent, "it is not asked");
    let health = valkey.health().nodes.remove(0);
    assert!(
        health
            .last_error
            .is_some_and(|error| error.contains("LOADING") || error.contains("memory soon"))
    );
    server.behave();
    eventually("it is used again", Duration::from_secs(2), || {
        !valkey.health().degraded
    })
    .await;
}

// fault: 37
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_nx_get_is_asked_in_two_steps() {
    let server = OddServer::start().await;
    server.answer(|parts| {
        let (nx, get) = (
            parts.iter().any(|p| p == "NX"),
            parts.iter().any(|p| p == "GET"),
        );
        (parts[0] == "SET" && nx && get).then(|| Odd::error("ERR syntax error"))
    });
    let valkey = instance(&server).await;
    for _ in 0..3 {
        grant(&valkey, "k").await;
    }
    // The first one asked in vain; the others knew.
    assert_eq!(server.calls("SET"), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_not_used() {
    let server = OddServer::start().await;
    server.answer(|parts| {
        let replication = parts[0] == "INFO" && parts[1] == "replication";
        replication.then(|| Odd::raw("$12\r\nrole:slave\r\n\r\n"))
    });
    let valkey = start(config(server.url())).await;
    let health = valkey.health().nodes.remove(0);
    assert_eq!(health.breaker, BreakerState::Open);
    assert!(
        health
            .last_error
            .is_some_and(|error| error.contains("replica"))
    );
    let error = acquire(&valkey, "k").await.unwrap_err();
    assert_eq!(error.kind(), LeaseErrorKind::Unavailable);
}
