//! What must hold between keys, and what this version does not do yet.

use std::fmt;
use std::time::Duration;

use super::load::Loaded;
use super::mistake::Mistake;
use super::value::{format_duration, format_size};
use super::{Config, VerifyMode};

/// The shortest secret that a fleet may have.
const FLEET_SECRET_BYTES_MIN: usize = 16;

/// Something an operator should know about a configuration that is otherwise right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is likely to be a mistake, rather than just worth knowing.
    pub is_warning: bool,
    /// One line.
    pub text: String,
}

impl Notice {
    /// A notice of what is likely to be a mistake.
    pub(super) fn warning(text: impl Into<String>) -> Self {
        Self {
            is_warning: true,
            text: text.into(),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Checks everything that concerns more than one key.
pub(super) fn check(loaded: &mut Loaded, mistakes: &mut Vec<Mistake>) {
    check_addresses(loaded, mistakes);
    check_fleet_secret(loaded, mistakes);
    check_order(loaded, mistakes);
    check_l1_ttl(loaded);
    check_retry_concurrency(loaded);
    let config = &loaded.config;
    if !config.admin_listen.ip().is_loopback() && config.admin.token.is_none() {
        loaded.notices.push(Notice::warning(format!(
            "admin_listen = {} is no loopback address and admin.token_file is not set: nothing \
             but health is answered there; set admin.token_file or listen on 127.0.0.1",
            loaded.config.admin_listen
        )));
    }
    if loaded.config.verify.mode == VerifyMode::Sumdb {
        loaded.notices.push(Notice {
            is_warning: false,
            text: "verify.mode = sumdb: this version checks size and structure only; look-ups in \
                   the checksum database are not built yet"
                .to_owned(),
        });
    }
}

/// A secret that can be guessed is none: whoever sees one signed request can try words at leisure.
fn check_fleet_secret(loaded: &Loaded, mistakes: &mut Vec<Mistake>) {
    let secret = loaded.config.fleet.secret.as_ref();
    if secret.is_some_and(|secret| secret.expose().len() < FLEET_SECRET_BYTES_MIN) {
        let key = "fleet.secret_file";
        let problem = format!(
            "the secret in it must have at least {FLEET_SECRET_BYTES_MIN} bytes, such as what \
             `openssl rand -hex 32` prints"
        );
        mistakes.push(Mistake::new(&loaded.origin(key), key, problem));
    }
}

fn check_addresses(loaded: &Loaded, mistakes: &mut Vec<Mistake>) {
    let Config {
        listen,
        admin_listen,
        internal,
        ..
    } = &loaded.config;
    let clash = |a: &std::net::SocketAddr, b: &std::net::SocketAddr| {
        let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
        a.port() != 0 && a.port() == b.port() && overlap
    };
    let mut refuse = |key: &str, other: &str, address: &std::net::SocketAddr| {
        let problem =
            format!("{address} is taken by {other}; set another port, or 0 for a free one");
        mistakes.push(Mistake::new(&loaded.origin(key), key, problem));
    };
    if clash(admin_listen, listen) {
        refuse("admin_listen", "listen", admin_listen);
    }
    if let Some(internal) = &internal.listen {
        for (other, name) in [(listen, "listen"), (admin_listen, "admin_listen")] {
            if clash(internal, other) {
                refuse("internal.listen", name, internal);
            }
        }
    }
}

/// Values that make no sense together.
///
/// It is a mistake if the operator gave both. If one of them is a default, it is a notice: who
/// shortens `fill.max_duration` for a test need not shorten five other times as well.
fn check_order(loaded: &mut Loaded, mistakes: &mut Vec<Mistake>) {
    let Config {
        upstreams,
        documents,
        fill,
        lease,
        l1,
        spool,
        zip_bytes_max,
        retry,
        ..
    } = &loaded.config;
    let time = |duration: Duration| (duration.as_millis(), format_duration(duration));
    let size = |bytes: u64| (u128::from(bytes), format_size(bytes));
    let max_duration = ("fill.max_duration", time(fill.max_duration));
    // In each row the first must not exceed the second.
    let mut order = vec![
        (
            ("upstreams.stall_timeout", time(upstreams.stall_timeout)),
            max_duration.clone(),
        ),
        (
            ("fill.first_byte_max", time(fill.first_byte_max)),
            max_duration.clone(),
        ),
        (("fill.wait_max", time(fill.wait_max)), max_duration.clone()),
        (("lease.ttl", time(lease.ttl)), max_duration),
        (
            ("upstreams.connect_timeout", time(upstreams.connect_timeout)),
            ("fill.first_byte_max", time(fill.first_byte_max)),
        ),
        (
            (
                "upstreams.first_byte_timeout",
                time(upstreams.first_byte_timeout),
            ),
            ("fill.first_byte_max", time(fill.first_byte_max)),
        ),
        (
            ("zip_bytes_max", size(*zip_bytes_max)),
            ("spool.bytes_max", size(spool.bytes_max)),
        ),
        (
            ("fill.max_duration", time(fill.max_duration)),
            ("retry.deadline", time(retry.deadline)),
        ),
    ];
    // Zero switches a window or a tier off, and then its order to others does not matter.
    if !documents.sie.is_zero() {
        order.push((
            ("documents.swr", time(documents.swr)),
            ("documents.sie", time(documents.sie)),
        ));
    }
    if l1.bytes_max > 0 {
        order.push((
            ("l1.entry_bytes_max", size(l1.entry_bytes_max)),
            ("l1.bytes_max", size(l1.bytes_max)),
        ));
    }
    for ((low, (low_value, low_text)), (high, (high_value, high_text))) in order {
        if low_value <= high_value {
            continue;
        }
        let problem = format!("must not exceed {high} = {high_text}");
        if loaded.is_explicit(low) && loaded.is_explicit(high) {
            let key = format!("{low} = {low_text}");
            mistakes.push(Mistake::new(&loaded.origin(low), &key, problem));
        } else if loaded.is_explicit(low) || loaded.is_explicit(high) {
            loaded
                .notices
                .push(Notice::warning(format!("{low} = {low_text}: {problem}")));
        }
    }
}

/// A copy in L1 must not outlive what it is a copy of by much.
///
/// The defaults themselves are as long as each other, on purpose: by default L1 is no more than
/// the fallback of a failing L2. So only what an operator sets is worth a line.
fn check_l1_ttl(loaded: &mut Loaded) {
    let (l1_ttl, ttl) = (loaded.config.l1.ttl, loaded.config.documents.ttl);
    let explicit = loaded.is_explicit("l1.ttl") || loaded.is_explicit("documents.ttl");
    if explicit && l1_ttl > ttl / 2 {
        loaded.notices.push(Notice::warning(format!(
            "l1.ttl = {}: more than half of documents.ttl = {}, so a list may be served long after \
             it changed; set l1.ttl to at most {}",
            format_duration(l1_ttl),
            format_duration(ttl),
            format_duration(ttl / 2)
        )));
    }
}

/// Jobs never get more than a quarter of the fills; who asks for more should know that.
fn check_retry_concurrency(loaded: &mut Loaded) {
    let quarter = (loaded.config.fill.concurrency_max / 4).max(1);
    let jobs = loaded.config.retry.concurrency_max;
    if loaded.is_explicit("retry.concurrency_max") && jobs > quarter {
        loaded.notices.push(Notice::warning(format!(
            "retry.concurrency_max = {jobs}: more than a quarter of fill.concurrency_max = {}, so \
             at most {quarter} jobs run at once",
            loaded.config.fill.concurrency_max
        )));
    }
}
