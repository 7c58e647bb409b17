//! The one interface to artifacts: the plain store implements it, and so does the warmer that
//! wraps the store. Whoever asks does not know which it talks to.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::artifact::ArtifactKey;
use crate::error::Error;
use crate::fill::Landed;
use crate::flight::{Role, Seat};
use crate::layout;
use crate::module::{ModulePath, Version};
use crate::spool::Filling;
use crate::store::{ArtifactStore, Stored};

/// What a request allows, beyond saying what it wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Answer from the cache or with [`Error::NotStored`]; a document may be stale within its
    /// stale-while-revalidate window. Source: RFC 9111 section 5.2.1.7.
    pub only_if_cached: bool,
    /// Answer with stored content of any age or with [`Error::NotStored`]. Source: the Go module
    /// mirror's `Disable-Module-Fetch` header.
    pub fetch_disabled: bool,
    /// Ask upstream before a document is used, at most once in
    /// [`crate::warmer::REVALIDATE_AT_MOST_EVERY`]. Immutable artifacts ignore it.
    /// Source: RFC 9111 section 5.2.1.4.
    pub revalidate: bool,
}

/// An artifact, or the means to read it while it arrives.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The bytes.
    pub body: AnswerBody,
    /// How the cache came by them.
    pub cache: CacheOutcome,
}

/// The bytes of an [`Answer`].
#[derive(Debug, Clone)]
pub enum AnswerBody {
    /// Complete: in memory, mapped, or in the object store.
    Stored(Stored),
    /// A mutable document, complete.
    Document(Bytes),
    /// Arriving from upstream.
    Arriving(Arriving),
}

/// A body that is arriving, and the reader's seat in its flight: as long as this or a stream of
/// it lives, the reader counts as one who waits.
#[derive(Debug, Clone)]
pub struct Arriving {
    pub(crate) filling: Arc<Filling>,
    pub(crate) seat: Arc<Seat<Landed>>,
}

impl Arriving {
    /// The announced length; `None` when upstream sent none.
    pub fn announced_len(&self) -> Option<u64> {
        self.filling.announced_len()
    }

    /// Waits until the whole body has arrived and is verified; returns its length.
    ///
    /// # Errors
    ///
    /// Whatever ended the fill.
    pub async fn whole(&self) -> Result<u64, Error> {
        self.filling.whole().await
    }

    /// Waits until a byte at `position` or beyond can be read, or the body has ended.
    ///
    /// # Errors
    ///
    /// Whatever ended the fill.
    pub async fn readable_beyond(&self, position: u64) -> Result<(), Error> {
        self.filling.readable_beyond(position).await.map(drop)
    }

    /// Streams `range` of the body as it becomes readable; see [`Filling::stream`].
    ///
    /// Its second piece may wait a moment until the others who wait have their first.
    pub fn stream(self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
        let pieces = self.filling.stream(range);
        let reader = (self, pieces, 0_u64);
        stream::unfold(reader, |(arriving, mut pieces, given)| async move {
            if given == 1 {
                let waiters = || arriving.seat.status().waiters();
                arriving.filling.let_others_begin(waiters).await;
            }
            let piece = pieces.next().await?;
            Some((piece, (arriving, pieces, given + 1)))
        })
        .boxed()
    }
}

/// How the cache came by an answer; the words are those of RFC 9211.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOutcome {
    /// Hit, miss, or one of the stale kinds.
    pub verdict: Verdict,
    /// `true` when another request's fetch served this one.
    pub collapsed: bool,
    /// Time for which a document stays fresh (zero when it is stale); `None` for what never
    /// changes.
    pub ttl: Option<Duration>,
    /// How long a stale document has been stale.
    pub stale_for: Option<Duration>,
}

/// The first word about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// From memory.
    HitMemory,
    /// From the object store, or from shared records.
    HitStored,
    /// From upstream.
    Miss,
    /// From another instance, while it fetches it from upstream.
    Relayed,
    /// Stale, while a refresh runs behind.
    Stale,
    /// Stale, because the refresh failed or upstream is out of reach.
    StaleIfError,
    /// Made from what is stored, because upstream is out of reach.
    BuiltFromStore,
}

impl Verdict {
    /// The value of the `cache` label and of the span attribute `cache_status`.
    pub fn label(self) -> &'static str {
        match self {
            Self::HitMemory => "hit",
            Self::HitStored => "hit_stored",
            Self::Miss => "miss",
            Self::Relayed => "relayed",
            Self::Stale => "stale",
            Self::StaleIfError => "stale_if_error",
            Self::BuiltFromStore => "built_from_store",
        }
    }
}

impl CacheOutcome {
    /// An immutable artifact's outcome.
    ///
    /// What is relayed was fetched for a request to another instance, so it always collapsed.
    pub fn immutable(verdict: Verdict, role: Role) -> Self {
        let collapsed = match verdict {
            Verdict::Miss => role == Role::Waiter,
            other => other == Verdict::Relayed,
        };
        Self {
            verdict,
            collapsed,
            ttl: None,
            stale_for: None,
        }
    }
}

/// Getter and lister of artifacts.
///
/// Implemented by [`ArtifactStore`] (what is stored, no more) and by [`crate::Warmer`] (which
/// gets what is missing). Safe to call from any task; cancelling a call leaves nothing behind
/// that the caller owns.
#[async_trait]
pub trait Artifacts: Send + Sync {
    /// Gets one artifact.
    ///
    /// # Errors
    ///
    /// By [`Error::kind`]; see [`crate::ErrorKind`] for what the caller does about each.
    async fn get(&self, key: &ArtifactKey, options: GetOptions) -> Result<Answer, Error>;

    /// Lists the stored versions of `module`, lowest first.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: the store cannot be read.
    async fn versions(&self, module: &ModulePath) -> Result<Vec<Version>, Error>;
}

/// Objects that are listed at once.
const LIST_PAGE: usize = 1_000;

/// Versions of one module that are listed at most; the largest known has a few thousand.
const VERSIONS_MAX: usize = 100_000;

#[async_trait]
impl Artifacts for ArtifactStore {
    async fn get(&self, key: &ArtifactKey, options: GetOptions) -> Result<Answer, Error> {
        match self.lookup(&layout::object_path(key)).await? {
            Some(stored) => Ok(Answer {
                body: AnswerBody::Stored(stored),
                cache: CacheOutcome::immutable(Verdict::HitStored, Role::Leader),
            }),
            None => Err(Error::NotStored {
                unit: key.unit(),
                fetch_disabled: !options.only_if_cached,
            }),
        }
    }

    async fn versions(&self, module: &ModulePath) -> Result<Vec<Version>, Error> {
        let prefix = layout::versions_prefix(module);
        let mut versions = Vec::new();
        let mut after = None;
        loop {
            let page = self.list(&prefix, after.as_deref(), LIST_PAGE).await?;
            after = page.last().map(|object| object.path.clone());
            versions.extend(page.iter().filter_map(|object| {
                let name = object.path.rsplit('/').next()?;
                Version::unescape(name.strip_suffix(".info")?).ok()
            }));
            if page.len() < LIST_PAGE || versions.len() >= VERSIONS_MAX {
                break;
            }
        }
        versions.sort();
        versions.dedup();
        Ok(versions)
    }
}
