//! What is remembered of units, as operators see it, and the order to forget it.
//!
//! Two lists over one kind of record: units that do not exist (`/admin/v1/negatives`) and units that
//! failed a moment ago (`/admin/v1/failures`). Everybody who shares the records shares these.

use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Json, Query};
use actix_web::{HttpRequest, HttpResponse, Scope};
use lease::{LeaseError, PAGE_LIMIT_MAX};
use serde::{Deserialize, Serialize};
use serde_json::json;
use storage::{Remembered, RememberedClass, RememberedQuery};

use super::order::{Selection, Tally};
use super::reply::{lease_error, refusal};
use super::request::{ListQuery, Page, name_in, one, remote, whole_ms};
use crate::state::AppState;

/// What one unit is remembered as, as JSON, for this API and for the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedItem {
    /// What was asked for, such as `example.com/m@v1.0.0.zip`.
    pub unit: String,
    /// What happened: `not_found` or `gone` for what does not exist; else `unreachable`,
    /// `transient`, `timed_out`, `throttled`, `forbidden`, `refused`, `corrupt`, `spooled` (an
    /// instance has the bytes and cannot store them yet), or `unreadable`.
    pub kind: String,
    /// The line that clients get.
    pub text: String,
    /// Milliseconds that upstream asked to wait; `null` when it did not.
    pub retry_after_ms: Option<u64>,
    /// The internal address of the instance that has the bytes; `null` unless `spooled`.
    pub address: Option<String>,
    /// How many bytes it has; `null` unless `spooled`.
    pub bytes: Option<u64>,
    /// Milliseconds until it is forgotten by itself.
    pub expires_in_ms: u64,
}

impl From<Remembered> for RememberedItem {
    fn from(remembered: Remembered) -> Self {
        Self {
            unit: remembered.unit,
            kind: remembered.kind,
            text: remembered.text,
            retry_after_ms: remembered.retry_after.map(whole_ms),
            address: remembered.address,
            bytes: remembered.bytes,
            expires_in_ms: whole_ms(remembered.expires_in),
        }
    }
}

/// An order about one unit, or about many: `{"unit": …}`, `{"filter": …}` or `{"all": true}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitOrder {
    unit: Option<String>,
    filter: Option<String>,
    #[serde(default)]
    all: bool,
    after: Option<String>,
}

/// The routes of one class: `GET` lists, `GET …/{unit}` shows one or answers 404, `DELETE
/// …/{unit}` forgets it, and `POST …/forget` those that a JSON body names.
///
/// A unit stands in a path percent-encoded; its slashes may stay as they are.
pub(super) fn routes(class: RememberedClass) -> Scope {
    let listing = move |state: Data<AppState>, query: Query<ListQuery>| async move {
        list(&state, &query, class).await
    };
    let showing = move |state: Data<AppState>, request: HttpRequest| async move {
        show(&state, name_in(&request, resource(class), ""), class).await
    };
    let forgetting = move |state: Data<AppState>, request: HttpRequest| async move {
        let unit = name_in(&request, resource(class), "");
        forget(&state, &request, unit, class).await
    };
    let by_body = move |state: Data<AppState>, request: HttpRequest, order: Json<UnitOrder>| async move {
        forget_by_body(&state, &request, order.into_inner(), class).await
    };
    web::scope(resource(class))
        .service(web::resource("").get(listing))
        .service(web::resource("/forget").post(by_body))
        .service(web::resource("/{unit:.+}").get(showing).delete(forgetting))
}

/// A class's name below `/admin/v1/`.
fn resource(class: RememberedClass) -> &'static str {
    match class {
        RememberedClass::Negative => "negatives",
        RememberedClass::Failure => "failures",
    }
}

/// Lists one class.
async fn list(state: &AppState, query: &ListQuery, class: RememberedClass) -> HttpResponse {
    let after = match query.after(checked) {
        Ok(after) => after,
        Err(error) => return lease_error(&error),
    };
    let query = RememberedQuery {
        class,
        contains: query.filter.clone(),
        after,
        limit: query.limit(),
    };
    match state.warmer.remembered(&query).await {
        Ok(page) => HttpResponse::Ok().json(Page {
            scope: state.scope(),
            items: page.items.into_iter().map(RememberedItem::from).collect(),
            next: page.next,
        }),
        Err(error) => lease_error(&error),
    }
}

/// Shows one unit of a class, or answers 404.
async fn show(
    state: &AppState,
    name: Result<String, LeaseError>,
    class: RememberedClass,
) -> HttpResponse {
    let unit = match name.and_then(checked) {
        Ok(unit) => unit,
        Err(error) => return lease_error(&error),
    };
    match state.warmer.remembered_of(&unit).await {
        Ok(Some(found)) if found.class == class => one(state.scope(), RememberedItem::from(found)),
        Ok(found) => unknown(class, &unit, found.is_some()),
        Err(error) => lease_error(&error),
    }
}

/// Forgets what a body says.
async fn forget_by_body(
    state: &AppState,
    request: &HttpRequest,
    order: UnitOrder,
    class: RememberedClass,
) -> HttpResponse {
    let UnitOrder {
        unit,
        filter,
        all,
        after,
    } = order;
    match Selection::read("unit", unit, filter, all, after) {
        Ok(Selection::One(unit)) => forget(state, request, Ok(unit), class).await,
        Ok(Selection::Many { filter, after }) => {
            forget_many(state, request, filter, after, class).await
        }
        Err(why) => refusal(StatusCode::BAD_REQUEST, &why),
    }
}

/// Forgets one unit and leaves one line in the log, whatever came of it.
async fn forget(
    state: &AppState,
    request: &HttpRequest,
    name: Result<String, LeaseError>,
    class: RememberedClass,
) -> HttpResponse {
    let unit = match name.and_then(checked) {
        Ok(unit) => unit,
        Err(error) => return lease_error(&error),
    };
    let forgotten = carry_out(state, &unit, class).await;
    let outcome = match &forgotten {
        Ok(Forgot::It) => "forgotten",
        Ok(Forgot::Nothing { .. }) => "gone",
        Err(_) => "failed",
    };
    tracing::info!(
        audit = audit(class),
        audit.outcome = outcome,
        unit,
        remote = remote(request),
        error = forgotten
            .as_ref()
            .err()
            .map(|error| error as &dyn std::error::Error),
        "an operator asked to forget a unit",
    );
    match forgotten {
        Ok(Forgot::It) => HttpResponse::Ok().json(json!({ "outcome": outcome, "unit": unit })),
        Ok(Forgot::Nothing { is_other }) => unknown(class, &unit, is_other),
        Err(error) => lease_error(&error),
    }
}

async fn forget_many(
    state: &AppState,
    request: &HttpRequest,
    filter: String,
    after: Option<String>,
    class: RememberedClass,
) -> HttpResponse {
    let after = match after.map(checked).transpose() {
        Ok(after) => after,
        Err(error) => return lease_error(&error),
    };
    let page = async |after: Option<String>| {
        let query = RememberedQuery {
            class,
            contains: Some(filter.clone()),
            after,
            limit: PAGE_LIMIT_MAX,
        };
        let page = state.warmer.remembered(&query).await?;
        Ok((page.items, page.next))
    };
    let order = async |found: &Remembered| {
        // It is no answer that anybody is tired of: without it the others do not know for a while
        // where bytes are that the store does not have. Who means it gives the unit's name.
        if found.address.is_some() {
            return Ok(false);
        }
        let forgotten = carry_out(state, &found.unit, class).await?;
        Ok(matches!(forgotten, Forgot::It))
    };
    let tally = Tally::of(after, page, |found| &found.unit, order).await;
    tracing::info!(
        audit = audit(class),
        audit.outcome = if tally.error.is_some() {
            "failed"
        } else {
            "forgotten"
        },
        audit.changed = tally.changed,
        audit.skipped = tally.skipped,
        unit.filter = filter,
        remote = remote(request),
        error = tally
            .error
            .as_ref()
            .map(|error| error as &dyn std::error::Error),
        "an operator asked to forget many units",
    );
    tally.answer()
}

/// What came of an order to forget.
enum Forgot {
    /// It is forgotten.
    It,
    /// There was nothing of this class.
    Nothing {
        /// Whether the unit is remembered as the other class.
        is_other: bool,
    },
}

async fn carry_out(
    state: &AppState,
    unit: &str,
    class: RememberedClass,
) -> Result<Forgot, LeaseError> {
    // Who looked at one list means that list: the unit may have come to be in the other.
    match state.warmer.remembered_of(unit).await? {
        Some(found) if found.class == class => {}
        found => {
            let is_other = found.is_some();
            return Ok(Forgot::Nothing { is_other });
        }
    }
    Ok(match state.warmer.forget(unit).await? {
        true => Forgot::It,
        false => Forgot::Nothing { is_other: false },
    })
}

fn audit(class: RememberedClass) -> &'static str {
    match class {
        RememberedClass::Negative => "negative.forget",
        RememberedClass::Failure => "failure.forget",
    }
}

fn unknown(class: RememberedClass, unit: &str, is_other: bool) -> HttpResponse {
    let error = match (class, is_other) {
        (RememberedClass::Negative, false) => {
            format!("{unit} is not remembered as something that does not exist")
        }
        (RememberedClass::Negative, true) => {
            format!("{unit} failed; see /admin/v1/failures, `corral failures`")
        }
        (RememberedClass::Failure, false) => format!("no failure of {unit} is remembered"),
        (RememberedClass::Failure, true) => {
            format!("{unit} does not exist; see /admin/v1/negatives, `corral negatives`")
        }
    };
    HttpResponse::NotFound().json(json!({ "error": error, "unit": unit }))
}

/// Refuses what can be no unit.
fn checked(unit: String) -> Result<String, LeaseError> {
    lease::check_record_key(&unit).map(|()| unit)
}

#[cfg(test)]
mod tests;
