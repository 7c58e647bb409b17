//! Answers of the admin API that are no plain success: one JSON shape for all of them.

use actix_web::error::{InternalError, JsonPayloadError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::web::{JsonConfig, QueryConfig};
use actix_web::{HttpResponse, ResponseError};
use lease::{LeaseError, LeaseErrorKind};
use serde_json::{Value, json};

/// The largest body that an action may have.
const BODY_BYTES_MAX: usize = 16 << 10;

/// Answers `{"error": message}`; `message` is one line that says what to do.
pub fn refusal(status: StatusCode, message: &str) -> HttpResponse {
    HttpResponse::build(status).json(json!({ "error": message }))
}

/// Answers for a lease table, a queue or records that did not do what they were asked.
pub fn lease_error(error: &LeaseError) -> HttpResponse {
    lease_error_with(error, json!({}))
}

/// The same with further fields beside the message.
pub fn lease_error_with(error: &LeaseError, mut body: Value) -> HttpResponse {
    let chain = chain_of(error);
    let (status, message) = match error.kind() {
        LeaseErrorKind::Invalid => (StatusCode::BAD_REQUEST, chain),
        LeaseErrorKind::Protocol => (StatusCode::BAD_GATEWAY, chain),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "{chain}; see /readyz, and /admin/v1/flights for what this instance itself does"
            ),
        ),
    };
    body["error"] = Value::String(message);
    let mut answer = HttpResponse::build(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.insert_header((RETRY_AFTER, "1"));
    }
    answer.json(body)
}

/// The message of an error and of all that caused it, on one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line += &format!(": {cause}");
        source = cause.source();
    }
    line.replace(['\n', '\r'], " ")
}

/// Makes a query string that cannot be read a 400 with its reason.
pub fn query_config() -> QueryConfig {
    QueryConfig::default().error_handler(|error, _| {
        let reason = match &error {
            QueryPayloadError::Deserialize(error) => error.to_string(),
            other => other.to_string(),
        };
        let response = refusal(StatusCode::BAD_REQUEST, &format!("query: {reason}"));
        InternalError::from_response(error, response).into()
    })
}

/// Makes a body that is not the JSON that was asked for a 400, 413 or 415 with its reason.
pub fn json_config() -> JsonConfig {
    JsonConfig::default()
        .limit(BODY_BYTES_MAX)
        .error_handler(|error, _| {
            let (status, reason) = match &error {
                JsonPayloadError::ContentType => (
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "send a JSON object with Content-Type: application/json".to_owned(),
                ),
                other => (other.status_code(), format!("body: {other}")),
            };
            let response = refusal(status, &reason);
            InternalError::from_response(error, response).into()
        })
}
