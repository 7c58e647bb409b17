//! One fill of an immutable artifact: lease, look again, fetch, verify, store or keep, release.
//!
//! Runs as a flight's task. What it promises:
//! - Upstream is asked only after the store, the remembered failures and the lease were.
//! - Clients read the spool while it grows and get its tail only after verification.
//! - A failure is written down before the lease is released and before the flight leaves the
//!   table, so that nobody asks upstream again in between.
//! - Nobody waits for the object store once the bytes are verified.

mod fetch;

use std::sync::Arc;

use futures::StreamExt;
use lease::{LeaseGuard, LeaseToken};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::artifact::ArtifactKey;
use crate::artifacts::Verdict;
use crate::attempts::Done;
use crate::error::{Error, ErrorKind};
use crate::flight::{Lead, Phase};
use crate::intake::{Incoming, Intake};
use crate::kept::SpooledAt;
use crate::look::Found;
use crate::relay;
use crate::relay::follow::{Order, Relay};
use crate::relay::serve::GrantedEntry;
use crate::spool::Filling;
use crate::store::{Created, Stored};
use crate::turn::{Look, Turn, Wait};
use crate::upload::Committed;
use crate::warmer::Core;

/// Where a flight's seats find their artifact.
#[derive(Debug, Clone)]
pub(crate) enum Landed {
    /// Complete.
    Stored { stored: Stored, verdict: Verdict },
    /// Arriving.
    Filling {
        filling: Arc<Filling>,
        verdict: Verdict,
    },
    /// A mutable document.
    Document(crate::refresh::DocumentAnswer),
}

/// The leader's side of a flight of this crate.
pub(crate) type FillLead = Lead<ArtifactKey, Landed>;

/// On whose behalf a fill was begun. Others may join it all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LedBy {
    /// A client, who waits.
    Client,
    /// A job for later. The job's runs are its retries, so it makes one attempt, and it asks
    /// although the failure that made the job is remembered.
    Job,
}

impl LedBy {
    /// How far to look where a client would look as far as `look`.
    ///
    /// The failure that a job finds remembered is its own reason, unless it was met by somebody
    /// whom it has followed since.
    fn look(self, look: Look, has_followed: bool) -> Look {
        match (self, look) {
            (Self::Job, Look::ResultOrFailure) if !has_followed => Look::ResultOrAbsence,
            _ => look,
        }
    }
}

/// Our turn, with what must last as long as the work.
struct Ours {
    guard: Option<LeaseGuard>,
    _unleased: Option<OwnedSemaphorePermit>,
    _granted: Option<GrantedEntry>,
}

/// One fill on its way.
pub(crate) struct Fill {
    core: Arc<Core>,
    key: ArtifactKey,
    unit: String,
    led_by: LedBy,
    intake: Intake,
    /// Upstreams whose body broke off in this fill.
    broken_at: Vec<Arc<str>>,
    /// What others keep and did not give.
    out_of_reach: Vec<LeaseToken>,
    /// Whether its failure was made a job of.
    is_pushed: bool,
}

impl Fill {
    pub(crate) fn new(core: Arc<Core>, key: ArtifactKey, lead: FillLead, led_by: LedBy) -> Self {
        let unit = key.unit();
        Self {
            intake: Intake::new(core.clone(), key.clone(), lead),
            core,
            key,
            unit,
            led_by,
            broken_at: Vec::new(),
            out_of_reach: Vec::new(),
            is_pushed: false,
        }
    }

    /// Runs the fill to its end; every way out has landed the flight.
    pub(crate) async fn run(mut self) {
        let cancelled = self.intake.lead().status().cancelled();
        let result = tokio::select! {
            result = self.fill() => result,
            () = cancelled => Err(Error::Interrupted { unit: self.unit.clone() }),
        };
        if let Err(error) = result {
            let outcome = match self.intake.whole() {
                // The clients have everything. Whether the store has it is not known, or what
                // it has instead, so nobody else must be served from memory.
                Some(_) => {
                    self.core.hot.remove(&self.key);
                    "uncommitted"
                }
                None => fill_outcome(error.kind()),
            };
            self.core.metrics.count_fill(outcome);
            self.log_failure(&error);
            self.try_again_later(&error).await;
            self.intake.fail(error);
        }
    }

    fn log_failure(&self, error: &Error) {
        match self.led_by {
            // Its history has it, and it may come back many times.
            LedBy::Job => tracing::debug!(unit = self.unit, %error, "a job's fetch failed"),
            _ => self.core.log_failure(&self.unit, error),
        }
    }

    /// Makes a job of the failure, once, if it is one to try again. Whoever is told of it
    /// afterwards can rely on the job.
    async fn try_again_later(&mut self, error: &Error) {
        if self.led_by == LedBy::Job || self.is_pushed {
            return;
        }
        let retries = &self.core.retries;
        if error.kind() == ErrorKind::Interrupted && self.core.flights.is_stopping() {
            retries.push_cut_short(&self.key).await;
        } else {
            retries.push_fetch(&self.key, error).await;
        }
        // Not before: what ends the fill in the middle of a push finds that there may be no job.
        self.is_pushed = true;
    }

    /// Gets it within `fill.max_duration`.
    async fn fill(&mut self) -> Result<(), Error> {
        let (core, key, unit) = (self.core.clone(), self.key.clone(), self.unit.clone());
        let (clock, fill_max) = (&*core.clock, core.config.fill_max);
        let ends = clock.now() + fill_max;
        let found = lease::timeout(clock, fill_max, self.found_or_ours()).await;
        let ours = found.unwrap_or_else(|| Err(self.took_too_long()))?;
        let Some(Ours {
            guard,
            _unleased,
            _granted,
        }) = ours
        else {
            return Ok(());
        };
        let is_leased = guard.is_some();
        let work = async {
            let left = ends.saturating_duration_since(clock.now());
            let done = lease::timeout(clock, left, self.finish_alone(is_leased)).await;
            match done {
                Some(done) => done,
                // Under the lease: whoever has it next must find this written down, or would hang
                // as long.
                None => {
                    let error = self.took_too_long();
                    self.try_again_later(&error).await;
                    Err(error)
                }
            }
        };
        core.under_lease(guard, &key, &unit, work).await
    }

    fn took_too_long(&self) -> Error {
        Error::TimedOut {
            upstream: "all".to_owned(),
            reason: format!("{} took longer than fill.max_duration", self.unit),
        }
    }

    /// Serves what is here or what others have, as it comes; otherwise returns our turn.
    async fn found_or_ours(&mut self) -> Result<Option<Ours>, Error> {
        let look = self.led_by.look(Look::ResultOrFailure, false);
        let (core, key, unit) = (self.core.clone(), self.key.clone(), self.unit.clone());
        match core.look_as_far(&key, &unit, look, &[]).await? {
            Some(Found::Stored(stored)) => {
                self.serve_stored(stored);
                return Ok(None);
            }
            Some(Found::Spooled(at)) if self.finish_from_keeper(&at).await => return Ok(None),
            Some(Found::Spooled(_)) | None => {}
        }
        loop {
            let (turn, _granted) = self.wait_for_turn().await?;
            match turn {
                Turn::Theirs(Found::Stored(stored)) => {
                    return self.finish_from_store(stored).await.map(|()| None);
                }
                Turn::Theirs(Found::Spooled(at)) => {
                    if self.finish_from_keeper(&at).await {
                        return Ok(None);
                    }
                }
                Turn::Ours { guard, _unleased } => {
                    return Ok(Some(Ours {
                        guard,
                        _unleased,
                        _granted,
                    }));
                }
            }
        }
    }

    /// Waits until somebody else has stored it or it is our turn, and relays what the holder has
    /// meanwhile. Under a grant, the fill is known to those who ask to relay it.
    async fn wait_for_turn(&mut self) -> Result<(Turn<Found>, Option<GrantedEntry>), Error> {
        let (core, key, unit) = (self.core.clone(), self.key.clone(), self.unit.clone());
        let led_by = self.led_by;
        let out_of_reach = self.out_of_reach.clone();
        let status = self.intake.lead().status().clone();
        let wait = Wait::default();
        let (order, orders) = watch::channel(Order::Follow);
        let taking = async {
            let look = |look| {
                let look = led_by.look(look, wait.has_followed());
                core.look_as_far(&key, &unit, look, &out_of_reach)
            };
            let turn = core
                .turns
                .take(&unit, &status, &core.config, &wait, look)
                .await;
            let granted = match &turn {
                Ok(Turn::Ours {
                    guard: Some(guard), ..
                }) => Some(core.granted.enter(guard.token(), &key, status.id())),
                _ => None,
            };
            // It ends between two pieces, not in the middle of one.
            order.send_replace(match turn {
                // Clients who have nothing yet are served from the store at once.
                Ok(Turn::Theirs(Found::Stored(_))) if !status.has_landed() => Order::Stop,
                Ok(_) => Order::Finish,
                Err(_) => Order::Stop,
            });
            (turn, granted)
        };
        let relay = Relay {
            core: &core,
            unit: &unit,
            intake: &mut self.intake,
            wait: &wait,
            orders,
        };
        let ((turn, granted), ()) = tokio::join!(taking, relay.run());
        Ok((turn?, granted))
    }

    fn serve_stored(&mut self, stored: Stored) {
        self.core.hot.insert(self.key.clone(), stored.clone());
        self.core.metrics.count_fill("already_stored");
        self.intake.land_stored(stored, Verdict::HitStored);
    }

    /// Somebody else has stored it: gives the clients what they do not have yet.
    async fn finish_from_store(&mut self, stored: Stored) -> Result<(), Error> {
        if let Some(whole) = self.intake.whole() {
            if whole.len() != stored.len {
                self.conflicts();
            }
        } else if self.intake.is_shown() {
            let unit = self.unit.clone();
            let body = stored.body.stream(0..stored.len).map(move |piece| {
                piece.map_err(|source| Error::storage(format!("reading {unit}"), source))
            });
            let incoming = Incoming {
                sender: Arc::from("the store"),
                origin: None,
                from: 0,
                len: Some(stored.len),
                verdict: Verdict::HitStored,
                deadline: None,
                body: body.boxed(),
            };
            self.intake.receive(incoming).await?;
            self.intake.verify(Verdict::HitStored, false).await?;
        } else {
            self.intake.discard_unseen();
            self.serve_stored(stored);
            return Ok(());
        }
        // What is kept here is what is stored, whatever the relay brought.
        self.core.hot.insert(self.key.clone(), stored);
        self.core.metrics.count_fill("relayed");
        Ok(())
    }

    /// Another instance keeps it: gives the clients what they do not have yet, as it comes from
    /// there; tells whether that went well. If not, it counts as not kept for this fill.
    async fn finish_from_keeper(&mut self, at: &SpooledAt) -> bool {
        if self.intake.whole().is_none() {
            let core = self.core.clone();
            let unit = self.unit.clone();
            if !relay::from_keeper(&core, &unit, &mut self.intake, at).await {
                self.out_of_reach.push(at.token);
                return false;
            }
        }
        // It is not in the store, so that memory is where it is found again.
        if let Some((_, stored)) = self.intake.sources() {
            self.core.hot.insert(self.key.clone(), stored);
        }
        self.core.metrics.count_fill("relayed");
        true
    }

    /// It is our turn: fetches what is missing, and stores the whole.
    async fn finish_alone(&mut self, is_leased: bool) -> Result<Done, Error> {
        if self.intake.whole().is_none() {
            return self.fetch_and_commit().await;
        }
        // Its holder has relayed all of it and then not stored it. Under a lease that was looked
        // up just now.
        if !is_leased && let Some(stored) = self.core.lookup(&self.key).await? {
            return self.finish_from_store(stored).await.map(|()| Done::Stored);
        }
        if let Some((_, stored)) = self.intake.sources() {
            self.core.hot.insert(self.key.clone(), stored);
        }
        self.intake.note_relayed().await;
        Ok(self.commit().await)
    }

    /// Writes the verified bytes to the store, or keeps them for it. No failure of that is a
    /// client's: they have the bytes.
    async fn commit(&mut self) -> Done {
        self.intake.lead().status().enter(Phase::Committing);
        let Some((source, _)) = self.intake.sources() else {
            return Done::Uncommitted;
        };
        let space = self.intake.space();
        let (done, outcome) = match self.core.commit(&self.key, source, space).await {
            Committed::Stored(Created::Created) => {
                self.core.metrics.count_commit("created");
                (Done::Stored, "stored")
            }
            Committed::Stored(Created::ExistsSame) => {
                self.core.metrics.count_commit("exists_same");
                (Done::Stored, "stored")
            }
            Committed::Stored(Created::Conflict { .. }) => {
                self.conflicts();
                (Done::Stored, "stored")
            }
            Committed::Spooled => (Done::Spooled, "spooled"),
            Committed::Lost => {
                // What is nowhere else must not be in this memory only, for as long as it lasts.
                self.core.hot.remove(&self.key);
                (Done::Uncommitted, "uncommitted")
            }
        };
        self.intake.note_over().await;
        self.core.metrics.count_fill(outcome);
        done
    }

    /// What is stored is not what came: it stays, and somebody should know.
    fn conflicts(&self) {
        self.core.metrics.count_commit("conflict");
        self.core.hot.remove(&self.key);
        tracing::error!(
            unit = %self.unit,
            "upstream now has other bytes than are stored; the stored ones are kept"
        );
    }
}

/// The `outcome` label of a fill that ended with an error of `kind`.
pub(crate) fn fill_outcome(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::InvalidName => "not_found",
        ErrorKind::Forbidden | ErrorKind::Refused => "refused",
        ErrorKind::Corrupt | ErrorKind::TooLarge => "corrupt",
        ErrorKind::Interrupted => "interrupted",
        _ => "failed",
    }
}
