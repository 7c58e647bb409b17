//! `/admin/v1/dead`: what failed for so long that it was given up, with its history, and the orders
//! to begin anew or to forget it.
//!
//! An id stands in a path percent-encoded; its slashes may stay as they are.

use actix_web::web::{Data, Json, Query};
use actix_web::{HttpRequest, HttpResponse};
use lease::LeaseError;

use super::jobs::{self, Action, JobOrder, Shelf};
use super::request::{ListQuery, name_in};
use crate::state::AppState;

/// The path before an id.
const ITEMS: &str = "/admin/v1/dead/";

/// Lists dead jobs.
pub async fn list(state: Data<AppState>, query: Query<ListQuery>) -> HttpResponse {
    jobs::list(&state, &query, Shelf::Dead).await
}

/// Shows one of them, or answers 404.
pub async fn show(state: Data<AppState>, request: HttpRequest) -> HttpResponse {
    jobs::show(&state, name(&request, ""), Shelf::Dead).await
}

/// Gives the job that a path names another life: `POST …/{id}/requeue`.
pub async fn requeue_by_path(state: Data<AppState>, request: HttpRequest) -> HttpResponse {
    let id = name(&request, "/requeue");
    jobs::by_name(&state, &request, id, Shelf::Dead, Action::Requeue).await
}

/// Gives the jobs that a JSON body names another life.
pub async fn requeue_by_body(
    state: Data<AppState>,
    request: HttpRequest,
    order: Json<JobOrder>,
) -> HttpResponse {
    let order = order.into_inner();
    jobs::by_body(&state, &request, order, Shelf::Dead, Action::Requeue).await
}

/// Drops the job that a path names: `DELETE …/{id}`.
pub async fn drop_by_path(state: Data<AppState>, request: HttpRequest) -> HttpResponse {
    let id = name(&request, "");
    jobs::by_name(&state, &request, id, Shelf::Dead, Action::Drop).await
}

/// Drops the jobs that a JSON body names.
pub async fn drop_by_body(
    state: Data<AppState>,
    request: HttpRequest,
    order: Json<JobOrder>,
) -> HttpResponse {
    let order = order.into_inner();
    jobs::by_body(&state, &request, order, Shelf::Dead, Action::Drop).await
}

fn name(request: &HttpRequest, behind: &str) -> Result<String, LeaseError> {
    name_in(request, ITEMS, behind)
}
