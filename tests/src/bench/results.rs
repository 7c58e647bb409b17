//! What the parts measured, as it goes into tables and JSON.

use serde::Serialize;

use super::machine::Machine;
use super::servers::Kind;

/// Everything of one run.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Where and when.
    pub machine: Machine,
    /// Files that a process could open.
    pub files_max: u64,
    /// Warm files.
    pub serve: Vec<Warm>,
    /// Starts and idle memory.
    pub starts: Vec<Start>,
    /// One client, one cold zip.
    pub cold: Vec<Cold>,
    /// Many clients at once, cold files.
    pub herd: Vec<Herd>,
    /// A build farm's downloads.
    pub build: Vec<Build>,
    /// Several instances over one Valkey; `None` when that part did not run.
    pub fleet: Option<Fleet>,
    /// What fails and is mended; `None` when that part did not run.
    pub failures: Option<Failures>,
    /// What went wrong without ending the run.
    pub troubles: Vec<String>,
}

/// The kinds of warm files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WarmFile {
    /// `.info`, about 60 bytes.
    Info,
    /// `.mod`, about 2 KB.
    Mod,
    /// Zip of 1 MB.
    #[serde(rename = "zip-1mb")]
    Zip1,
    /// Zip of 30 MB.
    #[serde(rename = "zip-30mb")]
    Zip30,
}

impl WarmFile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Info, Self::Mod, Self::Zip1, Self::Zip30];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => ".info",
            Self::Mod => ".mod",
            Self::Zip1 => "zip 1 MB",
            Self::Zip30 => "zip 30 MB",
        }
    }

    /// Whether bytes rather than requests are its measure.
    pub fn is_zip(self) -> bool {
        matches!(self, Self::Zip1 | Self::Zip30)
    }
}

/// A server's warm hits on one kind of file.
#[derive(Debug, Serialize)]
pub struct Warm {
    /// Which server.
    pub server: Kind,
    /// Which file.
    pub file: WarmFile,
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// One entry per round, in the order of time.
    pub rounds: Vec<WarmRound>,
    /// Latency over all rounds in ms: median, 99th and 99.9th percentile.
    pub latency_ms: [f64; 3],
    /// Peak resident memory over all rounds, bytes.
    pub memory_peak: u64,
    /// Requests that failed.
    pub failures: usize,
}

/// One round of warm hits.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct WarmRound {
    /// Answers per second.
    pub requests_per_s: f64,
    /// Megabytes (10^6) of bodies per second.
    pub mb_per_s: f64,
    /// Server's CPU time per answer, µs.
    pub cpu_us_per_request: f64,
    /// Server's CPU time per megabyte (10^6) of bodies, ms.
    pub cpu_ms_per_mb: f64,
    /// Load generator's CPU time per answer, µs: what the machine spent beside the server.
    pub generator_us_per_request: f64,
}

/// A server's starts.
#[derive(Debug, Serialize)]
pub struct Start {
    /// Which server.
    pub server: Kind,
    /// Process start to first good answer, ms, every start.
    pub ready_ms: Vec<f64>,
    /// Resident memory two seconds after the last start, bytes.
    pub memory_idle: u64,
    /// Peak resident memory at that moment, bytes.
    pub memory_peak: u64,
}

/// One client fetching a cold zip of 30 MB; times in ms, one per repetition.
#[derive(Debug, Serialize)]
pub struct Cold {
    /// Which server; `None` is the upstream itself.
    pub server: Option<Kind>,
    /// Request to first byte of the body.
    pub first_byte_ms: Vec<f64>,
    /// Request to last byte.
    pub finish_ms: Vec<f64>,
}

/// A herd on cold files.
#[derive(Debug, Serialize)]
pub struct Herd {
    /// Which server.
    pub server: Kind,
    /// What was asked for, for example `200 x zip 30 MB`.
    pub scenario: String,
    /// Clients, all with an open connection before the first request.
    pub clients: usize,
    /// One entry per repetition, each with a new server and an empty cache.
    pub rounds: Vec<HerdRound>,
}

/// One repetition of a herd.
#[derive(Debug, Clone, Serialize)]
pub struct HerdRound {
    /// Requests that the upstream got.
    pub upstream_requests: usize,
    /// Different files that were asked for.
    pub files: usize,
    /// Requests that failed.
    pub failures: usize,
    /// Quantiles of the first byte of a body, ms since the later of upstream's first byte of that
    /// file and the request.
    pub first_byte_ms: Quantiles,
    /// Quantiles of the last byte, ms since the client's first request.
    pub finish_ms: Quantiles,
    /// Server's CPU time, s.
    pub cpu_s: f64,
    /// Load generator's and upstream's CPU time, s.
    pub generator_cpu_s: f64,
    /// Peak resident memory, bytes.
    pub memory_peak: u64,
}

/// Median, 90th, 99th percentile and maximum.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Quantiles {
    /// Half of the values are not above this.
    pub p50: f64,
    /// 90 % of the values are not above this.
    pub p90: f64,
    /// 99 % of the values are not above this.
    pub p99: f64,
    /// The largest value.
    pub max: f64,
}

impl Quantiles {
    /// Sorts `values` and picks; all zero when there are none.
    pub fn of(values: &mut [f64]) -> Self {
        values.sort_by(f64::total_cmp);
        let Some(last) = values.len().checked_sub(1) else {
            return Self::default();
        };
        let at =
            |q: f64| values[((q * values.len() as f64).ceil() as usize).clamp(1, last + 1) - 1];
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: values[last],
        }
    }
}

/// A build farm's downloads, first with an empty cache and then again.
#[derive(Debug, Serialize)]
pub struct Build {
    /// Which server.
    pub server: Kind,
    /// Concurrent jobs.
    pub jobs: usize,
    /// Modules that each job downloads, three files each.
    pub modules: usize,
    /// With an empty cache, one entry per repetition.
    pub cold: Vec<BuildRound>,
    /// The same again, from the cache.
    pub warm: Vec<BuildRound>,
}

/// All jobs' downloads, once.
#[derive(Debug, Clone, Serialize)]
pub struct BuildRound {
    /// First request to last byte of the last job, s.
    pub wall_s: f64,
    /// Quantiles of a request's time, ms.
    pub request_ms: Quantiles,
    /// Requests that the upstream got.
    pub upstream_requests: usize,
    /// Server's CPU time, s.
    pub cpu_s: f64,
    /// Peak resident memory, bytes.
    pub memory_peak: u64,
    /// Requests that failed.
    pub failures: usize,
}

/// Several instances over one Valkey.
#[derive(Debug, Default, Serialize)]
pub struct Fleet {
    /// Instances of every measurement here.
    pub instances: usize,
    /// Herds on cold files, at all instances at once.
    pub herds: Vec<FleetHerd>,
    /// From a release to the wake-up of who waits for it.
    pub wakes: Vec<Wake>,
    /// From a holder's death to upstream's next request.
    pub deaths: Vec<Death>,
    /// Leases taken and released as fast as possible by one instance.
    pub pairs: Option<Pairs>,
    /// Commands that one cold file costs, by part of the instance.
    pub commands: Option<Commands>,
    /// A Valkey that stops and starts again under load.
    pub outages: Vec<Outage>,
    /// Commands while only warm files are asked for.
    pub warm: Option<WarmCommands>,
}

/// A herd at all instances at once.
#[derive(Debug, Serialize)]
pub struct FleetHerd {
    /// What was asked for, for example `3 x 1000 x zip 512 KiB`.
    pub scenario: String,
    /// Files asked for, each cold.
    pub files: usize,
    /// Files that upstream was not asked for exactly once.
    pub files_not_once: usize,
    /// The most requests that upstream got for one file.
    pub upstream_requests_max: usize,
    /// Requests that failed.
    pub failures: usize,
    /// Clients of instances that did not fetch.
    pub followers_clients: usize,
    /// First byte of the clients of instances that did not fetch, ms since the later of
    /// upstream's first byte and the request.
    pub follower_first_byte_ms: Quantiles,
    /// Last byte of all clients, ms since their request.
    pub finish_ms: Quantiles,
}

/// Release events.
#[derive(Debug, Serialize)]
pub struct Wake {
    /// Leases released at the same moment.
    pub keys: usize,
    /// Wake-ups measured.
    pub count: usize,
    /// From sending the release to the wake-up, ms.
    pub ms: Quantiles,
}

/// A holder that dies in the middle of a fill.
#[derive(Debug, Serialize)]
pub struct Death {
    /// Whether its host falls silent too; otherwise connects are refused.
    pub silent: bool,
    /// TTL of the leases, s.
    pub ttl_s: f64,
    /// To upstream's next request, s, every death.
    pub after_s: Vec<f64>,
}

/// Pairs of acquire and release.
#[derive(Debug, Serialize)]
pub struct Pairs {
    /// Under way at once.
    pub at_once: usize,
    /// A second.
    pub per_s: f64,
    /// Quantiles of a pair's time, ms.
    pub ms: Quantiles,
}

/// Commands per cold file that name it, those of scripts inside the server not counted.
#[derive(Debug, Serialize)]
pub struct Commands {
    /// Of the instance that fetched, every file.
    pub leader: Vec<usize>,
    /// Of the others, every file and instance.
    pub follower: Vec<usize>,
}

/// An outage of Valkey under load on cold files.
#[derive(Debug, Serialize)]
pub struct Outage {
    /// Requests answered.
    pub requests: usize,
    /// Of them failed.
    pub failures: usize,
    /// The slowest, ms.
    pub slowest_ms: f64,
    /// From Valkey's first answer to the last instance that used it again, s.
    pub back_s: f64,
}

/// What warm hits cost Valkey.
#[derive(Debug, Serialize)]
pub struct WarmCommands {
    /// Warm requests.
    pub requests: usize,
    /// Commands meanwhile that name one of the files.
    pub commands: usize,
    /// All commands a second while nothing was asked for, and while the files were.
    pub housekeeping_per_s: [f64; 2],
}

/// What fails is told once and mended in the background.
#[derive(Debug, Default, Serialize)]
pub struct Failures {
    /// Herds on one cold file while upstream is down.
    pub outages: Vec<Outcome>,
    /// A long queue of jobs.
    pub backlog: Option<Backlog>,
    /// Kills under failing fetches and failing writes, by kind of store.
    pub kills: Vec<Kills>,
    /// Warm hits while fills hang.
    pub hung: Option<Hung>,
}

/// What came of one cold file that a herd asked for while upstream was down.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// How upstream failed.
    pub upstream_says: String,
    /// Clients of all instances together.
    pub clients: usize,
    /// Attempts that the clients' fill may make.
    pub inline_attempts: usize,
    /// Requests that upstream got until the file was stored.
    pub upstream_requests: u64,
    /// Attempts of them that the queue's jobs made.
    pub by_jobs: f64,
    /// From the end of the last inline attempt to the clients' answers, ms.
    pub told_ms: Quantiles,
    /// Clients that got anything but our own trouble with `Retry-After` and one line.
    pub not_told: usize,
    /// When the job was due as upstream came back, s.
    pub due_s: f64,
    /// How much later the file was stored, s.
    pub late_s: f64,
    /// The next client's whole file, ms, the slowest of all instances.
    pub next_ms: f64,
    /// What that cost upstream.
    pub next_requests: u64,
}

/// A long queue of jobs that become due together.
#[derive(Debug, Serialize)]
pub struct Backlog {
    /// Jobs.
    pub jobs: usize,
    /// Time in which failing requests filled the queue, s; the jobs are due as far apart.
    pub filled_s: f64,
    /// Resident memory after some warm hits and before the first job, bytes.
    pub memory_idle: u64,
    /// The same with all jobs in the queue.
    pub memory_full: u64,
    /// The same after the last job.
    pub memory_drained: u64,
    /// From the first job's request until no job was left, s.
    pub drained_s: f64,
    /// Files that are not stored whole afterwards.
    pub missing: usize,
    /// Requests that the jobs cost upstream.
    pub requests: u64,
}

/// Kills at random moments under failing fetches and failing writes.
#[derive(Debug, Serialize)]
pub struct Kills {
    /// `file` or `s3`.
    pub store: String,
    /// What decided about everything but the timing.
    pub seed: u64,
    /// Kills.
    pub kills: usize,
    /// Files that were asked for.
    pub files: usize,
    /// Answers that told of a failure.
    pub told: usize,
    /// Whole files that clients got.
    pub served: usize,
    /// Files whose failure was told and that nobody took care of.
    pub jobs_lost: Vec<String>,
    /// Files that a client got whole and that were not stored.
    pub bytes_lost: Vec<String>,
    /// Whole answers and stored objects with other bytes than upstream's.
    pub wrong: Vec<String>,
    /// Jobs and kept files that were left although nothing was owed.
    pub left: Vec<String>,
    /// From the end of all trouble until everything owed was stored, s.
    pub mended_after_s: f64,
}

/// Warm hits while fills hang on an upstream that says nothing.
#[derive(Debug, Serialize)]
pub struct Hung {
    /// Fills that hang.
    pub fills: usize,
    /// Warm hits of each measurement.
    pub requests: usize,
    /// Latency of warm hits, ms: without any fill, and beside the hung ones; every round.
    pub rounds: Vec<[Quantiles; 2]>,
}

/// The median; not a number when there are no values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let q = Quantiles::of(&mut values);
        assert_eq!((q.p50, q.p90, q.p99, q.max), (50.0, 90.0, 99.0, 100.0));
        let one = Quantiles::of(&mut [7.0]);
        assert_eq!((one.p50, one.max), (7.0, 7.0));
        assert_eq!(Quantiles::of(&mut []).max, 0.0);
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert!(median([]).is_nan());
    }
}
