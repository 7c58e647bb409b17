//! The contract of every [`Records`].

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;

use super::contract::{Report, pass_really};
use crate::{RECORD_KEY_BYTES_MAX, RECORD_TTL_MAX, Records};

/// How the suite gets at an implementation.
#[async_trait]
pub trait RecordsSetup: Send + Sync + Debug {
    /// Makes an empty store that no other call's store touches, and returns two views of it: two
    /// connections of two instances, or the same store twice where there is only one. It has room
    /// for 100 records and 4 MiB.
    async fn fresh(&self) -> [Arc<dyn Records>; 2];

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
pub async fn records_contract(setup: &dyn RecordsSetup) {
    let mut report = Report::new("records_contract");
    macro_rules! cases {
        ($($name:ident),* $(,)?) => {
            $(report.case(stringify!($name), $name(&Case::new(setup).await)).await;)*
        };
    }
    cases![
        a_miss_is_none,
        what_is_set_is_read_by_everyone,
        any_bytes_are_a_value,
        a_set_replaces_value_and_ttl,
        a_record_ends_with_its_ttl,
        reads_do_not_extend,
        a_ttl_below_a_millisecond_is_refused,
        a_key_that_is_none_is_refused,
        only_the_first_sets_if_absent,
        one_of_many_sets_if_absent,
        what_ended_is_absent,
        a_delete_says_whether_there_was_one,
        a_list_is_in_order_and_in_pages,
        a_list_takes_the_prefix_literally,
        a_list_goes_on_after_any_key,
    ];
    report.finish();
}

struct Case<'a> {
    setup: &'a dyn RecordsSetup,
    a: Arc<dyn Records>,
    b: Arc<dyn Records>,
    ttl: Duration,
}

impl<'a> Case<'a> {
    async fn new(setup: &'a dyn RecordsSetup) -> Self {
        let [a, b] = setup.fresh().await;
        Self {
            setup,
            a,
            b,
            ttl: setup.ttl(),
        }
    }

    async fn set(&self, key: &str, value: &'static str) {
        self.a
            .set(key, Bytes::from_static(value.as_bytes()), self.ttl)
            .await
            .expect("it is set");
    }

    async fn set_if_absent(&self, key: &str, value: &'static str) -> bool {
        let value = Bytes::from_static(value.as_bytes());
        self.a
            .set_if_absent(key, value, self.ttl)
            .await
            .expect("the store answers")
    }

    async fn value(&self, key: &str) -> Option<String> {
        let record = self.b.get(key).await.expect("the store answers")?;
        assert!(
            record.expires_in > Duration::ZERO && record.expires_in <= self.ttl,
            "{record:?}"
        );
        Some(String::from_utf8(record.value.to_vec()).expect("the suite set text"))
    }

    async fn expires_in(&self, key: &str) -> Option<Duration> {
        let record = self.b.get(key).await.expect("the store answers");
        record.map(|record| record.expires_in)
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        let page = self
            .b
            .list(prefix, None, usize::MAX)
            .await
            .expect("the store answers");
        assert_eq!(page.next, None);
        page.records.into_iter().map(|entry| entry.key).collect()
    }
}

async fn a_miss_is_none(case: &Case<'_>) {
    assert_eq!(case.value("k").await, None);
    assert!(case.keys("").await.is_empty());
}

async fn what_is_set_is_read_by_everyone(case: &Case<'_>) {
    case.set("k", "v").await;
    assert_eq!(case.value("k").await.as_deref(), Some("v"));
    assert_eq!(case.value("K").await, None);
    assert_eq!(case.value("k2").await, None);
}

async fn any_bytes_are_a_value(case: &Case<'_>) {
    let all: Vec<u8> = (0..=255).collect();
    for value in [
        Bytes::new(),
        Bytes::from(all),
        Bytes::from(vec![7; 1024 * 1024]),
    ] {
        case.a
            .set("k", value.clone(), case.ttl)
            .await
            .expect("it is set");
        let record = case
            .b
            .get("k")
            .await
            .expect("the store answers")
            .expect("it is there");
        assert!(
            record.value == value,
            "{} bytes came back different",
            value.len()
        );
    }
}

async fn a_set_replaces_value_and_ttl(case: &Case<'_>) {
    case.a
        .set("k", Bytes::from_static(b"old"), case.ttl * 10)
        .await
        .expect("it is set");
    case.set("k", "new").await;
    assert_eq!(case.value("k").await.as_deref(), Some("new"));
    case.setup.pass(case.ttl / 2).await;
    case.set("k", "newer").await;
    case.setup.pass(case.ttl / 2).await;
    assert_eq!(
        case.value("k").await.as_deref(),
        Some("newer"),
        "its time began anew"
    );
    case.setup.pass(case.ttl).await;
    assert_eq!(case.value("k").await, None, "and it is not the first one's");
}

async fn a_record_ends_with_its_ttl(case: &Case<'_>) {
    case.set("k", "v").await;
    case.setup.pass(case.ttl).await;
    assert_eq!(case.value("k").await, None);
    assert!(case.keys("").await.is_empty());
}

// acceptance: A31
async fn reads_do_not_extend(case: &Case<'_>) {
    case.set("k", "v").await;
    let mut before = case.expires_in("k").await.expect("it is there");
    for _ in 0..3 {
        case.setup.pass(case.ttl / 8).await;
        let after = case.expires_in("k").await.expect("it is there");
        assert!(after < before, "{before:?} {after:?}");
        case.keys("").await;
        assert!(!case.set_if_absent("k", "other").await);
        before = after;
    }
    case.setup.pass(case.ttl * 3 / 4).await;
    assert_eq!(case.value("k").await, None);
}

// acceptance: A19
async fn a_ttl_below_a_millisecond_is_refused(case: &Case<'_>) {
    case.set("k", "v").await;
    let too_long = RECORD_TTL_MAX + Duration::from_nanos(1);
    for ttl in [
        Duration::ZERO,
        Duration::from_nanos(999_999),
        too_long,
        Duration::MAX,
    ] {
        for key in ["k", "other"] {
            assert!(
                case.a
                    .set(key, Bytes::from_static(b"x"), ttl)
                    .await
                    .is_err(),
                "{ttl:?}"
            );
            let answer = case
                .a
                .set_if_absent(key, Bytes::from_static(b"x"), ttl)
                .await;
            assert!(answer.is_err(), "{ttl:?}");
        }
    }
    assert_eq!(
        case.value("k").await.as_deref(),
        Some("v"),
        "a refused write changes nothing"
    );
    assert_eq!(case.value("other").await, None);
    case.a
        .set("long", Bytes::new(), RECORD_TTL_MAX)
        .await
        .expect("the longest is allowed");
    assert!(case.expires_in("long").await.is_some());
    case.a
        .set("short", Bytes::new(), Duration::from_millis(1))
        .await
        .expect("so is the shortest");
    case.setup.pass(Duration::from_millis(1)).await;
    assert_eq!(case.expires_in("short").await, None);
}

async fn a_key_that_is_none_is_refused(case: &Case<'_>) {
    let long = "k".repeat(RECORD_KEY_BYTES_MAX + 1);
    for bad in ["", "a\nb", "\0", &long] {
        assert!(case.a.get(bad).await.is_err());
        assert!(case.a.set(bad, Bytes::new(), case.ttl).await.is_err());
        assert!(
            case.a
                .set_if_absent(bad, Bytes::new(), case.ttl)
                .await
                .is_err()
        );
        assert!(case.a.delete(bad).await.is_err());
    }
    for good in [" ", "{a}b", "a|b", "*", "日本", &long[1..]] {
        case.set(good, "v").await;
        assert_eq!(case.value(good).await.as_deref(), Some("v"), "{good}");
    }
}

async fn only_the_first_sets_if_absent(case: &Case<'_>) {
    assert!(case.set_if_absent("k", "first").await);
    assert!(!case.set_if_absent("k", "second").await);
    assert_eq!(case.value("k").await.as_deref(), Some("first"));
    assert!(case.a.delete("k").await.expect("the store answers"));
    assert!(case.set_if_absent("k", "third").await);
}

async fn one_of_many_sets_if_absent(case: &Case<'_>) {
    let tries = (0..32).map(|n| {
        let store = if n % 2 == 0 { &case.a } else { &case.b };
        store.set_if_absent("k", Bytes::from(vec![n]), case.ttl)
    });
    let answers = join_all(tries).await;
    let stored = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(true)))
        .count();
    assert_eq!(
        (
            stored,
            answers.iter().filter(|answer| answer.is_err()).count()
        ),
        (1, 0)
    );
}

async fn what_ended_is_absent(case: &Case<'_>) {
    assert!(case.set_if_absent("k", "first").await);
    case.setup.pass(case.ttl).await;
    assert!(case.set_if_absent("k", "second").await);
    assert_eq!(case.value("k").await.as_deref(), Some("second"));
}

async fn a_delete_says_whether_there_was_one(case: &Case<'_>) {
    case.set("k", "v").await;
    case.set("k2", "v").await;
    assert!(case.b.delete("k").await.expect("the store answers"));
    assert!(!case.b.delete("k").await.expect("the store answers"));
    assert_eq!(case.value("k").await, None);
    assert_eq!(case.keys("").await, ["k2"]);
    case.setup.pass(case.ttl).await;
    assert!(
        !case.b.delete("k2").await.expect("the store answers"),
        "it had ended"
    );
}

async fn a_list_is_in_order_and_in_pages(case: &Case<'_>) {
    let mut names = ["neg/b", "neg/a", "neg/a/b", "neg/Z", "neg/é", "neg/a2"];
    for name in names {
        case.set(name, "v").await;
    }
    case.set("fail/a", "v").await;
    case.set("zzz", "v").await;
    names.sort_unstable();
    for limit in [0, 1, 2, 5, 6, 7, usize::MAX] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let page = case.b.list("neg/", after.as_deref(), limit).await;
            let page = page.expect("the store answers");
            assert!(page.records.len() <= limit.max(1));
            assert!(page.records.iter().all(|entry| entry.record.value == "v"));
            assert!(
                page.records
                    .iter()
                    .all(|entry| entry.record.expires_in <= case.ttl)
            );
            seen.extend(page.records.into_iter().map(|entry| entry.key));
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

async fn a_list_takes_the_prefix_literally(case: &Case<'_>) {
    for name in ["a*b", "aab", "a[x]", "ax", "A"] {
        case.set(name, "v").await;
    }
    assert_eq!(case.keys("a*").await, ["a*b"]);
    assert_eq!(case.keys("a[x]").await, ["a[x]"]);
    assert_eq!(case.keys("a?").await, [""; 0]);
    assert_eq!(case.keys("a").await, ["a*b", "a[x]", "aab", "ax"]);
}

async fn a_list_goes_on_after_any_key(case: &Case<'_>) {
    for name in ["b/1", "b/2", "b/3", "c/1"] {
        case.set(name, "v").await;
    }
    for (after, expected) in [
        ("", vec!["b/1", "b/2", "b/3"]),
        ("a", vec!["b/1", "b/2", "b/3"]),
        ("b/", vec!["b/1", "b/2", "b/3"]),
        ("b/1", vec!["b/2", "b/3"]),
        ("b/1x", vec!["b/2", "b/3"]),
        ("b/3", vec![]),
        ("c", vec![]),
    ] {
        let page = case
            .b
            .list("b/", Some(after), 10)
            .await
            .expect("the store answers");
        let seen: Vec<_> = page
            .records
            .iter()
            .map(|entry| entry.key.as_str())
            .collect();
        assert_eq!(seen, expected, "after {after:?}");
    }
}
