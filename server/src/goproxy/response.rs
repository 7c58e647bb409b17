//! From an artifact to an HTTP answer: status, headers, and a body in pieces.

use std::fmt::Write as _;
use std::ops::Range;

use actix_http::body::{BodyStream, BoxBody, MessageBody, SizedStream};
use actix_http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
};
use actix_http::{
    HttpMessage, Method, Request, Response, ResponseBuilder, ServiceConfig, StatusCode, Version,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use sha2::{Digest, Sha256};
use storage::{
    Answer, AnswerBody, Arriving, ArtifactKey, ByteStream, CacheOutcome, Error, Role, Stored,
    StoredBody, Verdict,
};

use super::conditional::{Part, is_not_modified, requested_part};
use super::named::Named;

/// A body up to this size is handed over whole; a larger one in pieces, because an HTTP/1
/// connection copies each piece into its write buffer.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// How long anybody may keep a file that never changes.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=604800, immutable");

const NOSNIFF: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-content-type-options"),
    HeaderValue::from_static("nosniff"),
);

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The answer for an artifact that was in memory.
pub(super) fn hot(request: &Request, named: &Named, stored: Stored) -> Response<BoxBody> {
    whole_or_part(request, named, Body::Stored(stored), hot_outcome())
}

fn hot_outcome() -> CacheOutcome {
    CacheOutcome::immutable(Verdict::HitMemory, Role::Leader)
}

/// The answer for whatever the warmer gave; waits only for the first byte of what is arriving.
///
/// # Errors
///
/// The fill's failure, while no byte has gone out: it becomes a status.
pub(super) async fn answer(
    request: &Request,
    named: &Named,
    answer: Answer,
) -> Result<Response<BoxBody>, Error> {
    let cache = answer.cache;
    let body = match answer.body {
        AnswerBody::Stored(stored) => Body::Stored(stored),
        AnswerBody::Document(body) => Body::Document(body),
        AnswerBody::Arriving(arriving) => {
            let is_head = *request.method() == Method::HEAD;
            let needs_len = request.headers().contains_key("range")
                || request.version() < Version::HTTP_11
                || is_head;
            let len = match arriving.announced_len() {
                Some(len) => Some(len),
                // A part, or a body that ends with its connection, needs a length to be right.
                None if needs_len => Some(arriving.whole().await?),
                None => None,
            };
            if let Some(len) = len {
                Body::Arriving(arriving, len)
            } else {
                arriving.readable_beyond(0).await?;
                let mut response = response_with_headers(StatusCode::OK, &named.key, &cache);
                response.insert_header((ETAG, named.tag.clone()));
                return Ok(boxed(
                    response,
                    BodyStream::new(arriving.stream(0..u64::MAX)),
                ));
            }
        }
    };
    if let Body::Arriving(arriving, len) = &body {
        let start = match requested_part(request.headers(), *len, named.tag_text()) {
            Part::Bytes(part) => part.start,
            _ => 0,
        };
        if *request.method() != Method::HEAD {
            arriving.readable_beyond(start).await?;
        }
    }
    Ok(whole_or_part(request, named, body, cache))
}

enum Body {
    Stored(Stored),
    Document(Bytes),
    Arriving(Arriving, u64),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Stored(stored) => stored.len,
            Self::Document(body) => body.len() as u64,
            Self::Arriving(_, len) => *len,
        }
    }
}

fn whole_or_part(
    request: &Request,
    named: &Named,
    body: Body,
    cache: CacheOutcome,
) -> Response<BoxBody> {
    let key = &named.key;
    let tag = match &body {
        Body::Document(body) => tag_of_content(body),
        Body::Stored(_) | Body::Arriving(..) => named.tag.clone(),
    };
    let tag_text = tag.to_str().unwrap_or_default();
    let headers = request.headers();
    if is_not_modified(headers, tag_text) {
        let mut response = response_with_headers(StatusCode::NOT_MODIFIED, key, &cache);
        response.insert_header((ETAG, tag));
        return boxed(response, ());
    }
    let len = body.len();
    let (status, part) = match requested_part(headers, len, tag_text) {
        Part::Whole => (StatusCode::OK, 0..len),
        Part::Bytes(part) => (StatusCode::PARTIAL_CONTENT, part),
        Part::Unsatisfiable => {
            let mut response = Response::build(StatusCode::RANGE_NOT_SATISFIABLE);
            response.insert_header((CONTENT_RANGE, format!("bytes */{len}")));
            response.insert_header((CACHE_CONTROL, "no-store"));
            response.insert_header((CONTENT_TYPE, "text/plain; charset=utf-8"));
            let text = format!("range not satisfiable: the file has {len} bytes\n");
            return boxed(response, text);
        }
    };
    let mut response = response_with_headers(status, key, &cache);
    response.insert_header((ETAG, tag));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{len}", part.start, part.end - 1);
        response.insert_header((CONTENT_RANGE, range));
    }
    let part_len = part.end - part.start;
    if *request.method() == Method::HEAD {
        // The length of what a GET would bring, and nothing to read.
        let nothing = stream::empty::<Result<Bytes, Error>>();
        return boxed(response, SizedStream::new(part_len, nothing));
    }
    send(response, body, part, part_len)
}

fn send(
    response: ResponseBuilder,
    body: Body,
    part: Range<u64>,
    part_len: u64,
) -> Response<BoxBody> {
    match body {
        Body::Document(body) => {
            let start = usize::try_from(part.start)
                .unwrap_or(usize::MAX)
                .min(body.len());
            let end = usize::try_from(part.end)
                .unwrap_or(usize::MAX)
                .min(body.len());
            let part = body.slice(start..end);
            if part_len <= WHOLE_BYTES_MAX {
                boxed(response, part)
            } else {
                boxed(
                    response,
                    SizedStream::new(part_len, ByteStream::from_bytes(part)),
                )
            }
        }
        Body::Stored(Stored {
            body: StoredBody::Bytes(bytes),
            ..
        }) if part_len <= WHOLE_BYTES_MAX => send(response, Body::Document(bytes), part, part_len),
        Body::Stored(stored) => boxed(
            response,
            SizedStream::new(part_len, stored.body.stream(part)),
        ),
        Body::Arriving(arriving, _) => {
            boxed(response, SizedStream::new(part_len, arriving.stream(part)))
        }
    }
}

fn boxed(mut response: ResponseBuilder, body: impl MessageBody + 'static) -> Response<BoxBody> {
    response.body(body).map_into_boxed_body()
}

fn response_with_headers(
    status: StatusCode,
    key: &ArtifactKey,
    cache: &CacheOutcome,
) -> ResponseBuilder {
    let mut response = Response::build(status);
    for field in fields(key, cache) {
        response.insert_header(field);
    }
    response
}

/// What every answer with an artifact, or a part of one, says of it.
fn fields(key: &ArtifactKey, cache: &CacheOutcome) -> [(HeaderName, HeaderValue); 5] {
    [
        (CONTENT_TYPE, HeaderValue::from_static(key.content_type())),
        (CACHE_CONTROL, cache_control(cache)),
        (CACHE_STATUS, cache_status(cache)),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        NOSNIFF,
    ]
}

/// Writes the head of the answer that [`hot`] gives to a plain `GET` of `body_len` bytes.
pub(super) fn write_hit(head: &mut BytesMut, named: &Named, body_len: u64, dates: &ServiceConfig) {
    head.put_slice(b"HTTP/1.1 200 OK\r\ncontent-length: ");
    write!(head, "{body_len}").expect("a buffer that grows takes every number");
    head.put_slice(b"\r\n");
    let own = (ETAG, named.tag.clone());
    for (name, value) in fields(&named.key, &hot_outcome()).into_iter().chain([own]) {
        head.put_slice(name.as_str().as_bytes());
        head.put_slice(b": ");
        head.put_slice(value.as_bytes());
        head.put_slice(b"\r\n");
    }
    dates.write_date_header(head, false);
    head.put_slice(b"\r\n");
}

fn cache_control(cache: &CacheOutcome) -> HeaderValue {
    match cache.ttl {
        None => IMMUTABLE,
        Some(ttl) => header_value(format!("public, max-age={}", ttl.as_secs())),
    }
}

/// `Cache-Status`, as RFC 9211 spells it.
fn cache_status(cache: &CacheOutcome) -> HeaderValue {
    let stale_s = cache.stale_for.unwrap_or_default().as_secs();
    match (cache.verdict, cache.ttl) {
        (Verdict::HitMemory, _) => HeaderValue::from_static("corral; hit; detail=memory"),
        (Verdict::HitStored, None) => HeaderValue::from_static("corral; hit; detail=store"),
        (Verdict::HitStored, Some(ttl)) => {
            header_value(format!("corral; hit; ttl={}", ttl.as_secs()))
        }
        (Verdict::Relayed, _) => {
            HeaderValue::from_static("corral; fwd=miss; collapsed; detail=relay")
        }
        (Verdict::Miss, _) if cache.collapsed => {
            HeaderValue::from_static("corral; fwd=miss; stored; collapsed")
        }
        (Verdict::Miss, _) => HeaderValue::from_static("corral; fwd=miss; stored"),
        (Verdict::Stale, _) => header_value(format!("corral; hit; ttl=-{stale_s}; detail=stale")),
        (Verdict::StaleIfError, _) => header_value(format!(
            "corral; hit; ttl=-{stale_s}; detail=stale-if-error"
        )),
        (Verdict::BuiltFromStore, _) => {
            HeaderValue::from_static("corral; hit; detail=built-from-store")
        }
    }
}

fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("corral"))
}

fn tag_of_content(body: &Bytes) -> HeaderValue {
    let digest = Sha256::digest(body);
    header_value(format!("\"{}\"", storage::hex(&digest[..16])))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(verdict: Verdict, ttl: Option<u64>, stale_for: Option<u64>) -> CacheOutcome {
        CacheOutcome {
            verdict,
            collapsed: false,
            ttl: ttl.map(Duration::from_secs),
            stale_for: stale_for.map(Duration::from_secs),
        }
    }

    // protocol: H09
    // protocol: H10
    #[test]
    fn files_are_kept_for_long_and_documents_briefly() {
        let file = cache_control(&outcome(Verdict::Miss, None, None));
        assert_eq!(file, "public, max-age=604800, immutable");
        let document = cache_control(&outcome(Verdict::Miss, Some(60), None));
        assert_eq!(document, "public, max-age=60");
    }

    #[test]
    fn cache_status_says_how() {
        for (cache, text) in [
            (
                outcome(Verdict::HitMemory, None, None),
                "corral; hit; detail=memory",
            ),
            (
                outcome(Verdict::Miss, None, None),
                "corral; fwd=miss; stored",
            ),
            (
                outcome(Verdict::Relayed, None, None),
                "corral; fwd=miss; collapsed; detail=relay",
            ),
            (
                outcome(Verdict::HitStored, Some(7), None),
                "corral; hit; ttl=7",
            ),
            (
                outcome(Verdict::Stale, Some(0), Some(9)),
                "corral; hit; ttl=-9; detail=stale",
            ),
        ] {
            assert_eq!(cache_status(&cache), text);
        }
    }
}
