//! What many tests start from: one module, its paths, an instance in front of it.

use e2e::client::{Outcome, Reply};
use e2e::proxy::{Corral, Setup};
use e2e::upstream::{FixtureModule, FixtureUpstream, Path, file_path};

/// The module that most tests ask for.
pub(crate) const M: &str = "example.com/m";

/// Its one version.
pub(crate) const V: &str = "v1.0.0";

/// The request path of a file of [`M`] at [`V`].
pub(crate) fn file(kind: &str) -> String {
    file_path(M, V, kind)
}

/// An upstream with [`M`] at [`V`], whose zip has about `zip_bytes` bytes.
pub(crate) async fn upstream(zip_bytes: usize) -> FixtureUpstream {
    FixtureUpstream::with([FixtureModule::new(M).version_sized(V, zip_bytes).latest(V)]).await
}

/// An instance that gives up quickly, so that failures show within a test's patience: one try per
/// fill, no memory of failures, short waits for a silent upstream.
pub(crate) fn impatient(upstream: &FixtureUpstream) -> Setup {
    Setup::before(upstream)
        .set("fill.retries", "0")
        .set("failure.ttl", "0s")
        .set("fill.on_failure", "drop")
        .set("upstreams.first_byte_timeout", "700ms")
        .set("upstreams.stall_timeout", "700ms")
        .set("fill.first_byte_max", "1s")
}

/// An upstream with [`M`] and a default instance in front of it.
pub(crate) async fn pair(zip_bytes: usize) -> (FixtureUpstream, Corral) {
    let upstream = upstream(zip_bytes).await;
    let corral = Corral::before(&upstream).await;
    (upstream, corral)
}

/// Asserts that every client got a whole 200 with these bytes.
#[track_caller]
pub(crate) fn all_whole(outcomes: &[Outcome], bytes: &[u8]) {
    let hash = e2e::client::sha256(bytes);
    let bad = outcomes
        .iter()
        .filter(|o| !o.finished || o.status != 200 || o.sha256 != hash);
    let count = bad.clone().count();
    assert!(
        count == 0,
        "{count} of {} failed, first: {:?}",
        outcomes.len(),
        bad.clone().next()
    );
}

/// Asserts that no client got a whole 200.
#[track_caller]
pub(crate) fn none_whole(outcomes: &[Outcome]) {
    let whole = outcomes
        .iter()
        .filter(|o| o.finished && o.status == 200)
        .count();
    assert!(whole == 0, "{whole} of {} got a whole 200", outcomes.len());
}

/// Asserts our own trouble as it must look: 502, 503 or 504, `Retry-After`, one line of text.
#[track_caller]
pub(crate) fn is_own_trouble(reply: &Reply) {
    assert!(
        reply.complete(),
        "the error itself is whole: {:?}",
        reply.ending
    );
    assert!(
        (502..=504).contains(&reply.status),
        "{}: {}",
        reply.status,
        reply.text()
    );
    assert!(
        reply.header("retry-after").is_some(),
        "no Retry-After: {:?}",
        reply.headers
    );
    is_one_line(reply);
}

/// Asserts a plain-text body of exactly one non-empty line.
#[track_caller]
pub(crate) fn is_one_line(reply: &Reply) {
    let text = reply.text();
    let plain = reply
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("text/plain"));
    assert!(plain, "{:?}", reply.headers);
    let lines = text.trim_end_matches('\n').lines().count();
    assert!(
        lines == 1 && !text.trim().is_empty(),
        "no single line: {text:?}"
    );
}

/// Asserts how many requests a path of the upstream has seen.
#[track_caller]
pub(crate) fn fetched(path: &Path, times: u64) {
    assert_eq!(path.requests(), times, "upstream requests");
}

/// Waits until the spool holds nothing, and asserts that the store holds nothing but whole files.
///
/// The spool may keep its bookkeeping and the file of the jobs. What a killed process left is
/// brought to the store behind the first requests, and a reader that was cut lets go of its file
/// when it notices.
pub(crate) async fn nothing_left_over(corral: &Corral) {
    let spool = corral.setup().spool_dir();
    let is_empty = e2e::wait::holds_within(e2e::wait::PATIENCE, async || {
        e2e::proxy::left_in_spool(&spool).is_empty()
    });
    assert!(
        is_empty.await,
        "files left in the spool: {:?}",
        e2e::proxy::left_in_spool(&spool)
    );
    no_strays(&corral.setup().store_dir()).await;
}

/// Waits until a store folder holds nothing but files that a GOPROXY tree has, and at most one
/// instance's own empty lock. What is being written meanwhile, as by a job, is on its way.
pub(crate) async fn no_strays(store: &std::path::Path) {
    let strays = || {
        let mut files = e2e::proxy::files_under(store);
        files.retain(|(path, _)| !is_tree_file(path));
        let is_lock = |path: &str| path.starts_with(".staging/") && path.ends_with("/lock");
        match files.as_slice() {
            [(path, 0)] if is_lock(path) => Vec::new(),
            _ => files,
        }
    };
    let none = e2e::wait::holds_within(e2e::wait::PATIENCE, async || strays().is_empty());
    assert!(none.await, "stray files in the store: {:?}", strays());
}

/// Whether a path relative to the store is one that a GOPROXY tree has.
fn is_tree_file(path: &str) -> bool {
    let kinds = [".info", ".mod", ".zip", ".ziphash", "/@v/list", "/@latest"];
    kinds.iter().any(|kind| path.ends_with(kind)) || path.starts_with("sumdb/")
}
