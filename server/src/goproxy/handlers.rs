//! The one handler of the proxy listener: parse, ask the warmer, answer.

use std::rc::Rc;

use actix_http::body::BoxBody;
use actix_http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, VIA};
use actix_http::{HttpMessage, Method, Request, Response, ResponseBuilder, StatusCode};
use storage::{ArtifactKey, Artifacts, Error, GetOptions, Stored};

use super::named::{self, Named};
use super::span::RequestSpan;
use super::{landing, response};
use crate::error::error_response;
use crate::fleet::FleetName;
use crate::metrics::cache_label;
use crate::state::AppState;

/// Answers any request to the proxy listener.
pub async fn proxy(request: Request, state: &AppState) -> Response<BoxBody> {
    let response = answer(&request, state).await;
    state.metrics.count_response(response.status().as_u16());
    response
}

async fn answer(request: &Request, state: &AppState) -> Response<BoxBody> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        state.metrics.count_request("other", "error");
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
        response.insert_header((ALLOW, "GET, HEAD"));
        return response
            .body("method not allowed: a module proxy answers GET and HEAD\n")
            .map_into_boxed_body();
    }
    if is_own_loop(request.headers(), &state.fleet_name) {
        state.metrics.count_request("other", "error");
        return plain(StatusCode::LOOP_DETECTED)
            .body("loop detected: corral is its own upstream; mend `upstream`\n")
            .map_into_boxed_body();
    }
    match named::parse(request.uri().path()) {
        Ok(Some(named)) => artifact(request, state, &named).await,
        Ok(None) => {
            let wants_html = request
                .headers()
                .get(ACCEPT)
                .and_then(|value| value.to_str().ok())
                .is_some_and(|value| value.contains("text/html"));
            let host = request.headers().get(HOST);
            let host = host
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            landing::page(host, wants_html)
        }
        Err(error) => {
            state.metrics.count_request("other", "error");
            error_response(&error)
        }
    }
}

fn plain(status: StatusCode) -> ResponseBuilder {
    let mut response = Response::build(status);
    response.insert_header((CONTENT_TYPE, "text/plain; charset=utf-8"));
    response.insert_header((CACHE_CONTROL, "no-store"));
    response
}

async fn artifact(request: &Request, state: &AppState, named: &Named) -> Response<BoxBody> {
    let key = &named.key;
    let kind = key.kind_label();
    if let Some(error) = refusal(state, key) {
        state.metrics.count_request(kind, "error");
        return error_response(&error);
    }
    let span = RequestSpan::begin(state.traces, key);
    if let Some(stored) = state.warmer.hot(key) {
        // The warm hit: no future, no allocation but the response's own.
        state.metrics.count_request(kind, "hit");
        let response = response::hot(request, named, stored);
        span.end("hit", None, None);
        return response;
    }
    let options = options_of(request.headers());
    let answered = match state.warmer.get(key, options).await {
        Ok(answer) => {
            let cache = answer.cache;
            response::answer(request, named, answer)
                .await
                .map(|response| (response, cache))
        }
        Err(error) => Err(error),
    };
    match answered {
        Ok((response, cache)) => {
            let label = cache_label(&cache);
            state.metrics.count_request(kind, label);
            span.end(label, cache.ttl, cache.stale_for);
            response
        }
        Err(error) => {
            state.metrics.count_request(kind, "error");
            span.end("error", None, None);
            error_response(&error)
        }
    }
}

/// A file in memory, and what is said of it.
pub(super) struct Hit {
    pub(super) named: Rc<Named>,
    pub(super) stored: Stored,
}

/// What [`proxy`] would answer a plain `GET` of `raw_path` with, if that was parsed before and is
/// a file in memory; counted as if it had. `None` is no answer: ask it.
pub(super) fn hit(raw_path: &str, state: &AppState) -> Option<Hit> {
    let named = named::remembered(raw_path)?;
    let key = &named.key;
    if refusal(state, key).is_some() {
        return None;
    }
    let stored = state.warmer.hot(key)?;
    let span = RequestSpan::begin(state.traces, key);
    state.metrics.count_request(key.kind_label(), "hit");
    state.metrics.count_response(StatusCode::OK.as_u16());
    span.end("hit", None, None);
    Some(Hit { named, stored })
}

/// Why an artifact is not ours to serve, if it is not.
fn refusal(state: &AppState, key: &ArtifactKey) -> Option<Error> {
    let ArtifactKey::Sumdb(sumdb) = key else {
        return None;
    };
    (!state.sumdb.relays(sumdb.name.as_str())).then(|| Error::NotFound {
        gone: false,
        text: format!("checksum database {} is not relayed here\n", sumdb.name),
    })
}

/// What the request's directives allow.
fn options_of(headers: &HeaderMap) -> GetOptions {
    let mut options = GetOptions::default();
    let directives = headers
        .get_all(CACHE_CONTROL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    for directive in directives {
        options.only_if_cached |= directive.eq_ignore_ascii_case("only-if-cached");
        options.revalidate |= directive.eq_ignore_ascii_case("no-cache");
    }
    options.fetch_disabled = headers
        .get("Disable-Module-Fetch")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
    options
}

/// Tells whether a request has come through this fleet before.
fn is_own_loop(headers: &HeaderMap, fleet_name: &FleetName) -> bool {
    headers
        .get_all(VIA)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ' ']))
        .any(|token| fleet_name.is_ours(token.trim()))
}
