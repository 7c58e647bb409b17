//! Orders about one thing by its name, or about many at once: what they say, and how many are
//! carried out before the answer.

use std::time::Duration;

use actix_web::HttpResponse;
use futures::future::join_all;
use lease::LeaseError;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::reply::lease_error_with;

/// How many of one request's orders are under way side by side.
const SIDE_BY_SIDE: usize = 32;
/// Most orders that one request carries out; the answer says where to go on.
const ORDERS_MAX: usize = 1_000;
/// After this long no more orders are begun. The answer says where to go on.
const BEGUN_WITHIN: Duration = Duration::from_secs(5);

/// What an order is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// The one of this name.
    One(String),
    /// All whose names have a text in them, or simply all.
    Many {
        /// The text; empty: all.
        filter: String,
        /// Only names after this one: `next` of the answer before.
        after: Option<String>,
    },
}

impl Selection {
    /// Reads it from the fields of a body; `field` is what the name is called there.
    ///
    /// "All" has to be said: a program whose filter came out empty must not clear everything.
    pub(super) fn read(
        field: &str,
        name: Option<String>,
        filter: Option<String>,
        all: bool,
        after: Option<String>,
    ) -> Result<Self, String> {
        let filter = filter.filter(|filter| !filter.is_empty());
        let after = after.filter(|after| !after.is_empty());
        match (name, filter) {
            (Some(_), Some(_)) => Err(format!("body: give `{field}` or `filter`, not both")),
            (Some(_), None) if all || after.is_some() => Err(format!(
                "body: `{field}` is one; `all` and `after` go with many"
            )),
            (Some(name), None) => Ok(Self::One(name)),
            (None, Some(filter)) => Ok(Self::Many { filter, after }),
            (None, None) if all => Ok(Self::Many {
                filter: String::new(),
                after,
            }),
            (None, None) => Err(format!(
                "body: say which: {{\"{field}\": …}}, {{\"filter\": \"text\"}} for all with that \
                 text, or {{\"all\": true}}"
            )),
        }
    }
}

/// What many orders came to.
#[derive(Debug, Default, Serialize)]
pub(super) struct Tally {
    /// How many were carried out.
    pub(super) changed: u64,
    /// How many were not, because what they were about is gone or in use by now, or there is no
    /// room.
    pub(super) skipped: u64,
    /// What to send as `after` to go on; `null` when all were seen.
    pub(super) next: Option<String>,
    /// Why it ended early.
    #[serde(skip)]
    pub(super) error: Option<LeaseError>,
}

impl Tally {
    /// Carries out `order` on the names of one page after the other.
    ///
    /// `page` gives the names after the given one, and where to go on. What was carried out stays
    /// so, whatever becomes of the rest. However long a page takes, some of it is carried out: who
    /// goes on gets further each time.
    pub(super) async fn of<T>(
        after: Option<String>,
        page: impl AsyncFn(Option<String>) -> Result<(Vec<T>, Option<String>), LeaseError>,
        name: impl Fn(&T) -> &str,
        order: impl AsyncFn(&T) -> Result<bool, LeaseError>,
    ) -> Self {
        let began = Instant::now();
        let mut tally = Self {
            next: after,
            ..Self::default()
        };
        let mut orders = 0;
        let is_over = |orders| orders >= ORDERS_MAX || began.elapsed() >= BEGUN_WITHIN;
        loop {
            let (items, next) = match page(tally.next.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    tally.error = Some(error);
                    return tally;
                }
            };
            for chunk in items.chunks(SIDE_BY_SIDE) {
                if orders > 0 && is_over(orders) {
                    return tally;
                }
                orders += chunk.len();
                for done in join_all(chunk.iter().map(|item| order(item))).await {
                    match done {
                        Ok(true) => tally.changed += 1,
                        Ok(false) => tally.skipped += 1,
                        Err(error) => tally.error = Some(error),
                    }
                }
                if tally.error.is_some() {
                    return tally;
                }
                tally.next = chunk.last().map(|last| name(last).to_owned());
            }
            tally.next = next;
            if tally.next.is_none() || is_over(orders) {
                return tally;
            }
        }
    }

    /// The answer: how many, and where to go on.
    pub(super) fn answer(&self) -> HttpResponse {
        let Some(error) = &self.error else {
            return HttpResponse::Ok().json(self);
        };
        lease_error_with(error, json!(self))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Where to go on after `after`: each page has a name of its own, without end.
    fn further(after: Option<&str>) -> Option<String> {
        let page = after.map_or(0, |after| after.parse::<u64>().unwrap());
        Some((page + 1).to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn pages_without_names_end_with_the_time() {
        let page = async |after: Option<String>| {
            advance(SECOND).await;
            Ok((Vec::new(), further(after.as_deref())))
        };
        let order = async |_: &String| unreachable!("there is nothing to be ordered");
        let walking = Tally::of(None, page, String::as_str, order);
        let tally = tokio::time::timeout(100 * SECOND, walking).await.unwrap();
        assert_eq!((tally.changed, tally.skipped), (0, 0));
        assert_eq!(tally.next.as_deref(), Some("5"));
        assert!(tally.error.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_page_gets_somewhere() {
        let page = async |after: Option<String>| {
            advance(2 * BEGUN_WITHIN).await;
            let names = (0..2 * SIDE_BY_SIDE).map(|i| format!("{i:03}"));
            let names: Vec<_> = names.filter(|name| Some(name) > after.as_ref()).collect();
            Ok((names, None))
        };
        let order = async |_: &String| Ok(true);
        let tally = Tally::of(None, page, String::as_str, order).await;
        assert_eq!(tally.changed, SIDE_BY_SIDE as u64);
        assert_eq!(tally.next.as_deref(), Some("031"));
        let tally = Tally::of(tally.next, page, String::as_str, order).await;
        assert_eq!((tally.changed, tally.next), (SIDE_BY_SIDE as u64, None));
    }
}
