//! An operator's break, and the early take-over from a holder that seems dead.

use super::{Case, key};
use crate::testing::contract::wake;
use crate::{ForceRelease, LeaseToken, Outcome, ReleaseEvent, Released, Renewal, TakeOver, Wake};

pub(super) async fn a_break_frees_and_tells_both_sides(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    let mut subscription = case.a.subscribe(&grant.key);
    assert_eq!(
        case.force_release(&grant.key, &grant.token).await,
        ForceRelease::Forced
    );
    let (key, token) = (grant.key.clone(), grant.token);
    let event = ReleaseEvent {
        key,
        token,
        outcome: Outcome::Forced,
    };
    assert_eq!(wake(&mut subscription).await, Wake::Event(event));
    assert_eq!(case.view(&grant.key).await, None);
    for _ in 0..2 {
        assert_eq!(
            case.renew(&grant).await,
            Renewal::Forced,
            "also when the answer got lost"
        );
    }
    assert_eq!(case.release(&grant).await, Released::NotOwner);
}

pub(super) async fn a_break_is_for_one_grant_only(case: &Case<'_>) {
    let broken = case.grant(&key("k")).await;
    assert_eq!(
        case.force_release(&broken.key, &broken.token).await,
        ForceRelease::Forced
    );
    let next = case.grant(&broken.key).await;
    assert!(matches!(case.renew(&next).await, Renewal::Renewed { .. }));
    assert_eq!(case.renew(&broken).await, Renewal::Forced);
    assert_eq!(
        case.force_release(&broken.key, &broken.token).await,
        ForceRelease::Moved
    );
    assert_eq!(case.held(&next.key).await.token, next.token);
}

pub(super) async fn a_break_of_nothing_is_gone(case: &Case<'_>) {
    let key = key("k");
    assert_eq!(
        case.force_release(&key, &LeaseToken::random()).await,
        ForceRelease::Gone
    );
    let grant = case.grant(&key).await;
    case.setup.pass(case.ttl).await;
    assert_eq!(
        case.force_release(&key, &grant.token).await,
        ForceRelease::Gone
    );
    assert_eq!(
        case.renew(&grant).await,
        Renewal::Lost,
        "it expired, nobody broke it"
    );
}

pub(super) async fn a_break_with_an_old_token_moved(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    let mut subscription = case.a.subscribe(&grant.key);
    let other = LeaseToken::random();
    assert_eq!(
        case.force_release(&grant.key, &other).await,
        ForceRelease::Moved
    );
    assert!(matches!(case.renew(&grant).await, Renewal::Renewed { .. }));
    case.assert_quiet_until(&grant, &mut subscription).await;
}

pub(super) async fn a_take_over_frees_as_abandoned(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    let mut subscription = case.a.subscribe(&grant.key);
    assert_eq!(
        case.take_over(&grant.key, &grant.token).await,
        TakeOver::Freed
    );
    let (key, token) = (grant.key.clone(), grant.token);
    let event = ReleaseEvent {
        key,
        token,
        outcome: Outcome::Abandoned,
    };
    assert_eq!(wake(&mut subscription).await, Wake::Event(event));
    let next = case.grant(&grant.key).await;
    assert_eq!(
        case.renew(&grant).await,
        Renewal::Lost,
        "a holder that lives after all goes on"
    );
    assert_eq!(case.release(&grant).await, Released::NotOwner);
    assert_eq!(case.held(&next.key).await.token, next.token);
}

pub(super) async fn a_take_over_comes_once_per_ttl(case: &Case<'_>) {
    let first = case.grant(&key("k")).await;
    assert_eq!(
        case.take_over(&first.key, &first.token).await,
        TakeOver::Freed
    );
    let second = case.grant(&first.key).await;
    assert_eq!(
        case.take_over(&second.key, &second.token).await,
        TakeOver::Refused
    );
    assert_eq!(case.held(&second.key).await.token, second.token);
    let other = case.grant(&key("other")).await;
    assert_eq!(
        case.take_over(&other.key, &other.token).await,
        TakeOver::Freed
    );
    case.setup.pass(case.ttl / 2).await;
    assert!(matches!(case.renew(&second).await, Renewal::Renewed { .. }));
    case.setup.pass(case.ttl * 2 / 3).await;
    assert_eq!(
        case.take_over(&second.key, &second.token).await,
        TakeOver::Freed
    );
}

pub(super) async fn a_take_over_with_an_old_token_moved(case: &Case<'_>) {
    let key = key("k");
    assert_eq!(
        case.take_over(&key, &LeaseToken::random()).await,
        TakeOver::Gone
    );
    let grant = case.grant(&key).await;
    assert_eq!(
        case.take_over(&key, &LeaseToken::random()).await,
        TakeOver::Moved
    );
    assert!(matches!(case.renew(&grant).await, Renewal::Renewed { .. }));
    // Neither answer used up the one take-over of this TTL.
    assert_eq!(case.take_over(&key, &grant.token).await, TakeOver::Freed);
}
