//! What becomes of calls while a server is gone or silent, and how it comes back.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::testing::{Odd, OddServer};
use crate::{LeaseErrorKind, Outcome, Progress, Released, Renewal};

/// How soon a server that is back is used again, with nobody asking for it.
const BACK: Duration = Duration::from_secs(2);

async fn is_back(valkey: &Valkey) {
    eventually("the breaker closes", BACK, || !valkey.health().degraded).await;
}

// fault: 9
// acceptance: E8 E9 E15 E24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_costs_nothing_and_is_found() {
    let mut server = TestServer::start(ServerKind::Valkey).await;
    server.kill();
    let valkey = start(config(server.url())).await;
    assert_eq!(breaker(&valkey), BreakerState::Open);
    for _ in 0..10 {
        let (answer, took) = timed(acquire(&valkey, "k")).await;
        assert_eq!(answer.unwrap_err().kind(), LeaseErrorKind::Unavailable);
        assert!(took < LIMIT, "{took:?}");
    }
    let health = valkey.health().nodes.remove(0);
    assert!(
        health
            .last_error
            .is_some_and(|error| error.contains("refused"))
    );
    server.restart().await;
    is_back(&valkey).await;
    grant(&valkey, "k").await;
    assert_eq!(valkey.health().nodes[0].last_error, None);
}

// fault: 10
// acceptance: E8 E24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_costs_one_command_timeout() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    server.pause();
    let (answer, took) = timed(acquire(&valkey, "k")).await;
    assert_eq!(answer.unwrap_err().kind(), LeaseErrorKind::Unavailable);
    assert!(took < LIMIT, "{took:?}");
    // Whatever else the same request asks of it costs nothing more.
    let records = valkey.records();
    let others = async {
        for _ in 0..20 {
            assert!(records.get("r").await.is_err());
            assert!(acquire(&valkey, "k").await.is_err());
        }
    };
    let ((), took) = timed(others).await;
    assert!(took < LIMIT, "{took:?}");
    assert!(valkey.health().degraded);
    eventually("the breaker opens", SOON, || {
        breaker(&valkey) == BreakerState::Open
    })
    .await;
    server.resume();
    is_back(&valkey).await;
    grant(&valkey, "other").await;
}

// fault: 10
#[tokio::test]
async fn a_server_that_never_answers_a_connection_costs_one_command_timeout() {
    let server = OddServer::start().await;
    server.answer(|_| Some(Odd::Silence));
    let (valkey, took) = timed(start(config(server.url()))).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    for _ in 0..5 {
        let (answer, took) = timed(acquire(&valkey, "k")).await;
        assert!(answer.is_err());
        assert!(took < LIMIT, "{took:?}");
    }
    server.behave();
    eventually("it is used", SOON, || !valkey.health().degraded).await;
}

// fault: 12 21
// acceptance: E8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_fails_no_call_otherwise_than_as_unavailable() {
    let mut server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    let held = grant(&valkey, "held").await;
    let counts = Arc::new([const { AtomicU32::new(0) }; 2]);
    let load: Vec<_> = (0..16)
        .map(|n| {
            let (valkey, counts) = (valkey.clone(), Arc::clone(&counts));
            tokio::spawn(async move {
                loop {
                    let (answer, took) = timed(acquire(&valkey, &format!("k{n}"))).await;
                    assert!(took < LIMIT, "{took:?}");
                    let good = match answer {
                        Ok(Acquire::Granted(grant)) => {
                            let _ = valkey.leases().release(&grant, Outcome::Stored).await;
                            true
                        }
                        Ok(Acquire::Held(_)) => true,
                        Err(error) => {
                            assert_eq!(error.kind(), LeaseErrorKind::Unavailable, "{error:?}");
                            false
                        }
                    };
                    counts[usize::from(good)].fetch_add(1, Ordering::Relaxed);
                    // Clients come at their own pace, however fast they are turned away.
                    TokioClock.sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    let [bad, good] = &*counts;
    let goes_on = async |count: &AtomicU32| {
        let before = count.load(Ordering::Relaxed);
        let more = || count.load(Ordering::Relaxed) > before + 100;
        eventually("calls go on", SOON, more).await;
    };
    goes_on(good).await;
    server.kill();
    goes_on(bad).await;
    assert_eq!(breaker(&valkey), BreakerState::Open);
    let renewal = valkey.leases().renew(&held, &Progress::default()).await;
    assert_eq!(renewal.unwrap_err().kind(), LeaseErrorKind::Unavailable);
    server.restart().await;
    is_back(&valkey).await;
    goes_on(good).await;
    for task in load {
        assert!(!task.is_finished(), "it has failed");
        task.abort();
    }
    // It forgot everything, the scripts too.
    let leases = valkey.leases();
    assert_eq!(
        leases.renew(&held, &Progress::default()).await.unwrap(),
        Renewal::Lost
    );
    assert_eq!(
        leases.release(&held, Outcome::Stored).await.unwrap(),
        Released::NotOwner
    );
    grant(&valkey, "held").await;
}

// fault: 11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_grant_got_lost_is_undone() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    server.command("CONFIG RESETSTAT");
    server.pause();
    let (answer, took) = timed(acquire(&valkey, "timed-out")).await;
    assert!(answer.is_err() && took < LIMIT, "{answer:?} {took:?}");
    server.resume();
    // The request was on its way, and is carried out now.
    eventually("the request arrives", SOON, || {
        server.command("INFO commandstats").contains("cmdstat_set:")
    })
    .await;
    eventually("the lease is gone", SOON, || {
        server.command("KEYS *:lease:*") == "*0\r\n"
    })
    .await;
    assert!(valkey.live_grants().is_empty());
}

// fault: 11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_caller_went_away_is_undone() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    let table = valkey.leases();
    for round in 0..50_u32 {
        let leased = key(&format!("k{round}"));
        let who = holder();
        // Sent or not, answered or not: wherever it stands when it is dropped.
        let acquiring = table.try_acquire(&leased, &who, TTL);
        tokio::select! {
            biased;
            _ = acquiring => {}
            () = async { for _ in 0..round % 5 { tokio::task::yield_now().await } } => {}
        }
    }
    eventually("all that nobody has are gone", SOON, || {
        let live = valkey.live_grants().len();
        server
            .command("KEYS *:lease:*")
            .starts_with(&format!("*{live}\r\n"))
    })
    .await;
}

// fault: 22
#[tokio::test]
async fn a_server_whose_clock_jumps_does_no_harm() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let [a, b] = [connect(&server).await, connect(&server).await];
    let name = |unit: &str| keys::Keys::new("corral").name(keys::KeyKind::Lease, unit);
    // Forward: the lease ends early, and somebody else may have it.
    let early = grant(&a, "early").await;
    server.parts(&["PEXPIRE", &name("early"), "0"]).unwrap();
    let next = grant(&b, "early").await;
    let leases = a.leases();
    assert_eq!(
        leases.renew(&early, &Progress::default()).await.unwrap(),
        Renewal::Lost
    );
    assert_eq!(
        leases.release(&early, Outcome::Stored).await.unwrap(),
        Released::NotOwner
    );
    assert_eq!(
        b.leases().release(&next, Outcome::Stored).await.unwrap(),
        Released::Released
    );
    // Backward: it would last an hour longer, but its holder ends it, and what it believes itself
    // does not come from the server's clock.
    let late = grant(&a, "late").await;
    server
        .parts(&["PEXPIRE", &name("late"), "3660000"])
        .unwrap();
    assert!(late.deadline <= TokioClock.now() + TTL);
    let Acquire::Held(held) = acquire(&b, "late").await.unwrap() else {
        panic!("it is held");
    };
    assert!(held.expires_in > TTL);
    assert_eq!(
        leases.release(&late, Outcome::Stored).await.unwrap(),
        Released::Released
    );
    grant(&b, "late").await;
}
