//! Limits and identity of the connections to upstreams.

use std::time::Duration;

use super::via::Via;
use crate::error::Error;

/// The longest time limit that [`UpstreamConfig::validate`] accepts.
const TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);

/// Limits of one upstream; each upstream counts for itself.
///
/// Field names are the configuration keys below `upstreams.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Name resolution, TCP and TLS together, per connection. Default 5 s.
    pub connect_timeout: Duration,
    /// From the moment a fetch has its place until the answer's headers are here, redirects
    /// included. Default 20 s.
    pub first_byte_timeout: Duration,
    /// Silence between two pieces of a body while somebody waits for the next one. Default 20 s.
    pub stall_timeout: Duration,
    /// Fetches under way at once, bodies included. Default 128: a lower number makes a herd of
    /// distinct modules queue, a higher one opens as many connections to an HTTP/1.1 upstream.
    pub concurrency_max: usize,
    /// Fetches that wait for a place, in order of arrival; the next one is turned away.
    /// Default 4096.
    pub queue_max: usize,
    /// How long a fetch waits for a place before it is turned away. Default 15 s.
    pub queue_timeout: Duration,
    /// Idle connections that are kept for the next fetch. Default 64.
    pub idle_connections_max: usize,
    /// How long an idle connection is kept. Default 60 s.
    pub idle_timeout: Duration,
    /// Whether `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` apply, as they do for the go command.
    /// A loopback upstream is always reached directly. Default `true`.
    pub proxy_from_env: bool,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(20),
            concurrency_max: 128,
            queue_max: 4096,
            queue_timeout: Duration::from_secs(15),
            idle_connections_max: 64,
            idle_timeout: Duration::from_secs(60),
            proxy_from_env: true,
        }
    }
}

impl UpstreamConfig {
    /// The key of the limit that a fetch meets when it waited too long for a place.
    pub const CONCURRENCY_KEY: &'static str = "upstreams.concurrency_max";
    /// The key of the limit that a fetch meets when too many wait before it.
    pub const QUEUE_KEY: &'static str = "upstreams.queue_max";

    /// Refuses values that cannot work.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: a time limit is 0 or longer than an hour, or `concurrency_max` is 0 or
    /// over 65,536; the text names the key.
    pub fn validate(&self) -> Result<(), Error> {
        for (key, limit) in [
            ("connect_timeout", self.connect_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("stall_timeout", self.stall_timeout),
            ("queue_timeout", self.queue_timeout),
            ("idle_timeout", self.idle_timeout),
        ] {
            if limit.is_zero() || limit > TIMEOUT_MAX {
                return Err(Error::Config(format!(
                    "upstreams.{key} must be more than 0 and at most 1 h"
                )));
            }
        }
        if self.concurrency_max == 0 || self.concurrency_max > 65_536 {
            return Err(Error::Config(
                "upstreams.concurrency_max must be 1 to 65536".to_owned(),
            ));
        }
        Ok(())
    }
}

/// What our requests say about us.
#[derive(Debug, Clone)]
pub struct UpstreamIdentity {
    /// The `Via` field: the server knows a loop by it.
    pub via: Via,
    /// The `User-Agent` field, for example `corral/1.2.3`.
    pub user_agent: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_zeros_are_named() {
        let config = UpstreamConfig::default();
        assert!(config.validate().is_ok());
        let refused = UpstreamConfig {
            stall_timeout: Duration::ZERO,
            ..config.clone()
        };
        let text = refused.validate().expect_err("a zero limit").to_string();
        assert!(text.contains("upstreams.stall_timeout"), "{text}");
        let refused = UpstreamConfig {
            concurrency_max: 0,
            ..config
        };
        let text = refused.validate().expect_err("no place at all").to_string();
        assert!(text.contains(UpstreamConfig::CONCURRENCY_KEY), "{text}");
    }
}
