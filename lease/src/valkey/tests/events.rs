//! Release events: lost connections, lost rights, odd messages.

use futures::FutureExt;

use super::*;
use crate::{Outcome, Wake, timeout};

async fn woken(subscription: &mut crate::Subscription) -> Wake {
    timeout(&TokioClock, SOON, subscription.woken())
        .await
        .unwrap()
}

fn subscribed(valkey: &Valkey) -> bool {
    valkey.health().nodes[0].subscribed
}

// fault: 15
// acceptance: B20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_subscriber_wakes_everybody_and_comes_back() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let [a, b] = [connect(&server).await, connect(&server).await];
    for round in 0..3 {
        let mut waiting = b.leases().subscribe(&key("k"));
        let lease = grant(&a, "k").await;
        assert_eq!(waiting.woken().now_or_never(), None, "round {round}");
        server.command("CLIENT KILL TYPE pubsub");
        // Released in the gap or not: nobody may go on sleeping.
        a.leases().release(&lease, Outcome::Stored).await.unwrap();
        woken(&mut waiting).await;
        let began = TokioClock.now();
        flows(&a).await;
        flows(&b).await;
        assert!(TokioClock.now() - began < Duration::from_secs(3));
        while waiting.woken().now_or_never().is_some() {}
        let lease = grant(&a, "k").await;
        a.leases().release(&lease, Outcome::Stored).await.unwrap();
        assert!(
            matches!(woken(&mut waiting).await, Wake::Event(event) if event.token == lease.token)
        );
    }
}

// fault: 16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_subscribe_everything_else_works() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let acl = |rules: &str| {
        let answer = server.command(&format!("ACL SETUSER u on >p ~* {rules}"));
        assert!(answer.starts_with("+OK"), "{answer}");
    };
    acl("&* +@all -subscribe -ssubscribe -psubscribe");
    let valkey = start(config(format!("redis://u:p@127.0.0.1:{}", server.port()))).await;
    let waiting = valkey.leases().subscribe(&key("k"));
    for _ in 0..20 {
        let lease = grant(&valkey, "k").await;
        let released = valkey.leases().release(&lease, Outcome::Stored).await;
        assert_eq!(released.unwrap(), crate::Released::Released);
    }
    assert!(!subscribed(&valkey) && !waiting.is_live());
    assert!(!valkey.health().degraded, "only the events are missing");
    acl("+subscribe");
    flows(&valkey).await;
    assert!(waiting.is_live());
}

// fault: 13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_publish_leases_are_still_freed() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let answer = server.command("ACL SETUSER u on >p ~* &* +@all -publish -spublish");
    assert!(answer.starts_with("+OK"), "{answer}");
    let valkey = start(config(format!("redis://u:p@127.0.0.1:{}", server.port()))).await;
    let lease = grant(&valkey, "k").await;
    let released = valkey.leases().release(&lease, Outcome::Stored).await;
    assert_eq!(released.unwrap(), crate::Released::Released);
    grant(&valkey, "k").await;
    // No canary comes back either, so nobody relies on events.
    assert!(!subscribed(&valkey));
}

// fault: 14 16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_stays_away_ends_the_trust() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let acl = |rules: &str| {
        let answer = server.command(&format!("ACL SETUSER u on >p ~* {rules}"));
        assert!(answer.starts_with("+OK"), "{answer}");
    };
    acl("&* +@all");
    let valkey = start(config(format!("redis://u:p@127.0.0.1:{}", server.port()))).await;
    flows(&valkey).await;
    let mut waiting = valkey.leases().subscribe(&key("k"));
    acl("-publish");
    // Those who sleep have to learn that they must look more often.
    assert_eq!(woken(&mut waiting).await, Wake::Reconnected);
    assert!(!waiting.is_live());
    acl("+publish");
    flows(&valkey).await;
    assert!(waiting.is_live());
}

// fault: 18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_odd_messages_cause_a_look_at_most() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = connect(&server).await;
    let mut waiting = valkey.leases().subscribe(&key("k"));
    let channel = keys::Keys::new("corral").channel(&key("k"));
    let token = crate::LeaseToken::random();
    let forged = keys::event_json(&key("k"), token, Outcome::Stored);
    let long = "x".repeat(100_000);
    for payload in ["", "{}", "\0", &long, &forged, &forged] {
        server.parts(&["PUBLISH", &channel, payload]).unwrap();
    }
    for _ in 0..2 {
        assert!(matches!(woken(&mut waiting).await, Wake::Event(event) if event.token == token));
    }
    assert!(subscribed(&valkey));
    grant(&valkey, "k").await;
}

// acceptance: B20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_wakes_at_once() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let [a, b] = [connect(&server).await, connect(&server).await];
    let mut took = Vec::new();
    for n in 0..100 {
        let name = format!("k{n}");
        let mut waiting = b.leases().subscribe(&key(&name));
        let lease = grant(&a, &name).await;
        let (_, time) = timed(async {
            let release = a.leases();
            let (released, wake) = tokio::join!(
                release.release(&lease, Outcome::Stored),
                woken(&mut waiting)
            );
            released.unwrap();
            wake
        })
        .await;
        took.push(time);
    }
    took.sort_unstable();
    assert!(took[50] < Duration::from_millis(50), "{:?}", took[50]);
}
