//! Mutable documents: `list`, `@latest`, version queries, a checksum database's tree head.
//!
//! Fresh ones come from shared records. A stale one is used while a refresh runs behind it, or
//! when the refresh fails; a refresh is a flight like a fill, so a herd costs upstream one
//! request. An upstream's failure never replaces the last good answer, which is kept in the
//! object store too.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;

use crate::artifact::{ArtifactKey, Document, FileKind};
use crate::artifacts::{Answer, AnswerBody, CacheOutcome, GetOptions, Verdict};
use crate::attempts::{Attempts, Done};
use crate::document::CachedDocument;
use crate::error::{Error, ErrorKind};
use crate::fill::{FillLead, Landed, fill_outcome};
use crate::flight::{Phase, Role};
use crate::freshness::Freshness;
use crate::intake::{check_len, joined};
use crate::layout;
use crate::module::{ModulePath, Version};
use crate::peers::Origin;
use crate::store::{Source, Stored};
use crate::turn::{Finding, Look, Turn, Wait};
use crate::upstream::{FetchRequest, FetchedBody, Validators};
use crate::verify;
use crate::warmer::{Core, REVALIDATE_AT_MOST_EVERY};

/// How long a document's body may take beyond the time for its first byte. A list that drips in
/// would otherwise keep the one worker of refreshes from all others.
const BODY_MAX: Duration = Duration::from_secs(60);

/// A document as a flight hands it to its seats.
#[derive(Debug, Clone)]
pub(crate) struct DocumentAnswer {
    body: Bytes,
    verdict: Verdict,
    ttl: Duration,
    stale_for: Option<Duration>,
}

impl DocumentAnswer {
    pub(crate) fn into_answer(self, role: Role) -> Answer {
        let collapsed = self.verdict == Verdict::Miss && role == Role::Waiter;
        Answer {
            body: AnswerBody::Document(self.body),
            cache: CacheOutcome {
                verdict: self.verdict,
                collapsed,
                ttl: Some(self.ttl),
                stale_for: self.stale_for,
            },
        }
    }
}

/// Answers a request for a document.
pub(crate) async fn get_document(
    core: &Arc<Core>,
    key: &ArtifactKey,
    options: GetOptions,
) -> Result<Answer, Error> {
    let fetch_disabled = options.fetch_disabled || core.config.offline;
    let mut cached = core.document_of_records(key).await;
    if cached.is_none() && (fetch_disabled || options.only_if_cached) {
        cached = core.document_of_store(key).await?;
    }
    if let Some(document) = &cached {
        let age = document.age(core.clock.wall());
        let freshness = core
            .config
            .documents
            .judge(age, document.header.must_revalidate);
        let asked_anew = options.revalidate && age >= REVALIDATE_AT_MOST_EVERY;
        if fetch_disabled || freshness.is_usable() && (!asked_anew || options.only_if_cached) {
            let may_refresh = !fetch_disabled && !options.only_if_cached;
            if freshness == Freshness::StaleWhileRevalidate
                && may_refresh
                && !core.revalidations.push(key)
            {
                core.metrics.reval_dropped.inc();
            }
            return Ok(core
                .judged(document, Verdict::Stale)
                .into_answer(Role::Leader));
        }
    }
    if fetch_disabled && let Some(body) = built_from_store(core, key).await? {
        return Ok(built(body).into_answer(Role::Leader));
    }
    if fetch_disabled || options.only_if_cached {
        return Err(Error::NotStored {
            unit: key.unit(),
            fetch_disabled,
        });
    }
    let (landed, seat) = core.board(key).await?;
    let role = seat.role();
    match landed {
        Landed::Document(document) => Ok(document.into_answer(role)),
        Landed::Stored { .. } | Landed::Filling { .. } => Err(Error::Internal {
            unit: key.unit(),
            source: None,
        }),
    }
}

fn document_record(unit: &str) -> String {
    format!("document:{unit}")
}

fn built(body: Bytes) -> DocumentAnswer {
    DocumentAnswer {
        body,
        verdict: Verdict::BuiltFromStore,
        ttl: Duration::ZERO,
        stale_for: None,
    }
}

/// `list` and `@latest` made from the stored versions; `None` when there are none.
async fn built_from_store(core: &Core, key: &ArtifactKey) -> Result<Option<Bytes>, Error> {
    let ArtifactKey::Document { module, document } = key else {
        return Ok(None);
    };
    let versions = match document {
        Document::List | Document::Latest => core.versions(module).await?,
        Document::Query(_) => return Ok(None),
    };
    match document {
        Document::List => {
            // A proxy's list has no pseudo-versions (Go modules reference, "GOPROXY protocol").
            let mut listed: Vec<&str> = versions
                .iter()
                .filter(|v| !v.is_pseudo())
                .map(Version::as_str)
                .collect();
            if versions.is_empty() {
                return Ok(None);
            }
            listed.push("");
            Ok(Some(Bytes::from(listed.join("\n"))))
        }
        Document::Latest | Document::Query(_) => {
            let Some(latest) = latest_of(&versions) else {
                return Ok(None);
            };
            stored_info(core, module, latest).await
        }
    }
}

/// Release before pre-release before pseudo-version; the highest of its class.
fn latest_of(versions: &[Version]) -> Option<&Version> {
    let class = |version: &Version| match (version.is_pseudo(), version.is_prerelease()) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    versions
        .iter()
        .max_by(|a, b| class(a).cmp(&class(b)).then_with(|| a.cmp(b)))
}

async fn stored_info(
    core: &Core,
    module: &ModulePath,
    version: &Version,
) -> Result<Option<Bytes>, Error> {
    let key = ArtifactKey::File {
        module: module.clone(),
        version: version.clone(),
        kind: FileKind::Info,
    };
    match core.lookup(&key).await? {
        Some(stored) => read_whole(&stored, &key).await.map(Some),
        None => Ok(None),
    }
}

async fn read_whole(stored: &Stored, key: &ArtifactKey) -> Result<Bytes, Error> {
    stored
        .body
        .read(verify::bytes_max(key))
        .await
        .map_err(|source| Error::storage(format!("reading {key}"), source))
}

impl Core {
    async fn document_of_records(&self, key: &ArtifactKey) -> Option<CachedDocument> {
        match self.records.get(&document_record(&key.unit())).await {
            Ok(record) => CachedDocument::decode(&record?.value),
            Err(error) => {
                tracing::debug!(unit = %key.unit(), %error, "records are unavailable");
                None
            }
        }
    }

    /// The last good answer, as the object store kept it.
    async fn document_of_store(&self, key: &ArtifactKey) -> Result<Option<CachedDocument>, Error> {
        match self.store.lookup(&layout::object_path(key)).await? {
            Some(stored) => {
                let modified = stored.modified;
                Ok(Some(CachedDocument::new(
                    read_whole(&stored, key).await?,
                    modified,
                )))
            }
            None => Ok(None),
        }
    }

    async fn record_document(&self, unit: &str, document: &CachedDocument) {
        let ttl = self.config.documents.kept_for();
        if let Err(error) = self
            .records
            .set(&document_record(unit), document.encode(), ttl)
            .await
        {
            self.record_warnings.warn("set", unit, &error);
        }
    }

    /// A cached document as an answer; `stale` is its verdict when it is no longer fresh.
    fn judged(&self, document: &CachedDocument, stale: Verdict) -> DocumentAnswer {
        let age = document.age(self.clock.wall());
        let policy = &self.config.documents;
        let body = document.body.clone();
        match policy.judge(age, document.header.must_revalidate) {
            Freshness::Fresh { remaining } => DocumentAnswer {
                body,
                verdict: Verdict::HitStored,
                ttl: remaining,
                stale_for: None,
            },
            _ => DocumentAnswer {
                body,
                verdict: stale,
                ttl: Duration::ZERO,
                stale_for: Some(age.saturating_sub(policy.ttl)),
            },
        }
    }
}

/// One refresh of a document: the task of its flight.
pub(crate) struct Refresh {
    core: Arc<Core>,
    key: ArtifactKey,
    unit: String,
    lead: FillLead,
    /// Taken before upstream is asked, so that its failure cannot take it away.
    snapshot: Option<CachedDocument>,
    began: SystemTime,
}

impl Refresh {
    pub(crate) fn new(core: Arc<Core>, key: ArtifactKey, lead: FillLead) -> Self {
        let unit = key.unit();
        let began = core.clock.wall();
        Self {
            core,
            key,
            unit,
            lead,
            snapshot: None,
            began,
        }
    }

    pub(crate) async fn run(mut self) {
        let cancelled = self.lead.status().cancelled();
        let clock = self.core.clock.clone();
        let config = &self.core.config;
        let refresh_max = config.fill_max.min(config.first_byte_max + BODY_MAX);
        let result = tokio::select! {
            result = self.refresh() => result,
            () = cancelled => Err(Error::Interrupted { unit: self.unit.clone() }),
            () = clock.sleep(refresh_max) => Err(Error::TimedOut {
                upstream: "all".to_owned(),
                reason: format!("{} took longer than a document may", self.unit),
            }),
        };
        if let Err(error) = result {
            self.core.metrics.count_fill(fill_outcome(error.kind()));
            self.core.log_failure(&self.unit, &error);
            let answer = self.answer_in_spite_of(error).await;
            self.lead.leave();
            self.lead.land(answer.map(Landed::Document));
        }
    }

    async fn refresh(&mut self) -> Result<(), Error> {
        let core = self.core.clone();
        let in_records = core.document_of_records(&self.key).await;
        let recorded = in_records
            .as_ref()
            .map(|document| document.header.received_ms);
        self.snapshot = match in_records {
            Some(document) => Some(document),
            None => core.document_of_store(&self.key).await?,
        };
        if let Some(document) = &self.snapshot {
            let age = document.age(self.began);
            let policy = &core.config.documents;
            match policy.judge(age, document.header.must_revalidate) {
                // Somebody else refreshed it while this flight was being joined.
                Freshness::Fresh { .. } if age < REVALIDATE_AT_MOST_EVERY => {
                    self.land(core.judged(document, Verdict::Stale));
                    return Ok(());
                }
                // Known to the store only: this process has just started, or records were lost.
                Freshness::Fresh { .. } if recorded.is_none() => {
                    core.record_document(&self.unit, document).await;
                    self.land(core.judged(document, Verdict::Stale));
                    return Ok(());
                }
                _ => {}
            }
        }
        if let Some(record) = core.remembered_failure(&self.unit).await {
            return Err(Error::Remembered(record));
        }
        let status = self.lead.status().clone();
        let (unit, key) = (&self.unit, &self.key);
        let turn = core
            .turns
            .take(unit, &status, &core.config, &Wait::default(), |look| {
                look_for_another(&core, key, unit, recorded, look)
            })
            .await?;
        let (guard, _unleased) = match turn {
            Turn::Theirs(document) => {
                self.land(core.judged(&document, Verdict::Stale));
                return Ok(());
            }
            Turn::Ours { guard, _unleased } => (guard, _unleased),
        };
        let (key, unit) = (self.key.clone(), self.unit.clone());
        let work = async { self.fetch().await.map(|()| Done::Stored) };
        core.under_lease(guard, &key, &unit, work).await
    }

    fn land(&mut self, answer: DocumentAnswer) {
        self.lead.land(Ok(Landed::Document(answer)));
    }

    /// The last good answer where it may stand in for a failed refresh.
    async fn answer_in_spite_of(&self, error: Error) -> Result<DocumentAnswer, Error> {
        match error.kind() {
            // Upstream's verdict on the module, not its trouble.
            ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::Forbidden => return Err(error),
            _ => {}
        }
        if let Some(document) = &self.snapshot {
            let age = document.age(self.core.clock.wall());
            let policy = &self.core.config.documents;
            return match policy.judge(age, document.header.must_revalidate) {
                Freshness::Expired => Err(error),
                _ => {
                    self.core.metrics.stale_if_error.inc();
                    Ok(self.core.judged(document, Verdict::StaleIfError))
                }
            };
        }
        if error.kind() != ErrorKind::Unreachable {
            // An upstream that answers badly may have versions that are not stored here: a list
            // without them would be wrong, where an error is only late.
            return Err(error);
        }
        match built_from_store(&self.core, &self.key).await {
            Ok(Some(body)) => Ok(built(body)),
            _ => Err(error),
        }
    }

    async fn fetch(&mut self) -> Result<(), Error> {
        let (core, status) = (self.core.clone(), self.lead.status().clone());
        let mut attempts = Attempts::new(&core, &status, core.config.retries);
        let document = loop {
            let deadline = attempts.begin();
            match self.attempt(deadline).await {
                Ok(document) => break document,
                Err(error) => attempts.pause_after(error, true).await?,
            }
        };
        core.record_document(&self.unit, &document).await;
        let answer = core.judged(&document, Verdict::Stale);
        self.land(DocumentAnswer {
            verdict: Verdict::Miss,
            ..answer
        });
        self.lead.status().enter(Phase::Committing);
        self.keep(&document).await;
        core.metrics.count_fill("stored");
        Ok(())
    }

    async fn attempt(&mut self, deadline: tokio::time::Instant) -> Result<CachedDocument, Error> {
        let validators = self.snapshot.as_ref().and_then(|document| {
            let header = &document.header;
            let known = header.etag.is_some() || header.last_modified.is_some();
            let upstream = header.upstream.as_deref().map(Arc::from);
            (known && upstream.is_some()).then(|| Validators {
                upstream,
                etag: header.etag.clone(),
                last_modified: header.last_modified.clone(),
            })
        });
        let bytes_max = verify::bytes_max(&self.key);
        let request = FetchRequest {
            validators,
            first_byte_deadline: Some(deadline),
            ..FetchRequest::new(&self.unit, layout::upstream_path(&self.key), bytes_max)
        };
        let fetched = self.core.upstream.fetch(&request).await?;
        self.lead.status().answered_by(Origin {
            upstream: fetched.upstream.clone(),
            etag: fetched.etag.clone(),
        });
        let body = match (fetched.body, &self.snapshot) {
            (FetchedBody::NotModified, Some(snapshot)) => snapshot.body.clone(),
            (FetchedBody::NotModified, None) => {
                return Err(Error::Corrupt {
                    unit: self.unit.clone(),
                    reason: "304 was answered to an unconditional request".to_owned(),
                });
            }
            (FetchedBody::Modified(mut pieces), _) => {
                let mut body = Vec::new();
                let mut received = 0;
                while let Some(piece) = pieces.next().await {
                    let piece = piece?;
                    received += piece.len() as u64;
                    self.lead.status().progress(received, fetched.len);
                    body.push(piece);
                }
                check_len(&self.unit, received, fetched.len)?;
                joined(body)
            }
        };
        verify::check(&self.key, &body)?;
        let mut document = CachedDocument::new(body, self.core.clock.wall());
        document.header.must_revalidate =
            fetched.cache_control.must_revalidate || fetched.cache_control.no_cache;
        document.header.upstream = Some(fetched.upstream.to_string());
        document.header.etag = fetched.etag;
        document.header.last_modified = fetched.last_modified;
        Ok(document)
    }

    /// Keeps the last good answer in the store, and a query's answer under its canonical version.
    async fn keep(&self, document: &CachedDocument) {
        let path = layout::object_path(&self.key);
        if let Err(error) = self.core.store.replace(&path, document.body.clone()).await {
            self.core.metrics.count_commit("failed");
            self.core.log_failure(&self.unit, &error);
        }
        let ArtifactKey::Document {
            module,
            document: Document::Query(_),
        } = &self.key
        else {
            return;
        };
        let Ok(version) = verify::check_query_info(&document.body, module) else {
            return;
        };
        let canonical = ArtifactKey::File {
            module: module.clone(),
            version,
            kind: FileKind::Info,
        };
        let path = layout::object_path(&canonical);
        if let Err(error) = self
            .core
            .store
            .create(&path, Source::Bytes(document.body.clone()))
            .await
        {
            self.core.log_failure(&self.unit, &error);
        }
    }
}

/// Another document than `seen` in the records: somebody else's refresh has succeeded meanwhile.
///
/// Told by difference and not by time, because the hosts' clocks need not agree.
impl Finding for CachedDocument {}

async fn look_for_another(
    core: &Core,
    key: &ArtifactKey,
    unit: &str,
    seen: Option<u64>,
    look: Look,
) -> Result<Option<CachedDocument>, Error> {
    if let Some(document) = core.document_of_records(key).await
        && Some(document.header.received_ms) != seen
    {
        return Ok(Some(document));
    }
    if look == Look::Result {
        return Ok(None);
    }
    match core.remembered_failure(unit).await {
        Some(record) => Err(Error::Remembered(record)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
