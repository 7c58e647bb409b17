//! The only table from an error's kind to what a client sees.

use std::time::Duration;

use actix_http::body::BoxBody;
use actix_http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use actix_http::{Response, StatusCode};
use storage::{Error, ErrorKind};

/// When to come back, where nobody has said otherwise.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// The status for an error of `kind`.
///
/// 404 and 410 say "does not exist" and nothing else, because with a comma list the go command
/// goes on to the next proxy on those two. A malformed name does not exist either, and
/// `Disable-Module-Fetch` asks whether something is here. Source: Go modules reference,
/// "GOPROXY protocol".
pub fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidName | ErrorKind::NotFound | ErrorKind::FetchDisabled => {
            StatusCode::NOT_FOUND
        }
        ErrorKind::Gone => StatusCode::GONE,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Refused
        | ErrorKind::Unreachable
        | ErrorKind::Transient
        | ErrorKind::Corrupt
        | ErrorKind::TooLarge => StatusCode::BAD_GATEWAY,
        ErrorKind::TimedOut | ErrorKind::WaitedTooLong | ErrorKind::NotStored => {
            StatusCode::GATEWAY_TIMEOUT
        }
        ErrorKind::Throttled
        | ErrorKind::Storage
        | ErrorKind::Overloaded
        | ErrorKind::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer to a request that failed: one line of plain text, which the go command prints.
///
/// Upstream's own text for 403, 404 and 410 is passed on unchanged.
pub fn error_response(error: &Error) -> Response<BoxBody> {
    let kind = error.kind();
    let status = status_of(kind);
    let mut response = Response::build(status);
    response.insert_header((CONTENT_TYPE, "text/plain; charset=utf-8"));
    if status.is_server_error() {
        let wait = error.retry_after().unwrap_or(RETRY_AFTER_DEFAULT);
        // Rounded up: too early is worse than a second late.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.insert_header((RETRY_AFTER, seconds.max(1).to_string()));
        response.insert_header((CACHE_CONTROL, "no-store"));
    } else {
        response.insert_header((CACHE_CONTROL, "public, max-age=60"));
    }
    response.insert_header(("Cache-Status", cache_status(error)));
    response.insert_header(("X-Content-Type-Options", "nosniff"));
    let text = error.to_string();
    let is_upstreams_own = matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::Forbidden
    );
    let text = match is_upstreams_own {
        true => text,
        false => format!("{text}\n"),
    };
    response.body(text).map_into_boxed_body()
}

fn cache_status(error: &Error) -> String {
    let detail = match error.kind() {
        ErrorKind::InvalidName => return "corral; detail=malformed".to_owned(),
        ErrorKind::FetchDisabled => return "corral; detail=fetch-disabled".to_owned(),
        ErrorKind::NotStored => return "corral; detail=only-if-cached".to_owned(),
        ErrorKind::Overloaded => return "corral; detail=overloaded".to_owned(),
        ErrorKind::NotFound | ErrorKind::Gone => "negative",
        _ => "failed",
    };
    match error {
        Error::Remembered(_) => format!("corral; hit; detail={detail}"),
        _ => format!("corral; fwd=miss; detail={detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // protocol: E04
    // protocol: E06
    // protocol: E07
    #[test]
    fn only_what_does_not_exist_is_404_or_410() {
        let kinds = [
            (ErrorKind::Forbidden, 403),
            (ErrorKind::Refused, 502),
            (ErrorKind::Unreachable, 502),
            (ErrorKind::Transient, 502),
            (ErrorKind::TimedOut, 504),
            (ErrorKind::Throttled, 503),
            (ErrorKind::Corrupt, 502),
            (ErrorKind::TooLarge, 502),
            (ErrorKind::Storage, 503),
            (ErrorKind::Overloaded, 503),
            (ErrorKind::WaitedTooLong, 504),
            (ErrorKind::NotStored, 504),
            (ErrorKind::Interrupted, 503),
            (ErrorKind::Internal, 500),
            (ErrorKind::NotFound, 404),
            (ErrorKind::Gone, 410),
            (ErrorKind::InvalidName, 404),
        ];
        for (kind, status) in kinds {
            assert_eq!(status_of(kind).as_u16(), status, "{kind:?}");
        }
    }

    #[test]
    fn upstream_is_given_the_time_it_asked_for() {
        let response = error_response(&Error::Throttled {
            upstream: "u".to_owned(),
            status: 429,
            retry_after: Some(Duration::from_millis(1_500)),
        });
        assert_eq!(
            response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|v| v.to_str().ok()),
            Some("2")
        );
    }
}
