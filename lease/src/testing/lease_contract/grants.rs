//! Grants, renewals and releases: who has the lease, and until when.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::{Case, holder, key, stored};
use crate::testing::contract::wake;
use crate::{
    Acquire, Grant, Holder, LeaseKey, LeaseToken, Outcome, Progress, ReleaseEvent, Released,
    Renewal, Wake,
};

pub(super) async fn a_free_key_is_granted(case: &Case<'_>) {
    let key = key("k");
    assert_eq!(case.view(&key).await, None);
    let grant = case.grant(&key).await;
    assert_eq!((&grant.key, grant.ttl), (&key, case.ttl));
    assert_eq!(
        case.view(&key).await.map(|view| view.token),
        Some(grant.token)
    );
}

pub(super) async fn a_held_key_says_who_holds_it(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    let held = case.held(&grant.key).await;
    assert_eq!((held.token, &held.holder), (grant.token, &holder("a")));
    assert!(
        held.expires_in > Duration::ZERO && held.expires_in <= case.ttl,
        "{held:?}"
    );
    assert_eq!(held.progress, Progress::default());
    let again = case.try_as(&*case.a, &grant.key, "a").await;
    assert!(
        matches!(again, Acquire::Held(_)),
        "leases are not reentrant: {again:?}"
    );
    let nowhere = Holder {
        instance: Arc::from("n"),
        address: None,
    };
    let other = key("other");
    case.a
        .try_acquire(&other, &nowhere, case.ttl)
        .await
        .expect("the table answers");
    assert_eq!(case.held(&other).await.holder, nowhere);
}

pub(super) async fn every_grant_has_a_token_of_its_own(case: &Case<'_>) {
    let mut tokens = HashSet::new();
    for _ in 0..5 {
        let grant = case.grant(&key("k")).await;
        assert!(tokens.insert(grant.token), "{} came twice", grant.token);
        case.release(&grant).await;
    }
}

pub(super) async fn one_of_many_wins(case: &Case<'_>) {
    let key = key("k");
    let tries = (0..32).map(|n| {
        let table = if n % 2 == 0 { &*case.a } else { &*case.b };
        let key = &key;
        async move { case.try_as(table, key, "many").await }
    });
    let answers = join_all(tries).await;
    let granted = answers
        .iter()
        .filter(|answer| matches!(answer, Acquire::Granted(_)))
        .count();
    assert_eq!(granted, 1);
}

pub(super) async fn keys_are_independent(case: &Case<'_>) {
    let (first, second) = (case.grant(&key("k")).await, case.grant(&key("k2")).await);
    assert_eq!(case.release(&first).await, Released::Released);
    assert_eq!(case.held(&second.key).await.token, second.token);
    // A grant is good for its own key only.
    let crossed = Grant {
        key: second.key.clone(),
        ..first
    };
    assert_eq!(case.renew(&crossed).await, Renewal::Lost);
    assert_eq!(case.release(&crossed).await, Released::NotOwner);
    assert_eq!(case.held(&second.key).await.token, second.token);
}

pub(super) async fn any_text_is_a_key(case: &Case<'_>) {
    let long = "k".repeat(LeaseKey::BYTES_MAX);
    let texts = [
        " ",
        "{a}b",
        "{}",
        "}{",
        "*",
        "a|b|c",
        "a:b",
        "?[x]\\",
        "日本/é",
        "%25",
        "\"'",
        &long,
    ];
    for text in texts {
        let key = key(text);
        let mut subscription = case.b.subscribe(&key);
        let grant = case.grant(&key).await;
        assert_eq!(case.held(&key).await.token, grant.token, "{text}");
        assert_eq!(case.release(&grant).await, Released::Released, "{text}");
        let (token, outcome) = (grant.token, Outcome::Stored);
        let event = ReleaseEvent {
            key,
            token,
            outcome,
        };
        assert_eq!(wake(&mut subscription).await, Wake::Event(event), "{text}");
    }
}

// acceptance: A19
pub(super) async fn a_ttl_below_a_millisecond_is_refused(case: &Case<'_>) {
    let key = key("k");
    for ttl in [Duration::ZERO, Duration::from_nanos(999_999), Duration::MAX] {
        let answer = case.a.try_acquire(&key, &holder("a"), ttl).await;
        assert!(answer.is_err(), "{ttl:?}: {answer:?}");
        let answer = case.a.take_over(&key, &LeaseToken::random(), ttl).await;
        assert!(answer.is_err(), "{ttl:?}: {answer:?}");
    }
    assert_eq!(case.view(&key).await, None);
}

pub(super) async fn the_deadline_is_never_after_the_end(case: &Case<'_>) {
    let clock = case.setup.clock();
    let before = clock.now();
    let grant = case.grant(&key("k")).await;
    let view = case.view(&grant.key).await.expect("it is held");
    let after = clock.now();
    assert!(
        grant.deadline >= before && grant.deadline <= after + case.ttl,
        "{grant:?}"
    );
    // The view was asked for before `after`, so the true end is no earlier than this.
    let slack = Duration::from_millis(2);
    assert!(
        grant.deadline <= after + view.expires_in + slack,
        "{grant:?} {view:?}"
    );
    case.setup.pass(case.ttl / 2).await;
    match case.renew(&grant).await {
        Renewal::Renewed { deadline } => {
            assert!(deadline > grant.deadline && deadline <= clock.now() + case.ttl);
        }
        other => panic!("{other:?}"),
    }
}

pub(super) async fn a_renewal_extends(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    for _ in 0..3 {
        case.setup.pass(case.ttl / 2).await;
        assert!(matches!(case.renew(&grant).await, Renewal::Renewed { .. }));
    }
    assert_eq!(case.held(&grant.key).await.token, grant.token);
}

pub(super) async fn a_renewal_after_the_end_is_lost(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    case.setup.pass(case.ttl).await;
    assert_eq!(case.renew(&grant).await, Renewal::Lost);
    assert_eq!(
        case.view(&grant.key).await,
        None,
        "a late renewal must not bring it back"
    );
}

// fault: 6
pub(super) async fn a_stale_renewal_changes_nothing(case: &Case<'_>) {
    let stale = case.grant(&key("k")).await;
    case.setup.pass(case.ttl).await;
    let fresh = case.grant(&stale.key).await;
    let before = case.view(&fresh.key).await;
    let progress = Progress {
        bytes: 9,
        total: Some(9),
        waiters: 9,
    };
    assert_eq!(
        case.a
            .renew(&stale, &progress)
            .await
            .expect("the table answers"),
        Renewal::Lost
    );
    let (before, after) = (
        before.expect("held"),
        case.view(&fresh.key).await.expect("held"),
    );
    assert_eq!(
        (after.token, after.progress),
        (fresh.token, before.progress)
    );
    assert!(
        after.expires_in <= before.expires_in,
        "{before:?} {after:?}"
    );
}

pub(super) async fn a_release_frees_for_everyone(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    assert_eq!(case.release(&grant).await, Released::Released);
    assert_eq!(case.view(&grant.key).await, None);
    let next = case.try_as(&*case.b, &grant.key, "b").await;
    assert!(matches!(next, Acquire::Granted(_)), "{next:?}");
}

// fault: 6
pub(super) async fn a_stale_release_changes_nothing(case: &Case<'_>) {
    let stale = case.grant(&key("k")).await;
    case.setup.pass(case.ttl).await;
    let fresh = case.grant(&stale.key).await;
    let mut subscription = case.b.subscribe(&stale.key);
    assert_eq!(case.release(&stale).await, Released::NotOwner);
    assert_eq!(case.held(&fresh.key).await.token, fresh.token);
    case.assert_quiet_until(&fresh, &mut subscription).await;
}

// fault: 19
pub(super) async fn a_second_release_spares_the_next_grant(case: &Case<'_>) {
    let first = case.grant(&key("k")).await;
    let mut subscription = case.b.subscribe(&first.key);
    assert_eq!(case.release(&first).await, Released::Released);
    assert_eq!(wake(&mut subscription).await, stored(&first));
    let second = case.grant(&first.key).await;
    assert_eq!(case.release(&first).await, Released::NotOwner);
    assert_eq!(case.held(&second.key).await.token, second.token);
    case.assert_quiet_until(&second, &mut subscription).await;
}

pub(super) async fn a_release_after_the_end_is_not_the_owners(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    let mut subscription = case.b.subscribe(&grant.key);
    case.setup.pass(case.ttl).await;
    assert_eq!(case.release(&grant).await, Released::NotOwner);
    let next = case.grant(&grant.key).await;
    case.assert_quiet_until(&next, &mut subscription).await;
}
