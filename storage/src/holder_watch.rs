//! Early take-over's eye: watches whether the holders that followers wait for are still there.
//!
//! One task per watched address, however many leases its holder has; it lives while somebody
//! follows one of them. A holder counts as gone after two signs in a row: its address refuses
//! connections, or it answers that it does not know the grant. Silence is no sign.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lease::{Clock, LeaseToken};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::StorageMetrics;
use crate::peers::{GRANTS_ASKED_MAX, PeerError, Peers};

/// Signs of death in a row before a holder counts as gone.
const SIGNS: u8 = 2;

/// Addresses that are watched at once; holders beyond it are waited for until their TTL ends.
const ADDRESSES_MAX: usize = 1_024;

/// What the watching needs and who ends its tasks.
#[derive(Debug)]
pub(crate) struct WatchParts {
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<StorageMetrics>,
    /// How often each holder is asked.
    pub(crate) every: Duration,
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// The holders that this instance's followers wait for.
#[derive(Debug, Clone)]
pub(crate) struct HolderWatch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    parts: WatchParts,
    holders: Mutex<Holders>,
}

#[derive(Debug, Default)]
struct Holders {
    next_id: u64,
    by_address: HashMap<Arc<str>, Watched>,
}

/// One address, with a task of its own for as long as it is in the map.
#[derive(Debug)]
struct Watched {
    /// Ordered, so that followers are told in the same order every time.
    grants: BTreeMap<u64, FollowedGrant>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct FollowedGrant {
    token: LeaseToken,
    signs: u8,
    gone: watch::Sender<bool>,
}

/// One follower's interest in one grant; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Followed {
    shared: Arc<Shared>,
    address: Arc<str>,
    id: u64,
    wake: Arc<Notify>,
    gone: watch::Receiver<bool>,
}

impl HolderWatch {
    pub(crate) fn new(parts: WatchParts) -> Self {
        Self {
            shared: Arc::new(Shared {
                parts,
                holders: Mutex::default(),
            }),
        }
    }

    /// Begins to watch the holder of `token` at `address`; `None` when it cannot be watched.
    ///
    /// The first question goes out after the usual time, so that a lease that ends soon costs
    /// none.
    pub(crate) fn follow(&self, address: &Arc<str>, token: LeaseToken) -> Option<Followed> {
        let shared = &self.shared;
        if !shared.parts.peers.is_on() {
            return None;
        }
        let mut holders = shared.holders();
        let is_new = !holders.by_address.contains_key(address);
        if is_new && holders.by_address.len() >= ADDRESSES_MAX {
            shared.parts.metrics.count_limit("internal.holders_max");
            return None;
        }
        let id = holders.next_id;
        holders.next_id += 1;
        let (sender, gone) = watch::channel(false);
        let watched = holders
            .by_address
            .entry(address.clone())
            .or_insert_with(|| Watched {
                grants: BTreeMap::new(),
                wake: Arc::new(Notify::new()),
            });
        let grant = FollowedGrant {
            token,
            signs: 0,
            gone: sender,
        };
        watched.grants.insert(id, grant);
        let wake = watched.wake.clone();
        drop(holders);
        if is_new {
            let parts = &shared.parts;
            let task = watch_address(shared.clone(), address.clone(), wake.clone());
            parts.tasks.spawn_on(
                parts.stop.clone().run_until_cancelled_owned(task),
                &parts.runtime,
            );
        }
        Some(Followed {
            shared: shared.clone(),
            address: address.clone(),
            id,
            wake,
            gone,
        })
    }
}

impl Followed {
    /// Waits until the holder counts as gone; for ever if it never does.
    pub(crate) async fn gone(&mut self) {
        if self.gone.wait_for(|gone| *gone).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Has the holder asked soon: there was a hint that it may be gone.
    pub(crate) fn ask_soon(&self) {
        self.wake.notify_one();
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut holders = self.shared.holders();
        if let Some(watched) = holders.by_address.get_mut(&self.address) {
            watched.grants.remove(&self.id);
            if watched.grants.is_empty() {
                // The task sees it and ends.
                watched.wake.notify_one();
            }
        }
    }
}

impl Shared {
    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The grants that are followed at `address`; when there are none the address is taken out,
    /// and the caller, its task, must end.
    fn followed(&self, address: &Arc<str>) -> Option<Vec<(u64, LeaseToken)>> {
        let mut holders = self.holders();
        let watched = holders.by_address.get(address)?;
        if watched.grants.is_empty() {
            holders.by_address.remove(address);
            return None;
        }
        let grants = watched.grants.iter();
        Some(grants.map(|(id, grant)| (*id, grant.token)).collect())
    }

    fn judge(
        &self,
        address: &Arc<str>,
        asked: &[(u64, LeaseToken)],
        answer: &Result<Vec<LeaseToken>, PeerError>,
    ) {
        let mut holders = self.holders();
        let Some(watched) = holders.by_address.get_mut(address) else {
            return;
        };
        for (id, token) in asked {
            let Some(grant) = watched.grants.get_mut(id) else {
                continue;
            };
            let is_sign = match answer {
                Ok(unknown) => unknown.contains(token),
                Err(PeerError::Refused) => true,
                Err(PeerError::Unreachable { .. }) => false,
            };
            grant.signs = if is_sign { grant.signs + 1 } else { 0 };
            if grant.signs >= SIGNS {
                grant.signs = SIGNS - 1;
                grant.gone.send_replace(true);
            }
        }
    }
}

/// Asks the holder at `address` after all its followed grants, until nobody follows one.
async fn watch_address(shared: Arc<Shared>, address: Arc<str>, wake: Arc<Notify>) {
    let WatchParts {
        peers,
        clock,
        every,
        ..
    } = &shared.parts;
    // Two questions lie at least `every` apart, however many hints come: two signs within one
    // moment's trouble would be one sign.
    let mut not_before = clock.now();
    loop {
        tokio::select! {
            biased;
            () = clock.sleep(*every) => {}
            () = wake.notified() => lease::sleep_until(&**clock, not_before).await,
        }
        let Some(grants) = shared.followed(&address) else {
            return;
        };
        not_before = clock.now() + *every;
        for asked in grants.chunks(GRANTS_ASKED_MAX) {
            let tokens: Vec<_> = asked.iter().map(|(_, token)| *token).collect();
            let answer = peers.unknown(&address, &tokens).await;
            if let Err(error) = &answer {
                tracing::debug!(holder = %address, %error, "a holder was asked in vain");
            }
            shared.judge(&address, asked, &answer);
        }
    }
}

#[cfg(test)]
mod tests;
