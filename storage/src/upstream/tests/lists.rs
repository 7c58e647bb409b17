//! `GOPROXY` lists, and directories as upstreams.

use super::server::{Reply, Server, Then, raw, reply};
use super::*;

fn parse(text: &str) -> Result<Vec<String>, Error> {
    let list = GoProxyList::parse(text, &["127.0.0.1:8070".parse().unwrap()])?;
    Ok(list.upstreams().map(|url| url.name().to_string()).collect())
}

fn connect(text: &str) -> (UpstreamList, Arc<Counter>) {
    let counter = Arc::new(Counter::default());
    let observer: Arc<dyn FetchObserver> = Arc::clone(&counter) as _;
    let list = GoProxyList::parse(text, &[]).unwrap();
    let config = UpstreamConfig::default();
    (
        UpstreamList::new(&list, &config, &identity(), &observer).unwrap(),
        counter,
    )
}

#[test]
fn lists_are_read_like_the_go_commands() {
    for (text, names) in [
        ("https://a.test", &["https://a.test"][..]),
        (
            "a.test|https://b.test/x/,direct",
            &["https://a.test", "https://b.test/x"],
        ),
        (
            " a.test , ,| b.test ",
            &["https://a.test", "https://b.test"],
        ),
        ("a.test,off,b.test", &["https://a.test"]),
        ("a.test,direct,b.test", &["https://a.test"]),
        ("http://127.0.0.1:8070,a.test", &["https://a.test"]),
        ("http://localhost:8070|a.test", &["https://a.test"]),
        (
            "file:///srv/modules,a.test",
            &["file:///srv/modules", "https://a.test"],
        ),
    ] {
        assert_eq!(parse(text).unwrap(), names, "{text}");
    }
    assert!(
        GoProxyList::parse("a.test,direct", &[])
            .unwrap()
            .has_direct()
    );
    assert!(
        !GoProxyList::parse("a.test,off,direct", &[])
            .unwrap()
            .has_direct()
    );
}

#[test]
fn a_list_without_a_usable_upstream_says_what_to_set() {
    for text in [
        "",
        " ",
        ",",
        "direct",
        "off",
        "direct,a.test",
        "http://127.0.0.1:8070,off",
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        for name in ["--upstream", "CORRAL_UPSTREAM", "GOPROXY"] {
            assert!(error.to_string().contains(name), "{error}");
        }
    }
    assert!(
        parse("a.test,noproxy")
            .unwrap_err()
            .to_string()
            .contains("noproxy")
    );
}

fn answer(code: char) -> Reply {
    match code {
        'y' => reply(200, "", "yes"),
        'n' => reply(404, "", "absent"),
        'g' => reply(410, "", "gone"),
        'f' => reply(403, "", "forbidden"),
        'e' => reply(500, "", "broken"),
        't' => reply(429, "", "busy"),
        'T' => reply(429, "Retry-After: 600\r\n", "busy"),
        _ => raw("", Then::Close),
    }
}

// protocol: G05
#[tokio::test]
async fn separators_and_precedence_are_the_go_commands() {
    // Answers of the members with the separators between them, what comes out, and how many
    // members were asked.
    for (list, expected, asked) in [
        ("y,e", Ok("yes"), 1),
        ("n,y", Ok("yes"), 2),
        ("g,y", Ok("yes"), 2),
        ("e,y", Err(ErrorKind::Transient), 1),
        ("f,y", Err(ErrorKind::Forbidden), 1),
        ("t,y", Err(ErrorKind::Throttled), 1),
        ("x,y", Err(ErrorKind::Transient), 1),
        ("e|y", Ok("yes"), 2),
        ("f|y", Ok("yes"), 2),
        ("x|y", Ok("yes"), 2),
        ("n|y", Ok("yes"), 2),
        ("n,g", Err(ErrorKind::Gone), 2),
        ("g,n", Err(ErrorKind::NotFound), 2),
        ("n,e", Err(ErrorKind::Transient), 2),
        // A failure is not hidden by a later "does not exist", which may not be the truth.
        ("e|n", Err(ErrorKind::Transient), 2),
        ("f|n,g", Err(ErrorKind::Forbidden), 3),
        ("e|f", Err(ErrorKind::Forbidden), 2),
        ("e|n,t|g", Err(ErrorKind::Throttled), 4),
        ("n,e,y", Err(ErrorKind::Transient), 2),
        ("e|n,y", Ok("yes"), 3),
    ] {
        let mut servers = Vec::new();
        let mut text = String::new();
        for code in list.chars() {
            if matches!(code, ',' | '|') {
                text.push(code);
                continue;
            }
            let server = Server::start(move |_| answer(code)).await;
            text.push_str(&server.url());
            servers.push(server);
        }
        let (upstream, counter) = connect(&text);
        let found = fetch_all(&upstream, &request()).await;
        let found = found.map_err(|error| error.kind());
        assert_eq!(
            found,
            expected.map(|text| text.as_bytes().to_vec()),
            "{list}"
        );
        let requests: Vec<usize> = servers.iter().map(Server::requests).collect();
        let wanted: Vec<usize> = (0..servers.len()).map(|i| usize::from(i < asked)).collect();
        assert_eq!(requests, wanted, "{list}");
        let ended: usize = counter.ended.lock().unwrap().values().sum();
        assert_eq!(ended, asked, "{list}");
    }
}

#[tokio::test]
async fn an_upstream_that_broke_off_is_passed_over_where_any_error_is() {
    let cut = "HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello";
    let broken = Server::start(move |_| raw(cut, Then::Close)).await;
    let sound = Server::start(|_| answer('y')).await;
    let absent = Server::start(|_| answer('n')).await;
    let again = |list: &UpstreamList| FetchRequest {
        broken_at: vec![Arc::clone(list.names().next().unwrap())],
        ..request()
    };

    let (list, _) = connect(&format!("{}|{}", broken.url(), sound.url()));
    assert!(fetch_all(&list, &request()).await.is_err());
    assert_eq!(fetch_all(&list, &again(&list)).await.unwrap(), b"yes");
    assert_eq!((broken.requests(), sound.requests()), (1, 1));

    // With a comma nothing but absence leads on.
    let (list, _) = connect(&format!("{},{}", broken.url(), sound.url()));
    assert!(fetch_all(&list, &again(&list)).await.is_err());
    assert_eq!((broken.requests(), sound.requests()), (2, 1));

    // "Does not exist" elsewhere does not settle it.
    let (list, _) = connect(&format!("{}|{}", broken.url(), absent.url()));
    let error = fetch_all(&list, &again(&list)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!((broken.requests(), absent.requests()), (3, 1));
}

// acceptance: B16
#[tokio::test]
async fn who_goes_on_after_any_error_learns_what_may_succeed_later() {
    let asked = Some(Duration::from_secs(600));
    for (codes, kind, retry_after) in [
        // Without the module, the second one says no to everybody: no verdict on the first.
        (['e', 'f'], ErrorKind::Transient, None),
        (['f', 'e'], ErrorKind::Transient, None),
        (['e', 'n'], ErrorKind::Transient, None),
        (['e', 't'], ErrorKind::Throttled, None),
        (['T', 'e'], ErrorKind::Throttled, asked),
        (['e', 'T'], ErrorKind::Throttled, asked),
        (['T', 't'], ErrorKind::Throttled, asked),
        (['T', 'f'], ErrorKind::Throttled, asked),
        (['n', 'f'], ErrorKind::Forbidden, None),
    ] {
        let servers = [
            Server::start(move |_| answer(codes[0])).await,
            Server::start(move |_| answer(codes[1])).await,
        ];
        let (list, _) = connect(&format!("{},{}", servers[0].url(), servers[1].url()));
        let persistent = FetchRequest {
            after_any_error: true,
            ..request()
        };
        let error = fetch_all(&list, &persistent).await.unwrap_err();
        let found = (error.kind(), error.retry_after());
        assert_eq!(found, (kind, retry_after), "{codes:?}");
        assert_eq!(servers[1].requests(), 1, "{codes:?}");
    }
}

// acceptance: B16
#[tokio::test]
async fn a_request_may_go_on_after_any_error_whatever_stands_in_the_list() {
    let failing = Server::start(|_| raw("HTTP/1.1 500 X\r\n\r\n", Then::Close)).await;
    let sound = Server::start(|_| answer('y')).await;
    let (list, _) = connect(&format!("{},{}", failing.url(), sound.url()));
    assert_eq!(list.members(), 2);
    let error = fetch_all(&list, &request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    let after_any_error = FetchRequest {
        after_any_error: true,
        ..request()
    };
    assert_eq!(fetch_all(&list, &after_any_error).await.unwrap(), b"yes");
    assert_eq!((failing.requests(), sound.requests()), (2, 1));
    // And past one whose body was no good before it asks that one again.
    let elsewhere = FetchRequest {
        broken_at: vec![Arc::clone(list.names().next().unwrap())],
        ..after_any_error
    };
    assert_eq!(fetch_all(&list, &elsewhere).await.unwrap(), b"yes");
    assert_eq!((failing.requests(), sound.requests()), (2, 2));
}

#[tokio::test]
async fn a_lists_own_server_is_left_out() {
    let own = Server::start(|_| answer('e')).await;
    let other = Server::start(|_| answer('y')).await;
    let text = format!("{},{}", own.url(), other.url());
    let list = GoProxyList::parse(&text, &[own.addr()]).unwrap();
    let observer: Arc<dyn FetchObserver> = Arc::new(NoFetchObserver);
    let upstream =
        UpstreamList::new(&list, &UpstreamConfig::default(), &identity(), &observer).unwrap();
    assert_eq!(fetch_all(&upstream, &request()).await.unwrap(), b"yes");
    assert_eq!(own.connections(), 0);
}

#[tokio::test]
async fn a_directory_is_an_upstream() {
    let root = tempfile::tempdir().unwrap();
    let versions = root.path().join("example.com/!upper case/@v");
    std::fs::create_dir_all(&versions).unwrap();
    let content = vec![7_u8; 600_000];
    std::fs::write(versions.join("v1.0.0.zip"), &content).unwrap();
    std::fs::write(versions.join("list"), "").unwrap();

    let other = Server::start(|_| answer('y')).await;
    let (list, counter) = connect(&format!("file://{},{}", root.path().display(), other.url()));
    let get = |path: &str, bytes_max| {
        let request = FetchRequest::new(UNIT, path, bytes_max);
        let list = &list;
        async move { fetch_all(list, &request).await }
    };
    let zip = "example.com/%21upper%20case/@v/v1.0.0.zip";
    assert!(get(zip, 1 << 20).await.unwrap() == content);
    assert_eq!(
        get("example.com/%21upper%20case/@v/list", 10)
            .await
            .unwrap(),
        b""
    );
    assert_eq!(get(zip, 10).await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(
        get("example.com/../x", 10).await.unwrap_err().kind(),
        ErrorKind::InvalidName
    );
    assert_eq!(other.requests(), 0);
    // What is absent, or a directory, is asked of the next one.
    assert_eq!(get("example.com/m/@latest", 10).await.unwrap(), b"yes");
    assert_eq!(
        get("example.com/%21upper%20case/@v", 10).await.unwrap(),
        b"yes"
    );
    assert_eq!(
        get("example.com/%21upper%20case/@v/list/x", 10)
            .await
            .unwrap(),
        b"yes"
    );
    assert_eq!(
        counter.outcomes(),
        "not_found 3, ok 5, refused 1, too_large 1"
    );
}
