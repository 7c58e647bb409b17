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
    /// so, whatever becomes of the rest.
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
        loop {
            let (items, next) = match page(tally.next.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    tally.error = Some(error);
                    return tally;
                }
            };
            for chunk in items.chunks(SIDE_BY_SIDE) {
                if orders >= ORDERS_MAX || began.elapsed() >= BEGUN_WITHIN {
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
            if tally.next.is_none() {
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
