//! The crate's one way to take a lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also after a panic under it.
///
/// Every critical section of this crate leaves its data consistent at each step that can panic, so
/// a poisoned lock carries no news; refusing it would turn one panic into an outage of all leases.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
