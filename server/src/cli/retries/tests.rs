//! `corral retries` and `corral dead` against a real admin listener on a port of its own.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use lease::{JobId, NewJob};
use serde_json::{Value, json};

use crate::cli::testing::Listener;
use crate::cli::{Cli, EXIT_FAILURE, EXIT_GONE, EXIT_USAGE};
use crate::config::Secret;

const UNIT: &str = "example.com/!upper/m@v1.0.0+incompatible.zip";
/// An instance that is not there, so that nobody works on its jobs.
const WORKER: &str = "not-there";

impl Listener {
    async fn push(&self, id: &str, kind: &str, due_in: Duration) {
        let job = NewJob {
            owner: Some(WORKER.into()),
            due_in,
            deadline_in: Duration::from_secs(3_600),
            ..NewJob::new(JobId::new(id).unwrap(), kind, Bytes::new())
        };
        let queue = self.scene.state.warmer.retries();
        queue.push(&job).await.unwrap();
    }

    async fn wait(&self, id: &str) {
        self.push(id, "fetch", Duration::from_secs(1_800)).await;
    }

    /// A job that failed once, and is dead if `dies`.
    async fn fail(&self, id: &str, dies: bool) {
        self.push(id, "fetch", Duration::ZERO).await;
        let queue = self.scene.state.warmer.retries();
        let taken = queue.take(WORKER, 1, Duration::from_secs(60)).await;
        let receipt = &taken.unwrap()[0].receipt;
        let error = "#2 upstream fixture failed: status 500; see #3; #x 4; \
                     #1 no connection; told to a client";
        match dies {
            true => queue.bury(receipt, error).await.unwrap(),
            false => {
                let later = Duration::from_secs(187);
                queue.retry(receipt, later, error).await.unwrap()
            }
        };
    }

    async fn count(&self, line: &str) -> usize {
        let ran = self.run(&format!("{line} --json")).await;
        let json: Value = serde_json::from_str(&ran.out).unwrap();
        json["items"].as_array().unwrap().len()
    }
}

#[actix_web::test]
async fn jobs_are_listed_as_tables_and_as_json() {
    let listener = Listener::start(|_| {}).await;
    let ran = listener.run("retries").await;
    let empty = "no jobs: nothing of this instance waits to be tried again\n";
    assert_eq!((ran.code, &*ran.out), (0, empty), "{ran:?}");
    let ran = listener.run("dead").await;
    assert_eq!(
        ran.out,
        "no dead jobs: nothing of this instance was given up\n"
    );
    let ran = listener.run("retries list --filter x").await;
    assert_eq!(ran.out, "no jobs with \"x\" in the id\n");

    listener.fail(UNIT, false).await;
    listener.fail("dead@v1.zip", true).await;
    listener.wait("a@v1.mod").await;
    listener
        .push("upload:b@v1.zip", "upload", Duration::ZERO)
        .await;
    let ran = listener.run("retries list").await;
    let lines: Vec<&str> = ran.out.lines().collect();
    let words: Vec<_> = lines[0].split_whitespace().collect();
    assert_eq!(
        words.join(" "),
        "ID KIND STATE ATTEMPTS AGE DUE IN LAST ERROR"
    );
    assert!(lines[1].starts_with("a@v1.mod  "), "{ran:?}");
    assert!(lines[1].ends_with("  -"), "{ran:?}");
    assert!(lines[2].starts_with(UNIT), "{ran:?}");
    assert!(
        lines[2].ends_with("#2 upstream fixture failed: status 500; see #3; #x 4"),
        "{ran:?}"
    );
    assert!(lines[2].contains("  fetch   queued         1  "), "{ran:?}");
    assert!(lines[2].contains("  3m 0"), "{ran:?}");
    assert!(lines[3].contains("  upload  queued "), "{ran:?}");
    assert!(lines[3].contains("     now  "), "{ran:?}");
    assert_eq!(lines.last(), Some(&"3 jobs of this instance"));
    assert_eq!(lines[0].find("LAST ERROR"), lines[2].find("#2 upstream"));

    let ran = listener.run("dead").await;
    let lines: Vec<&str> = ran.out.lines().collect();
    let words: Vec<_> = lines[0].split_whitespace().collect();
    assert_eq!(
        words,
        [
            "ID", "KIND", "ATTEMPTS", "AGE", "DEAD", "FOR", "LAST", "ERROR"
        ]
    );
    assert!(lines[1].starts_with("dead@v1.zip  fetch "), "{ran:?}");
    assert_eq!(lines.last(), Some(&"1 dead job of this instance"));

    let ran = listener
        .run("retries list --json --filter +incompatible")
        .await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&json["scope"], &json["next"]),
        (&json!("instance"), &Value::Null)
    );
    assert_eq!(json["items"].as_array().unwrap().len(), 1);
    assert_eq!(json["items"][0]["attempts"], 1);
    let ran = listener.run("retries list --limit 1").await;
    assert!(ran.out.contains("the first 1 job of"), "{ran:?}");
}

#[actix_web::test]
async fn one_job_is_shown_with_its_history() {
    let listener = Listener::start(|_| {}).await;
    listener.fail(UNIT, false).await;
    let ran = listener.run(&format!("retries show {UNIT}")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for part in [UNIT, "due in", "3m 0", "status 500", WORKER, "queued"] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    let lines: Vec<&str> = ran.out.lines().collect();
    let errors = [
        "errors       #2 upstream fixture failed: status 500; see #3; #x 4",
        "             #1 no connection; told to a client",
    ];
    assert!(lines.ends_with(&errors), "{ran:?}");
    let ran = listener.run(&format!("retries show --json {UNIT}")).await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&json["id"], &json["state"]),
        (&json!(UNIT), &json!("queued"))
    );

    let ran = listener.run(&format!("dead show {UNIT}")).await;
    assert_eq!(ran.code, EXIT_GONE, "{ran:?}");
    assert!(ran.err.contains("`corral retries`"), "{ran:?}");
    let ran = listener.run("retries show no/such@v1.zip").await;
    assert_eq!(ran.code, EXIT_GONE);
    assert_eq!(ran.err, "corral: no job no/such@v1.zip waits\n");
    assert!(ran.out.is_empty());
}

#[actix_web::test]
async fn a_job_is_run_requeued_and_dropped() {
    let listener = Listener::start(|_| {}).await;
    listener.fail("d@v1.zip", true).await;
    listener.wait(UNIT).await;
    let ran = listener.run(&format!("retries run {UNIT}")).await;
    assert_eq!((ran.code, ran.out), (0, format!("due now: {UNIT}\n")));
    let ran = listener.run("retries run no/such@v1.zip").await;
    assert_eq!(ran.code, EXIT_GONE, "{ran:?}");

    let ran = listener.run("dead requeue d@v1.zip --json").await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json, json!({ "outcome": "requeued", "id": "d@v1.zip" }));
    assert_eq!(listener.count("dead").await, 0);
    assert_eq!(listener.count("retries").await, 2);

    let order = format!("retries drop {UNIT}");
    let ran = listener.run(&order).await;
    assert_eq!(ran.code, EXIT_USAGE, "{ran:?}");
    assert!(ran.err.contains("--yes"), "{ran:?}");
    for answer in ["", "\n", "n\n", "yeah\n"] {
        let ran = listener.answering(&order, Some(answer)).await;
        assert_eq!(ran.code, EXIT_FAILURE, "{ran:?}");
        assert!(ran.out.contains(UNIT), "{ran:?}");
        assert!(
            ran.err.ends_with("corral: nothing was changed\n"),
            "{ran:?}"
        );
    }
    assert_eq!(listener.count("retries").await, 2);
    let ran = listener.answering(&order, Some("Y\n")).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let last = format!("dropped: {UNIT}");
    assert_eq!(ran.out.lines().last(), Some(&*last));
    assert_eq!(
        listener.run(&format!("{order} --yes")).await.code,
        EXIT_GONE
    );

    listener
        .push("upload:b@v1.zip", "upload", Duration::from_secs(9))
        .await;
    let ran = listener
        .answering("retries drop upload:b@v1.zip", Some("n\n"))
        .await;
    let question = "Drop this job? It has bytes that are nowhere else: they are given up.";
    assert!(ran.err.contains(question), "{ran:?}");
}

#[actix_web::test]
async fn many_jobs_take_one_order() {
    let listener = Listener::start(|_| {}).await;
    for i in 0..1_205 {
        listener
            .wait(&format!(
                "{}/m{i:04}@v1.zip",
                if i % 5 == 0 { "a" } else { "b" }
            ))
            .await;
    }
    assert_eq!(listener.count("retries").await, 1_000);
    assert_eq!(listener.count("retries list --limit 5000").await, 1_205);
    let ran = listener.run("retries run --filter a/").await;
    assert_eq!(
        ran.out, "due now: 241 jobs with \"a/\" in the name\n",
        "{ran:?}"
    );
    let ran = listener
        .answering("retries drop --filter a/", Some("n\n"))
        .await;
    assert!(
        ran.err.contains("Drop 241 jobs with \"a/\" in the name?"),
        "{ran:?}"
    );
    let ran = listener
        .run("retries drop --all --filter a/ --yes --json")
        .await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json, json!({ "changed": 241, "skipped": 0 }));
    let ran = listener.run("retries drop --all --yes").await;
    assert_eq!(ran.out, "dropped: 964 jobs\n", "{ran:?}");
    assert_eq!(listener.count("retries").await, 0);
    let ran = listener.answering("retries drop --all", Some("y\n")).await;
    assert_eq!(
        (ran.code, &*ran.out),
        (0, "0 jobs: nothing was changed\n"),
        "{ran:?}"
    );
    let ran = listener.run("retries drop --all --json").await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json, json!({ "changed": 0, "skipped": 0 }));
}

#[actix_web::test]
async fn every_failure_says_the_next_step() {
    let mut listener = Listener::start(|scene| scene.access.token = Some("hush".to_owned())).await;
    for command in ["retries", "dead", "retries run --all", "dead requeue x"] {
        let ran = listener.run(command).await;
        assert_eq!(ran.code, EXIT_FAILURE);
        assert!(ran.err.contains("--token-file FILE"), "{ran:?}");
    }
    listener.token = Some(Secret::new("hush"));
    assert_eq!(listener.run("dead").await.code, 0);
    listener.stop().await;
    let ran = listener.run("dead").await;
    assert_eq!(ran.code, EXIT_FAILURE);
    assert!(ran.err.contains("is corral running there?"), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
}

#[test]
fn an_order_has_to_say_what_it_is_about() {
    for line in [
        "retries run",
        "retries drop --yes",
        "dead requeue",
        "dead drop x --all",
        "retries run x --filter y",
    ] {
        let words = std::iter::once("corral").chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
}
