//! Where artifacts come from: one fetch from one module proxy, or from a list of them.
//!
//! Dropping a fetch, or the body that it returned, ends the exchange with upstream and frees its
//! place; nothing goes on behind the caller's back.

mod answer;
mod base;
mod body;
mod client;
mod config;
mod file;
mod gate;
mod http;
mod list;
mod observer;
mod offline;
#[cfg(test)]
mod tests;
mod via;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::time::Instant;

pub use base::UpstreamUrl;
pub use config::{UpstreamConfig, UpstreamIdentity};
pub use file::FileUpstream;
pub use http::HttpUpstream;
pub use list::{GoProxyList, UpstreamList, connect_upstream};
pub use observer::{FetchObserver, FetchOutcome, NoFetchObserver};
pub use offline::OfflineUpstream;
pub use via::Via;

use crate::error::Error;

/// A module proxy that artifacts are fetched from, or several that stand for one.
#[async_trait]
pub trait Upstream: Send + Sync + Debug {
    /// Starts one fetch; resolves when the headers of a usable answer have arrived.
    ///
    /// One call is one request (redirects aside), never a retry; the caller decides about that.
    /// May be called from many tasks at once. Cancelling it ends the exchange.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`], [`Error::Forbidden`]: upstream's verdict; tell the client.
    /// - [`Error::Refused`]: our request or credentials are at fault; tell the operator.
    /// - [`Error::Upstream`], [`Error::TimedOut`], [`Error::Throttled`]: try again later, the last
    ///   no sooner than it says.
    /// - [`Error::Overloaded`]: no place became free in time; upstream was not asked.
    /// - [`Error::TooLarge`]: the announced length is over `bytes_max`.
    /// - [`Error::InvalidName`]: the path is none that a proxy can have.
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, Error>;

    /// How many upstreams this stands for.
    fn members(&self) -> usize {
        1
    }
}

/// What to fetch, and how far to go for it.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// The unit's name in messages, for example `example.com/m@v1.0.0.zip`.
    pub unit: String,
    /// The path below the base, percent-encoded, without a leading slash, for example
    /// `example.com/m/@v/v1.0.0.zip`.
    pub path: String,
    /// The largest body that is accepted, in bytes, after decoding.
    pub bytes_max: u64,
    /// What is stored already: upstream may answer that it has not changed.
    pub validators: Option<Validators>,
    /// Where an earlier body of the same upstream broke off. Validators are not sent with it.
    pub resume: Option<ResumeFrom>,
    /// When the headers must be here at the latest; the upstream's own limits apply as well.
    pub first_byte_deadline: Option<Instant>,
    /// Names of upstreams whose body broke off earlier in this fill. A list goes past them where
    /// it goes on after any error, because it was too late for that when the body broke.
    pub broken_at: Vec<Arc<str>>,
    /// Whether a list goes on after any error, whatever stands between its upstreams. It fails
    /// with the error of one that may be asked again then, if there is one.
    pub after_any_error: bool,
}

impl FetchRequest {
    /// A plain fetch of the whole artifact.
    pub fn new(unit: impl Into<String>, path: impl Into<String>, bytes_max: u64) -> Self {
        Self {
            unit: unit.into(),
            path: path.into(),
            bytes_max,
            validators: None,
            resume: None,
            first_byte_deadline: None,
            broken_at: Vec::new(),
            after_any_error: false,
        }
    }
}

/// What an earlier answer said about its content.
///
/// Only meaningful to the upstream that said it: another one's "not modified since" is about
/// another document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validators {
    /// The upstream that the answer came from; with `None` they are sent to whoever is asked,
    /// which is right only where there is a single upstream.
    pub upstream: Option<Arc<str>>,
    /// The `ETag`, quotes included.
    pub etag: Option<String>,
    /// The `Last-Modified` date as it was sent.
    pub last_modified: Option<String>,
}

/// Where to go on with a body that broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeFrom {
    /// The upstream that sent the first part; any other sends the whole.
    pub upstream: Arc<str>,
    /// How many bytes are here already.
    pub offset: u64,
    /// The strong `ETag` of the first part, quotes included; with a weak one the whole is sent.
    pub etag: String,
}

impl ResumeFrom {
    /// Behind `offset` bytes of what `upstream` calls `etag`; `None` where that names no bytes.
    pub fn strong(upstream: &Arc<str>, offset: u64, etag: Option<&str>) -> Option<Self> {
        let etag = etag.filter(|etag| offset > 0 && is_strong(etag))?;
        Some(Self {
            upstream: upstream.clone(),
            offset,
            etag: etag.to_owned(),
        })
    }
}

/// Tells whether an `ETag` names bytes, and not only a meaning.
///
/// A range of a weakly equal body could be a range of other bytes (RFC 9110, 13.1.5).
pub(crate) fn is_strong(etag: &str) -> bool {
    etag.starts_with('"')
}

/// The answer to a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// The name of the upstream that answered.
    pub upstream: Arc<str>,
    /// The content, or that it has not changed.
    pub body: FetchedBody,
    /// The length of the whole artifact in bytes (not of the rest, when `resumed`); `None` when
    /// upstream did not say, or sent it compressed.
    pub len: Option<u64>,
    /// The `ETag`, quotes included.
    pub etag: Option<String>,
    /// The `Last-Modified` date as it was sent.
    pub last_modified: Option<String>,
    /// What `Cache-Control` said.
    pub cache_control: CacheControl,
    /// The `Content-Type` as it was sent.
    pub content_type: Option<String>,
    /// `true` when the body starts at the offset that was asked for, `false` when at 0.
    pub resumed: bool,
}

/// What a fetch brought.
pub enum FetchedBody {
    /// The content as it arrives.
    ///
    /// A body that broke off, stalled or grew over `bytes_max` ends in an error
    /// ([`Error::Upstream`], [`Error::TimedOut`], [`Error::TooLarge`]) and then with `None`; only
    /// a whole body ends with `None` alone. An HTTP/1.0 answer without a length ends where its
    /// connection does, which nobody can tell from a loss.
    Modified(BoxStream<'static, Result<Bytes, Error>>),
    /// What the validators describe is still right.
    NotModified,
}

impl Debug for FetchedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Modified(_) => "Modified(..)",
            Self::NotModified => "NotModified",
        })
    }
}

/// The `Cache-Control` directives that matter to a shared cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheControl {
    /// `no-cache`, also in its qualified form.
    pub no_cache: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `must-revalidate` or `proxy-revalidate`.
    pub must_revalidate: bool,
    /// `s-maxage`, else `max-age`.
    pub max_age: Option<Duration>,
}
