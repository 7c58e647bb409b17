//! `Keys`: the names of every key and channel, and the payloads behind them.
//!
//! | name | holds | lives |
//! |---|---|---|
//! | `corral:1:{b17}:lease:<key>` | [`LeaseValue`], constant for one grant | the lease's TTL |
//! | `corral:1:{b17}:progress:<key>` | [`ProgressValue`], written with each renewal | the lease's TTL |
//! | `corral:1:{b17}:takeover:<key>` | the token that was taken over | one TTL from then |
//! | `corral:1:{b17}:forced:<token>` | `1`: an operator broke this grant | [`FORCED_TTL`] |
//! | `corral:1:{b17}:record:<key>` | a record's bytes, as they were set | the record's TTL |
//! | `corral:1:{b17}:fleet:<name>` | a value that the whole fleet agrees on | 30 days from its last use |
//! | `corral:1:{b06}:queue:jobs` | HASH of job id → payload, [`StoredPayload`](crate::queue::StoredPayload) | 60 days from its last change |
//! | `corral:1:{b06}:queue:state` | HASH of job id → what the scripts know of it, in lines | the same |
//! | `corral:1:{b06}:queue:errors` | HASH of job id → why it failed last | the same |
//! | `corral:1:{b06}:queue:due` | ZSET of job ids by when they are due, in ms of the server's clock | the same |
//! | `corral:1:{b06}:queue:taken` | ZSET of job ids by when they come back | the same |
//! | `corral:1:{b06}:queue:dead` | ZSET of job ids by when they were given up | the same |
//! | `corral:1:{b06}:queue:done` | ZSET of serials by when they were done or gave way to a later push, for 48 hours | the same |
//! | channel `corral:1:{b17}:released` | [`EventValue`] | |
//! | channel `corral:1:{b17}:canary:<id>` | a number | |
//!
//! `corral` is the configured prefix. `1` is the version of this table: a change that older
//! versions would misread takes another number, and the two then share nothing. `{b17}` is one of
//! [`BUCKETS`] hash tags, chosen by the hash of what stands behind the last colon (of the unit,
//! for `forced`; of `queue`, for all of the queue), so that all keys of one script live in one slot of a Cluster while the release
//! channels stay few enough for each instance to subscribe to all. Payloads are JSON and carry a
//! version of their own, `v`; fields that a reader does not know are skipped.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Holder, LeaseConfig, LeaseKey, LeaseToken, Outcome, Progress, ReleaseEvent};

/// How many hash tags there are; part of the layout, so it never changes within its version.
pub(crate) const BUCKETS: usize = 64;
/// The version of the key layout.
const LAYOUT: &str = "1";
/// The version of the payloads.
const PAYLOAD: u64 = 1;
/// How long a broken grant's mark waits for its holder: as long as any grant lasts unrenewed.
pub(crate) const FORCED_TTL: Duration = LeaseConfig::TTL_MAX;

/// Builds names under one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// `corral:1:`, up to the hash tag.
    head: Arc<str>,
}

/// The kinds of keys; the word is part of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Lease,
    Progress,
    TakeOver,
    Forced,
    Record,
    Fleet,
}

impl KeyKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Progress => "progress",
            Self::TakeOver => "takeover",
            Self::Forced => "forced",
            Self::Record => "record",
            Self::Fleet => "fleet",
        }
    }
}

/// Returns the bucket of `text`: FNV-1a over its bytes, folded.
pub(crate) fn bucket(text: &str) -> usize {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of FNV know little of the high bits of the last bytes.
    let folded = hash ^ (hash >> 29) ^ (hash >> 47);
    usize::try_from(folded % BUCKETS as u64).unwrap_or(0)
}

impl Keys {
    /// Makes the names under `prefix`, which has no braces.
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            head: Arc::from(format!("{prefix}:{LAYOUT}:")),
        }
    }

    /// Returns the name of a key of `kind` for `text`, whose bucket it lies in.
    pub(crate) fn name(&self, kind: KeyKind, text: &str) -> String {
        self.in_bucket(bucket(text), kind.as_str(), text)
    }

    /// Returns the name of the mark of `token`, which lies in the bucket of its unit.
    pub(crate) fn forced(&self, key: &LeaseKey, token: &LeaseToken) -> String {
        let bucket = bucket(key.as_str());
        self.in_bucket(bucket, KeyKind::Forced.as_str(), &token.to_string())
    }

    /// Returns the name of a part of the delay queue; all of them lie in one bucket.
    pub(crate) fn queue(&self, part: &str) -> String {
        self.in_bucket(bucket("queue"), "queue", part)
    }

    /// Returns the release channel of `key`.
    pub(crate) fn channel(&self, key: &LeaseKey) -> String {
        self.events(bucket(key.as_str()))
    }

    /// Returns the release channel of a bucket.
    pub(crate) fn events(&self, bucket: usize) -> String {
        format!("{}{{b{bucket:02}}}:released", self.head)
    }

    /// Returns the canary channel of the subscriber `id` in a bucket.
    pub(crate) fn canary(&self, bucket: usize, id: &str) -> String {
        self.in_bucket(bucket, "canary", id)
    }

    /// Returns the `SCAN` pattern for keys of `kind` whose last part begins with `prefix` and has
    /// `contains` in it, both literal.
    pub(crate) fn pattern(&self, kind: KeyKind, prefix: &str, contains: &str) -> String {
        let mut pattern = glob_literal(&self.head);
        pattern.push_str("{b??}:");
        pattern.push_str(kind.as_str());
        pattern.push(':');
        pattern.push_str(&glob_literal(prefix));
        pattern.push('*');
        if !contains.is_empty() {
            pattern.push_str(&glob_literal(contains));
            pattern.push('*');
        }
        pattern
    }

    /// Returns what stands behind the last colon of a key's name; `None` for a name that this
    /// layout would not give.
    pub(crate) fn text<'a>(&self, kind: KeyKind, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(&*self.head)?.strip_prefix("{b")?;
        let (number, rest) = rest.split_once('}')?;
        let text = rest
            .strip_prefix(':')?
            .strip_prefix(kind.as_str())?
            .strip_prefix(':')?;
        let in_place = number.len() == 2 && number.parse() == Ok(bucket(text));
        in_place.then_some(text)
    }

    fn in_bucket(&self, bucket: usize, word: &str, text: &str) -> String {
        let tens = char::from(b'0' + u8::try_from(bucket / 10).unwrap_or(0));
        let ones = char::from(b'0' + u8::try_from(bucket % 10).unwrap_or(0));
        let mut name = String::with_capacity(self.head.len() + word.len() + text.len() + 7);
        name.push_str(&self.head);
        name.push_str("{b");
        name.push(tens);
        name.push(ones);
        name.push_str("}:");
        name.push_str(word);
        name.push(':');
        name.push_str(text);
        name
    }
}

/// Escapes what means more than itself in a `SCAN` pattern.
fn glob_literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
            literal.push('\\');
        }
        literal.push(c);
    }
    literal
}

/// What a lease key holds: `{"v":1,"token":"…","instance":"…","address":"…","ttl_ms":6000}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseValue {
    v: u64,
    /// The grant's name.
    pub(crate) token: LeaseToken,
    /// Who has it.
    #[serde(flatten)]
    pub(crate) holder: Holder,
    /// How long the grant and each renewal last; tells readers its age.
    #[serde(default)]
    pub(crate) ttl_ms: u64,
}

/// What a progress key holds:
/// `{"v":1,"token":"…","bytes":1,"total":null,"waiters":0,"age_ms":2000}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProgressValue {
    v: u64,
    /// The grant that wrote it; another one's progress says nothing.
    pub(crate) token: LeaseToken,
    /// How far the work is.
    #[serde(flatten)]
    pub(crate) progress: Progress,
    /// How long ago the grant was asked for, when this was written; rounded up.
    #[serde(default)]
    pub(crate) age_ms: u64,
}

/// What is published on a release: `{"v":1,"key":"…","token":"…","outcome":"stored"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EventValue {
    v: u64,
    key: String,
    token: LeaseToken,
    outcome: String,
}

/// A payload that this version cannot use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// What is wrong, without quoting it.
    pub(crate) detail: String,
}

/// What could be made of a lease's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadLease {
    /// The value, or as much of it as is there.
    pub(crate) value: LeaseValue,
    /// Why something may be missing.
    pub(crate) doubt: Option<String>,
}

impl LeaseValue {
    /// Makes the value of a new grant.
    pub(crate) fn new(token: LeaseToken, holder: &Holder, ttl_ms: u64) -> Self {
        Self {
            v: PAYLOAD,
            token,
            holder: holder.clone(),
            ttl_ms,
        }
    }

    /// Reads a value; also one of a newer version, as far as it has what this one knows.
    ///
    /// # Errors
    ///
    /// [`Unreadable`]: it names no grant.
    pub(crate) fn read(bytes: &[u8]) -> Result<ReadLease, Unreadable> {
        if let Ok(value) = serde_json::from_slice::<Self>(bytes) {
            let newer = value.v != PAYLOAD;
            let doubt = newer.then(|| format!("its value has version {}", value.v));
            return Ok(ReadLease { value, doubt });
        }
        let unreadable = |detail: &str| Unreadable {
            detail: detail.to_owned(),
        };
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|_| unreadable("its value is no JSON"))?;
        let text = |field: &str| value.get(field).and_then(serde_json::Value::as_str);
        let number = |field: &str| value.get(field).and_then(serde_json::Value::as_u64);
        let token = text("token").and_then(|token| token.parse().ok());
        let holder = Holder {
            instance: Arc::from(text("instance").unwrap_or("unknown")),
            address: text("address").map(Arc::from),
        };
        Ok(ReadLease {
            value: Self {
                v: number("v").unwrap_or(0),
                token: token.ok_or_else(|| unreadable("its value names no token"))?,
                holder,
                ttl_ms: number("ttl_ms").unwrap_or(0),
            },
            doubt: Some("its value has another form than this version writes".to_owned()),
        })
    }
}

impl ProgressValue {
    /// Makes what goes with one renewal.
    pub(crate) fn new(token: LeaseToken, progress: Progress, age: Duration) -> Self {
        let age_ms = u64::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self {
            v: PAYLOAD,
            token,
            progress,
            age_ms,
        }
    }

    /// Reads the progress of the grant `token`; `None` when it is another's or cannot be read.
    pub(crate) fn read(bytes: &[u8], token: LeaseToken) -> Option<Self> {
        let value: Self = serde_json::from_slice(bytes).ok()?;
        (value.token == token).then_some(value)
    }
}

/// Returns `value` as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers always make JSON")
}

/// Returns what is published when the grant `token` of `key` ends.
pub(crate) fn event_json(key: &LeaseKey, token: LeaseToken, outcome: Outcome) -> String {
    to_json(&EventValue {
        v: PAYLOAD,
        key: key.as_str().to_owned(),
        token,
        outcome: outcome.as_str().to_owned(),
    })
}

/// Reads what was published. An outcome that this version does not know reads as
/// [`Outcome::Abandoned`]: something ended, look for yourself.
///
/// # Errors
///
/// [`Unreadable`]: nobody can be woken by it.
pub(crate) fn read_event(bytes: &[u8]) -> Result<ReleaseEvent, Unreadable> {
    let unreadable = |detail: String| Unreadable { detail };
    let event: EventValue =
        serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
    let key = LeaseKey::new(&event.key).map_err(|error| unreadable(error.to_string()))?;
    let known = Outcome::ALL
        .into_iter()
        .find(|outcome| outcome.as_str() == event.outcome);
    Ok(ReleaseEvent {
        key,
        token: event.token,
        outcome: known.unwrap_or(Outcome::Abandoned),
    })
}

#[cfg(test)]
mod tests;
