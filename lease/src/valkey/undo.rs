//! Ends leases in the background whose requests got no answer.
//!
//! A `SET … NX` whose answer is lost may have been applied: nobody works under that lease, and it
//! would block everybody for its TTL. A release that failed leaves the same. So both are left here,
//! and ended once the node answers again; a comparison by token makes a needless end harmless.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::ops::{Ended, Ending, Ops};
use crate::{Clock, LeaseKey, LeaseToken, Outcome, sleep_until};

/// Most leases that wait for it; what finds no room ends by its TTL.
const UNDO_MAX: usize = 4_096;
/// How long one waits for the node to answer again, counted from the request; by then it has ended
/// by its TTL, unless that is very long.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long after a first try that found nothing the second one comes: the lost request may still
/// be on its way through a connection that broke.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A lease to be ended if it is there.
#[derive(Debug, Clone)]
pub(crate) struct Undo {
    pub(crate) key: LeaseKey,
    pub(crate) token: LeaseToken,
    pub(crate) outcome: Outcome,
    /// When the request was sent that may have made it.
    pub(crate) sent: Instant,
}

/// Where leases are left to be ended.
#[derive(Debug, Clone)]
pub(crate) struct UndoSender {
    queue: mpsc::Sender<Undo>,
}

/// The other end, for the task.
#[derive(Debug)]
pub(crate) struct UndoReceiver {
    queue: mpsc::Receiver<Undo>,
}

/// Makes a node's queue.
pub(crate) fn queue() -> (UndoSender, UndoReceiver) {
    let (sender, queue) = mpsc::channel(UNDO_MAX);
    (UndoSender { queue: sender }, UndoReceiver { queue })
}

impl UndoSender {
    /// Leaves a lease to be ended; never waits.
    pub(crate) fn leave(&self, undo: Undo) {
        if let Err(error) = self.queue.try_send(undo) {
            tracing::debug!(%error, "a lease that nobody holds is left to its TTL");
        }
    }
}

impl UndoReceiver {
    /// Starts the task that ends what is left here, on the node of `ops`; abort it to stop.
    pub(crate) fn run(self, ops: Ops, runtime: &Handle) -> JoinHandle<()> {
        runtime.spawn(run(self, ops))
    }
}

async fn run(mut receiver: UndoReceiver, ops: Ops) {
    let clock = Arc::clone(ops.node.clock());
    // Those that have had their first try and found nothing, by the order of their second.
    let mut again = std::collections::VecDeque::<(Instant, Undo)>::new();
    loop {
        let undo = tokio::select! {
            biased;
            () = due(&*clock, again.front().map(|(at, _)| *at)) => {
                if let Some((_, undo)) = again.pop_front() {
                    attempt(&ops, &undo).await;
                }
                continue;
            }
            undo = receiver.queue.recv() => match undo {
                Some(undo) => undo,
                None => return,
            },
        };
        if !attempt(&ops, &undo).await && again.len() < UNDO_MAX {
            again.push_back((clock.now() + AGAIN_AFTER, undo));
        }
    }
}

async fn due(clock: &dyn Clock, at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(clock, at).await,
        None => std::future::pending().await,
    }
}

/// Tries to end one lease as soon as the node answers; says whether it was there.
async fn attempt(ops: &Ops, undo: &Undo) -> bool {
    let clock = ops.node.clock();
    loop {
        tokio::select! {
            biased;
            () = ops.node.up() => {}
            () = sleep_until(&**clock, undo.sent + WAIT_MAX) => return true,
        }
        let ending = Ending::Release(undo.outcome);
        match ops.end(&undo.key, undo.token, ending).await {
            Ok(Ended::Told | Ended::Untold) => {
                tracing::debug!(
                    lease.key = %undo.key,
                    lease.token = %undo.token,
                    "ended a lease whose request had got no answer",
                );
                return true;
            }
            Ok(Ended::Gone | Ended::Moved | Ended::Refused) => return false,
            // An error that lasts must not become a busy loop.
            Err(_) if clock.now() >= undo.sent + WAIT_MAX => return true,
            Err(_) => clock.sleep(AGAIN_AFTER).await,
        }
    }
}
