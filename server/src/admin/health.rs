//! Probes, metrics and what this instance is.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde_json::json;

use crate::state::AppState;

const PLAIN: &str = "text/plain; charset=utf-8";

/// The process answers.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type(PLAIN).body("ok\n")
}

/// The store can be read; otherwise 503 and a line that says what is wrong.
///
/// A Valkey in trouble makes an instance degraded, not unready: it answers every request, and a
/// fleet without its Valkey must not lose all its instances at once. So does a file of jobs that
/// cannot be written, as nothing but what fails from then on depends on it, and a store that can
/// only be read, as what it does not take is kept.
pub async fn readyz(state: Data<AppState>) -> HttpResponse {
    match state.readiness.check(&state.warmer).await {
        Ok(store) => {
            let fleet = state.fleet.as_ref().and_then(|fleet| fleet.degraded());
            let reasons = store.into_iter().chain(fleet);
            let reasons: Vec<String> = reasons.chain(state.queue.degraded()).collect();
            let line = match reasons.as_slice() {
                [] => "ready\n".to_owned(),
                reasons => format!("ready, degraded: {}\n", reasons.join("; ")),
            };
            HttpResponse::Ok().content_type(PLAIN).body(line)
        }
        Err(line) => HttpResponse::ServiceUnavailable()
            .content_type(PLAIN)
            .body(format!("{line}\n")),
    }
}

/// Everything that is counted, in the OpenMetrics text format.
pub async fn metrics(state: Data<AppState>) -> HttpResponse {
    state.warmer.sample_flights();
    let fleet = state.fleet.as_ref();
    state
        .valkey_metrics
        .sample(fleet.is_some_and(|fleet| fleet.degraded().is_some()));
    if let Some(queue) = state.queue.view() {
        state.queue_metrics.sample(&queue);
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &state.registry) {
        Ok(()) => HttpResponse::Ok()
            .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
            .body(text),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            HttpResponse::InternalServerError()
                .content_type(PLAIN)
                .body("metrics failed\n")
        }
    }
}

/// Version, uptime, place in the fleet, how jobs for later are kept, and the configuration in force, secrets hidden.
pub async fn instance(state: Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "scope": "instance",
        "instance": &*state.instance,
        "fleet": {
            "id": state.fleet_name.id(),
            "internal_address": state.fleet.as_ref().and_then(|fleet| fleet.advertised()),
            "secret": state.fleet.as_ref().map(|fleet| fleet.secret_source()),
            "secret_known": state.fleet.as_ref().is_some_and(|fleet| fleet.secret().is_set()),
        },
        "worker": &**state.state_dir.id(),
        "state_dir": state.state_dir.path(),
        "queue": state.queue.view(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": state.started.elapsed().as_secs(),
        "config": state.config_json,
    }))
}

#[cfg(test)]
mod tests;
