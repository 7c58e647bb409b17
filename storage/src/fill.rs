//! One fill of an immutable artifact: lease, look again, fetch, verify, store, release.
//!
//! Runs as a flight's task. What it promises:
//! - Upstream is asked only after the store, the remembered failures and the lease were.
//! - Clients read the spool while it grows and get its tail only after verification.
//! - A failure is written down before the lease is released and before the flight leaves the
//!   table, so that nobody asks upstream again in between.
//! - Nobody waits for the object store once the bytes are verified.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::time::Instant;

use crate::artifact::ArtifactKey;
use crate::artifacts::Verdict;
use crate::attempts::Attempts;
use crate::error::{Error, ErrorKind};
use crate::flight::{Lead, Phase};
use crate::layout;
use crate::spool::{Filling, FillingWriter};
use crate::store::{Created, Source, Stored, StoredBody};
use crate::turn::Turn;
use crate::upstream::{FetchRequest, Fetched, FetchedBody};
use crate::verify;
use crate::warmer::Core;

/// Bodies up to this size stay in memory and reach clients whole.
pub(crate) const SMALL_BYTES_MAX: u64 = 256 * 1024;

/// How every zip with an entry in it begins, and an empty one nearly so.
const ZIP_MAGIC: &[u8] = b"PK";

/// Pieces that are taken from upstream before they are written together.
const BATCH_PIECES_MAX: usize = 64;

/// Where a flight's seats find their artifact.
#[derive(Debug, Clone)]
pub(crate) enum Landed {
    /// Complete.
    Stored { stored: Stored, verdict: Verdict },
    /// Arriving.
    Filling(Arc<Filling>),
    /// A mutable document.
    Document(crate::refresh::DocumentAnswer),
}

/// The leader's side of a flight of this crate.
pub(crate) type FillLead = Lead<ArtifactKey, Landed>;

/// What an attempt has brought.
enum Received {
    Small(Bytes),
    Spooled(FillingWriter),
}

/// One fill on its way.
pub(crate) struct Fill {
    core: Arc<Core>,
    key: ArtifactKey,
    unit: String,
    lead: FillLead,
    /// Kept here rather than in the attempt, so that a failure can be written down before the
    /// clients that read from it are told.
    writer: Option<FillingWriter>,
    /// Upstreams whose body broke off in this fill.
    broken_at: Vec<Arc<str>>,
}

impl Fill {
    pub(crate) fn new(core: Arc<Core>, key: ArtifactKey, lead: FillLead) -> Self {
        let unit = key.unit();
        Self {
            core,
            key,
            unit,
            lead,
            writer: None,
            broken_at: Vec::new(),
        }
    }

    /// Runs the fill to its end; every way out has landed the flight.
    pub(crate) async fn run(mut self) {
        let cancelled = self.lead.status().cancelled();
        let fill_max = self.core.config.fill_max;
        let clock = self.core.clock.clone();
        let result = tokio::select! {
            result = self.fill() => result,
            () = cancelled => Err(Error::Interrupted { unit: self.unit.clone() }),
            () = clock.sleep(fill_max) => Err(Error::TimedOut {
                upstream: "all".to_owned(),
                reason: format!("{} took longer than fill.max_duration", self.unit),
            }),
        };
        if let Err(error) = result {
            self.core.metrics.count_fill(fill_outcome(error.kind()));
            self.core.log_failure(&self.unit, &error);
            self.lead.leave();
            if let Some(mut writer) = self.writer.take() {
                writer.fail(error.clone());
            }
            self.lead.land(Err(error));
        }
    }

    async fn fill(&mut self) -> Result<(), Error> {
        if let Some(stored) = self.core.look(&self.key, &self.unit).await? {
            self.land_stored(stored);
            return Ok(());
        }
        let status = self.lead.status().clone();
        let turn = {
            let (core, key, unit) = (&self.core, &self.key, &self.unit);
            core.turns
                .take(unit, &status, &core.config, || core.look(key, unit))
                .await?
        };
        let (guard, _unleased) = match turn {
            Turn::Theirs(stored) => {
                self.land_stored(stored);
                return Ok(());
            }
            Turn::Ours { guard, _unleased } => (guard, _unleased),
        };
        let (core, key, unit) = (self.core.clone(), self.key.clone(), self.unit.clone());
        let work = self.fetch_and_commit();
        core.under_lease(guard, &key, &unit, work).await
    }

    fn land_stored(&mut self, stored: Stored) {
        self.core.hot.insert(self.key.clone(), stored.clone());
        self.core.metrics.count_fill("already_stored");
        self.lead.land(Ok(Landed::Stored {
            stored,
            verdict: Verdict::HitStored,
        }));
    }

    /// Attempts until one succeeds, or none may follow.
    async fn fetch_and_commit(&mut self) -> Result<(), Error> {
        let (core, status) = (self.core.clone(), self.lead.status().clone());
        let mut attempts = Attempts::new(&core, &status);
        let received = loop {
            let deadline = attempts.begin();
            let error = match self.attempt(deadline).await {
                Ok(received) => break received,
                Err(error) => error,
            };
            let may_retry = error.kind() != ErrorKind::Storage && !self.lead.has_landed();
            if may_retry {
                // Nobody reads from it, and its place in the spool is free while we wait.
                self.writer = None;
            }
            attempts.pause_after(error, may_retry).await?;
        };
        match received {
            Received::Small(body) => self.commit_small(body).await,
            Received::Spooled(writer) => {
                self.writer = Some(writer);
                self.commit_spooled().await
            }
        }
    }

    async fn attempt(&mut self, deadline: Instant) -> Result<Received, Error> {
        let fetched = self.core.upstream.fetch(&self.request(deadline)).await?;
        let upstream = fetched.upstream.clone();
        self.lead.status().answered_by(upstream.clone());
        let received = self.receive(fetched, deadline).await;
        if received.is_err() {
            self.broken_at.push(upstream);
        }
        received
    }

    fn request(&self, deadline: Instant) -> FetchRequest {
        let bytes_max = verify::bytes_max(&self.key).min(self.core.config.zip_bytes_max);
        FetchRequest {
            first_byte_deadline: Some(deadline),
            broken_at: self.broken_at.clone(),
            ..FetchRequest::new(&self.unit, layout::upstream_path(&self.key), bytes_max)
        }
    }

    async fn receive(&mut self, fetched: Fetched, deadline: Instant) -> Result<Received, Error> {
        let len = fetched.len;
        let FetchedBody::Modified(body) = fetched.body else {
            return Err(self.corrupt("304 was answered to an unconditional request"));
        };
        let mut batches = body.ready_chunks(BATCH_PIECES_MAX);
        let status = self.lead.status().clone();
        let mut begin: Vec<Bytes> = Vec::new();
        let mut received = 0;
        // A body that is known to be large is spooled from its first bytes on, or a slow upstream
        // would keep its clients waiting for the first 256 KiB.
        let begin_bytes = match len {
            Some(len) if len > SMALL_BYTES_MAX => ZIP_MAGIC.len() as u64 - 1,
            _ => SMALL_BYTES_MAX,
        };
        while received <= begin_bytes {
            let Some(batch) = self.next_before_landing(&mut batches, deadline).await? else {
                check_len(&self.unit, received, len)?;
                return Ok(Received::Small(joined(begin)));
            };
            for piece in batch {
                let piece = piece?;
                received += piece.len() as u64;
                begin.push(piece);
            }
            status.progress(received, len);
        }
        if self.key.is_zip() && !joined(begin.clone()).starts_with(ZIP_MAGIC) {
            return Err(self.corrupt("upstream's answer is no zip file"));
        }
        let clock = self.core.clock.clone();
        let writer = self
            .core
            .spool
            .begin(&self.unit, len, joined(begin), clock)?;
        let filling = writer.filling().clone();
        let writer = self.writer.insert(writer);
        if self.core.config.stream && self.key.is_zip() {
            // Before the file is made: what has arrived is read from memory until then.
            self.lead.land(Ok(Landed::Filling(filling)));
        }
        writer.open().await?;
        let clock = self.core.clock.clone();
        loop {
            let news_due = writer.news_due();
            let batch = tokio::select! {
                biased;
                batch = batches.next() => batch,
                () = sleep_until(&*clock, news_due) => {
                    writer.tell();
                    continue;
                }
            };
            let Some(batch) = batch else { break };
            let mut pieces = Vec::with_capacity(batch.len());
            let mut broken = None;
            for piece in batch {
                match piece {
                    Ok(piece) => pieces.push(piece),
                    Err(error) => broken = Some(error),
                }
            }
            if let Some(error) = broken {
                return Err(error);
            }
            writer.append(pieces).await?;
            status.progress(writer.written(), len);
        }
        check_len(&self.unit, writer.written(), len)?;
        let writer = self.writer.take().expect("it was put there above");
        Ok(Received::Spooled(writer))
    }

    /// The next batch of a body of which no client has anything yet.
    ///
    /// A first attempt may be as slow as upstream's own limits allow. A later one must not make
    /// the clients wait for those limits again: they would give up before we answer.
    async fn next_before_landing<S>(
        &self,
        batches: &mut S,
        deadline: Instant,
    ) -> Result<Option<S::Item>, Error>
    where
        S: Stream + Unpin,
    {
        let next = batches.next();
        if self.lead.status().attempts() <= 1 {
            return Ok(next.await);
        }
        let clock = &*self.core.clock;
        let left = deadline.saturating_duration_since(clock.now());
        match lease::timeout(clock, left, next).await {
            Some(batch) => Ok(batch),
            None => Err(Error::TimedOut {
                upstream: "all".to_owned(),
                reason: format!("{} brought no body within fill.first_byte_max", self.unit),
            }),
        }
    }

    fn corrupt(&self, reason: &str) -> Error {
        Error::Corrupt {
            unit: self.unit.clone(),
            reason: reason.to_owned(),
        }
    }

    async fn commit_small(&mut self, body: Bytes) -> Result<(), Error> {
        self.lead.status().enter(Phase::Verifying);
        self.verify(body.clone()).await?;
        let stored = Stored {
            len: body.len() as u64,
            modified: self.core.clock.wall(),
            body: StoredBody::Bytes(body.clone()),
        };
        self.serve_from_memory(stored.clone());
        self.lead.land(Ok(Landed::Stored {
            stored,
            verdict: Verdict::Miss,
        }));
        self.commit(Source::Bytes(body)).await;
        Ok(())
    }

    /// Takes verified bytes into the hot tier: before anybody has them whole, so that who has
    /// them finds them here again, and goes on finding them should the store refuse them.
    fn serve_from_memory(&self, stored: Stored) {
        self.core.hot.insert(self.key.clone(), stored);
    }

    async fn commit_spooled(&mut self) -> Result<(), Error> {
        self.lead.status().enter(Phase::Verifying);
        let writer = self.writer.as_ref().expect("set by the caller");
        let len = writer.written();
        let path = writer.path().to_owned();
        let map = writer.freeze()?;
        self.verify(map.slice(0..len)).await?;
        map.forget(0..len);
        let stored = Stored {
            len,
            modified: self.core.clock.wall(),
            body: StoredBody::Mapped(map.clone()),
        };
        self.serve_from_memory(stored);
        let writer = self.writer.as_mut().expect("set by the caller");
        writer.complete();
        let filling = writer.filling().clone();
        // Without streaming this is the first that the waiters hear.
        self.lead.land(Ok(Landed::Filling(filling)));
        self.commit(Source::File { path, len, map }).await;
        Ok(())
    }

    async fn verify(&self, body: Bytes) -> Result<(), Error> {
        if !self.key.is_zip() {
            return verify::check(&self.key, &body).map(drop);
        }
        let key = self.key.clone();
        tokio::task::spawn_blocking(move || verify::check(&key, &body))
            .await
            .map_err(|_| Error::Internal {
                unit: self.unit.clone(),
                source: None,
            })?
            .map(drop)
    }

    /// Writes the verified bytes to the store. Its failure is no client's: they have the bytes.
    async fn commit(&mut self, source: Source) {
        self.lead.status().enter(Phase::Committing);
        let path = layout::object_path(&self.key);
        match self.core.store.create(&path, source).await {
            Ok(Created::Created) => {
                self.core.metrics.count_commit("created");
                self.core.metrics.count_fill("stored");
            }
            Ok(Created::ExistsSame) => {
                self.core.metrics.count_commit("exists_same");
                self.core.metrics.count_fill("stored");
            }
            Ok(Created::Conflict { .. }) => {
                self.core.metrics.count_commit("conflict");
                self.core.metrics.count_fill("stored");
                self.core.hot.remove(&self.key);
                tracing::error!(
                    unit = %self.unit,
                    "upstream now has other bytes than are stored; the stored ones are kept"
                );
            }
            Err(error) => {
                self.core.metrics.count_commit("failed");
                self.core.metrics.count_fill("uncommitted");
                self.core.log_failure(&self.unit, &error);
            }
        }
    }
}

/// Refuses a body that is not as long as was announced.
pub(crate) fn check_len(unit: &str, received: u64, announced: Option<u64>) -> Result<(), Error> {
    match announced {
        Some(len) if len != received => Err(Error::Corrupt {
            unit: unit.to_owned(),
            reason: format!("{received} of {len} bytes arrived"),
        }),
        _ => Ok(()),
    }
}

/// Bytes of all `pieces` in one; free when there is only one.
pub(crate) fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}

/// The `outcome` label of a fill that ended with an error of `kind`.
pub(crate) fn fill_outcome(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::InvalidName => "not_found",
        ErrorKind::Forbidden | ErrorKind::Refused => "refused",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Interrupted => "interrupted",
        _ => "failed",
    }
}

async fn sleep_until(clock: &dyn lease::Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep(at.saturating_duration_since(clock.now())).await,
        None => std::future::pending().await,
    }
}
