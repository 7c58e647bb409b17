//! The leases themselves, without an instance around them: two clients of one Valkey.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use lease::{
    Acquire, Grant, Holder, LeaseKey, LeaseTable, NoValkeyObserver, Outcome, TokioClock,
    ValkeyConfig, Wake,
};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::bench::parts::{Bench, ms};
use crate::bench::progress::say;
use crate::bench::results::{Fleet as Measured, Pairs, Quantiles, Wake as Wakes};
use crate::valkey::Valkey;
use crate::wait;

/// Longer than any measurement here, so that nothing expires.
const TTL: Duration = Duration::from_secs(60);

/// Pairs under way at once.
const AT_ONCE: usize = 128;

/// A wake-up takes no longer than this, or was lost.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn run(bench: &Bench, measured: &mut Measured) -> anyhow::Result<()> {
    let server = Valkey::start().await;
    let releaser = Client::connect(&server, "releaser").await?;
    let waiter = Client::connect(&server, "waiter").await?;
    for (keys, rounds) in [(1, 1000), (1000, 20)] {
        let rounds = if bench.quick { rounds.min(10) } else { rounds };
        say(&format!("fleet: wake-ups, {keys} at once, {rounds} rounds"));
        measured
            .wakes
            .push(wakes(&releaser, &waiter, keys, rounds).await?);
    }
    let seconds = if bench.quick { 1 } else { 5 };
    say(&format!("fleet: pairs of acquire and release, {seconds} s"));
    measured.pairs = Some(pairs(&releaser, Duration::from_secs(seconds)).await?);
    releaser.valkey.shutdown().await;
    waiter.valkey.shutdown().await;
    Ok(())
}

/// One instance's leases.
struct Client {
    valkey: lease::Valkey,
    leases: Arc<dyn LeaseTable>,
    holder: Holder,
}

impl Client {
    async fn connect(server: &Valkey, name: &str) -> anyhow::Result<Self> {
        let mut config = ValkeyConfig::from_urls([server.url()])?;
        // A slow answer is to be measured, not given up.
        config.command_timeout = PATIENCE;
        let clock = Arc::new(TokioClock);
        let observer = Arc::new(NoValkeyObserver);
        let valkey = lease::Valkey::connect(config, clock, Handle::current(), observer).await?;
        let client = Self {
            leases: valkey.leases(),
            valkey,
            holder: Holder {
                instance: name.into(),
                address: None,
            },
        };
        let subscription = client.leases.subscribe(&LeaseKey::new("any")?);
        let live = wait::holds_within(PATIENCE, async || subscription.is_live()).await;
        ensure!(live, "{name} is not subscribed within {PATIENCE:?}");
        Ok(client)
    }

    async fn acquire(&self, key: &LeaseKey) -> anyhow::Result<Grant> {
        match self.leases.try_acquire(key, &self.holder, TTL).await? {
            Acquire::Granted(grant) => Ok(grant),
            Acquire::Held(_) => bail!("{key} is held already"),
        }
    }
}

/// Takes `keys` leases, waits for all their events elsewhere, and releases them together.
async fn wakes(
    releaser: &Client,
    waiter: &Client,
    keys: usize,
    rounds: usize,
) -> anyhow::Result<Wakes> {
    let mut times = Vec::with_capacity(keys * rounds);
    for round in 0..rounds {
        let mut grants = Vec::with_capacity(keys);
        let mut waiting = JoinSet::new();
        for number in 0..keys {
            let key = LeaseKey::new(format!("wake-{round}-{number}"))?;
            grants.push(releaser.acquire(&key).await?);
            let mut subscription = waiter.leases.subscribe(&key);
            ensure!(subscription.is_live(), "the waiter is not subscribed");
            waiting.spawn(async move {
                let woken = tokio::time::timeout(PATIENCE, subscription.woken()).await;
                (number, woken.map(|wake| (wake, Instant::now())))
            });
        }
        let mut releasing = JoinSet::new();
        for (number, grant) in grants.into_iter().enumerate() {
            let leases = Arc::clone(&releaser.leases);
            releasing.spawn(async move {
                let sent = Instant::now();
                let released = leases.release(&grant, Outcome::Stored).await;
                (number, sent, released)
            });
        }
        let mut sent_at = vec![None; keys];
        while let Some(released) = releasing.join_next().await {
            let (number, sent, released) = released?;
            released?;
            sent_at[number] = Some(sent);
        }
        while let Some(woken) = waiting.join_next().await {
            let (number, woken) = woken?;
            let (wake, at) = woken.context("a wake-up was lost")?;
            ensure!(matches!(wake, Wake::Event(_)), "woken by {wake:?}");
            let sent = sent_at[number].context("every lease was released")?;
            times.push(ms(at.saturating_duration_since(sent)));
        }
    }
    Ok(Wakes {
        keys,
        count: times.len(),
        ms: Quantiles::of(&mut times),
    })
}

/// Takes and releases leases, each task one of its own, for so long.
async fn pairs(client: &Client, length: Duration) -> anyhow::Result<Pairs> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..AT_ONCE {
        let (leases, holder) = (Arc::clone(&client.leases), client.holder.clone());
        let key = LeaseKey::new(format!("pair-{number}"))?;
        tasks.spawn(async move {
            let mut times = Vec::new();
            while started.elapsed() < length {
                let began = Instant::now();
                match leases.try_acquire(&key, &holder, TTL).await? {
                    Acquire::Granted(grant) => leases.release(&grant, Outcome::Stored).await?,
                    Acquire::Held(_) => bail!("{key} is held already"),
                };
                times.push(ms(began.elapsed()));
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    Ok(Pairs {
        at_once: AT_ONCE,
        per_s: all.len() as f64 / started.elapsed().as_secs_f64(),
        ms: Quantiles::of(&mut all),
    })
}
