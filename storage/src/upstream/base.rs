//! The base address of an upstream, with its credentials kept apart from its name.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::error::Error;

/// The base address of one upstream: `http`, `https` or `file`.
///
/// `Debug` and [`UpstreamUrl::name`] show neither credentials nor a query.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Without user information and fragment; its path does not end in a slash.
    url: Url,
    credentials: Option<Credentials>,
    name: Arc<str>,
}

/// User and password of the address, percent-decoded.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl UpstreamUrl {
    /// Parses an address as the go command does: without a scheme it is `https`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: not a URL, another scheme, no host, or a `file` URL with more than a
    /// path. The text never holds the credentials.
    ///
    /// Source: the go command, `modfetch/proxy.go` (`proxyList`, `newProxyRepo`).
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let refused = |reason: &str| {
            Error::Config(format!(
                "upstream {:?} cannot be used: {reason}",
                without_secrets(text)
            ))
        };
        let is_word = !text.contains(['.', ':', '/']);
        if is_word {
            return Err(refused("it is neither an address nor one of direct, off"));
        }
        let full = if text.contains(":/") || text.starts_with('/') {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let mut url = match Url::parse(&full) {
            Ok(url) => url,
            Err(url::ParseError::RelativeUrlWithoutBase) => {
                return Err(refused(
                    "it has no scheme; a directory is written file:///path",
                ));
            }
            Err(source) => return Err(refused(&source.to_string())),
        };
        match url.scheme() {
            "http" | "https" => {}
            "file" => {
                let has_more = url.host().is_some()
                    || url.query().is_some()
                    || url.fragment().is_some()
                    || !url.username().is_empty();
                if has_more {
                    return Err(refused("a file URL has a path and nothing else"));
                }
            }
            _ => return Err(refused("its scheme must be https, http or file")),
        }
        let credentials = Credentials::of(&url);
        url.set_fragment(None);
        if credentials.is_some() {
            url.set_username("")
                .map_err(|()| refused("it has a user but no host"))?;
            url.set_password(None)
                .map_err(|()| refused("it has a password but no host"))?;
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        let mut shown = url.clone();
        shown.set_query(None);
        let name = Arc::from(shown.as_str().trim_end_matches('/'));
        Ok(Self {
            url,
            credentials,
            name,
        })
    }

    /// Scheme, host and path, as shown to clients, logs and metrics.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Tells whether this is a directory of this machine.
    pub fn is_file(&self) -> bool {
        self.url.scheme() == "file"
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Tells whether the host is this machine by its very name.
    pub(super) fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => is_localhost(name),
            None => false,
        }
    }

    /// Tells whether a request to this address would reach a listener at `own`.
    ///
    /// Names other than `localhost` are not resolved; the `Via` field catches what this misses.
    pub(super) fn reaches(&self, own: SocketAddr) -> bool {
        if self.url.port_or_known_default() != Some(own.port()) {
            return false;
        }
        let ip = match self.url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip).to_canonical(),
            Some(Host::Domain(name)) if is_localhost(name) => {
                return own.ip().is_loopback() || own.ip().is_unspecified();
            }
            _ => return false,
        };
        let own = own.ip().to_canonical();
        let is_here = ip.is_loopback() || ip.is_unspecified();
        ip == own
            || (own.is_unspecified() && is_here)
            // Connecting to the unspecified address reaches the loopback one.
            || (own.is_loopback() && ip.is_unspecified())
    }

    /// The address of `path` below the base; `None` when no proxy can have such a path.
    pub(super) fn join(&self, path: &str) -> Option<Url> {
        if !is_clean(path) {
            return None;
        }
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{path}", self.url.path().trim_end_matches('/')));
        Some(url)
    }
}

/// Tells whether every segment is a plain name once decoded, so that no URL library, proxy or
/// file system on the way can take it for another path.
pub(super) fn is_clean(path: &str) -> bool {
    path.split('/').all(|segment| {
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        !matches!(decoded.as_slice(), b"" | b"." | b"..")
            && !decoded
                .iter()
                .any(|byte| matches!(byte, b'/' | b'\\') || byte.is_ascii_control())
    })
}

impl Credentials {
    fn of(url: &Url) -> Option<Self> {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        if url.username().is_empty() && url.password().is_none() {
            return None;
        }
        Some(Self {
            user: decode(url.username()),
            password: decode(url.password().unwrap_or_default()),
        })
    }
}

impl fmt::Debug for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamUrl")
            .field("name", &self.name)
            .field("credentials", &self.credentials.is_some())
            .finish()
    }
}

fn is_localhost(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case("localhost.")
}

/// What may be shown of an address that could not be parsed.
fn without_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match text.rsplit_once('@') {
        Some((before, after)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…@{after}"),
            None => format!("…@{after}"),
        },
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_hold_no_secrets() {
        for (text, name) in [
            ("https://proxy.test", "https://proxy.test"),
            ("https://proxy.test/", "https://proxy.test"),
            ("proxy.test/sub/", "https://proxy.test/sub"),
            ("proxy.test:8443", "https://proxy.test:8443"),
            (
                "http://user:p%40ss@proxy.test:81/a/b?token=x#y",
                "http://proxy.test:81/a/b",
            ),
            ("https://token@proxy.test", "https://proxy.test"),
            ("file:///var/cache/download/", "file:///var/cache/download"),
            (" https://proxy.test ", "https://proxy.test"),
        ] {
            let parsed = UpstreamUrl::parse(text).unwrap();
            assert_eq!(parsed.name().as_ref(), name, "{text}");
            let debug = format!("{parsed:?}");
            assert!(
                !debug.contains("ss@") && !debug.contains("token"),
                "{debug}"
            );
        }
        let parsed = UpstreamUrl::parse("http://us%65r:p%40ss@proxy.test").unwrap();
        let credentials = parsed.credentials().unwrap();
        assert_eq!(
            (credentials.user.as_str(), credentials.password.as_str()),
            ("user", "p@ss")
        );
    }

    #[test]
    fn unusable_addresses_are_explained_without_secrets() {
        for text in [
            "noproxy",
            "/var/cache",
            "ftp://user:secret@proxy.test",
            "https://user:secret@",
            "https://user:secret@host:99999?key=secret",
            "file://host/path",
            "file:///path?x=secret",
        ] {
            let error = UpstreamUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains("cannot be used"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    // protocol: P08
    #[test]
    fn paths_that_climb_are_refused() {
        let base = UpstreamUrl::parse("http://proxy.test/sub?q=1").unwrap();
        let joined = base
            .join("example.com/%21m/@v/v1.0.0+incompatible.zip")
            .unwrap();
        assert_eq!(
            joined.as_str(),
            "http://proxy.test/sub/example.com/%21m/@v/v1.0.0+incompatible.zip?q=1"
        );
        for path in [
            "",
            "a//b",
            "../a",
            "a/..",
            "a/%2e%2E/b",
            "a/%2fb",
            "a%5cb",
            "a/%00",
            "/a",
        ] {
            assert!(base.join(path).is_none(), "{path}");
        }
    }

    #[test]
    fn own_addresses_are_known() {
        let own = |text: &str| text.parse::<SocketAddr>().unwrap();
        let reaches = |text: &str, addr: &str| UpstreamUrl::parse(text).unwrap().reaches(own(addr));
        assert!(reaches("http://127.0.0.1:8070", "127.0.0.1:8070"));
        assert!(reaches("http://localhost:8070/x", "127.0.0.1:8070"));
        assert!(reaches("http://localhost", "0.0.0.0:80"));
        assert!(reaches("http://[::1]:8070", "[::]:8070"));
        assert!(reaches("http://0.0.0.0:8070", "127.0.0.1:8070"));
        assert!(reaches("https://10.0.0.1", "10.0.0.1:443"));
        assert!(!reaches("http://127.0.0.1:8071", "127.0.0.1:8070"));
        assert!(!reaches("http://10.0.0.1:8070", "127.0.0.1:8070"));
        assert!(!reaches("http://proxy.test:8070", "0.0.0.0:8070"));
    }
}
