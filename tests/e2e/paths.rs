//! Request paths: protocol rows P01 to P17. Form errors never reach the upstream.

use std::time::Duration;

use e2e::client::exchange;
use e2e::proxy::Corral;
use e2e::upstream::{FixtureModule, FixtureUpstream, list_path};

use crate::fixtures::is_one_line;

/// Targets that no module can have, with the row that says so.
fn malformed() -> Vec<(&'static str, String)> {
    let fixed = [
        ("P03", "/example.com/Upper/@v/list"),
        ("P03", "/Example.com/m/@v/list"),
        ("P03", "/example.com/m/@v/v1.0.0-RC1.mod"),
        ("P04", "/example.com/!!m/@v/list"),
        ("P04", "/example.com/!1/@v/list"),
        ("P04", "/example.com/!A/@v/list"),
        ("P04", "/example.com/m!/@v/list"),
        ("P04", "/example.com/m%21/@v/list"),
        ("P05", "/nodot/m/@v/list"),
        ("P05", "/-example.com/m/@v/list"),
        ("P05", "/exam_ple.com/m/@v/list"),
        ("P05", "/example.com:80/m/@v/list"),
        ("P06", "/example.com/.hidden/@v/list"),
        ("P06", "/example.com/dot./@v/list"),
        ("P06", "/example.com/con/@v/list"),
        ("P06", "/example.com/nul.txt/@v/list"),
        ("P06", "/example.com/com1/@v/list"),
        ("P06", "/example.com/lpt9.x/@v/list"),
        ("P06", "/example.com/short~1/@v/list"),
        ("P06", "/example.com/a+b/@v/list"),
        ("P06", "/example.com/a%20b/@v/list"),
        ("P06", "/example.com/a*b/@v/list"),
        ("P06", "/example.com/%C3%A4/@v/list"),
        ("P07", "/example.com/m/v0/@v/list"),
        ("P07", "/example.com/m/v1/@v/list"),
        ("P07", "/example.com/m/v01/@v/list"),
        ("P07", "/example.com/m/v2.0/@v/list"),
        ("P07", "/gopkg.in/yaml/@v/list"),
        ("P11", "/example.com/m/@v/v1.0.0"),
        ("P11", "/example.com/m/@v/v1.0.0.tar"),
        ("P11", "/example.com/m/@v/v1.0.0.zip.exe"),
        ("P11", "/example.com/m/@v/.info"),
        ("P11", "/example.com/m/@v/"),
        ("P11", "/example.com/m/@v"),
        ("P11", "/example.com/m/@latest/x"),
        ("P11", "/example.com/m/@v/list/x"),
        ("P11", "/example.com/m/@foo"),
        ("P11", "/example.com/m"),
        ("P11", "/@v/list"),
        ("P12", "/example.com/m/@v/list/"),
        ("P12", "/example.com/m/@v/v1.0.0.mod/"),
        ("P12", "/example.com/m/@latest/"),
        ("V01", "/example.com/m/@v/main.mod"),
        ("V01", "/example.com/m/@v/v1.zip"),
        ("V01", "/example.com/m/@v/v1.0.zip"),
        ("V01", "/example.com/m/@v/v1.0.0+meta.mod"),
        ("V01", "/example.com/m/@v/v01.0.0.mod"),
        ("V02", "/example.com/m/@v/v2.0.0.mod"),
        ("V02", "/example.com/m/v3/@v/v2.0.0.mod"),
        ("V02", "/example.com/m/v2/@v/v3.0.0+incompatible.mod"),
        ("V02", "/gopkg.in/yaml.v2/@v/v3.0.0.mod"),
        ("V08", "/example.com/m/@v/latest.info"),
        ("V08", "/example.com/m/@v/upgrade.info"),
        ("V08", "/example.com/m/@v/patch.info"),
    ];
    let mut all: Vec<_> = fixed.map(|(row, target)| (row, target.to_owned())).into();
    all.push(("P10", format!("/example.com/{}/@v/list", "a".repeat(8000))));
    all.push((
        "P10",
        format!(
            "/example.com/{}/@v/list",
            "a/".repeat(4000).trim_end_matches('/')
        ),
    ));
    all
}

/// Targets that must give no file; a redirect is as good as a refusal.
const ESCAPING: [(&str, &str); 16] = [
    ("P08", "/example.com/../etc/@v/list"),
    ("P08", "/example.com/m/@v/../../../../etc/passwd"),
    ("P08", "/../../etc/passwd"),
    ("P08", "/example.com/./m/@v/list"),
    ("P08", "/example.com/%2e%2e/m/@v/list"),
    ("P08", "/example.com/m/@v/%2e%2e%2f%2e%2e%2flist"),
    ("P08", "/example.com%2fm/@v/list.info"),
    ("P08", "/example.com/m/@v/..%2flist.mod"),
    ("P08", "/example.com/a%5cb/@v/list"),
    ("P09", "//example.com/m/@v/list"),
    ("P09", "/example.com//m/@v/list"),
    ("P09", "/example.com/m//@v/list"),
    ("P09", "/example.com/m%00/@v/list"),
    ("P09", "/example.com/m/@v/v1.0.0%0a.mod"),
    ("P09", "/example.com/%ff%fe/@v/list"),
    ("P09", "/example.com/m%zz/@v/list"),
];

// protocol: P03, P04, P05, P06, P07, P10, P11, P12, P13, P17, V01, V02, V08
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn form_errors_are_named_and_stay_here() {
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    let mut wrong = Vec::new();
    for (row, target) in malformed() {
        let reply = corral.get(&target).await;
        let shown: String = target.chars().take(80).collect();
        if row == "P10" && (400..500).contains(&reply.status) {
            continue;
        }
        if ![404, 410].contains(&reply.status) || upstream.requests() > 0 {
            wrong.push((row, shown, reply.status, upstream.requests()));
            continue;
        }
        is_one_line(&reply);
    }
    assert!(
        wrong.is_empty(),
        "row, target, status, upstream requests: {wrong:#?}"
    );
}

// protocol: P08, P09, P17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_escapes_the_tree() {
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    // What a traversal would find: a file above the store.
    std::fs::write(corral.setup().home().join("passwd"), "secret").unwrap();
    let mut wrong = Vec::new();
    for (row, target) in ESCAPING {
        let reply = corral.get(target).await;
        if !(300..500).contains(&reply.status) || upstream.requests() > 0 {
            wrong.push((row, target, reply.status, upstream.requests()));
        }
        assert!(!reply.text().contains("secret") && !reply.text().contains("root:"));
    }
    assert!(
        wrong.is_empty(),
        "row, target, status, upstream requests: {wrong:#?}"
    );
}

// protocol: P09
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_bytes_in_the_target_are_refused() {
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    for bytes in [
        &b"GET /example.com/\xff\xfe/@v/list HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"GET /example.com/\x00m/@v/list HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let answer = exchange(corral.addr(), bytes, Duration::from_millis(500)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || text.starts_with("HTTP/1.1 4"),
            "{text}"
        );
    }
    assert_eq!(upstream.requests(), 0);
}

// protocol: P01, P02, P14, P15, P16, V03, V04
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn legal_names_of_every_kind_are_served() {
    let cases = [
        ("github.com/BurntSushi/toml", "v1.3.2"),
        ("example.com/a", "v1.0.0"),
        ("example.com/a/b", "v1.0.0"),
        ("example.com/a/b/v2", "v2.1.0-RC.1"),
        ("gopkg.in/yaml.v3", "v3.0.1"),
        ("example.com/old", "v4.0.0+incompatible"),
        ("example.com/pseudo", "v0.0.0-20191109021931-daa7c04131f5"),
        ("example.com/pre", "v1.2.3-alpha.1"),
        ("golang.org/toolchain", "v0.0.1-go1.21.0.linux-amd64"),
        ("example.com/x~y/_z/a-b.c", "v0.1.0"),
    ];
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    for (path, version) in cases {
        let module = FixtureModule::new(path).version(version);
        upstream.add(&module);
        for kind in ["info", "mod", "zip"] {
            let target = module.file_path(version, kind);
            corral
                .get(&target)
                .await
                .expect_body(&upstream.body(&target));
            // The go command writes `!` as %21; other clients may escape more. One file is meant.
            let escaped = target.replace('!', "%21").replace('+', "%2B");
            corral
                .get(&escaped)
                .await
                .expect_body(&upstream.body(&target));
            assert_eq!(upstream.path(&target).requests(), 1, "{target}");
        }
        corral.get(&list_path(path)).await.expect_status(200);
    }
}
