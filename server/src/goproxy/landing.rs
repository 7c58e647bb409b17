//! The page at `/`: what to type to use this proxy.

use actix_http::body::BoxBody;
use actix_http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_http::{Response, StatusCode};

/// The landing page for a client that reached us as `host`.
pub(super) fn page(host: &str, html: bool) -> Response<BoxBody> {
    // The host comes from the client: nothing of it may become markup or a shell's input.
    let is_plain = host
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b".:-[]".contains(&b));
    let host = if is_plain && !host.is_empty() {
        host
    } else {
        "127.0.0.1:8070"
    };
    let (content_type, text) = if html {
        let page = include_str!("landing.html").replace("{host}", host);
        ("text/html; charset=utf-8", page)
    } else {
        let lines = format!(
            "corral, a Go module proxy.\n\n\
             Use it:\n\n    export GOPROXY=http://{host}\n    go mod download\n\n\
             For good:\n\n    go env -w GOPROXY=http://{host}\n"
        );
        ("text/plain; charset=utf-8", lines)
    };
    let mut response = Response::build(StatusCode::OK);
    response.insert_header((CONTENT_TYPE, content_type));
    response.insert_header((CACHE_CONTROL, "public, max-age=60"));
    response.insert_header(("X-Content-Type-Options", "nosniff"));
    response.insert_header((
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'",
    ));
    response.body(text).map_into_boxed_body()
}
