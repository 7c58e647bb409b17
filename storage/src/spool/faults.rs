//! A disk that is full when a test says so, under a spool.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much the disk still takes; clones are the same disk.
#[derive(Debug, Clone)]
pub struct DiskFaults {
    room_bytes: Arc<AtomicU64>,
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self {
            room_bytes: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }
}

impl DiskFaults {
    /// Lets the disk take `bytes` more and no byte beyond.
    pub fn full_after(&self, bytes: u64) {
        self.room_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Lets it take everything again.
    pub fn heal(&self) {
        self.room_bytes.store(u64::MAX, Ordering::Relaxed);
    }

    /// Fails, as a full disk does, when there is no room for `bytes`.
    pub(super) fn before_writing(&self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        self.room_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| match room {
                u64::MAX => Some(u64::MAX),
                room => room.checked_sub(bytes),
            })
            .map(drop)
            .map_err(|_| io::Error::from(io::ErrorKind::StorageFull))
    }
}
