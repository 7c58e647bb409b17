//! The subscriber: one task per node that hears the release events and proves that it does.
//!
//! A subscription that has silently ended looks like one on which nothing happens. So the task
//! publishes a canary every second and expects it back on the same way as the events. Only while
//! canaries come back are events known to flow; otherwise waiters look for themselves more often.

use std::fmt::Display;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use rand::Rng;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::act::Act;
use super::endpoint::{
    Channels, Message, Push, PushReceiver, PushSender, SubscriberConnection, pushes,
};
use super::keys::{BUCKETS, read_event};
use super::ops::Ops;
use crate::seldom::Seldom;
use crate::{Fanout, LeaseError, timeout};

/// The time between two canaries, and how long one may take.
const CANARY_EVERY: Duration = Duration::from_secs(1);
/// Canaries missed in a row after which the connection is given up.
const MISSED_MAX: u32 = 3;
/// The first pause between two attempts to subscribe; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause: what the server refuses now it will hardly grant the next moment.
const BACKOFF_MAX: Duration = Duration::from_secs(4);

/// Hears the events of one node.
pub(crate) struct Subscriber {
    ops: Ops,
    fanout: Fanout,
    unreadable: Arc<Seldom>,
    channels: Channels,
    /// Whether a line in the log said that no events come.
    complained: bool,
    /// Whether it is known if events flow: they do, or an attempt has failed.
    settled: watch::Sender<bool>,
}

/// The canaries of one connection after another.
struct Canaries {
    /// What went out last, on every canary channel.
    number: u64,
    sent: Instant,
    /// For each canary channel, whether it came back.
    back: Vec<bool>,
    /// Rounds in a row of which one did not.
    missed: u32,
}

impl Canaries {
    fn all_back(&self) -> bool {
        self.back.iter().all(|back| *back)
    }

    /// Takes note of a canary that came back; says whether it was the last of its round.
    fn note(&mut self, index: usize, payload: &[u8]) -> bool {
        let current = payload == self.number.to_string().as_bytes();
        match self.back.get_mut(index) {
            Some(back) if current && !*back => *back = true,
            _ => return false,
        }
        self.all_back()
    }
}

impl Subscriber {
    /// Makes the subscriber of the node of `ops`, which takes its events to `fanout`.
    pub(crate) fn new(ops: Ops, fanout: Fanout, unreadable: Arc<Seldom>) -> Self {
        let id = Uuid::new_v4().to_string();
        let buckets = 0..BUCKETS;
        let channels = Channels {
            events: buckets
                .clone()
                .map(|bucket| ops.keys.events(bucket))
                .collect(),
            canaries: buckets.map(|bucket| ops.keys.canary(bucket, &id)).collect(),
        };
        ops.node.observer().subscribed(ops.node.address(), false);
        Self {
            ops,
            fanout,
            unreadable,
            channels,
            complained: false,
            settled: watch::Sender::new(false),
        }
    }

    /// Returns what turns true once it is known whether events flow.
    pub(crate) fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Starts the task; abort it to stop.
    pub(crate) fn start(self, runtime: &Handle) -> JoinHandle<()> {
        runtime.spawn(self.run())
    }

    async fn run(mut self) {
        let mut failed = 0_u32;
        loop {
            let (sender, mut receiver) = pushes();
            match self.subscribe(sender).await {
                Ok(connection) => {
                    let heard = self.listen(&connection, &mut receiver).await;
                    failed = if heard { 0 } else { failed.saturating_add(1) };
                    self.set_live(false);
                    // What is published until the next subscription is lost: waiters have to know
                    // that they cannot rely on it.
                    self.fanout.wake_all();
                }
                Err(error) => {
                    self.complain(&error);
                    failed = failed.saturating_add(1);
                }
            }
            self.ops.node.clock().sleep(pause(failed)).await;
        }
    }

    async fn subscribe(&self, sender: PushSender) -> Result<SubscriberConnection, LeaseError> {
        let act = Act::new("subscribe", "");
        let node = &self.ops.node;
        // A server that is not there is the keeper's business; this waits until it is back.
        node.up().await;
        let limit = node.limits().connect_timeout;
        let subscribing = node.endpoint().subscribe(&self.channels, sender);
        match timeout(&**node.clock(), limit, subscribing).await {
            Some(Ok(connection)) => Ok(connection),
            Some(Err(error)) => Err(node.refused(act, error)),
            None => Err(act.unavailable(format!("no answer within {limit:?}"))),
        }
    }

    /// Hears until the connection is of no more use; says whether it ever was.
    async fn listen(
        &mut self,
        connection: &SubscriberConnection,
        receiver: &mut PushReceiver,
    ) -> bool {
        // Events may have been missed before the subscription, whatever the canaries say.
        self.fanout.wake_all();
        let clock = Arc::clone(self.ops.node.clock());
        let mut canaries = Canaries {
            number: rand::rng().random(),
            sent: clock.now(),
            back: vec![true; connection.canaries.len()],
            missed: 0,
        };
        let mut heard = false;
        let mut next = clock.sleep(Duration::ZERO);
        let mut publishing = OptionFuture::from(None::<BoxFuture<'static, ()>>);
        loop {
            tokio::select! {
                push = receiver.next() => match push {
                    Push::Message(message) => {
                        heard |= self.hear(&message, connection, &mut canaries);
                    }
                    Push::Overflowed => {
                        let node = &self.ops.node;
                        node.observer().events_overflowed(node.address());
                        self.fanout.wake_all();
                    }
                    Push::Lost => return heard,
                },
                () = &mut next => {
                    if !canaries.all_back() {
                        self.missed(&mut canaries);
                        if canaries.missed >= MISSED_MAX {
                            return heard;
                        }
                    }
                    canaries.number = canaries.number.wrapping_add(1);
                    canaries.sent = clock.now();
                    canaries.back.fill(false);
                    publishing = Some(self.publish(connection, canaries.number)).into();
                    next = clock.sleep(CANARY_EVERY);
                }
                () = done(&mut publishing) => publishing = None.into(),
            }
        }
    }

    /// Sends one round of canaries, beside the hearing: one may come back before the answer to its
    /// publication does.
    fn publish(&self, connection: &SubscriberConnection, number: u64) -> BoxFuture<'static, ()> {
        let (ops, names) = (self.ops.clone(), connection.canaries.clone());
        let number = number.to_string();
        async move {
            for name in names {
                let act = Act::new("publish canary", "");
                // A failure shows by what does not come back.
                let _ = ops.publish(act, &name, &number).await;
            }
        }
        .boxed()
    }

    /// Takes one message where it belongs; says whether it completes a round of canaries.
    fn hear(
        &mut self,
        message: &Message,
        connection: &SubscriberConnection,
        canaries: &mut Canaries,
    ) -> bool {
        let node = &self.ops.node;
        let mut names = connection.canaries.iter();
        if let Some(index) = names.position(|name| name.as_bytes() == message.channel) {
            if !canaries.note(index, &message.payload) {
                return false;
            }
            let lag = node.clock().now().saturating_duration_since(canaries.sent);
            node.observer().canary(node.address(), lag);
            self.set_live(true);
            if std::mem::take(&mut canaries.missed) > 0 {
                // Events may have been missed as the canaries were.
                self.fanout.wake_all();
            }
            return true;
        }
        match read_event(&message.payload) {
            Ok(event) => {
                node.observer().event(node.address());
                self.fanout.publish(&event);
            }
            Err(unreadable) => {
                node.observer().unreadable(node.address());
                if let Some(held_back) = self.unreadable.due() {
                    tracing::warn!(
                        valkey.node = node.address(),
                        detail = unreadable.detail,
                        held_back,
                        "a release event cannot be read; another version may have sent it",
                    );
                }
            }
        }
        false
    }

    fn missed(&mut self, canaries: &mut Canaries) {
        canaries.missed += 1;
        let node = &self.ops.node;
        node.observer().canary_missed(node.address());
        self.complain(&"a message that was published for it did not arrive");
        if self.fanout.is_live() {
            self.set_live(false);
            self.fanout.wake_all();
        }
    }

    fn set_live(&mut self, live: bool) {
        if live {
            self.complained = false;
            self.settled.send_replace(true);
        }
        if self.fanout.is_live() != live {
            self.fanout.set_live(live);
            let node = &self.ops.node;
            node.observer().subscribed(node.address(), live);
        }
    }

    /// Says once per interruption why no events come.
    fn complain(&mut self, why: &dyn Display) {
        self.settled.send_replace(true);
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(
                valkey.node = self.ops.node.address(),
                why = %why,
                "no release events from Valkey; those who wait look for themselves until there are",
            );
        }
    }
}

async fn done(publishing: &mut OptionFuture<BoxFuture<'static, ()>>) {
    if publishing.await.is_none() {
        pending::<()>().await;
    }
}

/// The pause before the next attempt: short after a connection that worked, then doubling, with a
/// fifth of jitter, so that a fleet does not come back in step.
fn pause(failed: u32) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1_u32.checked_shl(failed).unwrap_or(u32::MAX));
    let factor = rand::rng().random_range(0.8..=1.2);
    doubled.min(BACKOFF_MAX).mul_f64(factor)
}
