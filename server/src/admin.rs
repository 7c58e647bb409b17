//! The admin listener: health, metrics, and what operators look at.

pub mod auth;
pub mod flights;
pub mod health;

use actix_web::HttpResponse;
use actix_web::middleware::from_fn;
use actix_web::web::{self, ServiceConfig};

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
            web::scope("/admin/v1")
                .wrap(from_fn(auth::require))
                .route("/flights", web::get().to(flights::list))
                .route("/instance", web::get().to(health::instance)),
        )
        .default_service(web::to(|| async {
            HttpResponse::NotFound()
                .content_type("text/plain; charset=utf-8")
                .body(
                    "not found: this is the admin listener; it has /healthz, /readyz, /metrics, \
                 /admin/v1/flights and /admin/v1/instance\n",
                )
        }));
}
