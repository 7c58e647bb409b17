//! `Endpoint`: how connections to one server, or to one service made of several, are opened.
//!
//! An endpoint opens and nothing else: who watches a connection, limits its calls in time and
//! opens it anew is the node. Every future here may be dropped at any point.

mod cluster;
mod plain;
mod sentinel;
mod single;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use redis::aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection, SendError};
use redis::{
    Cmd, ErrorKind, Pipeline, PushInfo, PushKind, RedisError, RedisFuture, RedisResult, Value,
};
use tokio::sync::{Notify, mpsc};

pub(crate) use cluster::{ClusterEndpoint, ClusterLimits, Router};
pub(crate) use sentinel::SentinelEndpoint;
pub(crate) use single::{PoolSizes, SingleEndpoint};

/// Most messages that wait for a subscriber's task. A burst of releases fits; behind a flood that
/// does not, "look for yourself" replaces what was dropped.
const PUSH_QUEUE_MAX: usize = 16_384;

/// Opens connections to one server, or to a service that acts as one (Sentinel, Cluster).
///
/// The caller bounds every call in time. Connections speak RESP3 and have no response timeout of
/// their own.
#[async_trait]
pub(crate) trait Endpoint: Send + Sync + Debug + 'static {
    /// Returns where it leads, for logs, metrics and operators: no user, no password.
    fn address(&self) -> &str;

    /// Says whether keys live in slots: then events are published with `SPUBLISH`.
    fn is_cluster(&self) -> bool {
        false
    }

    /// Returns what is notified when any connection that this endpoint opened for commands was
    /// lost, so that its end is noticed before the next command fails.
    fn disconnects(&self) -> Arc<Notify>;

    /// Opens the connection that all commands share; never one that was handed out before.
    async fn connect(&self) -> RedisResult<CommandConnection>;

    /// Takes a connection for `WATCH … EXEC` on `key`, which nobody else uses meanwhile.
    async fn dedicated(&self, key: &str) -> RedisResult<DedicatedConnection>;

    /// Returns a connection to each primary, for commands that name no key (`SCAN`).
    async fn primaries(&self, shared: &CommandConnection) -> RedisResult<Vec<CommandConnection>> {
        Ok(vec![shared.clone()])
    }

    /// Subscribes to all event channels and, on each connection that this takes, to one of the
    /// canary channels that live on the same server.
    ///
    /// Returns when every subscription is confirmed. Messages and the loss of any of the
    /// connections go to `pushes`.
    async fn subscribe(
        &self,
        channels: &Channels,
        pushes: PushSender,
    ) -> RedisResult<SubscriberConnection>;

    /// Closes dedicated connections that are idle beyond the configured number.
    fn tidy(&self) {}

    /// Opens dedicated connections ahead of their use, where they are used.
    async fn reserve(&self) {}
}

/// The channels of one key prefix, by bucket: those with the same index have the same hash tag.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    /// Where releases are published.
    pub(crate) events: Vec<String>,
    /// Where the subscriber proves to itself that it still hears; its own, nobody else's.
    pub(crate) canaries: Vec<String>,
}

/// An error before anything was sent: there is nobody to send it to, and another attempt may find
/// somebody.
fn failed(what: &'static str, detail: String) -> RedisError {
    RedisError::from((ErrorKind::ClusterConnectionNotFound, what, detail))
}

/// The connection that all commands of one node share; clones share it.
#[derive(Clone)]
pub(crate) enum CommandConnection {
    /// To one server.
    Mux(MultiplexedConnection),
    /// To a Cluster: finds the server for each key by itself.
    Cluster(Router),
}

impl CommandConnection {
    /// Sends `cmd`; an error answer is an `Err`.
    pub(crate) async fn send(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Mux(connection) => connection.send_packed_command(cmd).await,
            Self::Cluster(connection) => connection.send(cmd).await,
        }
        .and_then(Value::extract_error)
    }
}

impl ConnectionLike for CommandConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Mux(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Mux(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Mux(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

impl Debug for CommandConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mux(_) => "Mux",
            Self::Cluster(_) => "Cluster",
        })
    }
}

/// A connection for one caller at a time; goes back to where it came from when it is dropped.
pub(crate) enum DedicatedConnection {
    /// Out of a pool, which clears what a caller left watched before it lends it again.
    Pooled(deadpool_redis::Connection),
    /// Opened for this one use.
    Own(MultiplexedConnection),
}

impl DedicatedConnection {
    /// Returns the connection itself.
    pub(crate) fn get(&mut self) -> &mut MultiplexedConnection {
        match self {
            Self::Pooled(connection) => connection,
            Self::Own(connection) => connection,
        }
    }
}

/// Everything that has to stay open for the subscriptions to live; dropping it ends them.
pub(crate) struct SubscriberConnection {
    /// One to each server.
    pub(crate) connections: Vec<MultiplexedConnection>,
    /// The canary channel of each.
    pub(crate) canaries: Vec<String>,
}

impl Debug for SubscriberConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriberConnection")
            .field("connections", &self.connections.len())
            .field("canaries", &self.canaries)
            .finish()
    }
}

/// One published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The channel it came on.
    pub(crate) channel: Vec<u8>,
    /// What was published.
    pub(crate) payload: Vec<u8>,
}

/// Where a subscriber's connections put their pushes. Never blocks.
#[derive(Clone)]
pub(crate) struct PushSender {
    messages: mpsc::Sender<Message>,
    signals: Arc<Signals>,
}

/// Where a subscriber's task takes them from.
pub(crate) struct PushReceiver {
    messages: mpsc::Receiver<Message>,
    signals: Arc<Signals>,
}

#[derive(Default)]
struct Signals {
    lost: AtomicBool,
    overflowed: AtomicBool,
    changed: Notify,
}

/// What a subscriber's task hears next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Push {
    /// A message came.
    Message(Message),
    /// Messages were dropped, since the task did not keep up.
    Overflowed,
    /// A connection ended, or the server ended a subscription: open all anew.
    Lost,
}

/// Makes the two ends of a subscriber's queue.
pub(crate) fn pushes() -> (PushSender, PushReceiver) {
    let (messages, receiver) = mpsc::channel(PUSH_QUEUE_MAX);
    let signals = Arc::new(Signals::default());
    let sender = PushSender {
        messages,
        signals: Arc::clone(&signals),
    };
    let receiver = PushReceiver {
        messages: receiver,
        signals,
    };
    (sender, receiver)
}

impl PushSender {
    /// Says that a subscription has ended.
    pub(crate) fn lost(&self) {
        self.signals.lost.store(true, Ordering::Release);
        self.signals.changed.notify_one();
    }
}

impl AsyncPushSender for PushSender {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        match push.kind {
            PushKind::Message | PushKind::SMessage => {
                // `[channel, payload]`; anything else is no message of ours.
                let mut data = push.data.into_iter();
                if let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
                    (data.next(), data.next())
                {
                    let message = Message { channel, payload };
                    if self.messages.try_send(message).is_err() {
                        self.signals.overflowed.store(true, Ordering::Release);
                        self.signals.changed.notify_one();
                    }
                }
            }
            // Nobody here unsubscribes: a slot has moved away, or an operator took the right away.
            PushKind::Disconnection | PushKind::Unsubscribe | PushKind::SUnsubscribe => self.lost(),
            _ => {}
        }
        Ok(())
    }
}

impl PushReceiver {
    /// Waits for what comes next; a loss overtakes the messages before it. Cancelling loses
    /// nothing.
    pub(crate) async fn next(&mut self) -> Push {
        loop {
            if self.signals.lost.load(Ordering::Acquire) {
                return Push::Lost;
            }
            if self.signals.overflowed.swap(false, Ordering::AcqRel) {
                return Push::Overflowed;
            }
            tokio::select! {
                biased;
                () = self.signals.changed.notified() => {}
                message = self.messages.recv() => match message {
                    Some(message) => return Push::Message(message),
                    None => return Push::Lost,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn message(n: usize) -> PushInfo {
        let payload = Value::BulkString(n.to_string().into_bytes());
        PushInfo {
            kind: PushKind::Message,
            data: vec![Value::BulkString(b"c".to_vec()), payload],
        }
    }

    // fault: 18
    #[test]
    fn a_flood_is_bounded_and_told() {
        let (sender, mut receiver) = pushes();
        for n in 0..=PUSH_QUEUE_MAX {
            assert!(sender.send(message(n)).is_ok());
        }
        assert_eq!(receiver.next().now_or_never(), Some(Push::Overflowed));
        assert!(matches!(
            receiver.next().now_or_never(),
            Some(Push::Message(_))
        ));
    }

    // fault: 15
    #[test]
    fn a_loss_overtakes_and_stays() {
        let (sender, mut receiver) = pushes();
        let disconnection = PushInfo {
            kind: PushKind::Disconnection,
            data: Vec::new(),
        };
        assert!(sender.send(message(1)).is_ok());
        assert!(sender.send(disconnection).is_ok());
        assert_eq!(receiver.next().now_or_never(), Some(Push::Lost));
        assert_eq!(receiver.next().now_or_never(), Some(Push::Lost));
    }

    // fault: 18
    #[test]
    fn odd_pushes_are_no_messages() {
        let (sender, mut receiver) = pushes();
        for data in [
            vec![],
            vec![Value::Int(1)],
            vec![Value::BulkString(b"c".to_vec()), Value::Nil],
        ] {
            let kind = PushKind::Message;
            assert!(sender.send(PushInfo { kind, data }).is_ok());
        }
        assert_eq!(receiver.next().now_or_never(), None);
    }
}
