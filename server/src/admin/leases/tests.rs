//! What an operator's client gets, over the leases of one process.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::HOST;
use actix_web::test::TestRequest;
use lease::{Acquire, Grant, Holder, Progress, Renewal};
use serde_json::Value;

use super::*;
use crate::admin::auth::ACTION_HEADER;
use crate::admin::testing::{Scene, scene};

const KEY: &str = "example.com/!upper/m@v1.0.0+incompatible.zip";

fn key(text: &str) -> LeaseKey {
    LeaseKey::new(text).unwrap()
}

async fn grant(scene: &Scene, text: &str) -> Grant {
    let holder = Holder {
        instance: "corral-1".into(),
        address: Some("127.0.0.1:9000".into()),
    };
    let ttl = Duration::from_secs(60);
    let leases = &scene.state.leases;
    match leases.try_acquire(&key(text), &holder, ttl).await.unwrap() {
        Acquire::Granted(grant) => grant,
        Acquire::Held(held) => panic!("{text} is held: {held:?}"),
    }
}

async fn get(scene: &Scene, target: &str) -> (u16, Value) {
    scene.json(TestRequest::get().uri(target)).await
}

fn order(key: &str, token: &str) -> TestRequest {
    TestRequest::post()
        .uri("/admin/v1/leases/break")
        .insert_header((ACTION_HEADER, "1"))
        .set_json(json!({ "key": key, "token": token }))
}

#[actix_web::test]
async fn leases_are_listed_page_by_page() {
    let scene = scene().await;
    assert_eq!(
        get(&scene, "/admin/v1/leases").await,
        (
            200,
            json!({ "scope": "instance", "items": [], "next": null })
        )
    );
    for name in ["a/x@v1.mod", "a/y@v1.zip", "b/x@v1.zip"] {
        grant(&scene, name).await;
    }
    let names = async |target: &str| {
        let (status, page) = get(&scene, target).await;
        assert_eq!(status, 200, "{target}: {page}");
        let items = page["items"].as_array().unwrap();
        let names: Vec<String> = items
            .iter()
            .map(|item| item["key"].as_str().unwrap().to_owned())
            .collect();
        (names.join(" "), page["next"].clone())
    };
    let all = ("a/x@v1.mod a/y@v1.zip b/x@v1.zip".to_owned(), Value::Null);
    assert_eq!(names("/admin/v1/leases").await, all);
    assert_eq!(
        names("/admin/v1/leases?limit=0&filter=").await.0,
        "a/x@v1.mod"
    );
    let (first, next) = names("/admin/v1/leases?limit=2").await;
    assert_eq!(first, "a/x@v1.mod a/y@v1.zip");
    let after = next.as_str().unwrap().replace('/', "%2F");
    assert_eq!(
        names(&format!("/admin/v1/leases?limit=2&after={after}")).await,
        ("b/x@v1.zip".to_owned(), Value::Null)
    );
    assert_eq!(
        names("/admin/v1/leases?filter=.zip&limit=10").await.0,
        "a/y@v1.zip b/x@v1.zip"
    );
    // A filter is a text, not a pattern.
    assert_eq!(names("/admin/v1/leases?filter=*").await.0, "");
    for wrong in ["limit=many", "limit=-1", "lim=1", "after=%00"] {
        let (status, body) = get(&scene, &format!("/admin/v1/leases?{wrong}")).await;
        assert_eq!(status, 400, "{wrong}: {body}");
        assert!(body["error"].is_string(), "{wrong}: {body}");
    }
}

#[actix_web::test]
async fn one_lease_shows_its_holder_and_how_far_it_is() {
    let scene = scene().await;
    let held = grant(&scene, KEY).await;
    let progress = Progress {
        bytes: 7,
        total: Some(70),
        waiters: 3,
    };
    scene.state.leases.renew(&held, &progress).await.unwrap();
    // As it is, and with everything encoded that can be.
    let encoded = KEY.replace('/', "%2F").replace('@', "%40");
    let encoded = encoded.replace('!', "%21").replace('+', "%2B");
    for path in [KEY, &encoded] {
        let (status, mut one) = get(&scene, &format!("/admin/v1/leases/{path}")).await;
        assert_eq!(status, 200, "{path}: {one}");
        assert!(one["age_ms"].take().as_u64().unwrap() < 60_000);
        assert!((1..=60_000).contains(&one["expires_in_ms"].take().as_u64().unwrap()));
        assert_eq!(
            one,
            json!({
                "scope": "instance",
                "key": KEY,
                "token": held.token,
                "instance": "corral-1",
                "address": "127.0.0.1:9000",
                "age_ms": null,
                "expires_in_ms": null,
                "bytes": 7,
                "total": 70,
                "waiters": 3,
            })
        );
    }
    for (path, status) in [("other@v1.zip", 404), ("%FF", 400), ("a%0Ab", 400)] {
        let (answered, body) = get(&scene, &format!("/admin/v1/leases/{path}")).await;
        assert_eq!(answered, status, "{path}: {body}");
    }
}

#[actix_web::test]
async fn a_break_needs_the_token_in_force() {
    let scene = scene().await;
    let held = grant(&scene, KEY).await;
    let stale = LeaseToken::random();
    let (status, body) = scene.json(order(KEY, &stale.to_string())).await;
    assert_eq!(
        (status, &body["token"]),
        (409, &json!(held.token)),
        "{body}"
    );
    assert_eq!(get(&scene, &format!("/admin/v1/leases/{KEY}")).await.0, 200);

    let (status, body) = scene.json(order(KEY, &held.token.to_string())).await;
    let expected = json!({ "outcome": "forced", "key": KEY, "token": held.token });
    assert_eq!((status, body), (200, expected));
    let told = scene.state.leases.renew(&held, &Progress::default()).await;
    assert_eq!(told.unwrap(), Renewal::Forced);

    let (status, _) = scene.json(order(KEY, &held.token.to_string())).await;
    assert_eq!(status, 404);
    let (status, body) = scene.json(order(KEY, "no-token")).await;
    assert_eq!(status, 400, "{body}");
    assert!(body["error"].as_str().unwrap().contains("UUID"), "{body}");
}

#[actix_web::test]
async fn a_break_may_be_a_delete() {
    let scene = scene().await;
    let held = grant(&scene, KEY).await;
    let delete = |token: &str| {
        let target = format!("/admin/v1/leases/{KEY}{token}");
        let request = TestRequest::delete().uri(&target);
        request.insert_header((ACTION_HEADER, "1"))
    };
    assert_eq!(scene.json(delete("")).await.0, 400);
    let stale = format!("?token={}", LeaseToken::random());
    assert_eq!(scene.json(delete(&stale)).await.0, 409);
    let right = format!("?token={}", held.token);
    assert_eq!(scene.json(delete(&right)).await.0, 200);
    assert_eq!(scene.json(delete(&right)).await.0, 404);
}

// acceptance: A21
#[actix_web::test]
async fn a_web_page_breaks_nothing() {
    let scene = scene().await;
    let held = grant(&scene, KEY).await;
    let token = held.token.to_string();
    let body = json!({ "key": KEY, "token": token }).to_string();
    let post = || TestRequest::post().uri("/admin/v1/leases/break");
    let action = (ACTION_HEADER, "1");
    let as_json = ("Content-Type", "application/json");
    let query = TestRequest::delete().uri(&format!("/admin/v1/leases/{KEY}?token={token}"));
    let refused = [
        // No header of ours: what a form or a page on another site could send.
        (post().insert_header(as_json).set_payload(body.clone()), 403),
        (query, 403),
        (
            post()
                .insert_header(("Content-Type", "text/plain"))
                .set_payload(body.clone()),
            403,
        ),
        // The header, but no JSON.
        (
            post()
                .insert_header(action)
                .insert_header(("Content-Type", "text/plain"))
                .set_payload(body.clone()),
            415,
        ),
        (
            post()
                .insert_header(action)
                .insert_header(as_json)
                .set_payload("{"),
            400,
        ),
        (
            post()
                .insert_header(action)
                .insert_header(as_json)
                .set_payload(format!("{body:<20000}")),
            413,
        ),
        // A name of its own (DNS rebinding).
        (
            order(KEY, &token).insert_header((HOST, "evil.example")),
            403,
        ),
        (
            TestRequest::default()
                .method(Method::PUT)
                .uri("/admin/v1/leases")
                .insert_header(action),
            405,
        ),
    ];
    for (i, (request, status)) in refused.into_iter().enumerate() {
        let (answered, body) = scene.json(request).await;
        assert_eq!(answered, status, "case {i}: {body}");
    }
    let preflight = TestRequest::default()
        .method(Method::OPTIONS)
        .uri("/admin/v1/leases/break")
        .insert_header(("Origin", "https://evil.example"));
    let answer = scene.call(preflight).await;
    assert!(answer.status().is_client_error());
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    assert_eq!(get(&scene, &format!("/admin/v1/leases/{KEY}")).await.0, 200);
}

#[actix_web::test]
async fn other_machines_need_the_token() {
    let mut scene = scene().await;
    scene.access.is_loopback = false;
    for target in ["/admin/v1/leases", "/admin/v1/leases/x@v1.zip"] {
        assert_eq!(scene.json(TestRequest::get().uri(target)).await.0, 403);
    }
    assert_eq!(scene.json(order("x@v1.zip", "t")).await.0, 403);
    scene.access.token = Some("hush".to_owned());
    let with = |token: &str| {
        TestRequest::get()
            .uri("/admin/v1/leases")
            .insert_header(("Authorization", format!("Bearer {token}")))
    };
    assert_eq!(
        scene
            .json(TestRequest::get().uri("/admin/v1/leases"))
            .await
            .0,
        401
    );
    assert_eq!(scene.json(with("hus")).await.0, 401);
    assert_eq!(scene.json(with("hush")).await.0, 200);
}
