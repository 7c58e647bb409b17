//! What an operator's client gets, over the queue of one process.
//!
//! The jobs belong to an instance that is not there, so that nobody works on them meanwhile.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use actix_web::test::TestRequest;
use bytes::Bytes;
use lease::{NewJob, Settled, TakenJob};
use serde_json::Value;

use super::*;
use crate::admin::auth::ACTION_HEADER;
use crate::admin::testing::{Scene, scene};

const UNIT: &str = "example.com/!upper/m@v1.0.0+incompatible.zip";
const WORKER: &str = "not-there";

async fn push(scene: &Scene, id: &str, kind: &str, due_in: Duration) {
    let job = NewJob {
        owner: Some(WORKER.into()),
        due_in,
        deadline_in: Duration::from_secs(3_600),
        ..NewJob::new(JobId::new(id).unwrap(), kind, Bytes::new())
    };
    scene.state.warmer.retries().push(&job).await.unwrap();
}

/// A job that is due in half an hour.
async fn wait(scene: &Scene, id: &str) {
    push(scene, id, "fetch", Duration::from_secs(1_800)).await;
}

/// A job that somebody works on.
async fn take(scene: &Scene, id: &str) -> TakenJob {
    push(scene, id, "fetch", Duration::ZERO).await;
    let queue = scene.state.warmer.retries();
    let mut taken = queue
        .take(WORKER, 10, Duration::from_secs(60))
        .await
        .unwrap();
    let at = taken.iter().position(|job| job.info.id.as_str() == id);
    taken.remove(at.unwrap())
}

/// A dead job.
async fn bury(scene: &Scene, id: &str) {
    let job = take(scene, id).await;
    let error = "#1 upstream fixture failed: status 500";
    let queue = scene.state.warmer.retries();
    let buried = queue.bury(&job.receipt, error).await.unwrap();
    assert_eq!(buried, Settled::Settled);
}

fn post(target: &str, body: Value) -> TestRequest {
    TestRequest::post()
        .uri(target)
        .insert_header((ACTION_HEADER, "1"))
        .set_json(body)
}

fn act(request: TestRequest, target: &str) -> TestRequest {
    request.uri(target).insert_header((ACTION_HEADER, "1"))
}

async fn ids(scene: &Scene, target: &str) -> (String, Value) {
    let (status, page) = scene.get(target).await;
    assert_eq!(status, 200, "{target}: {page}");
    let items = page["items"].as_array().unwrap();
    let ids: Vec<_> = items
        .iter()
        .map(|item| item["id"].as_str().unwrap())
        .collect();
    (ids.join(" "), page["next"].clone())
}

#[actix_web::test]
async fn jobs_are_listed_page_by_page() {
    let scene = scene().await;
    let empty = json!({ "scope": "instance", "items": [], "next": null });
    for target in ["/admin/v1/retries", "/admin/v1/dead"] {
        assert_eq!(scene.get(target).await, (200, empty.clone()), "{target}");
    }
    for id in ["a/x@v1.mod", "a/y@v1.zip", "b/x@v1.zip"] {
        wait(&scene, id).await;
    }
    bury(&scene, "c/x@v1.zip").await;
    let all = ("a/x@v1.mod a/y@v1.zip b/x@v1.zip".to_owned(), Value::Null);
    assert_eq!(ids(&scene, "/admin/v1/retries").await, all);
    assert_eq!(ids(&scene, "/admin/v1/dead").await.0, "c/x@v1.zip");
    let (first, next) = ids(&scene, "/admin/v1/retries?limit=2").await;
    assert_eq!(first, "a/x@v1.mod a/y@v1.zip");
    let after = next.as_str().unwrap().replace('/', "%2F");
    assert_eq!(
        ids(&scene, &format!("/admin/v1/retries?limit=2&after={after}")).await,
        ("b/x@v1.zip".to_owned(), Value::Null)
    );
    assert_eq!(
        ids(&scene, "/admin/v1/retries?filter=.mod").await.0,
        "a/x@v1.mod"
    );
    // A filter is a text, not a pattern.
    assert_eq!(ids(&scene, "/admin/v1/retries?filter=*").await.0, "");
    for wrong in ["limit=many", "limit=-1", "lim=1", "after=%00"] {
        for list in ["retries", "dead"] {
            let (status, body) = scene.get(&format!("/admin/v1/{list}?{wrong}")).await;
            assert_eq!(status, 400, "{wrong}: {body}");
            assert!(body["error"].is_string(), "{wrong}: {body}");
        }
    }
}

#[actix_web::test]
async fn one_job_shows_when_it_is_due_and_why_it_is_there() {
    let scene = scene().await;
    wait(&scene, UNIT).await;
    let encoded = UNIT
        .replace('/', "%2F")
        .replace('@', "%40")
        .replace('+', "%2B");
    for path in [UNIT, &encoded] {
        let (status, mut one) = scene.get(&format!("/admin/v1/retries/{path}")).await;
        assert_eq!(status, 200, "{path}: {one}");
        assert!(one["age_ms"].take().as_u64().unwrap() < 60_000);
        assert!((1..=1_800_000).contains(&one["due_in_ms"].take().as_u64().unwrap()));
        assert!((1..=3_600_000).contains(&one["deadline_in_ms"].take().as_u64().unwrap()));
        assert_eq!(
            one,
            json!({
                "scope": "instance",
                "id": UNIT,
                "kind": "fetch",
                "unit": UNIT,
                "state": "queued",
                "attempts": 0,
                "age_ms": null,
                "due_in_ms": null,
                "returns_in_ms": null,
                "dead_for_ms": null,
                "deadline_in_ms": null,
                "owner": WORKER,
                "worker": null,
                "last_error": null,
            })
        );
    }
    push(&scene, "upload:a@v1.zip", "upload", Duration::from_secs(9)).await;
    let (_, one) = scene.get("/admin/v1/retries/upload:a@v1.zip").await;
    assert_eq!(
        (&one["kind"], &one["unit"]),
        (&json!("upload"), &json!("a@v1.zip"))
    );

    take(&scene, "t@v1.zip").await;
    let (_, one) = scene.get("/admin/v1/retries/t@v1.zip").await;
    assert_eq!(
        (&one["state"], &one["worker"]),
        (&json!("taken"), &json!(WORKER))
    );
    assert!(
        (1..=60_000).contains(&one["returns_in_ms"].as_u64().unwrap()),
        "{one}"
    );

    bury(&scene, "d@v1.zip").await;
    let (_, one) = scene.get("/admin/v1/dead/d@v1.zip").await;
    assert_eq!(
        (&one["state"], &one["attempts"]),
        (&json!("dead"), &json!(1))
    );
    assert!(one["dead_for_ms"].is_u64(), "{one}");
    assert!(
        one["last_error"].as_str().unwrap().contains("status 500"),
        "{one}"
    );

    // What is on the other shelf is said to be there.
    let elsewhere = [
        ("retries/d@v1.zip", "corral dead"),
        ("dead/t@v1.zip", "corral retries"),
        ("dead/nobody@v1.zip", "is dead"),
    ];
    for (path, part) in elsewhere {
        let (status, body) = scene.get(&format!("/admin/v1/{path}")).await;
        assert_eq!(status, 404, "{path}: {body}");
        assert!(
            body["error"].as_str().unwrap().contains(part),
            "{path}: {body}"
        );
    }
    for (path, status) in [("%FF", 400), ("a%0Ab", 400)] {
        let (answered, body) = scene.get(&format!("/admin/v1/retries/{path}")).await;
        assert_eq!(answered, status, "{path}: {body}");
    }
}

#[actix_web::test]
async fn a_waiting_job_is_run_or_dropped() {
    let scene = scene().await;
    wait(&scene, UNIT).await;
    let run = format!("/admin/v1/retries/{UNIT}/run");
    let answer = scene.json(act(TestRequest::post(), &run)).await;
    assert_eq!(answer, (200, json!({ "outcome": "due", "id": UNIT })));
    let (_, one) = scene.get(&format!("/admin/v1/retries/{UNIT}")).await;
    assert_eq!(one["due_in_ms"], 0, "{one}");

    let item = format!("/admin/v1/retries/{UNIT}");
    let answer = scene.json(act(TestRequest::delete(), &item)).await;
    assert_eq!(answer, (200, json!({ "outcome": "dropped", "id": UNIT })));
    for request in [
        act(TestRequest::delete(), &item),
        act(TestRequest::post(), &run),
        post("/admin/v1/retries/run", json!({ "id": UNIT })),
        post("/admin/v1/retries/drop", json!({ "id": UNIT })),
    ] {
        let (status, body) = scene.json(request).await;
        assert_eq!((status, &body["id"]), (404, &json!(UNIT)), "{body}");
    }

    let taken = take(&scene, "t@v1.zip").await;
    let (status, body) = scene
        .json(post("/admin/v1/retries/run", json!({ "id": "t@v1.zip" })))
        .await;
    assert_eq!(status, 409, "{body}");
    // Dropping it takes it from whoever works on it.
    let (status, body) = scene
        .json(post("/admin/v1/retries/drop", json!({ "id": "t@v1.zip" })))
        .await;
    assert_eq!(status, 200, "{body}");
    let settled = scene.state.warmer.retries().ack(&taken.receipt).await;
    assert_eq!(settled.unwrap(), Settled::Stale);
}

#[actix_web::test]
async fn a_dead_job_is_requeued_or_dropped() {
    let scene = scene().await;
    bury(&scene, UNIT).await;
    // What is meant for waiting jobs leaves it alone, and the other way round.
    wait(&scene, "w@v1.zip").await;
    for request in [
        post("/admin/v1/retries/run", json!({ "id": UNIT })),
        post("/admin/v1/retries/drop", json!({ "id": UNIT })),
        post("/admin/v1/dead/requeue", json!({ "id": "w@v1.zip" })),
        act(TestRequest::delete(), "/admin/v1/dead/w@v1.zip"),
    ] {
        let (status, body) = scene.json(request).await;
        assert_eq!(status, 404, "{body}");
    }
    assert_eq!(ids(&scene, "/admin/v1/dead").await.0, UNIT);

    let requeue = format!("/admin/v1/dead/{UNIT}/requeue");
    let answer = scene.json(act(TestRequest::post(), &requeue)).await;
    assert_eq!(answer, (200, json!({ "outcome": "requeued", "id": UNIT })));
    let (_, one) = scene.get(&format!("/admin/v1/retries/{UNIT}")).await;
    assert_eq!(
        (&one["state"], &one["attempts"]),
        (&json!("queued"), &json!(0)),
        "{one}"
    );

    bury(&scene, "d@v1.zip").await;
    let answer = scene
        .json(act(TestRequest::delete(), "/admin/v1/dead/d@v1.zip"))
        .await;
    assert_eq!(answer.0, 200);
    assert_eq!(ids(&scene, "/admin/v1/dead").await.0, "");
}

#[actix_web::test]
async fn many_are_meant_only_when_it_is_said() {
    let scene = scene().await;
    for i in 0..1_203 {
        wait(
            &scene,
            &format!("{}/m{i:04}@v1.zip", if i % 3 == 0 { "a" } else { "b" }),
        )
        .await;
    }
    for wrong in [
        json!({}),
        json!({ "all": false }),
        json!({ "filter": "" }),
        json!({ "after": "a" }),
        json!({ "id": "a/m0000@v1.zip", "filter": "a" }),
        json!({ "id": "a/m0000@v1.zip", "all": true }),
        json!({ "ids": ["a"] }),
        json!([]),
        json!({ "filter": "a", "after": "\u{0}" }),
    ] {
        for target in ["retries/drop", "retries/run", "dead/drop", "dead/requeue"] {
            let request = post(&format!("/admin/v1/{target}"), wrong.clone());
            let (status, body) = scene.json(request).await;
            assert_eq!(status, 400, "{target} {wrong}: {body}");
            assert!(body["error"].is_string(), "{target} {wrong}: {body}");
        }
    }
    let drop = "/admin/v1/retries/drop";
    let (status, body) = scene.json(post(drop, json!({ "filter": "a/" }))).await;
    assert_eq!(
        (status, body),
        (200, json!({ "changed": 401, "skipped": 0, "next": null }))
    );
    take(&scene, "b/taken@v1.zip").await;
    let run = "/admin/v1/retries/run";
    let (status, body) = scene.json(post(run, json!({ "filter": "b/" }))).await;
    assert_eq!(
        (status, body),
        (200, json!({ "changed": 802, "skipped": 1, "next": null }))
    );
    let (status, body) = scene
        .json(post(drop, json!({ "all": true, "after": "b/m1" })))
        .await;
    assert_eq!((status, &body["next"]), (200, &Value::Null), "{body}");
    let (status, body) = scene.json(post(drop, json!({ "all": true }))).await;
    assert_eq!((status, &body["next"]), (200, &Value::Null), "{body}");
    assert_eq!(ids(&scene, "/admin/v1/retries").await.0, "");
}

// acceptance: A21
#[actix_web::test]
async fn a_web_page_orders_nothing() {
    let scene = scene().await;
    wait(&scene, UNIT).await;
    let body = json!({ "id": UNIT }).to_string();
    let drop = || TestRequest::post().uri("/admin/v1/retries/drop");
    let as_json = ("Content-Type", "application/json");
    for (request, status) in [
        (drop().insert_header(as_json).set_payload(body.clone()), 403),
        (
            TestRequest::delete().uri(&format!("/admin/v1/retries/{UNIT}")),
            403,
        ),
        (
            drop()
                .insert_header((ACTION_HEADER, "1"))
                .set_payload(body.clone()),
            415,
        ),
        (act(TestRequest::put(), "/admin/v1/retries"), 405),
        (act(TestRequest::get(), "/admin/v1/retries/drop"), 405),
        (
            post("/admin/v1/retries/drop", json!({ "id": UNIT }))
                .insert_header(("Host", "evil.example")),
            403,
        ),
    ] {
        let (answered, body) = scene.json(request).await;
        assert_eq!(answered, status, "{body}");
    }
    assert_eq!(ids(&scene, "/admin/v1/retries").await.0, UNIT);
}
