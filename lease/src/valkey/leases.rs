//! `ValkeyLeases`: the lease table that a fleet shares.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use super::act::Act;
use super::keys::{KeyKind, LeaseValue, ProgressValue, ReadLease, to_json};
use super::live::{GRANTS_MAX, LiveGrants};
use super::node::maybe_applied;
use super::ops::{Described, Ended, Ending, Extension};
use super::ring::{Member, Ring};
use super::scan::{self, Wanted};
use super::tasks::Tasks;
use super::undo::Undo;
use crate::ttl::{lease_ttl_ms, whole};
use crate::{
    Acquire, Clock, ForceRelease, Grant, HeldLease, Holder, LeaseError, LeaseKey, LeasePage,
    LeaseQuery, LeaseTable, LeaseToken, LeaseView, Outcome, PAGE_LIMIT_MAX, Progress, Released,
    Renewal, Subscription, TakeOver, timeout,
};

/// Most tries for a lease that ends just when one looks who has it.
const ROUNDS_MAX: usize = 3;
/// How many leases of a listing are looked at side by side.
const LOOKS_MAX: usize = 64;

/// The lease table that a fleet shares.
#[derive(Debug)]
pub(crate) struct ValkeyLeases {
    ring: Arc<Ring>,
    live: Arc<LiveGrants>,
    clock: Arc<dyn Clock>,
    _tasks: Arc<Tasks>,
}

/// A request for a lease whose end is not known yet. Dropped in between, by an error or by the
/// caller's impatience, it leaves the lease to be ended in the background.
struct Attempt<'a> {
    table: &'a ValkeyLeases,
    member: &'a Member,
    key: &'a LeaseKey,
    token: LeaseToken,
    sent: Instant,
    /// Whether the server may have granted it without our knowing.
    open: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // Nobody works under it, so whoever asks may know.
        self.table.live.forget(self.token);
        self.member.undo.leave(Undo {
            key: self.key.clone(),
            token: self.token,
            outcome: Outcome::Abandoned,
            sent: self.sent,
        });
    }
}

impl ValkeyLeases {
    pub(crate) fn new(
        ring: Arc<Ring>,
        live: Arc<LiveGrants>,
        clock: Arc<dyn Clock>,
        tasks: Arc<Tasks>,
    ) -> Self {
        Self {
            ring,
            live,
            clock,
            _tasks: tasks,
        }
    }

    /// Returns the node that granted `grant`, also when another has its key by now.
    fn granter(&self, grant: &Grant) -> &Member {
        match self.live.node(grant.token) {
            Some(index) => self.ring.member(index),
            None => self.ring.of(grant.key.as_str()),
        }
    }

    /// Reads a lease's value; what is odd about it is told once in a while.
    fn read(
        &self,
        member: &Member,
        key: &LeaseKey,
        value: &[u8],
    ) -> Result<LeaseValue, LeaseError> {
        let (value, doubt) = match LeaseValue::read(value) {
            Ok(ReadLease { value, doubt: None }) => return Ok(value),
            Ok(ReadLease { value, doubt }) => (Some(value), doubt.unwrap_or_default()),
            Err(unreadable) => (None, unreadable.detail),
        };
        let node = &member.ops.node;
        node.observer().unreadable(node.address());
        if let Some(held_back) = self.ring.unreadable.due() {
            tracing::warn!(
                valkey.node = node.address(),
                lease.key = %key,
                detail = doubt,
                held_back,
                "a lease was written by another version; what can be read of it is used",
            );
        }
        value.ok_or_else(|| node.nonsense(Act::new("read", key.as_str()), doubt))
    }

    /// Says who holds the lease; `None` when nobody does any more. `value` is what was there a
    /// moment ago.
    async fn held(
        &self,
        member: &Member,
        key: &LeaseKey,
        value: &[u8],
        ttl: Duration,
        until: Instant,
    ) -> Result<Option<HeldLease>, LeaseError> {
        let left = until.saturating_duration_since(self.clock.now());
        let described = match timeout(&*self.clock, left, member.ops.describe(key)).await {
            Some(Ok(described)) => described,
            // Held is what we know; how long is a guess that a next look corrects.
            None | Some(Err(_)) => Described {
                value: Some(value.to_vec()),
                left: ttl,
                ..Described::default()
            },
        };
        let Some(value) = &described.value else {
            return Ok(None);
        };
        let value = self.read(member, key, value)?;
        Ok(Some(HeldLease {
            token: value.token,
            expires_in: described.left,
            progress: progress(&described, value.token)
                .map_or_else(Progress::default, |p| p.progress),
            holder: value.holder,
        }))
    }

    fn view(
        &self,
        member: &Member,
        key: LeaseKey,
        described: &Described,
    ) -> Result<Option<LeaseView>, LeaseError> {
        let Some(value) = &described.value else {
            return Ok(None);
        };
        let value = self.read(member, &key, value)?;
        let ttl = Duration::from_millis(value.ttl_ms);
        let told = progress(described, value.token);
        // Since its grant, or up to the last renewal and since then.
        let age = match &told {
            Some(told) => Duration::from_millis(told.age_ms)
                .saturating_add(ttl.saturating_sub(described.progress_left)),
            None => ttl.saturating_sub(described.left),
        };
        Ok(Some(LeaseView {
            key,
            token: value.token,
            holder: value.holder,
            age,
            expires_in: described.left,
            progress: told.map_or_else(Progress::default, |told| told.progress),
        }))
    }
}

fn progress(described: &Described, token: LeaseToken) -> Option<ProgressValue> {
    ProgressValue::read(described.progress.as_deref()?, token)
}

#[async_trait]
impl LeaseTable for ValkeyLeases {
    fn subscribe(&self, key: &LeaseKey) -> Subscription {
        self.ring.of(key.as_str()).fanout.subscribe(key)
    }

    async fn try_acquire(
        &self,
        key: &LeaseKey,
        holder: &Holder,
        ttl: Duration,
    ) -> Result<Acquire, LeaseError> {
        let ttl_ms = lease_ttl_ms(ttl)?;
        let (ttl, ttl_ms) = (whole(ttl_ms), ttl_ms.get());
        let index = self.ring.place(key.as_str());
        let member = self.ring.member(index);
        let command_timeout = member.ops.node.limits().command_timeout;
        // All rounds, and the looks at who holds it, take no longer than one call may.
        let until = self.clock.now() + command_timeout;
        let mut last = None;
        for round in 0..ROUNDS_MAX {
            if round > 0 && self.clock.now() >= until {
                break;
            }
            let token = LeaseToken::random();
            let value = to_json(&LeaseValue::new(token, holder, ttl_ms));
            let sent = self.clock.now();
            if !self
                .live
                .register(token, index, sent + ttl + command_timeout)
            {
                let why = format!("all {GRANTS_MAX} places of this instance are taken");
                return Err(Act::new("acquire", key.as_str()).unavailable(why));
            }
            let mut attempt = Attempt {
                table: self,
                member,
                key,
                token,
                sent,
                open: true,
            };
            let left = until.saturating_duration_since(sent);
            let acquiring = member.ops.acquire(key, &value, ttl_ms);
            let answer = match round {
                // The call has this limit itself.
                0 => acquiring.await,
                _ => timeout(&*self.clock, left, acquiring)
                    .await
                    .unwrap_or_else(|| {
                        let why = format!("no answer within {command_timeout:?}");
                        Err(Act::new("acquire", key.as_str()).unavailable(why))
                    }),
            };
            attempt.open = answer.as_ref().is_err_and(maybe_applied);
            let there = match answer {
                Ok(None) => {
                    let deadline = sent + ttl;
                    self.live.extend(token, deadline);
                    let key = key.clone();
                    return Ok(Acquire::Granted(Grant {
                        key,
                        token,
                        ttl,
                        deadline,
                    }));
                }
                Ok(Some(there)) => there,
                Err(error) => {
                    self.live.forget(token);
                    return Err(error);
                }
            };
            self.live.forget(token);
            if there.is_empty() {
                continue;
            }
            if let Some(held) = self.held(member, key, &there, ttl, until).await? {
                return Ok(Acquire::Held(held));
            }
            last = Some(there);
        }
        // Others are always faster: the last one seen has just ended, so come back at once.
        let Some(there) = last else {
            let why = "its holders came and went";
            return Err(Act::new("acquire", key.as_str()).unavailable(why));
        };
        let value = self.read(member, key, &there)?;
        Ok(Acquire::Held(HeldLease {
            token: value.token,
            holder: value.holder,
            expires_in: Duration::from_millis(1),
            progress: Progress::default(),
        }))
    }

    async fn renew(&self, grant: &Grant, progress: &Progress) -> Result<Renewal, LeaseError> {
        let ttl_ms = lease_ttl_ms(grant.ttl)?.get();
        let sent = self.clock.now();
        let age = sent.saturating_duration_since(grant.sent_at());
        let told = ProgressValue::new(grant.token, *progress, age);
        let ops = &self.granter(grant).ops;
        match ops.renew(&grant.key, grant.token, ttl_ms, &told).await? {
            Extension::Extended => {
                let deadline = sent + grant.ttl;
                self.live.extend(grant.token, deadline);
                Ok(Renewal::Renewed { deadline })
            }
            Extension::Lost => {
                self.live.forget(grant.token);
                Ok(Renewal::Lost)
            }
            Extension::Forced => {
                self.live.forget(grant.token);
                Ok(Renewal::Forced)
            }
        }
    }

    async fn release(&self, grant: &Grant, outcome: Outcome) -> Result<Released, LeaseError> {
        let member = self.granter(grant);
        let sent = self.clock.now();
        let ended = member
            .ops
            .end(&grant.key, grant.token, Ending::Release(outcome));
        match ended.await {
            Ok(ended) => {
                self.live.forget(grant.token);
                Ok(match ended {
                    Ended::Told | Ended::Untold => Released::Released,
                    Ended::Gone | Ended::Moved | Ended::Refused => Released::NotOwner,
                })
            }
            Err(error) => {
                // The sooner it ends, the sooner others stop to wait for it.
                member.undo.leave(Undo {
                    key: grant.key.clone(),
                    token: grant.token,
                    outcome,
                    sent,
                });
                Err(error)
            }
        }
    }

    async fn list(&self, query: &LeaseQuery) -> Result<LeasePage, LeaseError> {
        let limit = query.limit.clamp(1, PAGE_LIMIT_MAX);
        let wanted = Wanted {
            kind: KeyKind::Lease,
            prefix: "",
            contains: query.contains.as_deref().unwrap_or(""),
            after: query.after.as_ref().map(LeaseKey::as_str),
            limit: limit + 1,
        };
        let mut texts = scan::texts(&self.ring, Act::new("list leases", ""), wanted).await?;
        let more = texts.len() > limit;
        texts.truncate(limit);
        let keys: Vec<LeaseKey> = texts
            .iter()
            .filter_map(|text| LeaseKey::new(text).ok())
            .collect();
        let next = more.then(|| keys.last().cloned()).flatten();
        let looks = keys.into_iter().map(|key| async move {
            let member = self.ring.of(key.as_str());
            let described = member.ops.describe(&key).await?;
            self.view(member, key, &described)
        });
        let mut looks = stream::iter(looks).buffered(LOOKS_MAX);
        let mut leases = Vec::with_capacity(limit.min(texts.len()));
        while let Some(look) = looks.next().await {
            match look {
                Ok(view) => leases.extend(view),
                // One that cannot be read must not hide the others.
                Err(LeaseError::Protocol { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(LeasePage { leases, next })
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<LeaseView>, LeaseError> {
        let member = self.ring.of(key.as_str());
        let described = member.ops.describe(key).await?;
        self.view(member, key.clone(), &described)
    }

    async fn force_release(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
    ) -> Result<ForceRelease, LeaseError> {
        let ops = &self.ring.of(key.as_str()).ops;
        Ok(match ops.end(key, *token, Ending::Force).await? {
            Ended::Told | Ended::Untold => ForceRelease::Forced,
            Ended::Gone => ForceRelease::Gone,
            Ended::Moved | Ended::Refused => ForceRelease::Moved,
        })
    }

    async fn take_over(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
        ttl: Duration,
    ) -> Result<TakeOver, LeaseError> {
        let ttl_ms = lease_ttl_ms(ttl)?.get();
        let ops = &self.ring.of(key.as_str()).ops;
        Ok(
            match ops.end(key, *token, Ending::TakeOver(ttl_ms)).await? {
                Ended::Told | Ended::Untold => TakeOver::Freed,
                Ended::Refused => TakeOver::Refused,
                Ended::Gone => TakeOver::Gone,
                Ended::Moved => TakeOver::Moved,
            },
        )
    }
}
