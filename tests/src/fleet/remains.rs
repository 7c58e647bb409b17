//! What a fleet leaves behind once everybody is served: nothing.

use std::time::Duration;

use super::Fleet;
use crate::proxy::left_in_spool;
use crate::wait;

/// Names of Valkey keys that live only while a fill runs.
const FILL_KEYS: [&str; 2] = ["*:lease:*", "*:progress:*"];

/// Added to twice the TTL, for a machine that is busy.
const SLACK: Duration = Duration::from_secs(5);

impl Fleet {
    /// Asserts that, after twice the TTL at most, no lease, flight, spool file or temporary object
    /// is left, and that no key of the Valkey stays for ever.
    ///
    /// Instances that were killed must have been started again: it is they who clear up.
    ///
    /// # Panics
    ///
    /// With what is left, when something is.
    pub async fn leaves_nothing_behind(&mut self) {
        let bound = 2 * self.ttl() + SLACK;
        let mut remains = Vec::new();
        let clean = wait::holds_within(bound, async || {
            remains = self.remains().await;
            remains.is_empty()
        })
        .await;
        assert!(clean, "left after {bound:?}: {remains:#?}");
        let endless = self.valkey.keys_without_end().await;
        assert!(endless.is_empty(), "keys without a TTL: {endless:?}");
    }

    async fn remains(&mut self) -> Vec<String> {
        let mut remains = Vec::new();
        for pattern in FILL_KEYS {
            remains.extend(self.valkey.keys(pattern).await);
        }
        for (index, member) in self.members.iter_mut().enumerate() {
            if !member.corral.running() {
                continue;
            }
            for flight in member.corral.flights().await {
                remains.push(format!("flight on instance {index}: {flight}"));
            }
            for lease in member.corral.admin_items("/admin/v1/leases").await {
                remains.push(format!("lease seen by instance {index}: {lease}"));
            }
            for (path, _) in left_in_spool(&member.corral.setup().spool_dir()) {
                remains.push(format!("spool file of instance {index}: {path}"));
            }
        }
        for (path, bytes) in self.stored_files() {
            if is_temporary(&path, bytes) {
                remains.push(format!("object: {path} of {bytes} bytes"));
            }
        }
        remains
    }
}

/// Whether a stored file is none that a GOPROXY tree has; an instance's own empty lock is none of
/// its leavings.
fn is_temporary(path: &str, bytes: u64) -> bool {
    let kinds = [".info", ".mod", ".zip", ".ziphash", "/@v/list", "/@latest"];
    let is_tree_file = kinds.iter().any(|kind| path.ends_with(kind)) || path.starts_with("sumdb/");
    let is_lock = path.starts_with(".staging/") && path.ends_with("/lock") && bytes == 0;
    !is_tree_file && !is_lock
}
