//! The contract of every [`LeaseTable`].

mod breaks;
mod events;
mod grants;
mod views;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::contract::{Report, pass_really, wake};
use crate::{
    Acquire, Clock, ForceRelease, Grant, HeldLease, Holder, LeaseKey, LeaseTable, LeaseToken,
    LeaseView, Outcome, Progress, ReleaseEvent, Released, Renewal, Subscription, TakeOver, Wake,
};

/// How the suite gets at an implementation.
#[async_trait]
pub trait LeaseTableSetup: Send + Sync + Debug {
    /// Makes an empty table that no other call's table touches, and returns two views of it: two
    /// connections of two instances, or the same table twice where there is only one.
    async fn fresh(&self) -> [Arc<dyn LeaseTable>; 2];

    /// Returns the clock that [`Grant::deadline`] is counted on.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Returns the TTL to use: half a second or more where time is real, anything otherwise.
    fn ttl(&self) -> Duration;

    /// Lets at least `by` pass; really, unless an implementation's clock is moved by hand.
    async fn pass(&self, by: Duration) {
        pass_really(by).await;
    }
}

/// Holds an implementation to the contract.
///
/// # Panics
///
/// When a case fails, after all have run, with the names of those that failed.
pub async fn lease_table_contract(setup: &dyn LeaseTableSetup) {
    let mut report = Report::new("lease_table_contract");
    macro_rules! cases {
        ($($group:ident::$name:ident),* $(,)?) => {
            $(report.case(stringify!($name), $group::$name(&Case::new(setup).await)).await;)*
        };
    }
    cases![
        grants::a_free_key_is_granted,
        grants::a_held_key_says_who_holds_it,
        grants::every_grant_has_a_token_of_its_own,
        grants::one_of_many_wins,
        grants::keys_are_independent,
        grants::any_text_is_a_key,
        grants::a_ttl_below_a_millisecond_is_refused,
        grants::the_deadline_is_never_after_the_end,
        grants::a_renewal_extends,
        grants::a_renewal_after_the_end_is_lost,
        grants::a_stale_renewal_changes_nothing,
        events::expiry_frees_without_an_event,
        grants::a_release_frees_for_everyone,
        grants::a_stale_release_changes_nothing,
        grants::a_second_release_spares_the_next_grant,
        grants::a_release_after_the_end_is_not_the_owners,
        events::an_event_before_the_wait_is_latched,
        events::an_event_reaches_every_subscriber,
        events::an_event_says_how_it_ended,
        events::other_keys_are_not_woken,
        events::a_cancelled_wait_loses_nothing,
        events::a_subscription_ends_with_its_drop,
        breaks::a_break_frees_and_tells_both_sides,
        breaks::a_break_is_for_one_grant_only,
        breaks::a_break_of_nothing_is_gone,
        breaks::a_break_with_an_old_token_moved,
        breaks::a_take_over_frees_as_abandoned,
        breaks::a_take_over_comes_once_per_ttl,
        breaks::a_take_over_with_an_old_token_moved,
        views::progress_is_visible_and_starts_anew,
        views::a_view_ages_and_nears_its_end,
        views::what_ended_is_not_shown,
        views::a_list_is_in_order_and_in_pages,
        views::a_list_takes_the_filter_literally,
    ];
    report.finish();
}

struct Case<'a> {
    setup: &'a dyn LeaseTableSetup,
    /// The first instance's view, and the second's.
    a: Arc<dyn LeaseTable>,
    b: Arc<dyn LeaseTable>,
    ttl: Duration,
}

fn key(text: &str) -> LeaseKey {
    LeaseKey::new(text).expect("the suite's keys are valid")
}

fn holder(name: &str) -> Holder {
    Holder {
        instance: Arc::from(name),
        address: Some(Arc::from("127.0.0.1:7")),
    }
}

impl<'a> Case<'a> {
    async fn new(setup: &'a dyn LeaseTableSetup) -> Self {
        let [a, b] = setup.fresh().await;
        Self {
            setup,
            a,
            b,
            ttl: setup.ttl(),
        }
    }

    async fn try_as(&self, table: &dyn LeaseTable, key: &LeaseKey, name: &str) -> Acquire {
        table
            .try_acquire(key, &holder(name), self.ttl)
            .await
            .expect("the table answers")
    }

    async fn grant(&self, key: &LeaseKey) -> Grant {
        match self.try_as(&*self.a, key, "a").await {
            Acquire::Granted(grant) => grant,
            Acquire::Held(held) => panic!("{key} is held: {held:?}"),
        }
    }

    async fn held(&self, key: &LeaseKey) -> HeldLease {
        match self.try_as(&*self.b, key, "b").await {
            Acquire::Held(held) => held,
            Acquire::Granted(grant) => panic!("{key} was free: {grant:?}"),
        }
    }

    async fn view(&self, key: &LeaseKey) -> Option<LeaseView> {
        self.b.get(key).await.expect("the table answers")
    }

    async fn renew(&self, grant: &Grant) -> Renewal {
        self.a
            .renew(grant, &Progress::default())
            .await
            .expect("the table answers")
    }

    async fn release(&self, grant: &Grant) -> Released {
        self.a
            .release(grant, Outcome::Stored)
            .await
            .expect("the table answers")
    }

    async fn take_over(&self, key: &LeaseKey, token: &LeaseToken) -> TakeOver {
        self.b
            .take_over(key, token, self.ttl)
            .await
            .expect("the table answers")
    }

    async fn force_release(&self, key: &LeaseKey, token: &LeaseToken) -> ForceRelease {
        self.b
            .force_release(key, token)
            .await
            .expect("the table answers")
    }

    /// Takes and gives back `key`, and waits for the event: what had been told of `key` before this
    /// was called has reached every subscription when it returns.
    ///
    /// By the same key, since only events of one key come in order: another key's may come from
    /// another server.
    async fn fence(&self, key: &LeaseKey) {
        let mut here = [self.a.subscribe(key), self.b.subscribe(key)];
        let grant = self.grant(key).await;
        assert_eq!(self.release(&grant).await, Released::Released);
        let event = stored(&grant);
        for subscription in &mut here {
            while wake(subscription).await != event {}
        }
    }

    /// Gives back `held`, and finds its event to be the first thing that `subscription` is told.
    async fn assert_quiet_until(&self, held: &Grant, subscription: &mut Subscription) {
        assert_eq!(self.release(held).await, Released::Released);
        assert_eq!(
            wake(subscription).await,
            stored(held),
            "nothing was to be told before"
        );
    }
}

/// What is told when `grant` is released as stored.
fn stored(grant: &Grant) -> Wake {
    Wake::Event(ReleaseEvent {
        key: grant.key.clone(),
        token: grant.token,
        outcome: Outcome::Stored,
    })
}
