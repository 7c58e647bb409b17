//! `LeaseConfig`: how long leases last and how long their ends may take.

use std::time::Duration;

use crate::LeaseError;

/// How a holder keeps its leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long a grant lasts without renewal; default 6 s, 100 ms ..= 5 min.
    ///
    /// Longer: a dead holder blocks its followers longer. Shorter: more renewals, and a pause of
    /// the process or the network costs the lease sooner; below 1 s an ordinary hiccup is enough,
    /// which is for tests that wait for real expiry across real processes.
    pub ttl: Duration,
    /// How long one lease may live in all, counted from its grant; default 1 h, `ttl` ..= 24 h.
    ///
    /// After that the holder stops renewing, however alive it is. Longer: a holder that is stuck
    /// but alive blocks its followers longer. Shorter: long work loses its lease before its end.
    pub held_max: Duration,
    /// How long one release may take, counted from its start; default 5 s, 10 ms ..= 1 min.
    ///
    /// Longer than `ttl` buys nothing: by then the lease has ended on its own.
    pub release_timeout: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(6),
            held_max: Duration::from_secs(60 * 60),
            release_timeout: Duration::from_secs(5),
        }
    }
}

impl LeaseConfig {
    /// The shortest `ttl`.
    pub const TTL_MIN: Duration = Duration::from_millis(100);
    /// The longest `ttl`.
    pub const TTL_MAX: Duration = Duration::from_secs(5 * 60);
    /// The longest `held_max`.
    pub const HELD_MAX_MAX: Duration = Duration::from_secs(24 * 60 * 60);
    /// The shortest `release_timeout`.
    pub const RELEASE_TIMEOUT_MIN: Duration = Duration::from_millis(10);
    /// The longest `release_timeout`.
    pub const RELEASE_TIMEOUT_MAX: Duration = Duration::from_secs(60);

    /// Returns the time between two renewals, a third of `ttl`: two may fail before the third
    /// decides.
    pub fn renew_every(&self) -> Duration {
        renew_every(self.ttl)
    }

    /// Checks every value against its range, and those that depend on each other.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidConfig`]: names the field and the allowed values.
    pub fn validate(&self) -> Result<(), LeaseError> {
        within("ttl", self.ttl, Self::TTL_MIN, Self::TTL_MAX)?;
        within("held_max", self.held_max, self.ttl, Self::HELD_MAX_MAX)?;
        within(
            "release_timeout",
            self.release_timeout,
            Self::RELEASE_TIMEOUT_MIN,
            Self::RELEASE_TIMEOUT_MAX,
        )
    }
}

/// The time between two renewals of a lease that lasts `ttl`.
pub(crate) fn renew_every(ttl: Duration) -> Duration {
    ttl / 3
}

/// The time between a renewal that failed and the next try: a quarter of the usual time, so that
/// one lost packet leaves many more tries before the deadline.
pub(crate) fn renew_retry_every(ttl: Duration) -> Duration {
    renew_every(ttl) / 4
}

/// Refuses a `value` of `field` outside its range.
pub(crate) fn within(
    field: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), LeaseError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let reason = format!("{value:?} is outside {min:?} ..= {max:?}");
    Err(LeaseError::InvalidConfig { field, reason })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_as_documented() {
        let config = LeaseConfig::default();
        config.validate().unwrap();
        assert_eq!(config.ttl, Duration::from_secs(6));
        assert_eq!(config.renew_every(), Duration::from_secs(2));
    }

    #[test]
    fn a_mistake_names_its_field() {
        let field = |config: LeaseConfig| match config.validate() {
            Err(LeaseError::InvalidConfig { field, .. }) => Some(field),
            _ => None,
        };
        let base = LeaseConfig::default;
        let ms = Duration::from_millis;
        assert_eq!(
            field(LeaseConfig {
                ttl: ms(99),
                ..base()
            }),
            Some("ttl")
        );
        assert_eq!(
            field(LeaseConfig {
                ttl: ms(100),
                ..base()
            }),
            None
        );
        assert_eq!(
            field(LeaseConfig {
                ttl: ms(300_001),
                ..base()
            }),
            Some("ttl")
        );
        assert_eq!(
            field(LeaseConfig {
                held_max: ms(5_999),
                ..base()
            }),
            Some("held_max")
        );
        assert_eq!(
            field(LeaseConfig {
                held_max: Duration::MAX,
                ..base()
            }),
            Some("held_max")
        );
        let short = LeaseConfig {
            release_timeout: Duration::ZERO,
            ..base()
        };
        assert_eq!(field(short), Some("release_timeout"));
    }
}
