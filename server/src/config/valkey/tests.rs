//! One URL is enough, the rest has defaults and ranges, and no password is ever shown.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::config::{Environment, Flags, Mistakes, Setting};

/// Reads a configuration with these `--set` assignments and variables.
fn read(set: &[&str], variables: &[(&str, &str)]) -> Result<Loaded, Mistakes> {
    let home = [
        ("HOME", "/home/gopher"),
        ("GOPROXY", "https://proxy.example"),
    ];
    let flags = Flags {
        set: set.iter().map(|text| (*text).to_owned()).collect(),
        ..Flags::default()
    };
    let environment = Environment::of(home.into_iter().chain(variables.iter().copied()));
    Loaded::read(&flags, &environment)
}

fn client(set: &[&str]) -> lease::ValkeyConfig {
    let url = ["valkey.url=redis://h"];
    let all: Vec<&str> = url.iter().chain(set).copied().collect();
    read(&all, &[]).unwrap().config.valkey.client.unwrap()
}

fn lines(set: &[&str]) -> Vec<String> {
    let refused = read(set, &[]).map(|loaded| loaded.config.valkey.client);
    refused
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn warnings(loaded: &Loaded) -> Vec<&str> {
    let warnings = loaded.notices.iter().filter(|notice| notice.is_warning);
    warnings.map(|notice| notice.text.as_str()).collect()
}

// acceptance: A1
// acceptance: E13
#[test]
fn without_a_url_there_is_no_valkey() {
    let loaded = read(&[], &[]).unwrap();
    assert!(loaded.config.valkey.client.is_none());
    assert!(warnings(&loaded).is_empty());
    // An empty list is as good as none.
    assert!(
        read(&["valkey.url=[]"], &[])
            .unwrap()
            .config
            .valkey
            .client
            .is_none()
    );
    let loaded = read(&["valkey.database=2", "internal.relay=false"], &[]).unwrap();
    assert_eq!(
        warnings(&loaded),
        [
            "valkey.database, internal.relay have no effect without valkey.url: this instance \
             shares nothing with others"
        ]
    );
}

// acceptance: E5
// acceptance: E3
#[test]
fn a_url_alone_is_enough() {
    let client = client(&[]);
    assert_eq!(
        client,
        lease::ValkeyConfig::from_urls(["redis://h"]).unwrap()
    );
    assert_eq!(
        (client.pool_max, client.pool_idle_max, client.pool_idle_min),
        (20, 10, 5)
    );
    assert_eq!(client.command_timeout, Duration::from_millis(250));
    assert_eq!(client.health_check_interval, Duration::from_secs(1));
    assert_eq!(client.topology(), lease::Topology::Single);
}

// acceptance: E17
#[test]
fn every_knob_reaches_the_client() {
    let client = client(&[
        "valkey.username=corral",
        "valkey.password=hush",
        "valkey.database=3",
        "valkey.key_prefix=ci:corral",
        "valkey.pool_max=100",
        "valkey.pool_idle_max=50",
        "valkey.pool_idle_min=20",
        "valkey.connect_timeout=1s",
        "valkey.command_timeout=100ms",
        "valkey.health_check_interval=500ms",
        "valkey.topology=single",
    ]);
    assert_eq!(client.username.as_deref(), Some("corral"));
    assert_eq!(client.password, Some(lease::Secret::new("hush")));
    assert_eq!(client.database, Some(3));
    assert_eq!(client.key_prefix, "ci:corral");
    assert_eq!(
        (client.pool_max, client.pool_idle_max, client.pool_idle_min),
        (100, 50, 20)
    );
    assert_eq!(client.connect_timeout, Duration::from_secs(1));
    assert_eq!(client.command_timeout, Duration::from_millis(100));
    assert_eq!(client.health_check_interval, Duration::from_millis(500));
    assert_eq!(client.topology, lease::Topology::Single);
}

// acceptance: E4
#[test]
fn what_is_out_of_range_names_its_key() {
    let cases = [
        ("valkey.url=h:6379", "valkey.url"),
        ("valkey.url=redis://h:0", "valkey.url"),
        ("valkey.url=redis://h:65536", "valkey.url"),
        (
            "valkey.url=[\"redis://h\", \"redis://h:6379\"]",
            "valkey.url",
        ),
        ("valkey.database=-1", "valkey.database"),
        ("valkey.database=x", "valkey.database"),
        ("valkey.pool_max=0", "valkey.pool_max"),
        ("valkey.pool_max=1001", "valkey.pool_max"),
        ("valkey.pool_idle_max=-1", "valkey.pool_idle_max"),
        ("valkey.pool_idle_max=21", "valkey.pool_idle_max"),
        ("valkey.pool_idle_min=11", "valkey.pool_idle_min"),
        ("valkey.connect_timeout=1ms", "valkey.connect_timeout"),
        ("valkey.command_timeout=0s", "valkey.command_timeout"),
        ("valkey.command_timeout=2m", "valkey.command_timeout"),
        (
            "valkey.health_check_interval=99ms",
            "valkey.health_check_interval",
        ),
        ("valkey.key_prefix={x}", "valkey.key_prefix"),
        ("valkey.topology=star", "valkey.topology"),
        ("valkey.topology=sentinel", "valkey.sentinel_master"),
        ("valkey.on_get_error=l2", "valkey.on_get_error"),
        ("valkey.username=corral", "valkey.username"),
        ("valkey.tls.ca_file=/no/such.pem", "valkey.tls.ca_file"),
        ("valkey.tls.cert_file=/no/such.pem", "valkey.tls.cert_file"),
        ("valkey.password_file=/no/such", "valkey.password_file"),
    ];
    for (assignment, key) in cases {
        let lines = lines(&["valkey.url=redis://h", assignment]);
        assert_eq!(lines.len(), 1, "{assignment}: {lines:?}");
        let line = lines[0].strip_prefix("--set: ").unwrap_or(&lines[0]);
        assert!(line.starts_with(key), "{assignment}: {line}");
    }
}

#[test]
fn a_small_pool_has_small_reserves() {
    let client = client(&["valkey.pool_max=3"]);
    assert_eq!((client.pool_idle_max, client.pool_idle_min), (3, 3));
    let lines = lines(&[
        "valkey.url=redis://h",
        "valkey.pool_max=3",
        "valkey.pool_idle_max=4",
    ]);
    assert!(
        lines[0].contains("pool_idle_max: 4 is outside 0 ..= 3"),
        "{lines:?}"
    );
}

#[test]
fn a_list_of_urls_may_come_as_one_text() {
    let variables = [("CORRAL_VALKEY", "redis://a, redis://b")];
    let loaded = read(&[], &variables).unwrap();
    let client = loaded.config.valkey.client.unwrap();
    assert_eq!(
        (client.urls.len(), client.topology()),
        (2, lease::Topology::Ring)
    );

    let variables = [("CORRAL_VALKEY", "redis-sentinel://:p,w@a,b:1,c/main")];
    let loaded = read(&[], &variables).unwrap();
    let client = loaded.config.valkey.client.unwrap();
    assert_eq!(
        (client.urls.len(), client.topology()),
        (1, lease::Topology::Sentinel)
    );
    assert_eq!(client.urls[0].addresses().len(), 3);
}

// acceptance: E4
#[test]
fn a_password_comes_from_one_place_and_goes_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "hush\n").unwrap();
    let by_file = format!("valkey.password_file={}", file.display());
    let expected = Some(lease::Secret::new("hush"));
    assert_eq!(client(&[&by_file]).password, expected);
    // As it stands, whatever TOML would read into it.
    assert_eq!(
        client(&["valkey.password=\"x\""]).password,
        Some(lease::Secret::new("\"x\""))
    );
    // The database is honoured without a password as with one.
    assert_eq!(client(&["valkey.database=2"]).database, Some(2));

    let both = lines(&["valkey.url=redis://h", "valkey.password=hush", &by_file]);
    let said = "valkey.password_file: valkey.password is set too; leave one of them out";
    assert_eq!(both, [format!("--set: {said}")]);

    let file = dir.path().join("corral.toml");
    std::fs::write(
        &file,
        "[valkey]\nurl = \"redis://:hush@h\"\npassword = 4711\n",
    )
    .unwrap();
    let flags = Flags {
        config: Some(file),
        ..Flags::default()
    };
    let wrong = Loaded::read(&flags, &Environment::of([]))
        .unwrap_err()
        .to_string();
    assert!(
        wrong.contains("valkey.password: must be") && !wrong.contains("4711"),
        "{wrong}"
    );

    let loaded = read(
        &["valkey.url=redis://:hush@h/2", "valkey.sentinel_username=u"],
        &[],
    );
    let wrong = loaded
        .map(|loaded| loaded.config.valkey)
        .unwrap_err()
        .to_string();
    assert!(!wrong.contains("hush"), "{wrong}");
    let loaded = read(
        &["valkey.url=redis://:hush@h/2", "valkey.password=hush"],
        &[],
    )
    .unwrap();
    let shown: Vec<Setting> = loaded.settings().collect();
    assert!(!format!("{loaded:?} {shown:?}").contains("hush"));
    let shown = shown
        .iter()
        .find(|row| row.key == "valkey.password")
        .unwrap();
    assert_eq!(shown.value, Some(Value::from("***")));
}
