//! `GET /internal/v1/fills`: the bytes of a fill, while they arrive.

use actix_web::body::{BodyStream, SizedStream};
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use lease::LeaseToken;
use serde::Deserialize;
use storage::{Asked, Origin, RelayHead, Relaying};

use super::Internal;
use super::proof::Proved;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    unit: String,
    token: LeaseToken,
    from: u64,
}

pub(super) async fn get(
    request: HttpRequest,
    internal: Data<Internal>,
    question: Query<Question>,
) -> HttpResponse {
    let Question { unit, token, from } = question.into_inner();
    let asked = Asked::Fill {
        unit: &unit,
        token: &token,
        from,
    };
    let proved = match Proved::check(&request, &internal.secret, asked) {
        Ok(proved) => proved,
        Err(status) => return HttpResponse::new(status),
    };
    let nothing = RelayHead::default();
    let warmer = &internal.warmer;
    match warmer.relay(&unit, &token, &*internal.grants).await {
        Ok(Relaying::Arriving { body, origin }) => {
            let len = body.announced_len();
            match head(&proved, from, len, origin.as_ref()) {
                None => HttpResponse::RangeNotSatisfiable().finish(),
                Some((mut response, None)) => {
                    response.body(BodyStream::new(body.stream(from..u64::MAX)))
                }
                Some((mut response, Some(rest))) => {
                    response.body(SizedStream::new(rest, body.stream(from..u64::MAX)))
                }
            }
        }
        Ok(Relaying::Whole { body, origin }) => {
            let len = body.len();
            match head(&proved, from, Some(len), origin.as_ref()) {
                None => HttpResponse::RangeNotSatisfiable().finish(),
                Some((mut response, _)) => {
                    response.body(SizedStream::new(len - from, body.stream(from..len)))
                }
            }
        }
        Ok(Relaying::Nothing) => proved.answer(StatusCode::NO_CONTENT, nothing).finish(),
        Ok(Relaying::Unknown) => proved.answer(StatusCode::NOT_FOUND, nothing).finish(),
        Err(error) => {
            tracing::debug!(unit, %error, "a relay was refused");
            proved
                .answer(StatusCode::SERVICE_UNAVAILABLE, nothing)
                .finish()
        }
    }
}

/// Begins the answer, and says how many bytes follow (`None`: nobody knows); `None` when there
/// are no bytes at `from`.
fn head(
    proved: &Proved<'_>,
    from: u64,
    len: Option<u64>,
    origin: Option<&Origin>,
) -> Option<(HttpResponseBuilder, Option<u64>)> {
    let rest = match len {
        Some(len) => Some(len.checked_sub(from)?),
        None => None,
    };
    let digits = len.map(|len| len.to_string());
    // An upstream may send what is no header value of ours; then it stays here.
    let is_sendable = |text: &&str| HeaderValue::from_str(text).is_ok_and(|v| v.to_str().is_ok());
    let upstream = origin.map(|origin| &*origin.upstream).filter(is_sendable);
    let etag = origin
        .and_then(|origin| origin.etag.as_deref())
        .filter(is_sendable);
    let head = RelayHead {
        len: digits.as_deref(),
        upstream,
        etag,
        body: None,
    };
    let mut response = proved.answer(StatusCode::OK, head);
    for (name, value) in [
        ("corral-len", head.len),
        ("corral-upstream", head.upstream),
        ("corral-etag", head.etag),
    ] {
        if let Some(value) = value {
            response.insert_header((name, value));
        }
    }
    response.content_type("application/octet-stream");
    Some((response, rest))
}
