//! Upstream's errors as clients see them: protocol rows E04 to E12.

use std::time::Duration;

use e2e::upstream::{Answer, FixtureUpstream, latest_path, list_path};

use crate::fixtures::{M, file, impatient, is_one_line, is_own_trouble, upstream};

// protocol: E04, E05
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gatekeepers_403_stays_403_with_its_text() {
    let upstream = upstream(2000).await;
    let corral = impatient(&upstream).start().await;
    for path in [
        file("info"),
        file("mod"),
        file("zip"),
        list_path(M),
        latest_path(M),
    ] {
        let text = "this module is blocked by policy 7\nask the security team\n";
        upstream.path(&path).always(Answer::status(403, text));
        let reply = corral.get(&path).await.expect_status(403);
        assert_eq!(reply.text().trim_end(), text.trim_end());
        assert!(
            reply
                .header("content-type")
                .unwrap_or_default()
                .starts_with("text/plain")
        );
    }
}

// protocol: E06, E07, E12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_our_own_trouble_whatever_they_say() {
    let upstream = upstream(2000).await;
    let corral = impatient(&upstream).start().await;
    for path in [
        file("info"),
        file("mod"),
        file("zip"),
        list_path(M),
        latest_path(M),
    ] {
        for status in [500, 502, 503, 504, 429, 401, 400, 599] {
            upstream
                .path(&path)
                .heal()
                .next(1, Answer::status(status, "<html>internals</html>"));
            let reply = corral.get(&path).await;
            is_own_trouble(&reply);
            let kind = reply
                .header("content-type")
                .unwrap_or_default()
                .to_ascii_lowercase();
            assert!(kind.contains("utf-8"), "{kind}");
            let home = corral.setup().home().display().to_string();
            assert!(!reply.text().contains(&home), "internals: {}", reply.text());
        }
    }
}

// protocol: E08
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_are_reported_soon() {
    let upstream = upstream(2000).await;
    let corral = impatient(&upstream).start().await;
    for answer in [Answer::ResetBeforeHeaders, Answer::CloseBeforeHeaders] {
        upstream.path(&file("mod")).heal().always(answer);
        let reply = corral.get(&file("mod")).await;
        is_own_trouble(&reply);
        assert!(
            reply.elapsed < Duration::from_secs(5),
            "{:?}",
            reply.elapsed
        );
    }
    upstream.stop();
    let reply = corral.get(&file("mod")).await;
    is_own_trouble(&reply);
    assert!(
        reply.elapsed < Duration::from_secs(5),
        "{:?}",
        reply.elapsed
    );
    upstream.resume().await;
    upstream.path(&file("mod")).heal();
    e2e::wait::until(
        "the upstream is used again",
        e2e::wait::PATIENCE,
        async || corral.get(&file("mod")).await.status == 200,
    )
    .await;
}

// protocol: E02, E12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_error_texts_do_no_harm() {
    let upstream = FixtureUpstream::start().await;
    let corral = impatient(&upstream).start().await;
    // Larger than any error text should be: bounded, still a 404.
    let huge = "x".repeat(3_000_000);
    upstream
        .path(&list_path("example.com/huge"))
        .always(Answer::status(404, &huge));
    let reply = corral
        .get(&list_path("example.com/huge"))
        .await
        .expect_status(404);
    assert!(
        reply.body_bytes < 1_000_000,
        "{} bytes of error text",
        reply.body_bytes
    );
    // Empty: we say a line of our own.
    upstream
        .path(&list_path("example.com/empty"))
        .always(Answer::status(404, ""));
    is_one_line(
        &corral
            .get(&list_path("example.com/empty"))
            .await
            .expect_status(404),
    );
    // A broken error body is still that status, or our own trouble.
    upstream
        .path(&list_path("example.com/cut"))
        .always(Answer::status(410, "gone for good"));
    corral
        .get(&list_path("example.com/cut"))
        .await
        .expect_status(410);
}
