//! Instances over one shared queue that goes away on demand.

use async_trait::async_trait;

use super::*;
use crate::queue::local::tests::setup::Folder;
use crate::testing::QueueSetup;

pub(super) const LONG: Duration = Duration::from_secs(10 * 60);

/// A shared queue and a clock that is moved by hand.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) clock: ManualClock,
    pub(super) shared: LocalQueue,
    pub(super) faulty: Arc<FaultyQueue>,
}

/// One instance of it.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) queue: JournaledQueue,
    pub(super) journal: LocalQueue,
}

impl Fleet {
    pub(super) fn new() -> Self {
        Self::limited(QueueLimits::default())
    }

    pub(super) fn limited(limits: QueueLimits) -> Self {
        Self::on(ManualClock::new(), limits)
    }

    pub(super) fn on(clock: ManualClock, limits: QueueLimits) -> Self {
        let time: Arc<dyn Clock> = Arc::new(clock.clone());
        let shared = LocalQueue::in_memory(limits, Arc::clone(&time));
        let faulty = FaultyQueue::new(Arc::new(shared.clone()), time);
        Self {
            clock,
            shared,
            faulty: Arc::new(faulty),
        }
    }

    /// The same fleet after its server lost its memory.
    pub(super) fn forgetful(&self) -> Self {
        Self::on(self.clock.clone(), QueueLimits::default())
    }

    pub(super) fn instance(&self) -> Instance {
        let clock = Arc::new(self.clock.clone());
        self.with_journal(LocalQueue::journal_in_memory(QueueLimits::default(), clock))
    }

    pub(super) fn with_journal(&self, journal: LocalQueue) -> Instance {
        let shared = Arc::clone(&self.faulty) as Arc<dyn DelayQueue>;
        let clock = Arc::new(self.clock.clone());
        let queue = JournaledQueue::new(shared, journal.clone(), clock, &Handle::current());
        // The tests say when.
        if let Some(task) = lock(&queue.task).take() {
            task.abort();
        }
        Instance { queue, journal }
    }

    /// Opens a journal that outlives its process.
    pub(super) async fn journal_in(&self, folder: &Folder) -> LocalQueue {
        let clock = Arc::new(self.clock.clone());
        LocalQueue::open_journal(folder.file(), QueueLimits::default(), clock).await
    }

    pub(super) fn away(&self, away: bool) {
        self.faulty.always(away.then_some(Fault::Fails));
    }

    pub(super) fn pass(&self, by: Duration) {
        self.clock.advance(by);
    }
}

impl Instance {
    pub(super) async fn push(&self, id: &str) {
        assert_eq!(self.queue.push(&job(id)).await.unwrap(), Pushed::Queued);
    }

    pub(super) async fn take(&self, worker: &str) -> Vec<TakenJob> {
        self.queue.take(worker, 100, LONG).await.unwrap()
    }

    pub(super) async fn finish_all(&self, worker: &str) -> usize {
        let taken = self.take(worker).await;
        for job in &taken {
            let ack = self.queue.ack(&job.receipt).await.unwrap();
            assert_eq!(ack, Settled::Settled);
        }
        taken.len()
    }

    pub(super) async fn reconcile(&self) -> Result<(), LeaseError> {
        self.queue.inner.reconcile().await
    }

    pub(super) async fn journal_state(&self, name: &str) -> Option<JobState> {
        let view = self.journal.get(&id(name)).await.unwrap();
        view.map(|view| view.state)
    }
}

pub(super) fn id(id: &str) -> JobId {
    JobId::new(id).unwrap()
}

pub(super) fn job(name: &str) -> NewJob {
    NewJob::new(id(name), "fill", Bytes::from_static(b"{\"v\":1}"))
}

pub(super) fn ids(jobs: &[TakenJob]) -> Vec<&str> {
    jobs.iter().map(|job| job.info.id.as_str()).collect()
}

/// Two instances over a queue in memory, with their tasks running.
#[derive(Debug)]
pub(super) struct InMemory(ManualClock);

impl InMemory {
    pub(super) fn new() -> Self {
        Self(ManualClock::new())
    }
}

#[async_trait]
impl QueueSetup for InMemory {
    async fn fresh(&self, limits: QueueLimits) -> [Arc<dyn DelayQueue>; 2] {
        let clock: Arc<dyn Clock> = Arc::new(self.0.clone());
        let shared = Arc::new(LocalQueue::in_memory(limits, Arc::clone(&clock)));
        [(); 2].map(|()| {
            let journal = LocalQueue::journal_in_memory(QueueLimits::default(), Arc::clone(&clock));
            let queue = JournaledQueue::new(
                Arc::clone(&shared) as Arc<dyn DelayQueue>,
                journal,
                Arc::clone(&clock),
                &Handle::current(),
            );
            Arc::new(queue) as Arc<dyn DelayQueue>
        })
    }

    fn while_(&self) -> Duration {
        Duration::from_secs(7)
    }

    async fn pass(&self, by: Duration) {
        self.0.advance(by);
        // Whatever the tasks make of it, they make it now.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}
