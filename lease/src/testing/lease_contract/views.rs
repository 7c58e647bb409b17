//! What is shown of leases: one, all, by page and by filter.

use std::time::Duration;

use super::{Case, holder, key};
use crate::{LeaseQuery, Progress};

pub(super) async fn progress_is_visible_and_starts_anew(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    for progress in [
        Progress {
            bytes: 10,
            total: None,
            waiters: 1,
        },
        Progress {
            bytes: u64::MAX,
            total: Some(u64::MAX),
            waiters: 0,
        },
    ] {
        case.a
            .renew(&grant, &progress)
            .await
            .expect("the table answers");
        assert_eq!(case.held(&grant.key).await.progress, progress);
        assert_eq!(
            case.view(&grant.key).await.map(|view| view.progress),
            Some(progress)
        );
    }
    case.release(&grant).await;
    case.grant(&grant.key).await;
    assert_eq!(case.held(&grant.key).await.progress, Progress::default());
}

pub(super) async fn a_view_ages_and_nears_its_end(case: &Case<'_>) {
    let grant = case.grant(&key("k")).await;
    case.setup.pass(case.ttl / 2).await;
    let view = case.view(&grant.key).await.expect("it is held");
    assert_eq!(
        (&view.key, view.token, &view.holder),
        (&grant.key, grant.token, &holder("a"))
    );
    assert!(
        view.age >= case.ttl / 2 - Duration::from_millis(2),
        "{view:?}"
    );
    assert!(
        view.expires_in > Duration::ZERO && view.expires_in <= case.ttl / 2,
        "{view:?}"
    );
    case.renew(&grant).await;
    let renewed = case.view(&grant.key).await.expect("it is held");
    assert!(
        renewed.age >= view.age,
        "a renewal makes it no younger: {renewed:?}"
    );
    assert!(renewed.expires_in > view.expires_in, "{renewed:?}");
}

pub(super) async fn what_ended_is_not_shown(case: &Case<'_>) {
    let [expired, released, broken] = ["expired", "released", "broken"].map(key);
    case.grant(&expired).await;
    case.setup.pass(case.ttl).await;
    let grant = case.grant(&released).await;
    case.release(&grant).await;
    let grant = case.grant(&broken).await;
    case.force_release(&broken, &grant.token).await;
    let page = case
        .b
        .list(&LeaseQuery::default())
        .await
        .expect("the table answers");
    assert_eq!((page.leases, page.next), (Vec::new(), None));
    for key in [expired, released, broken] {
        assert_eq!(case.view(&key).await, None, "{key}");
    }
}

pub(super) async fn a_list_is_in_order_and_in_pages(case: &Case<'_>) {
    let mut names = ["b", "a", "a/b", "Z", "é", "a2", "c"];
    for name in names {
        case.grant(&key(name)).await;
    }
    names.sort_unstable();
    for limit in [0, 1, 2, 3, 7, 8, usize::MAX] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let query = LeaseQuery {
                contains: None,
                after,
                limit,
            };
            let page = case.b.list(&query).await.expect("the table answers");
            assert!(page.leases.len() <= limit.max(1));
            seen.extend(page.leases.into_iter().map(|view| view.key.to_string()));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, names, "limit {limit}");
        assert_eq!(pages, names.len().div_ceil(limit.max(1)), "limit {limit}");
    }
}

pub(super) async fn a_list_takes_the_filter_literally(case: &Case<'_>) {
    for name in ["m/a@v1.zip", "m/a@v1.mod", "m/b@v1.zip", "m/*[x]", "M/A"] {
        case.grant(&key(name)).await;
    }
    let expected: [(&str, &[&str]); 7] = [
        (
            "",
            &["M/A", "m/*[x]", "m/a@v1.mod", "m/a@v1.zip", "m/b@v1.zip"],
        ),
        ("m/a", &["m/a@v1.mod", "m/a@v1.zip"]),
        (".zip", &["m/a@v1.zip", "m/b@v1.zip"]),
        ("*", &["m/*[x]"]),
        ("[x]", &["m/*[x]"]),
        ("m?a", &[]),
        ("A", &["M/A"]),
    ];
    for (contains, expected) in expected {
        let query = LeaseQuery {
            contains: Some(contains.to_owned()),
            ..LeaseQuery::default()
        };
        let page = case.b.list(&query).await.expect("the table answers");
        let seen: Vec<_> = page.leases.iter().map(|view| view.key.as_str()).collect();
        assert_eq!(seen, expected, "{contains:?}");
    }
    let query = LeaseQuery {
        contains: Some("m/".to_owned()),
        after: None,
        limit: 2,
    };
    let first = case.b.list(&query).await.expect("the table answers");
    let rest = LeaseQuery {
        after: first.next,
        ..query
    };
    let second = case.b.list(&rest).await.expect("the table answers");
    assert_eq!(
        (first.leases.len(), second.leases.len(), second.next),
        (2, 2, None)
    );
}
