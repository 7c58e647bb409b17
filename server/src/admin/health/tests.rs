//! What probes and operators are told of the file of jobs.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::test::TestRequest;
use bytes::Bytes;
use lease::{JobId, NewJob};
use serde_json::Value;

use crate::admin::testing::{Scene, scene, scene_in};

async fn text(scene: &Scene, target: &str) -> (u16, String) {
    let answer = scene.call(TestRequest::get().uri(target)).await;
    let status = answer.status().as_u16();
    let body = answer.into_body().try_into_bytes().unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn metric(scene: &Scene, name: &str) -> u64 {
    let (_, metrics) = text(scene, "/metrics").await;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(&format!("corral_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
        .parse()
        .unwrap()
}

async fn push(scene: &Scene, id: &str) -> Result<(), lease::LeaseError> {
    let mut job = NewJob::new(JobId::new(id).unwrap(), "fetch", Bytes::new());
    job.owner = Some("not-there".into());
    job.due_in = Duration::from_secs(60);
    scene.state.warmer.retries().push(&job).await.map(drop)
}

#[actix_web::test]
async fn all_is_well_to_begin_with() {
    let scene = scene().await;
    assert_eq!(text(&scene, "/readyz").await, (200, "ready\n".to_owned()));
    let (_, instance) = scene.get("/admin/v1/instance").await;
    assert_eq!(instance["queue"]["file_error"], Value::Null, "{instance}");
    assert_eq!(instance["queue"]["fleet"], Value::Null, "{instance}");
    assert!(
        instance["queue"]["file"]
            .as_str()
            .unwrap()
            .ends_with("queue.redb")
    );
    let dir = instance["state_dir"].as_str().unwrap();
    assert!(dir.ends_with("state-0"), "{instance}");
    assert!(instance["worker"].is_string(), "{instance}");
    for name in [
        "retry_file_failed",
        "retry_file_set_aside_total",
        "retry_journal_jobs",
        "retry_journal_restored_total",
        "retry_journal_unjournaled_total",
    ] {
        assert_eq!(metric(&scene, name).await, 0, "{name}");
    }
}

#[actix_web::test]
async fn a_file_that_cannot_be_written_degrades_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("spool/state-0/queue.redb");
    // Not even the superuser can write below a folder that is not there.
    let elsewhere = dir.path().join("not/there");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("queue.redb"), &file).unwrap();
    let scene = scene_in(dir, &[]).await;
    push(&scene, "a@v1.zip").await.unwrap_err();
    let (status, line) = text(&scene, "/readyz").await;
    assert_eq!(status, 200);
    assert!(
        line.starts_with("ready, degraded: the queue's file"),
        "{line}"
    );
    // Whoever may see the probe may not see where things are.
    assert!(!line.contains("queue.redb"), "{line}");
    assert_eq!(metric(&scene, "retry_file_failed").await, 1);
    let (_, instance) = scene.get("/admin/v1/instance").await;
    assert!(instance["queue"]["file_error"].is_string(), "{instance}");
    let (status, _) = scene.get("/admin/v1/retries").await;
    assert_eq!(status, 200);

    std::fs::create_dir_all(&elsewhere).unwrap();
    let began = tokio::time::Instant::now();
    while push(&scene, "a@v1.zip").await.is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it never recovered"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(text(&scene, "/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(metric(&scene, "retry_file_failed").await, 0);
}

#[actix_web::test]
async fn a_damaged_file_is_set_aside_and_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("spool/state-0/queue.redb");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "no queue at all").unwrap();
    let scene = scene_in(dir, &[]).await;
    push(&scene, "a@v1.zip").await.unwrap();
    assert_eq!(metric(&scene, "retry_file_set_aside_total").await, 1);
    let (_, instance) = scene.get("/admin/v1/instance").await;
    let aside = instance["queue"]["set_aside"].as_array().unwrap();
    let path = aside[0].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "no queue at all");
    assert_eq!(text(&scene, "/readyz").await, (200, "ready\n".to_owned()));
}
