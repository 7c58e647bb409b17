//! The steps of a lease's life on one node: by script where the server runs scripts, by
//! transaction otherwise.

mod plain;

use std::time::Duration;

use redis::{Cmd, Value};

use super::act::Act;
use super::keys::{FORCED_TTL, KeyKind, Keys, ProgressValue, event_json, to_json};
use super::node::Node;
use super::scripts::{ENDED, ENDED_UNTOLD, GONE, MOVED, REFUSED, publish_command};
use crate::{LeaseError, LeaseKey, LeaseToken, Outcome};

/// How an attempt to end a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is free, and its subscribers were told.
    Told,
    /// It is free, but the server did not let us tell anybody.
    Untold,
    /// Nobody holds it.
    Gone,
    /// Another grant is in force.
    Moved,
    /// It was taken over within its time already.
    Refused,
}

/// How a renewal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extension {
    Extended,
    Lost,
    Forced,
}

/// Why a lease is ended, and what that takes beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its holder gives it back.
    Release(Outcome),
    /// An operator breaks it: leaves a mark for its holder.
    Force,
    /// Its holder seems dead: once per key and this many milliseconds.
    TakeOver(u64),
}

/// What the server knows of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Described {
    /// The lease's value; `None` when nobody holds it.
    pub(crate) value: Option<Vec<u8>>,
    /// How long it still lasts; a millisecond when the server counts none.
    pub(crate) left: Duration,
    /// The holder's progress; `None` before its first renewal.
    pub(crate) progress: Option<Vec<u8>>,
    /// How long the progress still lasts, as [`left`](Self::left).
    pub(crate) progress_left: Duration,
}

/// The steps on one node, under one key prefix.
#[derive(Debug, Clone)]
pub(crate) struct Ops {
    pub(crate) node: Node,
    pub(crate) keys: Keys,
}

impl Ops {
    /// Tries to put `value` where nobody holds `key`; returns what is there if somebody does.
    pub(crate) async fn acquire(
        &self,
        key: &LeaseKey,
        value: &str,
        ttl_ms: u64,
    ) -> Result<Option<Vec<u8>>, LeaseError> {
        let act = Act::new("acquire", key.as_str());
        let lease = self.keys.name(KeyKind::Lease, key.as_str());
        if self.node.set_nx_get() {
            let cmd = set_nx(&lease, value, ttl_ms, true);
            match self.node.try_send(act, &cmd).await? {
                // `GET` makes the answer what was there before: nothing.
                Ok(Value::Nil) => return Ok(None),
                Ok(held) => return self.bytes(act, held).map(Some),
                Err(refusal) if is_syntax_error(&refusal) => self.node.no_set_nx_get(),
                Err(refusal) => return Err(self.node.refused(act, refusal)),
            }
        }
        let mut pipeline = redis::pipe();
        pipeline
            .add_command(set_nx(&lease, value, ttl_ms, false))
            .cmd("GET")
            .arg(&lease);
        let mut answers = self.node.send_all(act, &pipeline).await?.into_iter();
        match (answers.next(), answers.next()) {
            (Some(Value::Okay), _) => Ok(None),
            (Some(Value::Nil), Some(held @ Value::BulkString(_))) => {
                self.bytes(act, held).map(Some)
            }
            // It ended between the two: as good as held, since the caller looks again.
            (Some(Value::Nil), Some(Value::Nil)) => Ok(Some(Vec::new())),
            (Some(Value::ServerError(error)), _) | (_, Some(Value::ServerError(error))) => {
                Err(self.node.refused(act, error.into()))
            }
            _ => Err(self.node.nonsense(act, "neither done nor refused")),
        }
    }

    /// Looks at a key.
    pub(crate) async fn describe(&self, key: &LeaseKey) -> Result<Described, LeaseError> {
        let act = Act::new("describe", key.as_str());
        let lease = self.keys.name(KeyKind::Lease, key.as_str());
        let progress = self.keys.name(KeyKind::Progress, key.as_str());
        let script = &self.node.scripts().describe;
        let names = [lease.as_str(), progress.as_str()];
        let answer = match self.node.script(act, script, &names, &[]).await? {
            Some(Value::Array(answer)) => answer,
            Some(_) => return Err(self.node.nonsense(act, "no list")),
            None => {
                let mut pipeline = redis::pipe();
                pipeline.cmd("GET").arg(&lease).cmd("PTTL").arg(&lease);
                pipeline.cmd("GET").arg(&progress);
                pipeline.cmd("PTTL").arg(&progress);
                self.node.send_all(act, &pipeline).await?
            }
        };
        let Ok([value, left, progress, progress_left]) = <[Value; 4]>::try_from(answer) else {
            return Err(self.node.nonsense(act, "a list of another length"));
        };
        Ok(Described {
            value: self.optional_bytes(act, value)?,
            left: self.left(act, left)?,
            progress: self.optional_bytes(act, progress)?,
            progress_left: self.left(act, progress_left)?,
        })
    }

    /// Makes the grant `token` last for `ttl_ms` from now, and publishes its progress.
    pub(crate) async fn renew(
        &self,
        key: &LeaseKey,
        token: LeaseToken,
        ttl_ms: u64,
        progress: &ProgressValue,
    ) -> Result<Extension, LeaseError> {
        let act = Act::new("renew", key.as_str());
        let lease = self.keys.name(KeyKind::Lease, key.as_str());
        let progress_key = self.keys.name(KeyKind::Progress, key.as_str());
        let forced = self.keys.forced(key, &token);
        let names = [lease.as_str(), progress_key.as_str(), forced.as_str()];
        let (shown, ttl, progress) = (token.to_string(), ttl_ms.to_string(), to_json(progress));
        let args = [shown.as_str(), ttl.as_str(), progress.as_str()];
        let script = &self.node.scripts().renew;
        match self.node.script(act, script, &names, &args).await? {
            Some(Value::Int(1)) => Ok(Extension::Extended),
            Some(Value::Int(0)) => Ok(Extension::Lost),
            Some(Value::Int(-1)) => Ok(Extension::Forced),
            Some(_) => Err(self.node.nonsense(act, "none of 1, 0 and -1")),
            None => plain::renew(&self.node, act, names, token, ttl_ms, &progress).await,
        }
    }

    /// Ends the grant `token` of `key`, if it is in force, and tells its subscribers.
    pub(crate) async fn end(
        &self,
        key: &LeaseKey,
        token: LeaseToken,
        ending: Ending,
    ) -> Result<Ended, LeaseError> {
        let scripts = self.node.scripts();
        let (verb, script, outcome) = match ending {
            Ending::Release(outcome) => ("release", &scripts.release, outcome),
            Ending::Force => ("force-release", &scripts.force, Outcome::Forced),
            Ending::TakeOver(_) => ("take over", &scripts.take_over, Outcome::Abandoned),
        };
        let act = Act::new(verb, key.as_str());
        let lease = self.keys.name(KeyKind::Lease, key.as_str());
        let progress = self.keys.name(KeyKind::Progress, key.as_str());
        let (third, ms) = match ending {
            Ending::Release(_) => (None, 0),
            Ending::Force => {
                let ms = u64::try_from(FORCED_TTL.as_millis()).unwrap_or(u64::MAX);
                (Some(self.keys.forced(key, &token)), ms)
            }
            Ending::TakeOver(ms) => (Some(self.keys.name(KeyKind::TakeOver, key.as_str())), ms),
        };
        let (shown, channel, ms) = (token.to_string(), self.keys.channel(key), ms.to_string());
        let event = event_json(key, token, outcome);
        let all_names = [
            lease.as_str(),
            progress.as_str(),
            third.as_deref().unwrap_or(""),
        ];
        let all_args = [
            shown.as_str(),
            channel.as_str(),
            event.as_str(),
            ms.as_str(),
        ];
        let (names, args) = match third {
            Some(_) => (&all_names[..], &all_args[..]),
            None => (&all_names[..2], &all_args[..3]),
        };
        match self.node.script(act, script, names, args).await? {
            Some(Value::Int(ENDED)) => Ok(Ended::Told),
            Some(Value::Int(ENDED_UNTOLD)) => Ok(Ended::Untold),
            Some(Value::Int(GONE)) => Ok(Ended::Gone),
            Some(Value::Int(MOVED)) => Ok(Ended::Moved),
            Some(Value::Int(REFUSED)) => Ok(Ended::Refused),
            Some(_) => Err(self.node.nonsense(act, "no number of ours")),
            None => {
                let ended = plain::end(&self.node, act, all_names, token, ending, &ms).await?;
                if ended != Ended::Told {
                    return Ok(ended);
                }
                // The lease is free whatever becomes of this; whoever is not told finds out by
                // looking.
                let told = self.publish(act, &channel, &event).await;
                Ok(told.map_or(Ended::Untold, |()| Ended::Told))
            }
        }
    }

    /// Publishes on a channel of this layout.
    pub(crate) async fn publish(
        &self,
        act: Act<'_>,
        channel: &str,
        payload: &str,
    ) -> Result<(), LeaseError> {
        let mut publish = redis::cmd(publish_command(self.node.endpoint().is_cluster()));
        publish.arg(channel).arg(payload);
        self.node.send(act, &publish).await.map(drop)
    }

    /// Takes an answer that is a string.
    pub(crate) fn bytes(&self, act: Act<'_>, value: Value) -> Result<Vec<u8>, LeaseError> {
        match self.optional_bytes(act, value)? {
            Some(bytes) => Ok(bytes),
            None => Err(self
                .node
                .nonsense(act, "nothing where a string was expected")),
        }
    }

    /// Takes an answer that is a string or nothing.
    pub(crate) fn optional_bytes(
        &self,
        act: Act<'_>,
        value: Value,
    ) -> Result<Option<Vec<u8>>, LeaseError> {
        match value {
            Value::Nil | Value::Boolean(false) => Ok(None),
            Value::BulkString(bytes) => Ok(Some(bytes)),
            Value::SimpleString(text) => Ok(Some(text.into_bytes())),
            Value::Okay => Ok(Some(b"OK".to_vec())),
            Value::ServerError(error) => Err(self.node.refused(act, error.into())),
            _ => Err(self.node.nonsense(act, "no string")),
        }
    }

    /// Takes an answer of `PTTL`. A key without a time to live is none of ours, and counts as one
    /// that ends now, as does one that just ended.
    pub(crate) fn left(&self, act: Act<'_>, value: Value) -> Result<Duration, LeaseError> {
        match value {
            Value::Int(ms) => Ok(Duration::from_millis(u64::try_from(ms).unwrap_or(0).max(1))),
            Value::ServerError(error) => Err(self.node.refused(act, error.into())),
            _ => Err(self.node.nonsense(act, "no number of milliseconds")),
        }
    }
}

fn set_nx(lease: &str, value: &str, ttl_ms: u64, get: bool) -> Cmd {
    let mut set = Cmd::with_capacity(7, lease.len() + value.len() + 32);
    set.arg("SET").arg(lease).arg(value).arg("NX");
    if get {
        set.arg("GET");
    }
    set.arg("PX").arg(ttl_ms);
    set
}

/// Before Redis 7.0, `NX` and `GET` excluded each other.
fn is_syntax_error(error: &redis::RedisError) -> bool {
    error.to_string().contains("syntax error")
}
