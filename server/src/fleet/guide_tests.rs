//! The guide for operators says what is true: its sections, settings, metrics and permissions.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use lease::testing::{ServerKind, TestServer};
use lease::{
    Acquire, Backup, Changed, DelayQueue, Holder, JobId, JobQuery, JobRef, JobSerial, LeaseKey,
    LeaseQuery, NewJob, Outcome, Progress, Pushed, QueueLimits, Restored, Review, Settled,
};

use super::tests::{PATIENCE, fleet};
use crate::admin::testing::scene_with;
use crate::config::{Environment, Flags, Loaded};

const GUIDE: &str = include_str!("../../../docs/valkey.md");
const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

// acceptance: E16
// acceptance: E26
#[test]
fn the_guide_has_its_sections() {
    for section in [
        "## Quick start",
        "## Single or fleet",
        "## Reference",
        "## Topologies",
        "## Tuning",
        "### Pool sizing",
        "### Memory",
        "## Monitoring",
        "## Troubleshooting",
        "## Security",
        "## Architecture",
        "## Migration",
        "## FAQ",
    ] {
        assert!(GUIDE.lines().any(|line| line == section), "{section}");
    }
    assert!(GUIDE.contains("Bytes = rate × life × size"));
}

// acceptance: E2
// acceptance: E17
#[test]
fn its_settings_exist_and_its_examples_are_right() {
    let defaults = Loaded::read(
        &Flags {
            set: vec!["upstream=direct".to_owned(), "storage=memory://".to_owned()],
            ..Flags::default()
        },
        &Environment::of([("HOME", "/h")]),
    );
    let keys: Vec<_> = defaults.unwrap().settings().map(|row| row.key).collect();
    for word in quoted(GUIDE) {
        let is_key = [
            "valkey.",
            "internal.",
            "fleet.",
            "lease.",
            "l1.",
            "documents.",
        ]
        .iter()
        .any(|table| word.starts_with(table) && !word.contains([':', '/', '*', ' ', '=']));
        assert!(!is_key || keys.contains(&word), "{word} is no key");
    }
    let blocks = GUIDE.split("```toml\n").skip(1);
    let blocks: Vec<&str> = blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("corral.toml");
        std::fs::write(&file, block).unwrap();
        let flags = Flags {
            config: Some(file),
            set: vec!["upstream=direct".to_owned(), "storage=memory://".to_owned()],
            ..Flags::default()
        };
        let read = Loaded::read(&flags, &Environment::of([("HOME", "/h")]));
        // The files of the examples are not there; everything else must be right.
        for mistake in read.unwrap_err().0 {
            assert!(mistake.problem.contains("No such file"), "{mistake}");
        }
    }
}

#[actix_web::test]
async fn its_metrics_and_those_of_the_operations_page_exist() {
    let server = TestServer::start(ServerKind::Valkey).await;
    let valkey = format!("valkey.url={}", server.url());
    let scene = scene_with(&["offline=false", "upstream=http://127.0.0.1:9", &valkey]).await;
    let (_, text) = scene.get("/metrics").await;
    let text = text.as_str().unwrap();
    for word in quoted(GUIDE).chain(quoted(OPERATIONS)) {
        let name = word.split('{').next().unwrap();
        if !name.starts_with("corral_") {
            continue;
        }
        // Counters are declared without the ending that their samples have.
        let name = name.trim_end_matches("_total").trim_end_matches("_info");
        let declared = format!("# HELP {name} ");
        assert!(text.contains(&declared), "{word} is no metric");
    }
}

#[actix_web::test]
async fn its_permissions_are_enough() {
    let line = GUIDE
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("ACL SETUSER"));
    let rules = line.unwrap().replace("PASSWORD", "hush");
    for kind in [ServerKind::Valkey, ServerKind::Redis] {
        let server = TestServer::start(kind).await;
        // As the guide says: Redis 7.0 does not know this one.
        let rules = match kind {
            ServerKind::Redis => rules.replace(" +client|setinfo", ""),
            _ => rules.clone(),
        };
        assert_eq!(server.command(&rules), "+OK\r\n");
        let url = server.url().replace("://", "://corral:hush@");
        let scene = scene_with(&[&format!("valkey.url={url}")]).await;
        assert_eq!(fleet(&scene).degraded(), None, "{kind:?}");
        assert!(fleet(&scene).secret().is_set());
        let health = fleet(&scene).valkey().health();
        let about = health.nodes[0].server.as_ref().unwrap();
        assert!(about.scripting && !about.version.is_empty(), "{about:?}");

        let leases = &scene.state.leases;
        let holder = Holder {
            instance: "a".into(),
            address: None,
        };
        let key = LeaseKey::new("example.com/m@v1.0.0.zip").unwrap();
        for end in ["release", "break", "take over"] {
            let acquired = leases.try_acquire(&key, &holder, PATIENCE).await.unwrap();
            let Acquire::Granted(grant) = acquired else {
                panic!("{end}: held")
            };
            let held = leases.try_acquire(&key, &holder, PATIENCE).await.unwrap();
            assert!(matches!(held, Acquire::Held(_)), "{held:?}");
            leases.renew(&grant, &Progress::default()).await.unwrap();
            let page = leases.list(&LeaseQuery::default()).await.unwrap();
            assert_eq!(page.leases.len(), 1, "{kind:?} {end}");
            match end {
                "release" => drop(leases.release(&grant, Outcome::Stored).await.unwrap()),
                "break" => drop(leases.force_release(&key, &grant.token).await.unwrap()),
                _ => drop(
                    leases
                        .take_over(&key, &grant.token, PATIENCE)
                        .await
                        .unwrap(),
                ),
            }
            assert!(leases.get(&key).await.unwrap().is_none(), "{kind:?} {end}");
        }
        let records = scene.records();
        records.set("k", "v".into(), PATIENCE).await.unwrap();
        assert!(
            !records
                .set_if_absent("k", "w".into(), PATIENCE)
                .await
                .unwrap()
        );
        assert_eq!(records.list("", None, 9).await.unwrap().records.len(), 1);
        assert!(records.delete("k").await.unwrap());
        let queue = fleet(&scene).valkey().queue(QueueLimits::default());
        every_order(&*queue).await;
        let (_, text) = scene.get("/metrics").await;
        let failed = text.as_str().unwrap().lines().find(|line| {
            let names = [
                "corral_valkey_command_failures_total{",
                "corral_valkey_errors_total{",
            ];
            names.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")
        });
        assert_eq!(failed, None, "{kind:?}");
        let denied = server.command("ACL LOG");
        assert_eq!(denied, "*0\r\n", "{kind:?}");
    }
}

/// Takes a job through everything that can become of it.
async fn every_order(queue: &dyn DelayQueue) {
    let id = JobId::new("example.com/m@v1.0.0.zip").unwrap();
    let mut job = NewJob::new(id.clone(), "fetch", Bytes::new());
    // Nobody who runs takes it.
    job.owner = Some("not-there".into());
    let take = async || {
        let mut taken = queue.take("not-there", 1, PATIENCE).await.unwrap();
        taken.remove(0).receipt
    };
    assert_eq!(queue.push(&job).await.unwrap(), Pushed::Queued);
    assert!(queue.next_due("not-there").await.unwrap().is_some());
    let receipt = take().await;
    assert_eq!(
        queue.extend(&receipt, PATIENCE).await.unwrap(),
        Settled::Settled
    );
    let retried = queue.retry(&receipt, PATIENCE, "why").await.unwrap();
    assert_eq!(retried, Settled::Settled);
    assert_eq!(queue.run_now(&id).await.unwrap(), Changed::Changed);
    let buried = queue.bury(&take().await, "why").await.unwrap();
    assert_eq!(buried, Settled::Settled);
    let dead = JobQuery {
        dead: true,
        ..JobQuery::default()
    };
    assert_eq!(queue.list(&dead).await.unwrap().jobs.len(), 1);
    assert_eq!(queue.stats().await.unwrap().dead, 1);
    assert_eq!(queue.requeue(&id).await.unwrap(), Changed::Changed);
    assert_eq!(queue.ack(&take().await).await.unwrap(), Settled::Settled);
    let of = JobRef {
        id: id.clone(),
        serial: job.serial,
    };
    assert_eq!(queue.review(&[of]).await.unwrap(), [Review::Done]);
    job.serial = JobSerial::random();
    let backup = Backup {
        age: PATIENCE,
        pushed_ago: PATIENCE,
        attempts: 1,
        last_error: Some("why".into()),
        dead: false,
        job,
    };
    assert_eq!(queue.restore(&backup).await.unwrap(), Restored::Added);
    let done = JobRef {
        id: id.clone(),
        serial: backup.job.serial,
    };
    queue.finish(&[done.into()]).await.unwrap();
    queue.restore(&backup).await.unwrap();
    queue.drop_job(&id).await.unwrap();
    assert!(queue.get(&id).await.unwrap().is_none());
}
