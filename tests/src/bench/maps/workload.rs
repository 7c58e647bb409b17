//! What the threads do to a map, and how long it took.
//!
//! All threads of a phase wait at a barrier; a phase lasts from the first thread's start to the
//! last one's end, so neither spawning nor joining is counted.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::candidates::{ConcurrentMap, Key, Value};

/// Workers of the mixed phase that only read.
pub const READERS: usize = 10;
/// Workers of the mixed phase that write existing keys.
pub const EDITORS: usize = 6;
/// Workers of the mixed phase that delete a key and add it again.
pub const CHURNERS: usize = 2;
/// All workers of the mixed phase.
pub const WORKERS: usize = READERS + EDITORS + CHURNERS;

/// Bytes of every value: about a small `.mod` file.
const VALUE_BYTES: usize = 128;

/// Keys that only the churners delete, so that every edit finds its key: one part in fifty.
const CHURN_SHARE: usize = 50;

/// Unique keys of equal length, and the one content that all values share.
#[derive(Debug)]
pub struct Keys {
    keys: Vec<Key>,
    value: Value,
}

impl Keys {
    /// Makes `count` unique keys, for example `example.com/herd/m0000042/@v/v1.0.0.mod`.
    pub fn new(count: usize) -> Self {
        let key = |n| Key::from(format!("example.com/herd/m{n:07}/@v/v1.0.0.mod"));
        Self {
            keys: (0..count).map(key).collect(),
            value: Value::from(vec![b'x'; VALUE_BYTES]),
        }
    }
}

/// What the workers of a mixed phase counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads, whether or not a churner had the key out at that moment.
    pub reads: usize,
    /// Reads that found nothing.
    pub reads_missed: usize,
    /// Edits that found their key.
    pub edits: usize,
    /// Deletions that found their key, each followed by an addition.
    pub churns: usize,
}

/// Times of one mixed run.
#[derive(Debug, Clone, Copy)]
pub struct Mixed {
    /// Warm-up and mixed phase together.
    pub total: Duration,
    /// Mixed phase alone, by its own clock.
    pub phase: Duration,
}

/// Writes the first `count` keys with `clients` threads, each its own share.
pub fn warm_up(map: &dyn ConcurrentMap, keys: &Keys, count: usize, clients: usize) -> Duration {
    let took = phase(clients, |client| {
        for key in keys.keys[..count].iter().skip(client).step_by(clients) {
            map.insert(Arc::clone(key), keys.value.clone());
        }
    });
    assert_eq!(
        map.len(),
        count,
        "a warm-up must leave every key in the map"
    );
    took.0
}

/// Warms up with `count` keys and [`WORKERS`] clients, then mixes for `iterations`.
///
/// In an iteration each of the 18 workers does one operation of its kind; the workers run their
/// iterations without waiting for each other, since a barrier costs more than an operation.
///
/// # Panics
///
/// If the counts are not exactly 10 reads, 6 edits and 2 churns per iteration, or if the map does
/// not hold `count` keys afterwards: then a candidate lost work and its time means nothing.
pub fn mixed(map: &dyn ConcurrentMap, keys: &Keys, count: usize, iterations: usize) -> Mixed {
    let warm = warm_up(map, keys, count, WORKERS);
    let all = &keys.keys[..count];
    let (churned, edited) = all.split_at(count / CHURN_SHARE);
    let (took, counts) = phase(WORKERS, |worker| {
        let mut random = Random::new(worker);
        let mut counts = Counts::default();
        match worker {
            0..READERS => {
                for _ in 0..iterations {
                    let found = map.get(random.pick(all)).is_some();
                    counts.reads += 1;
                    counts.reads_missed += usize::from(!found);
                }
            }
            _ if worker < READERS + EDITORS => {
                for _ in 0..iterations {
                    let found = map.edit(random.pick(edited), keys.value.clone());
                    counts.edits += usize::from(found);
                }
            }
            _ => {
                // Each churner has keys of its own, so that a deletion always finds its key.
                let share = churned.len() / CHURNERS;
                let own = &churned[(worker - READERS - EDITORS) * share..][..share];
                for _ in 0..iterations {
                    let key = random.pick(own);
                    let found = map.remove(key);
                    map.insert(Arc::clone(key), keys.value.clone());
                    counts.churns += usize::from(found);
                }
            }
        }
        counts
    });
    let sum = counts.into_iter().fold(Counts::default(), |a, b| Counts {
        reads: a.reads + b.reads,
        reads_missed: a.reads_missed + b.reads_missed,
        edits: a.edits + b.edits,
        churns: a.churns + b.churns,
    });
    assert_eq!(
        sum.reads,
        READERS * iterations,
        "10 readers, one read per iteration each"
    );
    assert_eq!(
        sum.edits,
        EDITORS * iterations,
        "6 editors, every edit finds its key"
    );
    assert_eq!(
        sum.churns,
        CHURNERS * iterations,
        "2 churners, every deletion finds its key"
    );
    assert!(
        sum.reads_missed <= sum.reads / 10,
        "a read misses only what a churner has out"
    );
    assert_eq!(
        map.len(),
        count,
        "every deleted key must have been added again"
    );
    Mixed {
        total: warm + took,
        phase: took,
    }
}

/// Reads of hot keys per worker and per operation: nanoseconds of machine time.
///
/// The hot tier's shape: a full map, 18 workers, 1,000 hot keys, one write in a thousand.
pub fn hot_reads(map: &dyn ConcurrentMap, keys: &Keys, count: usize, reads: usize) -> f64 {
    warm_up(map, keys, count, WORKERS);
    let hot = &keys.keys[..count.min(1000)];
    let (took, found) = phase(WORKERS, |worker| {
        let mut random = Random::new(worker);
        let mut found = 0;
        for read in 0..reads {
            let key = random.pick(hot);
            if read % 1000 == 999 {
                map.insert(Arc::clone(key), keys.value.clone());
            }
            found += usize::from(map.get(key).is_some());
        }
        found
    });
    assert_eq!(
        found.iter().sum::<usize>(),
        WORKERS * reads,
        "hot keys are never missing"
    );
    took.as_secs_f64() * 1e9 / (WORKERS * reads) as f64
}

/// One flight's life: look, enter, three waiters look, leave; nanoseconds per flight.
///
/// The flight table's shape: a map that is almost empty, in which every key lives for a moment.
pub fn flights(map: &dyn ConcurrentMap, keys: &Keys, flights: usize) -> f64 {
    let (took, ended) = phase(WORKERS, |worker| {
        let mut ended = 0;
        for key in keys
            .keys
            .iter()
            .skip(worker)
            .step_by(WORKERS)
            .cycle()
            .take(flights)
        {
            if map.get(key).is_none() {
                map.insert(Arc::clone(key), keys.value.clone());
            }
            let seen = (0..3).filter(|_| map.get(key).is_some()).count();
            ended += usize::from(seen == 3 && map.remove(key));
        }
        ended
    });
    assert_eq!(
        ended.iter().sum::<usize>(),
        WORKERS * flights,
        "every flight was seen and left"
    );
    assert_eq!(map.len(), 0, "no flight stays in the table");
    took.as_secs_f64() * 1e9 / (WORKERS * flights) as f64
}

/// Runs `work` on `threads` threads that start together; returns the time and their results.
fn phase<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> (Duration, Vec<T>) {
    let barrier = Barrier::new(threads);
    let one = |thread| {
        barrier.wait();
        let start = Instant::now();
        let result = work(thread);
        (start, Instant::now(), result)
    };
    let done: Vec<_> = thread::scope(|scope| {
        let one = &one;
        let handles: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || one(thread)))
            .collect();
        handles
            .into_iter()
            .map(|h| h.join().expect("a worker's panic ends the run"))
            .collect()
    });
    let start = done.iter().map(|d| d.0).min().expect("at least one thread");
    let end = done.iter().map(|d| d.1).max().expect("at least one thread");
    (end - start, done.into_iter().map(|d| d.2).collect())
}

/// A small generator (xorshift64*), the same sequence for the same worker in every run.
struct Random(u64);

impl Random {
    fn new(worker: usize) -> Self {
        Self(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(worker as u64 + 1))
    }

    fn pick<'a>(&mut self, keys: &'a [Key]) -> &'a Key {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let random = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        &keys[random as usize % keys.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::maps::candidates;

    // acceptance: D7
    #[test]
    fn every_candidate_does_all_the_work() {
        assert_eq!((READERS, EDITORS, CHURNERS, WORKERS), (10, 6, 2, 18));
        let keys = Keys::new(1000);
        for candidate in candidates::all() {
            let took = mixed(&*(candidate.build)(1000), &keys, 1000, 50);
            assert!(took.total >= took.phase, "{}", candidate.name);
            hot_reads(&*(candidate.build)(1000), &keys, 1000, 50);
            flights(&*(candidate.build)(1000), &keys, 20);
        }
    }
}
