//! Where one fill's bytes come together, whoever sends them: upstream, another instance, the
//! store.
//!
//! What it promises, whatever the order of sources:
//! - Bytes that clients have been shown are never contradicted: a source that starts from the
//!   beginning is compared with them, and where it differs those clients are cut.
//! - Nothing is whole before it was verified, and nobody sees a tail before that.
//! - A source may end, or be told to end, between two pieces; what came stays good.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::time::Instant;

use crate::artifact::ArtifactKey;
use crate::artifacts::Verdict;
use crate::error::Error;
use crate::fill::{FillLead, Landed};
use crate::flight::Phase;
use crate::kept::Note;
use crate::mapped::MappedFile;
use crate::peers::Origin;
use crate::spool::{FillingWriter, SharedSpace};
use crate::store::{Source, Stored, StoredBody};
use crate::upstream::is_strong;
use crate::verify;
use crate::warmer::Core;

/// Bodies up to this size stay in memory and reach clients whole.
pub(crate) const SMALL_BYTES_MAX: u64 = 256 * 1024;

/// How every zip with an entry in it begins, and an empty one nearly so.
const ZIP_MAGIC: &[u8] = b"PK";

/// Pieces that are taken from a source before they are written together.
const BATCH_PIECES_MAX: usize = 64;

/// A body on its way here.
pub(crate) struct Incoming {
    /// Who sends it, for messages.
    pub(crate) sender: Arc<str>,
    /// Which upstream it comes from in the end; `None` when that is not known.
    pub(crate) origin: Option<Origin>,
    /// Where in the artifact it starts.
    pub(crate) from: u64,
    /// The length of the whole artifact; `None` when it was not announced.
    pub(crate) len: Option<u64>,
    /// How clients are told that they came by it.
    pub(crate) verdict: Verdict,
    /// When so much must be here that clients get something; `None`: there is no hurry.
    pub(crate) deadline: Option<Instant>,
    /// The bytes; it ends in an error unless all came.
    pub(crate) body: BoxStream<'static, Result<Bytes, Error>>,
}

/// The begin of a body that goes on in the spool.
struct Begin {
    bytes: Bytes,
    /// What the body ended with right behind it.
    broken: Option<Error>,
}

/// A whole, verified body.
#[derive(Debug, Clone)]
pub(crate) enum Whole {
    Small(Bytes),
    Spooled(MappedFile),
}

impl Whole {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Small(body) => body.len() as u64,
            Self::Spooled(map) => map.len(),
        }
    }

    /// The body as the hot tier keeps it.
    fn body(&self) -> StoredBody {
        match self {
            Self::Small(body) => StoredBody::Bytes(body.clone()),
            Self::Spooled(map) => StoredBody::Mapped(map.clone()),
        }
    }
}

/// The bytes of one fill and the clients that read them.
pub(crate) struct Intake {
    core: Arc<Core>,
    key: ArtifactKey,
    unit: String,
    lead: FillLead,
    /// A body that is too large for memory, or whose clients read it while it arrives.
    ///
    /// Kept here rather than with the source, so that a failure can be written down before the
    /// clients that read from it are told.
    writer: Option<FillingWriter>,
    /// A body that was small enough for memory, before it is verified.
    small: Option<Bytes>,
    whole: Option<Whole>,
    /// Whether clients may have bytes of `writer`.
    shown: bool,
    /// Which upstream the first of the bytes come from, and what it calls them.
    origin: Option<Origin>,
    /// What a restart finds the whole by, until it is stored.
    note: Option<Note>,
}

impl Intake {
    pub(crate) fn new(core: Arc<Core>, key: ArtifactKey, lead: FillLead) -> Self {
        let unit = key.unit();
        Self {
            core,
            key,
            unit,
            lead,
            writer: None,
            small: None,
            whole: None,
            shown: false,
            origin: None,
            note: None,
        }
    }

    pub(crate) fn lead(&mut self) -> &mut FillLead {
        &mut self.lead
    }

    /// Whether clients may have bytes of a body that is not whole.
    pub(crate) fn is_shown(&self) -> bool {
        self.shown && self.whole.is_none()
    }

    /// The whole body, once it is verified.
    pub(crate) fn whole(&self) -> Option<&Whole> {
        self.whole.as_ref()
    }

    /// Bytes that are here and can be gone on from.
    pub(crate) fn received(&self) -> u64 {
        self.writer.as_ref().map_or(0, FillingWriter::written)
    }

    /// Which upstream the begin of what is here comes from.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Gives up what nobody has seen: the next source starts from nothing.
    pub(crate) fn discard_unseen(&mut self) {
        self.small = None;
        if !self.shown {
            self.writer = None;
            self.origin = None;
        }
    }

    /// Ends the body for the clients that read it; the fill may go on for others.
    ///
    /// The flight leaves the table: whoever comes now must not get the cut body.
    pub(crate) fn cut(&mut self, error: &Error) {
        self.lead.leave();
        if let Some(mut writer) = self.writer.take() {
            writer.fail(error.clone());
        }
        self.shown = false;
        self.discard_unseen();
    }

    /// Ends the flight with `error`, for whoever waits and whoever reads.
    pub(crate) fn fail(&mut self, error: Error) {
        self.cut(&error);
        self.lead.land(Err(error));
    }

    /// Answers everybody with what is in the store.
    pub(crate) fn land_stored(&mut self, stored: Stored, verdict: Verdict) {
        self.lead.land(Ok(Landed::Stored { stored, verdict }));
    }

    /// Takes one body to its end.
    ///
    /// It may start at 0 or where an earlier one ended. Cancelling leaves the length on disk
    /// unknown: make the body end instead.
    ///
    /// # Errors
    ///
    /// What the body ended with. [`Error::Corrupt`]: it is not as long as was announced, or
    /// cannot be this artifact. [`Error::Upstream`]: it contradicts what clients have, who were
    /// cut; starting anew may help. [`Error::Storage`]: the spool, and they were cut as well.
    /// [`Error::Overloaded`]: the spool is full.
    pub(crate) async fn receive(&mut self, incoming: Incoming) -> Result<(), Error> {
        if incoming.from == 0 {
            self.discard_unseen();
        } else if incoming.from != self.received() {
            return Err(self.corrupt("it was continued at the wrong place"));
        }
        let Incoming {
            sender,
            origin,
            from,
            len,
            verdict,
            deadline,
            body,
        } = incoming;
        if let Some(origin) = origin {
            self.lead.status().answered_by(origin.clone());
            if self.received() == 0 {
                self.origin = Some(origin);
            }
        }
        let mut batches = body.ready_chunks(BATCH_PIECES_MAX);
        if let Some(writer) = &mut self.writer {
            let known = writer.filling().announced_len();
            if known.is_some() && len.is_some() && known != len {
                return Err(self.contradicted(&sender));
            }
            if !writer.is_open() {
                writer.open().await?;
            }
            let len = known.or(len);
            return self.append(&mut batches, &sender, from, len).await;
        }
        let Some(begin) = self.begin(&mut batches, len, deadline).await? else {
            return Ok(());
        };
        let Begin { bytes, broken } = begin;
        let clock = self.core.clock.clone();
        let spool = &self.core.spool;
        let writer = spool.begin(&self.unit, len, bytes, clock).await?;
        let received = writer.written();
        let filling = writer.filling().clone();
        let writer = self.writer.insert(writer);
        if self.core.config.stream && self.key.is_zip() && !self.lead.has_landed() {
            // Before the file is made: what has arrived is read from memory until then.
            self.lead.land(Ok(Landed::Filling { filling, verdict }));
            self.shown = true;
        }
        writer.open().await?;
        match broken {
            Some(error) => Err(error),
            None => self.append(&mut batches, &sender, received, len).await,
        }
    }

    /// Takes the begin of a body into memory; `None` when that was all of it.
    async fn begin<S>(
        &mut self,
        batches: &mut S,
        len: Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<Option<Begin>, Error>
    where
        S: Stream<Item = Vec<Result<Bytes, Error>>> + Unpin,
    {
        let status = self.lead.status().clone();
        let mut begin: Vec<Bytes> = Vec::new();
        let mut received = 0;
        let mut broken = None;
        // A body that is known to be large is spooled from its first bytes on, or a slow sender
        // would keep its clients waiting for the first 256 KiB.
        let begin_bytes = match len {
            Some(len) if len > SMALL_BYTES_MAX => ZIP_MAGIC.len() as u64 - 1,
            _ => SMALL_BYTES_MAX,
        };
        while received <= begin_bytes {
            let Some(batch) = self.next_before(batches, deadline).await? else {
                check_len(&self.unit, received, len)?;
                self.small = Some(of_its_own(begin));
                return Ok(None);
            };
            for piece in batch {
                match piece {
                    Ok(piece) => {
                        received += piece.len() as u64;
                        begin.push(piece);
                    }
                    // What came before it in the same moment is worth keeping where the rest
                    // alone can be asked for.
                    Err(error) if received > begin_bytes && self.is_named() => {
                        broken = Some(error);
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            status.progress(received, len);
        }
        let bytes = joined(begin);
        if self.key.is_zip() && !bytes.starts_with(ZIP_MAGIC) {
            return Err(self.corrupt("upstream's answer is no zip file"));
        }
        Ok(Some(Begin { bytes, broken }))
    }

    /// Whether the upstream of what is here has named it, so that the rest can be asked for.
    fn is_named(&self) -> bool {
        let etag = self
            .origin
            .as_ref()
            .and_then(|origin| origin.etag.as_deref());
        etag.is_some_and(is_strong)
    }

    async fn append<S>(
        &mut self,
        batches: &mut S,
        sender: &str,
        from: u64,
        len: Option<u64>,
    ) -> Result<(), Error>
    where
        S: Stream<Item = Vec<Result<Bytes, Error>>> + Unpin,
    {
        let status = self.lead.status().clone();
        let clock = self.core.clock.clone();
        let mut position = from;
        loop {
            let writer = self.writer.as_mut().expect("set by the caller");
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
            let mut new = Vec::with_capacity(batch.len());
            let mut broken = None;
            for piece in batch {
                let mut piece = match piece {
                    Ok(piece) => piece,
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                };
                let here = writer.written().saturating_sub(position);
                let known = usize::try_from(here).unwrap_or(usize::MAX).min(piece.len());
                position += piece.len() as u64;
                if known > 0 {
                    let head = piece.split_to(known);
                    let at = position - (head.len() + piece.len()) as u64;
                    if !writer.matches(at, &head).await? {
                        return Err(self.contradicted(sender));
                    }
                }
                if !piece.is_empty() {
                    new.push(piece);
                }
            }
            if !new.is_empty() {
                if let Err(error) = writer.append(new).await {
                    if !matches!(error, Error::Overloaded { .. }) {
                        // Nobody knows how much of it is on disk, so nothing can follow.
                        self.cut(&error);
                    }
                    return Err(error);
                }
                status.progress(writer.written(), len);
            }
            if let Some(error) = broken {
                return Err(error);
            }
        }
        check_len(&self.unit, position, len)?;
        if position < self.received() {
            return Err(self.contradicted(sender));
        }
        Ok(())
    }

    /// The next batch of a body of which no client has anything yet.
    async fn next_before<S>(
        &self,
        batches: &mut S,
        deadline: Option<Instant>,
    ) -> Result<Option<S::Item>, Error>
    where
        S: Stream + Unpin,
    {
        let next = batches.next();
        let Some(deadline) = deadline else {
            return Ok(next.await);
        };
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

    /// Verifies what has been received, then shows all of it.
    ///
    /// `keep` takes it into the hot tier and notes it: before anybody has it whole, so that who
    /// has it finds it here again, should the store refuse it or the process be killed.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`]: it is not this artifact; nobody has been shown its end.
    /// [`Error::Storage`]: the spool could not be read.
    pub(crate) async fn verify(&mut self, verdict: Verdict, keep: bool) -> Result<(), Error> {
        self.lead.status().enter(Phase::Verifying);
        let whole = match &self.writer {
            None => {
                let body = self.small.take().unwrap_or_default();
                check(&self.key, body.clone()).await?;
                Whole::Small(body)
            }
            Some(writer) => {
                let map = writer.freeze()?;
                check(&self.key, map.slice(0..map.len())).await?;
                map.forget(0..map.len());
                Whole::Spooled(map)
            }
        };
        let stored = Stored {
            len: whole.len(),
            modified: self.core.clock.wall(),
            body: whole.body(),
        };
        if keep {
            self.note(&whole).await;
            self.core.hot.insert(self.key.clone(), stored.clone());
        }
        self.whole = Some(whole);
        match &mut self.writer {
            None => self.land_stored(stored, verdict),
            Some(writer) => {
                writer.complete();
                let filling = writer.filling().clone();
                // Without streaming this is the first that the waiters hear.
                self.lead.land(Ok(Landed::Filling { filling, verdict }));
            }
        }
        Ok(())
    }

    /// The whole body as the store takes it, and as the hot tier does.
    pub(crate) fn sources(&self) -> Option<(Source, Stored)> {
        let whole = self.whole.as_ref()?;
        let stored = Stored {
            len: whole.len(),
            modified: self.core.clock.wall(),
            body: whole.body(),
        };
        Some((self.source_of(whole)?, stored))
    }

    fn source_of(&self, whole: &Whole) -> Option<Source> {
        Some(match (whole, &self.writer) {
            (Whole::Small(body), _) => Source::Bytes(body.clone()),
            (Whole::Spooled(map), writer) => Source::File {
                path: writer.as_ref()?.path().to_owned(),
                len: map.len(),
                map: map.clone(),
            },
        })
    }

    /// Sees to it that the whole outlives this process until it is stored.
    async fn note(&mut self, whole: &Whole) {
        if let Some(source) = self.source_of(whole) {
            self.note = self.core.kept.note(&self.key, source).await;
        }
    }

    /// As [`Intake::verify`] does with `keep`, for a whole that a relay brought.
    pub(crate) async fn note_relayed(&mut self) {
        if let Some((source, _)) = self.sources() {
            self.note = self.core.kept.note(&self.key, source).await;
        }
    }

    /// Says that the whole is safe, or lost for good.
    pub(crate) async fn note_over(&mut self) {
        if let Some(note) = self.note.take() {
            note.over().await;
        }
    }

    /// What a spooled body takes of the budget; `None` for one in memory.
    pub(crate) fn space(&self) -> Option<SharedSpace> {
        self.writer.as_ref().map(FillingWriter::space)
    }

    fn corrupt(&self, reason: &str) -> Error {
        Error::Corrupt {
            unit: self.unit.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Cuts the clients whose bytes `sender` contradicts; returns the error of this source.
    fn contradicted(&mut self, sender: &str) -> Error {
        tracing::error!(
            unit = %self.unit,
            sender,
            "two senders have different bytes; clients that had the first were cut"
        );
        let error = self.corrupt("two senders have different bytes; try again");
        self.cut(&error);
        Error::Upstream {
            upstream: sender.to_owned(),
            reason: format!("it has other bytes of {} than arrived before", self.unit),
            source: None,
        }
    }
}

/// Checks a body; a zip on a blocking thread, because that takes a while.
async fn check(key: &ArtifactKey, body: Bytes) -> Result<(), Error> {
    if !key.is_zip() {
        return verify::check(key, &body).map(drop);
    }
    let (key, unit) = (key.clone(), key.unit());
    tokio::task::spawn_blocking(move || verify::check(&key, &body))
        .await
        .map_err(|_| Error::Internal { unit, source: None })?
        .map(drop)
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

/// Bytes of all `pieces` in one, in memory of their own.
///
/// A piece is a part of its connection's buffer, which a small file that stays in memory would keep
/// alive as a whole: many times what the hot tier counts for it.
fn of_its_own(pieces: Vec<Bytes>) -> Bytes {
    match pieces.as_slice() {
        [piece] => Bytes::copy_from_slice(piece),
        _ => joined(pieces),
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

async fn sleep_until(clock: &dyn lease::Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep(at.saturating_duration_since(clock.now())).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_body_keeps_no_connections_buffer_alive() {
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        let pieces = || vec![buffer.slice(100..150)];
        let body = of_its_own(pieces());
        assert_eq!(body, buffer.slice(100..150));
        assert_ne!(body.as_ptr(), pieces()[0].as_ptr());
        let two = of_its_own(vec![buffer.slice(0..2), buffer.slice(4..6)]);
        assert_eq!((two.len(), two.is_unique()), (4, true));
    }
}
