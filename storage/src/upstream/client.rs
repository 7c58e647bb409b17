//! The HTTP client of one upstream: connections, TLS, redirects.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

use super::base::UpstreamUrl;
use super::config::{UpstreamConfig, UpstreamIdentity};
use crate::error::Error;

/// As many redirects as the go command follows.
const REDIRECTS_MAX: usize = 10;
/// HTTP/2: bytes that may be under way per stream. The default of 64 KiB caps a fetch at that
/// much per round trip.
const H2_STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// HTTP/2: the same for one connection with all its streams.
const H2_CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
/// How long a dead connection stays unnoticed: HTTP/2 pings, and data that nobody acknowledges.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A redirect that is not followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RedirectRefused {
    #[error("more than {REDIRECTS_MAX} redirects")]
    TooMany,
    #[error("it redirects from https to http")]
    Insecure,
}

fn redirects() -> Policy {
    Policy::custom(|attempt| {
        let is_secure = attempt
            .previous()
            .last()
            .is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > REDIRECTS_MAX {
            attempt.error(RedirectRefused::TooMany)
        } else if is_secure && attempt.url().scheme() != "https" {
            attempt.error(RedirectRefused::Insecure)
        } else {
            attempt.follow()
        }
    })
}

/// Prepares the connections to `base`; opens none.
pub(super) fn build_client(
    base: &UpstreamUrl,
    config: &UpstreamConfig,
    identity: &UpstreamIdentity,
) -> Result<Client, Error> {
    // Both TLS providers can be linked into one program, and then there is no default. An error
    // means that somebody else chose first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        let builder = client_builder(config, &identity.user_agent);
        // Like the go command, which never sends a loopback address through a proxy.
        if config.proxy_from_env && !base.is_loopback() {
            builder
        } else {
            builder.no_proxy()
        }
    };
    builder().build().or_else(|source| {
        if base.url().scheme() == "http" {
            // A machine without root certificates can use a plain upstream all the same.
            let client = builder().tls_certs_only([]).build();
            if let Ok(client) = client {
                tracing::warn!(upstream = %base.name(), "no root certificates: https will fail");
                return Ok(client);
            }
        }
        Err(Error::Config(format!(
            "upstream {} cannot be used: {}",
            base.name(),
            chain(&source.without_url())
        )))
    })
}

fn client_builder(config: &UpstreamConfig, user_agent: &str) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(user_agent)
        .redirect(redirects())
        .referer(false)
        .connect_timeout(config.connect_timeout)
        .pool_max_idle_per_host(config.idle_connections_max)
        .pool_idle_timeout(config.idle_timeout)
        .tcp_keepalive(KEEP_ALIVE * 3)
        .http2_initial_stream_window_size(H2_STREAM_WINDOW)
        .http2_initial_connection_window_size(H2_CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE);
    #[cfg(target_os = "linux")]
    let builder = builder.tcp_user_timeout(KEEP_ALIVE * 2);
    builder
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
