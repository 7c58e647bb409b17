//! The order in which a fill asks its parts, and that the warmer is a store to its callers.

use std::sync::Mutex;

use bytes::Bytes;
use lease::{
    Acquire, ForceRelease, Grant, LeaseError, LeaseKey, LeasePage, LeaseQuery, LeaseTable,
    LeaseToken, LeaseView, Outcome, Progress, Record, RecordPage, Released, Renewal, Subscription,
    TakeOver,
};

use super::*;
use crate::store::{Backend, BackendError, Created, Directory, Listed, Put, Source, StoreOptions};
use crate::upstream::{FetchRequest, Fetched};

/// The calls that reached the parts, in order.
#[derive(Debug, Clone, Default)]
struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    fn note(&self, call: impl Into<String>) {
        self.0.lock().unwrap().push(call.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[derive(Debug)]
struct Traced<T> {
    inner: T,
    trace: Trace,
}

type Traces<T> = Arc<Traced<T>>;

fn traced<T>(inner: T, trace: &Trace) -> Traces<T> {
    let trace = trace.clone();
    Arc::new(Traced { inner, trace })
}

#[async_trait]
impl Backend for Traced<ArtifactStore> {
    async fn lookup(&self, path: &str) -> Result<Option<Stored>, BackendError> {
        self.trace.note("store: look up");
        self.inner.lookup(path).await.map_err(unclear)
    }

    async fn put_new(&self, path: &str, source: &Source) -> Result<Put, BackendError> {
        self.trace.note("store: create");
        match self.inner.create(path, source.clone()).await {
            Ok(Created::Created) => Ok(Put::Created),
            Ok(_) => Ok(Put::Exists),
            Err(error) => Err(unclear(error)),
        }
    }

    async fn settle(&self, _: &str) -> Result<(), BackendError> {
        Ok(())
    }

    async fn put_over(&self, path: &str, bytes: Bytes) -> Result<(), BackendError> {
        self.trace.note("store: replace");
        self.inner.replace(path, bytes).await.map_err(unclear)
    }

    async fn delete(&self, path: &str) -> Result<(), BackendError> {
        self.inner.delete(path).await.map_err(unclear)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BackendError> {
        let listing = self.inner.list(prefix, after, limit);
        listing.await.map_err(unclear)
    }

    async fn list_dir(&self, prefix: &str, limit: usize) -> Result<Directory, BackendError> {
        self.inner.list_dir(prefix, limit).await.map_err(unclear)
    }

    async fn probe_read(&self) -> Result<(), BackendError> {
        self.inner.check().await.map(|_| ()).map_err(unclear)
    }

    async fn probe_write(&self) -> Result<(), BackendError> {
        self.inner.check().await.map(|_| ()).map_err(unclear)
    }
}

fn unclear(error: Error) -> BackendError {
    BackendError::unclear("the inner store failed", error)
}

#[async_trait]
impl Upstream for Traced<Arc<FakeUpstream>> {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, Error> {
        self.trace.note("upstream: fetch");
        self.inner.fetch(request).await
    }
}

#[async_trait]
impl Records for Traced<Arc<dyn Records>> {
    async fn get(&self, key: &str) -> Result<Option<Record>, LeaseError> {
        self.trace.note("records: read");
        self.inner.get(key).await
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), LeaseError> {
        self.trace.note("records: write");
        self.inner.set(key, value, ttl).await
    }

    async fn set_if_absent(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<bool, LeaseError> {
        self.inner.set_if_absent(key, value, ttl).await
    }

    async fn delete(&self, key: &str) -> Result<bool, LeaseError> {
        self.inner.delete(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<RecordPage, LeaseError> {
        self.inner.list(prefix, after, limit).await
    }
}

#[async_trait]
impl LeaseTable for Traced<Arc<dyn LeaseTable>> {
    fn subscribe(&self, key: &LeaseKey) -> Subscription {
        self.trace.note("leases: subscribe");
        self.inner.subscribe(key)
    }

    async fn try_acquire(
        &self,
        key: &LeaseKey,
        holder: &Holder,
        ttl: Duration,
    ) -> Result<Acquire, LeaseError> {
        let answer = self.inner.try_acquire(key, holder, ttl).await;
        self.trace.note(match &answer {
            Ok(Acquire::Granted(_)) => "leases: granted",
            _ => "leases: held",
        });
        answer
    }

    async fn renew(&self, grant: &Grant, progress: &Progress) -> Result<Renewal, LeaseError> {
        self.inner.renew(grant, progress).await
    }

    async fn release(&self, grant: &Grant, outcome: Outcome) -> Result<Released, LeaseError> {
        self.trace.note(format!("leases: release {outcome}"));
        self.inner.release(grant, outcome).await
    }

    async fn list(&self, query: &LeaseQuery) -> Result<LeasePage, LeaseError> {
        self.inner.list(query).await
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<LeaseView>, LeaseError> {
        self.inner.get(key).await
    }

    async fn force_release(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
    ) -> Result<ForceRelease, LeaseError> {
        self.inner.force_release(key, token).await
    }

    async fn take_over(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
        ttl: Duration,
    ) -> Result<TakeOver, LeaseError> {
        self.inner.take_over(key, token, ttl).await
    }
}

/// An instance of `scene` whose every call is noted in `trace`.
fn traced_instance(scene: &Scene, trace: &Trace) -> Instance {
    let backend = traced(scene.store.clone(), trace);
    scene
        .instance("traced")
        .config(|config| config.retries = 0)
        .store(ArtifactStore::with_backend(
            backend,
            StoreOptions::default(),
        ))
        .upstream(traced(scene.upstream.clone(), trace))
        .leases(traced(scene.leases.clone(), trace))
        .records(traced(scene.records.clone(), trace))
        .start()
}

// acceptance: B4
#[tokio::test]
async fn a_cold_file_takes_every_step_in_order() {
    let (scene, _clock) = scene();
    let trace = Trace::default();
    let instance = traced_instance(&scene, &trace);
    instance.read(&key(INFO_PATH)).await.unwrap();
    instance.settled().await;
    assert_eq!(
        trace.take(),
        [
            "store: look up",
            "records: read",
            "leases: subscribe",
            "leases: granted",
            "store: look up",
            "records: read",
            "upstream: fetch",
            "store: create",
            "leases: release stored",
        ]
    );
    // Warm: memory answers, and nobody is asked anything.
    instance.read(&key(INFO_PATH)).await.unwrap();
    assert_eq!(trace.take(), [""; 0]);
}

// acceptance: B4
#[tokio::test]
async fn a_stored_file_takes_a_look_and_no_lease() {
    let (scene, _clock) = scene();
    scene
        .instance("filler")
        .start()
        .read(&key(INFO_PATH))
        .await
        .unwrap();
    let trace = Trace::default();
    let instance = traced_instance(&scene, &trace);
    scene.no_leases().await;
    instance.read(&key(INFO_PATH)).await.unwrap();
    assert_eq!(trace.take(), ["store: look up"]);
}

// acceptance: B4
#[tokio::test]
async fn a_failure_is_written_down_before_the_lease_is_released() {
    let (scene, _clock) = scene();
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let trace = Trace::default();
    let instance = traced_instance(&scene, &trace);
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    instance.settled().await;
    assert_eq!(
        trace.take()[6..],
        [
            "upstream: fetch",
            "records: write",
            "leases: release failed",
        ]
    );
    // Whoever asks now is told from the record: no lease, no fetch.
    let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert!(matches!(error, Error::Remembered(_)), "{error:?}");
    assert_eq!(trace.take(), ["store: look up", "records: read"]);
}

// acceptance: B4
#[tokio::test]
async fn a_follower_looks_waits_and_looks_again() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(INFO_PATH, Reply::body(INFO).head_held(&gate));
    let holder = Arc::new(scene.instance("holder").start());
    let first = crowd(&holder, &key(INFO_PATH), 1).await;
    scene.upstream.asked(1).await;
    let trace = Trace::default();
    let follower = Arc::new(traced_instance(&scene, &trace));
    let second = crowd(&follower, &key(INFO_PATH), 1).await;
    until("the follower to wait", || {
        trace.0.lock().unwrap().len() == 5
    })
    .await;
    gate.open();
    for end in ends(first).await.into_iter().chain(ends(second).await) {
        assert_eq!(end.unwrap(), INFO);
    }
    assert_eq!(
        trace.take(),
        [
            "store: look up",
            "records: read",
            "leases: subscribe",
            "leases: held",
            "store: look up",
            // The event says that it is stored, so nobody asks the records.
            "store: look up",
        ]
    );
}

// acceptance: B11
#[tokio::test]
async fn whoever_asks_cannot_tell_the_warmer_from_the_store() {
    let (scene, _clock) = scene();
    let instance = scene.instance("a").start();
    instance.read(&key(INFO_PATH)).await.unwrap();
    instance.read(&key(MOD_PATH)).await.unwrap();
    instance.settled().await;
    let both: [Arc<dyn Artifacts>; 2] = [instance.warmer.clone(), Arc::new(scene.store.clone())];
    for artifacts in both {
        for (path, body) in [(INFO_PATH, INFO), (MOD_PATH, MOD)] {
            let answer = artifacts.get(&key(path), GetOptions::default()).await;
            assert_eq!(read_answer(answer.unwrap()).await.unwrap(), body);
        }
        let module = ModulePath::parse("example.com/m").unwrap();
        let versions = artifacts.versions(&module).await.unwrap();
        assert_eq!(versions, [Version::parse("v1.0.0").unwrap()]);
    }
}
