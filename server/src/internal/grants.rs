//! `POST /internal/v1/grants`: which of these grants are not in force here?

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use lease::LeaseToken;
use serde::{Deserialize, Serialize};
use storage::{Asked, GRANTS_ASKED_MAX, RelayHead};

use super::Internal;
use super::proof::Proved;

/// The largest question: as many tokens as there may be, and some room.
pub(super) const QUESTION_BYTES_MAX: usize = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    tokens: Vec<LeaseToken>,
}

#[derive(Serialize)]
struct Answer<'a> {
    unknown: Vec<&'a LeaseToken>,
}

pub(super) async fn post(
    request: HttpRequest,
    internal: Data<Internal>,
    body: Bytes,
) -> HttpResponse {
    let asked = Asked::Grants { body: &body };
    let proved = match Proved::check(&request, &internal.secret, asked) {
        Ok(proved) => proved,
        Err(status) => return HttpResponse::new(status),
    };
    let question = match serde_json::from_slice::<Question>(&body) {
        Ok(question) if question.tokens.len() <= GRANTS_ASKED_MAX => question,
        _ => return HttpResponse::BadRequest().finish(),
    };
    let tokens = question.tokens.iter();
    let unknown = tokens.filter(|token| !internal.grants.knows(token));
    let answer = Answer {
        unknown: unknown.collect(),
    };
    let Ok(answer) = serde_json::to_vec(&answer) else {
        return HttpResponse::InternalServerError().finish();
    };
    let head = RelayHead {
        body: Some(&answer),
        ..RelayHead::default()
    };
    let mut response = proved.answer(StatusCode::OK, head);
    response.content_type("application/json").body(answer)
}
