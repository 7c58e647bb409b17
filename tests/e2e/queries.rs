//! Version queries and `.info`: protocol rows V05 to V09, I01 to I04, A01, A02.

use e2e::proxy::{Corral, Setup};
use e2e::upstream::{
    Answer, FixtureModule, FixtureUpstream, FixtureVersion, file_path, info_text, latest_path,
};

use crate::fixtures::{M, V, fetched, file, impatient, upstream};

const PSEUDO: &str = "v1.0.1-0.20240203040506-0123456789ab";

// protocol: V05, V06; acceptance: G7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_commits_and_prefixes_resolve() {
    let queries = [
        "main",
        "Feature",
        "0123456",
        "0123456789abcdef0123456789abcdef01234567",
        "v1",
        "v1.0",
    ];
    let mut module = FixtureModule::new(M).version(V).version(PSEUDO);
    for query in queries {
        module = module.query(query, PSEUDO);
    }
    let upstream = FixtureUpstream::with([module]).await;
    let corral = Corral::before(&upstream).await;
    for query in queries {
        let path = file_path(M, query, "info");
        let reply = corral
            .get(&path)
            .await
            .expect_body(info_text(PSEUDO).as_bytes());
        let control = reply.header("cache-control").unwrap_or_default();
        assert!(!control.contains("immutable"), "{query}: {control}");
    }
    // The canonical file came with the first query and is stored as such.
    let canonical = file_path(M, PSEUDO, "info");
    corral
        .stored(&canonical, info_text(PSEUDO).as_bytes())
        .await;
    corral
        .get(&canonical)
        .await
        .expect_body(info_text(PSEUDO).as_bytes());
    fetched(&upstream.path(&canonical), 0);
}

// protocol: V07
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_queries_do_not_exist() {
    let upstream = upstream(2000).await;
    let corral = Corral::before(&upstream).await;
    for query in ["nosuch", "abcdef0", "v9"] {
        corral
            .get(&file_path(M, query, "info"))
            .await
            .expect_status(404);
    }
    // A branch with a slash cannot be asked.
    let reply = corral.get(&format!("/{M}/@v/feature/x.info")).await;
    assert!([404, 410].contains(&reply.status), "{}", reply.status);
}

// protocol: I01, I02, M01
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn info_and_mod_are_passed_on_byte_for_byte() {
    let info = format!(
        "{{ \"Version\" : \"{V}\",\n\"Time\":\"2024-01-02T03:04:05.678+01:00\",\
         \"Origin\":{{\"VCS\":\"git\",\"URL\":\"https://example.com/m\",\"Hash\":\"00\"}},\"New\":[1]}}\n"
    );
    // A module file without a module line is legal, and so are comments and odd spacing.
    let go_mod = "// no module line\n\n\trequire  (\n)\r\n";
    let version = FixtureVersion::new(V).info(&info).go_mod(go_mod);
    let upstream = FixtureUpstream::with([FixtureModule::new(M).with(version)]).await;
    let corral = Corral::before(&upstream).await;
    for _ in 0..2 {
        corral.get(&file("info")).await.expect_body(info.as_bytes());
        corral
            .get(&file("mod"))
            .await
            .expect_body(go_mod.as_bytes());
    }
    let without_time = format!("{{\"Version\":\"{V}\"}}");
    let upstream = FixtureUpstream::start().await;
    upstream.put(&file("info"), "text/plain", without_time.clone());
    let corral = Corral::before(&upstream).await;
    corral
        .get(&file("info"))
        .await
        .expect_body(without_time.as_bytes());
}

// protocol: I03, I04
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_info_is_neither_served_nor_kept() {
    let upstream = upstream(2000).await;
    let corral = impatient(&upstream).start().await;
    let wrong = [
        Answer::json("{\"Version\":\"v1.0.1\",\"Time\":\"2024-01-02T03:04:05Z\"}"),
        Answer::html(),
        Answer::json("null"),
        Answer::json("{\"Version\":\"v1.0.0\""),
        Answer::json("{}"),
        Answer::json(""),
    ];
    for path in [file("info"), latest_path(M)] {
        for answer in &wrong {
            // Any version is right for @latest.
            let right = matches!(answer, Answer::Body { body, .. } if body.starts_with(b"{\"Version\":\"v1.0.1"));
            if path == latest_path(M) && right {
                continue;
            }
            upstream.path(&path).heal().always(answer.clone());
            let reply = corral.get(&path).await;
            assert!(
                (502..=504).contains(&reply.status),
                "{path} {answer:?}: {}",
                reply.status
            );
        }
        upstream.path(&path).heal();
        corral.get(&path).await.expect_body(&upstream.body(&path));
    }
}

// protocol: I03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_names_no_canonical_version_is_an_error() {
    let upstream = upstream(2000).await;
    let corral = impatient(&upstream).start().await;
    let path = file_path(M, "main", "info");
    for version in ["main", "v1", "v2.0.0", "../x", ""] {
        upstream
            .path(&path)
            .heal()
            .always(Answer::json(&info_text(version)));
        let reply = corral.get(&path).await;
        assert!(
            reply.status >= 500,
            "{version:?}: {} {}",
            reply.status,
            reply.text()
        );
    }
}

// protocol: A01, A02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_is_passed_on_or_missing_but_never_invented() {
    let upstream = upstream(2000).await;
    let corral = Setup::before(&upstream)
        .set("fill.retries", "0")
        .start()
        .await;
    corral
        .get(&latest_path(M))
        .await
        .expect_body(info_text(V).as_bytes());
    // An upstream without @latest sends the client to the list; a broken one stops it.
    upstream.add(&FixtureModule::new("example.com/n").version(V));
    corral
        .get(&latest_path("example.com/n"))
        .await
        .expect_status(404);
    upstream
        .path(&latest_path("example.com/b"))
        .always(Answer::status(500, "broken"));
    let reply = corral.get(&latest_path("example.com/b")).await;
    assert!((502..=504).contains(&reply.status), "{}", reply.status);
    upstream
        .path(&latest_path("example.com/f"))
        .always(Answer::status(403, "forbidden here\n"));
    let reply = corral
        .get(&latest_path("example.com/f"))
        .await
        .expect_status(403);
    assert_eq!(reply.text().trim_end(), "forbidden here");
}
