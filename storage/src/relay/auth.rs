//! Proof of belonging to the fleet: HMAC-SHA256 in both directions of an internal exchange.
//!
//! | what is signed | fields, each preceded by its length as 8 bytes, big-endian |
//! |---|---|
//! | a question about a fill | `corral-internal/1`, `request`, `fill`, unit, token, from, nonce |
//! | a question about grants | `corral-internal/1`, `request`, `grants`, SHA-256 of the body, nonce |
//! | the answer | `corral-internal/1`, `response`, then the question's fields from the third on, status, and what [`RelayHead`] or the body's SHA-256 says |
//!
//! The secret never travels. No clock is compared: a question that is sent again by somebody who
//! overheard it reads what he could overhear as well, and an answer is good for one nonce only.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use hmac::{Hmac, KeyInit, Mac};
use lease::LeaseToken;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::Error;
use crate::hex::hex;

/// The shortest secret that is taken, in bytes.
pub const FLEET_SECRET_BYTES_MIN: usize = 16;

const VERSION: &[u8] = b"corral-internal/1";

/// The fleet's secret as this instance knows it; clones share it.
///
/// It may be absent, as long as the instances have not agreed on one; then nothing is proved.
/// The one before stays good for verifying, because instances learn of a new one at different
/// times.
#[derive(Clone, Default)]
pub struct FleetSecret {
    keys: Arc<RwLock<Keys>>,
}

#[derive(Default)]
struct Keys {
    current: Option<Key>,
    previous: Option<Key>,
}

/// A random number that makes one exchange unlike any other: 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(Uuid);

/// What an internal question is about.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// The bytes of a fill.
    Fill {
        /// The unit.
        unit: &'a str,
        /// The grant.
        token: &'a LeaseToken,
        /// The first byte that is wanted.
        from: u64,
    },
    /// Whether grants are known.
    Grants {
        /// The question's body.
        body: &'a [u8],
    },
}

/// What an answer says beside its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct RelayHead<'a> {
    /// The whole length, in digits.
    pub len: Option<&'a str>,
    /// The upstream's name.
    pub upstream: Option<&'a str>,
    /// The upstream's `ETag`.
    pub etag: Option<&'a str>,
    /// The body, where it is part of what is proved: an answer about grants.
    pub body: Option<&'a [u8]>,
}

/// A question that was proved to come from the fleet, and the key that proved it.
pub struct Verified {
    key: Key,
}

#[derive(Clone, PartialEq, Eq)]
struct Key(Arc<[u8]>);

impl FleetSecret {
    /// Makes a handle without a secret.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the secret; the one before goes on being accepted.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: it is shorter than [`FLEET_SECRET_BYTES_MIN`].
    pub fn set(&self, secret: &[u8]) -> Result<(), Error> {
        if secret.len() < FLEET_SECRET_BYTES_MIN {
            return Err(Error::Config(format!(
                "the fleet's secret must have at least {FLEET_SECRET_BYTES_MIN} bytes"
            )));
        }
        let key = Key(Arc::from(secret));
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.current.as_ref() != Some(&key) {
            keys.previous = keys.current.replace(key);
        }
        Ok(())
    }

    /// Tells whether there is one.
    pub fn is_set(&self) -> bool {
        self.current().is_some()
    }

    fn current(&self) -> Option<Key> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.current.clone()
    }

    fn both(&self) -> [Option<Key>; 2] {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        [keys.current.clone(), keys.previous.clone()]
    }

    /// Signs a question; `None` without a secret.
    pub fn sign_request(&self, asked: Asked<'_>, nonce: Nonce) -> Option<String> {
        Some(hex(&self
            .current()?
            .request(asked, nonce)
            .finalize()
            .into_bytes()))
    }

    /// Checks a question's signature; `None` when it proves nothing.
    pub fn verify_request(&self, asked: Asked<'_>, nonce: Nonce, mac: &str) -> Option<Verified> {
        let mac = unhex(mac)?;
        let key = self
            .both()
            .into_iter()
            .flatten()
            .find(|key| key.request(asked, nonce).verify_slice(&mac).is_ok())?;
        Some(Verified { key })
    }

    /// Checks the signature of an answer to a question of ours.
    pub fn verify_response(
        &self,
        asked: Asked<'_>,
        nonce: Nonce,
        status: u16,
        head: RelayHead<'_>,
        mac: &str,
    ) -> bool {
        let Some(mac) = unhex(mac) else { return false };
        let mut keys = self.both().into_iter().flatten();
        keys.any(|key| {
            key.response(asked, nonce, status, head)
                .verify_slice(&mac)
                .is_ok()
        })
    }
}

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetSecret")
            .field("is_set", &self.is_set())
            .finish_non_exhaustive()
    }
}

impl Verified {
    /// Signs the answer, with the key that the question was signed with.
    pub fn sign_response(
        &self,
        asked: Asked<'_>,
        nonce: Nonce,
        status: u16,
        head: RelayHead<'_>,
    ) -> String {
        let mac = self.key.response(asked, nonce, status, head);
        hex(&mac.finalize().into_bytes())
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verified")
    }
}

impl Nonce {
    /// Makes a nonce that nobody has used.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl FromStr for Nonce {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(Self)
    }
}

impl Key {
    fn begin(&self, direction: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key");
        add(&mut mac, VERSION);
        add(&mut mac, direction);
        mac
    }

    fn request(&self, asked: Asked<'_>, nonce: Nonce) -> Hmac<Sha256> {
        let mut mac = self.begin(b"request");
        add_asked(&mut mac, asked, nonce);
        mac
    }

    fn response(
        &self,
        asked: Asked<'_>,
        nonce: Nonce,
        status: u16,
        head: RelayHead<'_>,
    ) -> Hmac<Sha256> {
        let mut mac = self.begin(b"response");
        add_asked(&mut mac, asked, nonce);
        add(&mut mac, &status.to_be_bytes());
        for field in [head.len, head.upstream, head.etag] {
            match field {
                Some(text) => {
                    add(&mut mac, b"+");
                    add(&mut mac, text.as_bytes());
                }
                None => add(&mut mac, b"-"),
            }
        }
        if let Some(body) = head.body {
            add(&mut mac, &Sha256::digest(body));
        }
        mac
    }
}

fn add_asked(mac: &mut Hmac<Sha256>, asked: Asked<'_>, nonce: Nonce) {
    match asked {
        Asked::Fill { unit, token, from } => {
            add(mac, b"fill");
            add(mac, unit.as_bytes());
            add(mac, token.to_string().as_bytes());
            add(mac, &from.to_be_bytes());
        }
        Asked::Grants { body } => {
            add(mac, b"grants");
            add(mac, &Sha256::digest(body));
        }
    }
    add(mac, nonce.0.as_bytes());
}

/// Adds a field with its length, so that no two lists of fields are the same bytes.
fn add(mac: &mut Hmac<Sha256>, field: &[u8]) {
    mac.update(&(field.len() as u64).to_be_bytes());
    mac.update(field);
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn secret(text: &str) -> FleetSecret {
        let secret = FleetSecret::new();
        secret.set(text.as_bytes()).unwrap();
        secret
    }

    const HEAD: RelayHead<'_> = RelayHead {
        len: Some("7"),
        upstream: Some("https://proxy.example"),
        etag: None,
        body: None,
    };

    #[test]
    fn an_exchange_proves_both_sides_and_only_this_exchange() {
        let (ours, theirs) = (secret("0123456789abcdef"), secret("0123456789abcdef"));
        let (token, nonce) = (LeaseToken::random(), Nonce::random());
        let unit = "example.com/m@v1.0.0.zip";
        let asked = |from| Asked::Fill {
            unit,
            token: &token,
            from,
        };
        let mac = ours.sign_request(asked(5), nonce).unwrap();
        assert!(theirs.verify_request(asked(6), nonce, &mac).is_none());
        assert!(
            theirs
                .verify_request(asked(5), Nonce::random(), &mac)
                .is_none()
        );
        assert!(theirs.verify_request(asked(5), nonce, "").is_none());
        let verified = theirs.verify_request(asked(5), nonce, &mac).unwrap();
        let answer = verified.sign_response(asked(5), nonce, 200, HEAD);
        assert!(ours.verify_response(asked(5), nonce, 200, HEAD, &answer));
        assert!(!ours.verify_response(asked(5), nonce, 204, HEAD, &answer));
        assert!(!ours.verify_response(asked(5), Nonce::random(), 200, HEAD, &answer));
        let other = RelayHead {
            len: Some("8"),
            ..HEAD
        };
        assert!(!ours.verify_response(asked(5), nonce, 200, other, &answer));
        // A question is no answer: it cannot be sent back as one.
        assert!(!ours.verify_response(asked(5), nonce, 200, HEAD, &mac));
    }

    #[test]
    fn without_a_secret_or_with_another_nothing_is_proved() {
        let asked = Asked::Grants { body: b"{}" };
        let nonce = Nonce::random();
        assert!(FleetSecret::new().sign_request(asked, nonce).is_none());
        let mac = secret("one secret of ours")
            .sign_request(asked, nonce)
            .unwrap();
        let other = secret("another secret, theirs");
        assert!(other.verify_request(asked, nonce, &mac).is_none());
        assert!(
            FleetSecret::new()
                .verify_request(asked, nonce, &mac)
                .is_none()
        );
    }

    #[test]
    fn the_secret_before_is_still_good_and_the_one_before_that_is_not() {
        let (ours, theirs) = (secret("the first secret"), secret("the first secret"));
        let (asked, nonce) = (Asked::Grants { body: b"[]" }, Nonce::random());
        theirs.set(b"the second secret").unwrap();
        let mac = ours.sign_request(asked, nonce).unwrap();
        let verified = theirs.verify_request(asked, nonce, &mac).unwrap();
        let answer = verified.sign_response(asked, nonce, 200, HEAD);
        assert!(ours.verify_response(asked, nonce, 200, HEAD, &answer));
        theirs.set(b"the second secret").unwrap();
        assert!(theirs.verify_request(asked, nonce, &mac).is_some());
        theirs.set(b"the third secret").unwrap();
        assert!(theirs.verify_request(asked, nonce, &mac).is_none());
    }

    #[test]
    fn a_short_secret_is_refused_and_none_is_shown() {
        let handle = FleetSecret::new();
        assert!(handle.set(b"short").is_err());
        assert!(!handle.is_set());
        handle.set(b"hunter2hunter2hunter2").unwrap();
        assert!(!format!("{handle:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_checks_panic(mac in ".{0,80}", nonce in ".{0,40}") {
            let handle = secret("0123456789abcdef");
            let asked = Asked::Grants { body: b"" };
            prop_assert!(handle.verify_request(asked, Nonce::random(), &mac).is_none());
            let _ = nonce.parse::<Nonce>();
        }
    }
}
