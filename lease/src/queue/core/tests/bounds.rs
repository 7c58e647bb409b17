//! How much the core holds, and what it makes of files that say too much.

use super::*;

#[test]
fn bytes_are_bounded() {
    let limits = QueueLimits {
        bytes_max: 100,
        ..QueueLimits::default()
    };
    let mut core = Core::new(limits, Memory::Over, false);
    let job = |n, bytes| NewJob::new(id(n), "fill", Bytes::from(vec![0; bytes]));
    assert_eq!(core.push(START, &job(1, 80), Role::Own), Pushed::Queued);
    assert_eq!(core.push(START, &job(2, 11), Role::Own), Pushed::Full);
    assert_eq!(core.push(START, &job(2, 10), Role::Own), Pushed::Queued);
    core.drop_job(START, &id(1));
    assert_eq!(core.push(START, &job(3, 80), Role::Own), Pushed::Queued);
}

// What only its owner can do is not forgotten because others died after it.
// acceptance: A23; fault: 34
#[test]
fn the_dead_with_an_owner_make_no_room() {
    let mut driven = Driven::new();
    for n in 0..10 {
        let owner = (n < 5).then(|| Arc::from("worker"));
        let new = NewJob::new(id(n), "fill", Bytes::new());
        let pushed = driven.core.push(START, &NewJob { owner, ..new }, Role::Own);
        assert_eq!(pushed, Pushed::Queued);
        driven.flush();
        let minute = Duration::from_secs(60);
        let taken = driven.core.take(START, "worker", 1, minute, Serving::All);
        let died = START + u64::from(n);
        let buried = driven.core.bury(died, &taken[0].receipt, "e");
        assert_eq!(buried, Settled::Settled);
    }
    let there = (0..10).filter(|n| driven.core.get(START, &id(*n)).is_some());
    let there: Vec<u8> = there.collect();
    assert_eq!(there, [0, 1, 2, 3, 4, 7, 8, 9]);
    let stats = driven.core.stats(START, |_| true);
    assert_eq!((stats.dead, stats.dead_dropped), (8, 2));
    // They take no room from those that are alive, and may be among these again.
    driven.restart();
    for n in 0..5 {
        assert_eq!(driven.core.requeue(START, &id(n)), Changed::Changed);
    }
    assert_eq!(driven.core.requeue(START, &id(7)), Changed::Full);
}

// acceptance: A23
#[test]
fn ten_thousand_jobs_are_little() {
    let mut core = Core::new(QueueLimits::default(), Memory::Over, false);
    for n in 0..10_000 {
        let id = JobId::new(format!("example.com/module{n}@v1.{n}.0.zip")).unwrap();
        let job = NewJob::new(id, "fill", Bytes::from_static(&[b'x'; 300]));
        assert_eq!(core.push(START, &job, Role::Own), Pushed::Queued);
    }
    assert!(core.bytes < 4 * 1024 * 1024, "{}", core.bytes);
    let mut done = 0;
    loop {
        let taken = core.take(START, "worker", 100, Duration::from_secs(60), Serving::All);
        if taken.is_empty() {
            break;
        }
        for job in taken {
            assert_eq!(core.ack(START, &job.receipt), Settled::Settled);
            done += 1;
        }
    }
    assert_eq!((done, core.len(), core.bytes), (10_000, 0, 0));
}

// Whatever a file says twice, the shared queue is told once.
#[test]
fn what_is_owed_twice_is_paid_once() {
    let mut core = Core::new(QueueLimits::default(), Memory::Owed, true);
    let done = StoredJob::named("unit", JobSerial::random(), StoredState::Done);
    let stored = vec![(1, done.clone()), (2, done)];
    assert_eq!(core.load(stored, START, START + WALL_AHEAD), 0);
    let owed = core.owed(10);
    assert_eq!(owed.len(), 1);
    core.paid(&owed);
    assert_eq!(core.owed(10), []);
    let batch = core.begin_write(START, START + WALL_AHEAD);
    let removed = batch.writes.iter().filter(|(_, job)| job.is_none());
    assert_eq!(removed.count(), 2);
}

#[test]
fn a_number_that_nobody_gave_ends_no_counting() {
    let mut core = core();
    let stored = StoredJob::named("unit", JobSerial::random(), StoredState::Queued);
    assert_eq!(core.load(vec![(u64::MAX, stored)], START, START), 1);
    core.pass_over(&[u64::MAX]);
    let job = NewJob::new(id(1), "fill", Bytes::new());
    assert_eq!(core.push(START, &job, Role::Own), Pushed::Queued);
}
