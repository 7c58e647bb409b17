//! One fill of an immutable artifact: lease, look again, fetch, verify, store, release.
//!
//! Runs as a flight's task. What it promises:
//! - Upstream is asked only after the store, the remembered failures and the lease were.
//! - Clients read the spool while it grows and get its tail only after verification.
//! - A failure is written down before the lease is released and before the flight leaves the
//!   table, so that nobody asks upstream again in between.
//! - Nobody waits for the object store once the bytes are verified.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::artifact::ArtifactKey;
use crate::artifacts::Verdict;
use crate::attempts::Attempts;
use crate::error::{Error, ErrorKind};
use crate::flight::{Lead, Phase};
use crate::intake::{Incoming, Intake};
use crate::layout;
use crate::peers::Origin;
use crate::relay::follow::{Order, Relay};
use crate::relay::serve::GrantedEntry;
use crate::spool::Filling;
use crate::store::{Created, Stored};
use crate::turn::{Turn, Wait};
use crate::upstream::{FetchRequest, Fetched, FetchedBody, ResumeFrom};
use crate::verify;
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

/// One fill on its way.
pub(crate) struct Fill {
    core: Arc<Core>,
    key: ArtifactKey,
    unit: String,
    intake: Intake,
    /// Upstreams whose body broke off in this fill.
    broken_at: Vec<Arc<str>>,
}

impl Fill {
    pub(crate) fn new(core: Arc<Core>, key: ArtifactKey, lead: FillLead) -> Self {
        let unit = key.unit();
        Self {
            intake: Intake::new(core.clone(), key.clone(), lead),
            core,
            key,
            unit,
            broken_at: Vec::new(),
        }
    }

    /// Runs the fill to its end; every way out has landed the flight.
    pub(crate) async fn run(mut self) {
        let cancelled = self.intake.lead().status().cancelled();
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
            self.core.log_failure(&self.unit, &error);
            self.intake.fail(error);
        }
    }

    async fn fill(&mut self) -> Result<(), Error> {
        if let Some(stored) = self.core.look(&self.key, &self.unit).await? {
            self.serve_stored(stored);
            return Ok(());
        }
        let (turn, _granted) = self.wait_for_turn().await?;
        let (guard, _unleased) = match turn {
            Turn::Theirs(stored) => return self.finish_from_store(stored).await,
            Turn::Ours { guard, _unleased } => (guard, _unleased),
        };
        let (core, key, unit) = (self.core.clone(), self.key.clone(), self.unit.clone());
        let is_leased = guard.is_some();
        let work = self.finish_alone(is_leased);
        core.under_lease(guard, &key, &unit, work).await
    }

    /// Waits until somebody else has stored it or it is our turn, and relays what the holder has
    /// meanwhile. Under a grant, the fill is known to those who ask to relay it.
    async fn wait_for_turn(&mut self) -> Result<(Turn<Stored>, Option<GrantedEntry>), Error> {
        let (core, key, unit) = (self.core.clone(), self.key.clone(), self.unit.clone());
        let status = self.intake.lead().status().clone();
        let wait = Wait::default();
        let (order, orders) = watch::channel(Order::Follow);
        let taking = async {
            let look = |look| core.look_as_far(&key, &unit, look);
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
                Ok(Turn::Theirs(_)) if !status.has_landed() => Order::Stop,
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

    /// It is our turn: fetches what is missing, and stores the whole.
    async fn finish_alone(&mut self, is_leased: bool) -> Result<(), Error> {
        if self.intake.whole().is_none() {
            return self.fetch_and_commit().await;
        }
        // Its holder has relayed all of it and then not stored it. Under a lease that was looked
        // up just now.
        if !is_leased && let Some(stored) = self.lookup().await? {
            return self.finish_from_store(stored).await;
        }
        if let Some((_, stored)) = self.intake.sources() {
            self.core.hot.insert(self.key.clone(), stored);
        }
        self.commit().await;
        Ok(())
    }

    async fn lookup(&self) -> Result<Option<Stored>, Error> {
        let path = layout::object_path(&self.key);
        self.core.store.lookup(&path).await
    }

    /// Attempts until one succeeds, or none may follow.
    async fn fetch_and_commit(&mut self) -> Result<(), Error> {
        let core = self.core.clone();
        let status = self.intake.lead().status().clone();
        // What a relay has shown can be gone on from, by any number of attempts.
        let is_continued = self.intake.is_shown();
        let mut attempts = Attempts::new(&core, &status);
        loop {
            let deadline = attempts.begin();
            let was_shown = self.intake.is_shown();
            let Err(error) = self.attempt(deadline).await else {
                break;
            };
            let is_cut = was_shown && !self.intake.is_shown();
            if is_cut && error.kind() == ErrorKind::Transient {
                // Upstream is not at fault: it contradicts what a relay had brought, and those
                // who had that are cut. Everybody else gets what upstream has.
                continue;
            }
            let may_retry =
                error.kind() != ErrorKind::Storage && (is_continued || !self.intake.is_shown());
            if may_retry {
                // Nobody reads from it, and its place in the spool is free while we wait.
                self.intake.discard_unseen();
            }
            attempts.pause_after(error, may_retry).await?;
        }
        self.intake.verify(Verdict::Miss, true).await?;
        self.commit().await;
        Ok(())
    }

    async fn attempt(&mut self, deadline: Instant) -> Result<(), Error> {
        let request = self.request(deadline);
        let fetched = self.core.upstream.fetch(&request).await?;
        let upstream = fetched.upstream.clone();
        let received = self.receive(fetched, deadline).await;
        if received.is_err() {
            self.broken_at.push(upstream);
        }
        received
    }

    fn request(&self, deadline: Instant) -> FetchRequest {
        let bytes_max = verify::bytes_max(&self.key).min(self.core.config.zip_bytes_max);
        let origin = self.intake.origin().filter(|_| self.intake.is_shown());
        let resume = origin.and_then(|origin| {
            Some(ResumeFrom {
                upstream: origin.upstream.clone(),
                offset: self.intake.received(),
                etag: origin.etag.clone()?,
            })
        });
        FetchRequest {
            first_byte_deadline: Some(deadline),
            broken_at: self.broken_at.clone(),
            resume,
            ..FetchRequest::new(&self.unit, layout::upstream_path(&self.key), bytes_max)
        }
    }

    async fn receive(&mut self, fetched: Fetched, deadline: Instant) -> Result<(), Error> {
        let FetchedBody::Modified(body) = fetched.body else {
            return Err(Error::Corrupt {
                unit: self.unit.clone(),
                reason: "304 was answered to an unconditional request".to_owned(),
            });
        };
        // A first attempt may be as slow as upstream's own limits allow. A later one must not
        // make the clients wait for those limits again: they would give up before we answer.
        let is_first = self.intake.lead().status().attempts() <= 1;
        let incoming = Incoming {
            sender: fetched.upstream.clone(),
            origin: Some(Origin {
                upstream: fetched.upstream,
                etag: fetched.etag,
            }),
            from: if fetched.resumed {
                self.intake.received()
            } else {
                0
            },
            len: fetched.len,
            verdict: Verdict::Miss,
            deadline: (!is_first).then_some(deadline),
            body,
        };
        self.intake.receive(incoming).await
    }

    /// Writes the verified bytes to the store. Its failure is no client's: they have the bytes.
    async fn commit(&mut self) {
        self.intake.lead().status().enter(Phase::Committing);
        let Some((source, _)) = self.intake.sources() else {
            return;
        };
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
                self.conflicts();
                self.core.metrics.count_fill("stored");
            }
            Err(error) => {
                self.core.metrics.count_commit("failed");
                self.core.metrics.count_fill("uncommitted");
                self.core.log_failure(&self.unit, &error);
            }
        }
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
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Interrupted => "interrupted",
        _ => "failed",
    }
}
