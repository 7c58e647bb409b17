//! What is a URL, what it means, and what its mistakes say.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn url(text: &str) -> ValkeyUrl {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn mistake(text: &str) -> String {
    match text.parse::<ValkeyUrl>() {
        Ok(url) => panic!("{text} was taken as {url:?}"),
        Err(LeaseError::InvalidConfig { field, reason }) => {
            assert_eq!(field, "url");
            assert!(!reason.contains('\n'), "{reason:?}");
            reason
        }
        Err(other) => panic!("{text}: {other}"),
    }
}

fn tcp(host: &str, port: Option<u16>) -> UrlAddress {
    UrlAddress::Tcp {
        host: host.to_owned(),
        port,
    }
}

// acceptance: E5
#[test]
fn a_host_alone_is_enough() {
    for scheme in ["redis", "valkey", "REDIS"] {
        let url = url(&format!("{scheme}://cache"));
        assert_eq!(url.addresses(), [tcp("cache", None)]);
        assert_eq!((url.kind(), url.is_tls()), (UrlKind::Server, false));
        assert_eq!((url.username(), url.password()), (None, None));
        assert_eq!((url.database(), url.sentinel_master()), (None, None));
    }
    assert!(url("rediss://cache").is_tls() && url("valkeys://cache").is_tls());
}

#[test]
fn hosts_and_ports_are_taken_as_written() {
    for (text, expected) in [
        ("redis://Cache.Internal:1", tcp("cache.internal", Some(1))),
        ("redis://127.0.0.1:65535", tcp("127.0.0.1", Some(65_535))),
        ("redis://[::1]", tcp("::1", None)),
        (
            "redis://[2001:DB8::0:1]:6380",
            tcp("2001:db8::1", Some(6_380)),
        ),
        ("redis://redis_1:6379/", tcp("redis_1", Some(6_379))),
    ] {
        assert_eq!(url(text).addresses(), [expected], "{text}");
    }
}

// acceptance: E4
#[test]
fn a_port_is_between_1_and_65535() {
    for port in [
        "0",
        "65536",
        "-1",
        "x",
        "",
        "+1",
        "99999999999",
        "6379x",
        " 1",
    ] {
        let reason = mistake(&format!("redis://cache:{port}"));
        assert!(
            reason.contains("1 ..= 65535") || reason.contains("white space"),
            "{port}: {reason}"
        );
    }
}

// acceptance: E15
#[test]
fn user_and_password_are_percent_decoded() {
    for (text, user, password) in [
        ("redis://u:p@h", Some("u"), Some("p")),
        ("redis://:p@h", None, Some("p")),
        ("redis://u@h", Some("u"), None),
        ("redis://@h", None, None),
        ("redis://:@h", None, None),
        ("redis://u%40x:p%2F%3A%23%3F@h", Some("u@x"), Some("p/:#?")),
        ("redis://u:a:b@h", Some("u"), Some("a:b")),
        ("redis://u:a@b@h", Some("u"), Some("a@b")),
        ("redis://u:100%@h", Some("u"), Some("100%")),
        ("redis://u:a+b@h", Some("u"), Some("a+b")),
        ("unix:///s?user=u%26&pass=p%3D+", Some("u&"), Some("p=+")),
    ] {
        let url = url(text);
        assert_eq!(url.username(), user, "{text}");
        assert_eq!(url.password().map(Secret::expose), password, "{text}");
    }
}

// acceptance: E4
#[test]
fn a_database_is_a_number_from_zero_on() {
    for (text, database) in [
        ("redis://h", None),
        ("redis://h/", None),
        ("redis://h/0", Some(0)),
        ("redis://h/15/", Some(15)),
        ("redis://h?db=3", Some(3)),
        ("redis://h/3?db=3", Some(3)),
        ("redis://h/2147483647", Some(2_147_483_647)),
        ("unix:///s?db=7", Some(7)),
    ] {
        assert_eq!(url(text).database(), database, "{text}");
    }
    for text in [
        "redis://h/-1",
        "redis://h/x",
        "redis://h/+1",
        "redis://h?db=",
        "redis://h/2147483648",
    ] {
        assert!(mistake(text).contains("0 ..= 2147483647"), "{text}");
    }
    assert!(mistake("redis://h/1?db=2").contains("two databases"));
    assert!(mistake("redis://h/1/2").contains("more parts"));
}

#[test]
fn a_socket_has_a_path_and_no_host() {
    let url = url("unix:///run/my%20valkey/s.sock?db=1");
    let path = PathBuf::from("/run/my valkey/s.sock");
    assert_eq!(url.addresses(), [UrlAddress::Unix(path)]);
    assert_eq!(url.to_string(), "unix:///run/my valkey/s.sock?db=1");
    for text in ["unix://run/s", "unix://", "unix:///", "redis+unix://h/s"] {
        assert!(mistake(text).contains("absolute"), "{text}");
    }
    let long = format!("unix:///{}", "x".repeat(107));
    assert!(mistake(&long).contains("107 bytes"));
    assert!(mistake("unix:///s?timeout=1").contains("db, user, pass"));
}

#[test]
fn sentinels_and_cluster_nodes_come_in_lists() {
    let sentinels = url("rediss-sentinel://:p@a,b:26380,[::1]/main/2");
    let expected = [tcp("a", None), tcp("b", Some(26_380)), tcp("::1", None)];
    assert_eq!(sentinels.addresses(), expected);
    assert_eq!(
        (sentinels.kind(), sentinels.is_tls()),
        (UrlKind::Sentinel, true)
    );
    assert_eq!(
        (sentinels.sentinel_master(), sentinels.database()),
        (Some("main"), Some(2))
    );
    assert_eq!(
        sentinels.to_string(),
        "rediss-sentinel://a,b:26380,[::1]/main/2"
    );
    assert_eq!(url("valkey+sentinel://a").sentinel_master(), None);
    let nodes = url("redis+cluster://a:1,b:2");
    assert_eq!(
        (nodes.kind(), nodes.addresses().len()),
        (UrlKind::Cluster, 2)
    );
    assert!(mistake("redis://a,b").contains("URL of its own"));
    assert!(mistake("redis+cluster://a,,b").contains("host is missing"));
    let many = format!("redis+cluster://{}", vec!["h"; 65].join(","));
    assert!(mistake(&many).contains("more than 64"));
}

// acceptance: E15
#[test]
fn other_text_is_refused_in_one_line() {
    for (text, said) in [
        ("", "empty"),
        ("cache:6379", "scheme"),
        ("http://cache", "scheme"),
        ("redis:cache", "scheme"),
        ("redis://", "host is missing"),
        ("redis://:6379", "host is missing"),
        ("redis://u:p@", "host is missing"),
        ("redis://0.0.0.0", "no address to connect to"),
        ("redis://[::]", "no address to connect to"),
        ("redis://[::1", "closing bracket"),
        ("redis://[h]", "no IPv6"),
        ("redis://[::1]6379", "colon"),
        ("redis://::1", "brackets"),
        ("redis://h\u{e9}", "DNS name"),
        ("redis://h ost", "white space"),
        ("redis://h\n", "white space"),
        ("redis://h?timeout=1", "allowed: db"),
        ("redis://h#insecure", "unverified TLS"),
        ("redis://%00:x@h", "zero byte"),
        ("redis://:%ff@h", "UTF-8"),
    ] {
        let reason = mistake(text);
        assert!(reason.contains(said), "{text:?}: {reason}");
    }
    assert!(mistake(&format!("redis://{}", "h".repeat(8_192))).contains("8192"));
}

// acceptance: E15
#[test]
fn a_password_that_was_not_encoded_is_explained_and_not_shown() {
    for text in [
        "redis://u:HUSH/x@h",
        "redis://u:x/HUSH@h/1",
        "redis://:HUSH?@h",
        "redis://:x#HUSH@h",
    ] {
        let reason = mistake(text);
        assert!(reason.contains("percent-encoded"), "{text}: {reason}");
        assert!(!reason.contains("HUSH"), "{reason}");
    }
    for text in [
        "redis://u:HUSH@h",
        "unix:///s?user=u&pass=HUSH",
        "redis+cluster://:HUSH@a,b",
    ] {
        let url = url(text);
        assert!(!format!("{url} {url:?}").contains("HUSH"));
    }
}

proptest! {
    #[test]
    fn any_text_is_answered_and_none_is_quoted(text in ".*", secret in "SECRET[a-z]{4}") {
        for text in [text.clone(), format!("redis://u:{secret}{text}@h"), format!("redis://{secret}:{text}")] {
            if let Err(error) = text.parse::<ValkeyUrl>() {
                let said = error.to_string();
                prop_assert!(!said.contains(&secret) && !said.contains('\n'), "{}", said);
            }
        }
    }

    #[test]
    fn what_is_shown_is_the_same_place_again(
        host in "[a-z][a-z0-9.-]{0,20}",
        port in proptest::option::of(1_u16..),
        database in proptest::option::of(0_u32..=ValkeyUrl::DATABASE_MAX),
        password in "[a-zA-Z0-9]{1,8}",
    ) {
        let port_text = port.map(|port| format!(":{port}")).unwrap_or_default();
        let db_text = database.map(|db| format!("/{db}")).unwrap_or_default();
        let first = url(&format!("redis://u:{password}@{host}{port_text}{db_text}"));
        prop_assert_eq!(first.password().map(Secret::expose), Some(password.as_str()));
        let again = url(&first.to_string());
        prop_assert_eq!(again.addresses(), first.addresses());
        prop_assert_eq!(again.database(), first.database());
        prop_assert_eq!(again.password(), None);
    }
}
