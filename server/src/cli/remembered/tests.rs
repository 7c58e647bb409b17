//! `corral negatives` and `corral failures` against a real admin listener on a port of its own.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::EXIT_GONE;
use crate::cli::testing::Listener;

const UNIT: &str = "example.com/!upper/m@v1.0.0+incompatible.zip";

impl Listener {
    async fn remember(&self, unit: &str, record: Value) {
        let (key, value) = (format!("failure:{unit}"), record.to_string().into());
        let records = self.scene.state.warmer.records();
        records
            .set(&key, value, Duration::from_secs(60))
            .await
            .unwrap();
    }
}

#[actix_web::test]
async fn what_is_remembered_is_listed_and_shown() {
    let listener = Listener::start(|_| {}).await;
    let ran = listener.run("negatives").await;
    let empty = "no negatives: this instance remembers no unit as absent\n";
    assert_eq!((ran.code, &*ran.out), (0, empty), "{ran:?}");
    let ran = listener.run("failures").await;
    assert_eq!(
        ran.out,
        "no failures: this instance remembers no unit as failed\n"
    );
    let ran = listener.run("failures list --filter x").await;
    assert_eq!(ran.out, "no failures with \"x\" in the unit\n");

    let absent = json!({ "kind": "not_found", "text": "no such\u{1b}[31m tag" });
    listener.remember(UNIT, absent).await;
    let busy = json!({ "kind": "throttled", "text": "busy", "retry_after_ms": 2_500 });
    listener.remember("f@v1.zip", busy).await;
    let kept = json!({ "kind": "spooled", "address": "10.0.0.7:8072", "token": "hush", "len": 7 });
    listener.remember("k@v1.zip", kept).await;

    let ran = listener.run("negatives").await;
    let lines: Vec<&str> = ran.out.lines().collect();
    let words: Vec<_> = lines[0].split_whitespace().collect();
    assert_eq!(words, ["UNIT", "KIND", "LEFT", "ANSWER"]);
    assert!(
        lines[1].starts_with(&format!("{UNIT}  not_found  ")),
        "{ran:?}"
    );
    // What another machine says is no order to a terminal.
    assert!(lines[1].ends_with("no such?[31m tag"), "{ran:?}");
    assert_eq!(lines[3], "1 unit of this instance");
    let ran = listener.run("failures list").await;
    assert!(ran.out.contains("k@v1.zip  spooled "), "{ran:?}");
    assert!(ran.out.contains("  7 B from 10.0.0.7:8072\n"), "{ran:?}");
    assert!(ran.out.ends_with("2 units of this instance\n"), "{ran:?}");

    let ran = listener.run("failures show f@v1.zip").await;
    for part in [
        "f@v1.zip",
        "throttled",
        "busy",
        "2.5s",
        "until it is forgotten",
    ] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    let ran = listener.run(&format!("negatives show --json {UNIT}")).await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["kind"], "not_found");
    let ran = listener.run("negatives show f@v1.zip").await;
    assert_eq!(ran.code, EXIT_GONE, "{ran:?}");
    assert!(ran.err.contains("`corral failures`"), "{ran:?}");
}

#[actix_web::test]
async fn units_are_forgotten() {
    let listener = Listener::start(|_| {}).await;
    for i in 0..30 {
        let absent = json!({ "kind": "gone", "text": "retracted" });
        listener.remember(&format!("m{i:02}@v1.zip"), absent).await;
    }
    let ran = listener.run("negatives forget m00@v1.zip").await;
    assert_eq!(
        (ran.code, &*ran.out),
        (0, "forgotten: m00@v1.zip\n"),
        "{ran:?}"
    );
    let ran = listener.run("negatives forget m00@v1.zip").await;
    assert_eq!(ran.code, EXIT_GONE, "{ran:?}");
    let ran = listener.run("failures forget --all").await;
    assert_eq!(ran.out, "forgotten: 0 units\n", "{ran:?}");
    let kept = json!({ "kind": "spooled", "address": "10.0.0.7:8072", "token": "t", "len": 7 });
    listener.remember("k@v1.zip", kept).await;
    let slow = json!({ "kind": "timed_out", "text": "too slow" });
    listener.remember("s@v1.zip", slow).await;
    // Where bytes are that the store does not have is forgotten by name alone.
    let ran = listener.run("failures forget --all").await;
    let said = "forgotten: 1 unit; left as they are: 1\n";
    assert_eq!((ran.code, &*ran.out), (0, said), "{ran:?}");
    let ran = listener.run("failures forget k@v1.zip").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = listener.run("negatives forget --filter m1 --json").await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json, json!({ "changed": 10, "skipped": 0 }));
    let ran = listener.run("negatives forget --all").await;
    assert_eq!(ran.out, "forgotten: 19 units\n", "{ran:?}");
}
