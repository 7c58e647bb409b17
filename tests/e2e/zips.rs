//! Zips: protocol rows Z01 to Z07.

use bytes::Bytes;
use e2e::proxy::{Corral, Setup};
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream, FixtureVersion, build_zip};

use crate::fixtures::{M, V, fetched, file, impatient, nothing_left_over, pair, upstream};

// protocol: Z01, Z02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_megabytes_arrive_whole_cold_and_cached() {
    let (upstream, corral) = pair(30_000_000).await;
    let zip = file("zip");
    let whole = upstream.body(&zip);
    corral.get(&zip).await.expect_body(&whole);
    corral.stored(&zip, &whole).await;
    corral.get(&zip).await.expect_body(&whole);
    fetched(&upstream.path(&zip), 1);
}

// protocol: Z03, Z04; fault: 33
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_that_break_the_rules_are_refused() {
    let named = |names: &[&str]| -> Bytes {
        build_zip(
            names
                .iter()
                .map(|name| ((*name).to_owned(), &b"package x\n"[..])),
        )
    };
    let cases = [
        ("another prefix", named(&["example.com/other@v1.0.0/a.go"])),
        ("another version", named(&["example.com/m@v1.0.1/a.go"])),
        ("an escaped prefix", named(&["example.com/!m@v1.0.0/a.go"])),
        ("no prefix", named(&["a.go"])),
        ("an absolute name", named(&["/etc/passwd"])),
        (
            "a climbing name",
            named(&["example.com/m@v1.0.0/../../x.go"]),
        ),
        (
            "names that differ in case",
            named(&["example.com/m@v1.0.0/a.go", "example.com/m@v1.0.0/A.go"]),
        ),
        ("text", Bytes::from_static(b"not a zip at all")),
        ("half a zip", {
            let whole = named(&["example.com/m@v1.0.0/a.go"]);
            whole.slice(..whole.len() / 2)
        }),
    ];
    for (what, bytes) in cases {
        let module = FixtureModule::new(M).with(FixtureVersion::new(V).zip(bytes));
        let upstream = FixtureUpstream::with([module]).await;
        let corral = impatient(&upstream).start().await;
        for _ in 0..2 {
            let reply = corral.get(&file("zip")).await;
            assert!(!reply.whole_success(), "{what} was served");
            assert!(
                ![404, 410].contains(&reply.status),
                "{what}: {}",
                reply.status
            );
        }
        corral.idle().await;
        assert!(
            !corral.store_path(&file("zip")).exists(),
            "{what} was stored"
        );
        nothing_left_over(&corral).await;
        // The rest of the version does not suffer.
        corral.get(&file("mod")).await.expect_status(200);
    }
}

// The prefix is checked unescaped: an upper-case path is right as it is.
// protocol: Z04
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upper_case_modules_pass_the_zip_rules() {
    let module = FixtureModule::new("example.com/UPPER/Lib").version_sized("v1.0.0", 5000);
    let upstream = FixtureUpstream::with([module.clone()]).await;
    let corral = Corral::before(&upstream).await;
    let path = module.file_path("v1.0.0", "zip");
    corral.get(&path).await.expect_body(&upstream.body(&path));
}

// protocol: Z05
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_followed_but_not_for_ever() {
    let (upstream, corral) = pair(5000).await;
    let elsewhere = FixtureUpstream::start().await;
    elsewhere.put("/blob/1", "application/zip", upstream.body(&file("zip")));
    upstream
        .path(&file("zip"))
        .always(Answer::Redirect(format!("{}/blob/1", elsewhere.url())));
    corral
        .get(&file("zip"))
        .await
        .expect_body(&upstream.body(&file("zip")));
    upstream
        .path(&file("mod"))
        .always(Answer::Redirect("/blob/2".to_owned()));
    upstream.put("/blob/2", "text/plain", "module example.com/m\n");
    corral
        .get(&file("mod"))
        .await
        .expect_body(b"module example.com/m\n");
    // A circle ends as our own trouble.
    upstream
        .path(&file("info"))
        .always(Answer::Redirect(file("info")));
    let reply = corral.get(&file("info")).await;
    assert!((502..=504).contains(&reply.status), "{}", reply.status);
    assert!(upstream.path(&file("info")).requests() <= 60);
}

// protocol: Z06, Z07
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn framing_and_encoding_of_the_upstream_do_not_matter() {
    for answer in [Answer::Chunked, Answer::Gzip] {
        let (upstream, corral) = pair(400_000).await;
        upstream.path(&file("zip")).always(answer.clone());
        for _ in 0..2 {
            corral
                .get(&file("zip"))
                .await
                .expect_body(&upstream.body(&file("zip")));
        }
        corral
            .stored(&file("zip"), &upstream.body(&file("zip")))
            .await;
        fetched(&upstream.path(&file("zip")), 1);
    }
}

// The size limit holds for announced and for unannounced lengths.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zips_over_the_limit_are_refused() {
    let upstream = upstream(1_000_000).await;
    let setup = Setup::before(&upstream)
        .set("zip_bytes_max", "500KiB")
        .set("fill.retries", "0");
    let corral = setup
        .set("failure.ttl", "0s")
        .set("fill.on_failure", "drop")
        .start()
        .await;
    for answer in [Answer::Plain, Answer::Chunked] {
        upstream.path(&file("zip")).heal().always(answer.clone());
        let reply = corral.get(&file("zip")).await;
        assert!(!reply.whole_success(), "{answer:?}");
        assert!(
            ![404, 410].contains(&reply.status),
            "{answer:?}: {}",
            reply.status
        );
    }
    corral.idle().await;
    nothing_left_over(&corral).await;
    corral.get(&file("mod")).await.expect_status(200);
}
