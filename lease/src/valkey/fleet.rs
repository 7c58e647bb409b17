//! `FleetSecret`: random bytes that all instances of one Valkey agree on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use uuid::Uuid;

use super::act::Act;
use super::keys::KeyKind;
use super::ring::Ring;
use crate::{Clock, LeaseError};

/// How long the secret stays without anybody who uses it.
const TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The time between two looks whether it is still the one in force.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The key's last part.
const NAME: &str = "secret";
/// The length of a secret as text: SHA-256 in hexadecimal.
const TEXT_BYTES: usize = 64;

/// Random bytes that all instances of one Valkey agree on. Never shown: `Debug` hides them.
#[derive(Clone, PartialEq, Eq)]
pub struct FleetSecret(Arc<str>);

impl FleetSecret {
    /// Returns the bytes, at least 32 of them.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn random() -> Self {
        let mut hash = Sha256::new();
        // 488 random bits of the operating system's generator, evenly spread by the hash.
        for _ in 0..4 {
            hash.update(Uuid::new_v4().as_bytes());
        }
        let hex: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self(Arc::from(hex))
    }

    fn read(bytes: Vec<u8>) -> Option<Self> {
        let text = String::from_utf8(bytes).ok()?;
        let whole = text.len() == TEXT_BYTES && text.bytes().all(|b| b.is_ascii_hexdigit());
        whole.then(|| Self(Arc::from(text)))
    }
}

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecret(…)")
    }
}

/// Agrees on the secret, and keeps the agreement.
#[derive(Debug)]
pub(super) struct Agreement {
    ring: Arc<Ring>,
    /// The secret in force as this instance knows.
    known: watch::Sender<Option<FleetSecret>>,
}

impl Agreement {
    pub(super) fn new(ring: Arc<Ring>) -> Self {
        Self {
            ring,
            known: watch::Sender::new(None),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<FleetSecret>> {
        self.known.subscribe()
    }

    /// Puts the secret that this instance knows, or a new one, where there is none; returns the
    /// one in force and makes it last.
    pub(super) async fn agree(&self) -> Result<FleetSecret, LeaseError> {
        let act = Act::new("agree on", "the fleet's secret");
        let ops = &self.ring.of(NAME).ops;
        let name = ops.keys.name(KeyKind::Fleet, NAME);
        let mine = self
            .known
            .borrow()
            .clone()
            .unwrap_or_else(FleetSecret::random);
        let ttl_ms = u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX);
        let mut set = redis::cmd("SET");
        set.arg(&name).arg(&*mine.0).arg("NX").arg("PX").arg(ttl_ms);
        let secret = match ops.node.send(act, &set).await? {
            Value::Okay => mine,
            Value::Nil => {
                let mut get = redis::cmd("GET");
                let theirs = ops.node.send(act, get.arg(&name)).await?;
                let theirs = ops.bytes(act, theirs)?;
                let mut expire = redis::cmd("PEXPIRE");
                ops.node.send(act, expire.arg(&name).arg(ttl_ms)).await?;
                FleetSecret::read(theirs)
                    .ok_or_else(|| ops.node.nonsense(act, "the secret there is none of ours"))?
            }
            _ => return Err(ops.node.nonsense(act, "neither OK nor nothing")),
        };
        self.known.send_if_modified(|known| {
            let news = known.as_ref() != Some(&secret);
            if news {
                *known = Some(secret.clone());
            }
            news
        });
        Ok(secret)
    }

    /// Agrees again whenever the server may have forgotten, until the task is aborted.
    pub(super) async fn keep(self: Arc<Self>, clock: Arc<dyn Clock>) {
        let node = &self.ring.of(NAME).ops.node;
        loop {
            node.up().await;
            if let Err(error) = self.agree().await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "could not look at the fleet's secret; the one that is known stays",
                );
            }
            tokio::select! {
                () = clock.sleep(LOOK_EVERY) => {}
                () = node.not_up() => {}
            }
        }
    }
}
