//! An upstream that speaks HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, RANGE, VIA,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use tokio::time::{Instant, timeout_at};

use super::answer;
use super::base::UpstreamUrl;
use super::body::{Body, too_large};
use super::client::{RedirectRefused, build_client};
use super::config::{UpstreamConfig, UpstreamIdentity};
use super::gate::{Gate, Place};
use super::observer::{Attempt, FetchObserver, FetchOutcome};
use super::via::Via;
use super::{FetchRequest, Fetched, FetchedBody, ResumeFrom, Upstream, Validators, is_strong};
use crate::error::Error;

/// How much of an error's body is read, so that its connection can be used again.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// How long an error's body may take; its text is not worth more.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(3);
/// One HTTP or HTTPS module proxy.
pub struct HttpUpstream {
    base: UpstreamUrl,
    config: UpstreamConfig,
    client: Client,
    via: Via,
    gate: Gate,
    observer: Arc<dyn FetchObserver>,
}

impl fmt::Debug for HttpUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpUpstream")
            .field("base", &self.base)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl HttpUpstream {
    /// Prepares connections to `base`; opens none.
    ///
    /// Installs `ring` as the process's TLS provider unless there is one already.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: a limit is out of range, `base` is a `file` URL, or TLS cannot be set up (no root certificates for an `https` upstream).
    pub fn new(
        base: UpstreamUrl,
        config: UpstreamConfig,
        identity: &UpstreamIdentity,
        observer: Arc<dyn FetchObserver>,
    ) -> Result<Self, Error> {
        config.validate()?;
        if base.is_file() {
            return Err(Error::Config(format!(
                "upstream {} is no HTTP server",
                base.name()
            )));
        }
        let client = build_client(&base, &config, identity)?;
        let gate = Gate::new(&config);
        Ok(Self {
            base,
            config,
            client,
            via: identity.via.clone(),
            gate,
            observer,
        })
    }

    /// The name in messages and metrics.
    pub fn name(&self) -> &Arc<str> {
        self.base.name()
    }

    async fn attempt(
        &self,
        request: &FetchRequest,
        attempt: &mut Attempt,
    ) -> Result<Answer, Error> {
        let url = self.base.join(&request.path).ok_or_else(|| {
            attempt.set(FetchOutcome::Refused);
            Error::invalid_name(
                "request path",
                &request.path,
                "it is no path below an upstream",
            )
        })?;
        let place = self
            .gate
            .enter(
                &self.config,
                request.first_byte_deadline,
                &self.observer,
                self.name(),
            )
            .await
            .inspect_err(|_| attempt.set(FetchOutcome::Overloaded))?;
        let patience = Instant::now() + self.config.first_byte_timeout;
        let deadline = request
            .first_byte_deadline
            .map_or(patience, |own| own.min(patience));
        let mut condition = Condition::of(request, self.name());
        loop {
            let sent = condition.apply(self.request(url.clone()));
            let response = match timeout_at(deadline, sent.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(source)) => {
                    let (error, outcome) = self.no_answer(source);
                    attempt.set(outcome);
                    return Err(error);
                }
                Err(_) => {
                    attempt.set(FetchOutcome::TimedOut);
                    return Err(Error::TimedOut {
                        upstream: self.name().to_string(),
                        reason: format!("no answer for {} in time", request.unit),
                    });
                }
            };
            match (response.status(), condition) {
                (StatusCode::OK, _) => {
                    let len = response.content_length();
                    return Ok(Answer {
                        response,
                        place,
                        len,
                        offset: 0,
                        is_modified: true,
                    });
                }
                (StatusCode::NOT_MODIFIED, Condition::Changed(_)) => {
                    return Ok(Answer {
                        response,
                        place,
                        len: None,
                        offset: 0,
                        is_modified: false,
                    });
                }
                (StatusCode::PARTIAL_CONTENT, Condition::Rest(from))
                    if is_rest(&response, from) =>
                {
                    let len = answer::whole_len(response.headers(), from.offset);
                    let offset = from.offset;
                    return Ok(Answer {
                        response,
                        place,
                        len,
                        offset,
                        is_modified: true,
                    });
                }
                // The rest cannot be had, so the whole is asked for, within the same time limit.
                (
                    StatusCode::PARTIAL_CONTENT
                    | StatusCode::PRECONDITION_FAILED
                    | StatusCode::RANGE_NOT_SATISFIABLE,
                    Condition::Rest(_),
                ) => condition = Condition::None,
                _ => {
                    let (error, outcome) = self.refusal(response, &request.unit).await;
                    attempt.set(outcome);
                    return Err(error);
                }
            }
        }
    }

    fn request(&self, url: Url) -> RequestBuilder {
        // Module zips are compressed already; an upstream that compresses all the same is
        // undone by the client, which looks at the answer only.
        let request = self
            .client
            .get(url)
            .header(VIA, self.via.field())
            .header(ACCEPT_ENCODING, "identity");
        match self.base.credentials() {
            Some(own) => request.basic_auth(&own.user, Some(&own.password)),
            None => request,
        }
    }

    /// Turns an answer without content into an error, reading its body as far as that is useful.
    async fn refusal(&self, mut response: Response, unit: &str) -> (Error, FetchOutcome) {
        let status = response.status();
        let patience = self.config.stall_timeout.min(ERROR_BODY_TIMEOUT);
        let deadline = Instant::now() + patience;
        let mut bytes = BytesMut::new();
        // A text that breaks off or takes too long is shown as far as it came.
        while let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ERROR_BYTES_MAX {
                break;
            }
        }
        if status == StatusCode::UNAUTHORIZED {
            tracing::warn!(
                upstream = %self.name(),
                credentials = self.base.credentials().is_some(),
                "upstream did not accept our credentials"
            );
        }
        let text = answer::readable(response.headers(), &bytes);
        answer::refusal(status, response.headers(), text, unit, self.name())
    }

    /// Says why no answer came.
    fn no_answer(&self, source: reqwest::Error) -> (Error, FetchOutcome) {
        let upstream = self.name().to_string();
        // The URL may be a redirect's, with a signature in its query.
        let source = source.without_url();
        if source.is_timeout() && source.is_connect() {
            let reason = format!("no connection within {:?}", self.config.connect_timeout);
            return (Error::TimedOut { upstream, reason }, FetchOutcome::TimedOut);
        }
        let reason = if let Some(refused) = find_cause::<RedirectRefused>(&source) {
            refused.to_string()
        } else if source.is_dns() {
            "its name could not be resolved".to_owned()
        } else if let Some(tls) = find_cause::<rustls::Error>(&source) {
            format!("no secure connection: {tls}")
        } else if source.is_connect() {
            "no connection".to_owned()
        } else {
            "the connection ended without a usable answer".to_owned()
        };
        let unreached = source.is_connect() || source.is_dns();
        let source = Some(Arc::new(source) as _);
        let error = match unreached {
            true => Error::Unreachable {
                upstream,
                reason,
                source,
            },
            false => Error::Upstream {
                upstream,
                reason,
                source,
            },
        };
        (error, FetchOutcome::Failed)
    }

    fn fetched(
        &self,
        request: &FetchRequest,
        answer: Answer,
        mut attempt: Attempt,
    ) -> Result<Fetched, Error> {
        let Answer {
            response,
            place,
            len,
            offset,
            is_modified,
        } = answer;
        let headers = response.headers();
        let text = |name| answer::header(headers, name);
        if len.is_some_and(|len| len > request.bytes_max) {
            attempt.set(FetchOutcome::TooLarge);
            return Err(too_large(&request.unit, request.bytes_max));
        }
        // What the client could decode, it has, and taken the field away.
        if let Some(coding) = text(&CONTENT_ENCODING)
            && is_modified
            && !coding.trim().eq_ignore_ascii_case("identity")
        {
            attempt.set(FetchOutcome::Failed);
            return Err(Error::Upstream {
                upstream: self.name().to_string(),
                reason: format!("content encoding {coding:?} was not asked for"),
                source: None,
            });
        }
        let mut fetched = Fetched {
            upstream: Arc::clone(self.name()),
            body: FetchedBody::NotModified,
            len,
            etag: text(&ETAG),
            last_modified: text(&LAST_MODIFIED),
            cache_control: answer::cache_control(headers),
            content_type: text(&CONTENT_TYPE),
            resumed: offset > 0,
        };
        if is_modified {
            let body = Body {
                response,
                attempt,
                _place: place,
                unit: request.unit.clone(),
                upstream: Arc::clone(self.name()),
                stall_timeout: self.config.stall_timeout,
                bytes_max: request.bytes_max,
                received: offset,
                len,
            };
            fetched.body = FetchedBody::Modified(body.into_stream());
        } else {
            attempt.set(FetchOutcome::NotModified);
        }
        Ok(fetched)
    }
}

#[async_trait]
impl Upstream for HttpUpstream {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, Error> {
        let mut attempt = Attempt::start(Arc::clone(&self.observer), Arc::clone(self.name()));
        let answer = self.attempt(request, &mut attempt).await?;
        self.fetched(request, answer, attempt)
    }
}

/// An answer that is no error.
struct Answer {
    response: Response,
    place: Place,
    len: Option<u64>,
    offset: u64,
    is_modified: bool,
}

/// What a request asks on condition.
#[derive(Clone, Copy)]
enum Condition<'a> {
    None,
    /// The whole, if it has changed.
    Changed(&'a Validators),
    /// The rest, if it is the same.
    Rest(&'a ResumeFrom),
}

impl<'a> Condition<'a> {
    fn of(request: &'a FetchRequest, name: &Arc<str>) -> Self {
        if let Some(from) = &request.resume {
            if from.upstream == *name && is_strong(&from.etag) && from.offset > 0 {
                return Self::Rest(from);
            }
            return Self::None;
        }
        match &request.validators {
            Some(known)
                if known
                    .upstream
                    .as_ref()
                    .is_none_or(|upstream| upstream == name) =>
            {
                Self::Changed(known)
            }
            _ => Self::None,
        }
    }

    fn apply(self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::None => request,
            Self::Changed(known) => {
                let request = match &known.etag {
                    Some(etag) => request.header(IF_NONE_MATCH, etag),
                    None => request,
                };
                match &known.last_modified {
                    Some(date) => request.header(IF_MODIFIED_SINCE, date),
                    None => request,
                }
            }
            Self::Rest(from) => request
                .header(RANGE, format!("bytes={}-", from.offset))
                .header(IF_RANGE, &from.etag),
        }
    }
}

/// Tells whether the answer is what is missing, of the same content, and not re-coded.
fn is_rest(response: &Response, from: &ResumeFrom) -> bool {
    let headers = response.headers();
    let is_same = answer::header(headers, &ETAG).is_none_or(|etag| etag == from.etag);
    let rest = answer::whole_len(headers, from.offset).map(|len| len - from.offset);
    // Without a length the client may have decoded it, and then the offsets mean other bytes.
    is_same && rest.is_some() && response.content_length() == rest
}

/// Looks for a cause of type `E`. An I/O error skips what it wraps when it names its source, and
/// they come nested, so those are opened one by one.
fn find_cause<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>() {
            Some(io) => io
                .get_ref()
                .map(|inner| inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}
