//! The lease table and the records that a process sees through its link.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lease::{
    Acquire, ForceRelease, Grant, HeldLease, Holder, LeaseError, LeaseKey, LeasePage, LeaseQuery,
    LeaseTable, LeaseToken, LeaseView, Outcome, Progress, Record, RecordPage, Records, Released,
    Renewal, Subscription, TakeOver,
};
use tokio::time::Instant;

use super::super::ledger::Op;
use super::super::world::lock;
use super::Link;

/// The lease table that a process sees.
#[derive(Debug)]
pub(in super::super) struct LinkedLeases(pub(in super::super) Arc<Link>);

impl LinkedLeases {
    fn unit(&self, key: &LeaseKey) -> Result<usize, LeaseError> {
        self.0
            .world
            .unit_named(key.as_str())
            .ok_or_else(|| LeaseError::unavailable("know a unit that nobody asked for"))
    }
}

#[async_trait]
impl LeaseTable for LinkedLeases {
    fn subscribe(&self, key: &LeaseKey) -> Subscription {
        self.0.fanout.subscribe(key)
    }

    async fn try_acquire(
        &self,
        key: &LeaseKey,
        holder: &Holder,
        ttl: Duration,
    ) -> Result<Acquire, LeaseError> {
        let link = &self.0;
        let (world, number) = (&link.world, link.host.number);
        let unit = self.unit(key)?;
        let sent = Instant::now();
        // What the server granted, whether or not the answer says so.
        let granted = Arc::new(Mutex::new(None));
        let answer = {
            let (key, holder, granted) = (key.clone(), holder.clone(), granted.clone());
            let asker = link.clone();
            link.call(Op::Acquire, Some(unit), move |server| {
                let answer = server.try_acquire(unit, &key, &holder, ttl)?;
                if let Acquire::Granted(grant) = &answer {
                    *lock(&granted) = Some(grant.clone());
                    asker.may_hold(grant.token, sent + ttl);
                }
                Ok(answer)
            })
            .await
            .flatten()
        };
        let held = match answer {
            Ok(Acquire::Granted(grant)) => {
                world.ledger().may_fetch(number, unit);
                world.note(number, "is granted the lease", Some(unit), 0);
                return Ok(Acquire::Granted(Grant {
                    deadline: sent + ttl,
                    ..grant
                }));
            }
            Ok(Acquire::Held(held)) => held,
            Err(error) => {
                world.ledger().refused(number, unit);
                world.note(number, "gets no answer to its try", Some(unit), 0);
                let link = link.clone();
                tokio::spawn(async move {
                    let undone = link.call(Op::Undo, Some(unit), move |server| {
                        let grant = lock(&granted).take()?;
                        // It was not ours any more, or it is not now.
                        drop(server.release(unit, &grant, Outcome::Abandoned, false));
                        Some(grant.token)
                    });
                    // Without an answer it ends by expiry.
                    if let Ok(Some(token)) = undone.await {
                        link.forget(&token);
                    }
                });
                return Err(error);
            }
        };
        let described = {
            let key = key.clone();
            link.call(Op::Describe, Some(unit), move |server| server.get(&key))
                .await
        };
        match described {
            Ok(view) => {
                world.ledger().follows(number, unit);
                world.note(number, "finds the lease held", Some(unit), 0);
                Ok(Acquire::Held(match view {
                    Some(view) => HeldLease {
                        token: view.token,
                        holder: view.holder,
                        expires_in: view.expires_in,
                        progress: view.progress,
                    },
                    // It ended between the two commands.
                    None => HeldLease {
                        expires_in: Duration::from_millis(1),
                        ..held
                    },
                }))
            }
            Err(error) => {
                world.ledger().refused(number, unit);
                world.note(number, "gets no answer to its try", Some(unit), 1);
                Err(error)
            }
        }
    }

    async fn renew(&self, grant: &Grant, progress: &Progress) -> Result<Renewal, LeaseError> {
        let unit = self.unit(&grant.key)?;
        let sent = Instant::now();
        let renewal = {
            let (grant, progress) = (grant.clone(), *progress);
            self.0
                .call(Op::Renew, Some(unit), move |server| {
                    server.renew(unit, &grant, &progress)
                })
                .await
                .flatten()?
        };
        let (what, renewal) = match renewal {
            Renewal::Renewed { .. } => {
                let deadline = sent + grant.ttl;
                self.0.may_hold(grant.token, deadline);
                ("renews", Renewal::Renewed { deadline })
            }
            Renewal::Lost => ("learns that its lease is lost", Renewal::Lost),
            Renewal::Forced => ("learns that its lease was broken", Renewal::Forced),
        };
        self.0.world.note(self.0.host.number, what, Some(unit), 0);
        Ok(renewal)
    }

    async fn release(&self, grant: &Grant, outcome: Outcome) -> Result<Released, LeaseError> {
        let unit = self.unit(&grant.key)?;
        let (link, grant) = (&self.0, grant.clone());
        link.host.gate().await;
        link.world
            .note(link.host.number, "releases", Some(unit), outcome as u64);
        let (objects, token) = (link.objects.clone(), grant.token);
        let released = link
            .call(Op::Release, Some(unit), move |server| {
                server.release(unit, &grant, outcome, objects.has(unit))
            })
            .await
            .flatten();
        if released.is_ok() {
            link.forget(&token);
        }
        released
    }

    async fn list(&self, _: &LeaseQuery) -> Result<LeasePage, LeaseError> {
        self.0
            .call(Op::Other, None, |server| LeasePage {
                leases: server.list(),
                next: None,
            })
            .await
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<LeaseView>, LeaseError> {
        let key = key.clone();
        self.0
            .call(Op::Other, None, move |server| server.get(&key))
            .await
    }

    async fn force_release(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
    ) -> Result<ForceRelease, LeaseError> {
        let (key, token) = (key.clone(), *token);
        self.0
            .call(Op::Other, None, move |server| {
                server.force_release(&key, token)
            })
            .await
            .flatten()
    }

    async fn take_over(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
        ttl: Duration,
    ) -> Result<TakeOver, LeaseError> {
        let unit = self.unit(key)?;
        let (link, key, token) = (&self.0, key.clone(), *token);
        link.host.gate().await;
        link.world
            .note(link.host.number, "takes over", Some(unit), 0);
        link.call(Op::TakeOver, Some(unit), move |server| {
            server.take_over(unit, &key, token, ttl)
        })
        .await
        .flatten()
    }
}

/// The records that a process sees.
#[derive(Debug)]
pub(in super::super) struct LinkedRecords(pub(in super::super) Arc<Link>);

impl LinkedRecords {
    /// The artifact that a record is about: `kind:unit`.
    fn unit(&self, key: &str) -> Option<usize> {
        let (_, name) = key.split_once(':')?;
        self.0.world.unit_named(name)
    }
}

#[async_trait]
impl Records for LinkedRecords {
    async fn get(&self, key: &str) -> Result<Option<Record>, LeaseError> {
        let (unit, key) = (self.unit(key), key.to_owned());
        self.0
            .call(Op::Record, unit, move |server| server.record(&key))
            .await
            .flatten()
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), LeaseError> {
        let (unit, key) = (self.unit(key), key.to_owned());
        self.0
            .call(Op::Record, unit, move |server| {
                server.set_record(&key, value, ttl)
            })
            .await
            .flatten()
    }

    async fn set_if_absent(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<bool, LeaseError> {
        let (unit, key) = (self.unit(key), key.to_owned());
        self.0
            .call(Op::Record, unit, move |server| {
                server.add_record(&key, value, ttl)
            })
            .await
            .flatten()
    }

    async fn delete(&self, key: &str) -> Result<bool, LeaseError> {
        let (unit, key) = (self.unit(key), key.to_owned());
        self.0
            .call(Op::Record, unit, move |server| server.delete_record(&key))
            .await
            .flatten()
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<RecordPage, LeaseError> {
        // Nothing that is simulated lists records.
        Ok(RecordPage::default())
    }
}
