//! `/admin/v1/flights`: the fills that run in this process.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use storage::FlightView;

use crate::state::AppState;

/// `{"scope":"instance","items":[…]}`, oldest first.
#[derive(Debug, Serialize)]
struct FlightList {
    scope: &'static str,
    items: Vec<FlightView>,
}

/// Lists running flights.
pub async fn list(state: Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(FlightList {
        scope: "instance",
        items: state.warmer.flights(),
    })
}
