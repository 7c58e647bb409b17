//! What the borders between the crates promise, shown by using them.

use std::path::Path;

/// Compiles only for what has the store's interface.
fn has_the_stores_interface<T: storage::Artifacts>() {}

// The warmer wraps the store and has the same interface, so that handlers know nothing of leases.
// acceptance: B11
#[test]
fn handlers_know_a_store_and_no_leases() {
    has_the_stores_interface::<storage::ArtifactStore>();
    has_the_stores_interface::<storage::Warmer>();

    let handlers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/src/goproxy");
    let mut looked_at = 0;
    for (name, _) in e2e::proxy::files_under(&handlers) {
        let source = std::fs::read_to_string(handlers.join(&name)).expect("a source file");
        let uses = |line: &&str| line.contains("lease::") || line.contains("leases.");
        assert_eq!(source.lines().find(uses), None, "in {name}");
        looked_at += 1;
    }
    assert!(looked_at > 3, "the handlers have moved");
}
