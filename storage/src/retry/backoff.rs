//! How long to wait before the next attempt: exponential growth with full jitter.
//!
//! This is the only file that names the `backoff` crate.

use std::time::Duration;

use ::backoff::SystemClock;
use ::backoff::backoff::Backoff;
use ::backoff::exponential::{ExponentialBackoff, ExponentialBackoffBuilder};

use crate::error::Error;

/// The longest `delay_max` that [`RetryPolicy::validate`] accepts.
const DELAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How often, and how far apart, something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first one; 0 means that nothing is tried again.
    pub retries: u32,
    /// The first delay is drawn from `0 ..= first_delay`; the bound doubles with every retry.
    pub first_delay: Duration,
    /// What the bound grows to.
    pub delay_max: Duration,
}

impl RetryPolicy {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: `first_delay` is longer than `delay_max`, or `delay_max` is longer than
    /// a day. The text names the field below `key`, for example `fill.delay_max`.
    pub fn validate(&self, key: &str) -> Result<(), Error> {
        if self.delay_max > DELAY_MAX {
            return Err(Error::Config(format!(
                "{key}.delay_max must be at most 24 h"
            )));
        }
        if self.first_delay > self.delay_max {
            return Err(Error::Config(format!(
                "{key}.first_delay must not be longer than {key}.delay_max"
            )));
        }
        Ok(())
    }

    /// Starts the delays of one series of attempts.
    pub fn delays(&self) -> Delays {
        self.delays_from(0)
    }

    /// The longest that the delay after `used` others can be.
    pub(crate) fn bound(&self, used: u32) -> Duration {
        self.first_delay
            .saturating_mul(2_u32.saturating_pow(used))
            .min(self.delay_max)
    }

    /// Continues a series of which `used` delays were drawn already, for example by a process
    /// that has died since.
    pub fn delays_from(&self, used: u32) -> Delays {
        let bound = self.bound(used);
        // The crate draws from interval ± factor · interval. A factor of one around half the
        // bound is the uniform draw from 0 to the bound that "full jitter" means.
        let mut inner = ExponentialBackoffBuilder::<SystemClock>::new()
            .with_initial_interval(bound / 2)
            .with_max_interval(self.delay_max / 2)
            .with_multiplier(2.0)
            .with_randomization_factor(1.0)
            .with_max_elapsed_time(None)
            .build();
        inner.reset();
        Delays {
            left: self.retries.saturating_sub(used),
            inner,
        }
    }
}

/// The delays of one series of attempts; ends when the policy's retries are used up.
///
/// Delay `n` (from 0) is uniform in `0 ..= min(first_delay · 2ⁿ, delay_max)`, so that clients who
/// failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Delays {
    left: u32,
    inner: ExponentialBackoff<SystemClock>,
}

impl Delays {
    /// Draws the next delay, no shorter than what upstream asked for.
    ///
    /// The jitter comes on top of `retry_after`: everybody who was told the same number would
    /// otherwise return in the same instant. `None` when the retries are used up.
    pub fn next_after(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let bound = self.inner.current_interval * 2;
        // The crate computes in floating point; the bound must hold exactly.
        let jitter = self.inner.next_backoff()?.min(bound);
        Some(retry_after.unwrap_or_default().saturating_add(jitter))
    }

    /// How many delays are left.
    pub fn left(&self) -> u32 {
        self.left
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.next_after(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(retries: u32, first_ms: u64, max_ms: u64) -> RetryPolicy {
        RetryPolicy {
            retries,
            first_delay: Duration::from_millis(first_ms),
            delay_max: Duration::from_millis(max_ms),
        }
    }

    fn bound(policy: &RetryPolicy, index: u32) -> Duration {
        policy
            .first_delay
            .saturating_mul(2_u32.saturating_pow(index))
            .min(policy.delay_max)
    }

    proptest! {
        // acceptance: B13
        #[test]
        fn delays_stay_within_their_bounds(
            retries in 0_u32..40,
            first_ms in 0_u64..5_000,
            more_ms in 0_u64..600_000,
            used in 0_u32..45,
            asked_ms in proptest::option::of(0_u64..3_600_000),
        ) {
            let policy = policy(retries, first_ms, first_ms + more_ms);
            prop_assert!(policy.validate("retry").is_ok());
            let asked = asked_ms.map(Duration::from_millis);
            let mut delays = policy.delays_from(used);
            let mut drawn = 0;
            while let Some(delay) = delays.next_after(asked) {
                let least = asked.unwrap_or_default();
                prop_assert!(delay >= least);
                prop_assert!(delay - least <= bound(&policy, used + drawn));
                drawn += 1;
            }
            prop_assert_eq!(drawn, retries.saturating_sub(used));
            prop_assert!(delays.next().is_none());
        }
    }

    #[test]
    fn jitter_is_full_and_uniform() {
        let policy = policy(1, 1_000, 1_000);
        let mut quarters = [0_u32; 4];
        for _ in 0..4_000 {
            let delay = policy.delays().next().expect("one retry is allowed");
            let quarter = usize::try_from(delay.as_millis() * 4 / 1_000).expect("a small number");
            quarters[quarter.min(3)] += 1;
        }
        // Each quarter expects 1,000; 800 is more than seven standard deviations away.
        assert!(quarters.iter().all(|&count| count > 800), "{quarters:?}");
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        let refused = policy(3, 2_000, 1_000)
            .validate("fill")
            .expect_err("first over max");
        assert!(refused.to_string().contains("fill.first_delay"));
        let refused = policy(3, 1, 90_000_000)
            .validate("retry")
            .expect_err("over a day");
        assert!(refused.to_string().contains("retry.delay_max"));
    }
}
