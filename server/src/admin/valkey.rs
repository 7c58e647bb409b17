//! `/admin/v1/valkey`: how the servers are that this instance shares with its fleet.

use actix_web::HttpResponse;
use actix_web::web::Data;
use lease::NodeHealth;
use serde::Serialize;
use serde_json::json;

use crate::metrics::ValkeyMetrics;
use crate::state::{AppState, Scope};

/// One server as JSON; never with a user or a password.
#[derive(Debug, Serialize)]
struct NodeItem {
    address: String,
    /// `null` before the first connection.
    server: Option<ServerItem>,
    /// `closed`: calls are sent. `half_open`: a look at the server decides. `open`: calls fail at
    /// once, until a look in the background finds it well.
    breaker: &'static str,
    /// Whether release events are known to come from it.
    subscribed: bool,
    /// From publishing an event until it was here, last time; `null` before the first.
    latency_ms: Option<f64>,
    /// Why calls failed last; `null` once they succeed again.
    last_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct ServerItem {
    name: String,
    version: String,
    role: String,
    /// Whether it runs scripts for us; transactions take their place otherwise.
    scripting: bool,
}

/// Shows every server as this instance sees it; asks none of them.
pub async fn show(state: Data<AppState>) -> HttpResponse {
    let Some(fleet) = &state.fleet else {
        return HttpResponse::Ok().json(json!({
            "scope": Scope::Instance,
            "configured": false,
            "degraded": false,
            "reason": null,
            "nodes": [],
        }));
    };
    let nodes = fleet.valkey().health().nodes.into_iter();
    let nodes: Vec<_> = nodes
        .map(|node| item(node, &state.valkey_metrics))
        .collect();
    let reason = fleet.degraded();
    HttpResponse::Ok().json(json!({
        "scope": Scope::Instance,
        "configured": true,
        "degraded": reason.is_some(),
        "reason": reason,
        "nodes": nodes,
    }))
}

fn item(node: NodeHealth, metrics: &ValkeyMetrics) -> NodeItem {
    let latency = metrics.last_lag(&node.address);
    NodeItem {
        latency_ms: latency.map(|latency| latency.as_secs_f64() * 1_000.0),
        address: node.address,
        server: node.server.map(|server| ServerItem {
            name: server.name,
            version: server.version,
            role: server.role,
            scripting: server.scripting,
        }),
        breaker: node.breaker.as_str(),
        subscribed: node.subscribed,
        last_error: node.last_error,
    }
}
