//! Who may use the admin listener: requests that name it, with the token where one is set; and
//! whether a request that changes something was meant.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpResponse};

/// The header that every request which changes something carries, with any value.
///
/// A web page can make a browser send a form to a loopback address, with the operator's network
/// behind it, but no header of our own: for that the browser asks us first (CORS), and gets no.
pub const ACTION_HEADER: &str = "Corral-Action";

/// What the admin listener asks of a request.
#[derive(Debug, Clone, Default)]
pub struct AdminAccess {
    /// Whether only this machine can reach the listener; elsewhere a token is a must.
    pub is_loopback: bool,
    /// The bearer token, where one is set.
    pub token: Option<String>,
    /// Names by which the listener may be called beside IP addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// Lets a request through, or answers 401 or 403 with the next step.
///
/// The `Host` check keeps a web page that the operator visits from reaching a loopback listener
/// under a name of its own (DNS rebinding).
pub async fn require<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let access = request.app_data::<Data<AdminAccess>>().cloned();
    let refusal = access.and_then(|access| refuse(&access, &request));
    match refusal {
        Some(response) => Ok(request.into_response(response).map_into_right_body()),
        None => next
            .call(request)
            .await
            .map(ServiceResponse::map_into_left_body),
    }
}

fn refuse(access: &AdminAccess, request: &ServiceRequest) -> Option<HttpResponse> {
    let plain = "text/plain; charset=utf-8";
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    if !is_our_name(header(HOST).unwrap_or_default(), &access.hosts) {
        return Some(HttpResponse::Forbidden().content_type(plain).body(
            "forbidden: call the admin listener by its IP address, by localhost, or by a name in \
             admin.hosts\n",
        ));
    }
    let Some(expected) = access.token.as_deref() else {
        return (!access.is_loopback).then(|| {
            HttpResponse::Forbidden().content_type(plain).body(
                "forbidden: this listener can be reached from other machines, so it needs a \
                 token: set admin.token_file; /healthz and /readyz need none\n",
            )
        });
    };
    let given = header(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    if given.is_some_and(|given| is_equal(given.trim().as_bytes(), expected.as_bytes())) {
        return None;
    }
    Some(
        HttpResponse::Unauthorized()
            .insert_header((WWW_AUTHENTICATE, "Bearer"))
            .content_type(plain)
            .body("unauthorized: send `Authorization: Bearer <token>` (admin.token_file)\n"),
    )
}

/// Lets a request through if it only reads, or says by [`ACTION_HEADER`] that it is meant.
pub async fn require_intent<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads || request.headers().contains_key(ACTION_HEADER) {
        return next
            .call(request)
            .await
            .map(ServiceResponse::map_into_left_body);
    }
    let refusal = HttpResponse::Forbidden()
        .content_type("text/plain; charset=utf-8")
        .body(format!(
            "forbidden: a request that changes something carries the header `{ACTION_HEADER}: 1`\n"
        ));
    Ok(request.into_response(refusal).map_into_right_body())
}

fn is_our_name(host: &str, hosts: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Compares in a time that does not depend on where the two differ.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_served() {
        let hosts = vec!["corral.example".to_owned()];
        for (host, expected) in [
            ("127.0.0.1:8071", true),
            ("[::1]:8071", true),
            ("localhost", true),
            ("corral.example:8071", true),
            ("evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_our_name(host, &hosts), expected, "{host}");
        }
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(is_equal(b"secret", b"secret"));
        assert!(!is_equal(b"secret", b"secre"));
        assert!(!is_equal(b"secret", b"secreT"));
    }
}
