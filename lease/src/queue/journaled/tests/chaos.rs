//! Random outages, losses, restarts and cancellations: whatever happens, no acknowledged job is
//! lost, and in the end nothing is left.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Push(usize, u8),
    /// Its answer is lost on the way.
    UnheardPush(usize, u8),
    /// It is given up on the way.
    CancelledPush(usize, u8),
    /// Takes, and settles every second job so, the others never.
    Take(usize, Settle),
    Away(bool),
    /// The next call takes effect, and its answer is lost.
    LoseReply(QueueOp),
    Forget,
    /// The instance starts again with its journal.
    Restart(usize),
    Reconcile(usize),
    Pass(u64),
}

#[derive(Debug, Clone, Copy)]
enum Settle {
    Ack,
    Retry,
    Never,
}

const INSTANCES: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    let settle = prop_oneof![Just(Settle::Ack), Just(Settle::Retry), Just(Settle::Never)];
    let lost = prop_oneof![
        Just(QueueOp::Take),
        Just(QueueOp::Ack),
        Just(QueueOp::Restore),
        Just(QueueOp::Review),
        Just(QueueOp::Finish),
    ];
    let one = 0..INSTANCES;
    prop_oneof![
        8 => (one.clone(), 0..10_u8).prop_map(|(n, id)| Op::Push(n, id)),
        1 => (one.clone(), 0..10_u8).prop_map(|(n, id)| Op::UnheardPush(n, id)),
        1 => (one.clone(), 0..10_u8).prop_map(|(n, id)| Op::CancelledPush(n, id)),
        6 => (one.clone(), settle).prop_map(|(n, settle)| Op::Take(n, settle)),
        3 => any::<bool>().prop_map(Op::Away),
        2 => lost.prop_map(Op::LoseReply),
        1 => Just(Op::Forget),
        2 => one.clone().prop_map(Op::Restart),
        4 => one.prop_map(Op::Reconcile),
        4 => (0..90_u64).prop_map(Op::Pass),
    ]
}

struct World {
    fleet: Fleet,
    instances: Vec<Instance>,
    /// Ids that were acknowledged to somebody and not done since.
    owed: BTreeSet<JobId>,
}

impl World {
    async fn run(&mut self, op: Op) {
        // Nothing happens in no time.
        self.fleet.pass(Duration::from_millis(10));
        match op {
            Op::Push(n, name) => self.push(n, name).await,
            Op::UnheardPush(n, name) => {
                self.fleet.faulty.next(QueueOp::Push, 1, Fault::ReplyLost);
                self.push(n, name).await;
            }
            Op::CancelledPush(n, name) => {
                self.fleet.faulty.next(QueueOp::Push, 1, Fault::Hangs);
                let new = job(&format!("unit{name}"));
                let mut push = Box::pin(self.instances[n].queue.push(&new));
                assert!(futures::poll!(push.as_mut()).is_pending());
            }
            Op::Take(n, settle) => {
                let queue = &self.instances[n].queue;
                let taken = queue.take("worker", 3, LONG).await.unwrap();
                for job in taken.iter().step_by(2) {
                    let receipt = &job.receipt;
                    match settle {
                        Settle::Ack => {
                            if queue.ack(receipt).await.unwrap() == Settled::Settled {
                                self.owed.remove(&job.info.id);
                            }
                        }
                        // It may fail, and the job comes back.
                        Settle::Retry => {
                            drop(queue.retry(receipt, Duration::from_secs(9), "e").await)
                        }
                        Settle::Never => {}
                    }
                }
            }
            Op::Away(away) => self.fleet.away(away),
            Op::LoseReply(op) => self.fleet.faulty.next(op, 1, Fault::ReplyLost),
            Op::Forget => {
                self.fleet = self.fleet.forgetful();
                for n in 0..INSTANCES {
                    self.restart(n);
                }
            }
            Op::Restart(n) => self.restart(n),
            Op::Reconcile(n) => drop(self.instances[n].reconcile().await),
            Op::Pass(seconds) => self.fleet.pass(Duration::from_secs(seconds)),
        }
    }

    async fn push(&mut self, n: usize, name: u8) {
        let new = job(&format!("unit{name}"));
        let pushed = self.instances[n].queue.push(&new).await.unwrap();
        assert!(matches!(
            pushed,
            Pushed::Queued | Pushed::AlreadyQueued { .. }
        ));
        self.owed.insert(new.id);
    }

    fn restart(&mut self, n: usize) {
        let journal = self.instances[n].journal.clone();
        self.instances[n] = self.fleet.with_journal(journal);
    }

    /// All is well again; returns what is done from then on, and how often.
    async fn drain(&mut self) -> Vec<JobId> {
        // What was ordered to go wrong and did not yet, never does.
        let shared = self.fleet.shared.clone();
        let clock: Arc<dyn Clock> = Arc::new(self.fleet.clock.clone());
        self.fleet.faulty = Arc::new(FaultyQueue::new(Arc::new(shared), clock));
        for n in 0..INSTANCES {
            self.restart(n);
        }
        let mut done = Vec::new();
        for _ in 0..4 {
            self.fleet.pass(2 * LONG);
            for n in 0..INSTANCES {
                self.instances[n].reconcile().await.unwrap();
            }
            for instance in &self.instances {
                for job in instance.take("worker").await {
                    instance.queue.ack(&job.receipt).await.unwrap();
                    done.push(job.info.id);
                }
            }
        }
        done
    }
}

proptest! {
    #![proptest_config(crate::testing::at_least(256))]

    // fault: 21
    // acceptance: G6
    #[test]
    fn no_acknowledged_job_is_lost(ops in prop::collection::vec(op(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fleet = Fleet::new();
            let instances = (0..INSTANCES).map(|_| fleet.instance()).collect();
            let mut world = World { fleet, instances, owed: BTreeSet::new() };
            for op in ops {
                world.run(op).await;
            }
            let owed = world.owed.clone();
            let done = world.drain().await;
            let lost: Vec<_> = owed.iter().filter(|id| !done.contains(id)).collect();
            assert!(lost.is_empty(), "lost: {lost:?}");
            // Once all is well, each is done once.
            let distinct: BTreeSet<_> = done.iter().collect();
            assert_eq!(distinct.len(), done.len(), "{done:?}");
            assert_eq!(world.fleet.shared.stats().await.unwrap().queued, 0);
            for instance in &world.instances {
                assert_eq!(instance.queue.health().journaled, 0);
            }
        });
    }
}
