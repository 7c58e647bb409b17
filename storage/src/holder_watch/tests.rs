//! Two signs in a row, and no fewer, for each of many grants behind one question.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use async_trait::async_trait;
use lease::TokioClock;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::*;
use crate::peers::{RelayAsk, RelayReply};
use crate::testing::until;

const EVERY: Duration = Duration::from_millis(250);

type Answer = Result<Vec<LeaseToken>, PeerError>;

/// Answers as it was told, then that it knows everything.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<(Instant, usize)>>,
}

#[async_trait]
impl Peers for Script {
    async fn unknown(&self, _: &str, tokens: &[LeaseToken]) -> Answer {
        let now = (Instant::now(), tokens.len());
        self.asked.lock().unwrap().push(now);
        let answer = self.answers.lock().unwrap().pop_front();
        answer.unwrap_or(Ok(Vec::new()))
    }

    async fn open(&self, _: &str, _: &RelayAsk) -> Result<RelayReply, PeerError> {
        Ok(RelayReply::Unknown)
    }
}

impl Script {
    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn watch_of(answers: impl IntoIterator<Item = Answer>) -> (HolderWatch, Arc<Script>) {
    let script = Arc::new(Script {
        answers: Mutex::new(answers.into_iter().collect()),
        ..Script::default()
    });
    let watch = HolderWatch::new(WatchParts {
        peers: script.clone(),
        clock: Arc::new(TokioClock),
        metrics: StorageMetrics::new(&mut Registry::default()),
        every: EVERY,
        runtime: Handle::current(),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    });
    (watch, script)
}

fn follow(watch: &HolderWatch, token: LeaseToken) -> Followed {
    watch.follow(&Arc::from("a:1"), token).unwrap()
}

fn silence() -> Answer {
    Err(PeerError::unreachable("no answer in time"))
}

fn is_gone(followed: &Followed) -> bool {
    *followed.gone.borrow()
}

// acceptance: G3
#[tokio::test(start_paused = true)]
async fn two_refusals_in_a_row_are_an_end() {
    let refused = || Err(PeerError::Refused);
    let (watch, script) = watch_of([refused(), refused()]);
    let mut followed = follow(&watch, LeaseToken::random());
    let began = Instant::now();
    followed.gone().await;
    assert_eq!(script.asked(), 2);
    assert!(began.elapsed() <= Duration::from_millis(600));
}

// fault: 6
#[tokio::test(start_paused = true)]
async fn one_refusal_between_answers_or_silence_is_none() {
    let refused = || Err(PeerError::Refused);
    let answers = [
        refused(),
        Ok(Vec::new()),
        refused(),
        silence(),
        refused(),
        silence(),
        silence(),
    ];
    let count = answers.len();
    let (watch, script) = watch_of(answers);
    let followed = follow(&watch, LeaseToken::random());
    until("all answers", || script.asked() > count).await;
    assert!(!is_gone(&followed));
}

#[tokio::test(start_paused = true)]
async fn each_grant_is_judged_by_itself_and_all_are_asked_at_once() {
    let tokens = [LeaseToken::random(), LeaseToken::random()];
    let unknown = || Ok(vec![tokens[1]]);
    let (watch, script) = watch_of([unknown(), unknown()]);
    let followed = tokens.map(|token| follow(&watch, token));
    until("two answers", || script.asked() >= 3).await;
    assert!(!is_gone(&followed[0]) && is_gone(&followed[1]));
    assert!(
        script
            .asked
            .lock()
            .unwrap()
            .iter()
            .all(|asked| asked.1 == 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_hint_brings_the_question_forward_but_not_two() {
    let (watch, script) = watch_of([]);
    let followed = follow(&watch, LeaseToken::random());
    let began = Instant::now();
    for _ in 0..100 {
        followed.ask_soon();
        tokio::task::yield_now().await;
    }
    until("two questions", || script.asked() == 2).await;
    let asked = script.asked.lock().unwrap().clone();
    assert!(asked[0].0 - began < EVERY);
    assert!(asked[1].0 - asked[0].0 >= EVERY);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_when_nobody_follows() {
    let (watch, script) = watch_of([]);
    let followed = follow(&watch, LeaseToken::random());
    until("a question", || script.asked() == 1).await;
    drop(followed);
    until("the watch to end", || {
        watch.shared.holders().by_address.is_empty()
    })
    .await;
    let asked = script.asked();
    // Whoever follows again gets a task of his own.
    let _followed = follow(&watch, LeaseToken::random());
    until("another question", || script.asked() > asked).await;
    assert_eq!(watch.shared.parts.tasks.len(), 1);
}
