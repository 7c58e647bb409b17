//! `Ledger`: what happened, in numbers, and the rules that they must obey at every step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use lease::{LeaseToken, Outcome};

use super::plan::Plan;

/// Requests that one licence allows: an attempt and its inline retries.
pub(super) const ATTEMPTS_MAX: u64 = 4;

/// The window in which wake-ups, commands and looks are counted together.
const WINDOW_MS: u128 = 10;

/// What gives an instance the right to ask upstream for an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Licence {
    /// It was granted the lease.
    Leased,
    /// It asked for the lease and got no answer.
    Refused,
    /// It was told that somebody else has it; only after waiting in vain may it ask all the same.
    Following,
}

/// A request to upstream, as the bounds count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    Leased,
    Unleased,
}

/// Which of its uses a command of the lease server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Acquire,
    /// The second command of an acquire that found somebody else.
    Describe,
    Renew,
    Release,
    /// Takes back a grant whose answer was lost.
    Undo,
    TakeOver,
    Record,
    /// An operator's.
    Other,
}

/// What is known of one artifact.
#[derive(Debug, Default)]
pub(super) struct UnitLedger {
    /// Upstream requests by instances that had been granted the lease.
    pub(super) leased: u64,
    /// Upstream requests by instances that got no answer from the lease server, or that waited
    /// for a holder in vain.
    pub(super) unleased: u64,
    /// Leased requests that did not bring the whole artifact.
    pub(super) failed: u64,
    pub(super) grants: u64,
    /// Grants that were given back, with an answer to say so.
    pub(super) released: u64,
    /// Grants given back as stored although the store did not have the artifact: its commit
    /// failed.
    pub(super) uncommitted: u64,
    /// Tries for the lease that got no answer.
    pub(super) refused: u64,
    /// Unleased requests that followed a wait in vain.
    pub(super) gave_up: u64,
    pub(super) taken_over: u64,
    last_take_over: Option<Duration>,
    released_tokens: HashSet<LeaseToken>,
    orphaned: Option<Duration>,
}

#[derive(Debug, Default)]
struct Held {
    licence: Option<Licence>,
    requests: u64,
    failed: u64,
    commands: u64,
    renewals: u64,
    fetched: bool,
}

/// The numbers of a run.
#[derive(Debug)]
pub(super) struct Ledger {
    calm: bool,
    pub(super) units: Vec<UnitLedger>,
    by_place: HashMap<(u32, usize), Held>,
    wakes: BTreeMap<u64, u64>,
    commands: BTreeMap<u64, u64>,
    looks: BTreeMap<u64, u64>,
    /// Wake-ups by the event of each release.
    wakes_of: HashMap<LeaseToken, u64>,
    pub(super) commands_in_all: u64,
    /// From a holder's death to the next request for what it was fetching.
    pub(super) recoveries: Vec<Duration>,
    pub(super) deaths: u64,
    /// What clients were answered with.
    pub(super) answers: BTreeMap<&'static str, u64>,
    /// How long each waited, in milliseconds.
    pub(super) waits_ms: Vec<u32>,
    pub(super) created: u64,
    /// From the end of an outage or a cut to an instance's first contact.
    pub(super) reconnects: Vec<Duration>,
}

impl Ledger {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            calm: plan.is_calm(),
            units: (0..plan.units).map(|_| UnitLedger::default()).collect(),
            by_place: HashMap::new(),
            wakes: BTreeMap::new(),
            commands: BTreeMap::new(),
            looks: BTreeMap::new(),
            wakes_of: HashMap::new(),
            commands_in_all: 0,
            recoveries: Vec::new(),
            deaths: 0,
            answers: BTreeMap::new(),
            waits_ms: Vec::new(),
            created: 0,
            reconnects: Vec::new(),
        }
    }

    /// A command was sent to the lease server.
    pub(super) fn command(&mut self, now: Duration, host: u32, unit: Option<usize>, op: Op) {
        *self.commands.entry(window(now)).or_default() += 1;
        self.commands_in_all += 1;
        if let Some(unit) = unit {
            let held = self.by_place.entry((host, unit)).or_default();
            match op {
                Op::Renew => held.renewals += 1,
                _ => held.commands += 1,
            }
        }
    }

    /// A look-up in the object store.
    pub(super) fn look(&mut self, now: Duration) {
        *self.looks.entry(window(now)).or_default() += 1;
    }

    /// An event reached `woken` waiters of one instance.
    pub(super) fn woken(&mut self, now: Duration, token: LeaseToken, woken: u64) {
        if woken > 0 {
            *self.wakes.entry(window(now)).or_default() += woken;
        }
        *self.wakes_of.entry(token).or_default() += woken;
    }

    /// The server granted a lease.
    pub(super) fn granted(&mut self, unit: usize, token: LeaseToken) -> Result<(), String> {
        let ledger = &mut self.units[unit];
        ledger.grants += 1;
        if ledger.released_tokens.contains(&token) {
            return Err(format!("released token {token} was granted again"));
        }
        Ok(())
    }

    /// The server renewed a lease.
    pub(super) fn renewed(&mut self, unit: usize, token: LeaseToken) -> Result<(), String> {
        if self.units[unit].released_tokens.contains(&token) {
            return Err(format!("released token {token} was renewed"));
        }
        Ok(())
    }

    /// The server took a lease back from its holder.
    pub(super) fn released(
        &mut self,
        unit: usize,
        token: LeaseToken,
        outcome: Outcome,
        is_stored: bool,
    ) -> Result<(), String> {
        let ledger = &mut self.units[unit];
        ledger.released += 1;
        if outcome == Outcome::Stored && !is_stored {
            ledger.uncommitted += 1;
        }
        if !ledger.released_tokens.insert(token) {
            return Err(format!("token {token} was released twice"));
        }
        Ok(())
    }

    /// The server freed a lease whose holder seemed dead; `now` is by the server's clock.
    pub(super) fn taken_over(
        &mut self,
        unit: usize,
        now: Duration,
        ttl: Duration,
    ) -> Result<(), String> {
        let ledger = &mut self.units[unit];
        ledger.taken_over += 1;
        let last = ledger.last_take_over.replace(now);
        match last {
            Some(last) if now >= last && now < last + ttl => {
                Err(format!("taken over twice within {ttl:?}"))
            }
            _ => Ok(()),
        }
    }

    /// The server forgot everything, so what it knew of take-overs binds it no more.
    pub(super) fn forgotten(&mut self) {
        for unit in &mut self.units {
            unit.last_take_over = None;
        }
    }

    /// An instance learned that it has the lease.
    pub(super) fn may_fetch(&mut self, host: u32, unit: usize) {
        self.license(host, unit, Licence::Leased);
    }

    /// An instance's try for the lease got no answer.
    pub(super) fn refused(&mut self, host: u32, unit: usize) {
        self.units[unit].refused += 1;
        self.license(host, unit, Licence::Refused);
    }

    /// An instance learned that somebody else has the lease.
    pub(super) fn follows(&mut self, host: u32, unit: usize) {
        self.license(host, unit, Licence::Following);
    }

    fn license(&mut self, host: u32, unit: usize, licence: Licence) {
        let held = self.by_place.entry((host, unit)).or_default();
        held.licence = Some(licence);
        held.requests = 0;
        held.failed = 0;
    }

    /// An instance asks upstream. `in_force`: somebody holds the lease now.
    ///
    /// The bound on leased requests: each of them but one is explained by an event of its own. It
    /// failed; or it was whole, and its commit failed, or its lease ended before it was given
    /// back. For if a request was whole and committed under a lease that lasted, then every later
    /// lease was granted after the commit, and the look that follows each grant finds the
    /// artifact. So at every moment
    ///
    /// `leased <= 1 + failed + uncommitted + lost`.
    pub(super) fn request(
        &mut self,
        now: Duration,
        host: u32,
        unit: usize,
        in_force: bool,
    ) -> Result<RequestKind, String> {
        let held = self.by_place.entry((host, unit)).or_default();
        let ledger = &mut self.units[unit];
        held.requests += 1;
        held.fetched = true;
        if let Some(since) = ledger.orphaned.take() {
            self.recoveries.push(now.saturating_sub(since));
        }
        if held.requests > held.failed + 1 || held.requests > ATTEMPTS_MAX {
            return Err(format!(
                "request {} of one turn, of which {} failed",
                held.requests, held.failed
            ));
        }
        let kind = match held.licence {
            None => return Err("upstream was asked before the lease was".to_owned()),
            Some(Licence::Leased) => {
                ledger.leased += 1;
                RequestKind::Leased
            }
            Some(Licence::Refused) => {
                ledger.unleased += 1;
                RequestKind::Unleased
            }
            Some(Licence::Following) => {
                ledger.unleased += 1;
                ledger.gave_up += u64::from(held.requests == 1);
                RequestKind::Unleased
            }
        };
        if self.calm && ledger.leased + ledger.unleased > 1 {
            return Err("asked for twice, and nothing had gone wrong".to_owned());
        }
        ledger.check(in_force)?;
        Ok(kind)
    }

    /// A request ended without the whole artifact.
    pub(super) fn request_failed(&mut self, host: u32, unit: usize, kind: RequestKind) {
        self.units[unit].failed += u64::from(kind == RequestKind::Leased);
        self.by_place.entry((host, unit)).or_default().failed += 1;
    }

    /// A process that held the lease of `unit` died while others waited for it.
    pub(super) fn orphaned(&mut self, now: Duration, unit: usize) {
        self.units[unit].orphaned.get_or_insert(now);
    }

    /// Nobody needs to ask for `unit` any more.
    pub(super) fn stored(&mut self, unit: usize) {
        self.created += 1;
        self.units[unit].orphaned = None;
    }

    /// A client got its answer.
    pub(super) fn answered(&mut self, answer: &'static str, waited: Duration) {
        *self.answers.entry(answer).or_default() += 1;
        self.waits_ms
            .push(u32::try_from(waited.as_millis()).unwrap_or(u32::MAX));
    }

    /// The most wake-ups, commands and store look-ups within one window of 10 ms.
    pub(super) fn peaks(&self) -> (u64, u64, u64) {
        let peak = |counts: &BTreeMap<u64, u64>| counts.values().copied().max().unwrap_or(0);
        (peak(&self.wakes), peak(&self.commands), peak(&self.looks))
    }

    /// Wake-ups by each release that woke anybody or could have.
    pub(super) fn wakes_per_release(&self) -> Vec<u64> {
        self.wakes_of.values().copied().collect()
    }

    /// For every pair of instance and artifact: whether it fetched, its commands, its renewals.
    pub(super) fn commands_by_role(&self) -> impl Iterator<Item = (bool, u64, u64)> {
        self.by_place
            .values()
            .map(|held| (held.fetched, held.commands, held.renewals))
    }
}

impl UnitLedger {
    /// Leases that ended otherwise than by being given back.
    pub(super) fn lost(&self, in_force: bool) -> u64 {
        self.grants - self.released - u64::from(in_force).min(self.grants - self.released)
    }

    /// Requests that the bounds allow.
    pub(super) fn allowed(&self, in_force: bool) -> u64 {
        let leased = 1 + self.failed + self.uncommitted + self.lost(in_force);
        leased + ATTEMPTS_MAX * (self.refused + self.gave_up)
    }

    /// Checks both bounds on upstream requests.
    pub(super) fn check(&self, in_force: bool) -> Result<(), String> {
        let lost = self.lost(in_force);
        let leased_max = 1 + self.failed + self.uncommitted + lost;
        if self.leased > leased_max {
            return Err(format!(
                "{} requests under a lease; 1 + {} failed + {} uncommitted + {lost} lost allow \
                 {leased_max}",
                self.leased, self.failed, self.uncommitted
            ));
        }
        let unleased_max = ATTEMPTS_MAX * (self.refused + self.gave_up);
        if self.unleased > unleased_max {
            return Err(format!(
                "{} requests without a lease; {} refusals and {} waits in vain allow \
                 {unleased_max}",
                self.unleased, self.refused, self.gave_up
            ));
        }
        Ok(())
    }
}

fn window(now: Duration) -> u64 {
    u64::try_from(now.as_millis() / WINDOW_MS).unwrap_or(u64::MAX)
}
