//! Runs the named cases of a contract, all of them, and reports every one that failed.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;

use crate::{Clock, Subscription, TokioClock, Wake, timeout};

/// How long a suite waits in real time for what must happen.
const BOUND: Duration = Duration::from_secs(10);

/// Collects the failures of a suite's cases.
#[derive(Debug)]
pub(super) struct Report {
    suite: &'static str,
    failures: Vec<String>,
}

impl Report {
    pub(super) fn new(suite: &'static str) -> Self {
        Self {
            suite,
            failures: Vec::new(),
        }
    }

    /// Runs one case; its panic is kept for the end.
    pub(super) async fn case(&mut self, name: &str, case: impl Future<Output = ()>) {
        if let Err(panic) = AssertUnwindSafe(case).catch_unwind().await {
            self.failures.push(format!("{name}: {}", message(&*panic)));
        }
    }

    /// Panics if any case failed, with all their names and messages.
    pub(super) fn finish(self) {
        let Self { suite, failures } = self;
        assert!(
            failures.is_empty(),
            "{} case(s) of {suite} failed:\n{}",
            failures.len(),
            failures.join("\n"),
        );
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<String>() {
        return text;
    }
    panic
        .downcast_ref::<&str>()
        .copied()
        .unwrap_or("a panic without a message")
}

/// Waits for `work`, which must end.
pub(super) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(&TokioClock, BOUND, work).await {
        Some(value) => value,
        None => panic!("no {what} within {BOUND:?}"),
    }
}

/// Waits for the next wake-up.
pub(super) async fn wake(subscription: &mut Subscription) -> Wake {
    soon("wake-up", subscription.woken()).await
}

/// Lets `by` pass on a clock that runs by itself, and a little more: the server's milliseconds
/// need not begin with ours.
pub(super) async fn pass_really(by: Duration) {
    TokioClock.sleep(by + Duration::from_millis(20)).await;
}
