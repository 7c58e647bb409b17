//! The admin listener: health, metrics, and what operators look at.

pub mod auth;
pub mod dead;
pub mod failures;
pub mod flights;
pub mod health;
pub mod jobs;
pub mod leases;
pub mod negatives;
mod order;
pub mod remembered;
pub mod reply;
pub mod request;
pub mod retries;
#[cfg(test)]
pub(crate) mod testing;
pub mod valkey;

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
                .service(web::resource("/retries").get(retries::list))
                .service(web::resource("/retries/run").post(retries::run_by_body))
                .service(web::resource("/retries/drop").post(retries::drop_by_body))
                .service(web::resource("/retries/{id:.+}/run").post(retries::run_by_path))
                .service(
                    web::resource("/retries/{id:.+}")
                        .get(retries::show)
                        .delete(retries::drop_by_path),
                )
                .service(web::resource("/dead").get(dead::list))
                .service(web::resource("/dead/requeue").post(dead::requeue_by_body))
                .service(web::resource("/dead/drop").post(dead::drop_by_body))
                .service(web::resource("/dead/{id:.+}/requeue").post(dead::requeue_by_path))
                .service(
                    web::resource("/dead/{id:.+}")
                        .get(dead::show)
                        .delete(dead::drop_by_path),
                )
                .service(web::resource("/negatives").get(negatives::list))
                .service(web::resource("/negatives/forget").post(negatives::forget_by_body))
                .service(
                    web::resource("/negatives/{unit:.+}")
                        .get(negatives::show)
                        .delete(negatives::forget_by_path),
                )
                .service(web::resource("/failures").get(failures::list))
                .service(web::resource("/failures/forget").post(failures::forget_by_body))
                .service(
                    web::resource("/failures/{unit:.+}")
                        .get(failures::show)
                        .delete(failures::forget_by_path),
                ),
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
