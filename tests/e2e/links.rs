//! The breakable link and the real Valkey of the harness: shown here, without the binary.

use std::time::{Duration, Instant};

use e2e::client::{self, Ending, Request};
use e2e::fault_proxy::{Direction, FaultProxy, Link};
use e2e::upstream::{FixtureModule, FixtureUpstream};
use e2e::valkey::{Flavor, Resp, Valkey, Value};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, V, file};

const SHORT: Duration = Duration::from_millis(300);

async fn linked() -> (FixtureUpstream, FaultProxy) {
    let module = FixtureModule::new(M).version_sized(V, 300_000);
    let upstream = FixtureUpstream::with([module]).await;
    let link = FaultProxy::to(upstream.addr()).await;
    (upstream, link)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_passes_holds_delays_refuses_and_cuts() {
    let (upstream, link) = linked().await;
    let zip = file("zip");
    let whole = upstream.body(&zip);
    client::get(link.addr(), &zip).await.expect_body(&whole);

    link.set(Direction::ToServer, Link::Delay(SHORT));
    let started = Instant::now();
    client::get(link.addr(), &zip).await.expect_body(&whole);
    assert!(started.elapsed() >= SHORT);

    // What is held arrives when it is let go.
    link.heal();
    link.set(Direction::ToClient, Link::Hold);
    let (addr, target) = (link.addr(), zip.clone());
    let held = tokio::spawn(async move { client::get(addr, &target).await });
    let asked = upstream.path(&zip);
    wait::until("it was asked", PATIENCE, async || asked.requests() == 3).await;
    let ending = Request::get(&zip).time_limit(SHORT).send(link.addr()).await;
    assert_eq!(ending.ending, Ending::TimedOut);
    link.heal();
    held.await.unwrap().expect_body(&whole);

    link.set(Direction::ToClient, Link::CutAfter(100_000));
    let cut = client::get(link.addr(), &zip).await;
    assert!(matches!(cut.ending, Ending::Cut(_)), "{:?}", cut.ending);
    assert!(cut.body_bytes < 100_000);

    link.heal();
    let gate = upstream.path(&zip).hold_headers();
    let (addr, target) = (link.addr(), zip.clone());
    let waiting = tokio::spawn(async move { client::get(addr, &target).await });
    gate.wait_arrivals(1).await;
    link.refuse();
    assert!(matches!(waiting.await.unwrap().ending, Ending::Cut(_)));
    let refused = async || tokio::net::TcpStream::connect(link.addr()).await.is_err();
    wait::until("connects are refused", PATIENCE, refused).await;
    upstream.path(&zip).heal();
    link.heal();
    client::get(link.addr(), &zip).await.expect_body(&whole);
    wait::until("all are closed", PATIENCE, async || link.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_paused_killed_and_started_again() {
    for flavor in [Flavor::Valkey, Flavor::Redis] {
        let mut server = Valkey::start_as(flavor, &[]).await;
        server.command(&["SET", "a:1", "x"]).await;
        server.command(&["SET", "a:2", "x", "PX", "60000"]).await;
        assert_eq!(server.keys("a:*").await, ["a:1", "a:2"]);
        assert_eq!(server.keys_without_end().await, ["a:1"]);

        server.freeze();
        let mut connection = Resp::open(server.addr()).await.unwrap();
        let silent = tokio::time::timeout(SHORT, connection.command(&["PING"])).await;
        assert!(silent.is_err(), "{silent:?}");
        server.thaw();
        assert_eq!(connection.next().await.unwrap().text(), Some("PONG"));

        server.stop();
        assert!(Resp::open(server.addr()).await.is_err());
        server.resume().await;
        assert_eq!(server.keys("*").await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chosen_messages_are_lost_and_commands_are_seen() {
    let server = Valkey::start().await;
    let link = FaultProxy::to(server.addr()).await;
    link.set(Direction::ToClient, Link::Without("lost".to_owned()));
    let mut subscriber = Resp::open(link.addr()).await.unwrap();
    subscriber.command(&["SUBSCRIBE", "events"]).await.unwrap();
    let mut watch = server.watch_commands().await;
    for text in ["one", "lost", "two"] {
        server.command(&["PUBLISH", "events", text]).await;
    }
    for text in ["one", "two"] {
        let message = subscriber.next().await.unwrap();
        assert_eq!(message.items().last(), Some(&Value::Text(text.to_owned())));
    }
    let seen = watch.next().await.unwrap();
    assert_eq!(seen.text, r#""PUBLISH" "events" "one""#);
    assert!(!link.carries(seen.client));
    let mut through = Resp::open(link.addr()).await.unwrap();
    through.command(&["GET", "key"]).await.unwrap();
    let all = watch.until_quiet(SHORT).await;
    let last = all.last().expect("the commands were seen");
    assert!(link.carries(last.client), "{all:?}");
    assert_eq!(last.text, r#""GET" "key""#);
}
