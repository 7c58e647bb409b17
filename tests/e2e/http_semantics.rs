//! HTTP as CDNs, old clients and careless ones expect it: protocol rows H01 to H16.

use std::time::Duration;

use e2e::client::{Connection, Request, exchange};
use e2e::upstream::{Answer, latest_path, list_path};

use crate::fixtures::{M, fetched, file, is_one_line, pair};

// protocol: H01, H02, H03; acceptance: F18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_says_what_get_says() {
    let (upstream, corral) = pair(100_000).await;
    let json = "application/json";
    let text = "text/plain";
    let kinds = [
        (file("info"), json),
        (file("mod"), text),
        (file("zip"), "application/zip"),
        (list_path(M), text),
        (latest_path(M), json),
    ];
    for (path, content_type) in kinds {
        let cold_head = corral
            .send(&Request::new("HEAD", &path))
            .await
            .expect_status(200);
        assert!(cold_head.body.is_empty());
        let get = corral.get(&path).await.expect_body(&upstream.body(&path));
        let head = corral
            .send(&Request::new("HEAD", &path))
            .await
            .expect_status(200);
        let length = upstream.body(&path).len().to_string();
        for reply in [&get, &head] {
            assert!(
                reply
                    .header("content-type")
                    .unwrap_or_default()
                    .starts_with(content_type)
            );
            assert_eq!(
                reply.header("content-length"),
                Some(length.as_str()),
                "{path}"
            );
            assert!(reply.header("cache-status").is_some(), "{path}");
        }
        for name in ["etag", "last-modified", "cache-control"] {
            assert_eq!(get.header(name), head.header(name), "{path} {name}");
        }
        fetched(&upstream.path(&path), 1);
    }
}

// protocol: H04, H05, H06; acceptance: F18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_right_or_ignored() {
    let (upstream, corral) = pair(300_000).await;
    let zip = file("zip");
    let whole = upstream.body(&zip);
    let len = whole.len();
    // Cold: the range is answered and the whole is stored all the same.
    let request = |range: &str| Request::get(&zip).header("Range", range);
    let cold = corral.send(&request("bytes=100-199")).await;
    match cold.status {
        206 => assert_eq!(cold.body, whole[100..200]),
        _ => drop(cold.expect_body(&whole)),
    }
    corral.stored(&zip, &whole).await;
    let cases = [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=100000-199999".to_owned(), 100_000..200_000),
        (format!("bytes={}-", len - 5), len - 5..len),
        ("bytes=-7".to_owned(), len - 7..len),
        (format!("bytes=10-{}", len * 2), 10..len),
    ];
    for (range, expected) in cases {
        let reply = corral.send(&request(&range)).await.expect_status(206);
        assert_eq!(reply.body, whole[expected.clone()], "{range}");
        let content_range = format!("bytes {}-{}/{len}", expected.start, expected.end - 1);
        assert_eq!(reply.header("content-range"), Some(content_range.as_str()));
    }
    let past = corral
        .send(&request(&format!("bytes={len}-")))
        .await
        .expect_status(416);
    assert_eq!(
        past.header("content-range"),
        Some(format!("bytes */{len}").as_str())
    );
    for nonsense in [
        "bytes=9-1",
        "bytes=",
        "bytes=x-y",
        "lines=1-2",
        "bytes=18446744073709551616-",
    ] {
        let reply = corral.send(&request(nonsense)).await;
        assert!(
            [200, 416].contains(&reply.status),
            "{nonsense}: {}",
            reply.status
        );
        if reply.status == 200 {
            reply.expect_body(&whole);
        }
    }
    // Several ranges may be ignored, or sent as multipart; never one of them as if it were all.
    let several = corral.send(&request("bytes=0-1,5-6")).await;
    let multipart = several
        .header("content-type")
        .is_some_and(|v| v.starts_with("multipart/"));
    assert!(
        several.body == whole || (several.status == 206 && multipart),
        "{}",
        several.status
    );
    // An If-Range that does not match asks for the whole.
    let stale = request("bytes=0-9").header("If-Range", "\"another\"");
    corral.send(&stale).await.expect_body(&whole);
    fetched(&upstream.path(&zip), 1);
}

// protocol: H07, H08
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validators_give_304_only_when_they_match() {
    let (upstream, corral) = pair(5000).await;
    for path in [file("info"), file("mod"), file("zip"), list_path(M)] {
        let first = corral.get(&path).await.expect_status(200);
        let second = corral.get(&path).await.expect_status(200);
        assert_eq!(
            first.header("etag"),
            second.header("etag"),
            "{path}: cold and warm differ"
        );
        let etag = second
            .header("etag")
            .unwrap_or_else(|| panic!("{path} has no ETag"))
            .to_owned();
        let matching = [
            etag.clone(),
            "*".to_owned(),
            format!("\"x\", {etag}"),
            format!("W/{etag}"),
        ];
        for value in matching {
            let reply = corral
                .send(&Request::get(&path).header("If-None-Match", &value))
                .await;
            let reply = reply.expect_status(304);
            assert!(reply.body.is_empty(), "{path} {value}");
            assert_eq!(reply.header("etag"), Some(etag.as_str()));
        }
        let other = Request::get(&path).header("If-None-Match", "\"another\"");
        corral.send(&other).await.expect_body(&upstream.body(&path));
    }
}

// protocol: H09, H10, H11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cache_control_fits_the_kind() {
    let (_upstream, corral) = pair(5000).await;
    let max_age = |reply: &e2e::client::Reply| -> Option<u64> {
        let control = reply.header("cache-control")?;
        let directives = control.split(',').map(str::trim);
        directives
            .filter_map(|d| d.strip_prefix("max-age="))
            .find_map(|age| age.parse().ok())
    };
    for path in [file("info"), file("mod"), file("zip")] {
        let reply = corral.get(&path).await.expect_status(200);
        assert!(
            max_age(&reply).unwrap_or(0) >= 86_400,
            "{path}: {:?}",
            reply.headers
        );
    }
    for path in [list_path(M), latest_path(M)] {
        let reply = corral.get(&path).await.expect_status(200);
        let control = reply.header("cache-control").unwrap_or_default().to_owned();
        assert!(
            max_age(&reply).unwrap_or(0) <= 3600 && !control.contains("immutable"),
            "{control}"
        );
    }
    let missing = corral
        .get("/example.com/none/@v/v1.0.0.mod")
        .await
        .expect_status(404);
    assert!(max_age(&missing).unwrap_or(0) <= 600);
}

// protocol: H12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_are_refused_and_not_forwarded() {
    let (upstream, corral) = pair(2000).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let reply = corral
            .send(&Request::new(method, file("mod")).body("x"))
            .await;
        assert_eq!(reply.status, 405, "{method}: {}", reply.text());
        let allow = reply.header("allow").unwrap_or_default();
        assert!(
            allow.contains("GET") && allow.contains("HEAD"),
            "{method}: Allow {allow:?}"
        );
    }
    assert_eq!(upstream.requests(), 0);
    corral.get(&file("mod")).await.expect_status(200);
}

// protocol: H13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_survive_errors_and_pipelining() {
    let (upstream, corral) = pair(50_000).await;
    upstream
        .path("/example.com/broken/@v/v1.0.0.mod")
        .always(Answer::status(500, "broken"));
    let mut connection = Connection::open(corral.addr()).await.unwrap();
    for (target, status) in [
        (file("mod"), 200),
        ("/example.com/none/@v/v1.0.0.mod".to_owned(), 404),
        ("/no-dot/@v/list".to_owned(), 404),
        ("/example.com/broken/@v/v1.0.0.mod".to_owned(), 502),
        (file("zip"), 200),
        (file("zip"), 200),
    ] {
        connection
            .send(&Request::get(&target))
            .await
            .expect_status(status);
    }
    // Three requests in one write are answered in order.
    let targets = [file("info"), file("zip"), file("mod")];
    let wire: String = targets
        .iter()
        .map(|target| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
        .collect();
    connection.write(wire.as_bytes()).await.unwrap();
    for target in &targets {
        let reply = connection.read_reply(&Request::get(target)).await;
        reply.expect_body(&upstream.body(target));
    }
}

// protocol: H14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_clients_get_plain_bodies() {
    let (upstream, corral) = pair(200_000).await;
    for _ in 0..2 {
        let reply = corral.send(&Request::get(file("zip")).http10()).await;
        assert_ne!(reply.header("transfer-encoding"), Some("chunked"));
        reply.expect_body(&upstream.body(&file("zip")));
    }
    // A chunked upstream has no length to tell, and HTTP/1.0 no chunks.
    upstream.path(&file("mod")).always(Answer::Chunked);
    let reply = corral.send(&Request::get(file("mod")).http10()).await;
    assert_ne!(reply.header("transfer-encoding"), Some("chunked"));
    reply.expect_body(&upstream.body(&file("mod")));
}

// protocol: H15, Z07
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_changes_no_byte() {
    let (upstream, corral) = pair(50_000).await;
    upstream.path(&file("mod")).always(Answer::Gzip);
    upstream.path(&list_path(M)).always(Answer::Gzip);
    for path in [file("mod"), list_path(M), file("zip")] {
        for _ in 0..2 {
            let plain = corral.get(&path).await.expect_body(&upstream.body(&path));
            assert_eq!(plain.header("content-encoding"), None, "{path}");
            let asked = Request::get(&path).header("Accept-Encoding", "gzip");
            let reply = corral.send(&asked).await.expect_status(200);
            match reply.header("content-encoding") {
                None | Some("identity") => drop(reply.expect_body(&upstream.body(&path))),
                Some("gzip") => {
                    use std::io::Read as _;
                    let mut decoded = Vec::new();
                    flate2::read::GzDecoder::new(&reply.body[..])
                        .read_to_end(&mut decoded)
                        .unwrap();
                    assert_eq!(decoded, upstream.body(&path));
                }
                other => panic!("{path}: Content-Encoding {other:?}"),
            }
        }
    }
}

// Bytes that are no HTTP, or too much of it, cost their own connection and nothing else.
// acceptance: A18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_the_server_stays() {
    let (_upstream, corral) = pair(2000).await;
    let long_header = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "a".repeat(300_000)
    );
    let cases: [&[u8]; 7] = [
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        long_header.as_bytes(),
    ];
    for case in cases {
        let answer = exchange(corral.addr(), case, Duration::from_millis(500)).await;
        let head = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        assert!(
            !head.contains(" 5"),
            "{:?}: {head}",
            &case[..case.len().min(40)]
        );
    }
    corral.get(&file("mod")).await.expect_status(200);
    assert!(!corral.log().contains("panicked"), "{}", corral.log());
}

// The entrance says how to use it; unknown query parameters do no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_page_says_how_to_use_it() {
    let (upstream, corral) = pair(2000).await;
    let page = corral.get("/").await.expect_status(200);
    assert!(page.text().contains("GOPROXY"), "{}", page.text());
    assert_eq!(upstream.requests(), 0);
    // The path decides; a fragment or query is not part of the protocol and must not split it.
    let reply = corral.get(&format!("{}?x=1", file("mod"))).await;
    assert!([200, 404].contains(&reply.status), "{}", reply.status);
    let favicon = corral.get("/favicon.ico").await.expect_status(404);
    is_one_line(&favicon);
}
