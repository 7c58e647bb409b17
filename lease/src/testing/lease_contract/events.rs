//! Release events: who is told, and what is never told.

use futures::FutureExt;

use super::{Case, key, stored};
use crate::testing::contract::wake;
use crate::{Outcome, ReleaseEvent, Released, Wake};

pub(super) async fn expiry_frees_without_an_event(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    let mut subscription = case.b.subscribe(&grant.key);
    case.setup.pass(case.ttl).await;
    let next = case.grant(&grant.key).await;
    assert_ne!(next.token, grant.token);
    case.assert_quiet_until(&next, &mut subscription).await;
}

// fault: 17
pub(super) async fn an_event_before_the_wait_is_latched(case: &Case<'_>) {
    let key = key("k");
    let mut subscription = case.b.subscribe(&key);
    let grant = case.grant(&key).await;
    assert_eq!(case.release(&grant).await, Released::Released);
    case.fence(&key).await;
    assert_eq!(subscription.woken().now_or_never(), Some(stored(&grant)));
}

pub(super) async fn an_event_reaches_every_subscriber(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    let mut waiting: Vec<_> = (0..8)
        .map(|n| {
            if n % 2 == 0 {
                case.a.subscribe(&grant.key)
            } else {
                case.b.subscribe(&grant.key)
            }
        })
        .collect();
    case.release(&grant).await;
    let next = case.grant(&grant.key).await;
    case.release(&next).await;
    for subscription in &mut waiting {
        assert!(subscription.is_live());
        assert_eq!(wake(subscription).await, stored(&grant));
        assert_eq!(
            wake(subscription).await,
            stored(&next),
            "one release, one event"
        );
    }
}

pub(super) async fn an_event_says_how_it_ended(case: &Case<'_>) {
    let key = key("k");
    let mut subscription = case.b.subscribe(&key);
    for outcome in Outcome::ALL {
        let grant = case.grant(&key).await;
        let released = case
            .a
            .release(&grant, outcome)
            .await
            .expect("the table answers");
        assert_eq!(released, Released::Released);
        let event = ReleaseEvent {
            key: key.clone(),
            token: grant.token,
            outcome,
        };
        assert_eq!(wake(&mut subscription).await, Wake::Event(event));
    }
}

pub(super) async fn other_keys_are_not_woken(case: &Case<'_>) {
    let mut others: Vec<_> = ["k", "kk/", "K", "kk2", "*"]
        .map(|text| (key(text), case.b.subscribe(&key(text))))
        .into();
    let grant = case.grant(&key("kk")).await;
    case.release(&grant).await;
    case.fence(&grant.key).await;
    for (key, subscription) in &mut others {
        let own = case.grant(key).await;
        case.assert_quiet_until(&own, subscription).await;
    }
}

pub(super) async fn a_cancelled_wait_loses_nothing(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    let mut subscription = case.b.subscribe(&grant.key);
    for _ in 0..3 {
        assert_eq!(subscription.woken().now_or_never(), None);
    }
    case.release(&grant).await;
    case.fence(&grant.key).await;
    drop(subscription.woken());
    assert_eq!(subscription.woken().now_or_never(), Some(stored(&grant)));
}

pub(super) async fn a_subscription_ends_with_its_drop(case: &Case<'_>) {
    let key = key("k");
    drop(case.b.subscribe(&key));
    let mut kept = case.b.subscribe(&key);
    drop(case.b.subscribe(&key));
    let grant = case.grant(&key).await;
    case.release(&grant).await;
    assert!(matches!(wake(&mut kept).await, Wake::Event(_)));
}
