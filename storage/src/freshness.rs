//! Freshness of mutable documents: pure arithmetic, no clock, no store.
//!
//! Source: RFC 9111 section 4.2 (freshness), RFC 5861 (stale-while-revalidate, stale-if-error).

use std::time::Duration;

/// How long a document may be used, counted from the moment its answer was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreshnessPolicy {
    /// Used without asking anybody. `documents.ttl`.
    pub ttl: Duration,
    /// Beyond `ttl`, used at once while a refresh runs behind. `documents.swr`.
    pub stale_while_revalidate: Duration,
    /// Beyond `ttl`, used when a refresh has failed. `documents.sie`.
    pub stale_if_error: Duration,
}

/// What may be done with a document of some age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Answer with it; it stays fresh for `remaining`.
    Fresh {
        /// Time until it is stale.
        remaining: Duration,
    },
    /// Answer with it and refresh it behind.
    StaleWhileRevalidate,
    /// Refresh first; answer with it only if that fails.
    StaleIfError,
    /// Not usable.
    Expired,
}

impl FreshnessPolicy {
    /// Judges a document of `age`. One whose upstream said `must-revalidate` is never used stale.
    pub fn judge(&self, age: Duration, must_revalidate: bool) -> Freshness {
        if age < self.ttl {
            Freshness::Fresh {
                remaining: self.ttl - age,
            }
        } else if must_revalidate {
            Freshness::Expired
        } else if age < self.ttl + self.stale_while_revalidate {
            Freshness::StaleWhileRevalidate
        } else if age < self.ttl + self.stale_if_error {
            Freshness::StaleIfError
        } else {
            Freshness::Expired
        }
    }

    /// How long a document is worth keeping at all.
    pub fn kept_for(&self) -> Duration {
        self.ttl + self.stale_while_revalidate.max(self.stale_if_error)
    }
}

impl Freshness {
    /// Tells whether a request may be answered with the document before anybody is asked.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Fresh { .. } | Self::StaleWhileRevalidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: FreshnessPolicy = FreshnessPolicy {
        ttl: Duration::from_secs(60),
        stale_while_revalidate: Duration::from_secs(300),
        stale_if_error: Duration::from_secs(86_400),
    };

    // acceptance: A17
    #[test]
    fn each_age_has_its_verdict() {
        for (age_s, must_revalidate, expected) in [
            (
                0,
                false,
                Freshness::Fresh {
                    remaining: Duration::from_secs(60),
                },
            ),
            (
                59,
                false,
                Freshness::Fresh {
                    remaining: Duration::from_secs(1),
                },
            ),
            (60, false, Freshness::StaleWhileRevalidate),
            (359, false, Freshness::StaleWhileRevalidate),
            (360, false, Freshness::StaleIfError),
            (86_459, false, Freshness::StaleIfError),
            (86_460, false, Freshness::Expired),
            (
                59,
                true,
                Freshness::Fresh {
                    remaining: Duration::from_secs(1),
                },
            ),
            (60, true, Freshness::Expired),
        ] {
            assert_eq!(
                POLICY.judge(Duration::from_secs(age_s), must_revalidate),
                expected
            );
        }
    }
}
