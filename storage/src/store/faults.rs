//! A layer over a backend that fails, delays and lies on demand, for tests of what lies above.

use std::collections::HashMap;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use super::backend::{Backend, BackendError, Directory, Listed, Put, Source};
use super::body::Stored;

/// What a fault is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening an object.
    Lookup,
    /// Creating an object.
    Create,
    /// Replacing a document.
    Replace,
    /// Removing an object.
    Delete,
    /// Listing, of either kind.
    List,
    /// The readiness check's look.
    CheckRead,
    /// The readiness check's write.
    CheckWrite,
}

/// What happens to a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing is done; whether it was stays unclear to the caller.
    Fail,
    /// Nothing is done, and the caller is told that trying again is pointless (read-only, full).
    Refuse,
    /// It is done, but the answer is lost: the caller sees an unclear failure.
    Lost,
    /// It is done after a pause.
    Delay(Duration),
    /// It is done, and answered after a pause.
    Late(Duration),
    /// It is never answered, and nothing is done.
    Hang,
    /// It is done once the gate is opened by `notify_one`.
    Gate(Arc<Notify>),
    /// A look-up finds nothing; a creation finds another write in progress. Nothing is done.
    Lie,
}

/// The plan: which call of which operation meets which fault. Cheap to clone and shared.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    calls: HashMap<Operation, usize>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    operation: Operation,
    calls: (Bound<usize>, Bound<usize>),
    fault: Fault,
}

impl Faults {
    /// Starts without any fault.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault for some calls of an operation, counted from 1 over the life of this plan:
    /// `2..=2` is the second, `..` is every one. The first rule that fits a call applies.
    pub fn inject(&self, operation: Operation, calls: impl RangeBounds<usize>, fault: Fault) {
        self.plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .rules
            .push(Rule {
                operation,
                calls: (calls.start_bound().cloned(), calls.end_bound().cloned()),
                fault,
            });
    }

    /// Takes back every fault; the count of calls goes on.
    pub fn heal(&self) {
        self.plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .rules
            .clear();
    }

    /// How many calls of an operation there were.
    pub fn calls(&self, operation: Operation) -> usize {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.calls.get(&operation).copied().unwrap_or(0)
    }

    pub(super) fn wrap(&self, backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
        Arc::new(Faulty {
            backend,
            faults: self.clone(),
        })
    }

    /// Counts a call and finds its fault.
    fn next(&self, operation: Operation) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = plan.calls.entry(operation).or_default();
        *calls += 1;
        let call = *calls;
        plan.rules
            .iter()
            .find(|rule| rule.operation == operation && rule.calls.contains(&call))
            .map(|rule| rule.fault.clone())
    }

    /// Lets a call happen as its fault says; `lie` is what [`Fault::Lie`] answers.
    async fn apply<T>(
        &self,
        operation: Operation,
        lie: Option<T>,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let unclear = || BackendError::plain("a fault was injected", false);
        match self.next(operation) {
            None => call.await,
            Some(Fault::Fail) => Err(unclear()),
            Some(Fault::Refuse) => Err(BackendError::plain("a fault was injected", true)),
            Some(Fault::Lost) => {
                call.await?;
                Err(unclear())
            }
            Some(Fault::Delay(pause)) => {
                tokio::time::sleep(pause).await;
                call.await
            }
            Some(Fault::Late(pause)) => {
                let outcome = call.await;
                tokio::time::sleep(pause).await;
                outcome
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Gate(gate)) => {
                gate.notified().await;
                call.await
            }
            Some(Fault::Lie) => lie.ok_or_else(unclear),
        }
    }
}

/// The layer.
#[derive(Debug)]
struct Faulty {
    backend: Arc<dyn Backend>,
    faults: Faults,
}

#[async_trait]
impl Backend for Faulty {
    async fn lookup(&self, path: &str) -> Result<Option<Stored>, BackendError> {
        self.faults
            .apply(Operation::Lookup, Some(None), self.backend.lookup(path))
            .await
    }

    async fn put_new(&self, path: &str, source: &Source) -> Result<Put, BackendError> {
        let call = self.backend.put_new(path, source);
        self.faults
            .apply(Operation::Create, Some(Put::Exists), call)
            .await
    }

    async fn settle(&self, path: &str) -> Result<(), BackendError> {
        self.backend.settle(path).await
    }

    async fn put_over(&self, path: &str, bytes: Bytes) -> Result<(), BackendError> {
        let call = self.backend.put_over(path, bytes);
        self.faults.apply(Operation::Replace, None, call).await
    }

    async fn delete(&self, path: &str) -> Result<(), BackendError> {
        self.faults
            .apply(Operation::Delete, None, self.backend.delete(path))
            .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BackendError> {
        let call = self.backend.list(prefix, after, limit);
        self.faults
            .apply(Operation::List, Some(Vec::new()), call)
            .await
    }

    async fn list_dir(&self, prefix: &str, limit: usize) -> Result<Directory, BackendError> {
        let call = self.backend.list_dir(prefix, limit);
        self.faults
            .apply(Operation::List, Some(Directory::default()), call)
            .await
    }

    async fn probe_read(&self) -> Result<(), BackendError> {
        self.faults
            .apply(Operation::CheckRead, None, self.backend.probe_read())
            .await
    }

    async fn probe_write(&self) -> Result<(), BackendError> {
        self.faults
            .apply(Operation::CheckWrite, None, self.backend.probe_write())
            .await
    }
}
