//! `Subscription`, one waiter's ear, and `Fanout`, which takes each event to those who listen.
//!
//! Every implementation of a lease table feeds one `Fanout`: the in-process one from its own
//! releases, a networked one from its subscriber connection. The map holds exactly the live
//! subscriptions, so it is bounded by the waits, which are bounded elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::sync::lock;
use crate::{LeaseKey, ReleaseEvent};

/// Events kept for one subscriber that does not look. One wait sees one or two; when a flood of
/// forged or doubled ones fills it, "look for yourself" replaces them all.
const PENDING_MAX: usize = 8;

/// Why a waiter woke. In either case it looks for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// A lease on the key ended, so somebody says.
    Event(ReleaseEvent),
    /// The event source was interrupted: any number of events may have been missed.
    Reconnected,
}

/// Where a subscription gets its wake-ups; implement it to wrap or to merge subscriptions.
pub trait WakeSource: Send {
    /// Polls for the next wake-up. One that was not returned yet must not be lost when the caller
    /// stops polling.
    fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<Wake>;

    /// See [`Subscription::is_live`].
    fn is_live(&self) -> bool;
}

/// One waiter's registration for the release events of one key.
///
/// Events that come between the registration and the wait are kept. Dropping it deregisters.
pub struct Subscription {
    source: Box<dyn WakeSource>,
}

impl Subscription {
    /// Makes a subscription from any source.
    pub fn new(source: impl WakeSource + 'static) -> Self {
        Self {
            source: Box::new(source),
        }
    }

    /// Waits for the next wake-up; at once if one is pending.
    ///
    /// Cancelling loses nothing. There need not ever be one: waiters bound the wait themselves.
    pub async fn woken(&mut self) -> Wake {
        poll_fn(|cx| self.source.poll_woken(cx)).await
    }

    /// Polls for the next wake-up, for sources that wrap this subscription.
    pub fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        self.source.poll_woken(cx)
    }

    /// Says whether events are known to flow now; while they do not, look more often.
    pub fn is_live(&self) -> bool {
        self.source.is_live()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("live", &self.is_live())
            .finish_non_exhaustive()
    }
}

/// Takes events to the subscriptions of their keys. Clones share one registry.
#[derive(Clone)]
pub struct Fanout {
    shared: Arc<Registry>,
}

struct Registry {
    live: AtomicBool,
    topics: Mutex<Topics>,
}

#[derive(Default)]
struct Topics {
    next_id: u64,
    /// Ordered, so that whoever wakes everybody does so in the same order every time.
    by_key: BTreeMap<LeaseKey, BTreeMap<u64, Arc<Mailbox>>>,
}

#[derive(Default)]
struct Mailbox {
    state: Mutex<MailboxState>,
}

#[derive(Default)]
struct MailboxState {
    pending: VecDeque<ReleaseEvent>,
    reconnected: bool,
    waker: Option<Waker>,
}

impl Fanout {
    /// Makes an empty registry. `live` says whether events flow from the start: yes for events of
    /// this process, no for a connection that is still to come up.
    pub fn new(live: bool) -> Self {
        let topics = Mutex::new(Topics::default());
        Self {
            shared: Arc::new(Registry {
                live: AtomicBool::new(live),
                topics,
            }),
        }
    }

    /// Registers a subscriber of `key`, at once.
    pub fn subscribe(&self, key: &LeaseKey) -> Subscription {
        let mailbox = Arc::new(Mailbox::default());
        let id = {
            let mut topics = lock(&self.shared.topics);
            let id = topics.next_id;
            topics.next_id += 1;
            topics
                .by_key
                .entry(key.clone())
                .or_default()
                .insert(id, Arc::clone(&mailbox));
            id
        };
        let registry = Arc::clone(&self.shared);
        Subscription::new(Registration {
            registry,
            key: key.clone(),
            id,
            mailbox,
        })
    }

    /// Takes `event` to every subscriber of its key; returns how many there were.
    pub fn publish(&self, event: &ReleaseEvent) -> usize {
        let mailboxes: Vec<_> = match lock(&self.shared.topics).by_key.get(&event.key) {
            Some(subscribers) => subscribers.values().cloned().collect(),
            None => return 0,
        };
        for mailbox in &mailboxes {
            mailbox.put(|state| {
                if state.pending.len() < PENDING_MAX {
                    state.pending.push_back(event.clone());
                } else {
                    state.pending.clear();
                    state.reconnected = true;
                }
            });
        }
        mailboxes.len()
    }

    /// Wakes every subscriber with [`Wake::Reconnected`]; returns how many there were.
    ///
    /// For the moment after an interruption, when events flow again.
    pub fn wake_all(&self) -> usize {
        let mailboxes: Vec<_> = {
            let topics = lock(&self.shared.topics);
            topics
                .by_key
                .values()
                .flat_map(|subscribers| subscribers.values().cloned())
                .collect()
        };
        for mailbox in &mailboxes {
            mailbox.put(|state| state.reconnected = true);
        }
        mailboxes.len()
    }

    /// Says whether events are known to flow; see [`Subscription::is_live`].
    pub fn set_live(&self, live: bool) {
        self.shared.live.store(live, Ordering::Relaxed);
    }

    /// Says what [`set_live`](Self::set_live) said last.
    pub fn is_live(&self) -> bool {
        self.shared.live.load(Ordering::Relaxed)
    }

    /// Returns the number of live subscriptions.
    pub fn subscriptions(&self) -> usize {
        lock(&self.shared.topics)
            .by_key
            .values()
            .map(BTreeMap::len)
            .sum()
    }

    /// Returns the number of keys that somebody listens to.
    pub fn keys(&self) -> usize {
        lock(&self.shared.topics).by_key.len()
    }
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fanout")
            .field("live", &self.is_live())
            .field("subscriptions", &self.subscriptions())
            .finish()
    }
}

impl Mailbox {
    /// Changes the state under the lock, then wakes the waiter outside of it: a waker may run
    /// anything, even code that takes the same lock.
    fn put(&self, change: impl FnOnce(&mut MailboxState)) {
        let waker = {
            let mut state = lock(&self.state);
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A mailbox that is in the registry for as long as this lives.
struct Registration {
    registry: Arc<Registry>,
    key: LeaseKey,
    id: u64,
    mailbox: Arc<Mailbox>,
}

impl WakeSource for Registration {
    fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        let mut state = lock(&self.mailbox.state);
        // Events first: they say more, and the interruption stays noted behind them.
        if let Some(event) = state.pending.pop_front() {
            return Poll::Ready(Wake::Event(event));
        }
        if mem::take(&mut state.reconnected) {
            return Poll::Ready(Wake::Reconnected);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn is_live(&self) -> bool {
        self.registry.live.load(Ordering::Relaxed)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut topics = lock(&self.registry.topics);
        if let Some(subscribers) = topics.by_key.get_mut(&self.key) {
            subscribers.remove(&self.id);
            if subscribers.is_empty() {
                topics.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt;

    use super::*;
    use crate::{LeaseToken, Outcome};

    fn event(key: &LeaseKey) -> ReleaseEvent {
        let (token, outcome) = (LeaseToken::random(), Outcome::Stored);
        ReleaseEvent {
            key: key.clone(),
            token,
            outcome,
        }
    }

    // fault: 17
    #[test]
    fn an_event_before_the_wait_is_latched() {
        let (fanout, key) = (Fanout::new(true), LeaseKey::new("k").unwrap());
        let mut subscription = fanout.subscribe(&key);
        let event = event(&key);
        assert_eq!(fanout.publish(&event), 1);
        assert_eq!(
            subscription.woken().now_or_never(),
            Some(Wake::Event(event))
        );
        assert_eq!(subscription.woken().now_or_never(), None);
    }

    // fault: 15
    #[test]
    fn an_interruption_wakes_everybody_once() {
        let fanout = Fanout::new(false);
        let keys = ["a", "b"].map(|key| LeaseKey::new(key).unwrap());
        let mut waiting = keys.each_ref().map(|key| fanout.subscribe(key));
        assert!(waiting.iter().all(|subscription| !subscription.is_live()));
        fanout.set_live(true);
        assert_eq!((fanout.wake_all(), fanout.wake_all()), (2, 2));
        for subscription in &mut waiting {
            assert!(subscription.is_live());
            assert_eq!(subscription.woken().now_or_never(), Some(Wake::Reconnected));
            assert_eq!(subscription.woken().now_or_never(), None);
        }
    }

    // fault: 18
    #[test]
    fn a_flood_becomes_one_call_to_look() {
        let (fanout, key) = (Fanout::new(true), LeaseKey::new("k").unwrap());
        let mut subscription = fanout.subscribe(&key);
        for _ in 0..=PENDING_MAX {
            fanout.publish(&event(&key));
        }
        assert_eq!(subscription.woken().now_or_never(), Some(Wake::Reconnected));
        assert_eq!(subscription.woken().now_or_never(), None);
    }

    #[tokio::test]
    async fn a_waiting_task_is_woken_and_a_cancelled_wait_loses_nothing() {
        let (fanout, key) = (Fanout::new(true), LeaseKey::new("k").unwrap());
        let mut subscription = fanout.subscribe(&key);
        assert!(subscription.woken().now_or_never().is_none());
        let waiter = tokio::spawn(async move { subscription.woken().await });
        tokio::task::yield_now().await;
        let event = event(&key);
        fanout.publish(&event);
        assert_eq!(waiter.await.unwrap(), Wake::Event(event));
    }

    #[test]
    fn the_map_holds_live_subscriptions_only() {
        let (fanout, key) = (Fanout::new(true), LeaseKey::new("k").unwrap());
        let (first, second) = (fanout.subscribe(&key), fanout.subscribe(&key));
        assert_eq!((fanout.subscriptions(), fanout.keys()), (2, 1));
        drop(first);
        assert_eq!((fanout.subscriptions(), fanout.keys()), (1, 1));
        drop(second);
        assert_eq!((fanout.subscriptions(), fanout.keys()), (0, 0));
        assert_eq!(fanout.publish(&event(&key)), 0);
    }
}
