//! Upstreams that break off, hang or talk nonsense, and readers that go away.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;

use super::server::{Server, Then, raw, reply};
use super::*;

// fault: 33
// protocol: D19, D20, E08
#[tokio::test]
async fn a_body_that_breaks_off_is_never_whole() {
    for (answer, had) in [
        ("HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello", "hello"),
        (
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "hello",
        ),
        (
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n9\r\nwo",
            "hello",
        ),
        (
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
            "hello",
        ),
        (
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            "hello",
        ),
        ("HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\n", ""),
    ] {
        let server = Server::start(move |_| raw(answer, Then::Close)).await;
        let (upstream, counter) = upstream(&server.url());
        let (bytes, end) = read(upstream.fetch(&request()).await.unwrap()).await;
        let error = end.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{answer:?}: {error}");
        assert!(error.to_string().contains("broke off after"), "{error}");
        assert!(bytes.starts_with(had.as_bytes()), "{answer:?}: {bytes:?}");
        assert_eq!(counter.outcomes(), "truncated 1");
        assert_eq!(counter.levels(), (0, 0));
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_a_failure() {
    for answer in [
        "",
        "HTTP/1.1 200",
        "SSH-2.0-server\r\n\r\n",
        "HTTP/1.1 200 X\r\nContent-Length: ten\r\n\r\n",
        "HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let server = Server::start(move |_| raw(answer, Then::Close)).await;
        let (upstream, counter) = upstream(&server.url());
        let error = upstream.fetch(&request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{answer:?}: {error}");
        assert_eq!(counter.outcomes(), "failed 1", "{answer:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_failure_without_its_address() {
    let server = Server::start(|_| reply(200, "", "")).await;
    let url = server.url().replace("http://", "http://user:secret@");
    drop(server);
    let (upstream, counter) = upstream(&url);
    // The port is free as soon as the listener's task has ended.
    let refused = async {
        loop {
            match upstream.fetch(&request()).await {
                Err(error) if error.to_string().ends_with("no connection") => break error,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(10), refused)
        .await
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(!format!("{error:?}").contains("secret"));
    assert!(counter.outcomes().contains("failed"));
}

#[tokio::test]
async fn a_handshake_that_fails_or_never_ends_is_told_apart() {
    // Reads on until the end of a request's head, which no handshake has.
    let silent = Server::start(|_| reply(200, "", "")).await;
    let config = UpstreamConfig {
        connect_timeout: Duration::from_millis(300),
        ..UpstreamConfig::default()
    };
    let (upstream, counter) = upstream_with(&silent.url().replace("http:", "https:"), config);
    let error = upstream.fetch(&request()).await.unwrap_err();
    assert!(
        error.to_string().contains("no connection within 300ms"),
        "{error}"
    );
    assert_eq!(counter.outcomes(), "timed_out 1");

    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (upstream, counter) = super::upstream(&format!("https://{}", plain.local_addr().unwrap()));
    let answering = async {
        let (mut stream, _) = plain.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 X\r\n\r\n")
            .await
            .unwrap();
        stream
    };
    let request = request();
    let (_stream, fetched) = tokio::join!(answering, upstream.fetch(&request));
    let error = fetched.unwrap_err();
    assert!(
        error.to_string().contains("no secure connection"),
        "{error}"
    );
    assert_eq!(counter.outcomes(), "failed 1");
}

// fault: 8
// protocol: E09
#[tokio::test]
async fn silence_before_the_headers_ends_in_time() {
    let server = Server::start(|_| raw("HTTP/1.1 200 X\r\n", Then::Hang)).await;
    let (patient, _) = upstream(&server.url());
    let (hasty, counter) = upstream_with(&server.url(), impatient());
    let error = hasty.fetch(&request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(
        (counter.outcomes().as_str(), counter.levels()),
        ("timed_out 1", (0, 0))
    );
    // The fill's own deadline counts too, also when it has passed already.
    for left in [Duration::from_millis(50), Duration::ZERO] {
        let deadline = Some(tokio::time::Instant::now() + left);
        let request = FetchRequest {
            first_byte_deadline: deadline,
            ..request()
        };
        let error = patient.fetch(&request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    server.closed(1).await;
}

// fault: 8
#[tokio::test]
async fn silence_in_the_body_is_a_timeout_and_closes_the_connection() {
    let answer = "HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello";
    let server = Server::start(move |_| raw(answer, Then::Hang)).await;
    let (upstream, counter) = upstream_with(&server.url(), impatient());
    let (bytes, end) = read(upstream.fetch(&request()).await.unwrap()).await;
    assert_eq!(bytes, b"hello");
    let error = end.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(
        (counter.outcomes().as_str(), counter.levels()),
        ("timed_out 1", (0, 0))
    );
    server.closed(1).await;
}

#[tokio::test]
async fn an_error_whose_text_hangs_is_still_that_error() {
    let answer = "HTTP/1.1 404 X\r\nContent-Length: 100\r\n\r\nno such module";
    let server = Server::start(move |_| raw(answer, Then::Hang)).await;
    let (upstream, _) = upstream_with(&server.url(), impatient());
    let error = upstream.fetch(&request()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::NotFound, "no such module")
    );
    server.closed(1).await;
}

#[tokio::test]
async fn too_many_bytes_are_refused_announced_or_not() {
    let server = Server::start(|head| {
        if head.starts_with("GET /announced/") {
            raw("HTTP/1.1 200 X\r\nContent-Length: 11\r\n\r\n", Then::Hang)
        } else {
            raw(
                "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n",
                Then::Hang,
            )
        }
    })
    .await;
    for base in ["announced", "chunked"] {
        let (upstream, counter) = upstream(&format!("{}/{base}", server.url()));
        let request = FetchRequest {
            bytes_max: 10,
            ..request()
        };
        let error = fetch_all(&upstream, &request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(
            error
                .to_string()
                .contains("over the size limit of 10 bytes"),
            "{error}"
        );
        assert_eq!(counter.outcomes(), "too_large 1");
    }
    server.closed(2).await;
}

#[tokio::test]
async fn dropping_a_fetch_or_its_body_closes_the_connection() {
    let server = Server::start(|head| {
        let headers = "HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello";
        raw(
            if head.starts_with("GET /silent/") {
                ""
            } else {
                headers
            },
            Then::Hang,
        )
    })
    .await;
    let (speaking, counter) = upstream(&server.url());
    let fetched = speaking.fetch(&request()).await.unwrap();
    drop(fetched);
    server.closed(1).await;
    assert_eq!(
        (counter.outcomes().as_str(), counter.levels()),
        ("cancelled 1", (0, 0))
    );

    let (silent, counter) = upstream(&format!("{}/silent", server.url()));
    let waiting = tokio::spawn(async move { silent.fetch(&request()).await });
    server.requested(2).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    server.closed(2).await;
    assert_eq!(
        (counter.outcomes().as_str(), counter.levels()),
        ("cancelled 1", (0, 0))
    );
}

#[tokio::test]
async fn a_body_of_known_length_counts_as_read_at_its_last_byte() {
    let server = Server::start(|_| reply(200, "", "hello")).await;
    let (upstream, counter) = upstream(&server.url());
    let fetched = upstream.fetch(&request()).await.unwrap();
    let FetchedBody::Modified(mut body) = fetched.body else {
        panic!("a body")
    };
    assert_eq!(body.next().await.unwrap().unwrap(), "hello");
    drop(body);
    assert_eq!(counter.outcomes(), "ok 1");
}

#[tokio::test]
async fn connections_are_used_again_after_errors() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::Relaxed) % 4 {
        0 => reply(404, "", "no"),
        1 => reply(500, "", "x".repeat(20_000)),
        2 => reply(429, "Retry-After: 1\r\n", "slow down"),
        _ => reply(200, "", "yes"),
    })
    .await;
    let (upstream, counter) = upstream(&server.url());
    for _ in 0..8 {
        let _ = fetch_all(&upstream, &request()).await;
    }
    assert_eq!(
        counter.outcomes(),
        "failed 2, not_found 2, ok 2, throttled 2"
    );
    assert_eq!((server.requests(), server.connections()), (8, 1));
}

// protocol: D16
// acceptance: D14
#[tokio::test]
async fn places_are_limited_and_the_queue_is_bounded() {
    let answer = "HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello";
    let server = Server::start(move |_| raw(answer, Then::Hang)).await;
    let config = UpstreamConfig {
        concurrency_max: 2,
        queue_max: 1,
        queue_timeout: Duration::from_secs(60),
        ..UpstreamConfig::default()
    };
    let (upstream, counter) = upstream_with(&server.url(), config);
    let upstream = Arc::new(upstream);
    let held = join_all([upstream.fetch(&request()), upstream.fetch(&request())]).await;
    assert_eq!(counter.levels(), (0, 2));

    // The fill's deadline ends the wait before the queue's own limit does.
    let deadline = Some(tokio::time::Instant::now() + Duration::from_millis(20));
    let hasty = FetchRequest {
        first_byte_deadline: deadline,
        ..request()
    };
    let error = upstream.fetch(&hasty).await.unwrap_err();
    assert!(matches!(
        error,
        Error::Overloaded {
            limit: UpstreamConfig::CONCURRENCY_KEY
        }
    ));

    let queued = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        async move { upstream.fetch(&request()).await }
    });
    let is_queued = async {
        while counter.levels().0 == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), is_queued)
        .await
        .unwrap();
    let error = upstream.fetch(&request()).await.unwrap_err();
    assert!(matches!(
        error,
        Error::Overloaded {
            limit: UpstreamConfig::QUEUE_KEY
        }
    ));
    assert_eq!(server.requests(), 2);

    drop(held);
    let fetched = queued.await.unwrap().unwrap();
    assert_eq!(counter.levels(), (0, 1));
    drop(fetched);
    assert_eq!(counter.levels(), (0, 0));
    assert_eq!(counter.outcomes(), "cancelled 3, overloaded 2");
}

// protocol: D17
#[tokio::test]
async fn a_herd_of_distinct_fetches_passes_through_few_places() {
    let server = Server::start(|_| reply(200, "", "hello")).await;
    let config = UpstreamConfig {
        concurrency_max: 4,
        ..UpstreamConfig::default()
    };
    let (upstream, counter) = upstream_with(&server.url(), config);
    let request = request();
    let answers = join_all((0..300).map(|_| fetch_all(&upstream, &request))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_deref().is_ok_and(|bytes| bytes == b"hello"))
    );
    assert!(
        server.connections() <= 4,
        "{} connections",
        server.connections()
    );
    assert_eq!(
        (counter.outcomes().as_str(), counter.levels()),
        ("ok 300", (0, 0))
    );
}
