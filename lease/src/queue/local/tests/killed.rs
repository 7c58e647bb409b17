//! A process that is killed at any moment: this test's own program, started again as the victim.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::TokioClock;

/// Tells the child that it is one, and where the file is.
const FILE: &str = "CORRAL_TEST_QUEUE_FILE";
/// How a child says that it took a job.
const TOOK: char = '*';

// The victim. Says what was acknowledged to it, `+id`, and what it is about to end, `-id`.
#[tokio::test]
#[allow(
    clippy::disallowed_methods,
    reason = "a test's child is told where its file is"
)]
async fn child() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let clock = Arc::new(TokioClock);
    let queue = LocalQueue::open(path, QueueLimits::default(), clock).await;
    let round = std::process::id();
    for n in 0_u64.. {
        let pushes = (0..4).map(|m| {
            let job = job(&format!("{round}-{n}-{m}"));
            let queue = queue.clone();
            async move {
                queue.push(&job).await.unwrap();
                say('+', job.id.as_str());
            }
        });
        futures::future::join_all(pushes).await;
        if n % 3 == 0 {
            for taken in queue
                .take("child", 2, Duration::from_secs(60))
                .await
                .unwrap()
            {
                say('-', taken.info.id.as_str());
                queue.ack(&taken.receipt).await.unwrap();
            }
        }
    }
}

fn say(sign: char, id: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{sign}{id}").unwrap();
    out.flush().unwrap();
}

/// Starts a victim on the folder's file.
fn start(name: &str, folder: &Folder) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("queue::local::tests::killed::{name}"))
        .env(FILE, folder.file())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

// The victim that dies at work: takes three jobs, settles one, and says so.
#[tokio::test]
#[allow(
    clippy::disallowed_methods,
    reason = "a test's child is told where its file is"
)]
async fn child_at_work() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let clock = Arc::new(TokioClock);
    let queue = LocalQueue::open_journal(path, QueueLimits::default(), clock).await;
    let owned = NewJob {
        owner: Some(Arc::from("child")),
        ..job("owned")
    };
    for job in [owned, job("any"), job("retried")] {
        queue.push(&job).await.unwrap();
    }
    let hour = Duration::from_secs(3_600);
    for taken in queue.take("child", 3, hour).await.unwrap() {
        if taken.info.id.as_str() == "retried" {
            queue.retry(&taken.receipt, hour, "later").await.unwrap();
        }
        say(TOOK, taken.info.id.as_str());
    }
    std::future::pending().await
}

// Nobody else can have them: they are not waited for until their time is over.
// acceptance: G6
#[tokio::test]
async fn what_a_killed_process_had_taken_is_due_at_once() {
    for journal in [false, true] {
        let folder = Folder::new();
        let mut child = start("child_at_work", &folder);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let took = lines.filter(|line| matches!(line, Ok(line) if line.starts_with(TOOK)));
        assert_eq!(took.take(3).count(), 3);
        child.kill().unwrap();
        child.wait().unwrap();
        let (limits, clock) = (QueueLimits::default(), Arc::new(ManualClock::new()));
        let queue = match journal {
            false => LocalQueue::open(folder.file(), limits, clock).await,
            true => LocalQueue::open_journal(folder.file(), limits, clock).await,
        };
        let due = queue.next_due("child").await.unwrap();
        assert_eq!(due, Some(Duration::ZERO), "journal: {journal}");
        let mut taken = queue
            .take("child", 10, Duration::from_secs(1))
            .await
            .unwrap();
        taken.sort_unstable_by(|a, b| a.info.id.cmp(&b.info.id));
        let seen: Vec<_> = taken
            .iter()
            .map(|job| (job.info.id.as_str(), job.info.attempts))
            .collect();
        // The attempt that ended the process counts: such a job must not do so for ever.
        assert_eq!(seen, [("any", 2), ("owned", 2)], "journal: {journal}");
    }
}

// acceptance: G6
#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_job() {
    let folder = Folder::new();
    let mut pushed = std::collections::BTreeSet::new();
    let mut ended = std::collections::BTreeSet::new();
    for round in 0..5 {
        let mut child = start("child", &folder);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut seen, limit) = (0, 7 + 23 * round);
        let mut hear = |line: std::io::Result<String>| {
            let line = line.unwrap_or_default();
            if let Some(id) = line.strip_prefix('+') {
                pushed.insert(id.to_owned());
                seen += 1;
            } else if let Some(id) = line.strip_prefix('-') {
                ended.insert(id.to_owned());
            }
            seen
        };
        while hear(lines.next().expect("the child goes on")) < limit {}
        child.kill().unwrap();
        child.wait().unwrap();
        // It may have said more than was read until then.
        for line in lines {
            hear(line);
        }
    }
    let queue = LocalQueue::open(
        folder.file(),
        QueueLimits::default(),
        Arc::new(ManualClock::new()),
    )
    .await;
    let health = queue.file_health().unwrap();
    assert_eq!((health.last_error, health.set_aside.len()), (None, 0));
    assert!(pushed.len() > 200, "{}", pushed.len());
    for id in pushed.difference(&ended) {
        let view = queue.get(&JobId::new(id).unwrap()).await.unwrap();
        assert!(view.is_some(), "{id} is lost");
    }
}
