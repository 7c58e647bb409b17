//! `/admin/v1/retries`: what failed and is tried again, when and why, and the orders to try it now
//! or never.
//!
//! An id stands in a path percent-encoded; its slashes may stay as they are.

use actix_web::web::{Data, Json, Query};
use actix_web::{HttpRequest, HttpResponse};
use lease::LeaseError;

use super::jobs::{self, Action, JobOrder, Shelf};
use super::request::{ListQuery, name_in};
use crate::state::AppState;

/// The path before an id.
const ITEMS: &str = "/admin/v1/retries/";

/// Lists jobs that wait or are worked on.
pub async fn list(state: Data<AppState>, query: Query<ListQuery>) -> HttpResponse {
    jobs::list(&state, &query, Shelf::Retries).await
}

/// Shows one of them, or answers 404.
pub async fn show(state: Data<AppState>, request: HttpRequest) -> HttpResponse {
    jobs::show(&state, name(&request, ""), Shelf::Retries).await
}

/// Makes the job that a path names due now: `POST …/{id}/run`.
pub async fn run_by_path(state: Data<AppState>, request: HttpRequest) -> HttpResponse {
    let id = name(&request, "/run");
    jobs::by_name(&state, &request, id, Shelf::Retries, Action::Run).await
}

/// Makes the jobs that a JSON body names due now.
pub async fn run_by_body(
    state: Data<AppState>,
    request: HttpRequest,
    order: Json<JobOrder>,
) -> HttpResponse {
    let order = order.into_inner();
    jobs::by_body(&state, &request, order, Shelf::Retries, Action::Run).await
}

/// Drops the job that a path names: `DELETE …/{id}`.
pub async fn drop_by_path(state: Data<AppState>, request: HttpRequest) -> HttpResponse {
    let id = name(&request, "");
    jobs::by_name(&state, &request, id, Shelf::Retries, Action::Drop).await
}

/// Drops the jobs that a JSON body names.
pub async fn drop_by_body(
    state: Data<AppState>,
    request: HttpRequest,
    order: Json<JobOrder>,
) -> HttpResponse {
    let order = order.into_inner();
    jobs::by_body(&state, &request, order, Shelf::Retries, Action::Drop).await
}

fn name(request: &HttpRequest, behind: &str) -> Result<String, LeaseError> {
    name_in(request, ITEMS, behind)
}
