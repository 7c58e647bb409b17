//! The contract, the bounds, and the property that a stale token changes nothing.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use futures::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::testing::{LeaseTableSetup, lease_table_contract};
use crate::{ManualClock, TokioClock, Wake};

const TTL: Duration = Duration::from_secs(6);

#[derive(Debug)]
struct Local(ManualClock);

#[async_trait]
impl LeaseTableSetup for Local {
    async fn fresh(&self) -> [Arc<dyn LeaseTable>; 2] {
        let table: Arc<dyn LeaseTable> = Arc::new(LocalLeases::new(self.clock()));
        [Arc::clone(&table), table]
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.0.clone())
    }

    fn ttl(&self) -> Duration {
        TTL
    }

    async fn pass(&self, by: Duration) {
        self.0.advance(by);
    }
}

// acceptance: A25
#[tokio::test]
async fn it_keeps_the_contract() {
    lease_table_contract(&Local(ManualClock::new())).await;
}

/// The runtime's own clock, as a table with a server behind it would use.
#[derive(Debug)]
struct LocalOnTokio;

#[async_trait]
impl LeaseTableSetup for LocalOnTokio {
    async fn fresh(&self) -> [Arc<dyn LeaseTable>; 2] {
        let table: Arc<dyn LeaseTable> = Arc::new(LocalLeases::new(self.clock()));
        [Arc::clone(&table), table]
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(TokioClock)
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract_while_time_runs_by_itself() {
    lease_table_contract(&LocalOnTokio).await;
}

fn key(text: &str) -> LeaseKey {
    LeaseKey::new(text).unwrap()
}

fn holder() -> Holder {
    Holder {
        instance: Arc::from("i"),
        address: None,
    }
}

fn now<T>(answer: impl Future<Output = Result<T, LeaseError>>) -> Result<T, LeaseError> {
    answer.now_or_never().expect("the local table never waits")
}

fn grant(table: &LocalLeases, text: &str) -> Grant {
    match now(table.try_acquire(&key(text), &holder(), TTL)) {
        Ok(Acquire::Granted(grant)) => grant,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_table_says_so_until_something_ends() {
    let clock = ManualClock::new();
    let mut table = LocalLeases::new(Arc::new(clock.clone()));
    table.leases_max = 2;
    grant(&table, "a");
    clock.advance(TTL / 2);
    let second = grant(&table, "b");
    let refused = now(table.try_acquire(&key("c"), &holder(), TTL)).unwrap_err();
    assert_eq!(refused.kind(), crate::LeaseErrorKind::Unavailable);
    assert!(matches!(
        now(table.try_acquire(&key("b"), &holder(), TTL)),
        Ok(Acquire::Held(_))
    ));
    clock.advance(TTL / 2);
    grant(&table, "c");
    assert!(now(table.try_acquire(&key("d"), &holder(), TTL)).is_err());
    assert_eq!(
        now(table.release(&second, Outcome::Stored)).unwrap(),
        Released::Released
    );
    grant(&table, "d");
    assert_eq!(table.len(), 2);
}

#[test]
fn what_nobody_asks_for_again_is_cleared_away() {
    let clock = ManualClock::new();
    let table = LocalLeases::new(Arc::new(clock.clone()));
    for n in 0..200 {
        let grant = grant(&table, &n.to_string());
        match n % 3 {
            0 => drop(now(table.force_release(&grant.key, &grant.token))),
            1 => drop(now(table.take_over(&grant.key, &grant.token, TTL))),
            _ => {}
        }
    }
    clock.advance(FORCED_TTL);
    for n in 0..10 {
        let grant = grant(&table, &format!("later {n}"));
        drop(now(table.release(&grant, Outcome::Stored)));
    }
    assert!(table.is_empty());
    let state = lock(&table.state);
    assert_eq!((state.forced.len(), state.taken_over.len()), (0, 0));
}

#[test]
fn marks_of_broken_leases_are_bounded() {
    let table = LocalLeases::new(Arc::new(ManualClock::new()));
    for _ in 0..FORCED_MAX + 10 {
        let grant = grant(&table, "k");
        drop(now(table.force_release(&grant.key, &grant.token)));
    }
    assert_eq!(lock(&table.state).forced.len(), FORCED_MAX);
}

#[test]
fn a_long_list_is_taken_in_steps() {
    let table = LocalLeases::new(Arc::new(ManualClock::new()));
    for n in 0..LIST_STEP * 2 + 5 {
        grant(&table, &format!("{n:06}"));
    }
    let last = format!("{:06}", LIST_STEP * 2 + 4);
    let query = LeaseQuery {
        contains: Some(last.clone()),
        ..LeaseQuery::default()
    };
    let page = now(table.list(&query)).unwrap();
    assert_eq!(page.leases.len(), 1);
    assert_eq!(page.leases[0].key.as_str(), last);
    assert_eq!(page.next, None);
}

/// One step of one of several holders that know nothing of each other.
#[derive(Debug, Clone)]
enum Step {
    Acquire(u8),
    /// The nth grant ever given, counted from the newest, whoever has it now.
    Renew(usize),
    Release(usize),
    Break(usize),
    TakeOver(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let nth = 0..6_usize;
    let step = prop_oneof![
        4 => (0..2_u8).prop_map(Step::Acquire),
        2 => nth.clone().prop_map(Step::Renew),
        3 => nth.clone().prop_map(Step::Release),
        1 => nth.clone().prop_map(Step::Break),
        1 => nth.prop_map(Step::TakeOver),
        2 => (0..4_000_u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

/// What must be true, in the simplest form: who has each key, and until when.
#[derive(Default)]
struct Model {
    held: HashMap<LeaseKey, (LeaseToken, Instant)>,
    broken: Vec<LeaseToken>,
}

impl Model {
    fn current(&self, key: &LeaseKey, now: Instant) -> Option<LeaseToken> {
        self.held
            .get(key)
            .filter(|(_, ends)| *ends > now)
            .map(|(token, _)| *token)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    // fault: 19
    #[test]
    fn a_stale_token_changes_nothing(steps in steps()) {
        let clock = ManualClock::new();
        let table = LocalLeases::new(Arc::new(clock.clone()));
        let mut model = Model::default();
        let mut grants: Vec<Grant> = Vec::new();
        let keys = [key("k0"), key("k1")];
        let mut ears = keys.each_ref().map(|key| table.subscribe(key));
        for step in steps {
            let at = clock.now();
            let nth = |n: &usize| grants.iter().rev().nth(*n).cloned();
            let before: Vec<_> = keys.iter().map(|key| now(table.get(key)).unwrap()).collect();
            let mut told = None;
            let mut touched = None;
            match &step {
                Step::Pass(ms) => clock.advance(Duration::from_millis(*ms)),
                Step::Acquire(n) => {
                    let key = &keys[usize::from(*n)];
                    match now(table.try_acquire(key, &holder(), TTL)).unwrap() {
                        Acquire::Granted(grant) => {
                            prop_assert_eq!(model.current(key, at), None);
                            model.held.insert(key.clone(), (grant.token, at + TTL));
                            touched = Some(key.clone());
                            grants.push(grant);
                        }
                        Acquire::Held(held) => {
                            prop_assert_eq!(model.current(key, at), Some(held.token));
                        }
                    }
                }
                Step::Renew(n) | Step::Release(n) | Step::Break(n) | Step::TakeOver(n) => {
                    let Some(grant) = nth(n) else { continue };
                    let current = model.current(&grant.key, at);
                    let mine = current == Some(grant.token);
                    touched = mine.then(|| grant.key.clone());
                    match &step {
                        Step::Renew(_) => {
                            let progress = Progress { bytes: 1, total: None, waiters: 1 };
                            let answer = now(table.renew(&grant, &progress)).unwrap();
                            if mine {
                                prop_assert_eq!(answer, Renewal::Renewed { deadline: at + TTL });
                                model.held.insert(grant.key.clone(), (grant.token, at + TTL));
                            } else if model.broken.contains(&grant.token) {
                                prop_assert_eq!(answer, Renewal::Forced);
                            } else {
                                prop_assert_eq!(answer, Renewal::Lost);
                            }
                        }
                        Step::Release(_) => {
                            let answer = now(table.release(&grant, Outcome::Stored)).unwrap();
                            prop_assert_eq!(answer == Released::Released, mine);
                            told = mine.then_some(Outcome::Stored);
                        }
                        Step::Break(_) => {
                            let answer = now(table.force_release(&grant.key, &grant.token));
                            prop_assert_eq!(answer.unwrap() == ForceRelease::Forced, mine);
                            told = mine.then_some(Outcome::Forced);
                            model.broken.extend(mine.then_some(grant.token));
                        }
                        _ => {
                            let answer = now(table.take_over(&grant.key, &grant.token, TTL));
                            let freed = answer.unwrap() == TakeOver::Freed;
                            prop_assert!(mine || !freed);
                            told = freed.then_some(Outcome::Abandoned);
                        }
                    }
                    if told.is_some() {
                        model.held.remove(&grant.key);
                    }
                }
            }
            let at = clock.now();
            for ((key, ear), before) in keys.iter().zip(&mut ears).zip(before) {
                let after = now(table.get(key)).unwrap();
                prop_assert_eq!(after.as_ref().map(|view| view.token), model.current(key, at));
                match ear.woken().now_or_never() {
                    Some(Wake::Event(event)) => {
                        prop_assert_eq!(Some(event.outcome), told);
                        prop_assert_eq!(Some(&event.key), touched.as_ref());
                    }
                    Some(Wake::Reconnected) => prop_assert!(false, "nothing was interrupted"),
                    None => prop_assert!(told.is_none() || touched.as_ref() != Some(key)),
                }
                if touched.as_ref() != Some(key) && !matches!(step, Step::Pass(_)) {
                    prop_assert_eq!(after, before, "{:?} touched {}", step, key);
                }
            }
        }
    }
}

// fault: 19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_one_holds_whatever_the_threads_do() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let table = Arc::new(LocalLeases::new(Arc::new(ManualClock::new())));
    let (inside, won) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (table, inside, won) = (Arc::clone(&table), Arc::clone(&inside), Arc::clone(&won));
        tasks.spawn(async move {
            let mut stale: Option<Grant> = None;
            for _ in 0..500 {
                if let Some(stale) = &stale {
                    let again = table.release(stale, Outcome::Failed).await.unwrap();
                    assert_eq!(again, Released::NotOwner);
                }
                let answer = table.try_acquire(&key("k"), &holder(), TTL).await.unwrap();
                if let Acquire::Granted(grant) = answer {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                    let first = table.release(&grant, Outcome::Stored).await.unwrap();
                    assert_eq!(first, Released::Released);
                    won.fetch_add(1, Ordering::SeqCst);
                    stale = Some(grant);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert!(won.load(Ordering::SeqCst) > 0);
    assert!(table.is_empty());
}
