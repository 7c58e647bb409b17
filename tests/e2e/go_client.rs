//! The real `go` command through corral: protocol rows G01 to G06, acceptance row G9.

use e2e::go::{Go, file_url};
use e2e::proxy::{Corral, Setup};
use e2e::real_upstream::real_upstream;
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream, FixtureVersion, file_path, list_path};

const LIB: &str = "example.com/Upper/lib";
const OLD: &str = "example.com/old";
const NEXT: &str = "example.com/next/v2";
const PSEUDO: &str = "v2.0.1-0.20240203040506-0123456789ab";

/// A small world: an upper-case path that needs an incompatible version and a nested major.
async fn world() -> FixtureUpstream {
    let lib = FixtureVersion::new("v1.1.0")
        .requires(OLD, "v2.0.0+incompatible")
        .requires(NEXT, PSEUDO);
    FixtureUpstream::with([
        FixtureModule::new(LIB)
            .version("v1.0.0")
            .with(lib)
            .latest("v1.1.0")
            .query("main", "v1.1.0"),
        FixtureModule::new(OLD).version("v2.0.0+incompatible"),
        FixtureModule::new(NEXT)
            .version(PSEUDO)
            .query("0123456789ab", PSEUDO),
    ])
    .await
}

// protocol: G01, G02, G04, V04
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_list_download_and_build_work() {
    let upstream = world().await;
    let corral = Corral::before(&upstream).await;
    let go = Go::new(&corral.url());
    go.write_main(&[LIB]);
    for query in ["latest", "main", "v1.0.0", "v1"] {
        go.run(&["get", &format!("{LIB}@{query}")])
            .await
            .expect_success();
    }
    let list = go
        .run(&["list", "-m", "-versions", LIB])
        .await
        .expect_success();
    assert_eq!(list.stdout.trim(), format!("{LIB} v1.0.0 v1.1.0"));
    go.run(&["get", &format!("{LIB}@v1.1.0")])
        .await
        .expect_success();
    go.run(&["mod", "download", "all"]).await.expect_success();
    go.run(&["build", "./..."]).await.expect_success();
    go.run(&["mod", "verify"]).await.expect_success();
    // What go keeps is what upstream has.
    for path in go.downloaded() {
        let kept = std::fs::read(go.download_cache().join(path.trim_start_matches('/'))).unwrap();
        if !path.ends_with(".info") {
            assert_eq!(kept, upstream.body(&path), "{path}");
        }
        assert_eq!(upstream.path(&path).requests(), 1, "{path}");
    }
}

// protocol: G03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_pseudo_versions_without_latest_is_enough() {
    let pseudo = "v0.0.0-20191109021931-daa7c04131f5";
    let module = FixtureModule::new("example.com/untagged")
        .version(pseudo)
        .list(&format!("{pseudo}\n"));
    let upstream = FixtureUpstream::with([module]).await;
    let corral = Corral::before(&upstream).await;
    let go = Go::new(&corral.url());
    go.write_main(&["example.com/untagged"]);
    go.run(&["get", "example.com/untagged@latest"])
        .await
        .expect_success();
    assert!(
        std::fs::read_to_string(go.project().join("go.mod"))
            .unwrap()
            .contains(pseudo)
    );
}

// protocol: G05, P13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comma_list_falls_through_on_404_and_stops_on_failures() {
    let second = world().await;
    let first = FixtureUpstream::start().await;
    let corral = Setup::before(&first).set("fill.retries", "0").start().await;
    let proxies = format!("{},{}", corral.url(), second.url());
    let wanted = "example.com/old@v2.0.0+incompatible";

    let go = Go::new(&proxies);
    go.write_main(&[]);
    go.run(&["mod", "download", wanted]).await.expect_success();

    for (status, text) in [(403, "blocked by policy 7"), (500, "upstream exploded")] {
        let first = FixtureUpstream::start().await;
        for kind in ["info", "mod", "zip"] {
            let path = file_path(OLD, "v2.0.0+incompatible", kind);
            first.path(&path).always(Answer::status(status, text));
        }
        let corral = Setup::before(&first).set("fill.retries", "0").start().await;
        let go = Go::new(&format!("{},{}", corral.url(), second.url()));
        go.write_main(&[]);
        let output = go.run(&["mod", "download", wanted]).await.expect_failure();
        if status == 403 {
            // The gatekeeper's words reach the person.
            assert!(output.stderr.contains(text), "{}", output.stderr);
        }
    }
}

// protocol: G06; acceptance: B1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dozen_go_commands_with_empty_caches_cost_one_fetch_per_file() {
    let upstream = world().await;
    let corral = Corral::before(&upstream).await;
    let runs: Vec<_> = (0..12)
        .map(|_| {
            let go = Go::new(&corral.url());
            tokio::spawn(async move {
                go.write_main(&[LIB]);
                go.run(&["mod", "download", &format!("{LIB}@v1.1.0")])
                    .await
                    .expect_success();
                go.run(&["mod", "download", &format!("{NEXT}@{PSEUDO}")])
                    .await
                    .expect_success();
                go.downloaded()
            })
        })
        .collect();
    let mut all = Vec::new();
    for run in runs {
        all.extend(run.await.unwrap());
    }
    all.sort();
    all.dedup();
    assert!(all.len() >= 6, "{all:?}");
    for path in all {
        assert_eq!(upstream.path(&path).requests(), 1, "{path}");
    }
}

// acceptance: G9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_a_goproxy_without_corral() {
    let upstream = world().await;
    let mut corral = Corral::before(&upstream).await;
    let go = Go::new(&corral.url());
    go.write_main(&[LIB]);
    go.run(&["get", &format!("{LIB}@v1.1.0")])
        .await
        .expect_success();
    go.run(&["build", "./..."]).await.expect_success();
    corral.idle().await;
    corral.terminate(std::time::Duration::from_secs(15)).await;
    upstream.stop();

    let alone = Go::new(&file_url(&corral.setup().store_dir()));
    alone.write_main(&[LIB]);
    alone
        .run(&["get", &format!("{LIB}@v1.1.0")])
        .await
        .expect_success();
    alone.run(&["build", "./..."]).await.expect_success();
    assert_eq!(alone.downloaded(), go.downloaded());
}

// acceptance: G9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_cache_is_a_store_by_copying_it() {
    let upstream = world().await;
    let go = Go::new(&upstream.url());
    go.write_main(&[LIB]);
    go.run(&["get", &format!("{LIB}@v1.1.0")])
        .await
        .expect_success();
    let before = upstream.requests();

    let setup = Setup::before(&upstream);
    std::fs::create_dir_all(setup.store_dir().parent().unwrap()).unwrap();
    let copied = tokio::process::Command::new("cp")
        .arg("-r")
        .arg(go.download_cache())
        .arg(setup.store_dir())
        .status()
        .await
        .unwrap();
    assert!(copied.success());
    let corral = setup.start().await;
    for path in go.downloaded() {
        let reply = corral.get(&path).await.expect_status(200);
        if !path.ends_with(".info") {
            assert_eq!(reply.body, upstream.body(&path), "{path}");
        }
    }
    assert_eq!(upstream.requests(), before);
}

// The default go, the default checksum database, real modules, and corral as the only host. What
// this machine's upstream does not have is left out; versions are pinned, because some upstreams
// have neither list nor `@latest` of some modules.
// acceptance: F8; protocol: G01, G02, G04, P16, S01
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_modules_and_the_real_checksum_database_work_through_corral_alone() {
    const TEXT: &str = "golang.org/x/text";
    let Some(upstream) = real_upstream() else {
        return;
    };
    let direct = Go::new(&upstream);
    direct.write_main(&[]);
    let mut modules = vec![
        "golang.org/x/text@v0.14.0",
        "rsc.io/quote@v1.5.2",
        "rsc.io/quote/v3@v3.1.0",
        "github.com/BurntSushi/toml@v1.3.2",
        "github.com/gofrs/uuid@v4.4.0+incompatible",
        "golang.org/x/sync@v0.0.0-20220722155255-886fb9371eb4",
    ];
    let download = |modules: &[&'static str]| [&["mod", "download"], modules].concat();
    if !direct.run(&download(&modules)).await.success {
        for module in std::mem::take(&mut modules) {
            if direct.run(&download(&[module])).await.success {
                modules.push(module);
            }
        }
    }
    if !modules.contains(&"golang.org/x/text@v0.14.0") {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: this machine's upstream has not even {TEXT}");
        }
        return;
    }
    let corral = Setup::new()
        .upstream(&upstream)
        .verify_default()
        .start()
        .await;
    let program = async |corral: &Corral| {
        let go = Go::new(&corral.url()).default_sumdb();
        go.write(
            "go.mod",
            &format!("module example.org/main\n\ngo 1.20\n\nrequire {TEXT} v0.14.0\n"),
        );
        go.write(
            "main.go",
            "package main\n\nimport _ \"golang.org/x/text/language\"\n\nfunc main() {}\n",
        );
        go.run(&download(&modules)).await.expect_success();
        go.run(&["build", "./..."]).await.expect_success();
        go.run(&["mod", "verify"]).await.expect_success();
        let list = ["list", "-m", "-versions", TEXT];
        let list = go.run(&list).await.expect_success();
        assert!(list.stdout.contains("v0.14.0"), "{}", list.stdout);
        let latest = format!("{TEXT}@latest");
        go.run(&["list", "-m", &latest]).await.expect_success();
        go.downloaded()
    };
    let first = program(&corral).await;
    // A toolchain is a module like any other; its zip is not needed to show it.
    let toolchain = "/golang.org/toolchain/@v/v0.0.1-go1.21.0.linux-amd64";
    for kind in ["info", "mod"] {
        corral
            .get(&format!("{toolchain}.{kind}"))
            .await
            .expect_status(200);
    }
    corral.idle().await;

    // Again from empty client caches, without a go.sum, and no upstream any more.
    let setup = corral.setup().clone().arg("--offline");
    let corral = corral.restart_with(setup).await;
    assert_eq!(program(&corral).await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_read_well_in_the_go_commands_output() {
    let upstream = FixtureUpstream::start().await;
    let text = "not found: example.com/none: no such repository in the fixture\n";
    upstream
        .path(&list_path("example.com/none"))
        .always(Answer::status(404, text));
    upstream
        .path("/example.com/none/@latest")
        .always(Answer::status(404, text));
    let corral = Corral::before(&upstream).await;
    let go = Go::new(&corral.url());
    go.write_main(&[]);
    let output = go
        .run(&["get", "example.com/none@latest"])
        .await
        .expect_failure();
    assert!(output.stderr.contains(text.trim()), "{}", output.stderr);
}
