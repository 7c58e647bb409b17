//! The texts behind `upstream`, `storage` and the other keys that hold URLs.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use lease::{LeaseError, ValkeyUrl};
use tracing_subscriber::EnvFilter;
use url::{Host, Url};

/// Checks a GOPROXY list and returns it without blanks and with every URL's scheme.
pub(super) fn check_list(text: &str) -> Result<String, String> {
    let mut normal = String::new();
    let mut separator = None;
    for (entry, next) in entries(text) {
        if let Some(separator) = separator {
            normal.push(separator);
        }
        normal.push_str(&check_entry(entry)?);
        separator = next;
    }
    if normal.is_empty() {
        Err(must_be_list())
    } else {
        Ok(normal)
    }
}

fn must_be_list() -> String {
    "must be a list such as \"https://proxy.example,direct\": URLs, \"direct\" or \"off\", \
     separated by \",\" or \"|\""
        .to_owned()
}

fn check_entry(entry: &str) -> Result<String, String> {
    if matches!(entry, "direct" | "off") {
        return Ok(entry.to_owned());
    }
    // As the go command does: what looks like a host, and has no scheme, means https.
    let named = entry.contains(['.', ':', '/']) && !entry.starts_with('/');
    let text = match named && !entry.contains(":/") {
        true => format!("https://{entry}"),
        false => entry.to_owned(),
    };
    let url = Url::parse(&text).map_err(|_| must_be_list())?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(text),
        "file" => Ok(text),
        _ => Err(must_be_list()),
    }
}

/// Splits a GOPROXY list into its entries, each with the separator behind it.
fn entries(text: &str) -> impl Iterator<Item = (&str, Option<char>)> {
    text.split_inclusive([',', '|']).filter_map(|part| {
        let separator = part.chars().next_back().filter(|c| matches!(c, ',' | '|'));
        let entry = part.trim_end_matches([',', '|']).trim();
        (!entry.is_empty()).then_some((entry, separator))
    })
}

/// Takes the entries that lead to `listen` itself out of a checked list.
pub(super) fn without_own_address(list: &str, listen: SocketAddr) -> String {
    let mut kept = String::new();
    let mut separator = None;
    for (entry, next) in entries(list) {
        if leads_to(entry, listen) {
            continue;
        }
        if let Some(separator) = separator {
            kept.push(separator);
        }
        kept.push_str(entry);
        separator = next;
    }
    kept
}

fn leads_to(entry: &str, listen: SocketAddr) -> bool {
    let Ok(url) = Url::parse(entry) else {
        return false;
    };
    if url.scheme() == "file" || url.port_or_known_default() != Some(listen.port()) {
        return false;
    }
    let here = |address: IpAddr| {
        address == listen.ip()
            || (address.is_loopback() || address.is_unspecified()) && is_here(listen.ip())
    };
    match url.host() {
        Some(Host::Domain(name)) => {
            (name == "localhost" || name.ends_with(".localhost")) && is_here(listen.ip())
        }
        Some(Host::Ipv4(address)) => here(address.into()),
        Some(Host::Ipv6(address)) => here(address.into()),
        None => false,
    }
}

/// Whether a listener on `address` takes what is sent to the loopback addresses.
fn is_here(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || address == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// Whether anything can be fetched from a checked list: something stands before `off`.
pub(super) fn is_usable(list: &str) -> bool {
    entries(list)
        .next()
        .is_some_and(|(entry, _)| entry != "off")
}

/// Checks a storage URL; an absolute path stands for its `file://` URL.
pub(super) fn check_storage(text: &str) -> Result<String, String> {
    const MUST: &str = "must be an absolute path, or a URL that begins with file:///, s3://, \
                        gs://, az:// or memory://";
    if Path::new(text).is_absolute() {
        return Url::from_file_path(text)
            .map(String::from)
            .map_err(|()| MUST.to_owned());
    }
    let url = Url::parse(text).map_err(|_| MUST.to_owned())?;
    let fits = match url.scheme() {
        "file" => url.to_file_path().is_ok() && url.path() != "/",
        "s3" | "gs" | "az" => url.host_str().is_some_and(|bucket| !bucket.is_empty()),
        "memory" => true,
        _ => false,
    };
    if fits {
        Ok(text.to_owned())
    } else {
        Err(MUST.to_owned())
    }
}

/// Checks the URL of a Valkey server, of Sentinels or of a Cluster.
pub(super) fn check_valkey(text: &str) -> Result<String, String> {
    match text.parse::<ValkeyUrl>() {
        Ok(_) => Ok(text.to_owned()),
        Err(LeaseError::InvalidConfig { reason, .. }) => Err(format!(
            "must be URLs such as \"valkey://cache.example:6379\" or, with TLS, \
             \"valkeys://cache.example:6379\": {reason}"
        )),
        Err(other) => Err(format!("must be URLs: {other}")),
    }
}

/// Checks a host's name, as a `Host` header has it without the port.
pub(super) fn check_host(text: &str) -> Result<String, String> {
    match Host::parse(text) {
        Ok(Host::Domain(name)) if name.eq_ignore_ascii_case(text) => Ok(name),
        _ => Err("must be names of hosts without a port, such as \"corral.example\"".to_owned()),
    }
}

/// Checks the base URL of a collector.
pub(super) fn check_http(text: &str) -> Result<String, String> {
    let url = Url::parse(text).ok();
    match url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        Some(_) => Ok(text.to_owned()),
        None => Err("must be a URL that begins with http:// or https://".to_owned()),
    }
}

/// Checks a checksum database as `GOSUMDB` names it.
pub(super) fn check_sumdb(text: &str) -> Result<String, String> {
    match text {
        "off" => Ok(text.to_owned()),
        _ => check_database(text).map_err(|must| format!("{must}; or \"off\"")),
    }
}

/// Checks a name or key of a checksum database with, optionally, its URL behind a blank.
pub(super) fn check_database(text: &str) -> Result<String, String> {
    let must = || {
        "must be a name or key, then optionally a blank and a URL, such as \"sum.golang.org\" or \
         \"sum.example https://proxy.example/sumdb/sum.example\""
            .to_owned()
    };
    let mut words = text.split_whitespace();
    let key = words.next().ok_or_else(must)?;
    let url = words.next();
    let name = key.split('+').next().unwrap_or_default();
    let key_fits = !name.is_empty() && !name.contains("://") && key.split('+').count() != 2;
    let url_fits = url.is_none_or(|url| check_http(url).is_ok());
    if words.next().is_some() || !key_fits || !url_fits {
        return Err(must());
    }
    Ok(std::iter::once(key)
        .chain(url)
        .collect::<Vec<_>>()
        .join(" "))
}

/// Checks `host:port`, as other instances are told it.
pub(super) fn check_advertise(text: &str) -> Result<String, String> {
    let url = Url::parse(&format!("http://{text}/")).ok();
    let fits = url.is_some_and(|url| {
        url.has_host() && url.path() == "/" && url.username().is_empty() && url.query().is_none()
    });
    let port = text
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(port) if fits && port > 0 => Ok(text.to_owned()),
        _ => Err(
            "must be a host and a port that other instances reach, such as \
                  \"10.0.0.7:8072\""
                .to_owned(),
        ),
    }
}

/// Checks a name that stands in the `Via` header.
pub(super) fn check_fleet_id(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'));
    match fits {
        true => Ok(text.to_owned()),
        false => Err("must be 1 to 64 letters, digits, \".\", \"-\" or \"_\"".to_owned()),
    }
}

/// Checks log directives: a bare word must be a level, or a slip would name a target instead.
pub(super) fn check_log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.contains(&word.trim().to_ascii_lowercase().as_str());
    let fits = text.contains('[')
        || text
            .split(',')
            .all(|directive| is_level(directive.rsplit('=').next().unwrap_or("")));
    match EnvFilter::builder().parse(text) {
        Ok(_) if fits && !text.is_empty() => Ok(text.to_owned()),
        _ => Err(format!(
            "must be one of {}, or directives such as \"info,storage=debug\"",
            LEVELS.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_are_read_as_the_go_command_does() {
        let cases = [
            (
                "https://proxy.example,direct",
                Some("https://proxy.example,direct"),
            ),
            (" https://a.example | http://b.example:1/x ,, off", {
                Some("https://a.example|http://b.example:1/x,off")
            }),
            ("proxy.example", Some("https://proxy.example")),
            ("proxy.example/go", Some("https://proxy.example/go")),
            ("file:///srv/go", Some("file:///srv/go")),
            ("direct", Some("direct")),
            ("ftp://proxy.example", None),
            ("http://", None),
            ("dirct", None),
            ("", None),
            (" , ", None),
        ];
        for (text, expected) in cases {
            assert_eq!(check_list(text).ok().as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn own_address_is_skipped() {
        let listen = "127.0.0.1:8070";
        let cases = [
            (
                listen,
                "http://127.0.0.1:8070,https://a.example,direct",
                "https://a.example,direct",
            ),
            (
                listen,
                "https://a.example|http://localhost:8070,direct",
                "https://a.example|direct",
            ),
            (
                listen,
                "http://127.0.0.1:8071,direct",
                "http://127.0.0.1:8071,direct",
            ),
            (listen, "http://127.0.0.1:8070", ""),
            (
                "0.0.0.0:80",
                "http://127.0.0.1,http://a.example",
                "http://a.example",
            ),
            (
                "10.0.0.1:8070",
                "http://localhost:8070",
                "http://localhost:8070",
            ),
        ];
        for (listen, list, expected) in cases {
            assert_eq!(
                without_own_address(list, listen.parse().unwrap()),
                expected,
                "{list}"
            );
        }
        assert!(is_usable("direct") && is_usable("https://a.example,off"));
        assert!(!is_usable("") && !is_usable("off") && !is_usable("off,direct"));
    }

    #[test]
    fn texts_are_checked() {
        type Check = fn(&str) -> Result<String, String>;
        let cases: &[(Check, &[&str], &[&str])] = &[
            (
                check_storage,
                &[
                    "/srv/store",
                    "file:///srv/store",
                    "s3://box/a",
                    "gs://b",
                    "az://c",
                    "memory://",
                ],
                &[
                    "", "store", "./store", "ftp://x", "s3://", "file://", "file:///", "http://x",
                ],
            ),
            (
                check_valkey,
                &[
                    "redis://h",
                    "rediss://u:p@h:1/0",
                    "valkeys://h",
                    "unix:///run/v.sock",
                ],
                &["", "h:6379", "http://h", "redis://"],
            ),
            (
                check_host,
                &["corral.example", "corral-1"],
                &["", "corral.example:8071", "127.0.0.1", "a b", "http://h"],
            ),
            (
                check_http,
                &["http://c:4318", "https://c/x"],
                &["", "c:4318", "grpc://c"],
            ),
            (
                check_sumdb,
                &["sum.golang.org", "off", "n+1234+abc", "n+12+a http://h/x"],
                &["", "http://h", "a b", "a http://h x", "n+12"],
            ),
            (
                check_advertise,
                &["10.0.0.1:80", "h:1", "[::1]:9"],
                &["", "h", "h:0", "u@h:1", "h:1/x"],
            ),
            (check_fleet_id, &["ci-1", "a.b_c"], &["", "a b", "ä"]),
            (
                check_log_level,
                &[
                    "info",
                    "WARN",
                    "info,storage=debug",
                    "server::routes=trace",
                    "off",
                    "[span]=info",
                ],
                &["", "inof", "info,storage=dbug", "info,", "verbose"],
            ),
        ];
        for (check, right, wrong) in cases {
            for text in *right {
                assert!(check(text).is_ok(), "{text:?}: {:?}", check(text));
            }
            for text in *wrong {
                let must = check(text).unwrap_err();
                assert!(
                    must.starts_with("must be") && !must.contains('\n'),
                    "{text:?}: {must}"
                );
            }
        }
    }
}
