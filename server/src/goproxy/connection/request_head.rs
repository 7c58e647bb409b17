//! What the request at the front of a connection's input is, as far as its connection must know.
//!
//! Source: RFC 9112 sections 2 to 4 and 6 (a request has a body when one of two fields says so).

use std::mem::MaybeUninit;

use httparse::{Header, Request, Status};

/// Fields that are looked at; a head with more is the library's.
const FIELDS_MAX: usize = 32;

/// Fields that never change what a hit is answered with, whatever they say; so are all whose name
/// begins with `x-`, which load balancers add. `authorization` is none: answers may come to depend
/// on it.
const INERT: [&str; 8] = [
    "user-agent",
    "accept",
    "accept-encoding",
    "accept-language",
    "forwarded",
    "traceparent",
    "tracestate",
    "referer",
];

/// Fields that say where a request or its connection ends.
const FRAMING: [&str; 6] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "expect",
    "http2-settings",
];

/// The request at the front of some input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestHead<'i> {
    /// `GET` of a path, as it is on the wire, and nothing that makes a hit's answer another.
    Plain {
        /// Bytes of the head.
        len: usize,
        path: &'i str,
    },
    /// Another request that has no body and leaves its connection open.
    WithoutBody {
        /// Bytes of the head.
        len: usize,
    },
    /// Anything else, an incomplete head too.
    Other,
}

/// Looks at the front of `input`.
pub(super) fn read(input: &[u8]) -> RequestHead<'_> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
    let mut request = Request::new(&mut []);
    let Ok(Status::Complete(len)) = request.parse_with_uninit_headers(input, &mut fields) else {
        return RequestHead::Other;
    };
    let (Some(method @ ("GET" | "HEAD")), Some(target), Some(1)) =
        (request.method, request.path, request.version)
    else {
        return RequestHead::Other;
    };
    let mut is_plain = method == "GET" && target.starts_with('/') && !target.contains(['?', '#']);
    let mut hosts = 0;
    for field in &*request.headers {
        let is = |name: &&str| field.name.eq_ignore_ascii_case(name);
        if is(&"host") {
            hosts += 1;
        } else if FRAMING.iter().any(is) {
            let is_usual = field.name.eq_ignore_ascii_case("connection")
                && field.value.eq_ignore_ascii_case(b"keep-alive");
            if !is_usual {
                return RequestHead::Other;
            }
        } else {
            is_plain &= INERT.iter().any(is) || is_extension(field.name);
        }
    }
    // RFC 9112 section 3.2 wants one, and the library refuses any other number.
    if is_plain && hosts == 1 {
        RequestHead::Plain { len, path: target }
    } else {
        RequestHead::WithoutBody { len }
    }
}

fn is_extension(name: &str) -> bool {
    name.get(..2)
        .is_some_and(|begin| begin.eq_ignore_ascii_case("x-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: &str = "GET /rsc.io/quote/@v/v1.5.2.mod HTTP/1.1\r\nHost: 127.0.0.1:8070\r\n\
                      User-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n";

    fn with(field: &str) -> String {
        GO.replacen("\r\n", &format!("\r\n{field}\r\n"), 1)
    }

    #[test]
    fn what_the_go_command_asks_is_plain() {
        for request in [
            GO.to_owned(),
            with("X-Forwarded-For: 10.1.2.3"),
            with("x-request-id: 7"),
            with("connection: Keep-Alive"),
            with("ACCEPT: */*"),
            GO.replace("GET /", "\r\nGET /"),
        ] {
            let len = request.len();
            let path = "/rsc.io/quote/@v/v1.5.2.mod";
            let head = RequestHead::Plain { len, path };
            assert_eq!(read(request.as_bytes()), head);
            assert_eq!(read(format!("{request}GET ").as_bytes()), head);
        }
    }

    #[test]
    fn what_may_be_answered_otherwise_is_not_plain() {
        for request in [
            with("Range: bytes=0-1"),
            with("if-none-match: *"),
            with("If-Range: \"x\""),
            with("Via: 1.1 corral/f"),
            with("Cache-Control: no-cache"),
            with("Disable-Module-Fetch: true"),
            with("Some-Field: x"),
            with("Authorization: Basic eDp5"),
            with("Host: another"),
            GO.replace("Host: 127.0.0.1:8070\r\n", ""),
            GO.replace("GET", "HEAD"),
            GO.replace(".mod", ".mod?go-get=1"),
            GO.replace("GET /", "GET http://h/"),
        ] {
            let len = request.len();
            assert_eq!(
                read(request.as_bytes()),
                RequestHead::WithoutBody { len },
                "{request}"
            );
        }
    }

    #[test]
    fn what_has_a_body_or_ends_the_connection_is_the_librarys() {
        let many = (0..FIELDS_MAX).map(|n| format!("x-{n}: 1\r\n"));
        let many: String = many.collect();
        for request in [
            with("Content-Length: 0"),
            with("content-length: 3"),
            with("Transfer-Encoding: chunked"),
            with("Connection: close"),
            with("Connection: keep-alive, Upgrade"),
            with("Upgrade: h2c"),
            with("Expect: 100-continue"),
            with(many.trim_end()),
            GO.replace("HTTP/1.1", "HTTP/1.0"),
            GO.replace("GET", "POST"),
            GO.replace("GET /", "GET  /"),
            GO.replace("Host:", "Ho st:"),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            String::new(),
        ] {
            assert_eq!(read(request.as_bytes()), RequestHead::Other, "{request}");
        }
        for len in 0..GO.len() {
            assert_eq!(read(&GO.as_bytes()[..len]), RequestHead::Other, "{len}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_told(input in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = read(&input);
        }
    }
}
