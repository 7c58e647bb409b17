//! What each answer of an upstream becomes.

use super::server::{Server, Then, raw, reply};
use super::*;

/// "module contents\n", compressed once and for all, so that no compressor is needed here.
const GZIPPED: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xcb, 0xcd, 0x4f, 0x29, 0xcd, 0x49,
    0x55, 0x48, 0xce, 0xcf, 0x2b, 0x49, 0xcd, 0x2b, 0x29, 0xe6, 0x02, 0x00, 0xc0, 0xd9, 0x21, 0xa1,
    0x10, 0x00, 0x00, 0x00,
];

// protocol: Z01
#[tokio::test]
async fn an_answer_keeps_its_bytes_and_what_it_says_about_them() {
    let server = Server::start(|_| {
        reply(
            200,
            "ETag: \"a\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Cache-Control: max-age=60\r\nContent-Type: application/zip\r\n",
            b"bytes\0\xff",
        )
    })
    .await;
    let (upstream, counter) = upstream(&format!("{}/base/", server.url()));
    let fetched = upstream.fetch(&request()).await.unwrap();
    assert_eq!(fetched.upstream.as_ref(), format!("{}/base", server.url()));
    assert_eq!(fetched.len, Some(7));
    assert_eq!(fetched.etag.as_deref(), Some("\"a\""));
    assert_eq!(
        fetched.last_modified.as_deref(),
        Some("Sun, 06 Nov 1994 08:49:37 GMT")
    );
    assert_eq!(fetched.cache_control.max_age, Some(Duration::from_secs(60)));
    assert_eq!(fetched.content_type.as_deref(), Some("application/zip"));
    assert!(!fetched.resumed);
    assert_eq!(counter.levels(), (0, 1));
    let (bytes, end) = read(fetched).await;
    assert!(end.is_ok());
    assert_eq!(bytes, b"bytes\0\xff");
    assert_eq!(counter.levels(), (0, 0));
    assert_eq!(counter.outcomes(), "ok 1");
    let head = server.heads().remove(0).to_ascii_lowercase();
    assert!(
        head.starts_with("get /base/example.com/m/@v/v1.0.0.zip http/1.1\r\n"),
        "{head}"
    );
    for field in [
        "via: 1.1 corral/test",
        "user-agent: corral/0.0.0",
        "accept-encoding: identity",
    ] {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{head}");
    }
    assert!(!head.contains("authorization"), "{head}");
}

// protocol: E01, E02, E03, E04, E05, E06, E07
#[tokio::test]
async fn every_refusal_has_its_kind_text_and_label() {
    const HTML: &str = "Content-Type: text/html\r\n";
    let own = format!("not found: {UNIT}");
    let gone = format!("gone: {UNIT}");
    let forbidden = format!("forbidden: {UNIT}");
    for (status, headers, body, kind, text, label) in [
        (
            404,
            "",
            "no such\nmodule\n",
            ErrorKind::NotFound,
            "no such\nmodule\n",
            "not_found",
        ),
        (404, "", "", ErrorKind::NotFound, own.as_str(), "not_found"),
        (
            404,
            HTML,
            "<b>404</b>",
            ErrorKind::NotFound,
            own.as_str(),
            "not_found",
        ),
        (410, "", "removed", ErrorKind::Gone, "removed", "gone"),
        (410, "", "", ErrorKind::Gone, gone.as_str(), "gone"),
        (
            403,
            "",
            "policy 7 says no",
            ErrorKind::Forbidden,
            "policy 7 says no",
            "forbidden",
        ),
        (
            403,
            HTML,
            "<b>403</b>",
            ErrorKind::Forbidden,
            forbidden.as_str(),
            "forbidden",
        ),
        (
            401,
            "",
            "who?",
            ErrorKind::Refused,
            "status 401: who?",
            "refused",
        ),
        (
            400,
            "",
            "\nGo module host not permitted\nx",
            ErrorKind::Refused,
            "status 400: Go module host not permitted",
            "refused",
        ),
        (
            451,
            "",
            "",
            ErrorKind::Refused,
            "status 451: no reason given",
            "refused",
        ),
        (408, "", "", ErrorKind::TimedOut, "status 408", "timed_out"),
        (429, "", "", ErrorKind::Throttled, "status 429", "throttled"),
        (503, "", "", ErrorKind::Throttled, "status 503", "throttled"),
        (
            500,
            "",
            "disk on fire\n",
            ErrorKind::Transient,
            "status 500: disk on fire",
            "failed",
        ),
        (
            502,
            HTML,
            "<b>502</b>",
            ErrorKind::Transient,
            "failed: status 502",
            "failed",
        ),
        (508, "", "", ErrorKind::Transient, "status 508", "failed"),
        (
            201,
            "",
            "made",
            ErrorKind::Transient,
            "unexpected status 201",
            "failed",
        ),
        (
            206,
            "",
            "part",
            ErrorKind::Transient,
            "unexpected status 206",
            "failed",
        ),
        (
            300,
            "",
            "",
            ErrorKind::Transient,
            "unexpected status 300",
            "failed",
        ),
        (
            302,
            "",
            "",
            ErrorKind::Transient,
            "unexpected status 302",
            "failed",
        ),
        (
            999,
            "",
            "",
            ErrorKind::Transient,
            "unexpected status 999",
            "failed",
        ),
    ] {
        let server = Server::start(move |_| reply(status, headers, body)).await;
        let (upstream, counter) = upstream(&server.url());
        let error = upstream.fetch(&request()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        let shown = error.to_string();
        let is_verdict = matches!(
            kind,
            ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::Forbidden
        );
        assert!(
            if is_verdict {
                shown == text
            } else {
                shown.contains(text)
            },
            "{status}: {shown}"
        );
        assert_eq!(counter.outcomes(), format!("{label} 1"), "{status}");
        assert_eq!(
            (counter.levels(), server.requests()),
            ((0, 0), 1),
            "{status}"
        );
    }
}

// fault: 29
#[tokio::test]
async fn a_wish_for_patience_is_passed_on() {
    for (value, seconds) in [("5", 5), ("86400", 3600)] {
        let server =
            Server::start(move |_| reply(429, &format!("Retry-After: {value}\r\n"), "")).await;
        let (upstream, _) = upstream(&server.url());
        let error = upstream.fetch(&request()).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(seconds)));
    }
}

#[tokio::test]
async fn an_unchanged_document_has_no_body() {
    let server = Server::start(|head| {
        let head = head.to_ascii_lowercase();
        if head.contains("if-none-match: \"a\"") && head.contains("if-modified-since: yesterday") {
            raw(
                "HTTP/1.1 304 X\r\nETag: \"a\"\r\nCache-Control: max-age=9\r\n\r\n",
                Then::KeepOpen,
            )
        } else {
            reply(200, "", "whole")
        }
    })
    .await;
    let (upstream, counter) = upstream(&server.url());
    let validators = |name: Option<&Arc<str>>| {
        Some(Validators {
            upstream: name.cloned(),
            etag: Some("\"a\"".to_owned()),
            last_modified: Some("yesterday".to_owned()),
        })
    };
    for name in [None, Some(upstream.name())] {
        let request = FetchRequest {
            validators: validators(name),
            ..request()
        };
        let fetched = upstream.fetch(&request).await.unwrap();
        assert!(matches!(fetched.body, FetchedBody::NotModified));
        assert_eq!(fetched.cache_control.max_age, Some(Duration::from_secs(9)));
    }
    // Another upstream's validators prove nothing here.
    let other = Arc::from("http://other.test");
    let request = FetchRequest {
        validators: validators(Some(&other)),
        ..request()
    };
    assert_eq!(fetch_all(&upstream, &request).await.unwrap(), b"whole");
    assert_eq!(counter.outcomes(), "not_modified 2, ok 1");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_unchanged_answer_to_a_plain_request_is_an_error() {
    let server = Server::start(|_| raw("HTTP/1.1 304 X\r\n\r\n", Then::KeepOpen)).await;
    let (upstream, _) = upstream(&server.url());
    let error = upstream.fetch(&request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
}

// protocol: Z05
#[tokio::test]
async fn redirects_are_followed_ten_times_and_credentials_stay_behind() {
    let target = Server::start(|head| {
        let secret = head.to_ascii_lowercase().contains("authorization");
        reply(200, "", if secret { "leaked" } else { "content" })
    })
    .await;
    let to = target.url();
    let server = Server::start(move |head| {
        let hops: usize = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        if hops == 1 {
            reply(302, &format!("Location: {to}/x?signature=secret\r\n"), "")
        } else {
            reply(301, &format!("Location: /{}/x\r\n", hops - 1), "moved")
        }
    })
    .await;
    let base = server.url().replace("http://", "http://user:pass@");
    for (hops, is_followed) in [(1, true), (10, true), (11, false)] {
        let (upstream, counter) = upstream(&format!("{base}/{hops}"));
        match fetch_all(&upstream, &request()).await {
            Ok(bytes) => assert_eq!((is_followed, bytes.as_slice()), (true, &b"content"[..])),
            Err(error) => {
                assert!(
                    !is_followed && error.kind() == ErrorKind::Transient,
                    "{error}"
                );
                assert!(
                    error.to_string().contains("more than 10 redirects"),
                    "{error}"
                );
                assert_eq!(counter.outcomes(), "failed 1");
                assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            }
        }
    }
}

#[tokio::test]
async fn credentials_are_sent_and_never_shown() {
    let server = Server::start(|head| {
        // user:p@ss
        if head.contains("Basic dXNlcjpwQHNz") {
            reply(200, "", "ok")
        } else {
            reply(401, "", "")
        }
    })
    .await;
    let url = server.url().replace("http://", "http://user:p%40ss@");
    let (upstream, _) = upstream(&url);
    assert_eq!(fetch_all(&upstream, &request()).await.unwrap(), b"ok");
    let fetched = upstream.fetch(&request()).await.unwrap();
    for shown in [
        format!("{upstream:?}"),
        format!("{fetched:?}"),
        upstream.name().to_string(),
    ] {
        assert!(
            !shown.contains("ss@") && !shown.contains("p%40ss"),
            "{shown}"
        );
    }
    assert!(server.heads()[0].starts_with("GET /example.com/"));
}

// protocol: Z07
#[tokio::test]
async fn compression_is_undone_and_its_length_forgotten() {
    let server = Server::start(|_| reply(200, "Content-Encoding: gzip\r\n", GZIPPED)).await;
    let (upstream, counter) = upstream(&server.url());
    let fetched = upstream.fetch(&request()).await.unwrap();
    assert_eq!(fetched.len, None);
    let (bytes, end) = read(fetched).await;
    assert!(end.is_ok());
    assert_eq!(bytes, b"module contents\n");
    // The limit is on what comes out, not on what went in.
    let small = FetchRequest {
        bytes_max: 10,
        ..request()
    };
    let error = fetch_all(&upstream, &small).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(counter.outcomes(), "ok 1, too_large 1");
}

#[tokio::test]
async fn a_truncated_or_unknown_coding_is_an_error() {
    let server = Server::start(|head| {
        if head.starts_with("GET /br/") {
            reply(200, "Content-Encoding: br\r\n", "????")
        } else {
            reply(
                200,
                "Content-Encoding: gzip\r\n",
                &GZIPPED[..GZIPPED.len() - 9],
            )
        }
    })
    .await;
    for base in ["", "/br"] {
        let (upstream, _) = upstream(&format!("{}{base}", server.url()));
        let error = fetch_all(&upstream, &request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{base}: {error}");
    }
}

// protocol: Z06
#[tokio::test]
async fn a_chunked_body_has_no_length_and_a_real_end() {
    let whole = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let server = Server::start(move |_| raw(whole, Then::KeepOpen)).await;
    let (upstream, counter) = upstream(&server.url());
    let fetched = upstream.fetch(&request()).await.unwrap();
    assert_eq!(fetched.len, None);
    assert_eq!(read(fetched).await.0, b"hello");
    assert_eq!(counter.outcomes(), "ok 1");
}

#[tokio::test]
async fn a_body_goes_on_where_it_broke_off_only_if_it_is_the_same() {
    let server = Server::start(|head| {
        let head = head.to_ascii_lowercase();
        if !head.contains("range: bytes=5-") {
            reply(200, "ETag: \"a\"\r\n", "helloworld")
        } else if head.starts_with("get /part/") {
            assert!(head.contains("if-range: \"a\""), "{head}");
            reply(
                206,
                "ETag: \"a\"\r\nContent-Range: bytes 5-9/10\r\n",
                "world",
            )
        } else if head.starts_with("get /other/") {
            reply(
                206,
                "ETag: \"b\"\r\nContent-Range: bytes 5-9/10\r\n",
                "WORLD",
            )
        } else if head.starts_with("get /short/") {
            reply(206, "ETag: \"a\"\r\nContent-Range: bytes 5-7/10\r\n", "wor")
        } else {
            reply(416, "", "")
        }
    })
    .await;
    for (base, etag, is_resumed, requests) in [
        ("part", "\"a\"", true, 1),
        ("part", "W/\"a\"", false, 1),
        ("other", "\"a\"", false, 2),
        ("short", "\"a\"", false, 2),
        ("none", "\"a\"", false, 2),
    ] {
        let before = server.requests();
        let (upstream, counter) = upstream(&format!("{}/{base}", server.url()));
        let resume = ResumeFrom {
            upstream: Arc::clone(upstream.name()),
            offset: 5,
            etag: etag.to_owned(),
        };
        let request = FetchRequest {
            resume: Some(resume),
            ..request()
        };
        let fetched = upstream.fetch(&request).await.unwrap();
        assert_eq!(
            (fetched.resumed, fetched.len),
            (is_resumed, Some(10)),
            "{base} {etag}"
        );
        let (bytes, end) = read(fetched).await;
        assert!(end.is_ok());
        assert_eq!(
            bytes,
            if is_resumed {
                &b"world"[..]
            } else {
                b"helloworld"
            }
        );
        assert_eq!(server.requests() - before, requests, "{base} {etag}");
        assert_eq!(counter.outcomes(), "ok 1");
    }
}

// protocol: P08
#[tokio::test]
async fn a_path_that_climbs_is_not_sent() {
    let server = Server::start(|_| reply(200, "", "")).await;
    let (upstream, counter) = upstream(&server.url());
    let request = FetchRequest::new(UNIT, "a/../b", 10);
    let error = upstream.fetch(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidName);
    assert_eq!(
        (server.connections(), counter.outcomes().as_str()),
        (0, "refused 1")
    );
}
