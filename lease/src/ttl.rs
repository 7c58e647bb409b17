//! Times to live as whole milliseconds: the one checked conversion, for every implementation.
//!
//! Servers take milliseconds as integers. An unchecked conversion turns a sub-millisecond or
//! negative rest into 0, which some commands read as "for ever" and others as "delete"; so the
//! conversion lives here, and nothing else makes a wire number out of a duration.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::{LeaseConfig, LeaseError};

/// The longest that a record may live. Far above any use, far below where a server's own
/// "now + ttl" could overflow.
pub const RECORD_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Returns a record's `ttl` in whole milliseconds, rounded down: nothing outlives what was asked.
///
/// # Errors
///
/// [`LeaseError::InvalidTtl`]: below 1 ms or above [`RECORD_TTL_MAX`]; do not store at all.
pub fn record_ttl_ms(ttl: Duration) -> Result<NonZeroU64, LeaseError> {
    whole_ms(ttl, RECORD_TTL_MAX)
}

/// Returns a lease's `ttl` in whole milliseconds, rounded down.
///
/// # Errors
///
/// [`LeaseError::InvalidTtl`]: below 1 ms or above [`LeaseConfig::TTL_MAX`].
pub fn lease_ttl_ms(ttl: Duration) -> Result<NonZeroU64, LeaseError> {
    whole_ms(ttl, LeaseConfig::TTL_MAX)
}

fn whole_ms(ttl: Duration, ttl_max: Duration) -> Result<NonZeroU64, LeaseError> {
    if ttl > ttl_max {
        return Err(LeaseError::InvalidTtl { ttl, ttl_max });
    }
    u64::try_from(ttl.as_millis())
        .ok()
        .and_then(NonZeroU64::new)
        .ok_or(LeaseError::InvalidTtl { ttl, ttl_max })
}

/// The same conversion, for a store that counts in durations.
pub(crate) fn whole(ms: NonZeroU64) -> Duration {
    Duration::from_millis(ms.get())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // acceptance: A19
        #[test]
        fn never_zero_never_longer_and_less_than_a_millisecond_off(nanos in any::<u64>()) {
            let ttl = Duration::from_nanos(nanos);
            match record_ttl_ms(ttl) {
                Ok(ms) => {
                    let kept = whole(ms);
                    prop_assert!(kept <= ttl && ttl - kept < Duration::from_millis(1));
                    prop_assert!(ttl <= RECORD_TTL_MAX);
                    prop_assert!(i64::try_from(ms.get()).is_ok());
                }
                Err(_) => prop_assert!(
                    ttl < Duration::from_millis(1) || ttl > RECORD_TTL_MAX
                ),
            }
        }

        // acceptance: A19
        #[test]
        fn any_duration_is_answered(secs in any::<u64>(), nanos in 0..1_000_000_000_u32) {
            let ttl = Duration::new(secs, nanos);
            let allowed = Duration::from_millis(1)..=LeaseConfig::TTL_MAX;
            prop_assert_eq!(lease_ttl_ms(ttl).is_ok(), allowed.contains(&ttl));
        }
    }

    // acceptance: A19
    #[test]
    fn the_edges() {
        assert!(record_ttl_ms(Duration::ZERO).is_err());
        assert!(record_ttl_ms(Duration::from_nanos(999_999)).is_err());
        assert_eq!(record_ttl_ms(Duration::from_millis(1)).unwrap().get(), 1);
        assert_eq!(
            record_ttl_ms(Duration::from_nanos(1_999_999))
                .unwrap()
                .get(),
            1
        );
        assert!(record_ttl_ms(RECORD_TTL_MAX).is_ok());
        assert!(record_ttl_ms(RECORD_TTL_MAX + Duration::from_nanos(1)).is_err());
        assert!(record_ttl_ms(Duration::MAX).is_err());
    }
}
