//! A seeded simulation of a whole fleet: the real warmers, flights, turns and lease guards, in
//! surroundings that exist in memory only, under virtual time.
//!
//! What is real: [`Warmer`](crate::Warmer) with everything below it (flights, fills, turns, early
//! take-over, relays, hot tier, failure records, `ArtifactStore`), `lease`'s keeper, guards, fan-out and the rules of its
//! table. What is simulated: the network, the lease server's process and clock, the object store's
//! backend, upstream, and the life of processes. Nothing of the protocol is written a second time.
//!
//! Invariants:
//! - Same plan, same run: nothing reads the real time or draws from a generator that the seed
//!   does not set, so a run that breaks a rule can be repeated from one number.
//! - The rules that are checked ([`Violation`]) are checked when something happens, not only at
//!   the end.
//! - Only small artifacts are fetched: those need no file and no blocking thread, whose timing no
//!   seed could set.

mod bucket;
mod clients;
mod fleet;
mod host;
mod ledger;
mod link;
mod neighbours;
mod origin;
mod plan;
mod report;
mod run;
mod server;
mod trace;
mod trouble;
mod world;

pub use plan::{Act, Plan, Trouble};
pub use report::{Commands, Report, Spread, UnitReport};
pub use run::{Violation, run};

#[cfg(test)]
mod tests;
