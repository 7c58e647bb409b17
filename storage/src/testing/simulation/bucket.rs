//! The simulated object store: create-only objects, far away and not always willing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::host::Host;
use super::world::{World, lock};
use crate::store::{Backend, BackendError, Directory, Listed, Put, Source, Stored, StoredBody};

/// How long an operation takes on a good day, in milliseconds, each way.
const TRAVEL_MS: (u64, u64) = (1, 8);

/// How long a slow one takes each way.
const SLOW_MAX_MS: u64 = 1_000;

/// The objects, for all instances.
#[derive(Debug, Default)]
pub(super) struct Objects(Mutex<BTreeMap<usize, Bytes>>);

impl Objects {
    pub(super) fn has(&self, unit: usize) -> bool {
        lock(&self.0).contains_key(&unit)
    }

    pub(super) fn get(&self, unit: usize) -> Option<Bytes> {
        lock(&self.0).get(&unit).cloned()
    }
}

/// The way of one process to the objects.
#[derive(Debug)]
pub(super) struct HostStore {
    pub(super) world: Arc<World>,
    pub(super) host: Arc<Host>,
    pub(super) objects: Arc<Objects>,
}

impl HostStore {
    /// Lets `effect` happen, unless something goes wrong on the way there or back.
    async fn run<T: Send>(
        &self,
        effect: impl FnOnce() -> Result<T, BackendError> + Send,
    ) -> Result<T, BackendError> {
        self.travel().await?;
        let fails = self.world.chance(self.world.trouble().store_fails);
        if fails && self.world.chance(0.5) {
            return Err(BackendError::plain("the simulated store failed", false));
        }
        let outcome = effect()?;
        if fails {
            return Err(BackendError::plain(
                "the simulated store lost its answer",
                false,
            ));
        }
        self.travel().await?;
        Ok(outcome)
    }

    async fn travel(&self) -> Result<(), BackendError> {
        self.host.gate().await;
        if !self.host.reaches_store() {
            // As of a network that swallows packets; the caller's own deadline ends it.
            std::future::pending::<()>().await;
        }
        let slow = self.world.chance(self.world.trouble().store_slow);
        let max = if slow { SLOW_MAX_MS } else { TRAVEL_MS.1 };
        let travel = self.world.between(
            Duration::from_millis(TRAVEL_MS.0),
            Duration::from_millis(max),
        );
        tokio::time::sleep(travel).await;
        self.host.gate().await;
        Ok(())
    }

    fn unit(&self, path: &str) -> Result<usize, BackendError> {
        self.world
            .unit_at(path)
            .ok_or_else(|| BackendError::plain("nothing like that is simulated", true))
    }
}

#[async_trait]
impl Backend for HostStore {
    async fn lookup(&self, path: &str) -> Result<Option<Stored>, BackendError> {
        let unit = self.unit(path)?;
        self.host.gate().await;
        let now = self.world.now();
        self.world.ledger().look(now);
        let found = self.run(|| Ok(self.objects.get(unit))).await?;
        let what = if found.is_some() {
            "finds it stored"
        } else {
            "finds nothing stored"
        };
        self.world.note(self.host.number, what, Some(unit), 0);
        Ok(found.map(|bytes| Stored {
            len: bytes.len() as u64,
            modified: SystemTime::UNIX_EPOCH,
            body: StoredBody::Bytes(bytes),
        }))
    }

    async fn put_new(&self, path: &str, source: &Source) -> Result<Put, BackendError> {
        let unit = self.unit(path)?;
        let Source::Bytes(bytes) = source else {
            return Err(BackendError::plain("files are not simulated", true));
        };
        let put = self.run(|| {
            let mut objects = lock(&self.objects.0);
            if objects.contains_key(&unit) {
                return Ok(Put::Exists);
            }
            objects.insert(unit, bytes.clone());
            drop(objects);
            self.world
                .note(self.host.number, "stores it", Some(unit), 0);
            self.world.ledger().stored(unit);
            if !self.world.units[unit].has_sent(bytes) {
                let rule = "bytes were stored that upstream never sent";
                self.world.violated(Some(unit), rule);
            }
            Ok(Put::Created)
        });
        put.await
    }

    async fn settle(&self, _: &str) -> Result<(), BackendError> {
        Ok(())
    }

    async fn put_over(&self, _: &str, _: Bytes) -> Result<(), BackendError> {
        Err(BackendError::plain("documents are not simulated", true))
    }

    async fn delete(&self, _: &str) -> Result<(), BackendError> {
        Err(BackendError::plain(
            "nothing is deleted in a simulation",
            true,
        ))
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<Listed>, BackendError> {
        Ok(Vec::new())
    }

    async fn list_dir(&self, _: &str, _: usize) -> Result<Directory, BackendError> {
        Ok(Directory::default())
    }

    async fn probe_read(&self) -> Result<(), BackendError> {
        Ok(())
    }

    async fn probe_write(&self) -> Result<(), BackendError> {
        Ok(())
    }
}
