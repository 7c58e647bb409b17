//! What a connection is told, for every topology.
#![allow(clippy::unwrap_used)]

use super::*;

fn layout(config: &ValkeyConfig) -> Layout {
    config.layout().unwrap()
}

fn config(urls: &[&str]) -> ValkeyConfig {
    ValkeyConfig::from_urls(urls).unwrap()
}

fn servers(config: &ValkeyConfig) -> Vec<Server> {
    match layout(config) {
        Layout::Servers(servers) => servers,
        other => panic!("{other:?}"),
    }
}

fn login(server: &Server) -> (Option<&str>, Option<&str>, i64) {
    let login = server.info.redis_settings();
    assert_eq!(login.protocol(), ProtocolVersion::RESP3);
    (login.username(), login.password(), login.db())
}

#[test]
fn one_url_is_one_server_with_defaults() {
    let found = servers(&config(&["redis://h"]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "h:6379");
    assert_eq!(
        *found[0].info.addr(),
        ConnectionAddr::Tcp("h".to_owned(), 6_379)
    );
    assert_eq!(login(&found[0]), (None, None, 0));
    assert!(found[0].info.tcp_settings().nodelay());
}

// acceptance: E4
#[test]
fn a_database_is_honoured_without_a_password() {
    assert_eq!(
        login(&servers(&config(&["redis://h/7"]))[0]),
        (None, None, 7)
    );
    let elsewhere = ValkeyConfig {
        database: Some(7),
        ..config(&["redis://h"])
    };
    assert_eq!(login(&servers(&elsewhere)[0]), (None, None, 7));
    assert_eq!(
        login(&servers(&config(&["unix:///s?db=7"]))[0]),
        (None, None, 7)
    );
}

#[test]
fn a_ring_has_a_log_in_per_server() {
    let ring = ValkeyConfig {
        username: Some("all".to_owned()),
        password: Some(Secret::new("secret")),
        database: Some(0),
        ..config(&["redis://b:1", "unix:///s", "redis://[::1]:2"])
    };
    let found = servers(&ring);
    let names: Vec<_> = found.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["b:1", "/s", "[::1]:2"]);
    for server in &found {
        assert_eq!(login(server), (Some("all"), Some("secret"), 0));
    }
    assert_eq!(*found[1].info.addr(), ConnectionAddr::Unix("/s".into()));
    assert_eq!(
        *found[2].info.addr(),
        ConnectionAddr::Tcp("::1".to_owned(), 2)
    );
    let own = servers(&config(&["redis://u:p@a/1", "redis://:q@b/2"]));
    assert_eq!(login(&own[0]), (Some("u"), Some("p"), 1));
    assert_eq!(login(&own[1]), (None, Some("q"), 2));
}

#[test]
fn sentinels_do_not_get_the_servers_password() {
    let config = ValkeyConfig {
        sentinel_password: Some(Secret::new("watch")),
        ..config(&["redis-sentinel://u:p@a,b:1/main/3"])
    };
    let Layout::Sentinel(found) = layout(&config) else {
        panic!("no Sentinel");
    };
    assert_eq!(found.master, "main");
    let names: Vec<_> = found
        .sentinels
        .iter()
        .map(|server| server.name.as_str())
        .collect();
    assert_eq!(names, ["a:26379", "b:1"]);
    assert_eq!(login(&found.sentinels[0]), (None, Some("watch"), 0));
    let address = UrlAddress::Tcp {
        host: "primary".to_owned(),
        port: Some(7),
    };
    let primary = found.access.server(&address).unwrap();
    assert_eq!(login(&primary), (Some("u"), Some("p"), 3));
}

#[test]
fn what_one_cluster_url_says_goes_for_all() {
    let urls = ["redis+cluster://a", "redis+cluster://u:p@b:1"];
    let Layout::Cluster(found) = layout(&config(&urls)) else {
        panic!("no Cluster");
    };
    let names: Vec<_> = found
        .seeds
        .iter()
        .map(|server| server.name.as_str())
        .collect();
    assert_eq!(names, ["a:6379", "b:1"]);
    for seed in &found.seeds {
        assert_eq!(login(seed), (Some("u"), Some("p"), 0));
    }
}

// acceptance: E20
#[test]
fn tls_is_asked_for_by_the_url_and_never_unverified() {
    let found = servers(&config(&["rediss://h", "redis://plain"]));
    assert!(matches!(
        found[0].info.addr(),
        ConnectionAddr::TcpTls {
            insecure: false,
            port: 6_379,
            ..
        }
    ));
    assert!(matches!(found[1].info.addr(), ConnectionAddr::Tcp(..)));
}

// acceptance: E15
#[test]
fn passwords_do_not_show_in_what_is_connected_to() {
    for url in [
        "redis://u:HUSH@a",
        "redis-sentinel://u:HUSH@a/m",
        "redis+cluster://u:HUSH@a",
    ] {
        assert!(
            !format!("{:?}", layout(&config(&[url]))).contains("HUSH"),
            "{url}"
        );
    }
    assert!(config(&[]).layout().is_err());
}
