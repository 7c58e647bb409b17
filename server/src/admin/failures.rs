//! `/admin/v1/failures`: units that failed a moment ago, or whose bytes only one instance has.
//!
//! A unit stands in a path percent-encoded; its slashes may stay as they are.

use actix_web::web::{Data, Json, Query};
use actix_web::{HttpRequest, HttpResponse};
use lease::LeaseError;
use storage::RememberedClass;

use super::remembered::{self, UnitOrder};
use super::request::{ListQuery, name_in};
use crate::state::AppState;

/// The path before a unit.
const ITEMS: &str = "/admin/v1/failures/";

/// Lists units whose failure is remembered.
pub async fn list(state: Data<AppState>, query: Query<ListQuery>) -> HttpResponse {
    remembered::list(&state, &query, RememberedClass::Failure).await
}

/// Shows one of them, or answers 404.
pub async fn show(state: Data<AppState>, request: HttpRequest) -> HttpResponse {
    remembered::show(&state, name(&request), RememberedClass::Failure).await
}

/// Forgets the unit that a path names: `DELETE …/{unit}`.
pub async fn forget_by_path(state: Data<AppState>, request: HttpRequest) -> HttpResponse {
    remembered::forget(&state, &request, name(&request), RememberedClass::Failure).await
}

/// Forgets the units that a JSON body names.
pub async fn forget_by_body(
    state: Data<AppState>,
    request: HttpRequest,
    order: Json<UnitOrder>,
) -> HttpResponse {
    let order = order.into_inner();
    remembered::forget_by_body(&state, &request, order, RememberedClass::Failure).await
}

fn name(request: &HttpRequest) -> Result<String, LeaseError> {
    name_in(request, ITEMS, "")
}
