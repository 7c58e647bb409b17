//! A process that is killed at any moment: this test's own program, started again as the victim.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::TokioClock;

/// Tells the child that it is one, and where the file is.
const FILE: &str = "CORRAL_TEST_QUEUE_FILE";

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

// acceptance: G6
#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_job() {
    let folder = Folder::new();
    let mut pushed = std::collections::BTreeSet::new();
    let mut ended = std::collections::BTreeSet::new();
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("queue::local::tests::killed::child")
            .env(FILE, folder.file())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
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
