//! When the allocator gives memory back to the operating system.

// One call without arguments that hold memory: the rest of the crate denies unsafe code.
#![allow(unsafe_code)]

use std::time::Duration;

/// How often memory is given back. Far more than the second for which the allocator keeps what
/// it may still want.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(10);

/// Gives back what a burst has left unused, again and again, for ever.
///
/// The allocator does so by itself only while it is asked for memory: a server that falls quiet
/// would keep the peak of its last herd until the next one.
pub(crate) async fn give_back() {
    loop {
        tokio::time::sleep(GIVE_BACK_EVERY).await;
        // SAFETY: it takes no pointer, may be called by any thread at any time, and frees nothing
        // that is in use. Where another allocator is in force it finds nothing.
        unsafe { libmimalloc_sys::mi_collect(false) };
    }
}
