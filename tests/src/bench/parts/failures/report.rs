//! The failures' tables and targets.

use crate::bench::report::figure;
use crate::bench::results::{Failures, Hung, Kills, Outcome, median};
use crate::bench::table::Table;
use crate::bench::targets::{Limit, Target};

/// The last client is told this soon after the last inline attempt failed, ms.
const TOLD_MS: f64 = 100.0;

/// A file is stored this soon after its job was due, s.
const LATE_S: f64 = 1.0;

/// The next client's answer comes at once, ms: as fast as any other from the store.
const AT_ONCE_MS: f64 = 100.0;

/// What ten thousand jobs may weigh, MB.
const BACKLOG_MB: f64 = 20.0;

/// In what time they are done, s.
const DRAINED_S: f64 = 60.0;

/// Warm hits beside hung fills, against warm hits alone.
const HUNG_RATIO: f64 = 1.5;

/// The tables, each with its title.
pub(in crate::bench) fn tables(failures: &Failures) -> Vec<(String, Table)> {
    let mut tables = Vec::new();
    if !failures.outages.is_empty() {
        let title = "Upstream down: one cold file at three instances; told since the last inline \
                     attempt failed, ms";
        tables.push((title.to_owned(), outages(&failures.outages)));
    }
    if let Some(backlog) = &failures.backlog {
        let mut table = Table::new([
            "jobs",
            "filled s",
            "idle MB",
            "full MB",
            "drained MB",
            "drained s",
            "requests",
            "missing",
        ]);
        let mb = |bytes: u64| figure(bytes as f64 / 1e6);
        table.row([
            backlog.jobs.to_string(),
            figure(backlog.filled_s),
            mb(backlog.memory_idle),
            mb(backlog.memory_full),
            mb(backlog.memory_drained),
            figure(backlog.drained_s),
            backlog.requests.to_string(),
            backlog.missing.to_string(),
        ]);
        let title = "A long queue: from the first job's being due until all files are stored";
        tables.push((title.to_owned(), table));
    }
    if !failures.kills.is_empty() {
        let title = "kill -9 at random moments under failing fetches and failing writes";
        tables.push((title.to_owned(), kills(&failures.kills)));
    }
    if let Some(hung) = &failures.hung {
        let title = format!("Warm hits alone and beside {} hung fills, ms", hung.fills);
        tables.push((title, warm(hung)));
    }
    tables
}

fn outages(outages: &[Outcome]) -> Table {
    let mut table = Table::new([
        "upstream says",
        "clients",
        "requests",
        "by jobs",
        "not told",
        "told p50",
        "p99",
        "max",
        "due s",
        "late s",
        "next ms",
    ]);
    for outage in outages {
        table.row([
            outage.upstream_says.chars().take(30).collect(),
            outage.clients.to_string(),
            outage.upstream_requests.to_string(),
            figure(outage.by_jobs),
            outage.not_told.to_string(),
            figure(outage.told_ms.p50),
            figure(outage.told_ms.p99),
            figure(outage.told_ms.max),
            figure(outage.due_s),
            figure(outage.late_s),
            figure(outage.next_ms),
        ]);
    }
    table
}

fn kills(kills: &[Kills]) -> Table {
    let mut table = Table::new([
        "store",
        "seed",
        "kills",
        "files",
        "told",
        "served",
        "jobs lost",
        "bytes lost",
        "wrong",
        "left",
        "mended s",
    ]);
    for kills in kills {
        table.row([
            kills.store.clone(),
            kills.seed.to_string(),
            kills.kills.to_string(),
            kills.files.to_string(),
            kills.told.to_string(),
            kills.served.to_string(),
            kills.jobs_lost.len().to_string(),
            kills.bytes_lost.len().to_string(),
            kills.wrong.len().to_string(),
            kills.left.len().to_string(),
            figure(kills.mended_after_s),
        ]);
    }
    table
}

fn warm(hung: &Hung) -> Table {
    let mut table = Table::new(["warm hits", "rounds", "p50", "p90", "p99", "max"]);
    for (side, name) in ["alone", "beside hung fills"].into_iter().enumerate() {
        let middle = |pick: fn(&crate::bench::results::Quantiles) -> f64| {
            figure(median(hung.rounds.iter().map(|round| pick(&round[side]))))
        };
        table.row([
            name.to_owned(),
            hung.rounds.len().to_string(),
            middle(|q| q.p50),
            middle(|q| q.p90),
            middle(|q| q.p99),
            middle(|q| q.max),
        ]);
    }
    table
}

/// What failures owe.
pub fn judge(failures: &Failures) -> Vec<Target> {
    let mut targets = judge_outages(&failures.outages);
    let backlog = failures.backlog.as_ref();
    targets.push(Target::new(
        "failures, long queue: memory above idle",
        Limit::AtMost(BACKLOG_MB, "MB"),
        backlog.map(|b| (b.memory_full as f64 - b.memory_idle as f64) / 1e6),
        backlog.map_or(String::new(), |b| format!("{} jobs", b.jobs)),
    ));
    targets.push(Target::new(
        "failures, long queue: first due to all stored, upstream of 1 ms",
        Limit::AtMost(DRAINED_S, "s"),
        backlog.map(|b| b.drained_s),
        backlog.map_or(String::new(), |b| {
            format!("due as they came, within {:.1} s", b.filled_s + 1.0)
        }),
    ));
    targets.push(Target::new(
        "failures, long queue: files missing afterwards",
        Limit::AtMost(0.0, ""),
        backlog.map(|b| b.missing as f64),
        backlog.map_or(String::new(), |b| {
            format!("{} requests by jobs", b.requests)
        }),
    ));
    targets.extend(judge_kills(&failures.kills));
    let hung = failures.hung.as_ref();
    let p99 =
        |side: usize| hung.map(|hung| median(hung.rounds.iter().map(|round| round[side].p99)));
    let ratio = |hung: &Hung| {
        median(
            hung.rounds
                .iter()
                .map(|[alone, beside]| beside.p99 / alone.p99),
        )
    };
    targets.push(Target::new(
        "failures, warm hits beside hung fills: p99 against alone",
        Limit::AtMost(HUNG_RATIO, "x"),
        hung.map(ratio),
        p99(0).zip(p99(1)).map_or(String::new(), |(alone, beside)| {
            format!("{beside:.2} and {alone:.2} ms")
        }),
    ));
    targets
}

fn judge_outages(outages: &[Outcome]) -> Vec<Target> {
    let ran = !outages.is_empty();
    let most = |value: fn(&Outcome) -> f64| {
        ran.then(|| outages.iter().map(value).fold(f64::NEG_INFINITY, f64::max))
    };
    let inline = outages.first().map_or(0, |outage| outage.inline_attempts);
    let clients = outages.first().map_or(0, |outage| outage.clients);
    let what = "failures, upstream down";
    vec![
        Target::new(
            format!("{what}, {clients} clients: upstream requests but for jobs'"),
            Limit::AtMost(inline as f64, ""),
            most(|outage| outage.upstream_requests as f64 - outage.by_jobs),
            format!("the most of {} outages", outages.len()),
        ),
        Target::new(
            format!("{what}: clients that were not told as they must be"),
            Limit::AtMost(0.0, ""),
            most(|outage| outage.not_told as f64),
            String::new(),
        ),
        Target::new(
            format!("{what}: last inline failure to the answer, 99th percentile"),
            Limit::AtMost(TOLD_MS, "ms"),
            most(|outage| outage.told_ms.p99),
            most(|outage| outage.told_ms.max).map_or(String::new(), |max| {
                format!("the last client after {max:.1} ms")
            }),
        ),
        Target::new(
            "failures, upstream back: stored after the job was due",
            Limit::AtMost(LATE_S, "s"),
            most(|outage| outage.late_s),
            most(|outage| outage.due_s).map_or(String::new(), |due| {
                format!("without any request; due after {due:.1} s at most")
            }),
        ),
        Target::new(
            "failures, upstream back: the next client's whole file",
            Limit::AtMost(AT_ONCE_MS, "ms"),
            most(|outage| outage.next_ms),
            most(|outage| outage.next_requests as f64).map_or(String::new(), |requests| {
                format!("{requests:.0} requests to upstream")
            }),
        ),
    ]
}

fn judge_kills(kills: &[Kills]) -> [Target; 3] {
    let sum = |count: fn(&Kills) -> usize| {
        let sum: usize = kills.iter().map(count).sum();
        (!kills.is_empty()).then_some(sum as f64)
    };
    let times: usize = kills.iter().map(|kills| kills.kills).sum();
    let first = |list: fn(&Kills) -> &Vec<String>| {
        let first = kills.iter().find_map(|kills| list(kills).first().cloned());
        first.unwrap_or_else(|| format!("{times} kills, file and S3"))
    };
    [
        Target::new(
            "failures, kill -9: jobs lost",
            Limit::AtMost(0.0, ""),
            sum(|kills| kills.jobs_lost.len()),
            first(|kills| &kills.jobs_lost),
        ),
        Target::new(
            "failures, kill -9: verified files lost",
            Limit::AtMost(0.0, ""),
            sum(|kills| kills.bytes_lost.len()),
            first(|kills| &kills.bytes_lost),
        ),
        Target::new(
            "failures, kill -9: wrong or half-written files, served or stored",
            Limit::AtMost(0.0, ""),
            sum(|kills| kills.wrong.len()),
            first(|kills| &kills.wrong),
        ),
    ]
}
