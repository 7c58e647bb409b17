//! `/admin/v1/leases`: who holds what, since when and how far, and the order to let go.
//!
//! The same over the leases of one process and over those of a fleet; `scope` in an answer says
//! which. A key stands in a path percent-encoded; its slashes may stay as they are.

use actix_web::web::{Data, Json, Query};
use actix_web::{HttpRequest, HttpResponse};
use lease::{ForceRelease, LeaseError, LeaseKey, LeaseQuery, LeaseTable, LeaseToken, LeaseView};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::reply::lease_error;
use super::request::{ListQuery, Page, name_in, one, remote, whole_ms};
use crate::state::AppState;

/// One lease as JSON, for this API and for the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseItem {
    /// What is leased: the unit of a fill, such as `example.com/m@v1.0.0.zip`.
    pub key: String,
    /// The grant in force; whoever breaks it shows this.
    pub token: LeaseToken,
    /// The holder's instance id, new with each start of a process.
    pub instance: String,
    /// The holder's internal `host:port`; `null` when it can be asked nothing.
    pub address: Option<String>,
    /// Milliseconds since it was granted.
    pub age_ms: u64,
    /// Milliseconds until it ends unless it is renewed.
    pub expires_in_ms: u64,
    /// Bytes that the holder had when it last renewed.
    pub bytes: u64,
    /// Bytes in all; `null` while unknown.
    pub total: Option<u64>,
    /// Requests that waited on the holder's instance when it last renewed.
    pub waiters: u64,
}

impl From<LeaseView> for LeaseItem {
    fn from(view: LeaseView) -> Self {
        Self {
            key: view.key.as_str().to_owned(),
            token: view.token,
            instance: view.holder.instance.to_string(),
            address: view.holder.address.map(|address| address.to_string()),
            age_ms: whole_ms(view.age),
            expires_in_ms: whole_ms(view.expires_in),
            bytes: view.progress.bytes,
            total: view.progress.total,
            waiters: view.progress.waiters,
        }
    }
}

/// An order to break one grant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakOrder {
    key: String,
    token: String,
}

/// The grant that a break in a path is meant for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakQuery {
    token: String,
}

/// Lists leases.
pub async fn list(state: Data<AppState>, query: Query<ListQuery>) -> HttpResponse {
    let after = match query.after(LeaseKey::new) {
        Ok(after) => after,
        Err(error) => return lease_error(&error),
    };
    let query = LeaseQuery {
        contains: query.filter.clone(),
        after,
        limit: query.limit(),
    };
    match state.leases.list(&query).await {
        Ok(page) => HttpResponse::Ok().json(Page {
            scope: state.scope(),
            items: page.leases.into_iter().map(LeaseItem::from).collect(),
            next: page.next.map(|key| key.as_str().to_owned()),
        }),
        Err(error) => lease_error(&error),
    }
}

/// Shows one lease, or answers 404.
pub async fn show(state: Data<AppState>, request: HttpRequest) -> HttpResponse {
    let key = match key_in(&request) {
        Ok(key) => key,
        Err(error) => return lease_error(&error),
    };
    match state.leases.get(&key).await {
        Ok(Some(view)) => one(state.scope(), LeaseItem::from(view)),
        Ok(None) => gone(&key),
        Err(error) => lease_error(&error),
    }
}

/// Breaks the grant that a JSON body names: `{"key": …, "token": …}`.
pub async fn break_by_body(
    state: Data<AppState>,
    request: HttpRequest,
    order: Json<BreakOrder>,
) -> HttpResponse {
    match LeaseKey::new(&order.key) {
        Ok(key) => break_grant(&state, &request, &key, &order.token).await,
        Err(error) => lease_error(&error),
    }
}

/// Breaks the grant that path and query name: `DELETE …/{key}?token=…`.
pub async fn break_by_path(
    state: Data<AppState>,
    request: HttpRequest,
    query: Query<BreakQuery>,
) -> HttpResponse {
    match key_in(&request) {
        Ok(key) => break_grant(&state, &request, &key, &query.token).await,
        Err(error) => lease_error(&error),
    }
}

/// Breaks one grant and leaves one line in the log, whatever came of it.
async fn break_grant(
    state: &AppState,
    request: &HttpRequest,
    key: &LeaseKey,
    token: &str,
) -> HttpResponse {
    let token: LeaseToken = match token.parse() {
        Ok(token) => token,
        Err(error) => return lease_error(&error),
    };
    let broken = state.leases.force_release(key, &token).await;
    let outcome = match &broken {
        Ok(ForceRelease::Forced) => "forced",
        Ok(ForceRelease::Gone) => "gone",
        Ok(ForceRelease::Moved) => "moved",
        Err(_) => "failed",
    };
    tracing::info!(
        audit = "lease.break",
        audit.outcome = outcome,
        lease.key = %key,
        lease.token = %token,
        remote = remote(request),
        error = broken.as_ref().err().map(|error| error as &dyn std::error::Error),
        "an operator asked to break a lease",
    );
    match broken {
        Ok(ForceRelease::Forced) => HttpResponse::Ok().json(json!({
            "outcome": outcome,
            "key": key.as_str(),
            "token": token,
        })),
        Ok(ForceRelease::Gone) => gone(key),
        Ok(ForceRelease::Moved) => moved(&*state.leases, key).await,
        Err(error) => lease_error(&error),
    }
}

fn gone(key: &LeaseKey) -> HttpResponse {
    let message = format!("nobody holds {key}");
    HttpResponse::NotFound().json(json!({ "error": message, "key": key.as_str() }))
}

/// Answers 409 with the grant in force, so that the operator can look again.
async fn moved(leases: &dyn LeaseTable, key: &LeaseKey) -> HttpResponse {
    // Between the two questions it may have ended or become unreachable: then `null` it is.
    let in_force = leases.get(key).await.ok().flatten();
    HttpResponse::Conflict().json(json!({
        "error": format!("{key} is held by another grant by now; nothing was changed"),
        "key": key.as_str(),
        "token": in_force.map(|view| view.token),
    }))
}

fn key_in(request: &HttpRequest) -> Result<LeaseKey, LeaseError> {
    LeaseKey::new(name_in(request, "leases", "")?)
}

#[cfg(test)]
mod tests;
