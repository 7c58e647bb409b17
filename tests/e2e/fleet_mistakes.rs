//! A Valkey that is none, or that does not let us in: one clear line, and requests go on.

use std::time::Duration;

use e2e::proxy::{Corral, Setup};
use e2e::upstream::FixtureUpstream;
use e2e::valkey::Valkey;
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{file, upstream};

/// Lines about one mistake, from whoever meets it first in each part of the instance: none says
/// it at every try.
const LINES_MAX: usize = 6;

/// Starts an instance with this URL, asks it for files, and returns what its log says of it.
async fn told(upstream: &FixtureUpstream, url: &str) -> (Corral, Vec<String>) {
    let corral = Setup::before(upstream)
        .arg("--valkey")
        .arg(url)
        .start()
        .await;
    for kind in ["info", "mod", "zip"] {
        let path = file(kind);
        corral.get(&path).await.expect_body(&upstream.body(&path));
    }
    let mut lines = Vec::new();
    let loud = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    wait::until("the log says something", PATIENCE, async || {
        lines = corral
            .log()
            .lines()
            .filter(loud)
            .map(str::to_owned)
            .collect();
        !lines.is_empty()
    })
    .await;
    // Some health checks later it has not been said again and again.
    let talkative = wait::holds_within(Duration::from_secs(3), async || {
        corral.log().lines().filter(loud).count() > LINES_MAX
    });
    assert!(!talkative.await, "{}", corral.log());
    let ready = corral.admin("/readyz").await.expect_status(200);
    assert!(ready.text().contains("degraded"), "{}", ready.text());
    (corral, lines)
}

// acceptance: E15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_said_and_not_repeated_aloud() {
    let upstream = upstream(50_000).await;
    let server = Valkey::start_as(
        e2e::valkey::Flavor::Valkey,
        &["--requirepass", "open-sesame"],
    )
    .await;
    for url in [
        format!("redis://:shut-sesame@{}", server.addr()),
        format!("redis://{}", server.addr()),
    ] {
        let (corral, lines) = told(&upstream, &url).await;
        let text = lines.join("\n").to_lowercase();
        let named = ["password", "auth", "wrongpass"];
        assert!(named.iter().any(|word| text.contains(word)), "{text}");
        let everything = format!(
            "{}{}",
            corral.log(),
            corral.admin("/admin/v1/instance").await.text()
        );
        assert!(!everything.contains("shut-sesame"), "{everything}");
    }
    let right = format!("redis://:open-sesame@{}", server.addr());
    let corral = Setup::before(&upstream)
        .arg("--valkey")
        .arg(&right)
        .start()
        .await;
    wait::until("it is used", PATIENCE, async || {
        let ready = corral.admin("/readyz").await.expect_status(200);
        !ready.text().contains("degraded")
    })
    .await;
    let config = corral.admin("/admin/v1/instance").await.text();
    assert!(!config.contains("open-sesame") && !corral.log().contains("open-sesame"));
}

// acceptance: E15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_exist_is_said() {
    let upstream = upstream(50_000).await;
    let server = Valkey::start().await;
    let (_, lines) = told(&upstream, &format!("redis://{}/99", server.addr())).await;
    let text = lines.join("\n").to_lowercase();
    assert!(text.contains("db") || text.contains("database"), "{text}");
}

// acceptance: E15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_no_valkey_is_said() {
    let upstream = upstream(50_000).await;
    let http = Corral::before(&upstream).await;
    let (_, lines) = told(&upstream, &format!("redis://{}", http.addr())).await;
    assert!(
        lines.join("\n").contains(&http.addr().to_string()),
        "{lines:?}"
    );
}
