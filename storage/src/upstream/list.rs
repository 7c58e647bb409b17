//! Several upstreams in the order and by the rules of a `GOPROXY` list.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;

use super::base::UpstreamUrl;
use super::config::{UpstreamConfig, UpstreamIdentity};
use super::file::FileUpstream;
use super::http::HttpUpstream;
use super::observer::FetchObserver;
use super::{FetchRequest, Fetched, Upstream};
use crate::error::{Error, ErrorKind};

/// A parsed `GOPROXY` list.
///
/// Entries are separated by `,` (go on after 404 and 410 only) or `|` (go on after any error).
/// `direct` and `off` end the list, as they do in the go command:
///
/// - `direct` is noted in [`GoProxyList::has_direct`] and otherwise left out.
/// - `off` is left out. The go command counts it as one more "does not exist", which never
///   replaces a better answer, and here the last proxy's own 404 says the same in its own words.
///
/// So the answer of the last upstream that was asked stands.
///
/// Source: the go command, `modfetch/proxy.go` (`proxyList`, `TryProxies`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoProxyList {
    entries: Vec<GoProxyEntry>,
    has_direct: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct GoProxyEntry {
    url: UpstreamUrl,
    /// The separator behind it is `|`.
    goes_on_after_any_error: bool,
}

impl GoProxyList {
    /// Parses a list, leaving out entries that lead to `own`, this instance's listeners.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: an entry cannot be used, or none is left; the text says what to set.
    pub fn parse(text: &str, own: &[SocketAddr]) -> Result<Self, Error> {
        let mut list = Self {
            entries: Vec::new(),
            has_direct: false,
        };
        let mut left_out = Vec::new();
        for part in text.split_inclusive([',', '|']) {
            let goes_on_after_any_error = part.ends_with('|');
            match part.trim_end_matches([',', '|']).trim() {
                "" => {}
                word @ "off" => {
                    left_out.push(word.to_owned());
                    break;
                }
                word @ "direct" => {
                    left_out.push(word.to_owned());
                    list.has_direct = true;
                    break;
                }
                entry => {
                    let url = UpstreamUrl::parse(entry)?;
                    if own.iter().any(|&own| url.reaches(own)) {
                        left_out.push(format!("our own address {}", url.name()));
                    } else {
                        list.entries.push(GoProxyEntry {
                            url,
                            goes_on_after_any_error,
                        });
                    }
                }
            }
        }
        if list.entries.is_empty() {
            let found = match left_out.as_slice() {
                [] => "no upstream is configured".to_owned(),
                words => format!("no upstream can be used (found only {})", words.join(", ")),
            };
            return Err(Error::Config(format!(
                "{found}: set --upstream, CORRAL_UPSTREAM or GOPROXY to a module proxy's address"
            )));
        }
        Ok(list)
    }

    /// The upstreams in the order in which they are asked; never empty.
    pub fn upstreams(&self) -> impl ExactSizeIterator<Item = &UpstreamUrl> {
        self.entries.iter().map(|entry| &entry.url)
    }

    /// Tells whether the list goes on to version control after its proxies.
    pub fn has_direct(&self) -> bool {
        self.has_direct
    }
}

/// Prepares the connections to one upstream, whatever its scheme.
///
/// # Errors
///
/// As [`HttpUpstream::new`] and [`FileUpstream::new`].
pub fn connect_upstream(
    url: &UpstreamUrl,
    config: &UpstreamConfig,
    identity: &UpstreamIdentity,
    observer: &Arc<dyn FetchObserver>,
) -> Result<Arc<dyn Upstream>, Error> {
    let observer = Arc::clone(observer);
    Ok(if url.is_file() {
        Arc::new(FileUpstream::new(url, config.stall_timeout, observer)?)
    } else {
        Arc::new(HttpUpstream::new(
            url.clone(),
            config.clone(),
            identity,
            observer,
        )?)
    })
}

/// Upstreams that are asked one after the other.
#[derive(Debug)]
pub struct UpstreamList {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: Arc<str>,
    upstream: Arc<dyn Upstream>,
    goes_on_after_any_error: bool,
}

impl UpstreamList {
    /// Prepares the connections to all upstreams of `list`; opens none. Each has its own limits.
    ///
    /// Warns once when the list goes on to version control, which this type does not do.
    ///
    /// # Errors
    ///
    /// As [`connect_upstream`].
    pub fn new(
        list: &GoProxyList,
        config: &UpstreamConfig,
        identity: &UpstreamIdentity,
        observer: &Arc<dyn FetchObserver>,
    ) -> Result<Self, Error> {
        let members = list.entries.iter().map(|entry| {
            Ok(Member {
                name: Arc::clone(entry.url.name()),
                upstream: connect_upstream(&entry.url, config, identity, observer)?,
                goes_on_after_any_error: entry.goes_on_after_any_error,
            })
        });
        let members = members.collect::<Result<_, Error>>()?;
        if list.has_direct {
            tracing::warn!("\"direct\" in the upstream list is not followed");
        }
        Ok(Self { members })
    }

    /// A list of `members` by their names, with commas between them.
    #[cfg(test)]
    pub(crate) fn of(members: impl IntoIterator<Item = (&'static str, Arc<dyn Upstream>)>) -> Self {
        let members = members.into_iter().map(|(name, upstream)| Member {
            name: name.into(),
            upstream,
            goes_on_after_any_error: false,
        });
        Self {
            members: members.collect(),
        }
    }

    /// The names of the upstreams in the order in which they are asked.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.members.iter().map(|member| &member.name)
    }
}

#[async_trait]
impl Upstream for UpstreamList {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, Error> {
        let goes_on_from =
            |member: &Member| member.goes_on_after_any_error || request.after_any_error;
        let is_broken =
            |member: &Member| goes_on_from(member) && request.broken_at.contains(&member.name);
        // Those whose body broke come last. They still come: "does not exist" from the others is
        // no proof as long as one of them could have it.
        let sound = self.members.iter().filter(|member| !is_broken(member));
        let broken = self.members.iter().filter(|member| is_broken(member));
        let mut best = None;
        for member in sound.chain(broken) {
            let error = match member.upstream.fetch(request).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            let goes_on = is_absence(&error) || goes_on_from(member);
            best = Some(worse_to_hide(best, error, request.after_any_error));
            if !goes_on {
                break;
            }
        }
        Err(best.expect("a parsed list is never empty"))
    }

    fn members(&self) -> usize {
        self.members.len()
    }
}

/// Of two failures, the one that the caller must see: any other one before "does not exist", for
/// that could be wrong then; and the later one among equals.
///
/// Source: the go command, `TryProxies`.
///
/// Who is `persistent`, and asks upstreams that its list keeps from clients, learns first of all
/// that another attempt may succeed: an upstream that serves other modules only says no to this
/// one, and that says nothing of the upstream in trouble before it.
fn worse_to_hide(earlier: Option<Error>, later: Error, persistent: bool) -> Error {
    let weight = |error: &Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::Gone => 0,
        // It was not asked, so nobody knows what it has.
        ErrorKind::Overloaded if persistent => 2,
        kind if persistent && kind.is_transient() => 3,
        _ => 1,
    };
    let asks_longer =
        |earlier: &Error| weight(earlier) == 3 && earlier.retry_after() > later.retry_after();
    match earlier {
        Some(earlier) if weight(&earlier) > weight(&later) => earlier,
        Some(earlier) if weight(&earlier) == weight(&later) && asks_longer(&earlier) => earlier,
        _ => later,
    }
}

fn is_absence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    // acceptance: B16
    #[test]
    fn one_that_was_not_asked_weighs_more_than_a_no_and_less_than_a_failure() {
        let full = Error::Overloaded {
            limit: UpstreamConfig::QUEUE_KEY,
        };
        let no = Error::Forbidden {
            text: "no".to_owned(),
        };
        let failed = Error::TimedOut {
            upstream: "u".to_owned(),
            reason: "silent".to_owned(),
        };
        for (earlier, later, kind) in [
            (&full, &no, ErrorKind::Overloaded),
            (&no, &full, ErrorKind::Overloaded),
            (&full, &failed, ErrorKind::TimedOut),
            (&failed, &full, ErrorKind::TimedOut),
        ] {
            let told = worse_to_hide(Some(earlier.clone()), later.clone(), true);
            assert_eq!(told.kind(), kind, "{earlier}; {later}");
        }
        // A client's list keeps to the go command's rule.
        assert_eq!(
            worse_to_hide(Some(failed), no, false).kind(),
            ErrorKind::Forbidden
        );
    }
}
