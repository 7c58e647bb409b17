//! The core against a model that is too simple to be wrong: a list that is searched every time.

#![allow(clippy::unwrap_used)]

mod bounds;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::queue::stored::{StoredJob, StoredState};

const JOBS_MAX: usize = 5;
const DEAD_MAX: usize = 3;
const DONE_MAX: usize = 4;
/// The wall clock is somewhere else than the core's.
const WALL_AHEAD: u64 = 1_700_000_000_000;
const START: u64 = 10_000_000_000;

#[derive(Debug, Clone)]
enum Op {
    Push {
        id: u8,
        due_in: u64,
        hurries: bool,
    },
    Take {
        limit: usize,
        visibility: u64,
    },
    /// Which of all receipts there ever were.
    Ack(usize),
    Extend(usize, u64),
    Retry(usize, u64),
    Bury(usize),
    RunNow(u8),
    Drop(u8),
    Requeue(u8),
    Pass(u64),
    /// Whether the disk takes writes from now on.
    Disk(bool),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let (id, receipt, ms) = (0..8_u8, 0..30_usize, 0..50_u64);
    prop_oneof![
        6 => (id.clone(), ms.clone(), any::<bool>())
            .prop_map(|(id, due_in, hurries)| Op::Push { id, due_in, hurries }),
        5 => (0..4_usize, 1..50_u64)
            .prop_map(|(limit, visibility)| Op::Take { limit, visibility }),
        3 => receipt.clone().prop_map(Op::Ack),
        1 => (receipt.clone(), 1..50_u64).prop_map(|(n, ms)| Op::Extend(n, ms)),
        2 => (receipt.clone(), ms).prop_map(|(n, ms)| Op::Retry(n, ms)),
        2 => receipt.prop_map(Op::Bury),
        1 => id.clone().prop_map(Op::RunNow),
        1 => id.clone().prop_map(Op::Drop),
        1 => id.prop_map(Op::Requeue),
        4 => (0..60_u64).prop_map(Op::Pass),
        1 => any::<bool>().prop_map(Op::Disk),
        1 => Just(Op::Restart),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Queued(u64),
    Taken(u64),
    Dead(u64),
}

#[derive(Debug, Clone)]
struct ModelJob {
    id: JobId,
    serial: JobSerial,
    number: u64,
    at: At,
    attempts: u32,
    token: Option<Uuid>,
    /// The push that came while it was taken.
    next: Option<JobSerial>,
}

impl ModelJob {
    fn come_back(&mut self) {
        self.serial = self.next.take().unwrap_or(self.serial);
    }
}

#[derive(Debug, Default)]
struct Model {
    jobs: Vec<ModelJob>,
    numbers: u64,
}

impl Model {
    fn find(&mut self, id: &JobId) -> Option<&mut ModelJob> {
        self.jobs.iter_mut().find(|job| job.id == *id)
    }

    fn held(&mut self, receipt: &Receipt) -> Option<&mut ModelJob> {
        let job = self.find(&receipt.job.id)?;
        let mine = job.serial == receipt.job.serial && job.token == Some(receipt.token);
        mine.then_some(job)
    }

    fn live(&self) -> usize {
        let dead = |job: &&ModelJob| !matches!(job.at, At::Dead(_));
        self.jobs.iter().filter(dead).count()
    }

    fn bring_back(&mut self, now: u64) {
        for job in &mut self.jobs {
            if let At::Taken(until) = job.at
                && until <= now
            {
                job.at = At::Queued(until);
                job.come_back();
            }
        }
    }

    fn forget(&mut self, id: &JobId) {
        self.jobs.retain(|job| job.id != *id);
    }

    fn push(&mut self, now: u64, job: &NewJob, written: bool) -> Pushed {
        self.bring_back(now);
        let due = now + u64::try_from(job.due_in.as_millis()).unwrap();
        let full = self.live() >= JOBS_MAX;
        if let Some(there) = self.find(&job.id) {
            let serial = there.serial;
            return match &mut there.at {
                At::Dead(_) => Pushed::Dead { serial },
                At::Queued(at) => {
                    if job.hurries {
                        *at = due.min(*at);
                    }
                    there.serial = job.serial;
                    Pushed::AlreadyQueued { serial: job.serial }
                }
                At::Taken(_) => {
                    there.next = Some(job.serial);
                    Pushed::AlreadyQueued { serial: job.serial }
                }
            };
        }
        if full {
            return Pushed::Full;
        }
        self.numbers += 1;
        if written {
            self.jobs.push(ModelJob {
                id: job.id.clone(),
                serial: job.serial,
                number: self.numbers,
                at: At::Queued(due),
                attempts: 0,
                token: None,
                next: None,
            });
        }
        Pushed::Queued
    }

    fn take(&mut self, now: u64, limit: usize, visibility: u64, token: Option<Uuid>) -> Vec<JobId> {
        self.bring_back(now);
        let due = |job: &ModelJob| match job.at {
            At::Queued(due) if due <= now => Some((due, job.number)),
            _ => None,
        };
        let mut order: Vec<_> = self.jobs.iter().filter_map(due).collect();
        order.sort_unstable();
        order.truncate(limit);
        let mut ids = Vec::new();
        for (_, number) in order {
            let job = self.jobs.iter_mut().find(|job| job.number == number);
            let job = job.unwrap();
            job.at = At::Taken(now + visibility);
            job.attempts += 1;
            job.token = token;
            ids.push(job.id.clone());
        }
        ids
    }

    fn bury(&mut self, now: u64, receipt: &Receipt) -> Settled {
        let Some(job) = self.held(receipt) else {
            return Settled::Stale;
        };
        job.at = At::Dead(now);
        job.token = None;
        job.come_back();
        let dead = |job: &&ModelJob| matches!(job.at, At::Dead(_));
        while self.jobs.iter().filter(dead).count() > DEAD_MAX {
            let age = |job: &&ModelJob| match job.at {
                At::Dead(since) => (since, job.number),
                _ => (u64::MAX, 0),
            };
            let oldest = self.jobs.iter().min_by_key(age).unwrap().id.clone();
            self.forget(&oldest);
        }
        Settled::Settled
    }
}

/// A core with a disk behind it, as the local queue drives it.
struct Driven {
    core: Core,
    disk: BTreeMap<u64, StoredJob>,
    works: bool,
    now: u64,
}

impl Driven {
    fn new() -> Self {
        let mut core = core();
        core.load(Vec::new(), START, START + WALL_AHEAD);
        Self {
            core,
            disk: BTreeMap::new(),
            works: true,
            now: START,
        }
    }

    fn flush(&mut self) {
        let batch = self.core.begin_write(self.now, self.now + WALL_AHEAD);
        if self.works {
            for (seq, job) in &batch.writes {
                match job {
                    Some(job) => drop(self.disk.insert(*seq, through_json(job))),
                    None => drop(self.disk.remove(seq)),
                }
            }
        }
        self.core.end_write(batch, self.works);
    }

    fn restart(&mut self) {
        self.works = true;
        self.flush();
        let disk = self.disk.clone().into_iter().collect();
        self.core = core();
        let wall = self.now + WALL_AHEAD;
        assert_eq!(self.core.load(disk, self.now, wall), 0);
    }
}

fn core() -> Core {
    let limits = QueueLimits {
        jobs_max: JOBS_MAX,
        dead_max: DEAD_MAX,
        done_max: DONE_MAX,
        ..QueueLimits::default()
    };
    Core::new(limits, Memory::Over, true)
}

fn through_json(job: &StoredJob) -> StoredJob {
    StoredJob::read(&job.to_json()).unwrap()
}

fn id(n: u8) -> JobId {
    JobId::new(format!("unit{n}")).unwrap()
}

proptest! {
    #![proptest_config(crate::testing::at_least(512))]

    // acceptance: B15 G6
    #[test]
    fn behaves_as_a_list_would(ops in prop::collection::vec(op(), 1..120)) {
        let (mut driven, mut model) = (Driven::new(), Model::default());
        let mut receipts: Vec<Receipt> = Vec::new();
        let ms = Duration::from_millis;
        for op in ops {
            let now = driven.now;
            let core = &mut driven.core;
            let receipt = |n: usize| receipts.get(n % receipts.len().max(1)).cloned();
            match op {
                Op::Push { id: n, due_in, hurries } => {
                    let new = NewJob::new(id(n), "fill", Bytes::from(vec![n; 3]));
                    let new = NewJob { due_in: ms(due_in), hurries, ..new };
                    let pushed = core.push(now, &new, Role::Own);
                    let arrival = core.arrival(&new.id);
                    driven.flush();
                    prop_assert_eq!(pushed, model.push(now, &new, driven.works));
                    if let Some(arrival) = arrival {
                        prop_assert_eq!(arrival.get(), Some(&driven.works));
                    }
                }
                Op::Take { limit, visibility } => {
                    let taken = core.take(now, "worker", limit, ms(visibility), Serving::All);
                    let token = taken.first().map(|job| job.receipt.token);
                    let ids: Vec<_> = taken.iter().map(|job| job.info.id.clone()).collect();
                    prop_assert_eq!(ids, model.take(now, limit, visibility, token));
                    for job in &taken {
                        let there = model.find(&job.info.id).unwrap();
                        prop_assert_eq!(job.info.attempts, there.attempts);
                    }
                    receipts.extend(taken.into_iter().map(|job| job.receipt));
                }
                Op::Ack(n) => if let Some(receipt) = receipt(n) {
                    let mine = model.held(&receipt).is_some();
                    if mine {
                        model.forget(&receipt.job.id);
                    }
                    prop_assert_eq!(core.ack(now, &receipt) == Settled::Settled, mine);
                }
                Op::Extend(n, visibility) => if let Some(receipt) = receipt(n) {
                    model.bring_back(now);
                    let mine = model.held(&receipt).map(|job| job.at = At::Taken(now + visibility));
                    // So that both agree on when it came back.
                    core.bring_back(now);
                    let settled = core.extend(now, &receipt, ms(visibility));
                    prop_assert_eq!(settled == Settled::Settled, mine.is_some());
                }
                Op::Retry(n, due_in) => if let Some(receipt) = receipt(n) {
                    let mine = model.held(&receipt).map(|job| {
                        job.at = At::Queued(now + due_in);
                        job.token = None;
                        job.come_back();
                    });
                    let settled = core.retry(now, &receipt, ms(due_in), "e");
                    prop_assert_eq!(settled == Settled::Settled, mine.is_some());
                }
                Op::Bury(n) => if let Some(receipt) = receipt(n) {
                    prop_assert_eq!(core.bury(now, &receipt, "e"), model.bury(now, &receipt));
                }
                Op::RunNow(n) => {
                    model.bring_back(now);
                    let expected = match model.find(&id(n)).map(|job| &mut job.at) {
                        None | Some(At::Dead(_)) => Changed::Gone,
                        Some(At::Taken(_)) => Changed::Taken,
                        Some(At::Queued(due)) => {
                            *due = now.min(*due);
                            Changed::Changed
                        }
                    };
                    prop_assert_eq!(core.run_now(now, &id(n)), expected);
                }
                Op::Drop(n) => {
                    let there = model.find(&id(n)).is_some();
                    model.forget(&id(n));
                    prop_assert_eq!(core.drop_job(now, &id(n)) == Changed::Changed, there);
                }
                Op::Requeue(n) => {
                    let full = model.live() >= JOBS_MAX;
                    let expected = match model.find(&id(n)) {
                        Some(job) if matches!(job.at, At::Dead(_)) && !full => {
                            job.at = At::Queued(now);
                            job.attempts = 0;
                            Changed::Changed
                        }
                        Some(job) if matches!(job.at, At::Dead(_)) => Changed::Full,
                        _ => Changed::Gone,
                    };
                    prop_assert_eq!(core.requeue(now, &id(n)), expected);
                }
                Op::Pass(by) => driven.now += by,
                Op::Disk(works) => driven.works = works,
                Op::Restart => {
                    driven.restart();
                    // A worker that is gone holds nothing.
                    for job in &mut model.jobs {
                        job.token = None;
                        if let At::Taken(_) = job.at {
                            job.at = At::Queued(now);
                            job.come_back();
                        }
                    }
                }
            }
            driven.flush();
            agree(&driven, &model)?;
        }
    }
}

fn agree(driven: &Driven, model: &Model) -> Result<(), TestCaseError> {
    let (core, now) = (&driven.core, driven.now);
    let stats = core.stats(now, |_| true);
    prop_assert_eq!(stats.queued + stats.taken, model.live());
    prop_assert_eq!(stats.dead, model.jobs.len() - model.live());
    prop_assert_eq!(core.len(), model.jobs.len());
    let soonest = model.jobs.iter().filter_map(|job| match job.at {
        At::Queued(at) | At::Taken(at) => Some(Duration::from_millis(at.saturating_sub(now))),
        At::Dead(_) => None,
    });
    prop_assert_eq!(core.next_due(now, "worker", Serving::All), soonest.min());
    for job in &model.jobs {
        let view = core.get(now, &job.id).unwrap();
        prop_assert_eq!(
            (view.info.serial, view.info.attempts),
            (job.serial, job.attempts)
        );
    }
    // Every index says the same, and the byte count is that of what is there.
    let indexed = core.due.len() + core.taken.len() + core.dead.len() + core.dead_owned.len();
    prop_assert_eq!(indexed, core.entries.len());
    let bytes: usize = core.entries.values().map(Entry::bytes).sum();
    prop_assert_eq!(core.bytes, bytes);
    prop_assert_eq!(core.done.len(), core.done_serials.len());
    prop_assert!(core.done.len() <= DONE_MAX);
    if driven.works {
        // What is on disk is what is in memory, and nothing else.
        prop_assert_eq!(driven.disk.len(), core.entries.len() + core.done.len());
    }
    Ok(())
}
