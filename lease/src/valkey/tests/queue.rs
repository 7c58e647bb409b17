//! The delay queue, against each server.

use async_trait::async_trait;
use bytes::Bytes;

use super::contract::OnServer;
use super::*;
use crate::testing::{QueueSetup, ServerKind, log, queue_contract};
use crate::{
    DELAY_MAX, DelayQueue, JobId, JobRef, JobSerial, JournaledQueue, LeaseErrorKind, LocalQueue,
    NewJob, Pushed, Settled, TakenJob,
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
    log::keep();
    let setup = OnServer::without_scripts(ServerKind::Valkey).await;
    let [queue, _] = QueueSetup::fresh(&setup, QueueLimits::default()).await;
    for _ in 0..3 {
        let error = queue.push(&job("unit")).await.unwrap_err();
        assert_eq!(error.kind(), LeaseErrorKind::Unavailable);
    }
    let server = setup.address();
    let told = log::warnings_with(&["shares no queue", &server]);
    assert_eq!(told.len(), 1, "{told:?}");
    // The journal does it all the same.
    let journal = LocalQueue::journal_in_memory(QueueLimits::default(), Arc::new(TokioClock));
    let clock = Arc::new(TokioClock);
    let queue = JournaledQueue::new(queue, journal, clock, &Handle::current());
    assert_eq!(queue.push(&job("unit")).await.unwrap(), Pushed::Queued);
    let taken = queue.take("worker", 1, LONG).await.unwrap();
    assert_eq!(ids(&taken), ["unit"]);
    let settled = queue.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(settled, Settled::Settled);
    assert_eq!(log::warnings_with(&["shares no queue", &server]).len(), 1);
}

// What an administrator forbids while we run is no different from what never was allowed.
// fault: 37
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_forbidden_meanwhile_leave_the_journal() {
    log::keep();
    let single = Single::new().await;
    let clock = Arc::new(TokioClock);
    let journal = LocalQueue::journal_in_memory(QueueLimits::default(), clock.clone());
    let shared = Arc::clone(&single.queue);
    let queue = JournaledQueue::new(shared, journal, clock, &Handle::current());
    assert_eq!(queue.push(&job("before")).await.unwrap(), Pushed::Queued);
    let rules = "ACL SETUSER default -@scripting";
    assert!(single.server.command(rules).starts_with("+OK"));
    assert_eq!(queue.push(&job("after")).await.unwrap(), Pushed::Queued);
    // The one at once, and the other once nobody can have it elsewhere.
    let mut seen = Vec::new();
    let until = tokio::time::Instant::now() + SOON;
    while seen.len() < 2 {
        for taken in queue.take("worker", 10, LONG).await.unwrap() {
            let settled = queue.ack(&taken.receipt).await.unwrap();
            assert_eq!(settled, Settled::Settled);
            seen.push(taken.info.id);
        }
        assert!(tokio::time::Instant::now() < until, "{seen:?}");
        tokio::task::yield_now().await;
    }
    let server = single.server.port().to_string();
    let told = log::warnings_with(&["shares no queue", &server]);
    assert_eq!(told.len(), 1, "{told:?}");
    queue.shutdown().await;
}

// An idle worker asks once a second: each time with one command, as also each step of a job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_is_one_command() {
    let single = Single::new().await;
    let queue = &single.queue;
    // From now on the server knows all scripts that are used here.
    for id in ["unit", "later"] {
        single.push(id).await;
    }
    let taken = single.take().await;
    queue.ack(&taken[0].receipt).await.unwrap();
    queue.retry(&taken[1].receipt, LONG, "e").await.unwrap();
    queue.next_due("worker").await.unwrap();
    let before = calls(&single.server);
    for n in 0..10 {
        assert_eq!(single.take().await, []);
        assert_eq!(calls(&single.server) - before, n + 1);
    }
    queue.next_due("worker").await.unwrap();
    assert_eq!(calls(&single.server) - before, 11);
    for n in 0..5 {
        single.push(&format!("unit{n}")).await;
    }
    assert_eq!(calls(&single.server) - before, 16);
    let taken = single.take().await;
    assert_eq!((taken.len(), calls(&single.server) - before), (5, 17));
    queue.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(calls(&single.server) - before, 18);
}

/// How many commands ran scripts, however they were called.
fn calls(server: &TestServer) -> u64 {
    let stats = server.command("INFO commandstats");
    let of = |name: &str| {
        let line = stats.lines().find(|line| line.starts_with(name))?;
        line.split("calls=").nth(1)?.split(',').next()?.parse().ok()
    };
    let of = |name: &str| -> u64 { of(name).unwrap_or(0) };
    of("cmdstat_evalsha:") + of("cmdstat_eval:")
}

// Somebody else wrote there, or memory failed: what makes no sense is in nobody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_mean_nothing_stop_nobody() {
    let single = Single::new().await;
    let queue = &single.queue;
    let journal = LocalQueue::journal_in_memory(QueueLimits::default(), Arc::new(TokioClock));
    let state = format!("{BUCKET}:state");
    let lines = |serial: &str, kind: &str| {
        format!("{serial}\n1\n1\n9999999999999\n0\n\n{kind}\n\n\n\n0\n").into_bytes()
    };
    let good = JobSerial::random().to_string();
    let odd: [Vec<u8>; 5] = [
        lines("no serial", "fill"),
        [&lines(&good, "fill")[..30], b"\xff\xfe"].concat(),
        lines(&good, "fill")
            .iter()
            .map(|byte| if *byte == b'f' { 0xff } else { *byte })
            .collect(),
        lines(&good, "fill").repeat(2),
        b"9".repeat(400),
    ];
    for (n, value) in odd.iter().enumerate() {
        single.push("odd").await;
        single.push("ours").await;
        let parts: [&[u8]; 4] = [b"HSET", state.as_bytes(), b"odd", value];
        single.server.bytes(&parts).unwrap();
        for (part, score) in [("due", "-inf"), ("taken", "inf"), ("dead", "inf")] {
            let key = format!("{BUCKET}:{part}");
            let parts: [&[u8]; 4] = [b"ZADD", key.as_bytes(), score.as_bytes(), b"\xff\x00"];
            single.server.bytes(&parts).unwrap();
        }
        queue.stats().await.unwrap();
        queue.next_due("worker").await.unwrap();
        for dead in [false, true] {
            let query = crate::JobQuery {
                dead,
                ..crate::JobQuery::default()
            };
            let page = queue.list(&query).await.unwrap();
            let ours = |view: &crate::JobView| view.info.id.as_str() == "ours";
            assert_eq!(page.jobs.iter().any(ours), !dead, "{n}");
        }
        let refs = ["odd", "ours"].map(|id| JobRef {
            id: JobId::new(id).unwrap(),
            serial: JobSerial::random(),
        });
        assert_eq!(queue.review(&refs).await.unwrap().len(), 2, "{n}");
        let taken = single.take().await;
        assert!(ids(&taken).contains(&"ours"), "{n}: {:?}", ids(&taken));
        queue.bury(&taken[0].receipt, "e").await.unwrap();
        let key = format!("{BUCKET}:dead");
        for score in ["inf", "-inf"] {
            let parts = ["ZADD", &key, score, taken[0].info.id.as_str()];
            single.server.parts(&parts).unwrap();
            queue.get(&taken[0].info.id).await.unwrap();
        }
        single.server.command("FLUSHALL");
    }
    // A part of another type is the server's failure, and the journal's business.
    single.server.command(&format!("SET {BUCKET}:due text"));
    let shared = Arc::clone(queue);
    let queue = JournaledQueue::new(shared, journal, Arc::new(TokioClock), &Handle::current());
    assert_eq!(queue.push(&job("unit")).await.unwrap(), Pushed::Queued);
    assert_eq!(ids(&queue.take("worker", 1, LONG).await.unwrap()), ["unit"]);
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

// What is memory, and what gave way meanwhile, is told to whoever asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_gave_way_to_a_later_one_is_over() {
    let single = Single::new().await;
    let jobs = [(); 3].map(|()| job("unit"));
    single.queue.push(&jobs[0]).await.unwrap();
    let taken = single.take().await;
    for job in &jobs[1..] {
        single.queue.push(job).await.unwrap();
    }
    single.queue.ack(&taken[0].receipt).await.unwrap();
    let refs = jobs.map(|job| JobRef {
        id: job.id,
        serial: job.serial,
    });
    let reviews = single.queue.review(&refs).await.unwrap();
    assert_eq!(reviews, [crate::Review::Done; 3]);
}

// A server that is full answers whoever looks, and takes nothing down.
// fault: 21
// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_is_away() {
    let single = Single::new().await;
    let clock = Arc::new(TokioClock);
    let journal = LocalQueue::journal_in_memory(QueueLimits::default(), clock.clone());
    let shared = Arc::clone(&single.queue);
    let queue = JournaledQueue::new(shared, journal, clock, &Handle::current());
    assert_eq!(queue.push(&job("unit")).await.unwrap(), Pushed::Queued);
    let full = |bytes: &str| {
        single
            .server
            .command(&format!("CONFIG SET maxmemory {bytes}"))
    };
    assert!(full("1").starts_with("+OK"));
    let until = tokio::time::Instant::now() + SOON;
    let taken = loop {
        let taken = queue.take("worker", 1, LONG).await.unwrap();
        if !taken.is_empty() {
            break taken;
        }
        // What it says to that must not make it look as if it were back.
        queue.next_due("worker").await.unwrap();
        let why = queue.health().shared_error.unwrap_or_default();
        assert!(why.contains("OOM"), "{why}");
        assert!(tokio::time::Instant::now() < until);
        tokio::task::yield_now().await;
    };
    let settled = queue.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(settled, Settled::Settled);
    assert!(full("0").starts_with("+OK"));
    while single.queue.get(&taken[0].info.id).await.unwrap().is_some() {
        assert!(tokio::time::Instant::now() < until);
        tokio::task::yield_now().await;
    }
    queue.shutdown().await;
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
        // It counts what it restored behind the answer that says so.
        let health = queue.health();
        if matches!(there, Ok(20)) && health.restored == 20 && health.shared_error.is_none() {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{there:?} {health:?}");
        tokio::task::yield_now().await;
    }
    let settled = queue.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(settled, Settled::Settled);
    queue.shutdown().await;
    single.valkey.shutdown().await;
}
