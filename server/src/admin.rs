//! The admin listener: health, metrics, and what operators look at.

pub mod auth;
pub mod flights;
pub mod health;
pub mod jobs;
pub mod leases;
mod order;
pub mod remembered;
pub mod reply;
pub mod request;
#[cfg(test)]
pub(crate) mod testing;
pub mod valkey;

use actix_web::HttpResponse;
use actix_web::middleware::from_fn;
use actix_web::web::{self, ServiceConfig};
use storage::RememberedClass;

use self::jobs::Shelf;

/// Routes of the admin listener, all on one screen.
pub fn routes(config: &mut ServiceConfig) {
    config
        .route("/healthz", web::get().to(health::healthz))
        .route("/readyz", web::get().to(health::readyz))
        .service(
            web::resource("/metrics")
                .wrap(from_fn(auth::require))
                .get(health::metrics),
        )
        .service(
            // The outer of two wraps is the later one: who asks is looked at first.
            web::scope("/admin/v1")
                .wrap(from_fn(auth::require_intent))
                .wrap(from_fn(auth::require))
                .app_data(reply::query_config())
                .app_data(reply::json_config())
                .service(web::resource("/flights").get(flights::list))
                .service(web::resource("/instance").get(health::instance))
                .service(web::resource("/valkey").get(valkey::show))
                .service(web::resource("/leases").get(leases::list))
                .service(web::resource("/leases/break").post(leases::break_by_body))
                .service(
                    web::resource("/leases/{key:.+}")
                        .get(leases::show)
                        .delete(leases::break_by_path),
                )
                .service(jobs::routes(Shelf::Retries))
                .service(jobs::routes(Shelf::Dead))
                .service(remembered::routes(RememberedClass::Negative))
                .service(remembered::routes(RememberedClass::Failure)),
        )
        .default_service(web::to(|| async {
            HttpResponse::NotFound()
                .content_type("text/plain; charset=utf-8")
                .body(
                    "not found: this is the admin listener; it has /healthz, /readyz, /metrics, \
                     /admin/v1/flights, /admin/v1/leases, /admin/v1/retries, /admin/v1/dead, \
                     /admin/v1/negatives, /admin/v1/failures, /admin/v1/valkey and /admin/v1/instance\n",
                )
        }));
}
