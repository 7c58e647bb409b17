//! Defaults, ranges, and what goes with what.
#![allow(clippy::unwrap_used)]

use super::*;

fn config(urls: &[&str]) -> ValkeyConfig {
    ValkeyConfig::from_urls(urls).unwrap()
}

/// A valid configuration with one change.
fn with(change: impl FnOnce(&mut ValkeyConfig)) -> ValkeyConfig {
    let mut config = config(&["redis://h"]);
    change(&mut config);
    config
}

/// The fields that are wrong, each once, in the order they are told.
fn wrong(config: &ValkeyConfig) -> Vec<&'static str> {
    let mut fields = Vec::new();
    for mistake in config.mistakes() {
        let line = mistake.to_string();
        assert!(!line.contains('\n') && line.len() < 250, "{line:?}");
        match mistake {
            LeaseError::InvalidConfig { field, .. } if !fields.contains(&field) => {
                fields.push(field);
            }
            LeaseError::InvalidConfig { .. } => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(config.validate().is_err(), !fields.is_empty());
    fields
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text))
}

// acceptance: E3
#[test]
fn the_defaults_are_as_documented() {
    let defaults = ValkeyConfig::default();
    assert_eq!(defaults.urls, []);
    assert_eq!(defaults.topology, Topology::Auto);
    assert_eq!((&defaults.username, &defaults.password), (&None, &None));
    assert_eq!(defaults.database, None);
    assert_eq!(defaults.key_prefix, "corral");
    let pool = (
        defaults.pool_max,
        defaults.pool_idle_max,
        defaults.pool_idle_min,
    );
    assert_eq!(pool, (20, 10, 5));
    assert_eq!(defaults.connect_timeout, Duration::from_secs(2));
    assert_eq!(defaults.command_timeout, Duration::from_millis(250));
    assert_eq!(defaults.health_check_interval, Duration::from_secs(1));
}

// acceptance: E5
#[test]
fn a_url_is_all_it_takes() {
    for url in [
        "redis://h",
        "valkeys://u:p@h:1/3",
        "unix:///s",
        "redis+cluster://a,b,c",
    ] {
        assert_eq!(wrong(&config(&[url])), [""; 0], "{url}");
    }
    assert_eq!(wrong(&config(&["redis-sentinel://a,b,c/main"])), [""; 0]);
    assert_eq!(wrong(&config(&["redis://a", "redis://b"])), [""; 0]);
}

// acceptance: E15
#[test]
fn no_url_is_a_mistake() {
    assert_eq!(wrong(&ValkeyConfig::default()), ["url"]);
    assert_eq!(wrong(&config(&[])), ["url"]);
    assert!(matches!(
        ValkeyConfig::from_urls([""]),
        Err(LeaseError::InvalidConfig { field: "url", .. })
    ));
}

#[test]
fn there_are_at_most_64_addresses() {
    let urls = |count: usize| (0..count).map(|i| format!("redis://h{i}"));
    assert_eq!(wrong(&ValkeyConfig::from_urls(urls(64)).unwrap()), [""; 0]);
    assert_eq!(wrong(&ValkeyConfig::from_urls(urls(65)).unwrap()), ["url"]);
}

// acceptance: A2
#[test]
fn a_ring_names_each_server_once() {
    for (first, second) in [
        ("redis://h", "redis://h:6379"),
        ("redis://H:1", "rediss://h:1"),
        ("redis://[::1]", "redis://[0:0::1]"),
        ("redis://h/1", "redis://u:p@h/2"),
        ("unix:///s", "unix:///s?db=1"),
    ] {
        assert_eq!(
            wrong(&config(&[first, second])),
            ["url"],
            "{first} {second}"
        );
    }
    assert_eq!(wrong(&config(&["redis+cluster://a:1,a:1"])), ["url"]);
    assert_eq!(wrong(&config(&["redis://h:1", "redis://h:2"])), [""; 0]);
}

#[test]
fn the_topology_follows_from_the_urls() {
    for (urls, expected) in [
        (vec!["redis://a"], Topology::Single),
        (vec!["redis://a", "unix:///b"], Topology::Ring),
        (vec!["redis-sentinel://a,b/m"], Topology::Sentinel),
        (
            vec!["redis-sentinel://a/m", "redis-sentinel://b"],
            Topology::Sentinel,
        ),
        (vec!["rediss+cluster://a"], Topology::Cluster),
    ] {
        let config = config(&urls);
        assert_eq!(
            (config.topology(), wrong(&config)),
            (expected, vec![]),
            "{urls:?}"
        );
    }
}

#[test]
fn an_explicit_topology_must_suit_the_urls() {
    let explicit = |topology, urls: &[&str]| {
        let master = (topology == Topology::Sentinel).then(|| "main".to_owned());
        wrong(&ValkeyConfig {
            topology,
            sentinel_master: master,
            ..config(urls)
        })
    };
    assert_eq!(explicit(Topology::Single, &["redis://a"]), [""; 0]);
    assert_eq!(
        explicit(Topology::Single, &["redis://a", "redis://b"]),
        ["topology"]
    );
    assert_eq!(explicit(Topology::Ring, &["redis://a"]), [""; 0]);
    assert_eq!(
        explicit(Topology::Ring, &["redis+cluster://a"]),
        ["topology"]
    );
    assert_eq!(
        explicit(Topology::Sentinel, &["redis://a", "redis://b"]),
        [""; 0]
    );
    assert_eq!(
        explicit(Topology::Sentinel, &["redis+cluster://a"]),
        ["topology"]
    );
    assert_eq!(
        explicit(Topology::Cluster, &["redis://a", "redis://b"]),
        [""; 0]
    );
    assert_eq!(explicit(Topology::Cluster, &["redis+cluster://a"]), [""; 0]);
    assert_eq!(
        explicit(Topology::Auto, &["redis://a", "redis+cluster://b"]),
        ["url"]
    );
}

#[test]
fn sentinel_and_cluster_urls_agree() {
    for urls in [
        ["redis+cluster://a", "rediss+cluster://b"],
        ["redis+cluster://u:p@a", "redis+cluster://v:p@b"],
        ["redis+cluster://:p@a", "redis+cluster://:q@b"],
        ["redis-sentinel://a/m/1", "redis-sentinel://b/m/2"],
    ] {
        assert_eq!(wrong(&config(&urls)), ["url"], "{urls:?}");
    }
    let sockets = ValkeyConfig {
        topology: Topology::Cluster,
        ..config(&["unix:///s"])
    };
    assert_eq!(wrong(&sockets), ["url"]);
    assert_eq!(
        wrong(&config(&["redis+cluster://u:p@a", "redis+cluster://b"])),
        [""; 0]
    );
    assert_eq!(
        wrong(&config(&["redis+cluster://u@a", "redis+cluster://:p@b"])),
        [""; 0]
    );
}

#[test]
fn sentinels_need_to_know_whom_they_are_asked_about() {
    let sentinels = config(&["redis-sentinel://a"]);
    assert_eq!(wrong(&sentinels), ["sentinel_master"]);
    let named = |name: &str, url| ValkeyConfig {
        sentinel_master: Some(name.to_owned()),
        ..config(&[url])
    };
    assert_eq!(wrong(&named("m", "redis-sentinel://a")), [""; 0]);
    assert_eq!(wrong(&named("m", "redis-sentinel://a/m")), [""; 0]);
    assert_eq!(
        wrong(&named("m", "redis-sentinel://a/n")),
        ["sentinel_master"]
    );
    assert_eq!(wrong(&named("m", "redis://a")), ["sentinel_master"]);
    for bad in ["", "a b", "a\n"] {
        assert_eq!(
            wrong(&named(bad, "redis-sentinel://a")),
            ["sentinel_master"],
            "{bad:?}"
        );
    }
    assert_eq!(named("m", "redis-sentinel://a").master(), Some("m"));
}

// acceptance: E4
#[test]
fn a_database_is_honoured_without_a_password() {
    let mut config = config(&["redis://h/3"]);
    assert_eq!(wrong(&config), [""; 0]);
    config.database = Some(3);
    assert_eq!(wrong(&config), [""; 0]);
    config.database = Some(4);
    assert_eq!(wrong(&config), ["database"]);
}

// acceptance: E4
#[test]
fn a_database_is_within_its_range() {
    let database = |database| with(|config| config.database = Some(database));
    assert_eq!(wrong(&database(0)), [""; 0]);
    assert_eq!(wrong(&database(ValkeyUrl::DATABASE_MAX)), [""; 0]);
    assert_eq!(wrong(&database(ValkeyUrl::DATABASE_MAX + 1)), ["database"]);
}

#[test]
fn a_cluster_has_database_0_only() {
    let cluster = config(&["redis+cluster://h"]);
    for (database, expected) in [(0, vec![]), (1, vec!["database"])] {
        let database = Some(database);
        assert_eq!(
            wrong(&ValkeyConfig {
                database,
                ..cluster.clone()
            }),
            expected
        );
    }
    assert_eq!(wrong(&config(&["redis+cluster://h/1"])), ["database"]);
}

// acceptance: E15
#[test]
fn a_user_needs_a_password() {
    assert_eq!(wrong(&config(&["redis://u@h"])), ["username"]);
    assert_eq!(
        wrong(&with(|config| config.username = Some("u".into()))),
        ["username"]
    );
    let both = with(|config| {
        config.username = Some("u".into());
        config.password = secret("p");
    });
    assert_eq!(wrong(&both), [""; 0]);
    let by_url = ValkeyConfig {
        password: secret("p"),
        ..config(&["redis://u@h"])
    };
    assert_eq!(wrong(&by_url), [""; 0]);
    let nothing = with(|config| {
        config.username = Some(String::new());
        config.password = secret("");
    });
    assert_eq!(wrong(&nothing), [""; 0]);
}

#[test]
fn what_the_url_says_is_not_said_otherwise() {
    let twice = |username: &str, password| ValkeyConfig {
        username: Some(username.to_owned()),
        password: secret(password),
        ..config(&["redis://u:p@h"])
    };
    assert_eq!(wrong(&twice("u", "p")), [""; 0]);
    assert_eq!(wrong(&twice("v", "p")), ["username"]);
    assert_eq!(wrong(&twice("u", "q")), ["password"]);
}

#[test]
fn sentinels_have_a_log_in_of_their_own() {
    let sentinel = |username: Option<&str>, password: Option<Secret>, url| {
        wrong(&ValkeyConfig {
            sentinel_username: username.map(str::to_owned),
            sentinel_password: password,
            ..config(&[url])
        })
    };
    let url = "redis-sentinel://h/m";
    assert_eq!(sentinel(None, secret("p"), url), [""; 0]);
    assert_eq!(sentinel(Some("u"), secret("p"), url), [""; 0]);
    assert_eq!(sentinel(Some("u"), None, url), ["sentinel_username"]);
    assert_eq!(
        sentinel(None, secret("p"), "redis://h"),
        ["sentinel_password"]
    );
    assert_eq!(
        sentinel(Some("u"), secret("p"), "redis://h"),
        ["sentinel_username"]
    );
}

#[test]
fn the_key_prefix_is_plain() {
    let prefix = |prefix: &str| wrong(&with(|config| config.key_prefix = prefix.to_owned()));
    for good in ["c", "corral", "team-a/corral_2.x:ci", &"p".repeat(64)] {
        assert_eq!(prefix(good), [""; 0], "{good:?}");
    }
    for bad in [
        "",
        "a{b",
        "a}b",
        "a b",
        "a\n",
        "a*",
        "a[b]",
        "a?",
        "a\\",
        "é",
        &"p".repeat(65),
    ] {
        assert_eq!(prefix(bad), ["key_prefix"], "{bad:?}");
    }
}

// acceptance: E4
#[test]
fn the_pool_has_room_for_what_stays_idle() {
    let pool = |pool_max, pool_idle_max, pool_idle_min| {
        wrong(&ValkeyConfig {
            pool_max,
            pool_idle_max,
            pool_idle_min,
            ..config(&["redis://h"])
        })
    };
    assert_eq!(pool(1, 0, 0), [""; 0]);
    assert_eq!(pool(1, 1, 1), [""; 0]);
    assert_eq!(pool(1_000, 1_000, 1_000), [""; 0]);
    assert_eq!(pool(0, 0, 0), ["pool_max"]);
    assert_eq!(pool(1_001, 0, 0), ["pool_max"]);
    assert_eq!(pool(20, 21, 5), ["pool_idle_max"]);
    assert_eq!(pool(20, 4, 5), ["pool_idle_min"]);
}

// acceptance: E4
// acceptance: E7
#[test]
fn times_are_within_their_ranges() {
    let ms = Duration::from_millis;
    for (time, connect, command, health) in [
        (ms(0), false, false, false),
        (ms(9), false, false, false),
        (ms(10), true, true, false),
        (ms(99), true, true, false),
        (ms(100), true, true, true),
        (ms(60_000), true, true, true),
        (ms(60_001), false, false, true),
        (ms(300_000), false, false, true),
        (ms(300_001), false, false, false),
        (Duration::MAX, false, false, false),
    ] {
        let expected = |fine: bool, field| if fine { vec![] } else { vec![field] };
        let found = wrong(&with(|config| config.connect_timeout = time));
        assert_eq!(found, expected(connect, "connect_timeout"), "{time:?}");
        let found = wrong(&with(|config| config.command_timeout = time));
        assert_eq!(found, expected(command, "command_timeout"), "{time:?}");
        let found = wrong(&with(|config| config.health_check_interval = time));
        assert_eq!(found, expected(health, "health_check_interval"), "{time:?}");
    }
}

#[test]
fn tls_material_needs_a_url_that_uses_it() {
    let tls = ValkeyTls {
        ca_pem: Some("nonsense".to_owned()),
        ..ValkeyTls::default()
    };
    let plain = with(|config| config.tls = tls.clone());
    assert_eq!(wrong(&plain), ["tls.ca_file"]);
    assert_eq!(plain.mistakes().len(), 2, "no PEM, and no use for one");
    let key_alone = ValkeyConfig {
        tls: ValkeyTls {
            key_pem: secret("k"),
            ..ValkeyTls::default()
        },
        ..config(&["rediss://h"])
    };
    assert_eq!(wrong(&key_alone), ["tls.cert_file"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let many = ValkeyConfig {
        key_prefix: "{".to_owned(),
        pool_max: 0,
        command_timeout: Duration::ZERO,
        ..config(&["redis://u@a", "redis://a"])
    };
    let expected = [
        "url",
        "key_prefix",
        "username",
        "pool_max",
        "pool_idle_max",
        "command_timeout",
    ];
    assert_eq!(wrong(&many), expected);
}

// acceptance: E15
#[test]
fn secrets_never_show() {
    let config = ValkeyConfig {
        username: Some("v".to_owned()),
        password: secret("HUSH1"),
        sentinel_password: secret("HUSH2"),
        tls: ValkeyTls {
            key_pem: secret("HUSH3"),
            cert_pem: Some("x".to_owned()),
            ca_pem: None,
        },
        ..config(&["redis://u:HUSH4@a", "redis://u:HUSH5@a"])
    };
    let mut shown = format!("{config:?}");
    for mistake in config.mistakes() {
        shown += &format!("{mistake} {mistake:?}");
    }
    assert!(!shown.contains("HUSH"), "{shown}");
}
