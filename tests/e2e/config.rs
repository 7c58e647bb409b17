//! Mistakes in configuration end with exit code 2 and one line that says what to set.

use std::time::Duration;

use e2e::proxy::{Corral, Exit, Setup};
use e2e::upstream::Answer;

use crate::fixtures::{fetched, file, pair, upstream};

const SOON: Duration = Duration::from_secs(20);

/// Asserts exit code 2, one line, and that the line contains all of `words`.
#[track_caller]
fn is_refused(what: &str, exit: &Exit, words: &[&str]) {
    assert_eq!(exit.code, Some(2), "{what}: {:?}", exit.stderr);
    assert!(exit.stdout.is_empty(), "{what}: {:?}", exit.stdout);
    let lines: Vec<_> = exit
        .stderr
        .iter()
        .filter(|line| !line.trim().is_empty())
        .collect();
    assert_eq!(lines.len(), 1, "{what}: {lines:?}");
    for word in words {
        assert!(
            lines[0].contains(word),
            "{what}: no {word:?} in {:?}",
            lines[0]
        );
    }
}

// acceptance: A18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_values_are_named() {
    let cases: [(&str, &str, &[&str]); 9] = [
        ("fill.retires", "3", &["fill.retires", "fill.retries"]),
        ("nonsense", "1", &["nonsense"]),
        ("lease.ttl", "six", &["lease.ttl"]),
        ("lease.ttl", "-1s", &["lease.ttl"]),
        ("spool.bytes_max", "10 bananas", &["spool.bytes_max"]),
        (
            "fill.on_failure",
            "explode",
            &["fill.on_failure", "queue", "backoff", "drop"],
        ),
        ("verify.mode", "maybe", &["verify.mode", "sumdb", "off"]),
        ("listen", "not-an-address", &["listen"]),
        ("documents.ttl", "[1, 2]", &["documents.ttl"]),
    ];
    for (key, value, words) in cases {
        let setup = Setup::new().upstream("http://127.0.0.1:9").set(key, value);
        is_refused(
            &format!("{key}={value}"),
            &setup.run_to_end(SOON).await,
            words,
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_flags_places_and_urls_are_named() {
    let base = || Setup::new().upstream("http://127.0.0.1:9");
    let cases: [(&str, Setup, &[&str]); 5] = [
        ("storage scheme", base().storage("ftp://x/y"), &["storage"]),
        (
            "upstream scheme",
            base().upstream("gopher://x"),
            &["upstream"],
        ),
        (
            "config file",
            base().arg("--config").arg("/nonexistent/corral.toml"),
            &["corral.toml"],
        ),
        (
            "set without value",
            base().arg("--set").arg("fill.retries"),
            &["fill.retries"],
        ),
        (
            "valkey url",
            base().arg("--valkey").arg("nonsense://x"),
            &["valkey"],
        ),
    ];
    for (what, setup, words) in cases {
        is_refused(what, &setup.run_to_end(SOON).await, words);
    }
}

// No upstream at all: the environment names none, and a go command that could is out of reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_upstream_it_says_what_to_set() {
    for goproxy in ["off", ""] {
        let setup = Setup::new()
            .env("GOPROXY", goproxy)
            .env("PATH", "/nonexistent");
        let exit = setup.run_to_end(SOON).await;
        is_refused(&format!("GOPROXY={goproxy:?}"), &exit, &["upstream"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for key in ["listen", "admin_listen"] {
        let flag = format!("--{}", key.replace('_', "-"));
        // The later of two equal flags would be a usage error, so the key is set instead.
        let setup = Setup::new().upstream("http://127.0.0.1:9");
        let mut args = setup.command_line();
        let at = args
            .iter()
            .position(|arg| *arg == flag)
            .expect("the flag is there");
        args[at + 1] = format!("127.0.0.1:{port}");
        let exit = setup.run_args_to_end(&args, SOON).await;
        is_refused(key, &exit, &[&port.to_string()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_output_has_the_two_lines_and_nothing_else() {
    let (_upstream, mut corral) = pair(2000).await;
    corral.get(&file("mod")).await.expect_status(200);
    corral.terminate(SOON).await;
    let expected = [
        format!("listening on http://{}", corral.addr()),
        format!("admin on http://{}", corral.admin_addr()),
    ];
    assert_eq!(corral.stdout(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_environment_and_set_override_each_other_in_this_order() {
    let upstream = upstream(2000).await;
    let setup = Setup::before(&upstream);
    let config = setup.home().join("corral.toml");
    std::fs::write(&config, "[negative]\nttl = \"1s\"\n\n[fill]\nretries = 1\n").unwrap();
    let corral: Corral = setup
        .clone()
        .arg("--config")
        .arg(config.to_str().unwrap())
        .env("CORRAL_NEGATIVE__TTL", "2s")
        .env("CORRAL_FILL__RETRIES", "2")
        .set("negative.ttl", "7m")
        .start()
        .await;
    let in_force = corral.admin_json("/admin/v1/instance").await["config"].clone();
    let text = in_force.to_string();
    assert!(text.contains("7m"), "{text}");
    // The retries that are in force are the variable's.
    upstream
        .path(&file("mod"))
        .always(Answer::status(500, "broken"));
    corral.get(&file("mod")).await.expect_status(502);
    fetched(&upstream.path(&file("mod")), 3);
}

// The usual variables are respected when no flag is given, and ours comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_may_come_from_the_environment() {
    let upstream = upstream(2000).await;
    for name in ["CORRAL_UPSTREAM", "GOPROXY"] {
        let list = format!("{},off", upstream.url());
        let corral = Setup::new().env(name, &list).start().await;
        corral.get(&file("mod")).await.expect_status(200);
    }
}
