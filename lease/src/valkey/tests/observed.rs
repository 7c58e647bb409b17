//! What observers and peers are told.

use std::sync::Mutex;

use super::*;
use crate::sync::lock;
use crate::testing::{Odd, OddServer};
use crate::{LeaseErrorKind, LeaseToken, Outcome};

#[derive(Debug, Default)]
struct Diary(Mutex<Vec<String>>);

impl Diary {
    fn note(&self, line: impl Into<String>) {
        lock(&self.0).push(line.into());
    }

    fn has(&self, line: &str) -> bool {
        lock(&self.0).iter().any(|noted| noted == line)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl ValkeyObserver for Diary {
    fn connected(&self, _node: &str) {
        self.note("connected");
    }
    fn disconnected(&self, _node: &str) {
        self.note("disconnected");
    }
    fn breaker(&self, _node: &str, state: BreakerState) {
        self.note(format!("breaker {}", state.as_str()));
    }
    fn command_failed(&self, _node: &str, act: &'static str, kind: LeaseErrorKind) {
        self.note(format!("failed {act} {}", kind.as_str()));
    }
    fn subscribed(&self, _node: &str, live: bool) {
        self.note(format!("subscribed {live}"));
    }
    fn canary(&self, _node: &str, lag: Duration) {
        assert!(lag < SOON);
        self.note("canary");
    }
    fn event(&self, _node: &str) {
        self.note("event");
    }
}

// acceptance: E9 E24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_life_is_told() {
    let mut server = TestServer::start(ServerKind::Valkey).await;
    let diary = Arc::new(Diary::default());
    let valkey = start_observed(config(server.url()), Arc::clone(&diary) as _).await;
    flows(&valkey).await;
    let told = diary.take();
    let first = [
        "breaker half_open",
        "subscribed false",
        "connected",
        "breaker closed",
    ];
    assert_eq!(told[..4], first, "{told:?}");
    assert!(told.contains(&"canary".to_owned()) && told.contains(&"subscribed true".to_owned()));
    let lease = grant(&valkey, "k").await;
    valkey
        .leases()
        .release(&lease, Outcome::Stored)
        .await
        .unwrap();
    eventually("the event is told", SOON, || diary.has("event")).await;
    diary.take();
    server.kill();
    eventually("the loss is told", SOON, || {
        diary.has("disconnected") && diary.has("breaker open") && diary.has("subscribed false")
    })
    .await;
    assert!(acquire(&valkey, "k").await.is_err());
    assert!(diary.has("failed acquire unavailable"));
    diary.take();
    server.restart().await;
    eventually("the return is told", SOON, || {
        diary.has("connected") && diary.has("breaker closed") && diary.has("subscribed true")
    })
    .await;
}

// A peer that asks whether we know a token must never be told "no" of a live grant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_known_before_its_request_and_until_its_release() {
    let server = OddServer::start().await;
    let valkey = start(config(server.url())).await;
    let live = valkey.live_grants();
    let known_in_time = Arc::new(Mutex::new(Vec::new()));
    let (seen, asked) = (Arc::clone(&known_in_time), Arc::clone(&live));
    server.answer(move |parts| {
        let token = match parts[0].as_str() {
            "SET" => {
                keys::LeaseValue::read(parts[2].as_bytes())
                    .ok()?
                    .value
                    .token
            }
            // Script, number of keys, lease, progress, token.
            "EVALSHA" => parts[5].parse::<LeaseToken>().ok()?,
            _ => return None,
        };
        lock(&seen).push((parts[0].clone(), asked.knows(&token)));
        (parts[0] == "EVALSHA").then(|| Odd::raw(":1\r\n"))
    });
    let lease = grant(&valkey, "k").await;
    assert!(live.knows(&lease.token));
    valkey
        .leases()
        .release(&lease, Outcome::Stored)
        .await
        .unwrap();
    assert!(!live.knows(&lease.token) && live.is_empty());
    let expected = [("SET".to_owned(), true), ("EVALSHA".to_owned(), true)];
    assert_eq!(*lock(&known_in_time), expected);
}
