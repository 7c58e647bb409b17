//! The delay queue, against each server.

use async_trait::async_trait;
use bytes::Bytes;

use super::contract::OnServer;
use super::*;
use crate::testing::{QueueSetup, ServerKind, queue_contract};
use crate::{
    DELAY_MAX, DelayQueue, JobId, JournaledQueue, LeaseErrorKind, LocalQueue, NewJob, Pushed,
    TakenJob,
};

const LONG: Duration = Duration::from_secs(600);
/// The queue's keys, but for what stands before and behind.
const BUCKET: &str = "corral:1:{b06}:queue";

#[async_trait]
impl QueueSetup for OnServer {
    async fn fresh(&self, limits: QueueLimits) -> [Arc<dyn DelayQueue>; 2] {
        self.instances().await.map(|valkey| valkey.queue(limits))
    }

    fn while_(&self) -> Duration {
        Duration::from_millis(600)
    }
}

/// One server, and one queue on it.
struct Single {
    server: TestServer,
    valkey: Valkey,
    queue: Arc<dyn DelayQueue>,
}

impl Single {
    async fn new() -> Self {
        let server = TestServer::start(ServerKind::Valkey).await;
        let mut config = config(server.url());
        config.command_timeout = Duration::from_secs(5);
        let valkey = start(config).await;
        Self {
            queue: valkey.queue(QueueLimits::default()),
            server,
            valkey,
        }
    }

    async fn push(&self, id: &str) {
        assert_eq!(self.queue.push(&job(id)).await.unwrap(), Pushed::Queued);
    }

    async fn take(&self) -> Vec<TakenJob> {
        self.queue.take("worker", 100, LONG).await.unwrap()
    }
}

fn job(id: &str) -> NewJob {
    NewJob::new(JobId::new(id).unwrap(), "fill", Bytes::from_static(b"{}"))
}

fn ids(jobs: &[TakenJob]) -> Vec<&str> {
    jobs.iter().map(|job| job.info.id.as_str()).collect()
}

// acceptance: B15 B16 E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_on_valkey() {
    queue_contract(&OnServer::new(ServerKind::Valkey).await).await;
}

// acceptance: B15 B16 E18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_on_redis() {
    queue_contract(&OnServer::new(ServerKind::Redis).await).await;
}

/// Two instances with journals of their own.
#[derive(Debug)]
struct WithJournals(OnServer);

#[async_trait]
impl QueueSetup for WithJournals {
    async fn fresh(&self, limits: QueueLimits) -> [Arc<dyn DelayQueue>; 2] {
        let clock = Arc::new(TokioClock);
        QueueSetup::fresh(&self.0, limits).await.map(|shared| {
            let journal = LocalQueue::journal_in_memory(limits, clock.clone());
            let queue = JournaledQueue::new(shared, journal, clock.clone(), &Handle::current());
            Arc::new(queue) as Arc<dyn DelayQueue>
        })
    }

    fn while_(&self) -> Duration {
        QueueSetup::while_(&self.0)
    }
}

// acceptance: B16 G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_with_journals_on_valkey() {
    let setup = WithJournals(OnServer::new(ServerKind::Valkey).await);
    queue_contract(&setup).await;
}

// fault: 37
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_scripts_there_is_no_shared_queue() {
    let setup = OnServer::without_scripts(ServerKind::Valkey).await;
    let [queue, _] = QueueSetup::fresh(&setup, QueueLimits::default()).await;
    let error = queue.push(&job("unit")).await.unwrap_err();
    assert_eq!(error.kind(), LeaseErrorKind::Unavailable);
    // The journal does it all the same.
    let journal = LocalQueue::journal_in_memory(QueueLimits::default(), Arc::new(TokioClock));
    let clock = Arc::new(TokioClock);
    let queue = JournaledQueue::new(queue, journal, clock, &Handle::current());
    assert_eq!(queue.push(&job("unit")).await.unwrap(), Pushed::Queued);
    let taken = queue.take("worker", 1, LONG).await.unwrap();
    assert_eq!(ids(&taken), ["unit"]);
}

// Nothing that this instance wrote stays for ever, whatever becomes of the instance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_of_the_queue_has_an_end() {
    let single = Single::new().await;
    for id in ["acked", "buried", "retried", "taken"] {
        single.push(id).await;
    }
    for taken in single.take().await {
        match taken.info.id.as_str() {
            "acked" => single.queue.ack(&taken.receipt).await.unwrap(),
            "buried" => single.queue.bury(&taken.receipt, "e").await.unwrap(),
            "retried" => single.queue.retry(&taken.receipt, LONG, "e").await.unwrap(),
            _ => continue,
        };
    }
    for part in ["jobs", "state", "errors", "due", "taken", "dead", "done"] {
        let left = single.server.command(&format!("PTTL {BUCKET}:{part}"));
        let left: i64 = left.trim().trim_start_matches(':').parse().unwrap();
        assert!(left > 30 * 24 * 3_600_000, "{part} lasts {left} ms");
    }
    // A change extends what has lost half of its time.
    single
        .server
        .command(&format!("PEXPIRE {BUCKET}:due 60000"));
    single.push("another").await;
    let left = single.server.command(&format!("PTTL {BUCKET}:due"));
    assert!(left.len() > ":60000\r\n".len(), "{left}");
}

// A server that runs out of memory may evict any of the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_was_evicted_blocks_nothing() {
    let single = Single::new().await;
    for part in ["jobs", "state", "errors", "due", "taken", "dead", "done"] {
        for id in ["waiting", "buried", "taken"] {
            single.push(id).await;
        }
        for taken in single.take().await {
            match taken.info.id.as_str() {
                "buried" => single.queue.bury(&taken.receipt, "e").await.unwrap(),
                "waiting" => single
                    .queue
                    .retry(&taken.receipt, Duration::ZERO, "e")
                    .await
                    .unwrap(),
                _ => continue,
            };
        }
        assert!(
            single
                .server
                .command(&format!("DEL {BUCKET}:{part}"))
                .starts_with(':')
        );
        single.queue.stats().await.unwrap();
        single
            .queue
            .list(&crate::JobQuery::default())
            .await
            .unwrap();
        single.queue.next_due("worker").await.unwrap();
        // Whoever still has the job brings it back by asking for it again.
        let pushed = single.queue.push(&job("waiting")).await.unwrap();
        assert!(
            !matches!(pushed, Pushed::Full | Pushed::Dead { .. }),
            "{part}: {pushed:?}"
        );
        assert!(ids(&single.take().await).contains(&"waiting"), "{part}");
        single.server.command("FLUSHALL");
    }
}

// The server's clock was ahead when the job was put there, or a fail-over changed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_clock_that_jumps_stalls_nothing() {
    let single = Single::new().await;
    single.push("due").await;
    single.push("taken").await;
    let taken = single.take().await;
    single
        .queue
        .retry(&taken[0].receipt, LONG, "e")
        .await
        .unwrap();
    for part in ["due", "taken"] {
        let far = format!("ZADD {BUCKET}:{part} XX 9999999999999 {part}");
        assert!(single.server.command(&far).starts_with(':'));
    }
    assert_eq!(single.take().await, []);
    let next = single.queue.next_due("worker").await.unwrap().unwrap();
    assert!(next <= DELAY_MAX, "{next:?}");
    for part in ["due", "taken"] {
        let at = single
            .server
            .command(&format!("ZSCORE {BUCKET}:{part} {part}"));
        assert!(!at.contains("9999999999999"), "{part}: {at}");
    }
}

// Another version's job is not for us, and is in nobody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_read_is_passed_over() {
    let single = Single::new().await;
    single.push("newer").await;
    single.push("ours").await;
    single
        .server
        .parts(&["HSET", &format!("{BUCKET}:jobs"), "newer", "\u{1}binary"])
        .unwrap();
    assert_eq!(ids(&single.take().await), ["ours"]);
    let newer = JobId::new("newer").unwrap();
    assert!(
        single.queue.get(&newer).await.unwrap().is_some(),
        "it stays"
    );
    // A line that means nothing is cleared away when it is met.
    single.push("odd").await;
    single
        .server
        .parts(&["HSET", &format!("{BUCKET}:state"), "odd", "?"])
        .unwrap();
    single.push("odd").await;
    assert_eq!(ids(&single.take().await), ["odd"]);
}

// fault: 21
// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_restarted_gets_its_jobs_back() {
    let mut single = Single::new().await;
    let clock = Arc::new(TokioClock);
    let journal = LocalQueue::journal_in_memory(QueueLimits::default(), clock.clone());
    let shared = Arc::clone(&single.queue);
    let queue = JournaledQueue::new(shared, journal, clock, &Handle::current());
    for n in 0..20 {
        let job = NewJob {
            due_in: LONG,
            ..job(&format!("unit{n}"))
        };
        assert_eq!(queue.push(&job).await.unwrap(), Pushed::Queued);
    }
    single.server.kill();
    // It is found to be away, and jobs are kept all the same.
    let alone = queue.push(&job("alone")).await.unwrap();
    assert_eq!(alone, Pushed::Queued);
    assert!(queue.health().shared_error.is_some());
    let taken = queue.take("worker", 10, LONG).await.unwrap();
    assert_eq!(ids(&taken), ["alone"]);
    single.server.restart().await;
    let until = tokio::time::Instant::now() + SOON;
    loop {
        let there = single.queue.stats().await.map(|stats| stats.queued);
        if matches!(there, Ok(20)) {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{there:?}");
        tokio::task::yield_now().await;
    }
    assert_eq!(queue.health().restored, 20);
    assert_eq!(queue.health().shared_error, None);
    let settled = queue.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(settled, crate::Settled::Settled);
    queue.shutdown().await;
    single.valkey.shutdown().await;
}
