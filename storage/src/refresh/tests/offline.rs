//! Without an upstream: what was kept, and what can be made of the stored versions.

use super::*;

fn offline(scene: &Scene) -> Instance {
    let builder = scene.instance("offline");
    builder.config(|config| config.offline = true).start()
}

/// Stores the info files of some versions, as fills would have.
async fn store_infos(scene: &Scene, versions: &[&str]) {
    for version in versions {
        let path = format!("example.com/m/@v/{version}.info");
        let info = format!(r#"{{"Version":"{version}"}}"#);
        let source = Source::Bytes(info.into());
        scene.store.create(&path, source).await.unwrap();
    }
}

const PSEUDO: &str = "v1.9.1-0.20240102030405-abcdef123456";

// acceptance: F5
#[tokio::test]
async fn offline_the_list_and_the_latest_are_built_from_what_is_stored() {
    let (scene, _clock) = scene();
    let instance = offline(&scene);
    let ask = async |path| asked(&instance, path, GetOptions::default()).await;
    for path in [LIST, LATEST, MASTER] {
        assert_eq!(
            ask(path).await.unwrap_err().kind(),
            ErrorKind::FetchDisabled
        );
    }
    let built = |body: &str| answer(body, Verdict::BuiltFromStore);
    for (added, list, latest) in [
        (PSEUDO, "", PSEUDO),
        ("v1.9.0-rc.1", "v1.9.0-rc.1\n", "v1.9.0-rc.1"),
        ("v1.2.0", "v1.2.0\nv1.9.0-rc.1\n", "v1.2.0"),
        ("v1.10.0", "v1.2.0\nv1.9.0-rc.1\nv1.10.0\n", "v1.10.0"),
    ] {
        store_infos(&scene, &[added]).await;
        assert_eq!(ask(LIST).await.unwrap(), built(list));
        let info = format!(r#"{{"Version":"{latest}"}}"#);
        assert_eq!(ask(LATEST).await.unwrap(), built(&info));
    }
    // Nobody can know where a branch stands.
    assert_eq!(
        ask(MASTER).await.unwrap_err().kind(),
        ErrorKind::FetchDisabled
    );
    assert_eq!(scene.upstream.fetches_in_all(), 0);
}

// acceptance: F5
// protocol: R01
#[tokio::test]
async fn an_upstream_out_of_reach_is_as_good_as_none() {
    let (scene, _clock) = scene();
    store_infos(&scene, &["v1.0.0", "v1.1.0"]).await;
    for path in [LIST, LATEST] {
        scene.upstream.serve(path, Reply::unreachable());
    }
    let instance = started(&scene);
    let list = list(&instance).await.unwrap();
    assert_eq!(list, answer("v1.0.0\nv1.1.0\n", Verdict::BuiltFromStore));
    let latest = asked(&instance, LATEST, GetOptions::default())
        .await
        .unwrap();
    assert_eq!(
        latest,
        answer(r#"{"Version":"v1.1.0"}"#, Verdict::BuiltFromStore)
    );
}

// protocol: L05
#[tokio::test]
async fn an_upstream_that_answers_badly_is_no_reason_to_make_up_a_list() {
    let (scene, _clock) = scene();
    store_infos(&scene, &["v1.0.0"]).await;
    scene.upstream.serve(LIST, Reply::failure());
    let instance = started(&scene);
    assert_eq!(
        list(&instance).await.unwrap_err().kind(),
        ErrorKind::Transient
    );
}

// acceptance: F5
#[tokio::test]
async fn offline_the_last_answer_is_served_at_any_age() {
    let (scene, clock) = scene();
    let instance = started(&scene);
    list(&instance).await.unwrap();
    instance.settled().await;
    clock.advance(EXPIRED * 2);
    // The records have long forgotten it; the store has not.
    assert!(scene.records.get(LIST_RECORD).await.unwrap().is_none());
    let told = list(&offline(&scene)).await.unwrap();
    assert_eq!(told.0, "v1.0.0\n");
    assert_eq!(scene.upstream.fetches(LIST), 1);
}

// protocol: R03
#[tokio::test]
async fn a_restart_that_lost_its_records_goes_on_from_the_store() {
    let (scene, clock) = scene();
    list(&started(&scene)).await.unwrap();
    scene.no_leases().await;
    let forget = async || scene.records.delete(LIST_RECORD).await.unwrap();
    // Still fresh: no fetch.
    clock.advance(FRESH / 2);
    assert!(forget().await);
    let restarted = started(&scene);
    assert_eq!(
        list(&restarted).await.unwrap(),
        answer("v1.0.0\n", Verdict::HitStored)
    );
    assert_eq!(scene.upstream.fetches(LIST), 1);
    // Stale, with a failing upstream: used all the same.
    restarted.settled().await;
    assert!(forget().await);
    clock.advance(STALE);
    scene.upstream.serve(LIST, Reply::failure());
    let told = list(&started(&scene)).await.unwrap();
    assert_eq!(told, answer("v1.0.0\n", Verdict::StaleIfError));
}
