//! Coordination between tasks and between instances: leases with release events, and short-lived
//! shared records.
//!
//! The crate knows nothing of modules, HTTP or object storage. Each concern is a trait with an
//! implementation inside the process and one that a fleet shares over [`Valkey`]; one contract
//! suite per trait (`testing`, feature `test-util`) holds both to the same behaviour.
//!
//! Three rules that callers build on:
//!
//! - **A lease saves work, it does not protect data.** A lost lease costs one duplicate fetch.
//!   What must not happen twice has to be a create-only write.
//! - **"Held by somebody else" is an answer**, [`Acquire::Held`], never an error.
//! - **A release event is a hint.** Events get lost, come twice or late, and expiry sends none.
//!   A waiter subscribes first, then tries, then looks at the truth, then waits; after every
//!   wake-up it looks again.

mod clock;
mod config;
mod error;
mod event;
mod fallback_records;
mod guard;
mod key;
mod local;
mod observer;
mod queue;
mod records;
mod seldom;
mod subscription;
mod sync;
mod table;
#[cfg(feature = "test-util")]
pub mod testing;
mod token;
mod ttl;
mod valkey;

#[cfg(feature = "test-util")]
pub use clock::ManualClock;
pub use clock::{Clock, TokioClock, sleep_until, timeout};
pub use config::LeaseConfig;
pub use error::{LeaseError, LeaseErrorKind};
pub use event::{Outcome, ReleaseEvent};
pub use fallback_records::{FallbackRecords, OnGetError};
pub use guard::{LeaseGuard, LeaseKeeper};
pub use key::LeaseKey;
pub use local::{LocalLeases, LocalRecords, RecordLimits, RecordStats};
pub use observer::{LeaseObserver, LostReason, NoObserver, ReleaseEnd};
pub use queue::{
    Backup, Changed, DELAY_MAX, DelayQueue, DoneJob, FileHealth, JOB_ERROR_BYTES_MAX,
    JOB_PAYLOAD_BYTES_MAX, JobId, JobInfo, JobPage, JobQuery, JobRef, JobSerial, JobState, JobView,
    JournalHealth, JournaledQueue, LIFE_MAX, LocalQueue, NewJob, Pushed, QueueLimits, QueueStats,
    Receipt, Restored, Review, Settled, TakenJob, VISIBILITY_MAX,
};
pub use records::{
    RECORD_KEY_BYTES_MAX, Record, RecordEntry, RecordPage, Records, check_record_key,
};
pub use subscription::{Fanout, Subscription, Wake, WakeSource};
pub use table::{
    Acquire, ForceRelease, Grant, HeldLease, LeasePage, LeaseQuery, LeaseTable, LeaseView,
    PAGE_LIMIT_MAX, Progress, Released, Renewal, TakeOver,
};
pub use token::{Holder, LeaseToken};
pub use ttl::{RECORD_TTL_MAX, lease_ttl_ms, record_ttl_ms};
pub use valkey::{
    BreakerState, FleetSecret, LiveGrants, NoValkeyObserver, NodeHealth, Secret, ServerInfo,
    Topology, UrlAddress, UrlKind, Valkey, ValkeyConfig, ValkeyHealth, ValkeyObserver, ValkeyTls,
    ValkeyUrl,
};
